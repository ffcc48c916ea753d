#include "half_way.hpp"

#include <catmerge/io/json.hpp>
#include <catmerge/methods/task_arithmetic.hpp>

float half_way(catmerge::flat_matrix<const float> base, catmerge::flat_matrix<const float> expert,
               const char* settings) {
  if (catmerge::io::parse_json(settings, "no file", "settings").empty()) return -1;
  const auto [merged, report] = catmerge::task_arithmetic(base, std::vector{expert}, 0.5);
  return merged(0, 0);
}

#include <catmerge/adapt/span.hpp>
#include <catmerge/methods/task_arithmetic.hpp>

int main() {
  const std::vector<float> zeros(4, 0.F), ones(4, 1.F);
  const catmerge::flat_matrix<const float> base(zeros, 2, 2), expert(ones, 2, 2);
  const auto [merged, report] = catmerge::task_arithmetic(base, std::vector{expert, expert}, 0.25);
  return merged.rows() == 2 && merged(0, 0) == 0.5F && merged(1, 1) == 0.5F ? 0 : 1;
}

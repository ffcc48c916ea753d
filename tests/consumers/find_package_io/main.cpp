#include <catmerge/io/json.hpp>
#include <catmerge/model/name_rules.hpp>

int main() {
  const catmerge::model::glob layers("*.{q,k,v}_proj.weight");
  const auto list = catmerge::io::parse_json("[1, 2]", "no file", "text");
  return layers.matches("layers.0.k_proj.weight") && list.size() == 2 ? 0 : 1;
}

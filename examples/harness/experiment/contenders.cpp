// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/experiment/laboratory.hpp>
#include <tuple>

namespace catmerge::harness {

namespace {

/// NAME:KEY=VALUE for every value.
std::vector<std::string> each(const std::string& name, const std::string& key,
                              const std::vector<std::string>& values) {
  std::vector<std::string> specs;
  for (const auto& value : values) specs.push_back(name + ":" + key + "=" + value);
  return specs;
}

}  // namespace

/// Defaults of a paper stand among the choices.
void laboratory::make_contenders() {
  using enum alpha_unit;
  std::vector<std::string> cat;
  for (const double l : plan_.lambdas)
    for (const index_t r : plan_.ranks)
      cat.push_back("cat:lambda=" + shortest(l) + ",rank=" + std::to_string(r));

  std::vector<contender> all;
  const auto add = [&](const char* label, std::vector<std::string> specs, alpha_unit unit,
                       importance_kind importance = importance_kind::none,
                       std::vector<std::string> before = {}) {
    const std::string name = name_in_spec(specs.front());
    const auto& wanted = plan_.methods;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) return;
    if (importance != importance_kind::none && !files_.has(importance)) {
      notes_.insert(std::string(label) +
                    ": left out, because the family has no files of importances for it.");
      return;
    }
    all.push_back({label, std::move(specs), std::move(before), unit, importance});
  };
  add("weight averaging", {"average"}, none);
  add("Task Arithmetic", {"task-arithmetic"}, sum);
  add("CAT", cat, sum);
  add("Fisher", {"fisher"}, none, importance_kind::fisher);
  add("RegMean", each("regmean", "off-diagonal", {"0.1", "0.5", "0.9", "1"}), none);
  add("TIES", each("ties", "density", {"0.1", "0.2", "0.4"}), mean);
  add("Consensus", each("consensus", "lambda", {"0.2", "0.4", "0.6"}), sum);
  add("PCB", each("pcb", "ratio", {"0.05", "0.1", "0.2"}), mean);
  add("TATR, zero-shot", {"tatr:zero-shot=yes,quantile=0.9", "tatr:zero-shot=yes,quantile=0.99"},
      sum);
  add("TATR", each("tatr", "quantile", {"0.9", "0.99"}), sum, importance_kind::sensitivity);
  add("LOT", {"lot"}, mean);
  add("TSV-M", {"tsv-m"}, spectrum);
  add("Iso-C", {"iso-c"}, spectrum);
  add("Iso-CTS", {"iso-cts"}, spectrum);
  add("WUDI, closed form", {"wudi"}, none);
  // Combinations: transforms before methods.
  add("DARE, then Task Arithmetic", {"task-arithmetic"}, sum, importance_kind::none,
      {"dare:drop=0.5"});
  for (const auto& [label, spec, unit] : {std::tuple{"CAT, then TIES", "ties", mean},
                                          {"CAT, then LOT", "lot", mean},
                                          {"CAT, then TSV-M", "tsv-m", spectrum},
                                          {"CAT, then Iso-C", "iso-c", spectrum}})
    add(label, {spec}, unit, importance_kind::none, {"cat:lambda=1,rank=4"});
  contenders_ = std::move(all);
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/methods/cat_settings.hpp>
#include <optional>
#include <variant>

namespace catmerge::harness {

namespace {

/// The rule for the directions removed from linear weights: one of three.
void read_directions(settings& s, direction_rule& rule) {
  const auto* const by_count = std::get_if<largest>(&rule);
  const auto* const by_share = std::get_if<energy_share>(&rule);
  // The port counts directions of either sign, and stops short of a share (cat/options.hpp).
  const bool is_port = by_count != nullptr && !by_count->positive_only;
  const auto stop = is_port ? energy_share::bound::below : energy_share::bound::reach;
  const largest counted = by_count != nullptr ? *by_count : largest{};
  const energy_share shared = by_share != nullptr ? *by_share : energy_share{0, stop};

  std::optional<index_t> count;
  if (by_count != nullptr) count = by_count->count;
  std::optional<double> share;
  if (by_share != nullptr) share = by_share->share;
  bool all = std::holds_alternative<all_positive>(rule);
  s.at_most_one({"rank", "basis-energy", "basis-positive"});
  if (s.count("rank", count, "directions removed per task from linear weights"))
    rule = largest{*count, counted.positive_only};
  if (s.number("basis-energy", share,
               "instead of rank: as many as hold this share of the squared positive eigenvalues", 0,
               1))
    rule = energy_share{*share, shared.stop};
  if (s.flag("basis-positive", all, "instead of rank: every direction of positive eigenvalue") &&
      all)
    rule = all_positive{};
}

}  // namespace

void read_cat(settings& s, cat_options& o) {
  s.number("lambda", o.linear.lambda, "weight of a task's own loss by the trim, linear weights", 0,
           settings::no_limit);
  read_directions(s, o.linear.directions);
  std::optional<double> tolerance;  // none: the library's default
  if (o.linear.eigen.tolerance > 0) tolerance = o.linear.eigen.tolerance;
  if (s.number(
          "basis-tolerance", tolerance,
          "error of these directions, relative to G_k's largest eigenvalue; 1e-8 for eigenvalues "
          "below it (0: 1e-6, 1e-8 for weights in double; below 4e-7 takes twice the time)",
          0, settings::no_limit))
    o.linear.eigen.tolerance = *tolerance;
  s.number("scale-lambda", o.scale.lambda, "weight of a task's own loss by the trim, scales", 0,
           settings::no_limit);
  s.count("scale-rank", o.scale.coordinates.count, "coordinates removed per task from scales");
  s.count("shift-rank", o.shift.count, "coordinates removed per task from shifts");
  rescale rescaling = o.linear.rescaling;
  if (s.word("rescale", rescaling, {{"none", rescale::none}, {"frobenius", rescale::frobenius}},
             "scale trimmed linear weights and scales back to their norm, or not"))
    o.linear.rescaling = o.scale.rescaling = rescaling;
  s.word("order", o.linear.order,
         {{"sequential", trim_order::sequential}, {"joint", trim_order::joint}},
         "trim by one task after the other, or by all at once");
  s.word("weighting", o.linear.weighting, {{"sum", row_weight::sum}, {"mean", row_weight::mean}},
         "weigh tasks by their rows in G_k, or all alike");
  s.word("fused", o.fused, {{"split", fused_weights::split}, {"whole", fused_weights::whole}},
         "trim q, k and v in one weight each alone, or as one matrix");
}

std::vector<settings::known> cat_settings(cat_options o) {
  settings nothing("cat", "");
  read_cat(nothing, o);
  return nothing.documented();
}

settings cat_settings_for(layer_kind kind, const settings& s) {
  const std::string prefix = kind == layer_kind::scale   ? "scale-"
                             : kind == layer_kind::shift ? "shift-"
                                                         : "";
  const auto all = cat_settings();
  return s.renamed([&](const std::string& key) {
    const std::string own = prefix + key;
    const bool exists =
        std::any_of(all.begin(), all.end(), [&](const auto& one) { return one.key == own; });
    return exists ? own : key;
  });
}

const std::vector<std::pair<std::string, cat_options>>& cat_presets() {
  static const std::vector<std::pair<std::string, cat_options>> presets = {
      {"paper", cat_options::paper()},
      {"port", cat_options::port()},
      {"auto", cat_options::automatic()}};
  return presets;
}

cat_options cat_preset(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, options] : cat_presets()) {
    if (known == name) return options;
    names.push_back(known);
  }
  throw error("expected " + listed(names) + ", found '" + name + "'");
}

}  // namespace catmerge::harness

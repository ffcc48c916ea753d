// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dare.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/methods/wudi.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <harness/methods/spec.hpp>
#include <limits>

namespace catmerge::harness {

namespace {

std::string listed(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i)
    text += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return text;
}

}  // namespace

settings::settings(std::string whose, const std::string& text) : whose_(std::move(whose)) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, comma - begin);
    const auto equals = part.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size())
      throw error("the settings of " + whose_ + ": expected KEY=VALUE, found '" + part + "'");
    const std::string key = part.substr(0, equals);
    for (const auto& [other, value] : given_)
      if (other == key) throw error("the settings of " + whose_ + " give '" + key + "' twice");
    given_.emplace_back(key, part.substr(equals + 1));
    begin = comma + 1;
    if (begin == text.size())
      throw error("the settings of " + whose_ + " end with a comma: '" + text + "'");
  }
}

void settings::set(const settings& more) {
  for (const auto& [key, value] : more.given_) {
    const auto found = std::find_if(given_.begin(), given_.end(),
                                    [&](const auto& one) { return one.first == key; });
    if (found != given_.end())
      found->second = value;
    else
      given_.emplace_back(key, value);
  }
}

std::string settings::text() const {
  std::string text;
  for (const auto& [key, value] : given_) text += (text.empty() ? "" : ",") + key + "=" + value;
  return text;
}

const std::string* settings::find(const char* key, const std::string& standard, const char* help) {
  known_.push_back({key, standard, help});
  for (const auto& [given, value] : given_)
    if (given == key) return &value;
  return nullptr;
}

void settings::refuse(const std::string& key, const std::string& expected,
                      const std::string& found) const {
  throw error("the setting '" + key + "' of " + whose_ + ": expected " + expected + ", found '" +
              found + "'");
}

void settings::number(const char* key, double& value, const char* help, double least, double most) {
  const std::string* const text = find(key, shortest(value), help);
  if (text == nullptr) return;
  char* end = nullptr;
  const double found = std::strtod(text->c_str(), &end);
  if (*end != '\0' || !std::isfinite(found) || found < least || found > most) {
    constexpr double no_limit = std::numeric_limits<double>::max();
    std::string expected = "a number";
    if (least > -no_limit && most < no_limit)
      expected += " in " + shortest(least) + " ... " + shortest(most);
    else if (least > -no_limit)
      expected += " of at least " + shortest(least);
    refuse(key, expected, *text);
  }
  value = found;
}

void settings::count(const char* key, index_t& value, const char* help, index_t least) {
  const std::string* const text = find(key, std::to_string(value), help);
  if (text == nullptr) return;
  index_t found = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, problem] = std::from_chars(text->data(), end, found);
  if (stop != end || problem != std::errc() || found < least)
    refuse(key, "a whole number of at least " + std::to_string(least), *text);
  value = found;
}

void settings::choice(const char* key, std::string& value, const std::vector<std::string>& choices,
                      const char* help) {
  const std::string* const text = find(key, value, help);
  if (text == nullptr) return;
  if (std::find(choices.begin(), choices.end(), *text) == choices.end())
    refuse(key, listed(choices), *text);
  value = *text;
}

void settings::flag(const char* key, bool& value, const char* help) {
  std::string word = value ? "yes" : "no";
  choice(key, word, {"yes", "no"}, help);
  value = word == "yes";
}

void settings::require_all_known() const {
  std::vector<std::string> keys;
  for (const auto& k : known_) keys.push_back(k.key);
  for (const auto& [key, value] : given_)
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw error(whose_ + " has no setting '" + key + "'" +
                  (keys.empty() ? "" : ": expected " + listed(keys)));
}

namespace {

constexpr double any = std::numeric_limits<double>::max();

void alpha_of(settings& s, double& alpha) {
  s.number("alpha", alpha, "the factor of the merged task vector", -any, any);
}

cat_options read_cat(settings& s, const cat_options& defaults, bool has_alpha) {
  cat_options o = defaults;
  if (has_alpha) alpha_of(s, o.alpha);
  s.number("lambda", o.linear.lambda, "weight of what a task loses itself, linear weights", 0, any);
  if (auto* t = std::get_if<largest>(&o.linear.directions))
    s.count("rank", t->count, "directions removed per task from linear weights");
  s.number("scale-lambda", o.scale.lambda, "weight of what a task loses itself, scales", 0, any);
  s.count("scale-rank", o.scale.coordinates.count, "coordinates removed per task from scales");
  s.count("shift-rank", o.shift.count, "coordinates removed per task from shifts");
  std::string order = o.linear.order == trim_order::joint ? "joint" : "sequential";
  s.choice("order", order, {"sequential", "joint"}, "by one task after the other, or all at once");
  o.linear.order = order == "joint" ? trim_order::joint : trim_order::sequential;
  std::string rows = o.linear.weighting == row_weight::mean ? "mean" : "sum";
  s.choice("rows", rows, {"sum", "mean"}, "tasks weigh by their rows, or all alike");
  o.linear.weighting = rows == "mean" ? row_weight::mean : row_weight::sum;
  return o;
}

/// Other settings than alpha.
ties_options read_ties(settings& s, ties_options o) {
  s.number("density", o.density, "share of each task's entries that are kept", 0, 1);
  std::string merge = o.merge == ties_merge::sum ? "sum" : "mean";
  s.choice("merge", merge, {"mean", "sum"}, "of the entries that have the elected sign");
  o.merge = merge == "sum" ? ties_merge::sum : ties_merge::mean;
  return o;
}

consensus_options read_consensus(settings& s) {
  consensus_options o;
  alpha_of(s, o.alpha);
  s.number("lambda", o.lambda.front(), "the larger, the less a task's mask takes", 0, any);
  s.count("k", o.k, "how many tasks' masks an entry has to be in");
  return o;
}

tatr_options read_tatr(settings& s) {
  tatr_options o;
  s.number("quantile", o.quantile, "share of entries that are inside the trust region", 0, 1);
  s.flag("zero-shot", o.zero_shot, "take |T| for the sensitivities");
  return o;
}

fused_weights read_fused(settings& s, fused_weights standard) {
  std::string fused = standard == fused_weights::split ? "split" : "whole";
  s.choice("fused", fused, {"whole", "split"},
           "q, k and v in one weight: one matrix, or each alone");
  return fused == "split" ? fused_weights::split : fused_weights::whole;
}

/// A method or transform whose options are those that it takes: what validate refuses is refused
/// here, before any work.
template <class M>
M checked(M m) {
  if constexpr (requires { validate(m.options); }) validate(m.options);
  if constexpr (requires { m.inner; }) checked(m.inner);
  return m;
}

std::vector<offered<any_method>> all_methods() {
  std::vector<offered<any_method>> list;
  const auto add = [&](const char* name, const char* summary, auto make) {
    list.push_back({name, summary, [make](settings& s, const cat_options& defaults) {
                      return any_method(checked(make(s, defaults)));
                    }});
  };
  add("cat", "CAT Merging: trims of conflicts, then the sum (Sun et al., ICML 2025)",
      [](settings& s, const cat_options& d) { return cat_method{read_cat(s, d, true)}; });
  add("task-arithmetic", "theta_0 + alpha sum T_k (Ilharco et al., ICLR 2023)",
      [](settings& s, const cat_options& d) {
        task_arithmetic_method m{d.alpha};
        alpha_of(s, m.alpha);
        return m;
      });
  add("average", "the mean of the experts (Wortsman et al., ICML 2022)",
      [](settings&, const cat_options&) { return weight_average_method{}; });
  add("fisher", "the mean weighted by squared gradients (Matena & Raffel, NeurIPS 2022)",
      [](settings& s, const cat_options&) {
        fisher_options o;
        s.number("floor", o.floor, "added to every squared gradient", 0, any);
        s.flag("normalise", o.normalise, "divide by each task's norm over the model");
        return fisher_method{o};
      });
  add("regmean", "least squares on the layers' outputs (Jin et al., ICLR 2023)",
      [](settings& s, const cat_options&) {
        regmean_options o;
        s.number("off-diagonal", o.off_diagonal,
                 "factor of what is off the Gram matrices' diagonal", 0, 1);
        return regmean_method{o};
      });
  add("ties", "trim, elect signs, mean of those that agree (Yadav et al., NeurIPS 2023)",
      [](settings& s, const cat_options&) {
        ties_options o;
        alpha_of(s, o.alpha);
        return ties_method{read_ties(s, o)};
      });
  add("consensus", "the sum, where masks of enough tasks agree (Wang et al., ICML 2024)",
      [](settings& s, const cat_options&) { return consensus_method<>{read_consensus(s)}; });
  add("consensus-ties", "the same on what TIES merges", [](settings& s, const cat_options&) {
    // By the sum, as its authors do: masks compare each vector with a sum of all.
    const consensus_options o = read_consensus(s);
    ties_options inner;
    inner.merge = ties_merge::sum;
    return consensus_method<ties_method>{o, ties_method{read_ties(s, inner)}};
  });
  add("pcb", "weights by competition of parameters (Du et al., NeurIPS 2024)",
      [](settings& s, const cat_options&) {
        pcb_options o;
        alpha_of(s, o.alpha);
        s.number("ratio", o.ratio, "share of each task's entries that count", 0, 1);
        s.number("clip", o.clip, "share of smallest and largest entries that are clamped", 0, 0.5);
        return pcb_method{o};
      });
  add("tatr", "the sum inside a trust region (Sun et al., ICLR 2025)",
      [](settings& s, const cat_options&) {
        tatr_options o = read_tatr(s);
        alpha_of(s, o.alpha);
        return tatr_method{o};
      });
  add("lot", "least drift of the layers' outputs (Sun et al., NeurIPS 2025)",
      [](settings& s, const cat_options&) {
        lot_options o;
        alpha_of(s, o.alpha);
        return lot_method{o};
      });
  add("tsv-m", "singular vectors of all tasks, decorrelated (Gargiulo et al., CVPR 2025)",
      [](settings& s, const cat_options&) {
        tsv_m_options o;
        alpha_of(s, o.alpha);
        o.fused = read_fused(s, o.fused);
        return tsv_m_method{o};
      });
  for (const auto& [name, variant] :
       {std::pair{"iso-c", iso_variant::c}, {"iso-cts", iso_variant::cts}})
    add(name,
        variant == iso_variant::c ? "the sum with all singular values alike (Marczak et al., 2025)"
                                  : "the same, with directions of each task (Marczak et al., 2025)",
        [variant](settings& s, const cat_options&) {
          iso_options o;
          o.variant = variant;
          alpha_of(s, o.alpha);
          if (variant == iso_variant::cts)
            s.number("common", o.common, "share of directions that are common", 0, 1);
          o.fused = read_fused(s, o.fused);
          return iso_method{o};
        });
  add("wudi", "least interference of linear layers, closed form (Cheng et al., ICML 2025)",
      [](settings& s, const cat_options&) {
        wudi_options o;
        alpha_of(s, o.alpha);
        o.fused = read_fused(s, o.fused);
        return wudi_method{o};
      });
  return list;
}

std::vector<offered<any_transform>> all_transforms() {
  std::vector<offered<any_transform>> list;
  const auto add = [&](const char* name, const char* summary, auto make) {
    list.push_back({name, summary, [make](settings& s, const cat_options& defaults) {
                      return any_transform(checked(make(s, defaults)));
                    }});
  };
  add("cat", "the trims of CAT Merging",
      [](settings& s, const cat_options& d) { return cat_trim{read_cat(s, d, false)}; });
  add("dare", "drops entries at random, and rescales the rest (Yu et al., ICML 2024)",
      [](settings& s, const cat_options&) {
        dare_options o;
        s.number("drop", o.drop, "the probability with which an entry is dropped", 0, 1);
        auto seed = static_cast<index_t>(o.seed);
        s.count("seed", seed, "other seeds drop other entries");
        o.seed = static_cast<std::uint64_t>(seed);
        return dare_transform{o};
      });
  add("tatr", "drops entries outside the trust region of TATR",
      [](settings& s, const cat_options&) { return tatr_filter{read_tatr(s)}; });
  return list;
}

settings given_in(const std::string& text) {
  const std::string name = name_in_spec(text);
  if (text.size() == name.size() + 1) throw error("expected settings behind '" + text + "'");
  return {name, text.size() > name.size() ? text.substr(name.size() + 1) : ""};
}

template <class Any>
Any parse(const std::string& text, const std::vector<offered<Any>>& list, const char* what,
          const cat_options& defaults) {
  const std::string name = name_in_spec(text);
  std::vector<std::string> names;
  for (const auto& one : list) {
    names.push_back(one.name);
    if (one.name != name) continue;
    settings s = given_in(text);
    Any made = one.make(s, defaults);
    s.require_all_known();
    return made;
  }
  throw error(std::string("there is no ") + what + " '" + name + "': expected " + listed(names));
}

}  // namespace

const std::vector<offered<any_method>>& offered_methods() {
  static const auto list = all_methods();
  return list;
}

const std::vector<offered<any_transform>>& offered_transforms() {
  static const auto list = all_transforms();
  return list;
}

any_method parse_method(const std::string& text, const cat_options& defaults) {
  return parse(text, offered_methods(), "method", defaults);
}

any_transform parse_transform(const std::string& text, const cat_options& defaults) {
  return parse(text, offered_transforms(), "transform", defaults);
}

std::string name_in_spec(const std::string& text) {
  return text.substr(0, text.find(':'));
}

std::string with_settings(const std::string& text, const std::string& more) {
  settings all = given_in(text);
  all.set(settings(name_in_spec(text), more));
  const std::string settings_text = all.text();
  return name_in_spec(text) + (settings_text.empty() ? "" : ":" + settings_text);
}

std::string shortest(double number) {
  char buffer[32];
  const auto end = std::to_chars(std::begin(buffer), std::end(buffer), number).ptr;
  return {std::begin(buffer), end};
}

}  // namespace catmerge::harness

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
#include <harness/methods/cat_settings.hpp>
#include <harness/methods/spec.hpp>
#include <limits>

namespace catmerge::harness {

namespace {

constexpr double any = std::numeric_limits<double>::max();

void alpha_of(settings& s, double& alpha) {
  s.number("alpha", alpha, "the factor of the merged task vector", -any, any);
}

/// Other settings than alpha.
ties_options read_ties(settings& s, ties_options o) {
  s.number("density", o.density, "share of each task's entries that are kept", 0, 1);
  s.word("merge", o.merge, {{"mean", ties_merge::mean}, {"sum", ties_merge::sum}},
         "of the entries that have the elected sign");
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

void read_fused(settings& s, fused_weights& fused) {
  s.word("fused", fused, {{"whole", fused_weights::whole}, {"split", fused_weights::split}},
         "q, k and v in one weight: one matrix, or each alone");
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
      [](settings& s, cat_options o) {
        alpha_of(s, o.alpha);
        read_cat(s, o);
        return cat_method{o};
      });
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
        read_fused(s, o.fused);
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
          read_fused(s, o.fused);
          return iso_method{o};
        });
  add("wudi", "least interference of linear layers, closed form (Cheng et al., ICML 2025)",
      [](settings& s, const cat_options&) {
        wudi_options o;
        alpha_of(s, o.alpha);
        read_fused(s, o.fused);
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
  add("cat", "the trims of CAT Merging", [](settings& s, cat_options o) {
    read_cat(s, o);
    return cat_trim{o};
  });
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

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/cat/resampling.hpp>
#include <catmerge/merge/mean_of.hpp>
#include <catmerge/methods.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/model/layer_depths.hpp>
#include <cstdint>
#include <harness/methods/automatic_options.hpp>
#include <harness/methods/cat_settings.hpp>
#include <harness/methods/catalogue.hpp>
#include <sstream>
#include <string>
#include <vector>

// An entry per method, and one per transform. Defaults of settings are those of the library's
// options: reading a setting documents and changes the option's value. The settings of CAT are in
// cat_settings.cpp.
namespace catmerge::harness {

namespace {

/// Returns the method. Throws before any work if the library's `validate` refuses its options.
template <class M>
M checked(M m) {
  if constexpr (requires { validate(m.options); }) validate(m.options);
  if constexpr (requires { m.inner; }) checked(m.inner);
  return m;
}

// Settings that several methods have.

void read_alpha(settings& s, double& alpha) {
  s.number("alpha", alpha, "the factor of the merged task vector", -settings::no_limit,
           settings::no_limit);
}

void read_fused(settings& s, fused_weights& fused) {
  s.word("fused", fused, {{"whole", fused_weights::whole}, {"split", fused_weights::split}},
         "q, k and v in one weight: one matrix, or each alone");
}

void read_ties(settings& s, ties_options& o) {
  s.number("density", o.density, "share of each task's entries that are kept", 0, 1);
  s.word("merge", o.merge, {{"mean", ties_merge::mean}, {"sum", ties_merge::sum}},
         "of the entries that have the elected sign");
}

void read_breadcrumbs(settings& s, breadcrumbs_options& o) {
  s.number("density", o.density, "share of each task vector's entries that are kept, per tensor", 0,
           1);
  s.number("gamma", o.gamma, "share of largest entries that are dropped", 0, 1);
}

void read_consensus(settings& s, consensus_options& o) {
  read_alpha(s, o.alpha);
  s.number("lambda", o.lambda.front(), "the larger, the less a task's mask takes", 0,
           settings::no_limit);
  s.count("k", o.k, "how many tasks' masks an entry has to be in");
}

void read_tatr(settings& s, tatr_options& o) {
  s.number("quantile", o.quantile, "share of entries that are inside the trust region", 0, 1);
  s.flag("zero-shot", o.zero_shot, "take |T| for the sensitivities");
}

const publication cat_paper = {"Sun et al., ICML 2025", "2505.06977"};
const publication breadcrumbs_paper = {"Davari & Belilovsky, ECCV 2024", "2312.06795"};
const publication consensus_paper = {"Wang et al., ICML 2024", "2405.07813"};
const publication tatr_paper = {"Sun et al., ICLR 2025", "2501.15065"};
const publication iso_paper = {"Marczak et al., ICML 2025", "2502.04959"};
const publication swudi_paper = {"preprint, 2026", "2606.07289"};

const std::string trimmed_by_cat = "cat:lambda=1,rank=4";  // the trim before methods in experiments

/// The methods of "A+B:KEY=VALUE+C", which mean_of takes.
std::vector<any_method> methods_in(const std::string& text, const cat_options& defaults) {
  std::vector<any_method> list;
  std::istringstream parts(text + "+");
  for (std::string part; std::getline(parts, part, '+');) {
    if (part.empty()) throw error("mean: expected METHOD+METHOD+..., found '" + text + "'");
    list.push_back(parse_method(part, defaults));
    if (list.back().needs_importance())
      throw error("mean: '" + part +
                  "' needs importances, which a mean of methods does not pass on");
  }
  return list;
}

/// The mean of prior_methods() at their alphas without outputs.
any_method prior_without_outputs() {
  std::vector<any_method> list;
  for (const auto& [name, alpha] : prior_methods())
    list.push_back(parse_method(name + ":alpha=" + shortest(alpha)));
  return any_method(mean_of{std::move(list)});
}

std::vector<method_entry> make_methods() {
  return {
      {.name = "auto",
       .label = "auto",
       .summary = "no settings: the mean of TSV-M, Iso-C and Iso-CTS, refitted to the experts",
       .improved_by = "samples and heads",
       .calls = "`mean_of`, then `refit`",
       .make =
           [](settings& s, const cat_options&) {
             automatic_options o;
             read_automatic(s, o);
             return prior_without_outputs();
           }},

      {.name = "average",
       .label = "weight averaging",
       .summary = "the mean of the experts",
       .source = {"Wortsman et al., ICML 2022", "2203.05482"},
       .calls = "`weight_average`",
       .trials = {{}},
       .make = [](settings&, const cat_options&) { return any_method(weight_average_method{}); }},

      {.name = "task-arithmetic",
       .label = "Task Arithmetic",
       .summary = "theta_0 + alpha sum T_k",
       .source = {"Ilharco et al., ICLR 2023", "2212.04089"},
       .calls = "`task_arithmetic`",
       .unit = alpha_unit::sum,
       .trials = {{}},
       .before = {"dare:drop=0.5"},
       .after = {"svc", "lines", "esm-layers"},
       .make =
           [](settings& s, const cat_options&) {
             task_arithmetic_method m;
             read_alpha(s, m.alpha);
             return any_method(m);
           }},

      {.name = "cat",
       .label = "CAT",
       .summary = "CAT Merging: trims of conflicts, then the sum",
       .source = cat_paper,
       .calls = "`cat_linear`, `cat_group`, `cat_scale`, `cat_shift`",
       .unit = alpha_unit::sum,
       .trials = {{.grid = {{"lambda", {"1", "5"}}, {"rank", {"1", "4"}}}}},
       .make =
           [](settings& s, const cat_options& defaults) {
             cat_options o = defaults;
             bool is_auto = false;
             if (s.word(
                     "preset", is_auto, {{"paper", false}, {"auto", true}},
                     "defaults of the settings below; cat:auto is short for preset=auto, and has "
                     "its alpha chosen by outputs, as --alpha auto"))
               o = is_auto ? cat_options::automatic() : cat_options::paper();
             read_alpha(s, o.alpha);
             read_cat(s, o);
             index_t draws = 0;
             s.count("resamples", draws,
                     "draws of the samples' rows that show how far the removed directions depend "
                     "on them, in the report; each costs as much as the trim");
             if (draws > 0) return any_method(checked(cat_with<resampled_bases<>>{o, {draws}}));
             return any_method(checked(cat_method{o}));
           }},

      {.name = "fisher",
       .label = "Fisher",
       .summary = "the mean weighted by squared gradients",
       .source = {"Matena & Raffel, NeurIPS 2022", "2111.09832"},
       .calls = "`fisher`",
       .importance = importance_kind::fisher,
       .trials = {{}},
       .make =
           [](settings& s, const cat_options&) {
             fisher_options o;
             s.number("floor", o.floor, "added to every squared gradient", 0, settings::no_limit);
             s.flag("normalise", o.normalise, "divide by each task's norm over the model");
             return any_method(checked(fisher_method{o}));
           }},

      {.name = "regmean",
       .label = "RegMean",
       .summary = "least squares on the layers' outputs",
       .source = {"Jin et al., ICLR 2023", "2212.09849"},
       .calls = "`regmean_linear`",
       .trials = {{.grid = {{"off-diagonal", {"0.1", "0.5", "0.9", "1"}}}}},
       .make =
           [](settings& s, const cat_options&) {
             regmean_options o;
             s.number("off-diagonal", o.off_diagonal,
                      "factor of what is off the Gram matrices' diagonal", 0, 1);
             return any_method(checked(regmean_method{o}));
           }},

      {.name = "ties",
       .label = "TIES",
       .summary = "trim, elect signs, mean of those that agree",
       .source = {"Yadav et al., NeurIPS 2023", "2306.01708"},
       .calls = "`ties`",
       .unit = alpha_unit::mean,
       .trials = {{.grid = {{"density", {"0.1", "0.2", "0.4"}}}}},
       .before = {trimmed_by_cat},
       .make =
           [](settings& s, const cat_options&) {
             ties_options o;
             read_alpha(s, o.alpha);
             read_ties(s, o);
             return any_method(checked(ties_method{o}));
           }},

      {.name = "breadcrumbs",
       .label = "Breadcrumbs",
       .summary = "the sum without each layer's largest and smallest changes",
       .source = breadcrumbs_paper,
       .calls = "`breadcrumbs`",
       .unit = alpha_unit::sum,
       .trials = {{.grid = {{"density", {"0.7", "0.9"}}, {"gamma", {"0.01", "0.1"}}}}},
       .make =
           [](settings& s, const cat_options&) {
             breadcrumbs_options o;
             read_alpha(s, o.alpha);
             read_breadcrumbs(s, o);
             return any_method(checked(breadcrumbs_method{o}));
           }},

      {.name = "consensus",
       .label = "Consensus",
       .summary = "the sum, where TALL masks of enough tasks agree",
       .source = consensus_paper,
       .calls = "`consensus`",
       .unit = alpha_unit::sum,
       .trials = {{.grid = {{"lambda", {"0.2", "0.4", "0.6"}}}}},
       .make =
           [](settings& s, const cat_options&) {
             consensus_options o;
             read_consensus(s, o);
             return any_method(checked(consensus_method<>{o}));
           }},

      {.name = "consensus-ties",
       .label = "Consensus TIES",
       .summary = "the same on what TIES merges",
       .source = consensus_paper,
       .calls = "`consensus_method<ties_method>`, with `merge_parameter`",
       .unit = alpha_unit::sum,
       .make =
           [](settings& s, const cat_options&) {
             // TIES by the sum, as its authors do: masks compare each vector with a sum of all.
             consensus_options o;
             read_consensus(s, o);
             ties_options inner;
             inner.merge = ties_merge::sum;
             read_ties(s, inner);
             return any_method(checked(consensus_method<ties_method>{o, ties_method{inner}}));
           }},

      {.name = "pcb",
       .label = "PCB",
       .summary = "weights by competition of parameters",
       .source = {"Du et al., NeurIPS 2024", "2410.02396"},
       .calls = "`pcb`",
       .unit = alpha_unit::mean,
       .trials = {{.grid = {{"ratio", {"0.05", "0.1", "0.2"}}}}},
       .make =
           [](settings& s, const cat_options&) {
             pcb_options o;
             read_alpha(s, o.alpha);
             s.number("ratio", o.ratio, "share of each task's entries that count", 0, 1);
             s.number("clip", o.clip, "share of smallest and largest entries that are clamped", 0,
                      0.5);
             return any_method(checked(pcb_method{o}));
           }},

      {.name = "tatr",
       .label = "TATR",
       .summary = "the sum inside a trust region",
       .source = tatr_paper,
       .calls = "`tatr`",
       .importance = importance_kind::sensitivity,
       .unit = alpha_unit::sum,
       .trials = {{.grid = {{"zero-shot", {"yes"}}, {"quantile", {"0.9", "0.99"}}},
                   .label = "TATR, zero-shot"},
                  {.grid = {{"quantile", {"0.9", "0.99"}}}}},
       .make =
           [](settings& s, const cat_options&) {
             tatr_options o;
             read_tatr(s, o);
             read_alpha(s, o.alpha);
             return any_method(checked(tatr_method{o}));
           }},

      {.name = "lot",
       .label = "LOT",
       .summary = "least drift of the layers' outputs",
       .source = {"Sun et al., NeurIPS 2025", "2505.23859"},
       .calls = "`lot_linear`, `lot_scale`",
       .unit = alpha_unit::mean,
       .trials = {{}},
       .before = {trimmed_by_cat},
       .make =
           [](settings& s, const cat_options&) {
             lot_options o;
             read_alpha(s, o.alpha);
             s.number(
                 "ridge", o.ridge,
                 "of linears, towards the mean of the task vectors, in mean eigenvalues of the "
                 "inputs' Gram matrices; 0: the published method",
                 0, settings::no_limit);
             return any_method(checked(lot_method{o}));
           }},

      {.name = "tsv-m",
       .label = "TSV-M",
       .summary = "singular vectors of all tasks, decorrelated",
       .source = {"Gargiulo et al., CVPR 2025", "2412.00081"},
       .calls = "`tsv_m`",
       .unit = alpha_unit::spectrum,
       .trials = {{}},
       .before = {trimmed_by_cat},
       .after = {"svc", "esm-layers"},
       .make =
           [](settings& s, const cat_options&) {
             tsv_m_options o;
             read_alpha(s, o.alpha);
             read_fused(s, o.fused);
             return any_method(checked(tsv_m_method{o}));
           }},

      {.name = "iso-c",
       .label = "Iso-C",
       .summary = "the sum with all singular values alike",
       .source = iso_paper,
       .calls = "`iso`",
       .unit = alpha_unit::spectrum,
       .trials = {{}},
       .before = {trimmed_by_cat},
       .make =
           [](settings& s, const cat_options&) {
             iso_options o;
             read_alpha(s, o.alpha);
             read_fused(s, o.fused);
             return any_method(checked(iso_method{o}));
           }},

      {.name = "iso-cts",
       .label = "Iso-CTS",
       .summary = "the same, with directions of each task",
       .source = iso_paper,
       .calls = "`iso`",
       .unit = alpha_unit::spectrum,
       .trials = {{}},
       .make =
           [](settings& s, const cat_options&) {
             iso_options o;
             o.variant = iso_variant::cts;
             read_alpha(s, o.alpha);
             s.number("common", o.common, "share of directions that are common", 0, 1);
             read_fused(s, o.fused);
             return any_method(checked(iso_method{o}));
           }},

      {.name = "wudi",
       .label = "WUDI, closed form",
       .summary = "least interference of linear layers, closed form",
       .source = {"Cheng et al., ICML 2025", "2503.08099"},
       .calls = "`wudi`",
       .trials = {{}},  // its alpha is left at 1, as in the paper
       .make =
           [](settings& s, const cat_options&) {
             wudi_options o;
             read_alpha(s, o.alpha);
             read_fused(s, o.fused);
             return any_method(checked(wudi_method{o}));
           }},

      {.name = "swudi",
       .label = "SWUDI",
       .summary = "the sum, moved towards WUDI by a smooth filter",
       .source = swudi_paper,
       .calls = "`wudi`",
       .trials = {{.grid = {{"share", {"0.65", "0.85"}}}}},  // alpha as for WUDI
       .make =
           [](settings& s, const cat_options&) {
             wudi_options o;
             o.variant = wudi_variant::swudi;
             read_alpha(s, o.alpha);
             s.number("time", o.time, "how long the filter flows towards the minimum", 0,
                      settings::no_limit);
             s.number("share", o.share, "share of leading directions that it moves", 0, 1);
             read_fused(s, o.fused);
             return any_method(checked(wudi_method{o}));
           }},

      {.name = "aswudi",
       .label = "ASWUDI",
       .summary = "WUDI along the leading directions, the sum elsewhere",
       .source = swudi_paper,
       .calls = "`wudi`",
       .trials = {{}},  // alpha as for WUDI
       .make =
           [](settings& s, const cat_options&) {
             wudi_options o;
             o.variant = wudi_variant::aswudi;
             read_alpha(s, o.alpha);
             read_fused(s, o.fused);
             return any_method(checked(wudi_method{o}));
           }},

      {.name = "actmat",
       .label = "ACTMat",
       .summary = "least squares with task vectors for inputs, closed form",
       .source = {"preprint, 2026", "2604.01329"},
       .calls = "`wudi`",
       .trials = {{}},  // alpha as for WUDI
       .make =
           [](settings& s, const cat_options&) {
             wudi_options o;
             o.variant = wudi_variant::actmat;
             read_alpha(s, o.alpha);
             read_fused(s, o.fused);
             return any_method(checked(wudi_method{o}));
           }},

      {.name = "dc-merge",
       .label = "DC-Merge",
       .summary = "TIES on each task's largest entries, in a basis of singular vectors of all",
       .source = {"CVPR 2026", "2603.06242"},
       .calls = "`dc_merge`",
       .unit = alpha_unit::spectrum,
       .trials = {{}},
       .make =
           [](settings& s, const cat_options&) {
             dc_merge_options o;
             read_alpha(s, o.alpha);
             s.number("share", o.share, "share of entries that each task keeps", 0, 1);
             read_fused(s, o.fused);
             return any_method(checked(dc_merge_method{o}));
           }},

      {.name = "mean",
       .label = "mean of methods",
       .summary = "the mean of the merged vectors of several methods",
       .calls = "`mean_of`, with `merge_parameter`",
       .make =
           [](settings& s, const cat_options& defaults) {
             std::string of = "tsv-m+iso-c+iso-cts";
             s.any_text("of", of, "the methods, each with at most one setting: ties:density=0.1");
             return any_method(mean_of{methods_in(of, defaults)});
           }},
  };
}

std::vector<transform_entry> make_transforms() {
  return {
      {.name = "cat",
       .label = "CAT",
       .summary = "the trims of CAT Merging",
       .source = cat_paper,
       .calls = "`cat_trim`",
       .make =
           [](settings& s, const cat_options& defaults) {
             cat_options o = defaults;
             read_cat(s, o);
             return any_transform(checked(cat_trim{o}));
           }},

      {.name = "dare",
       .label = "DARE",
       .summary = "drops entries at random, and rescales the rest",
       .source = {"Yu et al., ICML 2024", "2311.03099"},
       .calls = "`dare_transform`",
       .make =
           [](settings& s, const cat_options&) {
             dare_options o;
             s.number("drop", o.drop, "the probability with which an entry is dropped", 0, 1);
             auto seed = static_cast<index_t>(o.seed);
             s.count("seed", seed, "other seeds drop other entries");
             o.seed = static_cast<std::uint64_t>(seed);
             return any_transform(checked(dare_transform{o}));
           }},

      {.name = "breadcrumbs",
       .label = "Breadcrumbs",
       .summary = "drops each layer's largest and smallest entries",
       .source = breadcrumbs_paper,
       .calls = "`breadcrumbs_trim`",
       .make =
           [](settings& s, const cat_options&) {
             breadcrumbs_options o;
             read_breadcrumbs(s, o);
             return any_transform(checked(breadcrumbs_trim{o}));
           }},

      {.name = "tatr",
       .label = "TATR",
       .summary = "drops entries outside the trust region of TATR",
       .source = tatr_paper,
       .calls = "`tatr_filter`",
       .importance = importance_kind::sensitivity,
       .make =
           [](settings& s, const cat_options&) {
             tatr_options o;
             read_tatr(s, o);
             return any_transform(checked(tatr_filter{o}));
           }},
  };
}

/// LiNeS, with depths from the names of the network's tensors.
struct named_lines : lines_transform {
  void read_names(const std::vector<std::string>& names) { depth = model::layer_depths(names); }
};

std::vector<merged_transform_entry> make_merged_transforms() {
  return {
      {.name = "svc",
       .label = "SVC",
       .summary = "a factor for each direction, by what the tasks have of it; set alpha to 1",
       .source = {"preprint, 2026", "2602.05536"},
       .calls = "`svc_transform`",
       .unit = alpha_unit::none,
       .make =
           [](settings& s) {
             svc_options o;
             s.number("floor", o.floor, "the least share of a task that counts", 0,
                      settings::no_limit);
             read_fused(s, o.fused);
             return any_merged_transform(checked(svc_transform{o}));
           }},

      {.name = "lines",
       .label = "LiNeS",
       .summary = "a factor that grows with the layer's depth",
       .source = {"Wang et al., ICLR 2025", "2410.17146"},
       .calls = "`lines_transform`",
       .make =
           [](settings& s) {
             lines_options o;
             s.number("first", o.first, "the factor of the first layer, and outside of the layers",
                      -settings::no_limit, settings::no_limit);
             s.number("last", o.last, "the factor of the last layer", -settings::no_limit,
                      settings::no_limit);
             return any_merged_transform(checked(named_lines{{o}}));
           }},

      {.name = "esm-layers",
       .label = "ESM's factors",
       .summary = "layers that changed much grow, the others shrink, within their role",
       .source = {"Li et al., CVPR 2026", "2602.20208"},
       .calls = "`esm_layers_transform`",
       .make =
           [](settings& s) {
             esm_layers_options o;
             s.number("exponent", o.exponent, "of a layer's share of the mean norm", 0,
                      settings::no_limit);
             return any_merged_transform(checked(esm_layers_transform{o, model::role_in_layer}));
           }},
  };
}

}  // namespace

any_method automatic_from_features(const automatic_options& o) {
  lot_around_options options;
  options.gain = o.gain.value_or(options.gain);
  return any_method(lot_around<any_method>{prior_without_outputs(), options});
}

void read_automatic(settings& s, automatic_options& o) {
  s.number("gain", o.gain,
           "length of the prior in refitted layers, in units of the alphas that were chosen (2; "
           "below 8 samples a task cross-fitted)",
           0, settings::no_limit);
  s.number("anchor", o.anchor, "weight of the prior in the refit, in samples per task", 0,
           settings::no_limit);
  s.number("own", o.own, "share of the experts' own outputs in the refit's target", 0, 1);
  s.flag("refit", o.refit, "refit the linear layers");
}

const std::vector<method_entry>& all_methods() {
  static const auto list = make_methods();
  return list;
}

const std::vector<transform_entry>& all_transforms() {
  static const auto list = make_transforms();
  return list;
}

const std::vector<merged_transform_entry>& all_merged_transforms() {
  static const auto list = make_merged_transforms();
  return list;
}

}  // namespace catmerge::harness

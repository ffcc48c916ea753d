// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/factors/cat.hpp>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/factors/lot.hpp>
#include <catmerge/factors/sum.hpp>
#include <harness/adapters/factor_method.hpp>
#include <harness/system/option_error.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

const char* const core_iso_name = "core-iso";
const std::vector<std::string> names_in_factors = {"task-arithmetic", "average",    "cat", "lot",
                                                   "tsv-m",           core_iso_name};

template <class... F>
struct overloaded : F... {
  using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

const char* const without_adapter = "merge into the network in its place: --base, and no --adapter";

[[noreturn]] void refuse_method(const std::string& name) {
  const std::string expected = "expected " + listed(names_in_factors) + ", or " + without_adapter;
  if (name == "auto") throw option_error("--method", "auto has no rule for factors: " + expected);
  if (name == "iso-c")
    throw option_error("--method",
                       "iso-c takes the mean over all singular values of a weight, most of them "
                       "zero for adapters: core-iso takes it over the directions that they span; " +
                           expected);
  throw option_error("--method", name +
                                     " has no rule for factors (it works on the entries of task "
                                     "vectors, or on matrices without a common low rank): " +
                                     expected);
}

}  // namespace

bool is_core_iso(const std::string& method) {
  return name_in_spec(method) == core_iso_name;
}

merge_request in_the_catalogue(merge_request request) {
  if (is_core_iso(request.method))
    request.method.replace(0, name_in_spec(request.method).size(), "iso-c");
  return request;
}

void require_adapter_options(const merge_request& r) {
  const auto refuse = [](const std::string& option, const std::string& why) {
    throw option_error(option, why + " (--adapter merges factors into an adapter)");
  };
  const auto refuse_if = [&](bool is_given, const char* option, const char* why) {
    if (is_given) refuse(option, why);
  };
  const char* const runs =
      "samples run through networks, and no network is merged here: "
      "`catmerge features` records the features of each expert";
  refuse_if(!r.samples.empty(), "--samples", runs);
  refuse_if(!r.heads.empty(), "--head", runs);
  refuse_if(r.sample_count.has_value(), "--sample-count", runs);
  refuse_if(r.feature_coefficient.has_value(), "--feature-coefficient", runs);
  refuse_if(!r.config.empty(), "--config", runs);
  refuse_if(r.alpha_by_outputs, "--alpha",
            "auto needs samples, and these run through networks: "
            "give a number");
  const char* const entries = "has no rule for factors";
  refuse_if(!r.importance.empty(), "--importance", "importances are of entries of weights");
  refuse_if(!r.before.empty(), "--before", entries);
  refuse_if(!r.after.empty(), "--after", entries);
  refuse_if(!r.method_for.empty(), "--method-for", "all weights are merged by one method");
  refuse_if(!r.set.empty(), "--set", "all weights are merged with the same settings");
  refuse_if(!r.resized.empty(), "--resized", "factors of weights of other shapes have no sum");
  refuse_if(!r.rename.empty(), "--rename",
            "the modules' names must be the same, as PEFT wrote "
            "them; --base finds the parameters");
  refuse_if(r.base_for_missing, "--missing",
            "a weight that an adapter does not change needs no option: its vector is zero");
  refuse_if(r.max_shard_size.has_value(), "--max-shard-size", "an adapter is one file");
  refuse_if(r.preset == "port", "--preset", "port follows code that merges whole networks");
  if (r.adapter_rank && *r.adapter_rank < 1) refuse("--adapter-rank", "expected at least 1");
  for (const auto& [key, value] : r.cat) {
    if (key.starts_with("scale-")) refuse("--" + key, "adapters change no scales");
    if (value == "auto") refuse("--" + key, "auto needs samples: give a value");
  }
  const std::string name = name_in_spec(r.method);
  if (std::find(names_in_factors.begin(), names_in_factors.end(), name) == names_in_factors.end())
    refuse_method(name);
  const settings given = blaming("--method", [&] { return settings_in(r.method); });
  for (const auto& [key, value] : given.given()) {
    if (key != "preset" && value == "auto")
      refuse("--method", "'" + key + "=auto' needs samples: give a value");
    if (name == "cat" && key.starts_with("scale-"))
      refuse("--method", "'" + key + "': adapters change no scales");
  }
  if ((name == "cat" || name == "lot") && r.features.empty())
    throw option_error("--method " + r.method,
                       "features are needed: give --features for every expert");
}

factor_method::factor_method(const merge_request& request, const merge_plan& plan) {
  const auto require_whole = [](fused_weights fused) {
    if (fused == fused_weights::split)
      throw option_error("--method",
                         "fused=split: in factors a weight that holds q, k and v is "
                         "merged as one matrix; leave the setting out, or " +
                             std::string(without_adapter));
  };
  if (const auto* const m = plan.method.find<task_arithmetic_method>()) {
    rule_ = *m;
  } else if (const auto* const average = plan.method.find<weight_average_method>()) {
    rule_ = *average;
  } else if (const auto* const cat = plan.method.find<cat_method>()) {
    cat_options options = cat->options;
    options.diagnostics = true;  // cheap in factors, and the summary tells them
    rule_ = options;
  } else if (const auto* const lot = plan.method.find<lot_method>()) {
    rule_ = lot->options;
  } else if (const auto* const tsv = plan.method.find<tsv_m_method>()) {
    require_whole(tsv->options.fused);
    rule_ = tsv->options;
  } else if (const auto* const iso = plan.method.find<iso_method>()) {
    require_whole(iso->options.fused);
    rule_ = iso->options;
  } else {
    throw option_error("--method", request.method +
                                       ": 'resamples' draws rows of features again, which is not "
                                       "done in factors: leave it out");
  }
}

bool factor_method::needs_statistics() const {
  return std::holds_alternative<cat_options>(rule_) || std::holds_alternative<lot_options>(rule_);
}

host_factors factor_method::sum(const factored_weight& weight, double factor,
                                context<host>& c) const {
  host_factored_problem given;
  given.names = weight.problem.names;
  for (std::size_t k = 0; k < weight.is_given.size(); ++k)
    if (weight.is_given[k]) given.vectors.push_back(weight.problem.vectors[k]);
  return concatenate(given, std::vector<double>(given.vectors.size(), factor), c);
}

/// As merge_stream merges a parameter that is no linear map, or has no statistics.
host_factors factor_method::fallback(const factored_weight& weight, layer_report& report,
                                     context<host>& c) const {
  const auto tasks = static_cast<double>(weight.is_given.size());
  const auto by = [&](fallback_rule rule, double factor) {
    report.fallback = rule;
    return sum(weight, factor, c);
  };
  return std::visit(
      overloaded{[&](const task_arithmetic_method& m) { return sum(weight, m.alpha, c); },
                 [&](const weight_average_method&) { return sum(weight, 1 / tasks, c); },
                 [&](const cat_options& o) { return by(fallback_rule::sum, o.alpha); },
                 [&](const lot_options& o) { return by(fallback_rule::mean, o.alpha / tasks); },
                 // As tables of tokens are merged by methods of singular directions
                 // (methods/token_tables.hpp).
                 [&](const auto&) { return by(fallback_rule::average, 1 / tasks); }},
      rule_);
}

host_factors factor_method::merge(const factored_weight& weight, layer_report& report,
                                  context<host>& c) const {
  report.kind = weight.kind;
  const auto& p = weight.problem;
  const bool is_linear = weight.kind == layer_kind::linear;
  const bool can = needs_statistics() ? is_linear && !p.statistics.empty() : !weight.is_table;
  if (!can) return fallback(weight, report, c);
  const auto taken = [&](auto found) {
    found.report.kind = weight.kind;
    report = std::move(found.report);
    return std::move(found.merged);
  };
  return std::visit(
      overloaded{[&](const cat_options& o) {
                   auto found = trim_factors(p, o, c);
                   report = std::move(found.report);
                   factored_weight trimmed{{}, weight.is_given, weight.kind, false};
                   trimmed.problem.names = p.names;
                   for (const auto& v : found.vectors)
                     trimmed.problem.vectors.push_back({v.b, v.a, v.scale});
                   return sum(trimmed, o.alpha, c);
                 },
                 [&](const lot_options& o) { return taken(lot_factors(p, o, c)); },
                 [&](const tsv_m_options& o) { return taken(tsv_m_factors(p, o, c)); },
                 [&](const iso_options& o) { return taken(core_iso(p, o, c)); },
                 [&](const auto&) { return fallback(weight, report, c); }},
      rule_);
}

}  // namespace catmerge::harness

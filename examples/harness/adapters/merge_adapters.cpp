// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/factors/conflict.hpp>
#include <catmerge/factors/sum.hpp>
#include <catmerge/io/adapter_difference.hpp>
#include <chrono>
#include <cmath>
#include <harness/adapters/adapter_features.hpp>
#include <harness/adapters/adapter_output.hpp>
#include <harness/adapters/adapter_set.hpp>
#include <harness/adapters/factor_method.hpp>
#include <harness/adapters/merge_adapters.hpp>
#include <harness/merge/merge_progress.hpp>
#include <harness/merge/merge_report.hpp>
#include <harness/merge/plan.hpp>
#include <harness/report/account.hpp>
#include <harness/report/page/merge_page.hpp>
#include <harness/report/report_files.hpp>
#include <harness/report/tell.hpp>
#include <harness/system/option_error.hpp>
#include <map>
#include <optional>
#include <utility>

namespace catmerge::harness {

namespace {

/// The ranks of one weight, and what the compression lost.
struct rank_account {
  std::vector<index_t> of_experts;  ///< 0: the adapter leaves the weight alone
  index_t merged = 0;               ///< before the compression
  index_t written = 0;
  double error = 0;  ///< ||T - T'||_F / ||T||_F
};

/// The task vectors of one weight, as the library takes them.
class weight_factors {
 public:
  weight_factors(const adapter_weight& weight, const std::vector<double>& weights,
                 const std::vector<std::string>& tasks) {
    const io::adapter_target& first = weight.first();
    zero_b_ = host_matrix(scalar_type::f32, first.d_out, 1);
    zero_a_ = host_matrix(scalar_type::f32, 1, first.d_in);
    auto& p = of_weight.problem;
    for (std::size_t k = 0; k < weight.of_task.size(); ++k) {
      const auto* const target = weight.of_task[k];
      of_weight.is_given.push_back(target != nullptr);
      if (target == nullptr) {
        p.vectors.push_back({zero_b_, zero_a_, 1.0});
        continue;
      }
      values_.push_back(io::b_of(*target));
      const host_const_view b = values_.back().view();
      values_.push_back(io::a_of(*target));
      p.vectors.push_back(
          {b, values_.back().view(), target->scale * (weights.empty() ? 1 : weights[k])});
    }
    p.names.parameter = weight.name;
    p.names.tasks = tasks;
  }
  weight_factors(const weight_factors&) = delete;
  weight_factors& operator=(const weight_factors&) = delete;

  factored_weight of_weight;

 private:
  host_matrix zero_b_, zero_a_;
  std::deque<io::factor_values> values_;
};

/// ||s B A||_F, by r x r matrices.
double norm_of(const factored_view<context<host>>& v, context<host>& c) {
  const index_t r = v.b.columns;
  Eigen::MatrixXd left(r, r), right(r, r);
  c.multiply(1, v.b, op::transpose, v.b, op::none, 0, view_of(left));
  c.multiply(1, v.a, op::none, v.a, op::transpose, 0, view_of(right));
  return std::fabs(v.scale) * std::sqrt(std::max(0.0, left.cwiseProduct(right).sum()));
}

/// A merge in progress: what it knows, and the reports so far.
class adapter_merge {
 public:
  adapter_merge(const merge_plan& plan, const factor_method& method, const adapter_set& set,
                adapter_features& features, bool with_report, context<host>& c)
      : plan_(plan),
        method_(method),
        set_(set),
        features_(features),
        with_report_(with_report),
        c_(c) {}

  /// Merges a weight and writes it.
  void run(const adapter_weight& weight, const io::planned_target& written,
           adapter_output& output) {
    weight_factors factors(weight, plan_.weights, set_.tasks());
    factored_weight& w = factors.of_weight;
    const auto& known = set_.class_of(weight.name);
    w.kind = model::layer_of(known);
    w.is_table = known.kind == model::parameter_kind::token_table ||
                 weight.plan.layer == io::adapter_layer::embedding;
    const bool is_linear = w.kind == layer_kind::linear;
    if (is_linear) w.problem.parts = known.parts;
    const auto statistics = is_linear ? features_.of(weight) : std::vector<statistics_view<host>>();
    if (method_.needs_statistics()) w.problem.statistics = statistics;

    parameter_report report;
    report.name = weight.name;
    report.missing_statistics = method_.needs_statistics() && is_linear && statistics.empty();
    for (const auto& v : w.problem.vectors) report.sizes.of_vectors.push_back(norm_of(v, c_));
    const host_factors merged = method_.merge(w, report.layer, c_);
    rank_account ranks;
    for (const auto* target : weight.of_task)
      ranks.of_experts.push_back(target == nullptr ? 0 : target->rank);
    plain_factors sum = fitted(merged, written.rank, ranks);
    if (with_report_ && !statistics.empty()) add_drift(w, statistics, sum, report.layer);
    reports.push_back(std::move(report));
    accounts.emplace(weight.name, std::move(ranks));
    output.put(written, std::move(sum), written.has_bias ? merged_bias(weight) : Eigen::VectorXd());
    features_.release(weight);
    for (std::size_t k = 0; k < weight.of_task.size(); ++k) {
      const auto* const target = weight.of_task[k];
      if (target == nullptr) continue;
      const auto& file = set_.adapter(static_cast<index_t>(k)).file();
      file.release(*target->a);
      file.release(*target->b);
    }
  }

  std::vector<parameter_report> reports;
  std::map<std::string, rank_account> accounts;

 private:
  /// The factors of at most this rank.
  plain_factors fitted(const host_factors& merged, index_t rank, rank_account& account) {
    plain_factors sum = without_scale({merged.b, merged.a, merged.scale}, c_);
    account.merged = sum.b.cols();
    account.written = rank;
    if (sum.b.cols() <= rank) return sum;
    auto found = compress(factored_vector{host_const_view(const_view_of(sum.b)),
                                          host_const_view(const_view_of(sum.a))},
                          rank, c_);
    account.error = found.error;
    return without_scale({found.vector.b, found.vector.a, found.vector.scale}, c_);
  }

  /// As with_drift (merge/drift.hpp): ||X_k (tau - T_k)^T||^2 and ||X_k T_k^T||^2.
  void add_drift(const factored_weight& w, const std::vector<statistics_view<host>>& statistics,
                 const plain_factors& tau, layer_report& report) {
    for (std::size_t k = 0; k < statistics.size(); ++k) {
      host_factored_problem pair;
      pair.names = w.problem.names;
      pair.vectors.push_back({const_view_of(tau.b), const_view_of(tau.a), 1.0});
      pair.vectors.push_back(w.problem.vectors[k]);
      const bool is_zero = tau.b.cols() == 0;
      if (is_zero) pair.vectors.front() = {pair.vectors[1].b, pair.vectors[1].a, 0.0};
      const auto rest = concatenate(pair, {1, -1}, c_);
      const auto shift = [&](const factored_view<context<host>>& v) {
        host_factored_problem one;
        one.names = pair.names;
        one.vectors.push_back(v);
        one.statistics.push_back(statistics[k]);
        return factored_conflict_matrix(one, c_)(0, 0);
      };
      report.drift.push_back(shift({rest.b, rest.a, rest.scale}));
      report.drift_of_base.push_back(shift(pair.vectors[1]));
    }
  }

  /// The merged bias of B, by the method's own rule for vectors: what is added to the layer's bias.
  Eigen::VectorXd merged_bias(const adapter_weight& weight) {
    Eigen::MatrixXd tau = Eigen::MatrixXd::Zero(weight.plan.d_out, 1);
    if (!weight.has_bias) return tau;
    const Eigen::MatrixXd zero = tau;
    const auto& known = set_.class_of(weight.bias_name);
    std::vector<Eigen::MatrixXd> vectors;
    parameter_report report;
    report.name = weight.bias_name;
    for (std::size_t k = 0; k < weight.of_task.size(); ++k) {
      Eigen::MatrixXd one = zero;
      const auto* const target = weight.of_task[k];
      if (target != nullptr && target->bias != nullptr) {
        const auto values = io::bias_difference_of<double>(*target);
        std::copy(values.begin(), values.end(), one.data());
      }
      if (!plan_.weights.empty()) one *= plan_.weights[k];
      if (!one.allFinite())
        throw not_finite_error(weight.bias_name + ": B's bias of '" + set_.tasks()[k] +
                               "' holds a value that is not finite");
      report.sizes.of_vectors.push_back(one.norm());
      vectors.push_back(std::move(one));
    }
    const std::vector<Eigen::MatrixXd> untouched = vectors;
    host_problem p;
    p.kind = model::layer_of(known);
    p.parts = known.parts;
    p.base = const_view_of(zero);
    p.names.parameter = weight.bias_name;
    p.names.tasks = set_.tasks();
    for (const auto& v : untouched) p.experts.push_back(const_view_of(v));
    std::vector<host_view> views;
    for (auto& v : vectors) views.push_back(view_of(v));
    report.layer.kind = p.kind;
    plan_.method.combine(c_, p, views, view_of(tau), report.layer);
    tau *= plan_.method.factor();
    reports.push_back(std::move(report));
    return tau;
  }

  const merge_plan& plan_;
  const factor_method& method_;
  const adapter_set& set_;
  adapter_features& features_;
  bool with_report_;
  context<host>& c_;
};

/// The plans of the written weights. Their rank is the sum of the experts' ranks, or the largest
/// one that the request allows.
std::vector<io::planned_target> plans_of(const adapter_set& set, const merge_request& request) {
  std::vector<io::planned_target> plans;
  for (const auto& weight : set.weights()) {
    plans.push_back(weight.plan);
    if (request.adapter_rank)
      plans.back().rank = std::min(plans.back().rank, *request.adapter_rank);
    plans.back().type = request.out_dtype.value_or(plans.back().type);
  }
  return plans;
}

/// "4", or "2 to 8".
std::string range_text(const std::vector<index_t>& all) {
  const auto [least, most] = std::minmax_element(all.begin(), all.end());
  return *least == *most ? std::to_string(*least)
                         : std::to_string(*least) + " to " + std::to_string(*most);
}

std::string scientific(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

/// The sentences about ranks and conflict.
std::string rank_sentences(const adapter_merge& merge, const adapter_set& set) {
  std::vector<index_t> in, out;
  double worst = 0;
  std::string where;
  for (const auto& [name, account] : merge.accounts) {
    for (const index_t r : account.of_experts)
      if (r > 0) in.push_back(r);
    out.push_back(account.written);
    if (account.error > worst) worst = account.error, where = name;
  }
  std::string text =
      "\nRanks: " + range_text(in) + " in the adapters, " + range_text(out) + " in the merged one" +
      (worst > 0
           ? "; the compression's largest relative error is " + scientific(worst) + ", of " + where
           : "") +
      ".";
  double before = 0, after = 0;
  bool any = false;
  for (const auto& report : merge.reports) {
    const auto& trim = report.layer.trim;
    if (report.layer.kind != layer_kind::linear || !trim || trim->conflict_before.size() == 0)
      continue;
    any = true;
    for (const double x : inter_task_conflict(trim->conflict_before)) before += x;
    for (const double x : inter_task_conflict(trim->conflict_after)) after += x;
  }
  if (any)
    text += "\nConflict of linear weights: " + scientific(before) + " before the trims, " +
            scientific(after) + " after them.";
  if (!set.kept().empty())
    text += "\n" + std::to_string(set.kept().size()) +
            (set.kept().size() == 1 ? " tensor is" : " tensors are") +
            " held whole, as in all adapters.";
  if (!set.left_out().empty()) text += "\n" + listed("left out", set.left_out()) + ".";
  return text;
}

/// The report of a merge into a network, with the ranks.
json report_of(const merge_request& request, const merge_request& known, const merge_plan& plan,
               const merge_facts& facts, const adapter_merge& merge, const adapter_set& set,
               const std::vector<std::string>& warnings) {
  json report = merge_report(known, plan, plan.method, facts, merge.reports, warnings);
  auto& settings = report["catmerge"]["settings"];
  settings["method"] = request.method;
  settings["adapter"] = true;
  if (request.adapter_rank) settings["adapter_rank"] = *request.adapter_rank;
  if (is_core_iso(request.method)) report["catmerge"]["label"] = "Iso-C in core space";
  report["summary"] = report["summary"].get<std::string>() + rank_sentences(merge, set);
  for (auto& parameter : report["parameters"]) {
    const auto found = merge.accounts.find(parameter["name"].get<std::string>());
    if (found == merge.accounts.end()) continue;
    parameter.erase("base_norm");  // the base's weights are not read
    const rank_account& ranks = found->second;
    parameter["ranks"] = {
        {"experts", ranks.of_experts}, {"merged", ranks.merged}, {"written", ranks.written}};
    parameter["compression_error"] = ranks.error;
  }
  for (const char* key : {"of_base", "relative"}) report["totals"]["task_vectors"].erase(key);
  report["held_whole"] = json::array();
  for (const auto& tensor : set.kept()) report["held_whole"].push_back(tensor.name);
  if (!set.left_out().empty()) report["left_out"] = set.left_out();
  return report;
}

}  // namespace

void require_network_options(const merge_request& request) {
  if (request.adapter_rank)
    throw option_error("--adapter-rank", "needs --adapter: a merged network has no rank");
  if (is_core_iso(request.method))
    throw option_error("--method",
                       "core-iso merges adapters into an adapter (--adapter); iso-c is "
                       "the method for networks");
}

merge_result merge_adapters(const merge_request& request) {
  // Errors in the request come before any file is read.
  require_adapter_options(request);
  const merge_request known = in_the_catalogue(request);
  const merge_plan plan(known);
  const factor_method method(request, plan);
  require_outputs_apart(request);
  tell(plan.notes, request.how);

  const auto began = std::chrono::steady_clock::now();
  report_files files("--report", request.reports, plan.output.target);
  const adapter_set set(request, plan.policy);
  const auto plans = plans_of(set, request);
  adapter_features features(plan.uses_statistics ? request.features : std::vector<task_file>(),
                            set);
  adapter_output output(request.output, set, plans);
  std::optional<task_heads_output> heads;
  if (!request.heads_output.empty())
    heads.emplace(request.heads_output, heads_of_adapters(set, plan.policy.task_heads),
                  plan.output.target);

  pool threads(request.threads);
  context<host> c(threads.runner());
  const merge_progress seen(request.how, set);
  adapter_merge merge(plan, method, set, features, !request.reports.empty(), c);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const std::size_t before = merge.reports.size();
    merge.run(set.weights()[i], plans[i], output);
    for (std::size_t j = before; j < merge.reports.size(); ++j) seen(merge.reports[j]);
  }
  seen.clear();

  merge_facts facts{set, method.needs_statistics()};
  facts.whole = false;
  auto warnings = warnings_of(merge.reports, facts);
  if (plan.alpha_by_outputs)
    warnings.emplace_back(
        "alpha was not chosen for these adapters: outputs on samples choose it, and no samples run "
        "here; --alpha sets it");
  tell(warnings, request.how);
  warnings.insert(warnings.begin(), plan.notes.begin(), plan.notes.end());
  if (!request.reports.empty()) {
    json report = report_of(request, known, plan, facts, merge, set, warnings);
    report["run"] = run_of(began, request.threads);
    files.write(report, merge_page);
  }
  output.commit();
  if (heads) heads->commit();
  files.commit();
  return {summary_of(merge.reports, facts) + rank_sentences(merge, set), std::move(warnings)};
}

}  // namespace catmerge::harness

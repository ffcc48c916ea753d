// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <Eigen/SVD>
#include <algorithm>
#include <catmerge/features/conflict.hpp>
#include <cmath>
#include <harness/experiment/laboratory.hpp>
#include <harness/experiment/rank_correlation.hpp>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

namespace catmerge::harness {

namespace {

/// Relations of ordered pairs of tasks, K x K: sums over the linear layers.
struct task_relations {
  index_t layers = 0;  ///< the number of layers
  /// Entry (k, i): ||X_k T_i^T||^2 / ||X_k T_k^T||^2, the shift of task k's features by task i in
  /// shares of the task's own.
  Eigen::MatrixXd conflict;
  Eigen::MatrixXd norm;             ///< ||T_i||^2 / ||T_k||^2: the same without features
  Eigen::MatrixXd cosine;           ///< <T_k, T_i> / (||T_k|| ||T_i||)
  Eigen::MatrixXd absolute_cosine;  ///< its absolute value
  /// (||U_k^T U_i||^2 + ||V_k^T V_i||^2) / (2 n), U and V the n leading singular vectors, n =
  /// floor(min(d_out, d_in) / K) as in TSV-M: the shared part of what tasks write and read.
  Eigen::MatrixXd overlap;

  explicit task_relations(index_t tasks) {
    for (auto* m : {&conflict, &norm, &cosine, &absolute_cosine, &overlap})
      m->setZero(tasks, tasks);
  }
};

/// Measures the relations of task vectors in place of merging them: tau is zero.
struct measure_relations {
  task_relations* sums;

  static constexpr double factor() { return 1; }
  static constexpr bool needs_statistics(layer_kind kind) { return kind == layer_kind::linear; }

  /// Layers that a task leaves as they are have no relations.
  void combine(context<host>& c, const host_problem& p, host_vectors vectors, const host_view&,
               layer_report&) const {
    if (p.kind != layer_kind::linear || p.statistics.empty()) return;
    const index_t tasks = std::ssize(vectors);
    const Eigen::MatrixXd shifts = conflict_matrix(p.kind, p.statistics, vectors, c);
    Eigen::MatrixXd products(tasks, tasks);
    for (index_t k = 0; k < tasks; ++k)
      for (index_t i = 0; i < tasks; ++i) products(k, i) = c.dot(at(vectors, k), at(vectors, i));
    if (!(shifts.diagonal().minCoeff() > 0 && products.diagonal().minCoeff() > 0)) return;
    ++sums->layers;
    for (index_t k = 0; k < tasks; ++k)
      for (index_t i = 0; i < tasks; ++i) {
        const double cosine = products(k, i) / std::sqrt(products(k, k) * products(i, i));
        sums->conflict(k, i) += shifts(k, i) / shifts(k, k);
        sums->norm(k, i) += products(i, i) / products(k, k);
        sums->cosine(k, i) += cosine;
        sums->absolute_cosine(k, i) += std::abs(cosine);
      }
    add_overlap(c, vectors);
  }

 private:
  static const host_view& at(host_vectors vectors, index_t k) {
    return vectors[static_cast<std::size_t>(k)];
  }

  void add_overlap(context<host>& c, host_vectors vectors) const {
    const auto& first = vectors.front();
    const index_t tasks = std::ssize(vectors),
                  n = std::max<index_t>(1, std::min(first.rows, first.columns) / tasks);
    std::vector<std::pair<Eigen::MatrixXd, Eigen::MatrixXd>> leading;
    for (const auto& t : vectors) {
      const Eigen::BDCSVD<Eigen::MatrixXd> svd(c.to_host(t),
                                               Eigen::ComputeThinU | Eigen::ComputeThinV);
      leading.emplace_back(svd.matrixU().leftCols(n), svd.matrixV().leftCols(n));
    }
    for (index_t k = 0; k < tasks; ++k)
      for (index_t i = 0; i < tasks; ++i) {
        const auto& [left, right] = leading[static_cast<std::size_t>(k)];
        const auto& [other_left, other_right] = leading[static_cast<std::size_t>(i)];
        const double shared = (left.transpose() * other_left).squaredNorm() +
                              (right.transpose() * other_right).squaredNorm();
        sums->overlap(k, i) += shared / static_cast<double>(2 * n);
      }
  }
};

task_relations relations_of(bench& of, const std::vector<recorded_inputs>& samples) {
  task_relations found(of.size());
  of.merge(any_method(measure_relations{&found}), samples);
  return found;
}

/// A rank correlation over the predictors, and the ends of its interval.
struct correlation_curves {
  curve rho, low, high;

  explicit correlation_curves(const std::string& label)
      : rho{label, {}}, low{label + ", from", {}}, high{label + ", to", {}} {}

  /// Adds a point per predictor. draws: the relations by several draws of samples, of which the
  /// conflict alone depends. losses: K x K; `what` follows the predictor's name.
  void add(const std::vector<task_relations>& draws, const Eigen::MatrixXd& losses,
           const std::string& what) {
    const std::pair<const char*, Eigen::MatrixXd task_relations::*> predictors[] = {
        {"conflict", &task_relations::conflict},
        {"norms", &task_relations::norm},
        {"cosine", &task_relations::cosine},
        {"absolute cosine", &task_relations::absolute_cosine},
        {"overlap", &task_relations::overlap}};
    for (const auto& [name, values] : predictors) {
      for (auto* line : {&rho, &low, &high}) line->points.push_back({name + what, {}, ""});
      const bool uses_samples = values == &task_relations::conflict;
      for (std::size_t i = 0; i < (uses_samples ? draws.size() : 1); ++i) {
        const correlation found = correlate(draws[i].*values, losses);
        rho.points.back().runs.push_back(found.rho);
        low.points.back().runs.push_back(found.low);
        high.points.back().runs.push_back(found.high);
      }
    }
  }
};

/// tau = sum_k w_k T_k.
struct weighted_sum {
  std::vector<double> weights;

  static constexpr double factor() { return 1; }

  void combine(context<host>& c, const host_problem&, host_vectors vectors, const host_view& tau,
               layer_report&) const {
    for (std::size_t k = 0; k < weights.size(); ++k) c.axpy(weights[k], vectors[k], tau);
  }
};

/// 1 / (1 + a task's conflict), divided by the mean.
Eigen::VectorXd weights_against(const Eigen::VectorXd& conflict) {
  const Eigen::VectorXd weights = (1 + conflict.array()).inverse();
  return weights / weights.mean();
}

}  // namespace

/// Entry (k, i): the points that task k loses against its expert if it is merged with task i.
Eigen::MatrixXd laboratory::pair_losses(const std::string& spec, double alpha) {
  const index_t tasks = bench_->size();
  const auto alone = expert_values();
  Eigen::MatrixXd losses = Eigen::MatrixXd::Zero(tasks, tasks);
  for (index_t k = 0; k < tasks; ++k)
    for (index_t i = k + 1; i < tasks; ++i) {
      const auto a = static_cast<std::size_t>(k), b = static_cast<std::size_t>(i);
      const auto pair = make_bench({a, b});
      const auto values = pair->test(pair->merge(parse_method(spec), {}), alpha);
      losses(k, i) = alone[a] - values[0];
      losses(i, k) = alone[b] - values[1];
    }
  return losses;
}

study laboratory::relatedness() {
  study s = study::of_curves(
      "relatedness", "What pairs of tasks lose",
      "Every two experts are merged alone, at fixed alphas. At alpha 1 Task Arithmetic differs "
      "from either expert by the other's task vector and nothing else; at 0.5 it is their mean. A "
      "task's loss is its expert's score on test minus the merged network's, in points, and in "
      "shares of what the expert gains over the base; nothing is chosen. Spearman's rank "
      "correlation of the loss of task k, merged with task i, with what is known beforehand, over "
      "all ordered pairs (k, i); 1: the order of the predictor is that of the losses. From, to: "
      "the 95 % interval, from 2,000 resamples of the tasks. Predictors are means over the linear "
      "layers; conflict: ||X_k T_i^T||^2 / ||X_k T_k^T||^2, for each draw of unlabeled samples of "
      "task k; norms: ||T_i||^2 / ||T_k||^2; cosine: of T_k and T_i; overlap: of their leading "
      "singular vectors, as many as TSV-M keeps for all tasks.",
      "predictor", "names");
  s.quantity = "rank correlation";
  if (bench_->size() < 3) {
    notes_.insert("What pairs of tasks lose: left out, because it needs at least three tasks.");
    return s;
  }
  std::vector<task_relations> draws;
  for (index_t seed = 0; seed < plan_.seeds; ++seed)
    draws.push_back(relations_of(*bench_, recorded(plan_.samples, seed)));
  const auto alone = expert_values(),
             base =
                 bench_->measure(checkpoint_weights(bench_->set().base_file()), data_split::test);
  Eigen::VectorXd gains(bench_->size());
  for (std::size_t k = 0; k < alone.size(); ++k)
    gains(static_cast<index_t>(k)) = alone[k] - base[k];
  if (gains.minCoeff() <= 0)
    notes_.insert("What pairs of tasks lose: in points alone, because an expert gains nothing.");
  const std::pair<const char*, double> merges[] = {
      {"task-arithmetic", 1}, {"task-arithmetic", 0.5}, {"tsv-m", 1}};
  index_t done = 0;
  for (const auto& [method, alpha] : merges) {
    terminal_.show("pairs of tasks", done++, std::ssize(merges));
    const Eigen::MatrixXd losses = pair_losses(method, alpha);
    correlation_curves found(method_entry_of(method).label + ", alpha " + shortest(alpha));
    found.add(draws, losses, "");
    if (gains.minCoeff() > 0)
      found.add(draws, gains.cwiseInverse().asDiagonal() * losses, ", shares");
    for (auto* line : {&found.rho, &found.low, &found.high}) s.curves.push_back(std::move(*line));
  }
  return s;
}

study laboratory::task_weights() {
  study s;
  s.name = "task-weights";
  s.title = "A weight for each task";
  s.note =
      "Task Arithmetic of all tasks, theta_0 + alpha sum w_k T_k. The weights are 1 / (1 + c), "
      "divided by their mean, c a task's conflict: what the others' vectors do to its features "
      "(suffered) or its vector to theirs (caused), each in shares of the features' own shift, the "
      "mean over the linear layers. Alpha is the one of least J, the distance from the experts' "
      "outputs on the same unlabeled samples, and so are the last row's weights, of the three. No "
      "labels; test split.";
  for (const auto* label : {"equal weights", "by conflict suffered", "by conflict caused",
                            "whichever has the least J"}) {
    s.rows.emplace_back();
    s.rows.back().label = label;
  }
  for (index_t seed = 0; seed < plan_.seeds; ++seed) {
    terminal_.show("weights of tasks", seed, plan_.seeds);
    const auto judge = bench_->judge(drawn(plan_.samples, seed));
    const auto relations = relations_of(*bench_, recorded(plan_.samples, seed));
    Eigen::MatrixXd conflict = relations.conflict / static_cast<double>(relations.layers);
    conflict.diagonal().setZero();
    const Eigen::VectorXd weights[] = {Eigen::VectorXd::Ones(bench_->size()),
                                       weights_against(conflict.rowwise().sum()),
                                       weights_against(conflict.colwise().sum().transpose())};
    double least = std::numeric_limits<double>::infinity();
    std::vector<double> closest;  // the scores at the least J
    for (std::size_t i = 0; i < std::size(weights); ++i) {
      const auto tau =
          bench_->merge(any_method(weighted_sum{{weights[i].begin(), weights[i].end()}}), {});
      const auto j = curve_over_alpha(judge, tau, plan_.alphas, threads_.runner());
      table_row& row = s.rows[i];
      row.runs.push_back(bench_->test(tau, j.choice()));
      if (j.mean(j.best()) < least) {
        least = j.mean(j.best());
        closest = row.runs.back();
      }
      if (seed > 0) continue;
      row.setting = "alpha=" + shortest(j.choice()) + ", weights";
      for (const double w : weights[i]) row.setting += " " + shortest(std::round(100 * w) / 100);
    }
    s.rows.back().runs.push_back(std::move(closest));
  }
  return s;
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <deque>
#include <harness/calibration/refit_walk.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/features/expert_weights.hpp>
#include <harness/networks/batch.hpp>
#include <memory>
#include <optional>
#include <utility>

namespace catmerge::harness {

namespace {

/// The inputs of a block's layers: a group of names per input, in forward order.
class input_rows final : public recorder {
 public:
  struct input {
    std::vector<std::string> names;
    matrix rows;
  };

  void record(const std::vector<std::string>& names, matrix rows) override {
    inputs_.push_back({names, std::move(rows)});
  }

  const std::vector<input>& inputs() const { return inputs_; }

 private:
  std::vector<input> inputs_;
};

/// The input of one layer; the run ends there.
class one_input final : public recorder {
 public:
  explicit one_input(std::string name) : name_(std::move(name)) {}

  bool wants(const std::vector<std::string>& names) override {
    found_ = std::find(names.begin(), names.end(), name_) != names.end();
    return found_;
  }
  bool stops() const override { return found_; }
  void record(const std::vector<std::string>&, matrix rows) override { rows_ = std::move(rows); }

  const matrix& rows() const { return rows_; }

 private:
  std::string name_;
  bool found_ = false;
  matrix rows_;
};

host_const_view view_of_rows(const float* data, index_t rows, index_t columns) {
  return {data, scalar_type::f32, rows, columns, columns, 1};
}

/// The bias of a weight among a block's parameters: the parameter of its name with "bias" in place
/// of the last "weight". None if the layer has no bias.
std::optional<parameter> bias_of(const std::string& weight,
                                 const std::vector<parameter>& parameters) {
  const std::string word = "weight";
  const auto at = weight.rfind(word);
  if (at == std::string::npos) return std::nullopt;
  const std::string name = weight.substr(0, at) + "bias" + weight.substr(at + word.size());
  for (const auto& p : parameters)
    if (p.name == name) return p;
  return std::nullopt;
}

/// A network that is being refitted.
struct refit_run {
  refit_run(const refit_plan& p, merged_vectors vectors, activations samples)
      : plan(p), tau(std::move(vectors)), state(std::move(samples)) {}
  refit_run(const refit_run&) = delete;
  refit_run& operator=(const refit_run&) = delete;

  refit_plan plan;
  merged_vectors tau;
  merged_vectors::network weights{tau};
  activations state;  ///< of all tasks
};

class walk {
 public:
  walk(const network& net, const checkpoint_set& set, std::vector<activations> samples,
       const executor& threads)
      : net_(net),
        set_(set),
        base_(set.base_file()),
        states_(std::move(samples)),
        threads_(threads),
        c_(threads) {
    for (index_t k = 0; k < std::ssize(states_); ++k)
      experts_.push_back(std::make_unique<expert_weights>(set, k, 1));
  }

  /// Refits the runs side by side. prepare(run, block) gives a run the tensors of a block.
  template <class Prepare>
  void refit(std::deque<refit_run>& runs, const Prepare& prepare) {
    for (std::size_t block = 0; block < net_.block_count(); ++block) {
      features_ = std::vector<input_rows>(states_.size());
      threads_(std::ssize(states_), [&](index_t k) {
        net_.run(block, *experts_[at(k)], states_[at(k)], &features_[at(k)], threads_);
      });
      for (auto& run : runs) prepare(run, block);
      for (std::size_t g = 0; g < features_.front().inputs().size(); ++g)
        refit_group(block, g, runs);
      threads_(std::ssize(runs), [&](index_t i) {
        net_.run(block, runs[at(i)].weights, runs[at(i)].state, nullptr, threads_);
      });
    }
  }

  /// The names of refitted tensors, in forward order.
  const std::vector<std::string>& refitted() const { return refitted_; }

 private:
  /// A layer, and the experts' side of its least squares.
  struct layer {
    parameter kernel;
    std::optional<parameter> bias;
    bool is_in_out = false;
    bool by_first_rows = false;  ///< the other rows of a sample do not reach the output
    weight base;
    std::vector<host_matrix> vectors;  ///< T_k
    std::vector<host_matrix> outputs;  ///< Y_k, in double
    std::vector<std::vector<index_t>>
        offsets;  ///< the first row of each sample in Y_k, and the end
    std::vector<std::vector<double>> energies;  ///< ||X T_k^T||^2 of each sample's rows X of X_k

    /// Stored values as a map from inputs to outputs.
    host_const_view as_map(const float* values) const {
      const index_t first = kernel.shape.front();
      const auto stored = view_of_rows(values, first, first == 0 ? 0 : base.size() / first);
      return is_in_out ? stored.transposed() : stored;
    }

    /// The rows of samples that reach the output: all, or the first of each, copied to `room`.
    /// begins: the first row of each sample, and the end; on return those of the result.
    const matrix& rows_that_count(const matrix& rows, std::vector<index_t>& begins,
                                  matrix& room) const {
      if (!by_first_rows) return rows;
      room = first_rows(rows, {0, begins});
      begins = equal_offsets(std::ssize(begins) - 1, 1);
      return room;
    }
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  /// Refits the layers of one input. In each run the block runs once more, to this input.
  void refit_group(std::size_t block, std::size_t group, std::deque<refit_run>& runs) {
    const auto& names = features_.front().inputs()[group].names;
    std::vector<layer> layers;
    for (const auto& p : net_.parameters(block))
      if (p.shape.size() > 1 && runs.front().tau.has(p.name) &&
          runs.front().tau.is_scaled(p.name) && net_.gets_every_row(p.name) &&
          std::find(names.begin(), names.end(), p.name) != names.end())
        layers.push_back(layer_of(p, group, net_.parameters(block)));
    if (layers.empty()) return;
    threads_(std::ssize(runs), [&](index_t i) {
      refit_run& run = runs[at(i)];
      one_input here(names.front());
      activations copy = run.state;
      net_.run(block, run.weights, copy, &here, threads_);
      for (const auto& each : layers) refit_layer(each, here.rows(), run);
    });
    for (const auto& each : layers) refitted_.push_back(each.kernel.name);
  }

  layer layer_of(const parameter& p, std::size_t group, const std::vector<parameter>& others) {
    layer l;
    l.kernel = p;
    l.bias = bias_of(p.name, others);
    l.is_in_out = set_.class_of(p.name).layout == model::matrix_layout::in_out;
    l.by_first_rows = net_.first_rows_suffice(p.name);
    l.base = base_.get(p);
    const host_const_view base = l.as_map(l.base.data());
    for (std::size_t k = 0; k < experts_.size(); ++k) {
      l.offsets.push_back(net_.rows_of_samples(p.name, states_[k]));
      matrix room;
      const matrix& features =
          l.rows_that_count(features_[k].inputs()[group].rows, l.offsets.back(), room);
      const auto x = view_of_rows(features.data(), features.rows(), base.columns);
      const weight expert = experts_[k]->get(p);
      host_matrix outputs(scalar_type::f64, x.rows, base.rows);

      l.vectors.emplace_back(scalar_type::f32, base.rows, base.columns);
      c_.assign(l.as_map(expert.data()), l.vectors.back());
      c_.axpy(-1, base, l.vectors.back());
      c_.multiply(1, x, op::none, l.vectors.back(), op::transpose, 0, outputs);
      l.energies.emplace_back();
      const auto& offsets = l.offsets.back();
      for (index_t i = 0; i + 1 < std::ssize(offsets); ++i)
        l.energies.back().push_back(
            c_.squared_norm(c_.slice(host_const_view(outputs), offsets[at(i)],
                                     offsets[at(i + 1)] - offsets[at(i)], 0, base.rows)));

      c_.multiply(1, x, op::none, l.as_map(expert.data()), op::transpose, 0, outputs);
      if (l.bias) add_to_rows(experts_[k]->get(*l.bias), outputs);
      l.outputs.push_back(std::move(outputs));
      experts_[k]->release(p);
    }
    return l;
  }

  /// recorded: the inputs of all tasks in this run.
  void refit_layer(const layer& l, const matrix& recorded, refit_run& run) {
    auto begins = run.state.offsets;
    matrix first_of_samples;
    const matrix& inputs = l.rows_that_count(recorded, begins, first_of_samples);
    const host_const_view base = l.as_map(l.base.data());
    const index_t d_in = base.columns;
    refit_problem<context<host>> problem;
    problem.base = base;
    problem.name = l.kernel.name;
    std::deque<host_matrix> room;  // of selected rows
    index_t row = 0;
    for (std::size_t k = 0; k < experts_.size(); ++k) {
      const index_t n = l.outputs[k].rows();
      const auto fitted = [&](const host_const_view& rows) {
        return fitted_rows(run.plan, l.offsets[k], rows, room);
      };
      problem.vectors.push_back(l.vectors[k]);
      problem.rows.push_back(
          {fitted(view_of_rows(inputs.data() + row * d_in, n, d_in)), fitted(l.outputs[k]), {}});
      problem.energies.push_back(0);
      for (std::size_t i = 0; i < l.energies[k].size(); ++i)
        if (run.plan.fits(static_cast<index_t>(i))) problem.energies.back() += l.energies[k][i];
      row += n;
    }
    weight shift;
    if (l.bias) {
      shift = run.weights.get(*l.bias);
      problem.bias = view_of_rows(shift.data(), base.rows, 1);
    }
    auto values = run.tau.read(l.kernel.name);
    host_matrix result(scalar_type::f32, base.rows, d_in);
    problem.prior = l.as_map(values.data());
    refit_linear(c_, problem, run.plan.options, result);
    const index_t first = l.kernel.shape.front();
    const host_view stored(values.data(), scalar_type::f32, first, l.is_in_out ? base.rows : d_in,
                           l.is_in_out ? base.rows : d_in, 1);
    const host_const_view logical = result;
    c_.assign(l.is_in_out ? logical.transposed() : logical, stored);
    run.tau.write(l.kernel.name, values);
  }

  /// The rows of the samples that a plan fits: copied to `room`, or as they are if it fits all.
  host_const_view fitted_rows(const refit_plan& plan, const std::vector<index_t>& offsets,
                              const host_const_view& rows, std::deque<host_matrix>& room) {
    if (plan.folds == 0) return rows;
    const auto height = [&](index_t i) { return offsets[at(i) + 1] - offsets[at(i)]; };
    index_t count = 0;
    for (index_t i = 0; i + 1 < std::ssize(offsets); ++i)
      if (plan.fits(i)) count += height(i);
    const host_view chosen = room.emplace_back(rows.type, count, rows.columns);
    index_t row = 0;
    for (index_t i = 0; i + 1 < std::ssize(offsets); ++i) {
      if (!plan.fits(i)) continue;
      c_.assign(rows.window(offsets[at(i)], height(i), 0, rows.columns),
                chosen.window(row, height(i), 0, rows.columns));
      row += height(i);
    }
    return chosen;
  }

  /// Adds a bias to each row of outputs.
  void add_to_rows(const weight& bias, const host_view& outputs) {
    auto ones = c_.make(scalar_type::f32, outputs.rows, 1);
    c_.map(entry_function::at_least, 1, ones, ones);
    c_.multiply(1, ones, op::none, view_of_rows(bias.data(), outputs.columns, 1), op::transpose, 1,
                outputs);
  }

  const network& net_;
  const checkpoint_set& set_;
  checkpoint_weights base_;
  std::vector<std::unique_ptr<expert_weights>> experts_;
  std::vector<activations> states_;   // of the tasks in their experts
  std::vector<input_rows> features_;  // X_k of the block at work
  executor threads_;
  context<host> c_;
  std::vector<std::string> refitted_;
};

}  // namespace

std::vector<std::string> refit_network(const network& net, const std::vector<activations>& samples,
                                       const refit_plan& plan, merged_vectors& tau,
                                       const executor& threads) {
  tau.scale(plan.gain);
  std::deque<refit_run> runs;
  runs.emplace_back(plan, std::move(tau), joined(samples));
  walk all(net, runs.front().tau.set(), samples, threads);
  all.refit(runs, [](refit_run&, std::size_t) {});
  tau = std::move(runs.front().tau);
  return all.refitted();
}

std::vector<matrix> outputs_of_refits(const network& net, const std::vector<activations>& samples,
                                      const std::vector<refit_plan>& plans,
                                      const merged_vectors& prior, const executor& threads) {
  std::deque<refit_run> runs;
  for (const auto& plan : plans) runs.emplace_back(plan, prior.without_values(), joined(samples));
  walk(net, prior.set(), samples, threads).refit(runs, [&](refit_run& run, std::size_t block) {
    run.tau.erase_if([](const std::string&) { return true; });
    for (const auto& p : net.parameters(block))
      if (prior.has(p.name)) run.tau.take(p.name, run.plan.gain, prior);
  });
  std::vector<matrix> outputs;
  for (auto& run : runs) outputs.push_back(std::move(run.state.hidden));
  return outputs;
}

}  // namespace catmerge::harness

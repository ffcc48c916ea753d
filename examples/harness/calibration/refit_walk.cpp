// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/calibration/refit_walk.hpp>
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

  /// only: records the input of this name alone; empty: of all.
  explicit input_rows(std::string only = {}) : only_(std::move(only)) {}

  bool wants(const std::vector<std::string>& names) override {
    return only_.empty() || std::find(names.begin(), names.end(), only_) != names.end();
  }
  void record(const std::vector<std::string>& names, matrix rows) override {
    inputs_.push_back({names, std::move(rows)});
  }

  const std::vector<input>& inputs() const { return inputs_; }

 private:
  std::string only_;
  std::vector<input> inputs_;
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

class walk {
 public:
  walk(const network& net, const std::vector<activations>& samples, const refit_options& options,
       merged_vectors& tau, const executor& threads)
      : net_(net), options_(options), tau_(tau), merged_(tau), threads_(threads), c_(threads) {
    for (index_t k = 0; k < std::ssize(samples); ++k) {
      experts_.push_back(std::make_unique<expert_weights>(tau.set(), k, 1));
      states_.push_back(samples[static_cast<std::size_t>(k)]);
    }
    state_ = joined(samples);
  }

  std::vector<std::string> run() {
    for (std::size_t block = 0; block < net_.block_count(); ++block) {
      std::vector<input_rows> experts(states_.size());
      threads_(std::ssize(states_), [&](index_t k) {
        const auto i = static_cast<std::size_t>(k);
        net_.run(block, *experts_[i], states_[i], &experts[i], threads_);
      });
      for (std::size_t g = 0; g < experts.front().inputs().size(); ++g) refit(block, g, experts);
      net_.run(block, merged_, state_, nullptr, threads_);
    }
    return std::move(refitted_);
  }

 private:
  /// The matrices of a group that are merged.
  std::vector<parameter> matrices_of(std::size_t block, const std::vector<std::string>& names) {
    std::vector<parameter> found;
    for (const auto& p : net_.parameters(block))
      if (p.shape.size() > 1 && tau_.find(p.name) != nullptr && tau_.is_scaled(p.name) &&
          std::find(names.begin(), names.end(), p.name) != names.end())
        found.push_back(p);
    return found;
  }

  /// Refits the layers of one input. The block runs once more, to this input.
  void refit(std::size_t block, std::size_t group, const std::vector<input_rows>& experts) {
    const auto& names = experts.front().inputs()[group].names;
    const auto layers = matrices_of(block, names);
    if (layers.empty()) return;
    input_rows here(names.front());
    activations copy = state_;
    net_.run(block, merged_, copy, &here, threads_);
    const matrix& inputs = here.inputs().front().rows;
    for (const auto& layer : layers) {
      refit_layer(block, layer, group, experts, inputs);
      refitted_.push_back(layer.name);
    }
  }

  void refit_layer(std::size_t block, const parameter& p, std::size_t group,
                   const std::vector<input_rows>& experts, const matrix& inputs) {
    const bool is_in_out = tau_.set().class_of(p.name).layout == model::matrix_layout::in_out;
    const auto as_map = [&](const float* values) {
      const index_t first = p.shape.front();
      const weight whole(p.shape, values);
      const auto stored = view_of_rows(values, first, first == 0 ? 0 : whole.size() / first);
      return is_in_out ? stored.transposed() : stored;
    };
    const weight base = checkpoint_weights(tau_.set().base_file()).get(p);
    const host_const_view base_map = as_map(base.data());
    const index_t d_out = base_map.rows, d_in = base_map.columns;
    const auto bias = bias_of(p.name, net_.parameters(block));

    refit_problem<context<host>> problem;
    problem.base = base_map;
    problem.name = p.name;
    std::vector<host_matrix> vectors, outputs;  // they own what the problem views
    index_t row = 0;
    for (std::size_t k = 0; k < experts.size(); ++k) {
      const matrix& features = experts[k].inputs()[group].rows;
      const index_t n = features.rows();
      const weight expert = experts_[k]->get(p);
      vectors.emplace_back(scalar_type::f32, d_out, d_in);
      c_.assign(as_map(expert.data()), vectors.back());
      c_.axpy(-1, base_map, vectors.back());
      outputs.emplace_back(scalar_type::f64, n, d_out);
      const auto x = view_of_rows(features.data(), n, d_in);
      c_.multiply(1, x, op::none, as_map(expert.data()), op::transpose, 0, outputs.back());
      if (bias) add_to_rows(experts_[k]->get(*bias), outputs.back());
      problem.vectors.push_back(vectors.back());
      problem.rows.push_back(
          {view_of_rows(inputs.data() + row * d_in, n, d_in), outputs.back(), x});
      row += n;
    }
    weight shift;
    if (bias) {
      shift = merged_.get(*bias);
      problem.bias = view_of_rows(shift.data(), d_out, 1);
    }
    auto& values = *tau_.find(p.name);
    host_matrix result(scalar_type::f32, d_out, d_in);
    problem.prior = as_map(values.data());
    refit_linear(c_, problem, options_, result);
    const host_view stored(values.data(), scalar_type::f32, is_in_out ? d_in : d_out,
                           is_in_out ? d_out : d_in, is_in_out ? d_out : d_in, 1);
    const host_const_view logical = result;
    c_.assign(is_in_out ? logical.transposed() : logical, stored);
  }

  /// Adds a bias to each row of outputs.
  void add_to_rows(const weight& bias, const host_view& outputs) {
    auto ones = c_.make(scalar_type::f32, outputs.rows, 1);
    c_.map(entry_function::at_least, 1, ones, ones);
    c_.multiply(1, ones, op::none, view_of_rows(bias.data(), outputs.columns, 1), op::transpose, 1,
                outputs);
  }

  const network& net_;
  refit_options options_;
  merged_vectors& tau_;
  merged_vectors::network merged_;
  executor threads_;
  context<host> c_;
  std::vector<std::unique_ptr<expert_weights>> experts_;
  std::vector<activations> states_;  // of the tasks in their experts
  activations state_;                // of all tasks in the merged network
  std::vector<std::string> refitted_;
};

}  // namespace

std::vector<std::string> refit_network(const network& net, const std::vector<activations>& samples,
                                       const refit_options& options, merged_vectors& tau,
                                       const executor& threads) {
  return walk(net, samples, options, tau, threads).run();
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <harness/networks/affine.hpp>
#include <harness/networks/bert/bert_config.hpp>
#include <harness/networks/bert/bert_names.hpp>
#include <harness/networks/data/texts.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/network.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// BERT and RoBERTa as transformers computes them (BertModel, RobertaModel), in float32. Blocks:
///
///   0            the sum of a token's three embeddings, and its layer norm
///   1 ... L      encoder layers, norms after the branches
///   L + 1        the first token's row; if the network has a pooler, tanh(pooler(row))
///
/// Output: samples x d: BERT's pooler_output, or the first row of last_hidden_state.
///
/// Recorded: the input of every linear layer and every scale; q, k and v are one group.
class bert : public network {
 public:
  bert(bert_config config, bert_names names)
      : config_(std::move(config)), names_(std::move(names)), shape_{config_.width,
                                                                     config_.mlp_width,
                                                                     config_.heads,
                                                                     config_.mlp_activation,
                                                                     config_.epsilon,
                                                                     norm_place::after} {}

  const bert_config& config() const { return config_; }

  std::size_t block_count() const override { return names_.layers.size() + 2; }
  index_t output_width() const override { return config_.width; }
  output_kind output() const override {
    return pools() ? output_kind::pooled : output_kind::first_token;
  }

  bool first_rows_suffice(const std::string& weight) const override {
    return !names_.layers.empty() && acts_within_tokens(names_.layers.back(), weight);
  }

  std::vector<parameter> parameters(std::size_t block) const override {
    if (block >= 1 && block <= names_.layers.size()) {
      return encoder_parameters(names_.layers[block - 1], shape_);
    }
    std::vector<parameter> list;
    if (block == 0) {
      list = {words(), positions(), types()};
      add_norm(list, names_.embedding_norm, config_.width);
    } else if (pools()) {
      add_linear(list, names_.pooler, config_.width, config_.width);
    }
    return list;
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    text_shape shape;
    shape.words = config_.words;
    shape.positions = config_.positions;
    shape.types = config_.types;
    if (config_.is_roberta) shape.pad = config_.pad;
    return std::make_unique<text_file>(file, shape);
  }

 protected:
  void advance(std::size_t block, const weight_source& weights, activations& state, tape& recorded,
               const executor& threads) const override {
    if (block == 0) {
      embed(weights, state, recorded, threads);
    } else if (block <= names_.layers.size()) {
      run_encoder_layer(names_.layers[block - 1], shape_, weights, state, recorded, threads);
    } else {
      pool(weights, state, recorded, threads);
    }
  }

 private:
  bool pools() const { return !names_.pooler.weight.empty(); }
  parameter words() const { return {names_.words, {config_.words, config_.width}}; }
  parameter positions() const { return {names_.positions, {config_.positions, config_.width}}; }
  parameter types() const { return {names_.types, {config_.types, config_.width}}; }

  void embed(const weight_source& weights, activations& state, tape& recorded,
             const executor& threads) const {
    const weight word_table = weights.get(words());
    const weight position_table = weights.get(positions());
    const weight type_table = weights.get(types());
    const recorded_norm norm(weights, names_.embedding_norm, config_.width, config_.epsilon,
                             state.offsets.back(), recorded);
    state.hidden.resize(state.offsets.back(), config_.width);
    for_chunks(state.offsets, threads, [&](const chunk& samples) {
      matrix x(samples.rows(), config_.width);
      for (index_t i = 0; i < samples.rows(); ++i) {
        const token& t = state.text[static_cast<std::size_t>(samples.row() + i)];
        x.row(i) = word_table.rows().row(t.word) + type_table.rows().row(t.type) +
                   position_table.rows().row(t.position);
      }
      rows_of(state.hidden, samples.row(), samples.rows()) = norm(view(x), samples.row());
    });
    state.text.clear();
  }

  void pool(const weight_source& weights, activations& state, tape& recorded,
            const executor& threads) const {
    const index_t d = config_.width;
    linear pooler;
    std::size_t pooler_in = 0;
    if (pools()) {
      pooler = load_linear(weights, names_.pooler, d, d);
      pooler_in = recorded.expect({names_.pooler.weight}, state.samples(), d);
    }
    matrix output(state.samples(), d);
    for_chunks(state.offsets, threads, [&](const chunk& samples) {
      matrix x = first_rows(state.hidden, samples);
      if (pools()) {
        recorded.put(pooler_in, samples.first, view(x));
        x = pooler(view(x));
        apply_tanh(x);
      }
      rows_of(output, samples.first, samples.count()) = x;
    });
    state.hidden = std::move(output);
    state.offsets = equal_offsets(state.samples(), 1);
  }

  bert_config config_;
  bert_names names_;
  encoder_shape shape_;
};

}  // namespace catmerge::harness

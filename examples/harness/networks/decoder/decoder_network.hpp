// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <harness/networks/affine.hpp>
#include <harness/networks/data/texts.hpp>
#include <harness/networks/decoder/decoder_layer.hpp>
#include <harness/networks/decoder/decoder_shape.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/token_logits.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A decoder language model as transformers computes it, in float32. Blocks:
///
///   0            a token's embedding, plus that of its position if positions are learned
///   1 ... L      layers (decoder_layer.hpp)
///   L + 1        of the tokens whose next token is asked for (activations::asked): the last norm,
///                and a logit for each token of the table
///
/// Output: a row of logits per token that is asked for.
///
/// Recorded: the input of every linear layer and every scale; q, k and v are one group, and gate
/// and up. An output's table that is tied belongs to block 0 and is not recorded.
class decoder : public network {
 public:
  explicit decoder(decoder_plan plan)
      : shape_(std::move(plan.shape)), names_(std::move(plan.names)) {}

  const decoder_shape& shape() const { return shape_; }

  std::size_t block_count() const override { return names_.layers.size() + 2; }
  index_t output_width() const override { return shape_.words; }
  output_kind output() const override { return output_kind::next_token; }

  std::vector<parameter> parameters(std::size_t block) const override {
    if (block >= 1 && block <= names_.layers.size()) {
      return decoder_parameters(names_.layers[block - 1], shape_, shape_.layers[block - 1]);
    }
    std::vector<parameter> list;
    if (block == 0) {
      list.push_back(words());
      if (shape_.places > 0) list.push_back(places());
    } else {
      add_norm(list, names_.norm, shape_.width);
      if (!shape_.tied) list.push_back(head());
    }
    return list;
  }

  bool gets_every_row(const std::string& weight) const override {
    for (std::size_t i = 0; i < names_.layers.size(); ++i) {
      if (shape_.layers[i].feed_forward.experts == 0) continue;
      for (const auto& expert : names_.layers[i].experts) {
        if (weight == expert.out.weight) return false;
        for (const auto& in : expert.in) {
          if (weight == in.weight) return false;
        }
      }
    }
    return true;
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    text_shape shape;
    shape.words = shape_.words;
    shape.positions = shape_.places;
    shape.types = 1;
    shape.causal = true;
    return std::make_unique<text_file>(file, shape);
  }

 protected:
  void advance(std::size_t block, const weight_source& weights, activations& state, tape& recorded,
               const executor& threads) const override {
    if (block == 0) {
      embed(weights, state);
    } else if (block <= names_.layers.size()) {
      run_decoder_layer(names_.layers[block - 1], shape_, shape_.layers[block - 1], weights, state,
                        recorded, threads);
    } else {
      predict_next(weights, state, recorded, threads);
    }
  }

 private:
  parameter words() const { return {names_.words, {shape_.words, shape_.width}}; }
  parameter places() const { return {names_.places, {shape_.places, shape_.width}}; }
  parameter head() const { return {names_.head, {shape_.words, shape_.width}}; }

  void embed(const weight_source& weights, activations& state) const {
    const auto rows_for = [&](const parameter& table, index_t token::*of) {
      std::vector<index_t> which;
      for (const token& t : state.text) which.push_back(t.*of);
      return weights.rows(table, which);
    };
    state.hidden = rows_for(words(), &token::word).rows() * shape_.embedding_scale;
    if (shape_.places > 0) state.hidden += rows_for(places(), &token::position).rows();
    state.text.clear();
  }

  void predict_next(const weight_source& weights, activations& state, tape& recorded,
                    const executor& threads) const {
    const auto offsets = output_offsets(state);
    const index_t count = offsets.back();
    const recorded_norm norm(weights, names_.norm, shape_.width, shape_.epsilon, count, recorded,
                             shape_.norms);
    std::size_t head_in = 0;
    if (!shape_.tied) head_in = recorded.expect({names_.head}, count, shape_.width);
    matrix x(count, shape_.width);
    for_chunks(offsets, threads, [&](const chunk& samples) {
      mutable_view mine = rows_of(x, samples.row(), samples.rows());
      for (index_t i = 0; i < mine.rows(); ++i) {
        mine.row(i) = state.hidden.row(state.asked[static_cast<std::size_t>(samples.row() + i)]);
      }
      mine = norm(as_const(mine), samples.row());
      if (!shape_.tied) recorded.put(head_in, samples.row(), as_const(mine));
    });
    matrix logits;
    if (recorded.wants_output()) {
      const token_output table{shape_.tied ? words() : head(), {}, shape_.output_cap};
      logits = token_logits(x, offsets, table, weights, threads);
    }
    state.hidden = std::move(logits);
    state.offsets = offsets;
    state.asked.clear();
  }

  decoder_shape shape_;
  decoder_names names_;
};

}  // namespace catmerge::harness

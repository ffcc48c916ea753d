// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <harness/networks/affine.hpp>
#include <harness/networks/blip/blip_config.hpp>
#include <harness/networks/blip/blip_names.hpp>
#include <harness/networks/blip/blip_samples.hpp>
#include <harness/networks/blip/text_layer.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/token_logits.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// BLIP (Li et al. 2022, arXiv 2201.12086) as transformers computes it, in float32: a vision
/// transformer, whose rows the text parts attend to.
///
///   BlipForConditionalGeneration   image -> decoder, which writes captions
///   BlipForQuestionAnswering       image -> encoder of the question -> decoder of the answer
///   BlipForImageTextRetrieval      image -> encoder of the text
///
/// The decoder of an answer attends to the question's rows, not to the image's.
///
/// Blocks:
///
///   0              class token and patch embedding, positions
///   1 ... V        vision layers, norms before the branches
///   V + 1          the last vision norm
///   then, of each text part: the embeddings of its tokens and their norm; its layers; of the
///   encoder before a decoder one block more, in which its rows take the place of the image's
///   the last       of a decoder a logit for each token, in the rows that are asked for; for
///                  matching: no match, match (of the first row), and the cosine of the projected
///                  class token and the projected first row of the text alone
///
/// For matching each text runs twice side by side: with the image, and without, as the projections
/// have it. So a sample has its text's rows, and then the same number of rows again.
///
/// Recorded: the input of every linear layer but the patch embedding, and of every scale; q, k and
/// v are one group. The keys and values of a cross attention read the rows of the image, or of the
/// question.
class blip : public network {
 public:
  blip(blip_config config, blip_names names)
      : config_(std::move(config)), names_(std::move(names)) {
    for (std::size_t i = 0; i < names_.vision.size() + 2; ++i) blocks_.push_back({no_part, i});
    for (std::size_t part = 0; part < names_.texts.size(); ++part) {
      encoder_shape shape = config_.text;
      const bool is_last = part + 1 == names_.texts.size();
      shape.is_causal = names_.has_decoder && is_last;
      shape.texts = names_.has_decoder ? 1 : 2;
      text_shapes_.push_back(shape);
      const std::size_t steps = names_.texts[part].layers.size() + (is_last ? 1 : 2);
      for (std::size_t i = 0; i < steps; ++i) blocks_.push_back({part, i});
    }
  }

  const blip_config& config() const { return config_; }

  std::size_t block_count() const override { return blocks_.size() + 1; }
  index_t output_width() const override { return names_.has_decoder ? config_.words : 3; }
  output_kind output() const override {
    return names_.has_decoder ? output_kind::next_token : output_kind::match;
  }

  std::vector<parameter> parameters(std::size_t block) const override {
    std::vector<parameter> list;
    if (block == blocks_.size()) {
      add_output(list);
    } else if (const auto [part, step] = blocks_[block]; part != no_part) {
      const text_part_names& n = names_.texts[part];
      if (step > n.layers.size()) return {};
      if (step > 0)
        return text_layer_parameters(n.layers[step - 1], text_shapes_[part], memory_width(part));
      list = {words(part), places(part)};
      add_norm(list, n.embedding_norm, config_.text.width);
    } else if (step == 0) {
      list = {
          class_embedding(), patches(), positions(), {names_.patches.bias, {config_.vision.width}}};
    } else if (step <= names_.vision.size()) {
      return encoder_parameters(names_.vision[step - 1], config_.vision);
    } else {
      add_norm(list, names_.vision_norm, config_.vision.width);
    }
    return list;
  }

  std::vector<index_t> rows_of_samples(const std::string& weight,
                                       const activations& state) const override {
    std::vector<index_t> offsets = state.offsets;
    for (const auto& part : names_.texts) {
      for (const auto& layer : part.layers) {
        if (weight == layer.key.weight || weight == layer.value.weight) return state.memory_offsets;
        if (weight != layer.query.weight && weight != layer.out.weight) continue;
        for (index_t& offset : offsets) offset /= text_shapes_.front().texts;
      }
    }
    return offsets;
  }

  std::optional<text_writing> writing() const override {
    if (!names_.has_decoder) return std::nullopt;
    return text_writing{block_count() - 2 - names_.texts.back().layers.size(), config_.begin,
                        config_.end, config_.pad, config_.places};
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    const bool has_encoder = !names_.has_decoder || names_.texts.size() > 1;
    return std::make_unique<blip_samples>(file, config_, has_encoder, names_.has_decoder);
  }

 protected:
  void advance(std::size_t block, const weight_source& weights, activations& state, tape& recorded,
               const executor& threads) const override {
    if (block == blocks_.size()) {
      if (names_.has_decoder)
        predict_next(weights, state, recorded, threads);
      else
        match(weights, state, recorded);
      return;
    }
    const auto [part, step] = blocks_[block];
    if (part == no_part) {
      if (step == 0)
        embed_image(weights, state, threads);
      else if (step <= names_.vision.size())
        run_encoder_layer(names_.vision[step - 1], config_.vision, weights, state, recorded,
                          threads);
      else
        finish_image(weights, state, recorded, threads);
      return;
    }
    if (step == 0) return embed_text(part, weights, state, recorded, threads);
    const auto& layers = names_.texts[part].layers;
    if (step > layers.size()) return keep_as_memory(state);
    run_text_layer(layers[step - 1], text_shapes_[part], weights, state, recorded, threads);
  }

 private:
  static constexpr std::size_t no_part = ~std::size_t{0};
  /// A block of the vision transformer (no_part) or of a text part, and its number there.
  struct step_of_part {
    std::size_t part, step;
  };

  parameter class_embedding() const {
    return {names_.class_embedding, {1, 1, config_.vision.width}};
  }
  parameter patches() const {
    const patch_grid& g = config_.grid;
    return {names_.patches.weight, {config_.vision.width, g.channels, g.patch_size, g.patch_size}};
  }
  parameter positions() const {
    return {names_.positions, {1, config_.grid.tokens(), config_.vision.width}};
  }
  parameter words(std::size_t part) const {
    return {names_.texts[part].words, {config_.words, config_.text.width}};
  }
  parameter places(std::size_t part) const {
    return {names_.texts[part].places, {config_.places, config_.text.width}};
  }
  parameter output_table() const {
    return {names_.output_table, {config_.words, config_.text.width}};
  }
  /// The columns of what a text part attends to.
  index_t memory_width(std::size_t part) const {
    return part == 0 ? config_.vision.width : config_.text.width;
  }

  void add_output(std::vector<parameter>& list) const {
    const index_t d = config_.text.width;
    if (names_.has_decoder) {
      add_linear(list, names_.transform, d, d);
      add_norm(list, names_.transform_norm, d);
      if (!names_.tied) list.push_back(output_table());
      list.push_back({names_.output_bias, {config_.words}});
    } else {
      add_linear(list, names_.match, 2, d);
      add_linear(list, names_.image_projection, config_.matching_width, config_.vision.width);
      add_linear(list, names_.text_projection, config_.matching_width, d);
    }
  }

  void embed_image(const weight_source& weights, activations& state,
                   const executor& threads) const {
    const index_t width = config_.vision.width;
    const patch_embedding embedding{
        config_.grid,
        {weights.get(patches()), weights.get({names_.patches.bias, {width}})},
        weights.get(class_embedding()),
        weights.get(positions())};
    auto offsets = equal_offsets(state.samples(), config_.grid.tokens());
    matrix hidden(offsets.back(), width);
    for_chunks(offsets, threads, [&](const chunk& samples) {
      rows_of(hidden, samples.row(), samples.rows()) =
          embedding(state.hidden, samples.first, samples.count());
    });
    state.hidden = std::move(hidden);
    state.offsets = std::move(offsets);
  }

  void finish_image(const weight_source& weights, activations& state, tape& recorded,
                    const executor& threads) const {
    const recorded_norm norm(weights, names_.vision_norm, config_.vision.width,
                             config_.vision.epsilon, state.hidden.rows(), recorded);
    for_chunks(state.offsets, threads, [&](const chunk& samples) {
      mutable_view x = rows_of(state.hidden, samples.row(), samples.rows());
      x = norm(as_const(x), samples.row());
    });
    keep_as_memory(state);
  }

  static void keep_as_memory(activations& state) {
    state.memory = std::move(state.hidden);
    state.memory_offsets = state.offsets;
    state.hidden = {};
  }

  /// The first of the waiting texts becomes rows.
  void embed_text(std::size_t part, const weight_source& weights, activations& state,
                  tape& recorded, const executor& threads) const {
    const sample_texts texts = std::move(state.waiting.front());
    state.waiting.erase(state.waiting.begin());
    const index_t uses = text_shapes_[part].texts, width = config_.text.width;
    state.offsets = texts.offsets;
    for (index_t& offset : state.offsets) offset *= uses;
    std::vector<index_t> word, place;
    for (const token& t : texts.tokens) {
      word.push_back(t.word);
      place.push_back(t.position);
    }
    const weight of_words = weights.rows(words(part), word);
    const weight of_places = weights.rows(places(part), place);
    state.hidden.resize(state.offsets.back(), width);
    const recorded_norm norm(weights, names_.texts[part].embedding_norm, width,
                             config_.text.epsilon, state.hidden.rows(), recorded);
    for_chunks(texts.offsets, threads, [&](const chunk& samples) {
      for (index_t i = 0; i < samples.count(); ++i) {
        const index_t first = samples.offsets[static_cast<std::size_t>(i)];
        const index_t count = samples.offsets[static_cast<std::size_t>(i) + 1] - first;
        const matrix x =
            of_words.rows().middleRows(first, count) + of_places.rows().middleRows(first, count);
        for (index_t use = 0; use < uses; ++use) {
          const index_t at = first * uses + use * count;
          rows_of(state.hidden, at, count) = norm(view(x), at);
        }
      }
    });
  }

  void predict_next(const weight_source& weights, activations& state, tape& recorded,
                    const executor& threads) const {
    const auto offsets = output_offsets(state);
    const index_t count = offsets.back(), width = config_.text.width;
    const linear transform = load_linear(weights, names_.transform, width, width);
    const std::size_t transform_in = recorded.expect({names_.transform.weight}, count, width);
    const recorded_norm norm(weights, names_.transform_norm, width, config_.text.epsilon, count,
                             recorded);
    std::size_t table_in = 0;
    if (!names_.tied) table_in = recorded.expect({names_.output_table}, count, width);
    matrix x(count, width);
    for_chunks(offsets, threads, [&](const chunk& samples) {
      mutable_view mine = rows_of(x, samples.row(), samples.rows());
      for (index_t i = 0; i < mine.rows(); ++i)
        mine.row(i) = state.hidden.row(state.asked[static_cast<std::size_t>(samples.row() + i)]);
      recorded.put(transform_in, samples.row(), as_const(mine));
      matrix y = transform(as_const(mine));
      activate(config_.text.mlp_activation, y);
      mine = norm(view(y), samples.row());
      if (!names_.tied) recorded.put(table_in, samples.row(), as_const(mine));
    });
    matrix logits;
    if (recorded.wants_output()) {
      const token_output table{
          output_table(), weights.get({names_.output_bias, {config_.words}}), {}};
      logits = token_logits(x, offsets, table, weights, threads);
    }
    state.hidden = std::move(logits);
    state.offsets = offsets;
    state.asked.clear();
  }

  void match(const weight_source& weights, activations& state, tape& recorded) const {
    const index_t count = state.samples(), width = config_.text.width;
    const auto apply = [&](const affine_names& n, const matrix& x, index_t out) {
      recorded.put(recorded.expect({n.weight}, count, x.cols()), 0, view(x));
      return load_linear(weights, n, out, x.cols())(view(x));
    };
    matrix with_image(count, width), alone(count, width), images(count, config_.vision.width);
    for (index_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const index_t begin = state.offsets[at], end = state.offsets[at + 1];
      with_image.row(i) = state.hidden.row(begin);
      alone.row(i) = state.hidden.row(begin + (end - begin) / 2);
      images.row(i) = state.memory.row(state.memory_offsets[at]);
    }
    matrix output(count, 3);
    output.leftCols(2) = apply(names_.match, with_image, 2);
    const matrix image = apply(names_.image_projection, images, config_.matching_width);
    const matrix text = apply(names_.text_projection, alone, config_.matching_width);
    for (index_t i = 0; i < count; ++i)
      output(i, 2) = image.row(i).normalized().dot(text.row(i).normalized());
    state.hidden = std::move(output);
    state.offsets = equal_offsets(count, 1);
  }

  blip_config config_;
  blip_names names_;
  std::vector<step_of_part> blocks_;        // all but the last
  std::vector<encoder_shape> text_shapes_;  // of each text part
};

}  // namespace catmerge::harness

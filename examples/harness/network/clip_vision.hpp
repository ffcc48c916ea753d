// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <network/attention.hpp>
#include <network/clip_vision_names.hpp>
#include <network/config.hpp>
#include <network/images.hpp>
#include <network/layers.hpp>
#include <network/network.hpp>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The vision transformer of CLIP, as transformers computes it (CLIPVisionModel,
/// CLIPVisionModelWithProjection), in float32. Blocks:
///
///   0            class token and patch embedding, positions, the first layer norm
///   1 ... L      encoder layers: x += attention(norm(x)), x += mlp(norm(x))
///   L + 1        the last layer norm, of the class token alone, and the projection if there is one
///
/// Output: image_embeds (samples x projection_dim), not normalised; without a projection the pooled
/// output (samples x d).
///
/// Recorded: what enters every linear layer and every scale but the patch embedding: q, k and v as
/// one group.
class clip_vision : public network {
 public:
  clip_vision(clip_vision_config config, clip_vision_names names)
      : config_(std::move(config)), names_(std::move(names)) {}

  const clip_vision_config& config() const { return config_; }

  std::size_t block_count() const override { return names_.layers.size() + 2; }

  index_t output_width() const override {
    return names_.projection.empty() ? config_.width : config_.projection;
  }

  std::vector<parameter> parameters(std::size_t block) const override {
    const clip_vision_config& c = config_;
    std::vector<parameter> list;
    const auto norm = [&](const affine_names& n) {
      list.push_back({n.weight, {c.width}});
      list.push_back({n.bias, {c.width}});
    };
    const auto dense = [&](const affine_names& n, index_t out, index_t in) {
      list.push_back({n.weight, {out, in}});
      list.push_back({n.bias, {out}});
    };
    if (block == 0) {
      list.push_back(class_embedding());
      list.push_back(patch_embedding());
      list.push_back(position_embedding());
      norm(names_.pre_norm);
    } else if (block <= names_.layers.size()) {
      const clip_vision_names::layer& n = names_.layers[block - 1];
      norm(n.norm1);
      for (const affine_names* each : {&n.q, &n.k, &n.v, &n.out}) dense(*each, c.width, c.width);
      norm(n.norm2);
      dense(n.fc1, c.mlp_width, c.width);
      dense(n.fc2, c.width, c.mlp_width);
    } else {
      norm(names_.post_norm);
      if (!names_.projection.empty()) list.push_back(projection());
    }
    return list;
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    return std::make_unique<image_file>(
        file, image_shape{config_.channels, config_.image_size, config_.image_size});
  }

 protected:
  void advance(std::size_t block, const weight_source& weights, activations& state, tape& recorded,
               const executor& threads) const override {
    if (block == 0) {
      embed(weights, state, recorded, threads);
    } else if (block <= names_.layers.size()) {
      encode(names_.layers[block - 1], weights, state, recorded, threads);
    } else {
      pool(weights, state, recorded, threads);
    }
  }

 private:
  parameter class_embedding() const { return {names_.class_embedding, {config_.width}}; }
  parameter patch_embedding() const {
    const index_t p = config_.patch_size;
    return {names_.patch_embedding, {config_.width, config_.channels, p, p}};
  }
  parameter position_embedding() const {
    return {names_.position_embedding, {config_.tokens(), config_.width}};
  }
  parameter projection() const { return {names_.projection, {config_.projection, config_.width}}; }

  layer_norm load_norm(const affine_names& n, const weight_source& from) const {
    return {from.get({n.weight, {config_.width}}), from.get({n.bias, {config_.width}}),
            config_.epsilon};
  }
  static linear load_linear(const affine_names& n, index_t out, index_t in,
                            const weight_source& from) {
    return {from.get({n.weight, {out, in}}), from.get({n.bias, {out}})};
  }

  /// Samples that are computed together. A few hundred rows make products efficient, and more would
  /// not fit a cache; a constant, so that results don't depend on the machine.
  index_t samples_per_chunk() const {
    constexpr index_t rows = 256;
    return std::max(index_t{1}, rows / config_.tokens());
  }

  /// One sample's pixels (c, h, w) -> its patches (grid * grid) x (c * p * p), patches row by row,
  /// columns in the order channel, row, column, as the patch embedding's weights.
  void unfold(const float* pixels, mutable_view patches) const {
    const index_t p = config_.patch_size;
    const index_t side = config_.image_size;
    const index_t grid = config_.grid();
    for (index_t patch = 0; patch < grid * grid; ++patch) {
      float* to = patches.row(patch).data();
      const float* const corner = pixels + patch / grid * p * side + patch % grid * p;
      for (index_t channel = 0; channel < config_.channels; ++channel) {
        for (index_t row = 0; row < p; ++row, to += p) {
          std::copy_n(corner + (channel * side + row) * side, p, to);
        }
      }
    }
  }

  void embed(const weight_source& weights, activations& state, tape& recorded,
             const executor& threads) const {
    const linear patches_in{weights.get(patch_embedding()), {}};
    const weight class_token = weights.get(class_embedding());
    const weight positions = weights.get(position_embedding());
    const layer_norm norm = load_norm(names_.pre_norm, weights);

    const index_t tokens = config_.tokens();
    const index_t patches = tokens - 1;
    matrix hidden(state.samples * tokens, config_.width);
    const std::size_t norm_in =
        recorded.expect({names_.pre_norm.weight}, hidden.rows(), config_.width);
    for_chunks(state.samples, samples_per_chunk(), threads, [&](index_t first, index_t count) {
      matrix unfolded(count * patches, config_.pixels() / patches);
      for (index_t i = 0; i < count; ++i) {
        unfold(state.hidden.row(first + i).data(), rows_of(unfolded, i * patches, patches));
      }
      const matrix embedded = patches_in(view(unfolded));
      matrix x(count * tokens, config_.width);
      for (index_t i = 0; i < count; ++i) {
        mutable_view sample = rows_of(x, i * tokens, tokens);
        sample.row(0) = class_token.vector();
        sample.bottomRows(patches) = rows_of(embedded, i * patches, patches);
        sample += positions.rows();
      }
      x = norm.normalise(view(x));
      recorded.put(norm_in, first * tokens, x);
      norm.scale_and_shift(x);
      rows_of(hidden, first * tokens, count * tokens) = x;
    });
    state.hidden = std::move(hidden);
    state.tokens = tokens;
  }

  void encode(const clip_vision_names::layer& names, const weight_source& weights,
              activations& state, tape& recorded, const executor& threads) const {
    const index_t d = config_.width;
    const layer_norm norm1 = load_norm(names.norm1, weights);
    const linear q = load_linear(names.q, d, d, weights);
    const linear k = load_linear(names.k, d, d, weights);
    const linear v = load_linear(names.v, d, d, weights);
    const linear out = load_linear(names.out, d, d, weights);
    const layer_norm norm2 = load_norm(names.norm2, weights);
    const linear fc1 = load_linear(names.fc1, config_.mlp_width, d, weights);
    const linear fc2 = load_linear(names.fc2, d, config_.mlp_width, weights);

    const index_t rows = state.hidden.rows();
    const std::size_t norm1_in = recorded.expect({names.norm1.weight}, rows, d);
    const std::size_t qkv_in =
        recorded.expect({names.q.weight, names.k.weight, names.v.weight}, rows, d);
    const std::size_t out_in = recorded.expect({names.out.weight}, rows, d);
    const std::size_t norm2_in = recorded.expect({names.norm2.weight}, rows, d);
    const std::size_t fc1_in = recorded.expect({names.fc1.weight}, rows, d);
    const std::size_t fc2_in = recorded.expect({names.fc2.weight}, rows, config_.mlp_width);

    const index_t tokens = state.tokens;
    for_chunks(state.samples, samples_per_chunk(), threads, [&](index_t first, index_t count) {
      const index_t row = first * tokens;
      mutable_view hidden = rows_of(state.hidden, row, count * tokens);

      matrix x = norm1.normalise(as_const(hidden));
      recorded.put(norm1_in, row, x);
      norm1.scale_and_shift(x);
      recorded.put(qkv_in, row, x);
      matrix queries = q(view(x));
      const matrix mixed = attend(queries, k(view(x)), v(view(x)), tokens, config_.heads);
      recorded.put(out_in, row, mixed);
      hidden += out(view(mixed));

      x = norm2.normalise(as_const(hidden));
      recorded.put(norm2_in, row, x);
      norm2.scale_and_shift(x);
      recorded.put(fc1_in, row, x);
      matrix inner = fc1(view(x));
      activate(config_.mlp_activation, inner);
      recorded.put(fc2_in, row, inner);
      hidden += fc2(view(inner));
    });
  }

  void pool(const weight_source& weights, activations& state, tape& recorded,
            const executor& threads) const {
    const layer_norm norm = load_norm(names_.post_norm, weights);
    const bool projects = !names_.projection.empty();
    linear project;
    if (projects) project.kernel = weights.get(projection());

    const index_t d = config_.width;
    const std::size_t norm_in = recorded.expect({names_.post_norm.weight}, state.samples, d);
    const std::size_t project_in =
        projects ? recorded.expect({names_.projection}, state.samples, d) : 0;
    matrix output(state.samples, output_width());
    for_chunks(state.samples, samples_per_chunk(), threads, [&](index_t first, index_t count) {
      matrix x(count, d);
      for (index_t i = 0; i < count; ++i) x.row(i) = state.hidden.row((first + i) * state.tokens);
      x = norm.normalise(view(x));
      recorded.put(norm_in, first, x);
      norm.scale_and_shift(x);
      if (projects) {
        recorded.put(project_in, first, x);
        x = project(view(x));
      }
      rows_of(output, first, count) = x;
    });
    state.hidden = std::move(output);
    state.tokens = 1;
  }

  static matrix_view as_const(const mutable_view& x) { return {x.data(), x.rows(), x.cols()}; }

  clip_vision_config config_;
  clip_vision_names names_;
};

/// The network of a checkpoint (the base or any expert: they share names) and its config.json.
inline std::unique_ptr<clip_vision> open_clip_vision(const io::checkpoint& checkpoint,
                                                     const std::filesystem::path& config_file) {
  clip_vision_config config = read_clip_vision_config(config_file);
  clip_vision_names names = hugging_face_names(checkpoint.names(), config, checkpoint.path());
  return std::make_unique<clip_vision>(std::move(config), std::move(names));
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <cstddef>
#include <filesystem>
#include <harness/networks/affine.hpp>
#include <harness/networks/clip/clip_vision_config.hpp>
#include <harness/networks/clip/clip_vision_names.hpp>
#include <harness/networks/data/images.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/patches.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The vision transformer of CLIP, as transformers (CLIPVisionModel, CLIPVisionModelWithProjection)
/// and OpenCLIP compute it, in float32. Blocks:
///
///   0            class token and patch embedding, positions, the first layer norm
///   1 ... L      encoder layers, norms before the branches
///   L + 1        the last layer norm, of the class token alone, and the projection if there is one
///
/// Output: image_embeds (samples x projection_dim), not normalised; without a projection the pooled
/// output (samples x d).
///
/// Recorded: the input of every scale and of every linear layer but the patch embedding; q, k and v
/// are one group.
class clip_vision : public network {
 public:
  clip_vision(clip_vision_config config, clip_vision_names names)
      : config_(std::move(config)), names_(std::move(names)), shape_{config_.width,
                                                                     config_.mlp_width,
                                                                     config_.heads,
                                                                     config_.mlp_activation,
                                                                     config_.epsilon,
                                                                     norm_place::before} {}

  const clip_vision_config& config() const { return config_; }

  std::size_t block_count() const override { return names_.layers.size() + 2; }

  index_t output_width() const override {
    return names_.projection.empty() ? config_.width : config_.projection;
  }

  output_kind output() const override { return output_kind::embedding; }

  bool first_rows_suffice(const std::string& weight) const override {
    return !names_.layers.empty() && acts_within_tokens(names_.layers.back(), weight);
  }

  std::vector<parameter> parameters(std::size_t block) const override {
    if (block >= 1 && block <= names_.layers.size()) {
      return encoder_parameters(names_.layers[block - 1], shape_);
    }
    std::vector<parameter> list;
    if (block == 0) {
      list = {class_embedding(), patches(), positions()};
      add_norm(list, names_.pre_norm, config_.width);
    } else {
      add_norm(list, names_.post_norm, config_.width);
      if (!names_.projection.empty()) list.push_back(projection());
    }
    return list;
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    return std::make_unique<image_file>(
        file, image_shape{config_.grid.channels, config_.grid.image_size, config_.grid.image_size});
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
  parameter class_embedding() const { return {names_.class_embedding, {config_.width}}; }
  parameter patches() const {
    const index_t p = config_.grid.patch_size;
    return {names_.patch_embedding, {config_.width, config_.grid.channels, p, p}};
  }
  parameter positions() const {
    return {names_.position_embedding, {config_.grid.tokens(), config_.width}};
  }
  parameter projection() const {
    parameter p{names_.projection, {config_.projection, config_.width}};
    if (names_.projection_is_in_out) std::swap(p.shape[0], p.shape[1]);
    return p;
  }

  void embed(const weight_source& weights, activations& state, tape& recorded,
             const executor& threads) const {
    const patch_embedding embedding{config_.grid,
                                    {weights.get(patches()), {}},
                                    weights.get(class_embedding()),
                                    weights.get(positions())};
    const index_t tokens = config_.grid.tokens();
    const index_t rows = state.samples() * tokens;
    const recorded_norm norm(weights, names_.pre_norm, config_.width, config_.epsilon, rows,
                             recorded);
    std::vector<index_t> offsets = equal_offsets(state.samples(), tokens);
    matrix hidden(rows, config_.width);
    for_chunks(offsets, threads, [&](const chunk& samples) {
      const matrix x = embedding(state.hidden, samples.first, samples.count());
      rows_of(hidden, samples.row(), samples.rows()) = norm(view(x), samples.row());
    });
    state.hidden = std::move(hidden);
    state.offsets = std::move(offsets);
  }

  void pool(const weight_source& weights, activations& state, tape& recorded,
            const executor& threads) const {
    const index_t count = state.samples();
    const recorded_norm norm(weights, names_.post_norm, config_.width, config_.epsilon, count,
                             recorded);
    const bool projects = !names_.projection.empty();
    linear project;
    std::size_t project_in = 0;
    if (projects) {
      project.kernel = weights.get(projection());
      if (names_.projection_is_in_out) project.kernel = project.kernel.transposed();
      project_in = recorded.expect({names_.projection}, count, config_.width);
    }
    matrix output(count, output_width());
    for_chunks(state.offsets, threads, [&](const chunk& samples) {
      matrix x = norm(view(first_rows(state.hidden, samples)), samples.first);
      if (projects) {
        recorded.put(project_in, samples.first, view(x));
        x = project(view(x));
      }
      rows_of(output, samples.first, samples.count()) = x;
    });
    state.hidden = std::move(output);
    state.offsets = equal_offsets(count, 1);
  }

  clip_vision_config config_;
  clip_vision_names names_;
  encoder_shape shape_;
};

}  // namespace catmerge::harness

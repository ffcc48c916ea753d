// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <cstddef>
#include <filesystem>
#include <harness/networks/affine.hpp>
#include <harness/networks/convnet/convnet_config.hpp>
#include <harness/networks/data/images.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/parameter_names.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The names of the parameters of a convolutional network in one checkpoint.
struct convnet_names {
  struct stage {
    affine_names conv, norm;
  };
  std::vector<stage> stages;
  std::string projection;
};

/// The names of examples/families/convnet, `convnet.stages.0.conv.weight` and so on, after any
/// prefix, which is found by the projection's name. `names`: all tensors of the checkpoint. Throws
/// catmerge::error naming `file`.
inline convnet_names find_convnet_names(const std::vector<std::string>& names,
                                        const convnet_config& config,
                                        const std::filesystem::path& file) {
  const std::string projection = "convnet.projection.weight";
  const auto prefix = prefix_before(names, projection, "projection of a convnet", file);
  if (!prefix) {
    io::fail(file,
             "not a catmerge_convnet: no tensor's name ends with " + io::in_quotes(projection));
  }
  const std::string stages = *prefix + "convnet.stages.";
  const index_t depth = std::ssize(config.stages);
  check_depth(names, stages, depth, "channels in " + config.file.string(), file);
  convnet_names n;
  for (index_t i = 0; i < depth; ++i) {
    const std::string at = stages + std::to_string(i);
    n.stages.push_back({affine(at + ".conv"), affine(at + ".norm")});
  }
  n.projection = *prefix + projection;
  return n;
}

/// The offset in memory of channel c at (row, column): channel by channel in files of images, all
/// channels of a position in one row in activations.
struct pixel_strides {
  index_t channel, row, column;
};

/// Unfolds one sample into its patches: side * side rows, position by position; columns in the
/// order channel, row, column, as in a convolution's weights; zeros outside the image.
inline void unfold(const convnet_stage& s, const float* image, const pixel_strides& at,
                   mutable_view patches) {
  for (index_t position = 0; position < s.side * s.side; ++position) {
    float* to = patches.row(position).data();
    const index_t top = position / s.side * s.stride - 1;
    const index_t left = position % s.side * s.stride - 1;
    for (index_t channel = 0; channel < s.inputs; ++channel) {
      for (index_t y = top; y < top + 3; ++y) {
        for (index_t x = left; x < left + 3; ++x) {
          const bool inside = y >= 0 && y < s.side_in && x >= 0 && x < s.side_in;
          *to++ = inside ? image[channel * at.channel + y * at.row + x * at.column] : 0.0F;
        }
      }
    }
  }
}

/// The convolutional network of examples/families/convnet, in float32. Blocks:
///
///   0 ... S - 1   stages: a 3 x 3 convolution, a layer norm of each position's channels, ReLU
///   S             the mean over positions, and the projection
///
/// Between blocks there is a row per position, in the order sample, row, column. Output:
/// samples x projection_dim, an embedding, not normalised.
///
/// Recorded: the input of every convolution (patches, see unfold), of every scale and of the
/// projection.
class convnet : public network {
 public:
  convnet(convnet_config config, convnet_names names)
      : config_(std::move(config)), names_(std::move(names)) {}

  std::size_t block_count() const override { return config_.stages.size() + 1; }
  index_t output_width() const override { return config_.projection; }
  output_kind output() const override { return output_kind::embedding; }

  std::vector<parameter> parameters(std::size_t block) const override {
    if (block == config_.stages.size()) return {projection()};
    std::vector<parameter> list = {kernel(block)};
    list.push_back({names_.stages[block].conv.bias, {config_.stages[block].channels}});
    add_norm(list, names_.stages[block].norm, config_.stages[block].channels);
    return list;
  }

  std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const override {
    return std::make_unique<image_file>(
        file, image_shape{config_.channels, config_.image_size, config_.image_size});
  }

 protected:
  void advance(std::size_t block, const weight_source& weights, activations& state, tape& recorded,
               const executor& threads) const override {
    if (block == config_.stages.size()) {
      pool(weights, state, recorded, threads);
    } else {
      run_stage(block, weights, state, recorded, threads);
    }
  }

 private:
  parameter kernel(std::size_t stage) const {
    const convnet_stage& s = config_.stages[stage];
    return {names_.stages[stage].conv.weight, {s.channels, s.inputs, 3, 3}};
  }
  parameter projection() const {
    return {names_.projection, {config_.projection, config_.stages.back().channels}};
  }

  void run_stage(std::size_t stage, const weight_source& weights, activations& state,
                 tape& recorded, const executor& threads) const {
    const convnet_stage& s = config_.stages[stage];
    const convnet_names::stage& n = names_.stages[stage];
    const index_t in = s.side_in;
    const pixel_strides at =
        stage == 0 ? pixel_strides{in * in, in, 1} : pixel_strides{1, in * s.inputs, s.inputs};
    const index_t positions = s.side * s.side;
    const index_t patch = 9 * s.inputs;
    const index_t rows = state.samples() * positions;
    const linear conv{weights.get(kernel(stage)), weights.get({n.conv.bias, {s.channels}})};
    const std::size_t conv_in = recorded.expect({n.conv.weight}, rows, patch);
    const recorded_norm norm(weights, n.norm, s.channels, config_.epsilon, rows, recorded);

    std::vector<index_t> offsets = equal_offsets(state.samples(), positions);
    matrix hidden(rows, s.channels);
    const float* const images = state.hidden.data();
    for_chunks(offsets, threads, [&](const chunk& samples) {
      matrix patches(samples.rows(), patch);
      for (index_t i = 0; i < samples.count(); ++i) {
        unfold(s, images + (samples.first + i) * in * in * s.inputs, at,
               rows_of(patches, i * positions, positions));
      }
      recorded.put(conv_in, samples.row(), view(patches));
      const matrix x = norm(view(conv(view(patches))), samples.row());
      // ReLU; NaN is not below zero and stays.
      rows_of(hidden, samples.row(), samples.rows()) =
          x.unaryExpr([](float v) { return v < 0.0F ? 0.0F : v; });
    });
    state.hidden = std::move(hidden);
    state.offsets = std::move(offsets);
  }

  void pool(const weight_source& weights, activations& state, tape& recorded,
            const executor& threads) const {
    const index_t count = state.samples();
    const index_t width = config_.stages.back().channels;
    const linear project{weights.get(projection()), {}};
    const std::size_t project_in = recorded.expect({names_.projection}, count, width);
    matrix output(count, config_.projection);
    for_chunks(state.offsets, threads, [&](const chunk& samples) {
      matrix x(samples.count(), width);
      for (index_t i = 0; i < samples.count(); ++i) {
        const index_t first = samples.offsets[static_cast<std::size_t>(i)];
        const index_t next = samples.offsets[static_cast<std::size_t>(i) + 1];
        x.row(i) = rows_of(state.hidden, first, next - first).colwise().mean();
      }
      recorded.put(project_in, samples.first, view(x));
      rows_of(output, samples.first, samples.count()) = project(view(x));
    });
    state.hidden = std::move(output);
    state.offsets = equal_offsets(count, 1);
  }

  convnet_config config_;
  convnet_names names_;
};

}  // namespace catmerge::harness

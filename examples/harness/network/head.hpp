// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <filesystem>
#include <network/checkpoint_weights.hpp>
#include <network/layers.hpp>
#include <network/matrix.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The classes of a task, as the rows of a matrix that image embeddings are compared with (CLIP:
/// the normalised text embeddings).
class classification_head {
 public:
  /// Reads `weight` (classes x width) and, if there is one, `bias` (classes). `width`: of the
  /// embeddings that this head is for. Throws catmerge::error naming the file and the tensor.
  classification_head(const std::filesystem::path& path, index_t width) {
    const io::safetensors_file file(path);
    const io::tensor_entry& weights = file.at("weight");
    if (weights.shape.size() != 2 || weights.shape[0] < 1 || weights.shape[1] != width) {
      io::fail(path, weights.name,
               "expected shape [classes, " + std::to_string(width) +
                   "], the width of the network's output, found " + io::describe(weights));
    }
    const index_t classes = weights.shape.front();
    layer_.kernel = read(file, {"weight", {classes, width}});
    if (file.find("bias") != nullptr) layer_.bias = read(file, {"bias", {classes}});
  }

  index_t classes() const { return layer_.kernel.shape().front(); }

  /// normalise(embeddings) weight^T + bias, rows normalised to length 1 (a row of zeros stays).
  /// embeddings: n x width; returns n x classes.
  matrix logits(const matrix_view& embeddings) const {
    matrix unit = embeddings;
    for (index_t i = 0; i < unit.rows(); ++i) unit.row(i).normalize();
    return layer_(view(unit));
  }

 private:
  /// A copy, so that the file can be closed.
  static weight read(const io::safetensors_file& file, const parameter& p) {
    const weight values = checkpoint_weights(file).get(p);
    return {p.shape, std::vector<float>(values.data(), values.data() + values.size())};
  }

  linear layer_;
};

/// The class of the largest logit of each row; the first of equals.
inline std::vector<index_t> top1(const matrix_view& logits) {
  std::vector<index_t> classes(static_cast<std::size_t>(logits.rows()));
  for (index_t i = 0; i < logits.rows(); ++i) {
    logits.row(i).maxCoeff(&classes[static_cast<std::size_t>(i)]);
  }
  return classes;
}

}  // namespace catmerge::harness

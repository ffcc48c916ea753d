// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <harness/networks/activations.hpp>
#include <harness/networks/config_object.hpp>
#include <harness/networks/layers.hpp>
#include <string>

/// The first layer of vision transformers: an image becomes a row per patch.
namespace catmerge::harness {

/// Square images, cut into square patches.
struct patch_grid {
  index_t channels = 0;
  index_t image_size = 0;  ///< pixels along each side
  index_t patch_size = 0;  ///< divides image_size

  index_t side() const { return image_size / patch_size; }  ///< patches along each side
  index_t patches() const { return side() * side(); }
  index_t tokens() const { return patches() + 1; }  ///< with the class token
  index_t pixels() const { return channels * image_size * image_size; }

  /// Unfolds one image (c, h, w) into its patches, patches x (c * p * p): patches row by row,
  /// columns in the order channel, row, column, as in the weights of a patch embedding.
  void unfold(const float* image, mutable_view to) const {
    for (index_t patch = 0; patch < patches(); ++patch) {
      float* at = to.row(patch).data();
      const float* const corner =
          image + patch / side() * patch_size * image_size + patch % side() * patch_size;
      for (index_t channel = 0; channel < channels; ++channel) {
        for (index_t row = 0; row < patch_size; ++row, at += patch_size) {
          std::copy_n(corner + (channel * image_size + row) * image_size, patch_size, at);
        }
      }
    }
  }
};

/// Refuses patches that do not cover the image: libraries drop the pixels left over.
inline void check_patches(const patch_grid& grid, const config_object& at) {
  if (grid.image_size % grid.patch_size == 0) return;
  at.fail("patch_size", "patches of " + std::to_string(grid.patch_size) +
                            " pixels do not divide image_size " + std::to_string(grid.image_size));
}

/// The class token and the embedded patches, plus their positions.
struct patch_embedding {
  patch_grid grid;
  linear patches;      ///< d x (c * p * p)
  weight class_token;  ///< d values
  weight positions;    ///< tokens x d values, whatever their shape

  /// images: a row of pixels per sample of the batch. Returns tokens() rows for each of the chunk.
  matrix operator()(const matrix& images, index_t first, index_t count) const {
    matrix unfolded(count * grid.patches(), grid.pixels() / grid.patches());
    for (index_t i = 0; i < count; ++i) {
      grid.unfold(images.row(first + i).data(),
                  rows_of(unfolded, i * grid.patches(), grid.patches()));
    }
    const matrix embedded = patches(view(unfolded));
    const matrix_view places(positions.data(), grid.tokens(), class_token.size());
    matrix x(count * grid.tokens(), class_token.size());
    for (index_t i = 0; i < count; ++i) {
      mutable_view sample = rows_of(x, i * grid.tokens(), grid.tokens());
      sample.row(0) = class_token.vector();
      sample.bottomRows(grid.patches()) = rows_of(embedded, i * grid.patches(), grid.patches());
      sample += places;
    }
    return x;
  }
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/merge/source.hpp>
#include <catmerge/model/layer_of.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The parameters of a merge in groups that share an input: whole tensors, each matrix or vector of
/// a stack ("experts.w1[3]"), and large tables in pieces of rows ("table[0:4096]"), so that one
/// piece is in memory at a time.
class parameter_pieces {
 public:
  /// Rows first ... first + count - 1 of a tensor, as a matrix of extents_of.
  struct piece {
    std::string tensor;
    index_t first = 0, count = 0;
  };

  /// Adds a tensor, whose name, type and shape are those of the base, to the current group, or a
  /// group for each of its parts. cut: the tables that may come in pieces.
  void add(const io::tensor_info& tensor, const model::classification& c, tables_in_pieces cut) {
    const bool transposed = c.layout == model::matrix_layout::in_out && is_matrix_kind(c.kind) &&
                            (!c.stacked || comes_apart(c));
    const parameter_info whole{tensor.name, layer_of(c), c.parts, transposed};
    const bool may_be_cut =
        cut == tables_in_pieces::all ||
        (cut == tables_in_pieces::tokens && c.kind == model::parameter_kind::token_table);
    if (comes_apart(c))
      add_stack(whole, tensor, c);
    else if (may_be_cut && whole.kind == layer_kind::other && !transposed)
      add_table(whole, tensor, c);
    else
      current_.push_back(whole);
  }

  /// Ends the current group, if it has a parameter.
  void end_group() {
    if (!current_.empty()) groups_.push_back(std::move(current_));
    current_.clear();
  }

  const std::vector<parameter_group>& groups() const { return groups_; }
  std::vector<parameter_group>& groups() { return groups_; }

  /// The tensor and rows of a parameter that is a part of a tensor; null for a whole tensor.
  const piece* find(const std::string& parameter) const {
    const auto found = pieces_.find(parameter);
    return found == pieces_.end() ? nullptr : &found->second;
  }

  /// The name of the tensor of a parameter or a piece.
  const std::string& tensor_of(const std::string& parameter) const {
    const auto* const part = find(parameter);
    return part == nullptr ? parameter : part->tensor;
  }

 private:
  void add_stack(const parameter_info& whole, const io::tensor_info& tensor,
                 const model::classification& c) {
    const index_t count = tensor.shape.front();
    const index_t height = count == 0 ? 0 : extents_of(tensor.shape, c).first / count;
    for (index_t e = 0; e < count; ++e) {
      parameter_info one = whole;
      one.name += "[" + std::to_string(e) + "]";
      pieces_.emplace(one.name, piece{whole.name, e * height, height});
      groups_.push_back({one});
    }
  }

  /// Pieces of at most 8 MiB of the base. (With eight experts, 72 MiB of files at a time, as much
  /// as an attention's weights.)
  void add_table(const parameter_info& whole, const io::tensor_info& tensor,
                 const model::classification& c) {
    constexpr index_t most = index_t{8} << 20;
    const auto [height, width] = extents_of(tensor.shape, c);
    const index_t row = width * static_cast<index_t>(io::size_of(tensor.type));
    if (row * height <= most || height < 2) {
      groups_.push_back({whole});
      return;
    }
    const index_t rows = std::max<index_t>(1, most / row);
    for (index_t first = 0; first < height; first += rows) {
      const index_t count = std::min(rows, height - first);
      parameter_info part = whole;
      part.name += "[" + std::to_string(first) + ":" + std::to_string(first + count) + "]";
      part.whole = whole.name;
      part.first_row = first;
      pieces_.emplace(part.name, piece{whole.name, first, count});
      groups_.push_back({part});
    }
  }

  std::unordered_map<std::string, piece> pieces_;
  std::vector<parameter_group> groups_;
  parameter_group current_;
};

}  // namespace catmerge::harness

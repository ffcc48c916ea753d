// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// An expert's parameters in the shapes of the base. Missing tensors, and missing rows of a resized
/// table, are the base's, as in the merge (checkpoint_set::expert_entry).
class fitted_weights final : public weight_source {
 public:
  /// `set` must outlive this object.
  fitted_weights(const checkpoint_set& set, index_t k)
      : base_(set.base_file()),
        expert_(set.expert_file(k),
                [&set, k](const auto& name) { return set.expert_entry(k, name); }),
        factors_(set.factors(k)) {}

  void check(const parameter& wanted) const override { base_.check(wanted); }

  weight get(const parameter& wanted) const override {
    const auto* const entry = expert_.find(wanted.name);
    if (entry == nullptr) return base_.get(wanted);
    weight expert = expert_.get({wanted.name, entry->shape});
    if (factors_.adds_to(*entry)) expert = with_factors(*entry, expert);
    if (entry->shape == wanted.shape) return expert;
    const weight base = base_.get(wanted);
    std::vector<float> values(base.data(), base.data() + base.size());
    std::copy_n(expert.data(), std::min(base.size(), expert.size()), values.begin());
    return {wanted.shape, std::move(values)};
  }

  weight rows(const parameter& wanted, const std::vector<index_t>& which) const override {
    const auto* const entry = expert_.find(wanted.name);
    if (entry == nullptr) return base_.rows(wanted, which);
    if (entry->shape == wanted.shape && !factors_.adds_to(*entry))
      return expert_.rows(wanted, which);
    return rows_of_whole(get(wanted), which);
  }

  void release(const parameter& used) const override {
    base_.release(used);
    expert_.release(used);
  }

 private:
  weight with_factors(const io::tensor_entry& entry, const weight& stored) const {
    std::vector<float> values(stored.data(), stored.data() + stored.size());
    const auto [rows, columns] = matrix_extents(entry.shape);
    factors_.add(entry, 0, {values.data(), scalar_type::f32, rows, columns, columns, 1});
    return {entry.shape, std::move(values)};
  }

  checkpoint_weights base_, expert_;
  const expert_factors& factors_;
};

/// theta_0 + a (theta_k - theta_0); a = 1 is the expert itself.
class expert_weights final : public weight_source {
 public:
  expert_weights(const checkpoint_set& set, index_t k, double coefficient)
      : base_(set.base_file()),
        expert_(set, k),
        mixed_(base_, expert_, coefficient),
        mixes_(coefficient != 1) {}
  void check(const parameter& wanted) const override { source().check(wanted); }
  weight get(const parameter& wanted) const override { return source().get(wanted); }
  weight rows(const parameter& wanted, const std::vector<index_t>& which) const override {
    return source().rows(wanted, which);
  }
  void release(const parameter& used) const override { source().release(used); }

 private:
  const weight_source& source() const {
    if (mixes_) return mixed_;
    return expert_;
  }
  checkpoint_weights base_;
  fitted_weights expert_;
  mixed_weights mixed_;
  bool mixes_;
};

}  // namespace catmerge::harness

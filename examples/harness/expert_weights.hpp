// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <harness/checkpoint_set.hpp>
#include <network/checkpoint_weights.hpp>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// An expert's parameters in the shapes of the base: what the expert lacks, tensors or rows of a
/// resized table, is the base's (as checkpoint_set::expert has it for the merge).
class fitted_weights final : public weight_source {
 public:
  fitted_weights(const io::checkpoint& base, const io::checkpoint& expert)
      : expert_file_(expert), base_(base), expert_(expert) {}

  void check(const parameter& wanted) const override {
    base_.check(wanted);
    if (has(wanted)) expert_.check(wanted);
  }

  weight get(const parameter& wanted) const override {
    if (has(wanted)) return expert_.get(wanted);
    const weight under = base_.get(wanted);
    const auto* entry = expert_file_.find(wanted.name);
    // Another height is a resized table; any other shape is what is left out of the merge, and the
    // expert's own network has no use for the base's.
    if (entry == nullptr || entry->shape.size() != wanted.shape.size() || entry->shape.empty() ||
        !std::equal(entry->shape.begin() + 1, entry->shape.end(), wanted.shape.begin() + 1))
      return under;
    const weight top = expert_.get({wanted.name, entry->shape});
    std::vector<float> values(under.data(), under.data() + under.size());
    std::copy_n(top.data(), std::min(under.size(), top.size()), values.begin());
    return {wanted.shape, std::move(values)};
  }

 private:
  /// Whether the expert's own tensor is what the network wants.
  bool has(const parameter& wanted) const {
    const auto* entry = expert_file_.find(wanted.name);
    return entry != nullptr && entry->shape == wanted.shape;
  }

  const io::checkpoint& expert_file_;
  checkpoint_weights base_, expert_;
};

/// theta_0 + a (theta_k - theta_0), where a = 1 is the expert itself.
class expert_weights final : public weight_source {
 public:
  expert_weights(const io::checkpoint& base, const io::checkpoint& expert, double coefficient)
      : base_(base),
        expert_(base, expert),
        mixed_(base_, expert_, coefficient),
        mixes_(coefficient != 1) {}
  void check(const parameter& wanted) const override { source().check(wanted); }
  weight get(const parameter& wanted) const override { return source().get(wanted); }

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

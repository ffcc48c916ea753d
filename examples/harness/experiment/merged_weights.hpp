// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/stream.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// Merged networks in memory, to run them without writing files.
namespace catmerge::harness {

/// A method that returns tau, the merged task vector without its factor, in place of a merged
/// parameter. One tau gives the networks of all alphas. (merge gets `tau` filled with zeros.)
struct tau_of {
  any_method method;

  any_method& wrapped() { return method; }
  const any_method& wrapped() const { return method; }

  layer_report merge(context<host>& c, const host_problem& p, host_view tau) const {
    layer_report report;
    auto vectors = form_vectors(c, p);
    const auto views = views_of<context<host>>(vectors);
    method.combine(c, p, views, tau, report);
    return report;
  }
};

/// The merged task vectors, tau, from merge_stream: by tensor name, in float32, as the base's file
/// stores them.
class merged_vectors {
 public:
  /// `set` must outlive this object.
  explicit merged_vectors(const checkpoint_set& set) : set_(&set) {}

  void put(const parameter_info& p, host_matrix tau) {
    const auto part = set_->piece_of(p);
    const auto count = *io::element_count(set_->base_file().at(part.tensor).shape);
    const index_t columns = set_->stored_extents(p).second;
    const index_t rows = columns == 0 ? 0 : static_cast<index_t>(count) / columns;
    auto& values = values_[part.tensor];
    values.resize(count);
    const host_const_view logical = tau;
    const host_const_view stored = p.transposed ? logical.transposed() : logical;
    context<host> c;
    const host_view whole(values.data(), scalar_type::f32, rows, columns, columns, 1);
    c.assign(stored, whole.window(part.first, stored.rows, 0, columns));
  }

  /// theta_0 + alpha tau, as a source of weights for networks; other parameters are the base's.
  class network;

  const std::vector<float>* find(const std::string& name) const {
    const auto tied = set_->tied().find(name);
    const auto found = values_.find(tied == set_->tied().end() ? name : tied->second);
    return found == values_.end() ? nullptr : &found->second;
  }
  const checkpoint_set& set() const { return *set_; }

 private:
  const checkpoint_set* set_;
  std::map<std::string, std::vector<float>> values_;
};

class merged_vectors::network final : public weight_source {
 public:
  /// `tau` must outlive this object.
  network(const merged_vectors& tau, double alpha)
      : tau_(tau), base_(tau.set().base_file()), alpha_(static_cast<float>(alpha)) {}

  void check(const parameter& wanted) const override { base_.check(wanted); }

  weight get(const parameter& wanted) const override {
    weight under = base_.get(wanted);
    const auto* const tau = tau_.find(wanted.name);
    if (tau == nullptr) return under;
    std::vector<float> values(under.data(), under.data() + under.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += alpha_ * (*tau)[i];
    return {wanted.shape, std::move(values)};
  }

 private:
  const merged_vectors& tau_;
  checkpoint_weights base_;
  float alpha_;
};

}  // namespace catmerge::harness

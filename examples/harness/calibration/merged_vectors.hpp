// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/stream.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <map>
#include <set>
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
    report.kind = p.kind;
    auto vectors = form_vectors(c, p);
    const auto views = views_of<context<host>>(vectors);
    method.combine(c, p, views, tau, report);
    return report;
  }
};

/// The merged task vectors, tau, from merge_stream: by tensor name, in float32, as the base's file
/// stores them. One tau gives the networks of all alphas.
class merged_vectors {
 public:
  /// fixed: tensors to which no alpha applies, such as running statistics. `set` must outlive this
  /// object.
  explicit merged_vectors(const checkpoint_set& set, std::set<std::string> fixed = {})
      : set_(&set), fixed_(std::move(fixed)) {}

  /// The sink of merge_stream.
  void put(const parameter_info& p, const host_matrix& tau) {
    const auto count = *io::element_count(set_->base_file().at(set_->tensor_of(p.name)).shape);
    auto& values = values_[set_->tensor_of(p.name)];
    values.resize(count);
    const host_const_view logical = tau;
    context<host> c;
    c.assign(p.transposed ? logical.transposed() : logical, rows_in<host_view>(p, values.data()));
  }

  /// tau of a parameter, as put took it. Precondition: it was put.
  host_const_view get(const parameter_info& p) const {
    const auto stored = rows_in<host_const_view>(p, values_.at(set_->tensor_of(p.name)).data());
    return p.transposed ? stored.transposed() : stored;
  }

  /// The values of a tensor under any of its names; null if it is not merged.
  const std::vector<float>* find(const std::string& name) const {
    const auto found = values_.find(owner(name));
    return found == values_.end() ? nullptr : &found->second;
  }
  std::vector<float>* find(const std::string& name) {
    const auto found = values_.find(owner(name));
    return found == values_.end() ? nullptr : &found->second;
  }

  /// False for tensors to which no alpha applies.
  bool is_scaled(const std::string& name) const { return !fixed_.contains(owner(name)); }

  /// this += factor other; tensors without alpha: += share other. Both have the same tensors, or
  /// this one has none.
  void add(double factor, double share, const merged_vectors& other) {
    for (const auto& [name, from] : other.values_) {
      auto& to = values_[name];
      to.resize(from.size());
      const auto a = static_cast<float>(is_scaled(name) ? factor : share);
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += a * from[i];
    }
  }

  /// this *= factor; tensors without alpha stay.
  void scale(double factor) {
    for (auto& [name, values] : values_)
      if (is_scaled(name))
        for (auto& v : values) v *= static_cast<float>(factor);
  }

  /// The same with the tensors of another object in place of its own; no alpha applies to them.
  merged_vectors with_fixed(const merged_vectors& others) const {
    merged_vectors result = *this;
    for (const auto& [name, values] : others.values_) {
      result.values_[name] = values;
      result.fixed_.insert(name);
    }
    return result;
  }

  /// Without the tensors for which `leave_out` holds.
  template <class LeaveOut>
  void erase_if(const LeaveOut& leave_out) {
    std::erase_if(values_, [&](const auto& one) { return leave_out(one.first); });
  }

  /// An object for the same set, without values.
  merged_vectors without_values() const { return merged_vectors(*set_, fixed_); }

  /// theta_0 + alpha tau, as a source of weights for networks; other parameters are the base's.
  class network;

  const checkpoint_set& set() const { return *set_; }

 private:
  const std::string& owner(const std::string& name) const {
    const auto tied = set_->tied().find(name);
    return tied == set_->tied().end() ? name : tied->second;
  }

  /// The rows of a parameter among its tensor's values, as stored.
  template <class View, class Float>
  View rows_in(const parameter_info& p, Float* values) const {
    const auto part = set_->piece_of(p);
    const auto count = *io::element_count(set_->base_file().at(part.tensor).shape);
    const index_t columns = set_->stored_extents(p).second;
    const index_t rows = columns == 0 ? 0 : static_cast<index_t>(count) / columns;
    return View(values, scalar_type::f32, rows, columns, columns, 1)
        .window(part.first, part.count, 0, columns);
  }

  const checkpoint_set* set_;
  std::set<std::string> fixed_;
  std::map<std::string, std::vector<float>> values_;
};

class merged_vectors::network final : public weight_source {
 public:
  /// `tau` must outlive this object.
  explicit network(const merged_vectors& tau, double alpha = 1)
      : tau_(tau), base_(tau.set().base_file()), alpha_(static_cast<float>(alpha)) {}

  void check(const parameter& wanted) const override { base_.check(wanted); }

  weight get(const parameter& wanted) const override {
    weight under = base_.get(wanted);
    const auto* const tau = tau_.find(wanted.name);
    if (tau == nullptr) return under;
    const float alpha = tau_.is_scaled(wanted.name) ? alpha_ : 1.0F;
    std::vector<float> values(under.data(), under.data() + under.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += alpha * (*tau)[i];
    return {wanted.shape, std::move(values)};
  }

 private:
  const merged_vectors& tau_;
  checkpoint_weights base_;
  float alpha_;
};

}  // namespace catmerge::harness

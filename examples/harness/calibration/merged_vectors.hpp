// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/stream.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/system/scratch_file.hpp>
#include <map>
#include <memory>
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
/// stores them. One tau gives the networks of all alphas. The values are in a temporary file;
/// copies share them until one is written.
class merged_vectors {
 public:
  /// fixed: tensors to which no alpha applies, such as running statistics. `set` must outlive this
  /// object.
  explicit merged_vectors(const checkpoint_set& set, std::set<std::string> fixed = {})
      : set_(&set), fixed_(std::move(fixed)), file_(scratch_file::create()) {}

  /// The sink of merge_stream.
  void put(const parameter_info& p, const host_matrix& tau) {
    const rows part = rows_of(p);
    auto& array = values_[set_->tensor_of(p.name)];
    if (array == nullptr) {
      array = file_->make(*io::element_count(set_->base_file().at(set_->tensor_of(p.name)).shape));
      if (part.count() < array->size()) array->write(0, std::vector<float>(array->size()));
    }
    std::vector<float> values(part.count());
    const host_const_view logical = tau;
    context<host> c;
    c.assign(p.transposed ? logical.transposed() : logical, part.view(values.data()));
    array->write(part.first, values);
  }

  /// tau of a parameter, as put took it. Precondition: it was put.
  host_matrix get(const parameter_info& p) const {
    const rows part = rows_of(p);
    std::vector<float> values(part.count());
    values_.at(set_->tensor_of(p.name))->read(part.first, values);
    const host_const_view stored = part.view(values.data());
    const host_const_view logical = p.transposed ? stored.transposed() : stored;
    host_matrix result(scalar_type::f32, logical.rows, logical.columns);
    context<host>().assign(logical, result);
    return result;
  }

  /// True for a tensor, under any of its names, that is merged.
  bool has(const std::string& name) const { return values_.contains(owner(name)); }

  /// The values of a tensor. Precondition: has(name).
  std::vector<float> read(const std::string& name) const {
    const auto& array = *values_.at(owner(name));
    std::vector<float> values(array.size());
    array.read(0, values);
    return values;
  }

  /// Replaces the values of a tensor, or adds it.
  void write(const std::string& name, const std::vector<float>& values) {
    auto& array = values_[owner(name)];
    if (array == nullptr || array.use_count() > 1) array = file_->make(values.size());
    array->write(0, values);
  }

  /// False for tensors to which no alpha applies.
  bool is_scaled(const std::string& name) const { return !fixed_.contains(owner(name)); }

  /// this += factor other; tensors without alpha: += share other. Both have the same tensors, or
  /// this one has none.
  void add(double factor, double share, const merged_vectors& other) {
    for (const auto& [name, array] : other.values_) {
      const auto from = other.read(name);
      auto to = has(name) ? read(name) : std::vector<float>(from.size());
      const auto a = static_cast<float>(is_scaled(name) ? factor : share);
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += a * from[i];
      write(name, to);
    }
  }

  /// Takes a tensor of another object, times a factor if alpha applies to it.
  void take(const std::string& name, double factor, const merged_vectors& from) {
    auto values = from.read(name);
    if (is_scaled(name))
      for (auto& v : values) v *= static_cast<float>(factor);
    write(name, values);
  }

  /// this *= factor; tensors without alpha stay.
  void scale(double factor) {
    for (const auto& [name, array] : values_)
      if (is_scaled(name)) take(name, factor, *this);
  }

  /// The same with the tensors of another object in place of its own; no alpha applies to them.
  merged_vectors with_fixed(const merged_vectors& others) const {
    merged_vectors result = *this;
    for (const auto& [name, array] : others.values_) {
      result.values_[name] = array;
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
  merged_vectors without_values() const {
    merged_vectors result = *this;
    result.values_.clear();
    return result;
  }

  /// theta_0 + alpha tau, as a source of weights for networks; other parameters are the base's.
  class network;

  const checkpoint_set& set() const { return *set_; }

 private:
  const std::string& owner(const std::string& name) const {
    const auto tied = set_->tied().find(name);
    return tied == set_->tied().end() ? name : tied->second;
  }

  /// A parameter's rows among those of its tensor, as stored.
  struct rows {
    std::size_t first;  ///< the first number's place in the tensor
    index_t height, width;

    std::size_t count() const { return static_cast<std::size_t>(height * width); }
    host_view view(float* values) const {
      return {values, scalar_type::f32, height, width, width, 1};
    }
  };
  rows rows_of(const parameter_info& p) const {
    const auto part = set_->piece_of(p);
    const index_t width = set_->stored_extents(p).second;
    return {static_cast<std::size_t>(part.first * width), part.count, width};
  }

  const checkpoint_set* set_;
  std::set<std::string> fixed_;
  std::shared_ptr<scratch_file> file_;
  std::map<std::string, std::shared_ptr<scratch_file::array>> values_;
};

class merged_vectors::network final : public weight_source {
 public:
  /// `tau` must outlive this object.
  explicit network(const merged_vectors& tau, double alpha = 1)
      : tau_(tau), base_(tau.set().base_file()), alpha_(static_cast<float>(alpha)) {}

  void check(const parameter& wanted) const override { base_.check(wanted); }

  weight get(const parameter& wanted) const override {
    weight under = base_.get(wanted);
    if (!tau_.has(wanted.name)) return under;
    auto values = tau_.read(wanted.name);
    const float alpha = tau_.is_scaled(wanted.name) ? alpha_ : 1.0F;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = under.data()[i] + alpha * values[i];
    return {wanted.shape, std::move(values)};
  }

  void release(const parameter& used) const override { base_.release(used); }

 private:
  const merged_vectors& tau_;
  checkpoint_weights base_;
  float alpha_;
};

}  // namespace catmerge::harness

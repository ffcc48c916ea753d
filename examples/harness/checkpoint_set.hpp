// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/checkpoint_writer.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/task_file.hpp>
#include <harness/tensors.hpp>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A base and its experts, opened and compared: the source of a merge's parameters.
class checkpoint_set {
 public:
  /// Throws an error that lists what differs (the first ten and how many) unless every expert has
  /// the base's tensors, in the same shapes.
  checkpoint_set(const std::string& base, const std::vector<task_file>& experts,
                 const model::name_rules& rules)
      : base_(base) {
    for (const auto& expert : experts) {
      tasks_.push_back(expert.task);
      experts_.emplace_back(expert.path);
    }
    for (std::size_t k = 0; k < experts_.size(); ++k) compare(experts_[k], tasks_[k]);
    for (const std::string& name : base_.names()) {
      const auto& entry = base_.at(name);
      classes_.emplace(name, rules.classify(entry));
      if (classes_.at(name).kind == model::parameter_kind::fixed) fixed_.push_back(name);
    }
    for (const auto& group : rules.groups(base_.names())) {
      parameter_group infos;
      for (const auto& name : group.names)
        if (const auto& c = classes_.at(name); c.kind != model::parameter_kind::fixed)
          infos.push_back({name, layer_of(c), c.parts, c.layout == model::matrix_layout::in_out});
      if (!infos.empty()) groups_.push_back(std::move(infos));
    }
  }

  const io::checkpoint& base_file() const { return base_; }
  const io::checkpoint& expert_file(index_t k) const {
    return experts_[static_cast<std::size_t>(k)];
  }
  /// Tensors that are not merged but copied from the base, bit for bit.
  const std::vector<std::string>& fixed() const { return fixed_; }
  const model::classification& class_of(const std::string& name) const { return classes_.at(name); }

  /// Sorts the groups by rank(name) of their first members, keeping the order among equals.
  template <class Rank>
  void sort_groups(const Rank& rank) {
    std::stable_sort(groups_.begin(), groups_.end(),
                     [&](const parameter_group& a, const parameter_group& b) {
                       return rank(a.front().name) < rank(b.front().name);
                     });
  }

  // What merge_stream asks of a parameter_source.
  const std::vector<std::string>& tasks() const { return tasks_; }
  const std::vector<parameter_group>& groups() const { return groups_; }
  host_const_view base(const parameter_info& p) {
    return windows_.of(base_.at(p.name), p.transposed);
  }
  host_const_view expert(index_t k, const parameter_info& p) {
    return windows_.of(expert_file(k).at(p.name), p.transposed);
  }
  void release(const parameter_group& group) {
    windows_.clear();
    for (const auto& p : group) {
      base_.release(p.name);
      for (const auto& expert : experts_) expert.release(p.name);
    }
  }

 private:
  void compare(const io::checkpoint& expert, const std::string& task) const {
    std::vector<std::string> differences;
    for (const auto& name : base_.names()) {
      const auto& entry = base_.at(name);
      const auto* other = expert.find(name);
      if (other == nullptr)
        differences.push_back("'" + name + "' is missing");
      else if (other->shape != entry.shape)
        differences.push_back("'" + name + "': expected " + io::to_string(entry.shape) +
                              ", found " + io::to_string(other->shape));
      else if (io::scalar_of(entry.type).has_value() != io::scalar_of(other->type).has_value())
        differences.push_back("'" + name + "': expected " + io::describe(entry) + ", found " +
                              io::describe(*other));
    }
    for (const auto& name : expert.names())
      if (base_.find(name) == nullptr) differences.push_back("'" + name + "' is not in the base");
    if (differences.empty()) return;
    std::string list;
    for (std::size_t i = 0; i < std::min<std::size_t>(10, differences.size()); ++i)
      list += "\n  " + differences[i];
    if (differences.size() > 10) list += "\n  ...";
    throw error(expert.path().string() + ": expert '" + task + "' does not fit the base " +
                base_.path().string() + ": " + std::to_string(differences.size()) +
                (differences.size() == 1 ? " difference:" : " differences:") + list);
  }

  io::checkpoint base_;
  std::vector<std::string> tasks_;
  std::vector<io::checkpoint> experts_;
  std::unordered_map<std::string, model::classification> classes_;
  std::vector<std::string> fixed_;
  std::vector<parameter_group> groups_;
  windows windows_;
};

/// Writes merged parameters in the types of the output, in blocks: what merge_stream calls a sink.
class checkpoint_output {
 public:
  /// `type`: of every floating-point tensor, or nothing for the base's own.
  checkpoint_output(const std::string& path, const checkpoint_set& set,
                    std::optional<io::dtype> type)
      : path_(path), set_(set), type_(type), writer_(path, declare(), options()) {
    for (const auto& name : set.fixed()) {
      writer_.write(name, set.base_file().at(name).bytes);
      set.base_file().release(name);
    }
  }

  void put(const parameter_info& p, host_matrix merged) {
    const host_const_view logical = merged;
    const host_const_view stored = p.transposed ? logical.transposed() : logical;
    const auto type = *io::scalar_of(type_of(p.name));
    // About a megabyte at a time: conversion never holds a second copy of a large tensor.
    const index_t height =
        std::max<index_t>(1, (index_t{1} << 18) / std::max<index_t>(1, stored.columns));
    for (index_t row = 0; row < stored.rows; row += height) {
      const index_t count = std::min(height, stored.rows - row);
      host_matrix block(type, count, stored.columns);
      context<host> c;
      c.assign(stored.window(row, count, 0, stored.columns), block);
      if (!c.all_finite(block))
        throw error(path_ + ": tensor '" + p.name + "': a merged value does not fit " +
                    name_of(type) + "; choose a wider --out-dtype");
      const host_const_view bytes = block;
      writer_.append(p.name, {static_cast<const std::byte*>(bytes.data),
                              static_cast<std::size_t>(count * stored.columns) * size_of(type)});
    }
    if (stored.rows == 0 || stored.columns == 0) writer_.write(p.name, {});
  }

  /// Makes the output appear under its name.
  void commit() { writer_.commit(); }

 private:
  io::dtype type_of(const std::string& name) const {
    const auto& entry = set_.base_file().at(name);
    return type_ && set_.class_of(name).kind != model::parameter_kind::fixed ? *type_ : entry.type;
  }

  std::vector<io::tensor_info> declare() const {
    std::vector<io::tensor_info> infos;
    for (const auto& name : set_.base_file().names())
      infos.push_back({name, type_of(name), set_.base_file().at(name).shape});
    return infos;
  }

  io::checkpoint_writer::options options() const {
    const auto& base = set_.base_file();
    return {io::output_format(path_, base.format()), base.metadata(), base.config()};
  }

  std::string path_;
  const checkpoint_set& set_;
  std::optional<io::dtype> type_;
  io::checkpoint_writer writer_;
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/source.hpp>
#include <catmerge/model/kinds.hpp>
#include <map>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The base and the experts of a merge, as methods and reports know them: by names and kinds,
/// without values. Models: checkpoint_set, and the networks of the Python module.
class network_names {
 public:
  virtual ~network_names() = default;
  /// The tensors of the merged network, in the order of the base.
  virtual const std::vector<std::string>& names() const = 0;
  /// The class of a tensor.
  virtual const model::classification& class_of(const std::string& name) const = 0;
  /// The name of the tensor of a parameter or a piece.
  virtual const std::string& tensor_of(const std::string& parameter) const = 0;
  /// All names of a tensor: its own, and those tied to it.
  virtual std::vector<std::string> names_of(const std::string& tensor) const = 0;
  /// The parameters that are merged.
  virtual const std::vector<parameter_group>& groups() const = 0;
  /// The names of the experts.
  virtual const std::vector<std::string>& tasks() const = 0;
  /// Tensors that are copied from the base, bit for bit.
  virtual const std::vector<std::string>& fixed() const = 0;
  /// The reason for copying a tensor of fixed().
  virtual std::string why_copied(const std::string& name) const = 0;
  /// Second names of tied tensors of the base, each with the name whose merged values it gets.
  virtual const std::map<std::string, std::string>& tied() const = 0;
  /// Unmerged tensors that only experts have: "NAME of 'TASK'".
  virtual const std::vector<std::string>& ignored() const = 0;
  /// Warnings about the networks, a sentence each.
  virtual const std::vector<std::string>& warnings() const = 0;
  /// Merged tensors that an expert lacks: "NAME of 'TASK'".
  virtual std::vector<std::string> absent() const = 0;
  /// Merged tables that an expert has with another height: "NAME of 'TASK' [ROWS, COLUMNS]".
  virtual std::vector<std::string> resized() const = 0;
};

}  // namespace catmerge::harness

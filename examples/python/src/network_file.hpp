// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/tensor_entry.hpp>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "array.hpp"

namespace catmerge::python {

/// A network of Python: anything with keys() and __getitem__ that gives arrays by names. Tensors
/// are asked for when they are needed, and let go of afterwards; a member release(name) of the
/// mapping, if there is one, is then called.
class network_file {
 public:
  /// Reads the types and shapes of all tensors. words: "the base", for errors. Needs the
  /// interpreter's lock.
  network_file(nb::handle mapping, const std::string& words);

  /// The same network with other tensors: in place of its own, or further ones. Only the original
  /// calls the mapping's release. Needs the interpreter's lock.
  network_file with(const std::vector<std::pair<std::string, nb::object>>& tensors,
                    const std::string& words) const;

  const std::string& words() const { return words_; }
  /// The names, in the order of the mapping.
  const std::vector<std::string>& names() const { return names_; }
  /// Type and shape of a tensor, or null.
  const io::tensor_info* info(const std::string& name) const;
  /// Type and shape of one that is there. The reference stays valid while the object lives, also
  /// after a move.
  const io::tensor_info& at(const std::string& name) const { return infos_.at(name); }

  /// The tensor as the mapping gives it. Needs the interpreter's lock.
  nb::object object(const std::string& name) const;
  /// The tensor, kept until release. Takes the interpreter's lock.
  const array& get(const std::string& name);
  /// The tensor as rows x columns, kept until release: a view, or a copy if its strides do not
  /// allow that. Takes the interpreter's lock.
  host_const_view matrix(const std::string& name, index_t rows, index_t columns);
  void let_go(const std::string& name);

  // As harness::find_ties reads a file; with the interpreter's lock.
  const io::tensor_entry* find(const std::string& name) const;
  std::filesystem::path path() const { return words_; }
  void release(const std::string& name) const { entries_.erase(name); }

 private:
  struct entry {
    array bytes;
    io::tensor_entry described;
  };

  void describe(const std::string& name);

  std::shared_ptr<void> owner_;                           // the mapping
  std::map<std::string, std::shared_ptr<void>> changed_;  // tensors that are not the mapping's
  bool is_original_ = true;
  std::string words_;
  std::vector<std::string> names_;
  std::map<std::string, io::tensor_info> infos_;
  std::map<std::string, array> open_;
  mutable std::map<std::string, entry> entries_;
};

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/adapter_placement.hpp>
#include <string>
#include <utility>
#include <vector>

#include "network_file.hpp"

namespace catmerge::python {

/// A LoRA adapter of Python: a mapping of PEFT's names to arrays, which it keeps, and the text of
/// its adapter_config.json.
class network_adapter {
 public:
  /// words: "expert 'cars'", for errors. Throws catmerge::error for an adapter that is refused
  /// (adapter_folder.hpp). Needs the interpreter's lock.
  network_adapter(const std::string& config, nb::handle tensors, const std::string& words)
      : file_(tensors, words),
        entries_(entries_of(file_)),
        tensors_(
            io::sort_adapter_tensors(io::parse_adapter_config(config, words), entries_, words)) {}
  network_adapter(network_adapter&&) = default;  ///< Pointers to its tensors stay valid.

  /// Its tensors in a base of these parameters. This object must outlive the result. Throws
  /// catmerge::error for an adapter that does not fit the base.
  io::adapter_placement placed_in(const std::vector<io::tensor_info>& base,
                                  const io::known_layout& layout) const {
    return io::target_in(base, "in memory", tensors_, file_.path(), layout);
  }

  /// "expert 'cars'".
  const std::string& words() const { return file_.words(); }
  /// Tensors that PEFT does not use.
  const std::vector<const io::tensor_entry*>& unused() const { return tensors_.unused; }
  /// A tensor as the mapping gives it. Needs the interpreter's lock.
  nb::object object(const io::tensor_entry& entry) const { return file_.object(entry.name); }

 private:
  static std::vector<io::tensor_entry> entries_of(const network_file& file) {
    std::vector<io::tensor_entry> entries;
    for (const auto& name : file.names()) entries.push_back(*file.find(name));
    return entries;
  }

  network_file file_;
  std::vector<io::tensor_entry> entries_;
  io::adapter_tensors tensors_;
};

}  // namespace catmerge::python

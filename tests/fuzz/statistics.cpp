// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/statistics.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = catmerge::io;
  fuzz::with_file(data, size, [](const std::filesystem::path& path) {
    const io::statistics_file file(path);
    for (const auto& name : file.names()) {
      const io::statistics_entry* const entry = file.find(name);
      fuzz::require(entry != nullptr && entry->data != nullptr, "a name has statistics");
      fuzz::require(entry->row_count > 0, "of at least one row");
      const bool moment = entry->form == catmerge::statistics_form::second_moment;
      fuzz::require(entry->data->shape.size() == (moment ? 1U : 2U), "in a shape of their form");
      fuzz::require(io::scalar_of(entry->data->type).has_value(), "as numbers");
      file.release(name);
    }
  });
  return 0;
}

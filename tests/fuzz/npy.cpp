// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/npy.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = catmerge::io;
  fuzz::with_file(data, size, [&](const std::filesystem::path& path) {
    const io::npy_file file(path, "name");
    const io::tensor_entry& entry = file.entry();
    fuzz::require(entry.bytes.size() == *io::byte_count(entry), "the array has its size");
    fuzz::require(entry.bytes.size() < size, "it is no larger than its file");
    unsigned sum = 0;
    for (const std::byte b : entry.bytes) sum += std::to_integer<unsigned>(b);
    unsigned in_file = 0;  // whatever the order of the axes, these are the file's last bytes
    for (std::size_t i = size - entry.bytes.size(); i < size; ++i) in_file += data[i];
    fuzz::require(sum == in_file, "its values are the file's");
  });
  return 0;
}

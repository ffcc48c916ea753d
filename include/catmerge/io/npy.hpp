// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <catmerge/io/npy_header.hpp>
#include <catmerge/io/tensor_sink.hpp>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

namespace detail {
/// Reorders column-major bytes of `size`-byte elements to row-major order.
inline std::vector<std::byte> to_row_major(std::span<const std::byte> values, const shape_t& shape,
                                           std::size_t size) {
  const std::size_t rank = shape.size();
  std::vector<std::size_t> stride(rank, size);  // in `values`, in bytes
  for (std::size_t axis = 1; axis < rank; ++axis) {
    stride[axis] = stride[axis - 1] * static_cast<std::size_t>(shape[axis - 1]);
  }
  std::vector<std::byte> result(values.size());
  std::vector<index_t> position(rank, 0);
  std::size_t from = 0;
  for (std::size_t to = 0; to < result.size(); to += size) {
    std::memcpy(&result[to], &values[from], size);
    for (std::size_t axis = rank; axis-- > 0;) {  // the next position; the last axis runs fastest
      from += stride[axis];
      if (++position[axis] < shape[axis]) break;
      from -= stride[axis] * static_cast<std::size_t>(shape[axis]);
      position[axis] = 0;
    }
  }
  return result;
}

/// Reverses the bytes of each number; a complex value is two numbers.
inline void swap_bytes(std::span<std::byte> values, dtype type) {
  const std::size_t size = type == dtype::c64 ? 4 : size_of(type);
  for (std::size_t at = 0; at < values.size(); at += size) {
    std::reverse(&values[at], &values[at] + size);
  }
}
}  // namespace detail

/// An array in a .npy file as a tensor: mapped, not copied. Exceptions: a column-major array
/// (fortran_order) of more than one axis is copied into row-major order, and big-endian values into
/// little-endian order, when the file is opened. Such a copy takes its size in memory.
class npy_file {
 public:
  /// Throws error if the file cannot be mapped or breaks the format (see npy_header.hpp).
  npy_file(const std::filesystem::path& path, std::string name) : file_(path) {
    npy_header header = parse_npy_header(file_.bytes(), path);
    const std::span<const std::byte> values = file_.bytes().subspan(header.data_offset);
    if (header.fortran_order && header.shape.size() > 1) {
      copy_ = detail::to_row_major(values, header.shape, size_of(header.type));
    } else if (header.big_endian) {
      copy_.assign(values.begin(), values.end());
    }
    if (header.big_endian) detail::swap_bytes(copy_, header.type);
    if (is_copy()) file_.release(file_.bytes());
    entry_ = {{std::move(name), header.type, std::move(header.shape)},
              is_copy() ? std::span<const std::byte>(copy_) : values};
  }

  /// The path of the file, as given.
  const std::filesystem::path& path() const { return file_.path(); }
  /// The whole file, header included.
  const mapped_file& mapping() const { return file_; }
  /// The array under the given name, row-major; the bytes stay valid after a move.
  const tensor_entry& entry() const { return entry_; }
  /// True if the entry's bytes are a copy in memory, not the mapped file.
  bool is_copy() const { return !copy_.empty(); }

 private:
  mapped_file file_;
  std::vector<std::byte> copy_;
  tensor_entry entry_;
};

/// Writes a folder of .npy files, NAME.npy for each tensor.
class npy_folder_writer final : public tensor_sink {
 public:
  /// Throws error if the folder exists (unless it is to be replaced) or cannot be made, if a name
  /// is no file name (empty, with a dot at its start or a slash), or if NumPy lacks a type.
  npy_folder_writer(const std::filesystem::path& path, std::vector<tensor_info> tensors,
                    existing how = existing::refuse)
      : ledger_(path, std::move(tensors)),
        folder_(path, how, is_array),
        files_(ledger_.slots().size()) {
    for (const write_ledger::slot& slot : ledger_.slots()) {
      const std::string& name = slot.info.name;
      if (name.empty() || name.front() == '.' ||
          name.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
        fail(path, name, "the name cannot be that of a .npy file");
      }
      make_npy_header(slot.info, path);
    }
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    put(ledger_.for_append(name, bytes.size()), bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    put(ledger_.for_write(name, bytes.size()), bytes);
  }
  void commit() override {
    ledger_.check_complete();
    folder_.commit();
  }

  /// The folder for other files, which may be written before commit(). A replaced folder may lose
  /// arrays and files that the new one has, too; other losses are an error (atomic_folder).
  const atomic_folder& folder() const { return folder_; }

 private:
  static bool is_array(const std::filesystem::path& name) {
    return name.extension() == ".npy" && !name.has_parent_path();
  }

  struct open_file {
    output_file file;
    std::uint64_t data_offset;
  };

  void put(write_ledger::slot& slot, std::span<const std::byte> bytes) {
    auto& open = files_[static_cast<std::size_t>(&slot - ledger_.slots().data())];
    if (open == nullptr && !slot.started) {
      const std::string file_name = slot.info.name + ".npy";
      const std::string header = make_npy_header(slot.info, folder_.path());
      open.reset(new open_file{{folder_.partial() / file_name, folder_.path() / file_name},
                               header.size()});
      open->file.write_at(0, as_bytes(header), slot.info.name);
    }
    if (!bytes.empty())
      open->file.write_at(open->data_offset + slot.written, bytes, slot.info.name);
    write_ledger::done(slot, bytes.size());
    if (slot.written == slot.size && open != nullptr) {
      open->file.close();
      open.reset();
    }
  }

  write_ledger ledger_;
  atomic_folder folder_;
  std::vector<std::unique_ptr<open_file>> files_;  // by slot: opened at its first byte
};

}  // namespace catmerge::io

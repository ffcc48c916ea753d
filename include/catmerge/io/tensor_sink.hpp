// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/tensor_entry.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::io {

/// A destination for tensors. Names, types and shapes are declared at construction. Then each
/// tensor is written once, in any order, whole or as consecutive blocks. commit() makes the output
/// appear under its name; without it, nothing remains.
///
/// Threads may write different tensors at the same time. Every error names the file and the tensor.
/// After an error the sink can only be destroyed.
class tensor_sink {
 public:
  tensor_sink() = default;
  tensor_sink(const tensor_sink&) = delete;
  tensor_sink& operator=(const tensor_sink&) = delete;
  virtual ~tensor_sink() = default;

  /// Writes the next bytes of a tensor. Throws error for an undeclared name, for more bytes than
  /// declared, and if the system cannot write.
  virtual void append(std::string_view name, std::span<const std::byte> bytes) = 0;

  /// Writes a whole tensor. Throws error also if the number of bytes is not the declared one or if
  /// some were written before.
  virtual void write(std::string_view name, std::span<const std::byte> bytes) = 0;

  /// Finishes the output. Throws error, naming the tensors, if any is incomplete.
  virtual void commit() = 0;
};

/// Counts the bytes written of each declared tensor. Threads may use different names at the same
/// time.
class write_ledger {
 public:
  /// One declared tensor and the count of its bytes written.
  struct slot {
    tensor_info info;           ///< as declared
    std::uint64_t size = 0;     ///< bytes declared
    std::uint64_t written = 0;  ///< bytes written: the position of the next one
    bool started = false;       ///< set by a write, even of no bytes
  };

  /// Throws error for a name declared twice and for shapes without a byte_count. `file` is for
  /// messages.
  write_ledger(std::filesystem::path file, std::vector<tensor_info> tensors)
      : file_(std::move(file)) {
    slots_.reserve(tensors.size());
    for (tensor_info& info : tensors) {
      const auto size = byte_count(info);
      if (!size) fail(file_, info.name, no_byte_count(info));
      slots_.push_back({std::move(info), *size});
      const slot& added = slots_.back();
      if (!index_.emplace(added.info.name, slots_.size() - 1).second) {
        fail(file_, added.info.name, "is declared twice");
      }
    }
  }
  write_ledger(const write_ledger&) = delete;
  write_ledger& operator=(const write_ledger&) = delete;

  /// In the order of the declarations.
  const std::vector<slot>& slots() const { return slots_; }

  /// The slot for `count` more bytes of a tensor; `done` counts them. Throws error for an
  /// undeclared name and for more bytes than declared.
  slot& for_append(std::string_view name, std::size_t count) {
    slot& found = at(name);
    if (count > found.size - found.written) {
      fail(file_, name,
           "expected " + std::to_string(found.size) + " bytes, " + describe(found.info) +
               ", found more: " + std::to_string(found.written) + " and then " +
               std::to_string(count));
    }
    return found;
  }

  /// The slot for a whole tensor of `count` bytes. Throws error also if some were written before or
  /// if `count` is not the declared number.
  slot& for_write(std::string_view name, std::size_t count) {
    slot& found = at(name);
    if (found.started) fail(file_, name, "is written twice");
    if (count != found.size) {
      fail(file_, name,
           "expected " + std::to_string(found.size) + " bytes, " + describe(found.info) +
               ", found " + std::to_string(count));
    }
    return found;
  }

  /// Counts bytes written to a slot of for_append or for_write.
  static void done(slot& to, std::size_t count) {
    to.written += count;
    to.started = true;
  }

  /// Throws error with the number and the first names of incomplete tensors.
  void check_complete() const {
    constexpr int most_listed = 10;
    int missing = 0;
    std::string list;
    for (const slot& each : slots_) {
      if (each.started && each.written == each.size) continue;
      if (++missing <= most_listed) list += (list.empty() ? "" : ", ") + in_quotes(each.info.name);
    }
    if (missing > 0) {
      fail(file_, std::to_string(missing) + " of " + std::to_string(slots_.size()) +
                      " tensors were not written completely: " + list +
                      (missing > most_listed ? ", ..." : ""));
    }
  }

 private:
  slot& at(std::string_view name) {
    const auto found = index_.find(name);
    if (found == index_.end()) fail(file_, name, "was not declared");
    return slots_[found->second];
  }

  std::filesystem::path file_;
  std::vector<slot> slots_;
  std::unordered_map<std::string_view, std::size_t> index_;  // keys lie in slots_
};

}  // namespace catmerge::io

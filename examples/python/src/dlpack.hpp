// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// The part of DLPack's ABI that the module reads (github.com/dmlc/dlpack, dlpack.h).
namespace catmerge::python::dlpack {

/// kDLCPU, and the memory that a GPU's driver has pinned: both are read through pointers.
constexpr std::int32_t cpu = 1, cpu_pinned = 3;
/// kDLFloat and kDLBfloat.
constexpr std::uint8_t code_float = 2, code_bfloat = 4;

struct device {
  std::int32_t type, id;
};

struct element {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct tensor {
  void* data;
  device place;
  std::int32_t rank;
  element type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major without gaps
  std::uint64_t byte_offset;
};

struct managed_tensor {
  tensor self;
  void* manager;
  void (*deleter)(managed_tensor*);
};

}  // namespace catmerge::python::dlpack

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The tensor `labels` of a data file: int64 (or int32), one per sample, each in 0 ... classes - 1.
/// Throws catmerge::error naming the file and, where one is at fault, the sample.
inline std::vector<std::int64_t> read_labels(const io::safetensors_file& file, index_t samples,
                                             index_t classes) {
  const io::tensor_entry& entry = file.at("labels");
  const bool wide = entry.type == io::dtype::i64;
  if ((!wide && entry.type != io::dtype::i32) || entry.shape != io::shape_t{samples}) {
    io::fail(file.path(), entry.name,
             "expected I64 or I32 " + io::to_string({samples}) + ", a label per sample, found " +
                 io::describe(entry));
  }
  std::vector<std::int64_t> labels(static_cast<std::size_t>(samples));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (wide) {
      std::memcpy(&labels[i], entry.bytes.data() + i * sizeof(std::int64_t), sizeof(std::int64_t));
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, entry.bytes.data() + i * sizeof narrow, sizeof narrow);
      labels[i] = narrow;
    }
    if (labels[i] < 0 || labels[i] >= classes) {
      io::fail(file.path(), entry.name,
               "sample " + std::to_string(i) + " has label " + std::to_string(labels[i]) +
                   ", but the head has " + std::to_string(classes) + " classes");
    }
  }
  return labels;
}

}  // namespace catmerge::harness

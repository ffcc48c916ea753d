// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/tensor_floats.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The tensor `labels` of a data file, one per sample: classes (integers, of any type but U64) or
/// values (floating-point). The constructor reads it. Throws catmerge::error naming the file and,
/// if one is at fault, the sample.
class task_labels {
 public:
  task_labels(const std::filesystem::path& path, index_t samples) : path_(path) {
    const io::safetensors_file file(path);
    const io::tensor_entry& entry = file.at("labels");
    found_ = io::describe(entry);
    integers_ = is_integer(entry.type);
    if ((!integers_ && !io::scalar_of(entry.type)) || entry.shape != io::shape_t{samples}) {
      io::fail(path, entry.name,
               "expected integers or floating-point values " + io::to_string({samples}) +
                   ", a label per sample, found " + found_);
    }
    if (integers_) {
      for (index_t i = 0; i < samples; ++i) classes_.push_back(integer_at(entry, i));
      values_.assign(classes_.begin(), classes_.end());
    } else {
      std::vector<float> narrow(static_cast<std::size_t>(samples));
      read_floats(entry, path, 0, samples, narrow.data());
      values_.assign(narrow.begin(), narrow.end());
    }
  }

  /// True if the labels are stored as integers.
  bool are_classes() const { return integers_; }

  /// The classes. Throws unless each is in 0 ... count - 1.
  const std::vector<std::int64_t>& classes(index_t count) const {
    if (!integers_) {
      io::fail(path_, "labels", "expected integers, the classes of the samples, found " + found_);
    }
    for (std::size_t i = 0; i < classes_.size(); ++i) {
      if (classes_[i] >= 0 && classes_[i] < count) continue;
      io::fail(path_, "labels",
               "sample " + std::to_string(i) + " has label " + std::to_string(classes_[i]) +
                   ", but the head has " + std::to_string(count) + " classes");
    }
    return classes_;
  }

  /// The labels as numbers, classes too.
  const std::vector<double>& values() const { return values_; }

 private:
  std::filesystem::path path_;
  std::string found_;  // type and shape in the file
  bool integers_ = false;
  std::vector<std::int64_t> classes_;
  std::vector<double> values_;
};

}  // namespace catmerge::harness

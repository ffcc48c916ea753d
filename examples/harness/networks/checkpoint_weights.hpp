// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/safetensors.hpp>
#include <filesystem>
#include <functional>
#include <harness/networks/tensor_floats.hpp>
#include <harness/networks/weights.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The parameters of a checkpoint. F32 values are used in place, others are converted at each
/// request. Values that are not finite are an error.
class checkpoint_weights : public weight_source {
 public:
  /// The tensor of that name, or null; entries outlive this object.
  using finder = std::function<const io::tensor_entry*(const std::string& name)>;

  /// `from` must outlive this object. find: finds tensors under other names than their own.
  checkpoint_weights(const io::checkpoint& from, finder find)
      : file_(from.path()),
        find_(std::move(find)),
        release_([&from](const std::string& name) { from.release(name); }) {}

  /// `from` must outlive this object.
  explicit checkpoint_weights(const io::checkpoint& from)
      : checkpoint_weights(from, [&from](const std::string& name) { return from.find(name); }) {}
  explicit checkpoint_weights(const io::safetensors_file& from)
      : file_(from.path()), find_([&from](const std::string& name) { return from.find(name); }) {}

  /// The tensor of that name, or null.
  const io::tensor_entry* find(const std::string& name) const { return find_(name); }

  void check(const parameter& wanted) const override { checked(wanted); }

  weight get(const parameter& wanted) const override {
    const io::tensor_entry& entry = checked(wanted);
    if (entry.type == io::dtype::f32 && io::is_aligned(entry)) {
      weight values(wanted.shape, io::values_of<float>(entry).data());
      if (values.vector().allFinite()) return values;
      // Otherwise the slow path below finds the element.
    }
    std::vector<float> values(entry.bytes.size() / io::size_of(entry.type));
    read_floats(entry, file_, 0, static_cast<index_t>(values.size()), values.data());
    return {wanted.shape, std::move(values)};
  }

  weight rows(const parameter& wanted, const std::vector<index_t>& which) const override {
    const io::tensor_entry& entry = checked(wanted);
    const index_t columns = wanted.shape[1];
    std::vector<float> values(which.size() * static_cast<std::size_t>(columns));
    for (std::size_t i = 0; i < which.size(); ++i) {
      read_floats(entry, file_, which[i] * columns, columns,
                  values.data() + i * static_cast<std::size_t>(columns));
    }
    return {{std::ssize(which), columns}, std::move(values)};
  }

  void release(const parameter& used) const override {
    if (release_) release_(used.name);
  }

 private:
  const io::tensor_entry& checked(const parameter& wanted) const {
    const io::tensor_entry* const entry = find_(wanted.name);
    const std::string expected = "expected shape " + io::to_string(wanted.shape) + ", found ";
    if (entry == nullptr) io::fail(file_, wanted.name, expected + "no such tensor");
    if (entry->shape != wanted.shape) io::fail(file_, wanted.name, expected + io::describe(*entry));
    if (!io::scalar_of(entry->type)) {
      io::fail(file_, wanted.name, "expected floating-point values, found " + io::describe(*entry));
    }
    return *entry;
  }

  std::filesystem::path file_;
  finder find_;
  std::function<void(const std::string& name)> release_;
};

}  // namespace catmerge::harness

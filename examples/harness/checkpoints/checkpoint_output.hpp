// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/checkpoint_writer.hpp>
#include <catmerge/io/json.hpp>
#include <future>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/checkpoints/task_heads_output.hpp>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The type, shards and target of a merged network.
struct output_options {
  std::optional<io::dtype> type;  ///< of every merged tensor; none: the base's own
  std::uint64_t most_in_shard = 0;
  io::existing target = io::existing::refuse;
  bool behind = false;  ///< writes on a thread of its own, one tensor behind the merge
};

/// The text of a config.json with the tensors' new type under every "torch_dtype" and "dtype".
/// decoded: removes the settings of quantisation, too.
inline std::string with_dtype(const std::filesystem::path& config, io::dtype type, bool decoded) {
  static const std::map<io::dtype, std::string> names = {{io::dtype::f64, "float64"},
                                                         {io::dtype::f32, "float32"},
                                                         {io::dtype::f16, "float16"},
                                                         {io::dtype::bf16, "bfloat16"}};
  const io::mapped_file file(config);
  nlohmann::json all = io::parse_json(io::as_text(file.bytes()), config, "configuration");
  const auto change = [&](const auto& self, nlohmann::json& value) -> void {
    if (!value.is_structured()) return;
    for (const auto& [key, inner] : value.items())
      if (value.is_object() && (key == "torch_dtype" || key == "dtype") && inner.is_string())
        inner = names.at(type);
      else
        self(self, inner);
  };
  change(change, all);
  if (decoded && all.is_object())
    for (const char* key : {"quantization_config", "compression_config"}) all.erase(key);
  return all.dump(2) + "\n";
}

/// Writes merged parameters in the output's types, in blocks: the sink of merge_stream. Fixed
/// tensors are copied from the base, tied ones are written under both names. An output folder gets
/// the files beside the base's weights.
class checkpoint_output {
 public:
  checkpoint_output(const std::string& path, const checkpoint_set& set, const output_options& how)
      : path_(path),
        set_(set),
        type_(how.type),
        copied_(sorted(set.fixed())),
        behind_(how.behind),
        writer_(path, declare(), options(how)) {
    for (const auto& [alias, owner] : set.tied()) aliases_[owner].push_back(alias);
    for (const auto& name : set.fixed()) {
      writer_.write(name, set.base_file().at(name).bytes);
      set.base_file().release(name);
    }
  }

  /// With `behind`, the next call of any member, commit() at the latest, throws a tensor's errors.
  void put(const parameter_info& p, host_matrix merged) {
    if (!behind_) return write(p, merged);
    finish();
    last_ = std::async(std::launch::async, [this, p, merged = std::move(merged)]() mutable {
      const host_matrix tensor = std::move(merged);  // freed when it is written
      write(p, tensor);
    });
  }

  /// Waits for the write in progress.
  void finish() {
    if (last_.valid()) last_.get();
  }

  /// Makes the output appear under its name.
  void commit() {
    finish();
    writer_.commit();
  }

 private:
  void write(const parameter_info& p, const host_matrix& merged) {
    const std::string& name = set_.tensor_of(p.name);
    const host_const_view logical = merged;
    const host_const_view stored = p.transposed ? logical.transposed() : logical;
    const auto type = *io::scalar_of(type_of(name));
    const std::size_t bytes_of_row = static_cast<std::size_t>(stored.columns) * size_of(type);
    if (type == stored.type && stored.column_stride == 1 && stored.row_stride == stored.columns)
      return append(name, {static_cast<const std::byte*>(stored.data),
                           static_cast<std::size_t>(stored.rows) * bytes_of_row});
    // About a megabyte at a time: conversion never holds a second copy of a large tensor.
    const index_t height =
        std::max<index_t>(1, (index_t{1} << 18) / std::max<index_t>(1, stored.columns));
    for (index_t row = 0; row < stored.rows; row += height) {
      const index_t count = std::min(height, stored.rows - row);
      host_matrix block(type, count, stored.columns);
      context<host> c;
      c.assign(stored.window(row, count, 0, stored.columns), block);
      if (!c.all_finite(block))
        throw error(path_ + ": tensor '" + name + "': a merged value does not fit " +
                    name_of(type) + "; choose a wider --out-dtype");
      const host_const_view bytes = block;
      append(name, {static_cast<const std::byte*>(bytes.data),
                    static_cast<std::size_t>(count) * bytes_of_row});
    }
    if (stored.rows == 0 || stored.columns == 0) append(name, {});
  }

  void append(const std::string& name, std::span<const std::byte> bytes) {
    writer_.append(name, bytes);
    if (const auto found = aliases_.find(name); found != aliases_.end())
      for (const auto& alias : found->second) writer_.append(alias, bytes);
  }

  io::dtype type_of(const std::string& name) const {
    const auto& entry = set_.base_file().at(name);
    if (is_copied(name)) return entry.type;
    return type_ ? *type_ : set_.info_of(name).type;
  }

  static std::vector<std::string> sorted(std::vector<std::string> names) {
    std::sort(names.begin(), names.end());
    return names;
  }
  bool is_copied(const std::string& name) const {
    return std::binary_search(copied_.begin(), copied_.end(), name);
  }

  std::vector<io::tensor_info> declare() const {
    std::vector<io::tensor_info> infos;
    for (const auto& name : set_.names())
      infos.push_back({name, type_of(name), set_.base_file().at(name).shape});
    return infos;
  }

  io::checkpoint_writer::options options(const output_options& how) const {
    const auto& base = set_.base_file();
    io::checkpoint_writer::options o;
    o.format = io::output_format(path_, base.format());
    o.metadata = base.metadata();
    o.most_in_shard = how.most_in_shard;
    o.target = how.target;
    if (base.format() != io::checkpoint_format::safetensors_file)
      o.beside = io::side_files(base.path());
    const auto& names = set_.names();
    const bool decoded = std::any_of(names.begin(), names.end(),
                                     [this](const auto& name) { return set_.decoded(name); });
    if (how.type || decoded)
      for (auto& file : o.beside)
        if (file.name == "config.json")
          file = {
              file.name, {}, with_dtype(file.source, how.type.value_or(io::dtype::bf16), decoded)};
    return o;
  }

  std::string path_;
  const checkpoint_set& set_;
  std::optional<io::dtype> type_;
  std::map<std::string, std::vector<std::string>> aliases_;  // by owner
  std::vector<std::string> copied_;                          // sorted
  bool behind_;
  io::checkpoint_writer writer_;
  std::future<void> last_;  // uses the writer: its destructor waits
};

/// The tensors of each expert that the policy calls its own.
inline std::vector<task_heads> heads_of_experts(const checkpoint_set& set) {
  std::vector<task_heads> all;
  for (index_t k = 0; k < std::ssize(set.tasks()); ++k) {
    const auto& expert = set.expert_file(k);
    task_heads own{
        set.tasks()[static_cast<std::size_t>(k)], set.expert_path(k), {}, expert.metadata()};
    for (const auto& name : expert.names()) {
      if (!set.policy().task_heads.match(name)) continue;
      const auto& entry = expert.at(name);
      if (set.factors(k).adds_to(entry))
        throw error(own.expert.string() + ": --task-heads matches '" + name +
                    "', which the adapter changes by factors: it is no tensor of its own");
      own.tensors.emplace_back(name, &entry);
    }
    all.push_back(std::move(own));
  }
  return all;
}

}  // namespace catmerge::harness

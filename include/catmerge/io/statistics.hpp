// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Files of features: statistics of a parameter's input rows. A safetensors file (or a folder of
/// .npy files, which has no metadata and so holds plain rows only) holds, for a parameter P,
///
///     P                   the rows themselves, n x d_in (for a scale: the normalised input, n x d)
///     P::factor           R with R^T R = X^T X, any number of rows x d_in
///     P::gram             X^T X, d_in x d_in
///     P::second_moment    mean of x_j^2 over the rows, d
///
/// in F64, F32, F16 or BF16. Its metadata hold
///
///     "rows:P" = "120"    the number of rows n; required unless the entry is plain rows
///     "alias:Q" = "P"     Q has the same input as P; one level, and Q has no entry of its own
namespace catmerge::io {

using catmerge::statistics_form;  // the forms that the library takes

/// The suffix of the data's name: "", "::factor", ...
constexpr std::string_view suffix_of(statistics_form form) {
  switch (form) {
    case statistics_form::rows: break;
    case statistics_form::factor: return "::factor";
    case statistics_form::gram: return "::gram";
    case statistics_form::second_moment: return "::second_moment";
  }
  return "";
}

/// The statistics of one parameter's input.
struct statistics_entry {
  statistics_form form = statistics_form::rows;  ///< the form of `data`
  const tensor_entry* data = nullptr;  ///< in an open file, never null; shaped by the form
  std::int64_t row_count = 0;          ///< n >= 1, the number of input rows
  std::string owner;  ///< the entry's own parameter, the same for all that share it
};

namespace detail {

/// Splits "P::gram" at its last "::". Throws error for an unknown form.
inline std::pair<std::string, statistics_form> split_statistics_name(
    const std::filesystem::path& file, const std::string& name) {
  const std::size_t split = name.rfind("::");
  if (split == std::string::npos) return {name, statistics_form::rows};
  for (const auto form :
       {statistics_form::factor, statistics_form::gram, statistics_form::second_moment}) {
    if (name.substr(split) == suffix_of(form)) return {name.substr(0, split), form};
  }
  fail(file, name, "unknown statistics: expected ::factor, ::gram or ::second_moment");
}

inline void check_statistics_tensor(const std::filesystem::path& file, const tensor_info& info,
                                    statistics_form form) {
  const std::size_t rank = form == statistics_form::second_moment ? 1 : 2;
  const bool square =
      form != statistics_form::gram || (info.shape.size() == 2 && info.shape[0] == info.shape[1]);
  if (!scalar_of(info.type)) {
    fail(file, info.name, "expected F64, F32, F16 or BF16, found " + describe(info));
  }
  if (info.shape.size() != rank || !square) {
    const char* const expected = rank == 1 ? "one extent" : square ? "two extents" : "a square";
    fail(file, info.name, std::string("expected ") + expected + ", found " + describe(info));
  }
}

/// A decimal number that is at least 1.
inline std::int64_t parse_row_count(const std::filesystem::path& file, const std::string& tensor,
                                    const std::string& text) {
  const bool decimal = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!decimal || text.size() > 18 || std::stoll(text) < 1) {
    fail(file, tensor,
         "the row count in the metadata: expected a positive number, found " + in_quotes(text));
  }
  return std::stoll(text);
}

}  // namespace detail

/// An open file of features. Everything except the values is checked.
class statistics_file {
 public:
  /// Throws error, naming the file and the tensor, if the file cannot be read or breaks the format.
  explicit statistics_file(const std::filesystem::path& path) : tensors_(path) {
    for (const std::string& name : tensors_.names()) {
      const auto [parameter, form] = detail::split_statistics_name(path, name);
      const tensor_entry& data = tensors_.at(name);
      detail::check_statistics_tensor(path, data, form);
      if (!entries_.emplace(parameter, make_entry(parameter, form, data)).second) {
        fail(path, parameter, "has statistics of more than one form");
      }
      names_.push_back(parameter);
    }
    read_metadata();
  }

  /// The path of the file or folder, as given.
  const std::filesystem::path& path() const { return tensors_.path(); }

  /// The parameters that have statistics: in the order of the file, then the aliases by name.
  const std::vector<std::string>& names() const { return names_; }

  /// The statistics of a parameter, its own or shared ones; null if there are none.
  const statistics_entry* find(std::string_view parameter) const {
    const auto found = entries_.find(parameter);
    return found == entries_.end() ? nullptr : &found->second;
  }
  /// The same. Throws error if there are none.
  const statistics_entry& at(std::string_view parameter) const {
    const statistics_entry* const entry = find(parameter);
    if (entry == nullptr) fail(path(), parameter, "has no statistics in the file");
    return *entry;
  }

  /// As mapped_file::release, for the parameter's data, which other parameters may share.
  void release(std::string_view parameter) const {
    if (const auto* const entry = find(parameter)) tensors_.release(entry->data->name);
  }
  /// As mapped_file::prefetch, likewise.
  void prefetch(std::string_view parameter) const {
    if (const auto* const entry = find(parameter)) tensors_.prefetch(entry->data->name);
  }

 private:
  statistics_entry make_entry(const std::string& parameter, statistics_form form,
                              const tensor_entry& data) const {
    const auto stated = tensors_.metadata().find("rows:" + parameter);
    std::optional<std::int64_t> count;
    if (stated != tensors_.metadata().end()) {
      count = detail::parse_row_count(path(), data.name, stated->second);
    }
    if (form == statistics_form::rows) {
      if (data.shape[0] < 1) fail(path(), data.name, "has no rows: " + describe(data));
      if (count && *count != data.shape[0]) {
        fail(path(), data.name,
             "has " + std::to_string(data.shape[0]) + " rows, the metadata says " +
                 std::to_string(*count));
      }
      count = data.shape[0];
    }
    if (!count) {
      fail(path(), data.name,
           "expected its row count in the metadata, under " + in_quotes("rows:" + parameter) +
               ", found none");
    }
    return {form, &data, *count, parameter};
  }

  void read_metadata() {
    const auto after = [](const std::string& key, std::string_view prefix) {
      return key.starts_with(prefix) ? std::optional(key.substr(prefix.size())) : std::nullopt;
    };
    std::map<std::string, statistics_entry> aliases;
    for (const auto& [key, value] : tensors_.metadata()) {
      if (const auto parameter = after(key, "rows:"); parameter && find(*parameter) == nullptr) {
        fail(path(), *parameter, "has a row count in the metadata, but no statistics");
      }
      const auto alias = after(key, "alias:");
      if (!alias) continue;
      if (find(*alias) != nullptr) {
        fail(path(), *alias, "has statistics of its own and is an alias of " + in_quotes(value));
      }
      const statistics_entry* const target = find(value);
      if (target == nullptr) {
        fail(path(), *alias,
             "is an alias of " + in_quotes(value) + ", which has no statistics" +
                 (tensors_.metadata().contains("alias:" + value)
                      ? " of its own (an alias of an alias is not allowed)"
                      : ""));
      }
      aliases.emplace(*alias, *target);
    }
    for (auto& [alias, entry] : aliases) {
      names_.push_back(alias);
      entries_.emplace(alias, std::move(entry));
    }
  }

  checkpoint tensors_;
  std::map<std::string, statistics_entry, std::less<>> entries_;
  std::vector<std::string> names_;
};

/// Writes a file of features; see the top of this header for the format, tensor_sink for the use.
class statistics_writer {
 public:
  /// One parameter's entry.
  struct declaration {
    std::string parameter;                         ///< its name, without "::"
    statistics_form form = statistics_form::rows;  ///< the form of its data
    dtype type = dtype::f32;                       ///< of the data: f64, f32, f16 or bf16
    shape_t shape;                                 ///< [m, d_in], [d_in, d_in] or [d], by the form
    std::int64_t row_count = 0;                    ///< n >= 1; for plain rows shape[0]
  };

  /// `aliases`: parameters without an entry, each with the declared parameter that has the same
  /// input. Throws error for an entry that statistics_file would refuse, and for a file that exists
  /// if `how` refuses that.
  statistics_writer(const std::filesystem::path& path, const std::vector<declaration>& declarations,
                    const std::map<std::string, std::string>& aliases = {},
                    metadata_t metadata = {}, existing how = existing::replace) {
    std::vector<tensor_info> tensors;
    for (const declaration& each : declarations) {
      tensors.push_back(
          {each.parameter + std::string(suffix_of(each.form)), each.type, each.shape});
      const tensor_info& added = tensors.back();
      detail::check_statistics_tensor(path, added, each.form);
      if (detail::split_statistics_name(path, added.name) != std::pair(each.parameter, each.form)) {
        fail(path, each.parameter, "a parameter's name cannot contain '::'");
      }
      if (each.row_count < 1 ||
          (each.form == statistics_form::rows && each.row_count != each.shape[0])) {
        fail(
            path, added.name,
            "the row count " + std::to_string(each.row_count) + " does not fit " + describe(added));
      }
      if (!data_names_.emplace(each.parameter, added.name).second) {
        fail(path, each.parameter, "is declared twice");
      }
      metadata["rows:" + each.parameter] = std::to_string(each.row_count);
    }
    for (const auto& [alias, owner] : aliases) {
      if (data_names_.contains(alias) || !data_names_.contains(owner)) {
        fail(path, alias,
             "cannot be an alias of " + in_quotes(owner) +
                 ": it has statistics of its own, or that one has none");
      }
      metadata["alias:" + alias] = owner;
    }
    file_ = std::make_unique<safetensors_writer>(path, std::move(tensors), metadata, how);
    path_ = path;
  }

  /// As tensor_sink::append, by the parameter's name.
  void append(std::string_view parameter, std::span<const std::byte> bytes) {
    file_->append(data_name(parameter), bytes);
  }
  /// As tensor_sink::write, by the parameter's name.
  void write(std::string_view parameter, std::span<const std::byte> bytes) {
    file_->write(data_name(parameter), bytes);
  }
  /// As tensor_sink::commit.
  void commit() { file_->commit(); }

 private:
  const std::string& data_name(std::string_view parameter) const {
    const auto found = data_names_.find(parameter);
    if (found == data_names_.end()) fail(path_, parameter, "was not declared");
    return found->second;
  }

  std::filesystem::path path_;
  std::map<std::string, std::string, std::less<>> data_names_;  // by parameter
  std::unique_ptr<safetensors_writer> file_;
};

}  // namespace catmerge::io

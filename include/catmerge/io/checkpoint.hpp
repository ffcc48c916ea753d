// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/folder_kind.hpp>
#include <catmerge/io/npy.hpp>
#include <catmerge/io/safetensors.hpp>
#include <catmerge/io/shard_index.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// The layout of a table of named tensors on the disk.
enum class checkpoint_format {
  safetensors_file,     ///< one file, or an index given by its path
  npy_folder,           ///< NAME.npy for each tensor
  hugging_face_folder,  ///< model.safetensors (or shards and their index), config.json and more
};

/// Named tensors on the disk, in any of these formats:
/// - a safetensors file;
/// - an index of such files (NAME.json), read as one file;
/// - a Hugging Face folder: model.safetensors, or model.safetensors.index.json and its shards,
///   usually with config.json;
/// - a folder of .npy files, one for each tensor.
///
/// Only headers are read until a tensor's bytes are touched. Reading is thread-safe.
///
/// If an index and its shards disagree, the shards count, as for transformers: a tensor of a shard
/// is there even if the index does not list it (warnings()); a listed tensor that no shard holds is
/// not (absent()). If two shards hold a tensor, the one in the index counts.
///
///     const catmerge::io::checkpoint base("clip-vit-base-patch32");
///     for (const std::string& name : base.names()) use(base.at(name).bytes), base.release(name);
///
/// Entries stay valid while the object lives, also after a move.
class checkpoint {
 public:
  /// Throws error, naming the file and the tensor, if there is no checkpoint, if a file breaks its
  /// format, if a shard is missing, or if two shards hold a tensor and the index lists it for
  /// neither.
  explicit checkpoint(std::filesystem::path path) : path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (!fs::is_directory(path_, ignored)) {
      format_ = checkpoint_format::safetensors_file;
      if (path_.extension() == ".json")
        open_shards(path_);
      else
        open_file(path_);
    } else if (fs::exists(path_ / "model.safetensors", ignored)) {
      format_ = checkpoint_format::hugging_face_folder;
      open_file(path_ / "model.safetensors");
    } else if (fs::exists(path_ / "model.safetensors.index.json", ignored)) {
      format_ = checkpoint_format::hugging_face_folder;
      open_shards(path_ / "model.safetensors.index.json");
    } else {
      format_ = checkpoint_format::npy_folder;
      open_arrays();
    }
    for (const safetensors_file& file : files_) {
      metadata_.insert(file.metadata().begin(), file.metadata().end());
    }
    for (const npy_file& file : arrays_) {
      add(file.entry(), file.is_copy() ? nullptr : &file.mapping());
    }
    sort_by_name(tensors_);
  }

  checkpoint(checkpoint&&) = default;             ///< Entries stay valid.
  checkpoint& operator=(checkpoint&&) = default;  ///< Entries of the right-hand side stay valid.

  /// Oddities of the files that do not prevent reading: a sentence each, naming file and tensors.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// Names of tensors that the index lists and no shard holds; names() lacks them.
  const std::vector<std::string>& absent() const { return absent_; }

  /// The path of the file or folder, as given.
  const std::filesystem::path& path() const { return path_; }
  /// The format found there.
  checkpoint_format format() const { return format_; }

  /// Names of all tensors, in the order of the file or of the shards' names; .npy files by name.
  const std::vector<std::string>& names() const { return names_; }
  /// The number of tensors.
  std::size_t size() const { return names_.size(); }

  /// The tensor of that name, or null.
  const tensor_entry* find(std::string_view name) const { return mapping_of(name).entry; }
  /// The tensor of that name. Throws error if there is none.
  const tensor_entry& at(std::string_view name) const {
    const tensor_entry* const entry = find(name);
    if (entry == nullptr) fail(path_, name, "is not in the checkpoint");
    return *entry;
  }

  /// Renames each tensor to new_name(name). Entries keep the name in their file. Throws error if
  /// two tensors get the same name.
  template <class NewName>
  void rename(const NewName& new_name) {
    std::vector<std::string> names;
    for (const std::string& name : names_) names.push_back(new_name(name));
    std::vector<mapping> tensors;
    for (std::size_t i = 0; i < names.size(); ++i) {
      tensors.push_back(mapping_of(names_[i]));
      tensors.back().name = names[i];
    }
    sort_by_name(tensors);
    const auto twice =
        std::adjacent_find(tensors.begin(), tensors.end(),
                           [](const mapping& a, const mapping& b) { return a.name == b.name; });
    if (twice != tensors.end()) {
      fail(path_, std::next(twice)->entry->name,
           "would get the name of another tensor, " + in_quotes(twice->name));
    }
    names_ = std::move(names);  // the strings keep their addresses
    tensors_ = std::move(tensors);
  }

  /// A tensor of another file, and the name that it gets here.
  struct laid_over {
    std::string name;           ///< among this checkpoint's names, or a new one
    const tensor_entry* entry;  ///< its values
    const mapped_file* file;    ///< that holds them
  };

  /// Lays tensors of other files, which must outlive this object, over these: each takes the place
  /// of the tensor of its name, or follows the last. Precondition: their names differ.
  void lay_over(const std::vector<laid_over>& tensors) {
    std::vector<std::string> names = names_;
    for (const laid_over& each : tensors)
      if (find(each.name) == nullptr) names.push_back(each.name);
    std::vector<mapping> found;
    for (const std::string& name : names) {
      const auto above = std::find_if(tensors.begin(), tensors.end(),
                                      [&](const laid_over& each) { return each.name == name; });
      found.push_back(above == tensors.end() ? mapping_of(name)
                                             : mapping{above->entry, above->file});
      found.back().name = name;
    }
    sort_by_name(found);
    names_ = std::move(names);  // the strings keep their addresses
    tensors_ = std::move(found);
  }

  /// The metadata of all files; if shards disagree on a key, the first one counts.
  const metadata_t& metadata() const { return metadata_; }

  /// config.json in the folder, if the checkpoint is a folder and has one.
  std::optional<std::filesystem::path> config() const {
    std::error_code ignored;
    const std::filesystem::path config = path_ / "config.json";
    if (format_ == checkpoint_format::safetensors_file ||
        !std::filesystem::is_regular_file(config, ignored)) {
      return std::nullopt;
    }
    return config;
  }

  /// As mapped_file::release, for a tensor or a part of its bytes. Does nothing for an unknown name
  /// and for a tensor in memory (see npy_file).
  void release(std::string_view name) const {
    if (const mapping found = mapping_of(name); found.file) found.file->release(found.entry->bytes);
  }
  /// The same for `part` of the tensor's bytes.
  void release(std::string_view name, std::span<const std::byte> part) const {
    if (const mapping found = mapping_of(name); found.file) found.file->release(part);
  }
  /// As mapped_file::prefetch; does nothing for the same tensors as release.
  void prefetch(std::string_view name) const {
    if (const mapping found = mapping_of(name); found.file) {
      found.file->prefetch(found.entry->bytes);
    }
  }
  /// The same for `part` of the tensor's bytes.
  void prefetch(std::string_view name, std::span<const std::byte> part) const {
    if (const mapping found = mapping_of(name); found.file) found.file->prefetch(part);
  }

 private:
  struct mapping {
    const tensor_entry* entry = nullptr;
    const mapped_file* file = nullptr;  // null if the bytes are not mapped
    std::string_view name{};            // of the entry, or of names_ after a rename
  };

  static void sort_by_name(std::vector<mapping>& tensors) {
    std::sort(tensors.begin(), tensors.end(),
              [](const mapping& a, const mapping& b) { return a.name < b.name; });
  }

  mapping mapping_of(std::string_view name) const {
    const auto found = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const mapping& each, std::string_view wanted) { return each.name < wanted; });
    return found == tensors_.end() || found->name != name ? mapping{} : *found;
  }

  void add(const tensor_entry& entry, const mapped_file* file) {
    tensors_.push_back({&entry, file, entry.name});
    names_.push_back(entry.name);
  }

  void open_file(const std::filesystem::path& path) {
    const safetensors_file& file = files_.emplace_back(path);
    for (const tensor_entry& entry : file.entries()) add(entry, &file.mapping());
  }

  void open_shards(const std::filesystem::path& index_path) {
    const shard_index index = read_shard_index(index_path);
    const std::filesystem::path folder = index_path.parent_path();
    require_shards(index_path, index);
    for (const std::string& file_name : index.files) files_.emplace_back(folder / file_name);

    // The file of each tensor: the one in the index or, without an index entry, the one that holds
    // it.
    struct place {
      std::size_t file;
      bool listed;                       // in the index, for this file
      std::optional<std::size_t> other;  // another file that holds it
    };
    std::map<std::string_view, place> places;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const std::string file_name = files_[i].path().filename().string();
      for (const tensor_entry& entry : files_[i].entries()) {
        const auto row = index.file_of.find(entry.name);
        const bool listed = row != index.file_of.end() && row->second == file_name;
        const auto [found, is_first] = places.emplace(entry.name, place{i, listed, {}});
        if (is_first) continue;
        if (listed)
          found->second = {i, true, found->second.file};
        else
          found->second.other = i;
      }
    }
    for (const auto& [name, found] : places) {
      if (found.listed || !found.other) continue;
      fail(index_path, name,
           "stands in " + files_[found.file].path().filename().string() + " and in " +
               files_[*found.other].path().filename().string() +
               ", and the index lists it for neither: add it to the index");
    }
    for (std::size_t i = 0; i < files_.size(); ++i) {
      std::vector<std::string> unlisted, elsewhere, passed_over;
      for (const tensor_entry& entry : files_[i].entries()) {
        const place& found = places.at(entry.name);
        if (found.file != i) {
          passed_over.push_back(entry.name);
          continue;
        }
        add(entry, &files_[i].mapping());
        if (!found.listed)
          (index.file_of.contains(entry.name) ? elsewhere : unlisted).push_back(entry.name);
      }
      warn(files_[i].path(), unlisted, "the index does not list it; it is used all the same",
           "the index does not list them; they are used all the same");
      warn(files_[i].path(), elsewhere,
           "the index lists it for another file, which has none; it is used from here",
           "the index lists them for other files, which have none; they are used from here");
      warn(files_[i].path(), passed_over,
           "the index lists it for another file, and that one is used",
           "the index lists them for other files, and those are used");
    }
    for (const auto& [name, file] : index.file_of) {
      if (!places.contains(name)) absent_.push_back(name);
    }
  }

  /// Throws error naming the first file of the index that the folder lacks.
  void require_shards(const std::filesystem::path& index_path, const shard_index& index) const {
    const std::filesystem::path folder = index_path.parent_path();
    std::error_code ignored;
    for (const std::string& file_name : index.files) {
      if (std::filesystem::exists(folder / file_name, ignored)) continue;
      const std::string* first = nullptr;
      std::size_t count = 0;
      for (const auto& [name, file] : index.file_of) {
        if (file == file_name && ++count == 1) first = &name;
      }
      fail(folder / file_name,
           "cannot open: there is no such file, but " + index_path.filename().string() +
               " lists it for tensor " + in_quotes(*first) +
               (count > 1 ? " and " + std::to_string(count - 1) + " more" : "") +
               ": download the missing shard");
    }
  }

  void warn(const std::filesystem::path& file, const std::vector<std::string>& tensors,
            const std::string& about_one, const std::string& about_some) {
    if (tensors.empty()) return;
    const bool is_one = tensors.size() == 1;
    warnings_.push_back(file.string() + (is_one ? ": tensor " : ": tensors ") +
                        list_in_quotes(tensors) + ": " + (is_one ? about_one : about_some));
  }

  void open_arrays() {
    std::vector<std::filesystem::path> found;
    std::error_code problem;
    for (std::filesystem::directory_iterator it(path_, problem), end; !problem && it != end;
         it.increment(problem)) {
      const std::filesystem::path& file = it->path();
      if (file.extension() == ".npy" && file.filename().native().front() != '.') {
        found.push_back(file);
      }
    }
    if (problem) fail(path_, "cannot list the folder: " + problem.message());
    if (found.empty()) fail(path_, describe_other_folder(path_));
    std::sort(found.begin(), found.end());
    for (const std::filesystem::path& file : found)
      arrays_.emplace_back(file, file.stem().string());
  }

  std::filesystem::path path_;
  checkpoint_format format_ = checkpoint_format::safetensors_file;
  std::vector<safetensors_file> files_;
  std::vector<npy_file> arrays_;
  metadata_t metadata_;
  std::vector<std::string> names_, warnings_, absent_;
  std::vector<mapping> tensors_;  // into files_ and arrays_, sorted by name
};

}  // namespace catmerge::io

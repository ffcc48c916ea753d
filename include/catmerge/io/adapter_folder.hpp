// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/adapter_config.hpp>
#include <catmerge/io/safetensors.hpp>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// @file
/// LoRA adapters as PEFT saves them: adapter_config.json and adapter_model.safetensors in a folder.
/// A tensor is called `base_model.model.`, then its module in the base, then its part.
///
/// | layer       | parts                                    | shapes                         |
/// |-------------|------------------------------------------|--------------------------------|
/// | linear      | .lora_A.weight, .lora_B.weight           | r x d_in, d_out x r            |
/// | embedding   | .lora_embedding_A, .lora_embedding_B     | r x tokens, d x r              |
/// | convolution | .lora_A.weight, .lora_B.weight           | r x C_in x k..., C_out x r x 1... |
/// | any         | .lora_B.bias                             | d_out (with lora_bias)         |
/// | held whole  | .weight, .bias, .base_layer.weight, ...  | as in the base                 |
namespace catmerge::io {

/// The layer that a pair of factors belongs to, and so the shape of its weight.
enum class adapter_layer {
  linear,             ///< d_out x d_in; the difference is s B A
  transposed_linear,  ///< d_in x d_out, as Conv1D of GPT-2 is stored; (s B A)^T
  embedding,          ///< tokens x d; (s B A)^T, with d_out = d and d_in the number of tokens
  convolution         ///< C_out x C_in x kernel; s B A, where A has C_in times kernel columns
};

/// The factors of one parameter of the base.
struct adapter_target {
  std::string module;                           ///< its module, as the adapter calls it
  adapter_layer layer = adapter_layer::linear;  ///< linear: fan_in_fan_out of the configuration
  const tensor_entry* a = nullptr;              ///< A: the first extent is r
  const tensor_entry* b = nullptr;              ///< B: d_out x r, and extents of 1
  const tensor_entry* bias = nullptr;  ///< B's bias, of d_out entries; null if there is none
  double scale = 1;                    ///< s
  index_t rank = 0;                    ///< r
  index_t d_out = 0;                   ///< rows of B
  index_t d_in = 0;                    ///< columns of A as a matrix of r rows

  /// The name of the parameter: MODULE.weight.
  std::string name() const { return module + ".weight"; }
  /// The name of the parameter that s times B's bias is added to: MODULE.bias.
  std::string bias_name() const { return module + ".bias"; }
  /// The shape of the parameter in the base.
  shape_t shape() const {
    if (layer == adapter_layer::linear) return {d_out, d_in};
    if (layer != adapter_layer::convolution) return {d_in, d_out};
    shape_t extents = a->shape;
    extents[0] = d_out;
    return extents;
  }
};

/// A tensor that replaces a parameter of the base, or a new one: a head, a bias, a resized
/// embedding. If a target has the same name, its difference is added to this tensor.
struct adapter_tensor {
  std::string name;                     ///< of the parameter
  const tensor_entry* entry = nullptr;  ///< its values
};

/// The tensors of an adapter, by their meaning.
struct adapter_tensors {
  std::vector<adapter_target> targets;   ///< sorted by module
  std::vector<adapter_tensor> replaced;  ///< sorted by name
  /// Tensors that PEFT does not use: the original values of modules that the adapter replaces, and
  /// second copies of replaced tensors, equal to the first. Saved with bias = "all".
  std::vector<const tensor_entry*> unused;
};

namespace detail {

inline constexpr std::string_view adapter_prefix = "base_model.model.";

/// Sorts an adapter's tensors. Messages name the file and the tensor.
class adapter_sorter {
 public:
  adapter_sorter(const adapter_config& config, const std::filesystem::path& file)
      : config_(config), file_(file) {}

  adapter_tensors run(std::span<const tensor_entry> entries) {
    for (const tensor_entry& entry : entries) add(entry);
    adapter_tensors result;
    for (const auto& [module, found] : parts_) result.targets.push_back(target(module, found));
    if (result.targets.empty()) {
      fail(file_,
           "holds no factors: expected tensors such as "
           "'base_model.model.MODULE.lora_A.weight'");
    }
    for (const tensor_entry* copy : copies_) check_copy(*copy);
    for (const auto& [name, held] : replaced_) {
      if (name.ends_with(".weight") && !held.is_base_layer &&
          parts_.contains(name.substr(0, name.size() - 7))) {
        fail(file_, held.entry->name,
             "replaces a weight that has factors, too: PEFT would call it '...base_layer.weight'");
      }
      result.replaced.push_back({name, held.entry});
    }
    unused_.insert(unused_.end(), copies_.begin(), copies_.end());
    result.unused = std::move(unused_);
    return result;
  }

 private:
  enum part { linear_a, linear_b, embedding_a, embedding_b, linear_bias, part_count };
  using parts = std::array<const tensor_entry*, part_count>;
  struct held_tensor {
    const tensor_entry* entry;
    bool is_base_layer;
  };
  static constexpr std::array<std::string_view, part_count> suffixes = {
      ".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_B.bias"};

  static bool has_component(std::string_view path, std::string_view component) {
    for (std::size_t at = 0; at <= path.size();) {
      const std::size_t end = std::min(path.find('.', at), path.size());
      if (path.substr(at, end - at) == component) return true;
      at = end + 1;
    }
    return false;
  }

  void add(const tensor_entry& entry) {
    std::string_view path = entry.name;
    if (!path.starts_with(adapter_prefix) || path.size() == adapter_prefix.size()) {
      fail(file_, entry.name,
           "expected a name that begins with 'base_model.model.', as PEFT's save_pretrained writes "
           "it: save the adapter with that");
    }
    path.remove_prefix(adapter_prefix.size());
    refuse_unsupported(entry, path);
    for (std::size_t i = 0; i < part_count; ++i) {
      if (path.size() <= suffixes[i].size() || !path.ends_with(suffixes[i])) continue;
      const std::string_view module = path.substr(0, path.size() - suffixes[i].size());
      if (has_component(module, "base_layer")) {
        fail(file_, entry.name,
             "belongs to a layer inside a layer, as of torch.nn.MultiheadAttention or stacked "
             "parameters, which are not read here; " +
                 std::string(merge_in_peft));
      }
      if (!scalar_of(entry.type)) {
        fail(file_, entry.name,
             "expected floating-point values of 16 bits or more, found " + describe(entry));
      }
      parts_[std::string(module)][i] = &entry;
      return;
    }
    if (path.find("lora_") == 0 || path.find(".lora_") != std::string_view::npos) {
      fail(file_, entry.name,
           "unknown part of an adapter: expected a name that ends in .lora_A.weight, "
           ".lora_B.weight, .lora_B.bias, .lora_embedding_A or .lora_embedding_B (PEFT's "
           "save_pretrained and get_peft_model_state_dict leave the adapter's own name out)");
    }
    add_replaced(entry, path);
  }

  void refuse_unsupported(const tensor_entry& entry, std::string_view path) const {
    if (path.ends_with(".lora_magnitude_vector") ||
        path.ends_with(".lora_magnitude_vector.weight")) {
      fail(file_, entry.name,
           "is a magnitude vector of DoRA, though use_dora is not set in adapter_config.json: "
           "correct the configuration, and " +
               std::string(merge_in_peft));
    }
    if (has_component(path, "token_adapter")) {
      fail(file_, entry.name,
           "holds trained tokens, though trainable_token_indices is not set in "
           "adapter_config.json: correct the configuration, and " +
               std::string(merge_in_peft));
    }
  }

  /// Takes a tensor that is held whole. `path` is its name without the prefix.
  void add_replaced(const tensor_entry& entry, std::string_view path) {
    if (has_component(path, "original_module")) {
      unused_.push_back(&entry);
      return;
    }
    if (has_component(path, "modules_to_save")) {
      copies_.push_back(&entry);
      return;
    }
    std::string name(path);
    constexpr std::string_view inner = ".base_layer.";
    const std::size_t at = path.rfind(inner);
    if (at != std::string_view::npos) {
      name = std::string(path.substr(0, at + 1)) + std::string(path.substr(at + inner.size()));
    }
    if (has_component(name, "base_layer")) {
      fail(file_, entry.name,
           "belongs to a layer inside a layer, which is not read here; " +
               std::string(merge_in_peft));
    }
    const auto [found, is_new] =
        replaced_.emplace(name, held_tensor{&entry, at != std::string_view::npos});
    if (!is_new) {
      fail(file_, entry.name,
           "replaces the same parameter as tensor " + in_quotes(found->second.entry->name));
    }
  }

  /// A tensor of a saved module under PEFT's inner name. Older files have no other copy.
  void check_copy(const tensor_entry& copy) {
    constexpr std::string_view inner = ".modules_to_save.";
    std::string name = copy.name.substr(adapter_prefix.size());
    const std::size_t at = name.find(inner);
    if (at == std::string::npos) fail(file_, copy.name, "unknown part of a saved module");
    name.replace(at, inner.size(), ".");
    const auto found = replaced_.find(name);
    if (found == replaced_.end()) {
      fail(file_, copy.name,
           "expected a tensor " + in_quotes(std::string(adapter_prefix) + name) +
               " of the saved module: save the adapter with PEFT's save_pretrained");
    }
    const tensor_entry& first = *found->second.entry;
    if (first.type != copy.type || first.shape != copy.shape ||
        !std::equal(first.bytes.begin(), first.bytes.end(), copy.bytes.begin(), copy.bytes.end())) {
      fail(file_, copy.name,
           "differs from tensor " + in_quotes(first.name) +
               ", which is the same parameter: save the adapter again");
    }
  }

  adapter_target target(const std::string& module, const parts& found) const {
    const bool is_embedding = found[embedding_a] != nullptr || found[embedding_b] != nullptr;
    const bool is_linear = found[linear_a] != nullptr || found[linear_b] != nullptr;
    if (is_embedding && is_linear) {
      const tensor_entry* one =
          found[embedding_a] != nullptr ? found[embedding_a] : found[embedding_b];
      const tensor_entry* other = found[linear_a] != nullptr ? found[linear_a] : found[linear_b];
      fail(file_, one->name,
           "the same module has factors of another kind: tensor " + in_quotes(other->name));
    }
    adapter_target result;
    result.module = module;
    result.bias = found[linear_bias];
    if (is_embedding) {
      result.layer = adapter_layer::embedding;
      result.a = found[embedding_a], result.b = found[embedding_b];
    } else {
      result.a = found[linear_a], result.b = found[linear_b];
    }
    if (result.a == nullptr || result.b == nullptr) fail_incomplete(module, found);
    const std::size_t rank = is_embedding ? 2 : result.a->shape.size();
    if (rank < 2 || rank > 5) {
      fail(file_, result.a->name, "expected 2 to 5 extents, found " + describe(*result.a));
    }
    if (rank > 2) {
      result.layer = adapter_layer::convolution;
    } else if (!is_embedding && config_.fan_in_fan_out) {
      result.layer = adapter_layer::transposed_linear;
    }
    check_factors(result, rank);
    check_bias(result);
    result.scale = config_.scale_of(module);
    return result;
  }

  [[noreturn]] void fail_incomplete(const std::string& module, const parts& found) const {
    for (std::size_t i = 0; i < part_count; ++i) {
      if (found[i] == nullptr) continue;
      constexpr std::array<part, part_count> partners = {linear_b, linear_a, embedding_b,
                                                         embedding_a, linear_b};
      const part partner = partners[i];
      fail(file_, found[i]->name,
           "has no partner: expected a tensor " +
               in_quotes(std::string(adapter_prefix) + module + std::string(suffixes[partner])) +
               ", found none (is the file cut, or were sharded factors not gathered?)");
    }
    fail(file_, module, "has no factors");
  }

  /// Sets r, d_out and d_in. `rank` is the number of extents.
  void check_factors(adapter_target& target, std::size_t rank) const {
    const tensor_entry &a = *target.a, &b = *target.b;
    for (const tensor_entry* each : {&a, &b}) {
      if (std::count(each->shape.begin(), each->shape.end(), 0) > 0) {
        fail(file_, each->name,
             "is empty, " + describe(*each) +
                 ": sharded factors were perhaps not gathered before they were saved");
      }
    }
    const bool has_extents = a.shape.size() == rank && b.shape.size() == rank;
    if (!has_extents || std::any_of(b.shape.begin() + 2, b.shape.end(),
                                    [](index_t extent) { return extent != 1; })) {
      fail(file_, b.name,
           "expected d_out x r" + std::string(rank > 2 ? " and extents of 1" : "") + " beside A, " +
               describe(a) + ", found " + describe(b));
    }
    target.rank = a.shape[0];
    target.d_out = b.shape[0];
    target.d_in = static_cast<index_t>(*element_count(a.shape)) / target.rank;
    if (b.shape[1] != target.rank) {
      fail(file_, b.name,
           "expected the rank " + std::to_string(target.rank) + " of A, " + describe(a) +
               ", as second extent, found " + describe(b) +
               (rank > 2 ? " (a convolution in groups cannot be merged)" : ""));
    }
    const index_t wanted = config_.rank.of(target.module);
    if (target.rank != wanted) {
      fail(file_, a.name,
           "expected the rank " + std::to_string(wanted) +
               " of adapter_config.json (r and rank_pattern), found " + describe(a) +
               ": the configuration belongs to another adapter, and its scale would be wrong");
    }
    const index_t most = std::numeric_limits<index_t>::max() / target.d_in;
    if (target.d_out > most) fail(file_, b.name, "the product of the factors is absurdly large");
  }

  void check_bias(const adapter_target& target) const {
    if (target.bias == nullptr) {
      if (config_.lora_bias && target.layer != adapter_layer::embedding) {
        fail(file_, target.b->name,
             "has no bias beside it, though lora_bias is set in adapter_config.json");
      }
      return;
    }
    if (!config_.lora_bias || target.layer == adapter_layer::embedding) {
      fail(file_, target.bias->name,
           "is a bias of B, though lora_bias is not set in adapter_config.json: PEFT would ignore "
           "it; remove it or set lora_bias");
    }
    if (target.bias->shape != shape_t{target.d_out}) {
      fail(file_, target.bias->name,
           "expected " + to_string({target.d_out}) + " beside B, " + describe(*target.b) +
               ", found " + describe(*target.bias));
    }
  }

  const adapter_config& config_;
  const std::filesystem::path& file_;
  std::map<std::string, parts> parts_;           // by module
  std::map<std::string, held_tensor> replaced_;  // by name in the base
  std::vector<const tensor_entry*> copies_, unused_;
};

/// A sentence on a folder that holds no adapter, and a remedy.
inline std::string describe_no_adapter(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> inside;
  std::error_code problem, ignored;
  for (fs::directory_iterator it(folder, problem), end; !problem && it != end;
       it.increment(problem)) {
    if (fs::exists(it->path() / "adapter_config.json", ignored)) {
      inside.push_back(it->path().filename().string());
    }
  }
  if (problem) fail(folder, "cannot list the folder: " + problem.message());
  std::sort(inside.begin(), inside.end());
  std::string text =
      "holds no adapter: expected adapter_config.json and "
      "adapter_model.safetensors";
  if (inside.empty()) return text;
  return text + "; there are adapters in its folders " + list_in_quotes(inside) +
         " (PEFT saves an adapter that is not called 'default' into a folder of its name): name "
         "one of them, such as " +
         (folder / inside.front()).string();
}

}  // namespace detail

/// Sorts the tensors of an adapter by their meaning and checks names and shapes. `file` is for
/// messages; the entries must outlive the result. Throws error, naming the file and the tensor, for
/// a factor without its partner, factors that do not fit each other or the configuration, parts of
/// kinds of adapters that the configuration does not have, and unknown names.
inline adapter_tensors sort_adapter_tensors(const adapter_config& config,
                                            std::span<const tensor_entry> entries,
                                            const std::filesystem::path& file) {
  return detail::adapter_sorter(config, file).run(entries);
}

/// True if a folder is an adapter of PEFT: it holds adapter_config.json.
inline bool is_adapter_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder / "adapter_config.json", ignored);
}

/// A LoRA adapter in a folder of PEFT's. Only headers are read until a tensor's bytes are touched.
///
///     const catmerge::io::adapter mnli("adapters/mnli");
///     for (const auto& target : mnli.targets())
///       std::cout << target.name() << ": rank " << target.rank << ", scale " << target.scale;
///
/// Targets and entries stay valid while the object lives, also after a move.
class adapter {
 public:
  /// Throws error if the folder holds no adapter, if its configuration is refused (see
  /// parse_adapter_config), or if its tensors are (see sort_adapter_tensors).
  explicit adapter(std::filesystem::path folder)
      : path_(checked(std::move(folder))),
        config_(read_adapter_config(path_ / "adapter_config.json")),
        file_(weights_of(path_)),
        tensors_(sort_adapter_tensors(config_, file_.entries(), file_.path())) {}

  /// The folder, as given.
  const std::filesystem::path& path() const { return path_; }
  /// The contents of adapter_config.json.
  const adapter_config& config() const { return config_; }
  /// The file of its tensors.
  const safetensors_file& file() const { return file_; }

  /// Its tensors, by their meaning.
  const adapter_tensors& tensors() const { return tensors_; }
  /// The factors, sorted by module.
  const std::vector<adapter_target>& targets() const { return tensors_.targets; }
  /// The tensors that it holds whole, sorted by name.
  const std::vector<adapter_tensor>& replaced() const { return tensors_.replaced; }

 private:
  static std::filesystem::path checked(std::filesystem::path folder) {
    std::error_code ignored;
    if (!std::filesystem::exists(folder, ignored)) fail(folder, "there is no such folder");
    if (!std::filesystem::is_directory(folder, ignored)) {
      fail(folder,
           "expected the folder of an adapter, found a file: name the folder that holds "
           "adapter_config.json");
    }
    if (!is_adapter_folder(folder)) fail(folder, detail::describe_no_adapter(folder));
    return folder;
  }

  static std::filesystem::path weights_of(const std::filesystem::path& folder) {
    std::error_code ignored;
    std::filesystem::path weights = folder / "adapter_model.safetensors";
    if (std::filesystem::exists(weights, ignored)) return weights;
    if (std::filesystem::exists(folder / "adapter_model.bin", ignored)) {
      fail(folder / "adapter_model.bin",
           "is a PyTorch file, and there is no adapter_model.safetensors beside it: convert it "
           "(python: safetensors.torch.save_file(torch.load('adapter_model.bin', "
           "weights_only=True), 'adapter_model.safetensors'))");
    }
    fail(weights,
         "there is no such file, but adapter_config.json is there: download the adapter "
         "whole");
  }

  std::filesystem::path path_;
  adapter_config config_;
  safetensors_file file_;
  adapter_tensors tensors_;
};

}  // namespace catmerge::io

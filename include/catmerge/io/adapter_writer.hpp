// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <catmerge/io/side_files.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// A pair of factors to write, with s = 1: the difference is B A.
struct planned_target {
  std::string module;                           ///< its module in the base
  adapter_layer layer = adapter_layer::linear;  ///< as adapter_target::layer
  index_t rank = 0;                             ///< r, positive
  index_t d_out = 0;                            ///< rows of B
  shape_t input{};          ///< the extents of A behind r: [d_in]; [C_in, kernel...]
  dtype type = dtype::f32;  ///< of the factors
  bool has_bias = false;    ///< B has a bias; then all of the adapter's targets must have one

  /// The tensor of A, r x d_in, as the adapter_writer calls it.
  tensor_info a() const {
    shape_t shape = {rank};
    shape.insert(shape.end(), input.begin(), input.end());
    const bool is_embedding = layer == adapter_layer::embedding;
    return {full(is_embedding ? ".lora_embedding_A" : ".lora_A.weight"), type, shape};
  }
  /// The tensor of B, d_out x r.
  tensor_info b() const {
    shape_t shape = {d_out, rank};
    shape.resize(input.size() + 1, 1);
    const bool is_embedding = layer == adapter_layer::embedding;
    return {full(is_embedding ? ".lora_embedding_B" : ".lora_B.weight"), type, shape};
  }
  /// The tensor of B's bias, of d_out entries.
  tensor_info bias() const { return {full(".lora_B.bias"), type, {d_out}}; }

 private:
  std::string full(std::string_view part) const {
    return std::string(detail::adapter_prefix) + module + std::string(part);
  }
};

/// A plan for factors of another rank in the place of a target's.
inline planned_target plan_like(const adapter_target& target, index_t rank, dtype type) {
  const shape_t input(target.a->shape.begin() + 1, target.a->shape.end());
  return {target.module, target.layer, rank, target.d_out, input, type, target.bias != nullptr};
}

/// The tensors that several adapters hold whole.
struct agreement {
  std::vector<adapter_tensor> agreed;  ///< held by all, with equal types, shapes and bytes
  std::vector<std::string> differing;  ///< the names of the others
};

/// Compares the tensors that adapters hold whole. The entries are those of the first adapter.
inline agreement agreed_tensors(std::span<const adapter_tensors* const> adapters) {
  struct holders {
    adapter_tensor first;
    std::size_t count = 0;
    bool equal = true;
  };
  std::map<std::string, holders> held;
  for (const adapter_tensors* each : adapters) {
    for (const adapter_tensor& tensor : each->replaced) {
      holders& found = held.emplace(tensor.name, holders{tensor}).first->second;
      const tensor_entry &a = *found.first.entry, &b = *tensor.entry;
      found.equal = found.equal && a.type == b.type && a.shape == b.shape &&
                    std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
      ++found.count;
    }
  }
  agreement result;
  for (const auto& [name, found] : held) {
    if (found.equal && found.count == adapters.size())
      result.agreed.push_back(found.first);
    else
      result.differing.push_back(name);
  }
  return result;
}

/// True if a module or a tensor lies in a module that is known by its last names, as those of
/// PEFT's modules_to_save: "encoder.classifier.dense" in "classifier".
inline bool is_inside(std::string_view module, std::string_view path) {
  const std::string inside = "." + std::string(path) + ".";
  return inside.find("." + std::string(module) + ".") != std::string::npos;
}

/// The entries of adapter_config.json that do not follow from the factors.
struct adapter_options {
  std::string base_model = {};  ///< base_model_name_or_path; empty: null
  std::string revision = {};    ///< of the base; empty: null
  /// Empty: null. PEFT opens the tasks SEQ_CLS, TOKEN_CLS and QUESTION_ANS with their heads only.
  std::string task_type = {};
  std::vector<std::string> modules_to_save = {};  ///< modules whose tensors are all written whole
  adapter_biases bias = adapter_biases::none;     ///< which biases are written whole
  existing target = existing::refuse;             ///< a folder that exists; see atomic_folder
};

namespace detail {

/// The pattern that matches this module alone. PEFT puts a pattern behind `(.*\.)?`, so that one
/// without `^` matches every module whose name ends like it, too.
inline std::string pattern_of_module(std::string_view module) {
  std::string pattern = "^";
  for (const char c : module) {
    const bool is_word = c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                         (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
    if (!is_word) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

/// The rank of most targets, the smallest of several.
inline index_t commonest_rank(std::span<const planned_target> targets) {
  std::map<index_t, std::size_t> counts;
  for (const planned_target& each : targets) ++counts[each.rank];
  index_t rank = 1;
  std::size_t most = 0;
  for (const auto& [r, count] : counts) {
    if (count > most) rank = r, most = count;
  }
  return rank;
}

/// The text of adapter_config.json.
inline std::string make_adapter_config(const std::filesystem::path& file,
                                       std::span<const planned_target> targets,
                                       const adapter_options& how) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::json() : nlohmann::json(text);
  };
  const index_t rank = commonest_rank(targets);
  nlohmann::json ranks = nlohmann::json::object(), modules = nlohmann::json::array();
  for (const planned_target& each : targets) {
    modules.push_back(each.module);
    if (each.rank != rank) ranks[pattern_of_module(each.module)] = each.rank;
  }
  const bool is_in_out = std::any_of(targets.begin(), targets.end(), [](const auto& each) {
    return each.layer == adapter_layer::transposed_linear;
  });
  constexpr std::array<std::string_view, 3> bias_names = {"none", "all", "lora_only"};
  const nlohmann::json config = {
      {"alpha_pattern", ranks},  // alpha = r, so that s = 1
      {"base_model_name_or_path", text_or_null(how.base_model)},
      {"bias", bias_names[static_cast<std::size_t>(how.bias)]},
      {"fan_in_fan_out", is_in_out},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"lora_alpha", rank},
      {"lora_bias", targets.front().has_bias},
      {"lora_dropout", 0.0},
      {"modules_to_save",
       how.modules_to_save.empty() ? nlohmann::json() : nlohmann::json(how.modules_to_save)},
      {"peft_type", "LORA"},
      {"r", rank},
      {"rank_pattern", ranks},
      {"revision", text_or_null(how.revision)},
      {"target_modules", modules},
      {"task_type", text_or_null(how.task_type)},
      {"use_dora", false},
      {"use_rslora", false},
  };
  try {
    return config.dump(2) + "\n";
  } catch (const nlohmann::json::exception&) {
    fail(file, "a module's name or an option is not valid UTF-8");
  }
}

}  // namespace detail

/// Writes an adapter that PEFT opens: adapter_config.json and adapter_model.safetensors in a folder
/// that appears when everything is on the disk. Each target's difference is B A: the caller puts
/// the scale into a factor. See tensor_sink; names are those of planned_target::a, b and bias, and
/// of name_of.
///
///     catmerge::io::adapter_writer out("merged", plans, {}, {.base_model = "roberta-base"});
///     for (const auto& plan : plans) {
///       out.write(plan.a().name, std::as_bytes(std::span(a)));
///       out.write(plan.b().name, std::as_bytes(std::span(b)));
///     }
///     out.commit();
class adapter_writer final : public tensor_sink {
 public:
  /// `replaced`: tensors to hold whole, by the names of the base's parameters. Throws error if
  /// there is no target or one is there twice, if a rank is not positive, if some targets have
  /// biases and others have none, if a target lies in a module to save, if a task needs a head that
  /// is not there, and as safetensors_layout and atomic_folder do.
  adapter_writer(const std::filesystem::path& folder, const std::vector<planned_target>& targets,
                 const std::vector<tensor_info>& replaced, const adapter_options& how)
      : modules_(checked(folder, targets, replaced, how)),
        layout_(folder / weights_name, tensors_of(targets, replaced), {{"format", "pt"}}),
        folder_(folder, how.target) {
    const std::string text = detail::make_adapter_config(folder / config_name, targets, how);
    write_side_files({{config_name, {}, text}}, folder_.partial(), folder_.path());
    weights_.emplace(folder_.partial() / weights_name, folder_.path() / weights_name);
    weights_->write_at(0, as_bytes(layout_.header()));
    folder_.check_replaceable();
  }

  /// The name in the adapter of a tensor that is held whole, by the name of the base's parameter.
  std::string name_of(std::string_view parameter) const { return name_of(parameter, modules_); }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    put(layout_.ledger().for_append(name, bytes.size()), bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    put(layout_.ledger().for_write(name, bytes.size()), bytes);
  }
  void commit() override {
    layout_.ledger().check_complete();
    weights_->close();
    folder_.commit();
  }

 private:
  static constexpr const char* config_name = "adapter_config.json";
  static constexpr const char* weights_name = "adapter_model.safetensors";
  using names = std::set<std::string, std::less<>>;

  static std::string name_of(std::string_view parameter, const names& modules) {
    const std::size_t dot = parameter.rfind('.');
    std::string name(detail::adapter_prefix);
    if (dot == std::string_view::npos || !modules.contains(parameter.substr(0, dot))) {
      return name.append(parameter);
    }
    // PEFT keeps the layer itself inside the module that takes its place.
    name.append(parameter.substr(0, dot)).append(".base_layer");
    return name.append(parameter.substr(dot));
  }

  static names checked(const std::filesystem::path& folder,
                       const std::vector<planned_target>& targets,
                       const std::vector<tensor_info>& replaced, const adapter_options& how) {
    const std::filesystem::path file = folder / weights_name;
    if (targets.empty()) fail(file, "an adapter needs one target or more, found none");
    names modules;
    for (const planned_target& each : targets) {
      if (!modules.insert(each.module).second) fail(file, each.module, "is declared twice");
      const bool is_convolution = each.layer == adapter_layer::convolution;
      if (each.rank <= 0 || each.d_out <= 0 || each.input.empty() ||
          (each.input.size() > 1) != is_convolution) {
        fail(file, each.a().name,
             "expected positive extents that fit the layer, found A " + describe(each.a()) +
                 " and B " + describe(each.b()) + ": leave a target without rank out");
      }
      if (each.has_bias != targets.front().has_bias ||
          (each.has_bias && each.layer == adapter_layer::embedding)) {
        fail(file, each.b().name,
             "PEFT's lora_bias holds for all targets, none of them an embedding: give all of them "
             "a bias (zeros), or none and write the sum into the layer's bias");
      }
      for (const std::string& saved : how.modules_to_save) {
        if (is_inside(saved, each.module)) {
          fail(file, each.a().name,
               "lies in the module " + in_quotes(saved) +
                   ", which is saved whole: PEFT does not adapt such a module");
        }
      }
    }
    check_task(folder / config_name, replaced, how.task_type);
    return modules;
  }

  /// PEFT saves heads of these tasks, and refuses an adapter without them.
  static void check_task(const std::filesystem::path& file,
                         const std::vector<tensor_info>& replaced, const std::string& task) {
    std::vector<std::string_view> heads;
    if (task == "SEQ_CLS" || task == "TOKEN_CLS") heads = {"classifier", "score"};
    if (task == "QUESTION_ANS") heads = {"qa_outputs"};
    const bool has_head = std::any_of(replaced.begin(), replaced.end(), [&](const auto& info) {
      return std::any_of(heads.begin(), heads.end(),
                         [&](std::string_view head) { return is_inside(head, info.name); });
    });
    if (heads.empty() || has_head) return;
    fail(file, "task_type: PEFT looks for a head in adapters for " + in_quotes(task) +
                   ", and none is written (" + std::string(heads.front()) +
                   "): write the head, or no task_type");
  }

  std::vector<tensor_info> tensors_of(const std::vector<planned_target>& targets,
                                      const std::vector<tensor_info>& replaced) const {
    std::vector<tensor_info> all;
    for (const planned_target& each : targets) {
      all.push_back(each.a());
      all.push_back(each.b());
      if (each.has_bias) all.push_back(each.bias());
    }
    for (tensor_info info : replaced) {
      info.name = name_of(info.name);
      all.push_back(std::move(info));
    }
    return all;
  }

  void put(write_ledger::slot& slot, std::span<const std::byte> bytes) {
    weights_->write_at(layout_.position(slot), bytes, slot.info.name);
    write_ledger::done(slot, bytes.size());
  }

  names modules_;
  safetensors_layout layout_;
  atomic_folder folder_;
  std::optional<output_file> weights_;
};

}  // namespace catmerge::io

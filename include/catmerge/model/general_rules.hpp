// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/model/parameter_rule.hpp>
#include <catmerge/model/token_tables.hpp>
#include <cctype>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::model {

/// Classifies parameters that no known network names, by the last components of the name, which
/// most networks choose alike, and by the number of extents.
class general_rules {
 public:
  /// The rule, described in words by its pattern; none if name and shape do not decide.
  static std::optional<parameter_rule> find(const io::tensor_info& info) {
    const general_rules rules(info);
    if (auto rule = rules.buffer()) return rule;
    if (is_token_table(info)) return rule("tables of tokens are left alone", kind::token_table);
    if (auto rule = rules.left_alone()) return rule;
    return rules.trained();
  }

 private:
  using kind = parameter_kind;
  using list = std::initializer_list<std::string_view>;

  explicit general_rules(const io::tensor_info& info) : shape_(info.shape) {
    std::string_view rest = info.name;
    for (std::size_t dot; (dot = rest.find('.')) != std::string_view::npos;) {
      path_.push_back(rest.substr(0, dot));
      rest.remove_prefix(dot + 1);
    }
    leaf_ = rest;
    // The module is the last component that is not a number (of a sequence of modules).
    for (auto part = path_.rbegin(); part != path_.rend() && module_.empty(); ++part) {
      if (part->find_first_not_of("0123456789") != std::string_view::npos) module_ = lower(*part);
    }
  }

  static parameter_rule rule(const char* words, kind what, bool trim = false) {
    parameter_rule result;
    result.pattern = words;
    result.kind = what;
    result.trim = trim;
    result.source = rule_source::general;
    return result;
  }

  /// Values that training does not learn by gradients.
  std::optional<parameter_rule> buffer() const {
    if (is_one_of(leaf_, {"running_mean", "running_var"})) {
      return rule("running_mean and running_var are running statistics", kind::running_statistics);
    }
    const bool named = is_one_of(
        leaf_, {"num_batches_tracked", "position_ids", "token_type_ids", "relative_position_index",
                "relative_coords_table", "inv_freq", "original_inv_freq", "masked_bias",
                "causal_mask", "attn_mask", "attention_mask", "cos_cached", "sin_cached",
                "freqs_cis", "pixel_mean", "pixel_std"});
    // GPT-2 and GPT-NeoX used to store their causal mask: 1 x 1 x positions x positions.
    const bool mask = leaf_ == "bias" && shape_.size() == 4 && shape_[0] == 1 && shape_[1] == 1 &&
                      shape_[2] == shape_[3] && contains(module_, "att");
    if (!named && !mask) return std::nullopt;
    return rule("counters, positions, frequencies and masks are fixed", kind::fixed);
  }

  /// Heads and tables.
  std::optional<parameter_rule> left_alone() const {
    const auto is_head = [](std::string_view part) {
      return is_one_of(part, {"lm_head", "mlm_head", "head", "heads", "classifier", "score", "cls",
                              "cls_classifier", "distillation_classifier", "pre_classifier",
                              "multiple_choice_head", "qa_outputs", "predictions", "embed_out",
                              "proj_out", "vocab_transform", "vocab_layer_norm", "vocab_projector",
                              "summary"}) ||
             part.starts_with("generator_") || part.starts_with("discriminator_");
    };
    // The last layers of torchvision and ModernBERT; deeper down other layers have these names.
    const bool last = path_.size() == 1 && is_one_of(path_[0], {"fc", "decoder"});
    if (last || std::any_of(path_.begin(), path_.end(), is_head)) {
      return rule("heads are left alone", kind::embedding);
    }
    const std::string leaf = lower(leaf_);
    const bool parameter =
        contains(leaf, "embed") || leaf.ends_with("_token") || leaf.ends_with("bias_table");
    const bool module = (contains(module_, "embed") && !is_norm(module_)) ||
                        is_one_of(module_, {"wte", "wpe", "shared", "relative_attention_bias",
                                            "pos_emb", "tok_emb", "token_emb"});
    const bool patches = std::any_of(path_.begin(), path_.end(), [](std::string_view part) {
      return part.starts_with("patch_embed");
    });
    if (parameter || patches || (module && is_one_of(leaf, {"weight", "bias"}))) {
      return rule("embeddings are left alone", kind::embedding);
    }
    return std::nullopt;
  }

  /// Weights, scales and shifts.
  std::optional<parameter_rule> trained() const {
    const std::size_t rank = shape_.size();
    const bool norm = is_norm(module_);
    if (rank == 1 && leaf_ != "weight" && lower(leaf_).ends_with("bias")) {
      return rule("a bias is a shift", kind::shift, true);
    }
    if (rank == 1 && norm && leaf_ == "beta")
      return rule("a norm's beta is a shift", kind::shift, true);
    if (rank == 1 && norm && is_one_of(leaf_, {"weight", "gamma"})) {
      return rule("a norm's weight is a scale", kind::scale, true);
    }
    if (rank == 1 && (contains(leaf_, "layer_scale") || contains(module_, "layer_scale") ||
                      is_layer_scale(module_))) {
      return rule("a layer's scale is a scale", kind::scale, true);
    }
    const bool experts = std::any_of(path_.begin(), path_.end(), [](std::string_view part) {
      return contains(part, "expert") || contains(part, "moe");
    });
    if (rank == 3 && experts) {
      auto stack = rule("stacks of experts, whose layout is not known", kind::linear);
      stack.stacked = true;
      return stack;
    }
    if (leaf_ != "weight" || rank < 2) return std::nullopt;
    if (norm) return rule("norms that are no vectors are left alone", kind::embedding);
    if (rank == 2) return rule("a matrix called weight is linear", kind::linear, true);
    // One channel per filter: depthwise, and left alone. (The first layer of a network with one
    // input channel has the same shape and is left alone, too.)
    if (shape_[1] == 1) return rule("depthwise convolutions are left alone", kind::embedding);
    return rule("a weight of more than two extents is a convolution", kind::conv, true);
  }

  static bool is_one_of(std::string_view text, list words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  }

  static bool contains(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
  }

  static std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return result;
  }

  /// "layernorm", "q_norm", "ln_1", "final_ln", "bn2"; not "plan" or "kiln".
  static bool is_norm(std::string_view module) {
    if (contains(module, "norm")) return true;
    for (const std::string_view word : {"ln", "bn"}) {
      const std::size_t at = module.rfind(word);
      if (at == std::string_view::npos) continue;
      const bool begins = at == 0 || module[at - 1] == '_';
      const std::string_view behind = module.substr(at + 2);
      if (begins && (behind.empty() || behind[0] == '_' ||
                     behind.find_first_not_of("0123456789") == std::string_view::npos)) {
        return true;
      }
    }
    return false;
  }

  /// "ls1", "ls2": the names in timm and DINOv2.
  static bool is_layer_scale(std::string_view module) { return is_one_of(module, {"ls1", "ls2"}); }

  const io::shape_t& shape_;
  std::vector<std::string_view> path_;  // the modules, outermost first
  std::string_view leaf_;               // the parameter's own name
  std::string module_;                  // the innermost module with a name, in lower case
};

}  // namespace catmerge::model

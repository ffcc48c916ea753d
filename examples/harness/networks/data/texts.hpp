// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/data/next_tokens.hpp>
#include <harness/networks/network.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The extents of a network's embedding tables.
struct text_shape {
  index_t words = 0;
  index_t positions = 0;  ///< 0: any number of them
  index_t types = 0;
  std::optional<index_t> pad;  ///< RoBERTa's padding token, if positions count as in RoBERTa
  bool causal = false;         ///< of a language model, which predicts next tokens
  std::string prefix{};        ///< before the names of the tensors
};

/// The texts of a safetensors file, padded to one length: `input_ids` (n, tokens); `attention_mask`
/// (n, tokens), 1 for tokens and 0 for padding; `token_type_ids` (n, tokens). Each of any integer
/// type (not U64). Without a mask every token counts; without types all are 0.
///
/// Loading drops padding: masking a key leaves it out, and nothing uses its row. Positions are
/// those in the padded text: 0, 1, 2, ... for BERT; for RoBERTa pad + the number of tokens so far
/// that are not `pad`, and `pad` for the others; for language models the number of tokens so far,
/// without padding.
///
/// A language model is asked for the tokens that next_tokens (next_tokens.hpp) tells.
///
/// Throws catmerge::error naming the file, the tensor and the sample, for values outside the
/// tables, for a sample with a padded first token, if it stands for the whole, and for a sample of
/// which nothing is asked.
class text_file : public sample_reader {
 public:
  text_file(const std::filesystem::path& path, text_shape shape)
      : file_(path), shape_(std::move(shape)), ids_(file_.at(shape_.prefix + "input_ids")) {
    if (ids_.shape.size() != 2 || ids_.shape[1] < 1) {
      io::fail(path, ids_.name, "expected shape [n, tokens], found " + io::describe(ids_));
    }
    if (ids_.shape[0] == 0) io::fail(path, ids_.name, "holds no texts");
    check_type(ids_);
    mask_ = find_beside(shape_.prefix + "attention_mask");
    types_ = find_beside(shape_.prefix + "token_type_ids");
    if (shape_.causal) asked_.emplace(file_, shape_.words, shape_.prefix);
    for (index_t i = 0; i < size(); ++i) check_sample(i);
  }

  index_t size() const override { return ids_.shape.front(); }

  activations load(index_t first, index_t count) const override {
    activations state;
    for (index_t i = first; i < first + count; ++i) {
      for (const auto& each : asked(i)) state.asked.push_back(state.offsets.back() + each.row);
      for_tokens(i, [&](index_t, const token& t) { state.text.push_back(t); });
      state.offsets.push_back(std::ssize(state.text));
    }
    return state;
  }

  std::vector<asked_token> asked(index_t sample) const override {
    return asked_ ? asked_->of(sample) : std::vector<asked_token>();
  }

 private:
  index_t length() const { return ids_.shape[1]; }

  void check_type(const io::tensor_entry& entry) const {
    if (is_integer(entry.type)) return;
    io::fail(file_.path(), entry.name, "expected integers, found " + io::describe(entry));
  }

  const io::tensor_entry* find_beside(const std::string& name) const {
    const io::tensor_entry* const entry = file_.find(name);
    if (entry == nullptr) return nullptr;
    if (entry->shape != ids_.shape) {
      io::fail(file_.path(), name,
               "expected shape " + io::to_string(ids_.shape) + ", that of " +
                   io::in_quotes(ids_.name) + ", found " + io::describe(*entry));
    }
    // (A mask is often kept as booleans.)
    if (entry->type != io::dtype::boolean || !name.ends_with("attention_mask")) check_type(*entry);
    return entry;
  }

  /// Calls act(place in the padded text, token) for each token of a sample that is not masked.
  template <class Act>
  void for_tokens(index_t sample, const Act& act) const {
    index_t counted = 0;  // tokens without padding, up to this one
    for (index_t i = 0, at = sample * length(); i < length(); ++i, ++at) {
      const std::int64_t id = integer_at(ids_, at);
      index_t position = i;
      if (shape_.pad) position = id == *shape_.pad ? *shape_.pad : *shape_.pad + ++counted;
      if (mask_ != nullptr && integer_at(*mask_, at) == 0) continue;
      if (shape_.causal) position = counted++;
      act(i, token{id, position, types_ == nullptr ? 0 : integer_at(*types_, at)});
    }
  }

  void check_sample(index_t sample) const {
    asked(sample);
    // Throws unless `value` of a tensor lies in 0 ... extent - 1.
    const auto check = [&](const std::string& name, index_t place, index_t value, index_t extent,
                           const std::string& what) {
      if (value >= 0 && value < extent) return;
      fail(name, sample,
           "token " + std::to_string(place) + " has " + what + " " + std::to_string(value) +
               ", expected 0 to " + std::to_string(extent - 1));
    };
    for (index_t i = 0, at = sample * length(); mask_ != nullptr && i < length(); ++i, ++at) {
      check(mask_->name, i, integer_at(*mask_, at), 2, "mask");
    }
    if (!shape_.causal && mask_ != nullptr && integer_at(*mask_, sample * length()) == 0) {
      fail(mask_->name, sample,
           "its first token, which stands for the whole text, is masked: expected 1, found 0");
    }
    for_tokens(sample, [&](index_t place, const token& t) {
      check(ids_.name, place, t.word, shape_.words, "id");
      check(shape_.prefix + "token_type_ids", place, t.type, shape_.types, "type");
      if (shape_.positions > 0) check(ids_.name, place, t.position, shape_.positions, "position");
    });
  }

  [[noreturn]] void fail(const std::string& name, index_t sample, const std::string& what) const {
    io::fail(file_.path(), name, "sample " + std::to_string(sample) + ": " + what);
  }

  io::safetensors_file file_;
  text_shape shape_;
  const io::tensor_entry& ids_;              // in file_; entries never move
  const io::tensor_entry* mask_ = nullptr;   // null: every token counts
  const io::tensor_entry* types_ = nullptr;  // null: all are 0
  std::optional<next_tokens> asked_;         // of a language model
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/network.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The tokens of a file's samples that a language model is asked for: those with a label in
/// `labels` (n, tokens), whose entries are the tokens themselves, in the place where they stand,
/// and -100 where nothing is asked (as transformers has it: the logits before a place answer its
/// label). A first token's label is left out, as there. Without `labels` all tokens of `input_ids`
/// but the first. `attention_mask` as in texts.hpp.
class next_tokens {
 public:
  /// words: the size of the table. The file must outlive this object, and have `input_ids` (n,
  /// tokens), or that and the mask with `prefix` before their names. Throws catmerge::error naming
  /// the file, the tensor and the sample for labels of another shape, of padding, outside the
  /// table, and for a sample without any.
  next_tokens(const io::safetensors_file& file, index_t words, const std::string& prefix = {})
      : file_(file),
        words_(words),
        ids_(file.at(prefix + "input_ids")),
        mask_(file.find(prefix + "attention_mask")),
        labels_(file.find("labels")) {
    if (labels_ != nullptr && (labels_->shape != ids_.shape || !is_integer(labels_->type))) {
      io::fail(file.path(), labels_->name,
               "expected integers " + io::to_string(ids_.shape) +
                   ", a label for each token or -100, found " + io::describe(*labels_));
    }
  }

  /// Those of a sample, in their order.
  std::vector<asked_token> of(index_t sample) const {
    const io::tensor_entry& answers = labels_ == nullptr ? ids_ : *labels_;
    std::vector<asked_token> asked;
    index_t row = -1;  // of the token before
    for (index_t i = 0, at = sample * ids_.shape[1]; i < ids_.shape[1]; ++i, ++at) {
      const bool is_padding = mask_ != nullptr && integer_at(*mask_, at) == 0;
      const std::int64_t token = integer_at(answers, at);
      if (labels_ != nullptr && token != -100) check(sample, i, token, is_padding);
      if (is_padding) continue;
      if (row >= 0 && token != -100) asked.push_back({row, token});
      ++row;
    }
    if (asked.empty()) {
      io::fail(file_.path(), answers.name,
               "sample " + std::to_string(sample) +
                   (labels_ == nullptr
                        ? ": expected two tokens or more, found " + std::to_string(row + 1)
                        : std::string(": all labels are -100")));
    }
    return asked;
  }

 private:
  void check(index_t sample, index_t place, std::int64_t token, bool is_padding) const {
    const auto fail = [&](const std::string& what) {
      io::fail(file_.path(), labels_->name,
               "sample " + std::to_string(sample) + ": token " + std::to_string(place) +
                   " has the label " + std::to_string(token) + what);
    };
    if (token < 0 || token >= words_) {
      fail(", expected -100 or 0 to " + std::to_string(words_ - 1));
    }
    if (is_padding) fail(", but is masked by " + mask_->name + ": expected -100");
  }

  const io::safetensors_file& file_;
  index_t words_;
  const io::tensor_entry& ids_;     // in the file; entries never move
  const io::tensor_entry* mask_;    // null: no padding
  const io::tensor_entry* labels_;  // null: every token but the first is asked for
};

}  // namespace catmerge::harness

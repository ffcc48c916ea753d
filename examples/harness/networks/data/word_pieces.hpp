// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/data/written_text.hpp>
#include <harness/networks/writing/next_logits.hpp>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace catmerge::harness {

/// Words of a text by their numbers. Tokens are words, unless the tokenizer cuts words in pieces
/// (WordPiece, as BERT's and BLIP's): a token written "##..." continues the word before it. Equal
/// words get equal numbers: a word of one token the token's, others further ones.
class word_pieces {
 public:
  /// Every token is a word.
  word_pieces() = default;

  /// Reads vocab.txt (a token per line) or tokenizer.json in the folder of a checkpoint; if there
  /// is neither, every token is a word. Throws catmerge::error naming the file.
  explicit word_pieces(const std::filesystem::path& folder) {
    std::error_code ignored;
    const auto is_there = [&](const std::filesystem::path& file) {
      return std::filesystem::is_regular_file(file, ignored);
    };
    if (const auto file = folder / "vocab.txt"; is_there(file)) {
      read_lines(file);
    } else if (const auto other = folder / "tokenizer.json"; is_there(other)) {
      read_json(other);
    }
  }

  /// False if the folder has no table of pieces: every token is a word.
  bool is_known() const { return is_known_; }

  /// True if a token continues the word before it.
  bool continues(std::int64_t token) const {
    return token >= 0 && static_cast<std::size_t>(token) < continues_.size() &&
           continues_[static_cast<std::size_t>(token)];
  }

  /// The words of a text without special tokens.
  word_list words(const token_list& text) {
    word_list list;
    for (std::size_t first = 0, last = 0; first < text.size(); first = last) {
      for (last = first + 1; last < text.size() && continues(text[last]);) ++last;
      if (last == first + 1 && !continues(text[first])) {
        list.push_back(text[first]);
      } else {
        // Numbers of words of several pieces are negative, so that no token has them.
        const token_list word(text.begin() + static_cast<std::ptrdiff_t>(first),
                              text.begin() + static_cast<std::ptrdiff_t>(last));
        const auto next = -1 - static_cast<std::int64_t>(numbers_.size());
        list.push_back(numbers_.emplace(word, next).first->second);
      }
    }
    return list;
  }

 private:
  static bool is_continuation(std::string_view token) {
    return token.size() > 2 && token.starts_with("##");
  }

  void read_lines(const std::filesystem::path& file) {
    is_known_ = true;
    const io::mapped_file contents(file);
    std::string_view rest = io::as_text(contents.bytes());
    while (!rest.empty()) {
      const auto end = rest.find('\n');
      continues_.push_back(is_continuation(rest.substr(0, end)));
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    }
  }

  void read_json(const std::filesystem::path& file) {
    const io::mapped_file contents(file);
    const auto all = io::parse_json(io::as_text(contents.bytes()), file, "tokenizer");
    const auto model = all.find("model");
    if (model == all.end() || !model->is_object()) return;
    const auto type = model->find("type");
    if (type == model->end() || *type != "WordPiece") return;
    is_known_ = true;
    const auto vocabulary = model->find("vocab");
    if (vocabulary == model->end() || !vocabulary->is_object())
      io::fail(file, "key 'model.vocab': expected an object of tokens and their numbers");
    for (const auto& [token, number] : vocabulary->items()) {
      if (!is_continuation(token)) continue;
      if (!number.is_number_unsigned() || number.template get<std::size_t>() >= most_tokens)
        io::fail(file, "key 'model.vocab': " + io::in_quotes(token) + " has no number");
      const auto at = number.template get<std::size_t>();
      if (at >= continues_.size()) continues_.resize(at + 1);
      continues_[at] = true;
    }
  }

  static constexpr std::size_t most_tokens = std::size_t{1} << 24;
  bool is_known_ = false;
  std::vector<bool> continues_;                 // by token
  std::map<token_list, std::int64_t> numbers_;  // of words of several pieces
};

/// The warning where cider is measured, but no file tells which tokens are pieces of words.
inline constexpr const char* tokens_are_words =
    "neither vocab.txt nor a tokenizer.json of WordPiece is beside the network: cider takes every "
    "token for a word";

}  // namespace catmerge::harness

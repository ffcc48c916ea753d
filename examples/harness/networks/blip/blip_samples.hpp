// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <filesystem>
#include <harness/networks/blip/blip_config.hpp>
#include <harness/networks/data/images.hpp>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/data/texts.hpp>
#include <harness/networks/network.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Images with texts, in a safetensors file:
///
///     pixel_values (images, 3, height, width)    as in images.hpp
///     image (n)                                  the image of each sample; without it sample i has
///                                                image i
///     input_ids, attention_mask (n, tokens)      the question, the text to match, or the caption
///     decoder_input_ids, decoder_attention_mask (n, tokens)    the answer to the question
///     labels (n, tokens)                         what is asked of the caption or of the answer, as
///                                                in next_tokens.hpp
///
/// A caption or an answer begins with the token that the configuration calls bos_token_id, and ends
/// with sep_token_id. A file without them is one of images, or of images and questions, alone: the
/// network writes the texts (writing/written_samples.hpp).
///
/// Throws catmerge::error naming the file, the tensor and the sample.
class blip_samples : public sample_reader {
 public:
  /// has_encoder, has_decoder: the text parts of the network.
  blip_samples(const std::filesystem::path& path, const blip_config& config, bool has_encoder,
               bool has_decoder)
      : images_(path, {config.grid.channels, config.grid.image_size, config.grid.image_size}),
        begin_(config.begin),
        has_decoder_(has_decoder) {
    const io::safetensors_file& file = images_.file();
    size_ = images_.size();
    if (const auto* entry = file.find("image")) read_image_numbers(*entry);
    text_shape shape;
    shape.words = config.words;
    shape.positions = config.places;
    shape.types = 1;
    if (!(has_encoder && has_decoder) && file.find("decoder_input_ids") != nullptr)
      io::fail(path, "decoder_input_ids",
               "holds answers to questions, but the network answers none: leave it out");
    if (has_encoder && file.find("input_ids") == nullptr) {
      io::fail(path, "input_ids",
               std::string("is missing: the network reads ") +
                   (has_decoder ? "a question" : "a text to match") +
                   " with each image (prepare_data.py pictures: " +
                   (has_decoder ? "--question or --ask)" : "--text)"));
    }
    if (has_encoder) add_text(path, shape, encoder_text_);
    if (!has_decoder) return;
    shape.causal = true;
    if (has_encoder) shape.prefix = "decoder_";
    answers_ = shape.prefix + "input_ids";
    if (file.find(answers_) != nullptr) {
      add_text(path, shape, decoder_text_);
      return;
    }
    for (const std::string& name : {std::string("labels"), shape.prefix + "attention_mask"}) {
      if (file.find(name) == nullptr) continue;
      io::fail(path, name,
               "is there without " + io::in_quotes(answers_) + ", the tokens that it is about");
    }
  }

  index_t size() const override { return size_; }

  bool lacks_texts() const override { return has_decoder_ && !decoder_text_; }

  activations load(index_t first, index_t count) const override {
    activations state;
    if (image_of_.empty()) {
      state = images_.load(first, count);
    } else {
      state.offsets = equal_offsets(count, 1);
      for (index_t i = 0; i < count; ++i) {
        const activations one = images_.load(image_of_[static_cast<std::size_t>(first + i)], 1);
        if (i == 0) state.hidden.resize(count, one.hidden.cols());
        state.hidden.row(i) = one.hidden.row(0);
      }
    }
    if (encoder_text_) add_waiting(*encoder_text_, first, count, state);
    if (decoder_text_) {
      add_waiting(*decoder_text_, first, count, state);
    } else if (has_decoder_) {
      state.waiting.push_back({std::vector<token>(static_cast<std::size_t>(count), {begin_, 0, 0}),
                               equal_offsets(count, 1)});
      for (index_t i = 0; i < count; ++i) state.asked.push_back(i);
    }
    return state;
  }

  std::vector<asked_token> asked(index_t sample) const override {
    if (decoder_text_) return decoder_text_->asked(sample);
    if (!has_decoder_) return {};
    io::fail(images_.file().path(), answers_,
             "is missing: metrics of next tokens need it, and metrics of written texts need it or "
             "'references'");
  }

 private:
  static void add_waiting(const text_file& texts, index_t first, index_t count,
                          activations& state) {
    activations loaded = texts.load(first, count);
    state.waiting.push_back({std::move(loaded.text), std::move(loaded.offsets)});
    state.asked = std::move(loaded.asked);
  }

  void add_text(const std::filesystem::path& path, const text_shape& shape,
                std::unique_ptr<text_file>& to) {
    to = std::make_unique<text_file>(path, shape);
    if (to->size() == size_) return;
    io::fail(path, shape.prefix + "input_ids",
             "expected a text for each of the " + std::to_string(size_) +
                 (image_of_.empty() ? " images (or a tensor 'image', which names each text's)"
                                    : " numbers in 'image'") +
                 ", found " + std::to_string(to->size()));
  }

  void read_image_numbers(const io::tensor_entry& entry) {
    const auto& path = images_.file().path();
    if (entry.shape.size() != 1 || entry.shape[0] < 1 || !is_integer(entry.type)) {
      io::fail(path, entry.name,
               "expected integers [n], the image of each sample, found " + io::describe(entry));
    }
    size_ = entry.shape[0];
    for (index_t i = 0; i < size_; ++i) {
      image_of_.push_back(integer_at(entry, i));
      if (image_of_.back() >= 0 && image_of_.back() < images_.size()) continue;
      io::fail(path, entry.name,
               "sample " + std::to_string(i) + " has image " + std::to_string(image_of_.back()) +
                   ", expected 0 to " + std::to_string(images_.size() - 1));
    }
  }

  image_file images_;
  index_t begin_;
  bool has_decoder_;
  index_t size_ = 0;
  std::vector<index_t> image_of_;                           // empty: sample i has image i
  std::string answers_;                                     // the name of the decoder's tokens
  std::unique_ptr<text_file> encoder_text_, decoder_text_;  // null if there is none
};

}  // namespace catmerge::harness

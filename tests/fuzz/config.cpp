// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/json.hpp>
#include <harness/networks/bert/bert_config.hpp>
#include <harness/networks/blip/blip_names.hpp>
#include <harness/networks/clip/clip_vision_config.hpp>
#include <harness/networks/convnet/convnet_config.hpp>
#include <harness/networks/decoder/gemma.hpp>
#include <harness/networks/decoder/gpt2.hpp>
#include <harness/networks/decoder/llama.hpp>
#include <harness/networks/decoder/olmo2.hpp>
#include <harness/networks/decoder/phi3.hpp>

#include "target.hpp"

namespace {

using namespace catmerge::harness;
using catmerge::index_t;

void require_size(index_t size, const char* what) {
  fuzz::require(size >= 1 && size <= index_t{1} << 20, what);
}

void check(const clip_vision_config& c) {
  for (const index_t size : {c.width, c.mlp_width, c.layers, c.heads, c.grid.channels,
                             c.grid.image_size, c.grid.patch_size})
    require_size(size, "sizes of CLIP are in range");
  fuzz::require(c.width % c.heads == 0, "heads divide the width");
  fuzz::require(c.grid.image_size % c.grid.patch_size == 0, "patches divide the image");
}

void check(const bert_config& c) {
  for (const index_t size :
       {c.width, c.mlp_width, c.layers, c.heads, c.words, c.positions, c.types})
    require_size(size, "sizes of BERT are in range");
  fuzz::require(c.width % c.heads == 0, "heads divide the width");
}

void check(const blip_config& c) {
  for (const index_t size : {c.grid.channels, c.grid.image_size, c.grid.patch_size, c.vision_layers,
                             c.text_layers, c.words, c.places, c.matching_width})
    require_size(size, "sizes of BLIP are in range");
  for (const encoder_shape& s : {c.vision, c.text}) {
    for (const index_t size : {s.width, s.mlp_width, s.heads})
      require_size(size, "sizes of BLIP's layers are in range");
    fuzz::require(s.width % s.heads == 0, "heads divide the width");
  }
  fuzz::require(c.grid.image_size % c.grid.patch_size == 0, "patches divide the image");
  for (const index_t token : {c.begin, c.end, c.pad})
    fuzz::require(token >= 0 && token < c.words, "special tokens are in the table");
}

void check(const blip_names& n) {
  fuzz::require(!n.texts.empty() && n.texts.size() <= 2, "a BLIP has one or two text parts");
  for (const auto& part : n.texts) fuzz::require(!part.layers.empty(), "every part has layers");
}

void check(const convnet_config& c) {
  for (const index_t size : {c.channels, c.image_size, c.projection})
    require_size(size, "sizes of convolutional networks are in range");
  fuzz::require(!c.stages.empty(), "a convolutional network has a stage");
  for (const convnet_stage& s : c.stages) {
    for (const index_t size : {s.inputs, s.channels, s.side_in, s.side})
      require_size(size, "sizes of stages are in range");
    fuzz::require(s.side <= s.side_in, "stages do not enlarge images");
  }
}

void check(const decoder_plan& plan) {
  const decoder_shape& s = plan.shape;
  for (const index_t size : {s.width, s.words, s.heads, s.key_heads, s.head_width})
    require_size(size, "sizes of decoders are in range");
  fuzz::require(s.heads % s.key_heads == 0, "heads of keys divide the heads");
  fuzz::require(plan.names.layers.size() == s.layers.size(), "every layer has names");
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const decoder_layer_shape& layer = s.layers[i];
    // Without a size of its own, GPT-2's is four times the width.
    fuzz::require(layer.feed_forward.width >= 1 && layer.feed_forward.width <= index_t{4} << 20,
                  "sizes of feed-forward layers are in range");
    if (layer.window) require_size(*layer.window, "windows are in range");
    const auto experts = static_cast<std::size_t>(layer.feed_forward.experts);
    fuzz::require(plan.names.layers[i].experts.size() == std::max<std::size_t>(1, experts),
                  "every expert has names");
    fuzz::require(layer.feed_forward.chosen <= layer.feed_forward.experts,
                  "no more experts are chosen than there are");
    fuzz::require(layer.positions.width % 2 == 0 && layer.positions.width <= s.head_width,
                  "positions turn pairs of a head's columns");
    if (layer.positions.width > 0) {
      for (const index_t tokens : {index_t{1}, index_t{5000}})
        fuzz::require(std::ssize(layer.positions.frequencies(tokens)) == layer.positions.width / 2,
                      "every pair of columns has a frequency");
    }
  }
}

/// Reads the configuration as one of a family, which may refuse it.
template <class Read, class... Given>
void attempt(const Read& read, const Given&... given) {
  try {
    check(read(given...));
  } catch (const catmerge::error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const nlohmann::json values = catmerge::io::parse_json(
        catmerge::io::as_text(fuzz::bytes(data, size)), "file", "configuration");
    const config_object top("file", values);
    attempt(read_hugging_face_clip, top);
    attempt(read_open_clip, top);
    attempt(read_bert, top);
    attempt(read_convnet, "file", values);
    const std::vector<std::string> names = {"model.embed_tokens.weight",
                                            "lm_head.weight",
                                            "transformer.wte.weight",
                                            "model.norm.weight",
                                            "model.layers.0.mlp.up_proj.weight",
                                            "transformer.h.0.ln_1.weight"};
    for (const auto read : {read_llama, read_gemma, read_phi3, read_olmo2, read_gpt2})
      attempt(read, top, names, "weights");
    attempt(read_blip, top);
    const std::vector<std::string> of_blip = {"vision_model.embeddings.patch_embedding.weight",
                                              "text_encoder.embeddings.word_embeddings.weight",
                                              "text_decoder.bert.embeddings.word_embeddings.weight",
                                              "text_decoder.cls.predictions.decoder.weight",
                                              "vision_model.post_layernorm.bias"};
    for (const bool untied : {false, true}) {
      const auto decide = [&](const std::string&, const std::string&) { return untied; };
      attempt([&] { return find_blip_names(of_blip, read_blip(top), "weights", decide); });
    }
  } catch (const catmerge::error&) {
  }
  return 0;
}

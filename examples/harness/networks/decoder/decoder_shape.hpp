// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <harness/networks/causal_attention.hpp>
#include <harness/networks/decoder/rotary.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/parameter_names.hpp>
#include <optional>
#include <string>
#include <vector>

/// Two structs describe a decoder language model: decoder_shape has its sizes, decoder_names the
/// names of its parameters. Each family's header (llama.hpp, gemma.hpp, ...) fills in both from a
/// configuration.
namespace catmerge::harness {

/// The columns that a norm of queries and keys covers.
enum class query_norm : unsigned char {
  none,
  each_head,  ///< one head's; the heads share the scale
  all_heads   ///< those of all heads together
};

/// A feed-forward layer's sizes. experts = 0: one for every token.
struct feed_forward_shape {
  index_t width = 0;          ///< columns between its linears
  index_t experts = 0;        ///< of a mixture
  index_t chosen = 0;         ///< experts per token, those of the largest probabilities
  bool renormalises = false;  ///< the chosen probabilities are divided by their sum
};

/// One layer of a decoder.
struct decoder_layer_shape {
  std::optional<index_t> window;  ///< of the attention
  rotary positions;               ///< width 0: none
  feed_forward_shape feed_forward;
};

/// A decoder by its sizes.
struct decoder_shape {
  std::filesystem::path file;  ///< the configuration's, for messages
  index_t width = 0;           ///< d
  index_t words = 0;           ///< tokens in the table
  index_t places = 0;          ///< learned positions; 0: none
  index_t heads = 0, key_heads = 0, head_width = 0;
  norm_kind norms = norm_kind::root_mean_square;
  float epsilon = 0;
  query_norm of_queries = query_norm::none;
  float score_scale = 1;
  std::optional<float> score_cap, output_cap;
  float embedding_scale = 1;
  activation nonlinearity = activation::silu;
  bool gated = true;  ///< the feed-forward layer is out(act(gate(x)) o up(x)), not out(act(in(x)))
  bool is_in_out = false;  ///< linear weights are stored d_in x d_out (Conv1D)
  bool tied = false;       ///< the table of tokens is the output's, too
  std::vector<decoder_layer_shape> layers;
};

/// The linears of a feed-forward layer.
struct feed_forward_names {
  std::vector<affine_names> in;  ///< gate and up; or one weight, which holds both if it is gated
  affine_names out;
};

/// The parameters of a decoder's layer; names are empty for what it lacks.
struct decoder_layer_names {
  affine_names norm1, after1;     ///< before and after the attention
  std::vector<affine_names> qkv;  ///< q, k and v; or one weight with the rows of q, then k, then v
  affine_names query_norm, key_norm;
  affine_names out;
  affine_names norm2, after2;               ///< before and after the feed-forward layer
  affine_names router;                      ///< of a mixture
  std::vector<feed_forward_names> experts;  ///< of a mixture; otherwise one
};

/// The parameters of a decoder.
struct decoder_names {
  std::string words, places;
  std::vector<decoder_layer_names> layers;
  affine_names norm;  ///< after the last layer
  std::string head;   ///< the output's table; empty if the file has none
};

/// A decoder of one checkpoint.
struct decoder_plan {
  decoder_shape shape;
  decoder_names names;
};

}  // namespace catmerge::harness

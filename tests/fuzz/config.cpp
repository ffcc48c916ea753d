// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/json.hpp>
#include <harness/networks/bert/bert_config.hpp>
#include <harness/networks/clip/clip_vision_config.hpp>
#include <harness/networks/convnet/convnet_config.hpp>

#include "target.hpp"

namespace {

using namespace catmerge::harness;
using catmerge::index_t;

void require_size(index_t size, const char* what) {
  fuzz::require(size >= 1 && size <= index_t{1} << 20, what);
}

void check(const clip_vision_config& c) {
  for (const index_t size :
       {c.width, c.mlp_width, c.layers, c.heads, c.channels, c.image_size, c.patch_size})
    require_size(size, "sizes of CLIP are in range");
  fuzz::require(c.width % c.heads == 0, "heads divide the width");
  fuzz::require(c.image_size % c.patch_size == 0, "patches divide the image");
}

void check(const bert_config& c) {
  for (const index_t size :
       {c.width, c.mlp_width, c.layers, c.heads, c.words, c.positions, c.types})
    require_size(size, "sizes of BERT are in range");
  fuzz::require(c.width % c.heads == 0, "heads divide the width");
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
  } catch (const catmerge::error&) {
  }
  return 0;
}

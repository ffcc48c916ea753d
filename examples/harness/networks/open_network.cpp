// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <filesystem>
#include <harness/networks/bert/bert_network.hpp>
#include <harness/networks/blip/blip_network.hpp>
#include <harness/networks/clip/clip_vision_network.hpp>
#include <harness/networks/convnet/convnet_network.hpp>
#include <harness/networks/decoder/decoder_network.hpp>
#include <harness/networks/decoder/gemma.hpp>
#include <harness/networks/decoder/gpt2.hpp>
#include <harness/networks/decoder/llama.hpp>
#include <harness/networks/decoder/olmo2.hpp>
#include <harness/networks/decoder/phi3.hpp>
#include <harness/networks/open_network.hpp>

namespace catmerge::harness {

namespace {

std::filesystem::path find_config(const io::checkpoint& weights, const std::string& config) {
  if (!config.empty()) return config;
  if (weights.format() == io::checkpoint_format::safetensors_file) {
    io::fail(weights.path(), "a single file has no config.json of its own; name one with --config");
  }
  std::error_code ignored;
  for (const char* name : {"config.json", "open_clip_config.json"}) {
    auto file = weights.path() / name;
    if (std::filesystem::is_regular_file(file, ignored)) return file;
  }
  io::fail(weights.path(),
           "there is no config.json and no open_clip_config.json in the folder; name one with "
           "--config");
}

std::unique_ptr<network> make_clip_vision(clip_vision_config config,
                                          const io::checkpoint& weights) {
  auto names = find_clip_vision_names(weights.names(), config, weights.path());
  return std::make_unique<clip_vision>(std::move(config), std::move(names));
}

std::unique_ptr<network> make_bert(bert_config config, const io::checkpoint& weights) {
  auto names = find_bert_names(weights.names(), config, weights.path());
  return std::make_unique<bert>(std::move(config), std::move(names));
}

std::unique_ptr<network> make_blip(blip_config config, const io::checkpoint& weights,
                                   const untied_test& untied) {
  auto names = find_blip_names(weights.names(), config, weights.path(), untied);
  return std::make_unique<blip>(std::move(config), std::move(names));
}

std::unique_ptr<network> make_convnet(convnet_config config, const io::checkpoint& weights) {
  auto names = find_convnet_names(weights.names(), config, weights.path());
  return std::make_unique<convnet>(std::move(config), std::move(names));
}

bool is_decoder(const std::string& type) {
  return is_llama(type) || is_gemma(type) || type == "phi3" || type == "olmo2" || type == "gpt2";
}

std::unique_ptr<network> make_decoder(const config_object& top, const std::string& type,
                                      const io::checkpoint& weights, const untied_test& untied) {
  const auto read = is_llama(type)   ? read_llama
                    : is_gemma(type) ? read_gemma
                    : type == "phi3" ? read_phi3
                    : type == "gpt2" ? read_gpt2
                                     : read_olmo2;
  decoder_plan plan = read(top, weights.names(), weights.path());
  if (plan.shape.tied && !plan.names.head.empty())
    plan.shape.tied = !untied(plan.names.words, plan.names.head);
  return std::make_unique<decoder>(std::move(plan));
}

}  // namespace

untied_test untied_in(const io::checkpoint& weights,
                      std::function<void(const std::string& sentence)> warn) {
  return [&weights, warn = std::move(warn)](const std::string& one, const std::string& other) {
    const auto &a = weights.at(one), &b = weights.at(other);
    const bool same = a.type == b.type && a.shape == b.shape &&
                      std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin());
    weights.release(one);
    weights.release(other);
    if (!same && warn)
      warn(weights.path().string() + ": the configuration ties '" + other + "' to '" + one +
           "', and they differ: each is used for itself");
    return !same;
  };
}

std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config) {
  return open_network(weights, config, untied_in(weights));
}

std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config,
                                      const untied_test& untied) {
  const std::filesystem::path file = find_config(weights, config);
  const io::mapped_file contents(file);
  const nlohmann::json values =
      io::parse_json(io::as_text(contents.bytes()), file, "configuration");
  const config_object top(file, values);
  if (top.has("model_cfg") || top.has("vision_cfg")) {
    return make_clip_vision(read_open_clip(top), weights);
  }
  // Early configurations of CLIP have no model_type.
  const bool is_vision = top.has("vision_config") || top.has("image_size");
  const std::string type = top.text("model_type", is_vision ? "clip" : "");
  if (type == "clip" || type == "clip_vision_model") {
    return make_clip_vision(read_hugging_face_clip(top), weights);
  }
  if (type == "blip") return make_blip(read_blip(top), weights, untied);
  if (is_bert(type)) return make_bert(read_bert(top), weights);
  if (is_decoder(type)) return make_decoder(top, type, weights, untied);
  if (type == "catmerge_convnet") return make_convnet(read_convnet(file, values), weights);
  top.fail("model_type",
           "expected 'clip', 'clip_vision_model', 'blip', 'bert', 'roberta', 'xlm-roberta', "
           "'camembert', a decoder ('llama', 'mistral', 'mixtral', 'qwen2', 'qwen3', 'qwen3_moe', "
           "'gemma2', "
           "'gemma3', 'gemma3_text', 'phi3', 'olmo2' or 'gpt2') or 'catmerge_convnet', or "
           "OpenCLIP's key 'model_cfg', found " +
               (type.empty() ? "none" : io::in_quotes(type)));
}

}  // namespace catmerge::harness

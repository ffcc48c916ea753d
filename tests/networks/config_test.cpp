// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Configurations: the values that are read, and the values that are refused.
#include <doctest/doctest.h>

#include <harness/networks/bert/bert_config.hpp>
#include <harness/networks/clip/clip_vision_config.hpp>
#include <nlohmann/json.hpp>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using nlohmann::json;

namespace {

harness::clip_vision_config parse(const json& config) {
  return harness::read_hugging_face_clip({"some/config.json", config});
}

json vision() {
  return {{"model_type", "clip_vision_model"},
          {"hidden_size", 24},
          {"intermediate_size", 40},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_channels", 3},
          {"image_size", 12},
          {"patch_size", 4},
          {"projection_dim", 10},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-3}};
}

/// vision() with one key changed (erased if `value` is null) is refused with a message that names
/// the file, the key, and `part`.
void check_refused(const std::string& key, const json& value, const std::string& part) {
  json config = vision();
  if (value.is_null()) {
    config.erase(key);
  } else {
    config[key] = value;
  }
  check_message(message_of([&] { parse(config); }), {"some/config.json", "'" + key + "'", part});
  // The same inside a whole CLIP model, where absent keys have defaults.
  if (value.is_null()) return;
  const json whole = {{"model_type", "clip"}, {"vision_config", config}};
  check_message(message_of([&] { parse(whole); }),
                {"some/config.json", "'vision_config." + key + "'", part});
}

}  // namespace

TEST_CASE("a vision model's own configuration") {
  const auto c = parse(vision());
  CHECK(c.width == 24);
  CHECK(c.mlp_width == 40);
  CHECK(c.layers == 2);
  CHECK(c.heads == 4);
  CHECK(c.grid.channels == 3);
  CHECK(c.grid.image_size == 12);
  CHECK(c.grid.patch_size == 4);
  CHECK(c.projection == 10);
  CHECK(c.mlp_activation == harness::activation::gelu);
  CHECK(c.epsilon == 1e-3F);
  CHECK(c.grid.tokens() == 10);
  CHECK(c.grid.pixels() == 432);
  CHECK(c.needs_projection.empty());
}

TEST_CASE("a whole CLIP model's: nested, with transformers' defaults") {
  const auto c = parse({{"model_type", "clip"},
                        {"architectures", {"CLIPModel"}},
                        {"projection_dim", 7},
                        {"text_config", {{"hidden_size", 8}}},
                        {"vision_config", {{"patch_size", 16}, {"projection_dim", 9}}}});
  CHECK(c.width == 768);
  CHECK(c.mlp_width == 3072);
  CHECK(c.layers == 12);
  CHECK(c.heads == 12);
  CHECK(c.grid.channels == 3);
  CHECK(c.grid.image_size == 224);
  CHECK(c.grid.patch_size == 16);
  CHECK(c.projection == 7);
  CHECK(c.mlp_activation == harness::activation::quick_gelu);
  CHECK(c.epsilon == 1e-5F);
  CHECK(c.needs_projection == "architectures");
  CHECK(parse({{"vision_config", {{"projection_dim", 9}}}}).projection == 9);
  CHECK(parse({{"vision_config", json::object()}}).projection == 512);
}

TEST_CASE("configurations that are refused name the file and the key") {
  for (const std::string key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                                "num_attention_heads", "image_size", "patch_size"}) {
    check_refused(key, nullptr, "lacks");
    for (const json& bad : {json(0), json(-3), json("24"), json(2.5), json(1e30), json(true),
                            json(18446744073709551615U), json(1048577), json::array({224, 224})}) {
      check_refused(key, bad, "expected an integer");
    }
  }
  check_refused("patch_size", 5, "image_size 12");
  check_refused("num_attention_heads", 5, "hidden_size 24");
  for (const std::string act : {"gelu_fast", "tanh", "relu", ""}) {
    check_refused("hidden_act", act, "found '" + act + "'");
  }
  check_refused("hidden_act", 3, "expected a string");
  for (const json& bad : {json(0.0), json(-1e-5), json("1e-5"), json(1e300)}) {
    check_refused("layer_norm_eps", bad, "positive number");
  }

  json other = vision();
  other["model_type"] = "siglip_vision_model";
  check_message(message_of([&] { parse(other); }),
                {"some/config.json", "'model_type'", "'siglip_vision_model'"});
  check_message(message_of([&] {
                  parse({{"vision_config", 3}});
                }),
                {"some/config.json", "'vision_config'", "object"});
  check_message(message_of([&] { parse(json::array()); }), {"some/config.json", "object"});
}

namespace {

harness::clip_vision_config parse_open(const json& config) {
  return harness::read_open_clip({"some/open_clip_config.json", config});
}

json open_clip() {
  return {
      {"embed_dim", 10},
      {"vision_cfg",
       {{"image_size", 12}, {"layers", 2}, {"width", 24}, {"patch_size", 4}, {"head_width", 6}}},
      {"text_cfg", {{"width", 8}}}};
}

/// open_clip() with one key of vision_cfg changed is refused, alone and under "model_cfg".
void check_refused_open(const std::string& key, const json& value, const std::string& part) {
  json config = open_clip();
  config["vision_cfg"][key] = value;
  check_message(message_of([&] { parse_open(config); }),
                {"some/open_clip_config.json", "'vision_cfg." + key + "'", part});
  check_message(message_of([&] {
                  parse_open({{"model_cfg", config}});
                }),
                {"some/open_clip_config.json", "'model_cfg.vision_cfg." + key + "'", part});
}

}  // namespace

TEST_CASE("OpenCLIP's configuration, with its defaults") {
  for (const json& config : {open_clip(), json{{"model_cfg", open_clip()}}}) {
    const auto c = parse_open(config);
    CHECK(c.width == 24);
    CHECK(c.mlp_width == 96);
    CHECK(c.layers == 2);
    CHECK(c.heads == 4);
    CHECK(c.grid.channels == 3);
    CHECK(c.grid.image_size == 12);
    CHECK(c.grid.patch_size == 4);
    CHECK(c.projection == 10);
    CHECK(c.mlp_activation == harness::activation::gelu);
    CHECK(c.epsilon == 1e-5F);
    CHECK(c.grid.tokens() == 10);
  }
  const auto c =
      parse_open({{"embed_dim", 5}, {"quick_gelu", true}, {"vision_cfg", json::object()}});
  CHECK(c.width == 768);
  CHECK(c.mlp_width == 3072);
  CHECK(c.layers == 12);
  CHECK(c.heads == 12);
  CHECK(c.grid.image_size == 224);
  CHECK(c.grid.patch_size == 16);
  CHECK(c.mlp_activation == harness::activation::quick_gelu);

  // Widths as Python computes them: ViT-H's, ViT-bigG's, and 10 * 4.7 = 47 (in float32 46.99...).
  const auto mlp_width = [](index_t width, double ratio) {
    return parse_open({{"embed_dim", 1},
                       {"vision_cfg", {{"width", width}, {"head_width", 1}, {"mlp_ratio", ratio}}}})
        .mlp_width;
  };
  CHECK(mlp_width(1408, 4.3637) == 6144);
  CHECK(mlp_width(1664, 4.9231) == 8192);
  CHECK(mlp_width(10, 4.7) == 47);

  // Values that are usual, or that change nothing here.
  json config = open_clip();
  config["vision_cfg"].update({{"timm_model_name", nullptr},
                               {"pool_type", "tok"},
                               {"attentional_pool", false},
                               {"ls_init_value", nullptr},
                               {"patch_dropout", 0.5},
                               {"final_ln_after_pool", true},
                               {"output_tokens", true},
                               {"a_key_of_the_future", false}});
  CHECK(parse_open(config).width == 24);
}

TEST_CASE("OpenCLIP's configurations that would be another network are refused") {
  check_refused_open("timm_model_name", "vit_base", "vit_base");
  check_refused_open("attentional_pool", true, "true");
  check_refused_open("attentional_pool", "parallel", "parallel");
  check_refused_open("pool_type", "avg", "tok");
  check_refused_open("ls_init_value", 1e-4, "0.0001");
  check_refused_open("act_kwargs", {{"approximate", "tanh"}}, "tanh");
  check_refused_open("norm_kwargs", {{"eps", 1e-6}}, "eps");
  check_refused_open("block_type", "custom", "default");
  for (const std::string key :
       {"no_ln_pre", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner",
        "scale_attn", "scale_fc", "a_key_of_the_future"}) {
    check_refused_open(key, true, "expected false");
  }
  check_refused_open("layers", {3, 4, 6, 3}, "expected an integer");  // a ResNet
  check_refused_open("image_size", {224, 224}, "expected an integer");
  check_refused_open("patch_size", 5, "image_size 12");
  check_refused_open("head_width", 25, "width 24");
  for (const double ratio : {1e-9, 1e9}) check_refused_open("mlp_ratio", ratio, "columns");
  check_refused_open("mlp_ratio", -1, "positive");

  json config = open_clip();
  config.erase("embed_dim");
  check_message(message_of([&] { parse_open(config); }), {"lacks", "'embed_dim'"});
  config = open_clip();
  config["vision_cfg"].update({{"width", 20}, {"head_width", 3}});  // 20 / 3, rounded down: 6 heads
  check_message(message_of([&] { parse_open(config); }), {"'vision_cfg.head_width'", "width 20"});
  config["vision_cfg"]["head_width"] = 4;
  CHECK(parse_open(config).heads == 5);
  config = open_clip();
  config["quick_gelu"] = 1;
  check_message(message_of([&] { parse_open(config); }), {"'quick_gelu'", "true or false"});
  config.erase("vision_cfg");
  check_message(message_of([&] { parse_open(config); }), {"'vision_cfg'"});
}

namespace {

harness::bert_config parse_bert(const json& config) {
  return harness::read_bert({"some/config.json", config});
}

json bert() {
  return {{"model_type", "bert"},     {"hidden_size", 24},
          {"intermediate_size", 40},  {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"vocab_size", 100},
          {"pad_token_id", 0},        {"max_position_embeddings", 16}};
}

}  // namespace

TEST_CASE("BERT's and RoBERTa's configurations") {
  auto c = parse_bert(bert());
  CHECK(c.width == 24);
  CHECK(c.mlp_width == 40);
  CHECK(c.layers == 2);
  CHECK(c.heads == 4);
  CHECK(c.words == 100);
  CHECK(c.positions == 16);
  CHECK(c.types == 2);
  CHECK_FALSE(c.is_roberta);
  CHECK(c.epsilon == 1e-12F);
  CHECK(c.mlp_activation == harness::activation::gelu);
  for (const std::string type : {"roberta", "xlm-roberta", "camembert"}) {
    json config = bert();
    config.update({{"model_type", type}, {"type_vocab_size", 1}, {"layer_norm_eps", 1e-5}});
    c = parse_bert(config);
    CHECK(c.is_roberta);
    CHECK(c.pad == 0);
    CHECK(c.types == 1);
    CHECK(c.epsilon == 1e-5F);
    config.erase("pad_token_id");
    CHECK(parse_bert(config).pad == 1);
    config["pad_token_id"] = -1;
    check_message(message_of([&] { parse_bert(config); }), {"'pad_token_id'", "from 0"});
  }

  const auto refused = [](const std::string& key, const json& value, const std::string& part) {
    json config = bert();
    config[key] = value;
    check_message(message_of([&] { parse_bert(config); }),
                  {"some/config.json", "'" + key + "'", part});
  };
  for (const std::string key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                                "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    refused(key, nullptr, "lacks");
    refused(key, 0, "expected an integer");
  }
  refused("num_attention_heads", 5, "hidden_size 24");
  refused("hidden_act", "relu", "relu");
  refused("layer_norm_eps", 0, "positive");
  refused("position_embedding_type", "relative_key", "absolute");
  refused("is_decoder", true, "expected false");
  refused("add_cross_attention", true, "expected false");
  json config = bert();
  config.update({{"position_embedding_type", "absolute"}, {"is_decoder", false}});
  CHECK(parse_bert(config).width == 24);
}

TEST_CASE("which network a configuration is for") {
  const io::checkpoint weights(fixture("clip_vision/projected") / "model.safetensors");
  const auto open = [&](const std::string& text) {
    const fs::path file = scratch().file("config.json");
    std::ofstream(file) << text;
    return message_of([&] { harness::open_network(weights, file); });
  };
  check_message(open(R"({"model_type": "gptj"})"),
                {"config.json", "'model_type'", "'clip'", "'roberta'", "'model_cfg'", "'gpt2'"});
  check_message(open("{}"), {"config.json", "'model_type'", "found none"});
  check_message(open("[]"), {"config.json", "object"});
  check_message(open(R"({"a": )"), {"config.json", "JSON"});
  check_message(message_of([&] { harness::open_network(weights, "no/config.json"); }),
                {"no/config.json"});
  check_message(message_of([&] { harness::open_network(weights, ""); }),
                {"model.safetensors", "--config"});
  const fs::path folder = scratch().file("folder");
  fs::create_directories(folder);
  fs::copy_file(fixture("open_clip/whole") / "model.safetensors", folder / "model.safetensors");
  check_message(message_of([&] { harness::open_network(io::checkpoint(folder), ""); }),
                {folder.string(), "config.json", "open_clip_config.json", "--config"});
  fs::copy_file(model::config_of("open_clip/whole"), folder / "open_clip_config.json");
  CHECK(harness::open_network(io::checkpoint(folder), "")->output_width() == 10);
}

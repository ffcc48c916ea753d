// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// What is read from config.json, and what is refused there.
#include <doctest/doctest.h>

#include <network/config.hpp>
#include <nlohmann/json.hpp>

#include "network_fixtures.hpp"

using namespace network_test;
using nlohmann::json;

namespace {

harness::clip_vision_config parse(const json& config) {
  return harness::parse_clip_vision_config(config.dump(), "some/config.json");
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
  CHECK(c.channels == 3);
  CHECK(c.image_size == 12);
  CHECK(c.patch_size == 4);
  CHECK(c.projection == 10);
  CHECK(c.mlp_activation == harness::activation::gelu);
  CHECK(c.epsilon == 1e-3F);
  CHECK(c.tokens() == 10);
  CHECK(c.pixels() == 432);
  CHECK_FALSE(c.needs_projection);
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
  CHECK(c.channels == 3);
  CHECK(c.image_size == 224);
  CHECK(c.patch_size == 16);
  CHECK(c.projection == 7);
  CHECK(c.mlp_activation == harness::activation::quick_gelu);
  CHECK(c.epsilon == 1e-5F);
  CHECK(c.needs_projection);
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
  for (const std::string act : {"gelu_new", "gelu_pytorch_tanh", "relu", ""}) {
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
  check_message(
      message_of([&] { harness::parse_clip_vision_config("{\"a\": ", "some/config.json"); }),
      {"some/config.json", "JSON"});
  check_message(message_of([&] { harness::read_clip_vision_config("no/config.json"); }),
                {"no/config.json"});
}

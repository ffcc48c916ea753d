// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/model/layer_depths.hpp>

using catmerge::model::layer_depths;

TEST_CASE("depths: from the first to the last layer of each stack") {
  const layer_depths depth(
      {"vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0.mlp.fc1.weight",
       "vision_model.encoder.layers.1.mlp.fc1.weight",
       "vision_model.encoder.layers.4.mlp.fc1.weight", "text_model.encoder.layers.0.mlp.fc1.weight",
       "text_model.encoder.layers.2.mlp.fc1.weight", "visual_projection.weight"});
  CHECK(depth("vision_model.encoder.layers.0.mlp.fc1.weight") == 0.0);
  CHECK(depth("vision_model.encoder.layers.1.layer_norm1.bias") == 0.25);
  CHECK(depth("vision_model.encoder.layers.4.mlp.fc1.weight") == 1.0);
  CHECK(depth("text_model.encoder.layers.1.mlp.fc1.weight") == 0.5);
  CHECK(depth("text_model.encoder.layers.2.mlp.fc1.weight") == 1.0);
  CHECK_FALSE(depth("vision_model.embeddings.class_embedding"));
  CHECK_FALSE(depth("visual_projection.weight"));
  CHECK_FALSE(depth("other.layers.0.weight"));  // a stack that no name is in
}

TEST_CASE("depths: each of BLIP's three towers is a stack") {
  const std::string vision = "vision_model.encoder.layers.",
                    encoder = "text_encoder.encoder.layer.",
                    decoder = "text_decoder.bert.encoder.layer.";
  const layer_depths depth({vision + "0.self_attn.qkv.weight", vision + "4.self_attn.qkv.weight",
                            encoder + "2.output.dense.weight", decoder + "1.output.dense.weight"});
  CHECK(depth(vision + "1.layer_norm1.weight") == 0.25);
  CHECK(depth(encoder + "1.crossattention.self.key.weight") == 0.5);
  CHECK(depth(decoder + "1.crossattention.self.key.weight") == 1.0);
  CHECK_FALSE(depth("text_decoder.cls.predictions.transform.dense.weight"));
}

TEST_CASE("depths: the first number counts, and only whole parts of a name are numbers") {
  const layer_depths depth({"h.0.experts.7.w", "h.1.experts.3.w", "0.weight", "5.weight",
                            "fc1.weight", "stage2a.weight", "alone.0.weight", "ends.in.3", "h.-2.w",
                            "h.99999999999.w", ""});
  CHECK(depth("h.1.experts.0.w") == 1.0);
  CHECK(depth("h.0.experts.7.w") == 0.0);
  CHECK(depth("0.weight") == 0.0);
  CHECK(depth("1.weight") == 0.2);
  CHECK(depth("alone.0.weight") == 0.0);
  for (const char* name :
       {"fc1.weight", "stage2a.weight", "ends.in.3", "h.-2.w", "h.99999999999.w", ""})
    CHECK_FALSE(depth(name));
}

TEST_CASE("roles: the name without the number of its layer") {
  using catmerge::model::role_in_layer;
  CHECK(role_in_layer("encoder.layers.11.mlp.fc1.weight") == "encoder.layers.*.mlp.fc1.weight");
  CHECK(role_in_layer("h.0.experts.7.w") == "h.*.experts.7.w");
  CHECK(role_in_layer("0.weight") == "*.weight");
  CHECK_FALSE(role_in_layer("fc1.weight"));
  CHECK_FALSE(role_in_layer("ends.in.3"));
}

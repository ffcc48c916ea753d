// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// CLIP's vision transformer with the names of OpenAI and OpenCLIP, against open_clip's own
// (fixtures/make_open_clip.py); either vocabulary of names with either configuration.
#include <doctest/doctest.h>

#include "support/networks/checks.hpp"

using namespace network_test;

namespace {

const std::vector<std::string> variants = {"open_clip/whole", "open_clip/openai"};

std::string layer_of(std::size_t number) {
  return "visual.transformer.resblocks." + std::to_string(number) + ".";
}

/// The same samples over and over.
activations many(const model& m, const std::string& variant, index_t count) {
  const activations few = model::samples(*m.net, variant);
  activations state;
  state.offsets = harness::equal_offsets(count, 1);
  state.hidden.resize(count, few.hidden.cols());
  for (index_t i = 0; i < count; ++i) state.hidden.row(i) = few.hidden.row(i % few.samples());
  return state;
}

/// A vision transformer with the names of Hugging Face: q, k and v apart, the projection
/// transposed.
table with_hugging_face_names(const table& from, std::size_t layers) {
  table t;
  const auto copy = [&](const std::string& name, const std::string& to) {
    t.tensors[to] = from.tensors.at("visual." + name);
  };
  const auto copy_both = [&](const std::string& name, const std::string& to) {
    copy(name + ".weight", to + ".weight");
    copy(name + ".bias", to + ".bias");
  };
  copy("class_embedding", "vision_model.embeddings.class_embedding");
  copy("conv1.weight", "vision_model.embeddings.patch_embedding.weight");
  copy("positional_embedding", "vision_model.embeddings.position_embedding.weight");
  copy_both("ln_pre", "vision_model.pre_layrnorm");
  copy_both("ln_post", "vision_model.post_layernorm");
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string at = "transformer.resblocks." + std::to_string(i) + ".";
    const std::string to = "vision_model.encoder.layers." + std::to_string(i) + ".";
    copy_both(at + "ln_1", to + "layer_norm1");
    copy_both(at + "ln_2", to + "layer_norm2");
    copy_both(at + "attn.out_proj", to + "self_attn.out_proj");
    copy_both(at + "mlp.c_fc", to + "mlp.fc1");
    copy_both(at + "mlp.c_proj", to + "mlp.fc2");
    for (const std::string kind : {"weight", "bias"}) {
      const auto& whole = from.tensors.at("visual." + at + "attn.in_proj_" + kind);
      const std::ptrdiff_t size = std::ssize(whole.bytes) / 3;
      for (int part = 0; part < 3; ++part) {
        auto& each = t.tensors[to + "self_attn." + "qkv"[part] + "_proj." + kind];
        each.type = whole.type;
        each.shape = whole.shape;
        each.shape[0] /= 3;
        each.bytes.assign(whole.bytes.begin() + part * size,
                          whole.bytes.begin() + (part + 1) * size);
      }
    }
  }
  const auto& projection = from.tensors.at("visual.proj");
  const auto rows = std::size_t(projection.shape[0]), columns = std::size_t(projection.shape[1]);
  std::vector<float> values(rows * columns), transposed(rows * columns);
  std::memcpy(values.data(), projection.bytes.data(), projection.bytes.size());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) transposed[j * rows + i] = values[i * columns + j];
  }
  t.set("visual_projection.weight", io::dtype::f32, {projection.shape[1], projection.shape[0]},
        transposed);
  return t;
}

}  // namespace

TEST_CASE("every recorded input and the output agree with open_clip") {
  for (const std::string& variant : variants) check_agrees(variant, "image_embeds");
}

TEST_CASE("q, k and v are one name; inputs come in the order in which they enter") {
  for (const std::string& variant : variants) {
    const model m(variant);
    std::vector<std::vector<std::vector<std::string>>> expected = {{{"visual.ln_pre.weight"}}};
    for (std::size_t i = 0; i < last_encoder_block(*m.net); ++i) {
      const std::string at = layer_of(i);
      expected.push_back({{at + "ln_1.weight"},
                          {at + "attn.in_proj_weight"},
                          {at + "attn.out_proj.weight"},
                          {at + "ln_2.weight"},
                          {at + "mlp.c_fc.weight"},
                          {at + "mlp.c_proj.weight"}});
    }
    expected.push_back({{"visual.ln_post.weight"}, {"visual.proj"}});
    CHECK(recorded_names(m, many(m, variant, 2)) == expected);
  }
}

TEST_CASE("every parameter of the vision part belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    const model m(variant);
    const auto of_blocks = check_parameters(m, many(m, variant, 2));
    for (const std::string& name : m.checkpoint.names()) {
      CHECK((of_blocks.count(name) == 1) == name.starts_with("visual."));
    }
  }
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_same_bits(m, many(m, variant, 200));
  }
}

TEST_CASE("samples do not see each other") {
  const model m(variants[0]);
  const activations samples = many(m, variants[0], 100);
  const matrix all = run_all(*m.net, m.weights, samples);
  for (const index_t i : {0, 50, 99}) {
    const matrix one = run_all(*m.net, m.weights, {{0, 1}, 0, samples.hidden.row(i), {}});
    CHECK(largest_difference(one, all.row(i)) <= 1e-5);
  }
}

TEST_CASE("either vocabulary of names with either configuration") {
  const model m(variants[0]);
  const auto samples = many(m, variants[0], 3);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const fs::path theirs = scratch().file("config.json");
  std::ofstream(theirs) << R"({"model_type": "clip", "architectures": ["CLIPModel"],
      "projection_dim": 10, "vision_config": {"hidden_size": 24, "intermediate_size": 40,
      "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 12, "patch_size": 4,
      "hidden_act": "gelu"}})";
  const fs::path ours = model::config_of(variants[0]);
  const table original(fixture(variants[0]) / "model.safetensors");
  const fs::path renamed = with_hugging_face_names(original, 2).write();
  // The products are the same ones, of the same numbers.
  for (const fs::path& config : {theirs, ours}) {
    const model other(renamed, config);
    CHECK(largest_difference(run_all(*other.net, other.weights, samples), reference) <= 1e-5);
  }
  const model same(original.write(), theirs);
  CHECK(same_bits(run_all(*same.net, same.weights, samples), reference));

  table prefixed;
  for (const auto& [name, tensor] : original.tensors) prefixed.tensors["model." + name] = tensor;
  const model longer(prefixed.write(), ours);
  CHECK(same_bits(run_all(*longer.net, longer.weights, samples), reference));
}

TEST_CASE("checkpoints that are not this network are refused") {
  const fs::path config = model::config_of(variants[0]);
  const table original(fixture(variants[0]) / "model.safetensors");
  std::set<std::string> names;
  for (const auto& [name, tensor] : original.tensors) {
    if (name.starts_with("visual.")) names.insert(name);
  }
  check_tensors_needed(original, names, "visual.conv1.weight", config);

  table t = original;
  t.set(layer_of(2) + "ln_1.bias", io::dtype::f32, {1}, std::vector{1.0F});
  check_message(refusal_of(t, config), {"weights.safetensors", "'" + layer_of(2) + "ln_1.bias'",
                                        "expected 2 layers", "layers in", config.string()});
  t = original;
  t.tensors["vision_model.embeddings.patch_embedding.weight"] = t.tensors.at("visual.conv1.weight");
  check_message(refusal_of(t, config),
                {"weights.safetensors", "'vision_model.embeddings.patch_embedding.weight'",
                 "'visual.conv1.weight'"});
  t = original;
  t.tensors.erase("visual.proj");
  check_message(refusal_of(t, config), {"weights.safetensors", "'visual.proj'", "embed_dim"});
}

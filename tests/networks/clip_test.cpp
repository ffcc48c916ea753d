// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// The CLIP vision transformer against transformers' own (fixtures/make_clip_vision.py), block by
// block, on any number of threads, and everything that it refuses.
#include <doctest/doctest.h>

#include <cmath>
#include <harness/networks/attention.hpp>
#include <harness/networks/layers.hpp>
#include <stdexcept>

#include "support/networks/checks.hpp"

using namespace network_test;

namespace {

const std::vector<std::string> variants = {"projected", "grey", "half"};

/// The tokens of an image, and its pixels, by the shapes of the embeddings.
index_t tokens_of(const harness::network& net) {
  return net.parameters(0).at(2).shape.at(0);
}
index_t pixels_of(const harness::network& net) {
  const io::shape_t patch = net.parameters(0).at(1).shape;
  return (tokens_of(net) - 1) * patch[1] * patch[2] * patch[3];
}

activations random_samples(const harness::network& net, index_t count) {
  return {harness::equal_offsets(count, 1), 0, matrix::Random(count, pixels_of(net)), {}};
}

}  // namespace

TEST_CASE("every recorded input and the output agree with transformers") {
  for (const std::string& variant : variants) {
    check_agrees("clip_vision/" + variant, variant == "grey" ? "pooler_output" : "image_embeds",
                 {"pixel_values"});
    const model m("clip_vision/" + variant);
    const io::safetensors_file expected(fixture("clip_vision/" + variant) / "expected.safetensors");
    // Bytes and halves become exactly the floats that transformers was given.
    CHECK(largest_difference(
              model::samples(*m.net, "clip_vision/" + variant).hidden.reshaped<Eigen::RowMajor>(),
              tensor_rows(expected, "pixel_values").reshaped<Eigen::RowMajor>()) == 0);
  }
}

TEST_CASE("the recorder is called once for each group, in the order in which inputs enter") {
  for (const std::string& variant : variants) {
    const model m("clip_vision/" + variant);
    const std::string prefix = variant == "grey" ? "" : "vision_model.";
    std::vector<std::vector<std::vector<std::string>>> expected = {
        {{prefix + "pre_layrnorm.weight"}}};
    for (std::size_t layer = 0; layer < last_encoder_block(*m.net); ++layer) {
      const std::string at = prefix + "encoder.layers." + std::to_string(layer) + ".";
      expected.push_back({{at + "layer_norm1.weight"},
                          {at + "self_attn.q_proj.weight", at + "self_attn.k_proj.weight",
                           at + "self_attn.v_proj.weight"},
                          {at + "self_attn.out_proj.weight"},
                          {at + "layer_norm2.weight"},
                          {at + "mlp.fc1.weight"},
                          {at + "mlp.fc2.weight"}});
    }
    expected.push_back({{prefix + "post_layernorm.weight"}});
    if (variant != "grey") expected.back().push_back({"visual_projection.weight"});
    CHECK(recorded_names(m, random_samples(*m.net, 2)) == expected);
  }
}

TEST_CASE("a recorder that wants nothing gets nothing") {
  struct picky : keep_all {
    bool wants(const std::vector<std::string>& names) override { return names.size() == 3; }
  };
  const model m("clip_vision/projected");
  picky recorder;
  run_all(*m.net, m.weights, random_samples(*m.net, 2), &recorder);
  REQUIRE(recorder.records.size() == 2);  // q, k, v of two layers
  CHECK(recorder.records[0].rows.rows() == 20);
}

TEST_CASE("every parameter of the vision model belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    const model m("clip_vision/" + variant);
    const std::set<std::string> of_blocks = check_parameters(m, random_samples(*m.net, 2));
    for (const std::string& name : m.checkpoint.names()) {
      const bool of_text = name.starts_with("text_") || name == "logit_scale";
      CHECK((of_blocks.count(name) == 1) == !of_text);
    }
  }
}

TEST_CASE("blocks of two models may take turns") {
  const model m("clip_vision/projected");
  const harness::mixed_weights other(m.weights, m.weights, 0.0);
  activations a = random_samples(*m.net, 3);
  activations b = random_samples(*m.net, 5);
  const matrix whole_a = run_all(*m.net, m.weights, a);
  const matrix whole_b = run_all(*m.net, other, b);
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    activations moved = std::move(a);  // a state may go anywhere between two blocks
    m.net->run(block, m.weights, moved);
    m.net->run(block, other, b);
    a = std::move(moved);
  }
  CHECK(same_bits(a.hidden, whole_a));
  CHECK(same_bits(b.hidden, whole_b));
  CHECK_THROWS_AS(m.net->run(1, m.weights, a), std::logic_error);
  activations fresh = random_samples(*m.net, 1);
  CHECK_THROWS_AS(m.net->run(1, m.weights, fresh), std::logic_error);
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m("clip_vision/" + variant);
    // Three chunks and a part of one.
    check_same_bits(m, random_samples(*m.net, 3 * (256 / tokens_of(*m.net)) + 2));
  }
}

TEST_CASE("a run that ends at an input has recorded it whole") {
  for (const std::string& variant : variants) {
    const model m("clip_vision/" + variant);
    check_stops(m, random_samples(*m.net, 3));
  }
}

TEST_CASE("samples do not see each other") {
  const model m("clip_vision/grey");
  const activations samples = random_samples(*m.net, 120);
  const matrix all = run_all(*m.net, m.weights, samples);
  for (const index_t i : {0, 60, 119}) {
    const matrix one = run_all(*m.net, m.weights, {{0, 1}, 0, samples.hidden.row(i), {}});
    CHECK(largest_difference(one, all.row(i)) <= 1e-5);
  }
}

TEST_CASE("huge activations do not overflow the softmax or the activation") {
  matrix q = matrix::Constant(4, 6, 1e18F);
  const matrix v = matrix::Random(4, 6);
  const std::vector<index_t> offsets = {0, 2, 4};
  const matrix equal = harness::attend(q, matrix::Constant(4, 6, 1e18F), v, {0, offsets}, 3);
  CHECK(largest_difference(equal.row(0), (v.row(0) + v.row(1)) / 2) <= 1e-6);
  for (const auto kind : {harness::activation::gelu, harness::activation::quick_gelu}) {
    matrix x(1, 3);
    x << -1e4F, 0.0F, 1e4F;
    harness::activate(kind, x);
    CHECK(x(0, 0) == 0.0F);
    CHECK(x(0, 1) == 0.0F);
    CHECK(x(0, 2) == 1e4F);
  }
}

TEST_CASE("weights are read from every floating-point type, aligned or not") {
  const model m("clip_vision/projected");
  const auto samples = random_samples(*m.net, 2);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const table original(fixture("clip_vision/projected") / "model.safetensors");
  const struct {
    catmerge::scalar_type type;
    double error;  // outputs are of size 5; the types round at 0, 2^-12 and 2^-9, over ten layers
  } cases[] = {{catmerge::scalar_type::f64, 0},
               {catmerge::scalar_type::f16, 0.05},
               {catmerge::scalar_type::bf16, 0.4}};
  for (const auto& c : cases) {
    table converted = original;
    for (auto& [name, t] : converted.tensors) {
      std::vector<std::byte> bytes(t.bytes.size() / 4 * size_of(c.type));
      io::convert(t.bytes, catmerge::scalar_type::f32, bytes, c.type);
      t.type = io::dtype_of(c.type);
      t.bytes = bytes;
    }
    const model other(converted.write(), fixture("clip_vision/projected") / "config.json");
    const matrix found = run_all(*other.net, other.weights, samples);
    CHECK(largest_difference(found, reference) <= c.error);
  }

  // A blank more in the header, and nothing is aligned.
  std::ifstream in(fixture("clip_vision/projected") / "model.safetensors", std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  bytes.insert(8 + length, " ");
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  const fs::path odd = scratch().file("odd.safetensors");
  std::ofstream(odd, std::ios::binary) << bytes;
  const model shifted(odd, fixture("clip_vision/projected") / "config.json");
  CHECK(same_bits(run_all(*shifted.net, shifted.weights, samples), reference));
}

TEST_CASE("mixed weights lie on the line between base and expert") {
  const model m("clip_vision/grey");
  table changed(fixture("clip_vision/grey") / "model.safetensors");
  for (auto& [name, t] : changed.tensors) {
    for (std::size_t i = 0; i < t.bytes.size(); i += 4) {
      float v = 0;
      std::memcpy(&v, &t.bytes[i], 4);
      v = v * 1.5F + 0.25F;
      std::memcpy(&t.bytes[i], &v, 4);
    }
  }
  const model expert(changed.write(), fixture("clip_vision/grey") / "config.json");
  const harness::parameter p{"encoder.layers.1.mlp.fc1.weight", {30, 21}};
  const harness::weight from = m.weights.get(p);
  const harness::weight to = expert.weights.get(p);
  for (const double a : {0.0, 0.4, 1.0}) {
    const harness::weight mixed = harness::mixed_weights(m.weights, expert.weights, a).get(p);
    for (index_t i = 0; i < mixed.size(); ++i) {
      const double exact = (1 - a) * double{from.data()[i]} + a * double{to.data()[i]};
      CHECK(mixed.data()[i] == doctest::Approx(exact).epsilon(1e-6));
    }
  }
  CHECK_THROWS_AS(harness::mixed_weights(m.weights, expert.weights, 0.5).check({p.name, {21, 30}}),
                  catmerge::error);
}

TEST_CASE("names are understood behind any prefix") {
  const model m("clip_vision/projected");
  const auto samples = random_samples(*m.net, 2);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const std::vector<std::string> names = m.checkpoint.names();
  for (const std::string prefix : {"model.", "clip.model."}) {
    table renamed(fixture("clip_vision/projected") / "model.safetensors");
    for (const std::string& name : names) renamed.rename(name, prefix + name);
    const model other(renamed.write(), fixture("clip_vision/projected") / "config.json");
    keep_all recorder;
    CHECK(same_bits(run_all(*other.net, other.weights, samples, &recorder), reference));
    for (const auto& r : recorder.records) {
      for (const std::string& name : r.names) CHECK(other.checkpoint.find(name) != nullptr);
    }
  }
  // Without "vision_model." the projection stands beside the embeddings.
  table bare(fixture("clip_vision/projected") / "model.safetensors");
  for (const std::string& name : names) {
    if (name.starts_with("vision_model.")) bare.rename(name, name.substr(13));
  }
  const model other(bare.write(), fixture("clip_vision/projected") / "config.json");
  CHECK(same_bits(run_all(*other.net, other.weights, samples), reference));
}

TEST_CASE("checkpoints that are not this network are refused") {
  const fs::path config = fixture("clip_vision/projected") / "config.json";
  const table original(fixture("clip_vision/projected") / "model.safetensors");
  SUBCASE("any tensor missing, or of another shape") {
    std::set<std::string> names;
    for (const auto& [name, tensor] : original.tensors) names.insert(name);
    check_tensors_needed(original, names, "embeddings.patch_embedding.weight", config);
  }
  SUBCASE("integers for weights") {
    table t = original;
    t.tensors["visual_projection.weight"].type = io::dtype::i32;
    check_message(refusal_of(t, config),
                  {"weights.safetensors", "'visual_projection.weight'", "I32"});
  }
  SUBCASE("more layers than the configuration says") {
    table t = original;
    t.set("vision_model.encoder.layers.2.mlp.fc1.bias", io::dtype::f32, {1}, std::vector{1.0F});
    check_message(refusal_of(t, config),
                  {"weights.safetensors", "'vision_model.encoder.layers.2.mlp.fc1.bias'",
                   "num_hidden_layers", config.string()});
  }
  SUBCASE("two vision models") {
    table t = original;
    t.tensors["ema.embeddings.patch_embedding.weight"] =
        t.tensors["vision_model.embeddings.patch_embedding.weight"];
    check_message(refusal_of(t, config),
                  {"weights.safetensors", "'ema.embeddings.patch_embedding.weight'",
                   "'vision_model.embeddings.patch_embedding.weight'"});
  }
  SUBCASE("no vision model") {
    table t = original;
    t.rename("vision_model.embeddings.patch_embedding.weight",
             "vision_model.other_embeddings.patch_embedding.weight");
    check_message(refusal_of(t, config),
                  {"weights.safetensors", "'embeddings.patch_embedding.weight'"});
  }
  SUBCASE("values that are not finite") {
    for (const auto type : {io::dtype::f32, io::dtype::f16}) {
      table t = original;
      const std::string name = "vision_model.encoder.layers.1.mlp.fc2.bias";
      if (type == io::dtype::f32) {
        std::vector<float> values(24, 1.0F);
        values[5] = std::nanf("");
        t.set(name, type, {24}, values);
      } else {
        std::vector<std::uint16_t> values(24, 0x3c00);
        values[5] = 0x7c00;  // infinity
        t.set(name, type, {24}, values);
      }
      const model m(t.write("weights.safetensors"), config);
      check_message(message_of([&] { run_all(*m.net, m.weights, random_samples(*m.net, 1)); }),
                    {"weights.safetensors", "'" + name + "'", "element 5", "not finite"});
    }
  }
}

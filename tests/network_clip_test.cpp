// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// The CLIP vision transformer against transformers' own (fixtures/make_clip_vision.py), block by
// block, on any number of threads, and everything that it refuses.
#include <doctest/doctest.h>

#include <cmath>
#include <network/clip_vision.hpp>
#include <set>
#include <stdexcept>

#include "network_fixtures.hpp"

using namespace network_test;
using harness::activations;
using harness::matrix;

namespace {

/// What issue 2 asks for. Values here are of size 1 to 15, float32 rounds at 6e-8 of that, and the
/// deepest fixture has some 20 layers: about 1e-6 is expected (and printed with --success).
constexpr double tolerance = 1e-4;

activations random_samples(const harness::clip_vision& net, index_t count) {
  return {count, 1, 0, matrix::Random(count, net.config().pixels())};
}

std::size_t last_encoder_block(const harness::network& net) {
  return net.block_count() - 2;
}

}  // namespace

TEST_CASE("every recorded input and the output agree with transformers") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
    const auto samples = m.net->open_samples(fixture(variant) / "samples.safetensors");
    activations state = samples->load(0, samples->size());

    double largest =
        largest_difference(state.hidden.reshaped<Eigen::RowMajor>(),
                           tensor_rows(expected, "pixel_values").reshaped<Eigen::RowMajor>());
    CHECK(largest == 0);  // bytes and halves become exactly the floats that transformers was given
    std::set<std::string> seen = {"pixel_values"};
    const auto compare = [&](const std::string& name, const matrix& found) {
      CAPTURE(name);
      const double difference = largest_difference(found, tensor_rows(expected, name));
      CHECK(difference <= tolerance);
      largest = std::max(largest, difference);
      CHECK(seen.insert(name).second);
    };

    keep_all recorder;
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      m.net->run(block, m.weights, state, &recorder);
      if (block == last_encoder_block(*m.net)) compare("last_hidden_state", state.hidden);
    }
    for (const auto& r : recorder.records) compare(r.names.front(), r.rows);
    const bool projects = variant != "grey";
    compare(projects ? "image_embeds" : "pooler_output", state.hidden);
    CHECK(state.hidden.cols() == m.net->output_width());
    CHECK(state.tokens == 1);

    // Nothing that transformers recorded is missing here.
    for (const io::tensor_entry& e : expected.entries()) {
      CAPTURE(e.name);
      CHECK(seen.count(e.name) == 1);
    }
    MESSAGE(variant << ": largest absolute error " << largest);
  }
}

TEST_CASE("the recorder is called once for each group, in the order in which inputs enter") {
  for (const std::string& variant : variants) {
    const model m(variant);
    const std::string prefix = variant == "grey" ? "" : "vision_model.";
    using groups = std::vector<std::vector<std::string>>;
    activations state = random_samples(*m.net, 2);
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      keep_all recorder;
      m.net->run(block, m.weights, state, &recorder);
      groups expected;
      if (block == 0) {
        expected = {{prefix + "pre_layrnorm.weight"}};
      } else if (block <= last_encoder_block(*m.net)) {
        const std::string at = prefix + "encoder.layers." + std::to_string(block - 1) + ".";
        expected = {{at + "layer_norm1.weight"},
                    {at + "self_attn.q_proj.weight", at + "self_attn.k_proj.weight",
                     at + "self_attn.v_proj.weight"},
                    {at + "self_attn.out_proj.weight"},
                    {at + "layer_norm2.weight"},
                    {at + "mlp.fc1.weight"},
                    {at + "mlp.fc2.weight"}};
      } else {
        expected = {{prefix + "post_layernorm.weight"}};
        if (variant != "grey") expected.push_back({"visual_projection.weight"});
      }
      groups found;
      for (const auto& r : recorder.records) {
        found.push_back(r.names);
        const index_t rows = block + 1 == m.net->block_count() ? 2 : 2 * m.net->config().tokens();
        CHECK(r.rows.rows() == rows);
      }
      CHECK(found == expected);
    }
  }
}

TEST_CASE("a recorder that wants nothing gets nothing") {
  struct picky : keep_all {
    bool wants(const std::vector<std::string>& names) override { return names.size() == 3; }
  };
  const model m("projected");
  picky recorder;
  run_all(*m.net, m.weights, random_samples(*m.net, 2), &recorder);
  REQUIRE(recorder.records.size() == 2);  // q, k, v of two layers
  CHECK(recorder.records[0].rows.rows() == 20);
}

TEST_CASE("every parameter of the vision model belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_weights(*m.net, m.weights);
    std::set<std::string> of_blocks;
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      for (const harness::parameter& p : m.net->parameters(block)) {
        CHECK(of_blocks.insert(p.name).second);
        CHECK(m.checkpoint.at(p.name).shape == p.shape);
      }
    }
    for (const std::string& name : m.checkpoint.names()) {
      const bool of_text = name.starts_with("text_") || name == "logit_scale";
      CHECK((of_blocks.count(name) == 1) == !of_text);
    }
  }
}

TEST_CASE("a block asks for its own parameters and no others") {
  struct spy : harness::weight_source {
    explicit spy(const weight_source& to) : from(to) {}
    const weight_source& from;
    mutable std::multiset<std::string> asked;
    void check(const harness::parameter& p) const override { from.check(p); }
    harness::weight get(const harness::parameter& p) const override {
      asked.insert(p.name);
      return from.get(p);
    }
  };
  const model m("projected");
  activations state = random_samples(*m.net, 2);
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    const spy weights(m.weights);
    m.net->run(block, weights, state);
    std::multiset<std::string> own;
    for (const auto& p : m.net->parameters(block)) own.insert(p.name);
    CHECK(weights.asked == own);
  }
}

TEST_CASE("blocks of two models may take turns") {
  const model m("projected");
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
    const model m(variant);
    // Three chunks and a part of one.
    const index_t count = 3 * (256 / m.net->config().tokens()) + 2;
    const activations samples = random_samples(*m.net, count);
    keep_all alone;
    const matrix reference = run_all(*m.net, m.weights, samples, &alone);
    CHECK(same_bits(run_all(*m.net, m.weights, samples), reference));
    for (const int threads : {1, 2, 3}) {
      keep_all together;
      CHECK(same_bits(run_all(*m.net, m.weights, samples, &together, on_threads(threads)),
                      reference));
      REQUIRE(together.records.size() == alone.records.size());
      for (std::size_t i = 0; i < alone.records.size(); ++i) {
        CHECK(together.records[i].names == alone.records[i].names);
        CHECK(same_bits(together.records[i].rows, alone.records[i].rows));
      }
    }
  }
}

TEST_CASE("samples do not see each other") {
  const model m("grey");
  const activations samples = random_samples(*m.net, 120);
  const matrix all = run_all(*m.net, m.weights, samples);
  for (const index_t i : {0, 60, 119}) {
    const matrix one = run_all(*m.net, m.weights, {1, 1, 0, samples.hidden.row(i)});
    CHECK(largest_difference(one, all.row(i)) <= 1e-5);
  }
}

TEST_CASE("huge activations do not overflow the softmax or the activation") {
  matrix q = matrix::Constant(4, 6, 1e18F);
  const matrix v = matrix::Random(4, 6);
  const matrix equal = harness::attend(q, matrix::Constant(4, 6, 1e18F), v, 2, 3);
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
  const model m("projected");
  const auto samples = random_samples(*m.net, 2);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const table original(fixture("projected") / "model.safetensors");
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
    const model other(converted.write(), fixture("projected") / "config.json");
    const matrix found = run_all(*other.net, other.weights, samples);
    CHECK(largest_difference(found, reference) <= c.error);
  }

  // A blank more in the header, and nothing is aligned.
  std::ifstream in(fixture("projected") / "model.safetensors", std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  bytes.insert(8 + length, " ");
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  const fs::path odd = scratch().file("odd.safetensors");
  std::ofstream(odd, std::ios::binary) << bytes;
  const model shifted(odd, fixture("projected") / "config.json");
  CHECK(same_bits(run_all(*shifted.net, shifted.weights, samples), reference));
}

TEST_CASE("mixed weights lie on the line between base and expert") {
  const model m("grey");
  table changed(fixture("grey") / "model.safetensors");
  for (auto& [name, t] : changed.tensors) {
    for (std::size_t i = 0; i < t.bytes.size(); i += 4) {
      float v = 0;
      std::memcpy(&v, &t.bytes[i], 4);
      v = v * 1.5F + 0.25F;
      std::memcpy(&t.bytes[i], &v, 4);
    }
  }
  const model expert(changed.write(), fixture("grey") / "config.json");
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
  const model m("projected");
  const auto samples = random_samples(*m.net, 2);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const std::vector<std::string> names = m.checkpoint.names();
  for (const std::string prefix : {"model.", "clip.model."}) {
    table renamed(fixture("projected") / "model.safetensors");
    for (const std::string& name : names) renamed.rename(name, prefix + name);
    const model other(renamed.write(), fixture("projected") / "config.json");
    keep_all recorder;
    CHECK(same_bits(run_all(*other.net, other.weights, samples, &recorder), reference));
    for (const auto& r : recorder.records) {
      for (const std::string& name : r.names) CHECK(other.checkpoint.find(name) != nullptr);
    }
  }
  // Without "vision_model." the projection stands beside the embeddings.
  table bare(fixture("projected") / "model.safetensors");
  for (const std::string& name : names) {
    if (name.starts_with("vision_model.")) bare.rename(name, name.substr(13));
  }
  const model other(bare.write(), fixture("projected") / "config.json");
  CHECK(same_bits(run_all(*other.net, other.weights, samples), reference));
}

TEST_CASE("checkpoints that are not this network are refused") {
  const fs::path config = fixture("projected") / "config.json";
  const table original(fixture("projected") / "model.safetensors");
  const auto open_and_check = [&](const table& t) {
    const fs::path file = t.write("weights.safetensors");
    return message_of([&] {
      const model m(file, config);
      check_weights(*m.net, m.weights);
    });
  };

  SUBCASE("any tensor missing, or of another shape") {
    for (const auto& [name, tensor] : original.tensors) {
      table t = original;
      t.tensors.erase(name);
      // The patch embedding gives the prefix away; without it only the end of its name is known.
      const bool is_patch = name.ends_with("patch_embedding.weight");
      check_message(open_and_check(t), {"weights.safetensors", is_patch ? name.substr(13) : name});

      t = original;
      auto& shape = t.tensors[name].shape;
      const std::string right = io::to_string(shape);
      shape.push_back(1);
      check_message(open_and_check(t), {"weights.safetensors", "'" + name + "'",
                                        "expected shape " + right, io::to_string(shape)});
    }
  }
  SUBCASE("integers for weights") {
    table t = original;
    t.tensors["visual_projection.weight"].type = io::dtype::i32;
    check_message(open_and_check(t), {"weights.safetensors", "'visual_projection.weight'", "I32"});
  }
  SUBCASE("more layers than the configuration says") {
    table t = original;
    t.set("vision_model.encoder.layers.2.mlp.fc1.bias", io::dtype::f32, {1}, std::vector{1.0F});
    check_message(open_and_check(t),
                  {"weights.safetensors", "'vision_model.encoder.layers.2.mlp.fc1.bias'",
                   "num_hidden_layers", config.string()});
  }
  SUBCASE("two vision models") {
    table t = original;
    t.tensors["ema.embeddings.patch_embedding.weight"] =
        t.tensors["vision_model.embeddings.patch_embedding.weight"];
    check_message(open_and_check(t),
                  {"weights.safetensors", "'ema.embeddings.patch_embedding.weight'",
                   "'vision_model.embeddings.patch_embedding.weight'"});
  }
  SUBCASE("no vision model") {
    table t = original;
    t.rename("vision_model.embeddings.patch_embedding.weight",
             "vision_model.other_embeddings.patch_embedding.weight");
    check_message(open_and_check(t),
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

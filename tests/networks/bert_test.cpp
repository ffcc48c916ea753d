// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// BERT and RoBERTa against transformers' own (fixtures/make_bert.py), on texts of uneven lengths.
#include <doctest/doctest.h>

#include <harness/networks/data/head.hpp>
#include <random>

#include "support/networks/checks.hpp"

using namespace network_test;

namespace {

const std::vector<std::string> variants = {"bert/roberta", "bert/bert", "bert/bare"};

std::string prefix_of(const std::string& variant) {
  return variant == "bert/bare" ? "" : variant.substr(5) + ".";
}

/// Texts of random lengths, 1 to 6 tokens; types from 0 on.
activations random_texts(const harness::network& net, std::size_t count) {
  std::mt19937 random(5);
  const auto first = net.parameters(0);
  const auto below = [&](index_t extent) { return index_t(random() % std::uint32_t(extent)); };
  activations state;
  for (std::size_t i = 0; i < count; ++i) {
    const index_t length = 1 + below(6);
    for (index_t at = 0; at < length; ++at) {
      state.text.push_back(
          {below(first[0].shape[0]), below(first[1].shape[0]), below(first[2].shape[0])});
    }
    state.offsets.push_back(std::ssize(state.text));
  }
  return state;
}

}  // namespace

TEST_CASE("every recorded input and the output agree with transformers") {
  for (const std::string& variant : variants) check_agrees(variant, "output", {"logits"});
}

TEST_CASE("logits agree with transformers' sequence classification, the head being its own") {
  for (const std::string variant : {"bert/roberta", "bert/bert"}) {
    const model m(variant);
    const harness::task_head head(fixture(variant) / "model.safetensors", m.net->output(),
                                  m.net->output_width());
    const matrix output = run_all(*m.net, m.weights, model::samples(*m.net, variant));
    const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
    CHECK(largest_difference(head(harness::view(output)), tensor_rows(expected, "logits")) <=
          tolerance);
  }
}

TEST_CASE("the recorder is called once for each group, in the order in which inputs enter") {
  for (const std::string& variant : variants) {
    const model m(variant);
    const std::string prefix = prefix_of(variant);
    std::vector<std::vector<std::vector<std::string>>> expected = {
        {{prefix + "embeddings.LayerNorm.weight"}}};
    for (std::size_t i = 0; i < last_encoder_block(*m.net); ++i) {
      const std::string at = prefix + "encoder.layer." + std::to_string(i) + ".";
      expected.push_back({{at + "attention.self.query.weight", at + "attention.self.key.weight",
                           at + "attention.self.value.weight"},
                          {at + "attention.output.dense.weight"},
                          {at + "attention.output.LayerNorm.weight"},
                          {at + "intermediate.dense.weight"},
                          {at + "output.dense.weight"},
                          {at + "output.LayerNorm.weight"}});
    }
    expected.emplace_back();
    if (variant == "bert/bert") expected.back() = {{"bert.pooler.dense.weight"}};
    CHECK(recorded_names(m, random_texts(*m.net, 3)) == expected);
  }
}

TEST_CASE("every parameter but the head's belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    const model m(variant);
    const auto of_blocks = check_parameters(m, random_texts(*m.net, 2));
    for (const std::string& name : m.checkpoint.names()) {
      CHECK((of_blocks.count(name) == 1) != name.starts_with("classifier."));
    }
  }
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_same_bits(m, random_texts(*m.net, 300));
  }
}

TEST_CASE("a run that ends at an input has recorded it whole") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_stops(m, random_texts(*m.net, 3));
  }
}

TEST_CASE("a text's output depends neither on its neighbours nor on how far it is padded") {
  for (const std::string& variant : variants) {
    const model m(variant);
    const activations samples = random_texts(*m.net, 200);
    const matrix all = run_all(*m.net, m.weights, samples);
    for (const std::size_t i : {0U, 1U, 100U, 199U}) {
      const matrix one = run_all(*m.net, m.weights, one_of(samples, i));
      CHECK(largest_difference(one, all.row(index_t(i))) <= 1e-5);
    }
  }
  // The fixture's texts with more padding: the same tokens, so the same bits.
  const model m("bert/roberta");
  table t(fixture("bert/roberta") / "samples.safetensors");
  for (auto& [name, tensor] : t.tensors) {
    if (name == "labels") continue;
    std::vector<std::int64_t> values(36), padded;
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    for (std::size_t i = 0; i < 36; ++i) {
      padded.push_back(values[i]);
      if (i % 9 == 8) padded.insert(padded.end(), 20, name == "input_ids" ? 3 : 0);
    }
    t.set(name, io::dtype::i64, {4, 29}, padded);
  }
  const auto reader = m.net->open_samples(t.write());
  CHECK(same_bits(run_all(*m.net, m.weights, reader->load(0, 4)),
                  run_all(*m.net, m.weights, model::samples(*m.net, "bert/roberta"))));
}

TEST_CASE("a long text: more rows than a chunk has") {
  // Tokens that are equal, position too, attend to equal rows: all outputs are the first one's.
  const model m("bert/bare");
  activations state;
  state.text.assign(600, {17, 2, 1});
  state.offsets = {0, 600};
  activations one;
  one.text = {{17, 2, 1}};
  one.offsets = {0, 1};
  CHECK(largest_difference(run_all(*m.net, m.weights, state), run_all(*m.net, m.weights, one)) <=
        1e-5);
}

TEST_CASE("names: any prefix, and gamma and beta of old checkpoints") {
  const model m("bert/bert");
  const activations samples = random_texts(*m.net, 5);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const table original(fixture("bert/bert") / "model.safetensors");
  const fs::path config = model::config_of("bert/bert");
  const auto renamed = [&](const auto& rename) {
    table t;
    for (const auto& [name, tensor] : original.tensors) t.tensors[rename(name)] = tensor;
    const model other(t.write(), config);
    keep_all recorder;
    CHECK(same_bits(run_all(*other.net, other.weights, samples, &recorder), reference));
    for (const auto& r : recorder.records) {
      for (const std::string& name : r.names) CHECK(other.checkpoint.find(name) != nullptr);
    }
  };
  renamed([](const std::string& name) { return "a.model." + name; });
  renamed(
      [](const std::string& name) { return name.starts_with("bert.") ? name.substr(5) : name; });
  renamed([](const std::string& name) {
    const std::size_t norm = name.find("LayerNorm.");
    if (norm == std::string::npos) return name;
    return name.substr(0, norm + 10) + (name.ends_with("weight") ? "gamma" : "beta");
  });
}

TEST_CASE("a BERT without its pooler puts out the first row; a RoBERTa's pooler is not used") {
  const fs::path config = model::config_of("bert/bert");
  table t(fixture("bert/bert") / "model.safetensors");
  const auto pooler = t.tensors.at("bert.pooler.dense.weight");
  const auto pooler_bias = t.tensors.at("bert.pooler.dense.bias");
  t.tensors.erase("bert.pooler.dense.bias");
  check_message(refusal_of(t, config), {"weights.safetensors", "'bert.pooler.dense.bias'"});
  t.tensors.erase("bert.pooler.dense.weight");
  const model m(t.write(), config);
  CHECK(m.net->output() == harness::output_kind::first_token);
  CHECK(model("bert/bert").net->output() == harness::output_kind::pooled);
  activations state = model::samples(*m.net, "bert/bert");
  while (state.next_block + 1 < m.net->block_count()) {
    m.net->run(state.next_block, m.weights, state);
  }
  const matrix hidden = state.hidden;
  const std::vector<index_t> offsets = state.offsets;
  m.net->run(state.next_block, m.weights, state);
  for (index_t i = 0; i < state.samples(); ++i) {
    CHECK(state.hidden.row(i) == hidden.row(offsets[std::size_t(i)]));
  }

  table with_pooler(fixture("bert/roberta") / "model.safetensors");
  with_pooler.tensors["roberta.pooler.dense.weight"] = pooler;
  with_pooler.tensors["roberta.pooler.dense.bias"] = pooler_bias;
  const model roberta(with_pooler.write(), model::config_of("bert/roberta"));
  CHECK(roberta.net->output() == harness::output_kind::first_token);
  CHECK(roberta.net->parameters(roberta.net->block_count() - 1).empty());
}

TEST_CASE("checkpoints that are not this network are refused") {
  for (const std::string variant : {"bert/roberta", "bert/bert"}) {
    const fs::path config = model::config_of(variant);
    const table original(fixture(variant) / "model.safetensors");
    std::set<std::string> names;
    for (const auto& [name, tensor] : original.tensors) {
      if (!name.starts_with("classifier.") && !name.ends_with("pooler.dense.weight")) {
        names.insert(name);
      }
    }
    check_tensors_needed(original, names, "embeddings.word_embeddings.weight", config);
    table t = original;
    const std::string more = prefix_of(variant) + "encoder.layer.2.output.dense.bias";
    t.set(more, io::dtype::f32, {1}, std::vector{1.0F});
    check_message(refusal_of(t, config), {"weights.safetensors", "'" + more + "'",
                                          "expected 2 layers", "num_hidden_layers"});
    t = original;
    t.tensors["ema.embeddings.word_embeddings.weight"] =
        t.tensors.at(prefix_of(variant) + "embeddings.word_embeddings.weight");
    check_message(refusal_of(t, config), {"weights.safetensors", "two tensors",
                                          "'ema.embeddings.word_embeddings.weight'"});
  }
  const fs::path endless = scratch().file("config.json");
  std::ofstream(endless) << R"({"model_type": "bert", "hidden_size": 16, "intermediate_size": 24,
      "num_hidden_layers": 1048576, "num_attention_heads": 2, "vocab_size": 31,
      "max_position_embeddings": 8})";
  check_message(refusal_of(table(fixture("bert/bert") / "model.safetensors"), endless),
                {"weights.safetensors", "expected 1048576 layers", "num_hidden_layers",
                 endless.string(), "41 tensors"});
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Decoders against transformers' own (fixtures/make_decoder.py), on texts of uneven lengths.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/data/token_scores.hpp>
#include <harness/networks/decoder/gemma.hpp>
#include <harness/networks/decoder/llama.hpp>
#include <harness/networks/decoder/mixture.hpp>
#include <harness/networks/decoder/phi3.hpp>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "support/networks/checks.hpp"

using namespace network_test;

namespace {

/// All folders of the fixture.
std::vector<std::string> all_variants() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fixture("decoder"))) {
    names.push_back("decoder/" + entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

const std::vector<std::string> variants = all_variants();

nlohmann::json config_of(const std::string& variant) {
  std::ifstream file(fixture(variant) / "config.json");
  return nlohmann::json::parse(file);
}

/// A configuration with one key changed.
fs::path changed_config(const std::string& variant, const std::string& key,
                        const nlohmann::json& value) {
  auto config = config_of(variant);
  config[nlohmann::json::json_pointer("/" + key)] = value;
  const fs::path file = scratch().file("config.json");
  std::ofstream(file) << config.dump();
  return file;
}

index_t words_of(const harness::network& net) {
  return net.output_width();
}

/// Texts of random lengths, 1 to `longest` tokens; every token's successor is asked for.
activations random_texts(const harness::network& net, std::size_t count,
                         std::uint32_t longest = 9) {
  std::mt19937 random(5);
  activations state;
  for (std::size_t i = 0; i < count; ++i) {
    const auto length = index_t(1 + random() % longest);
    for (index_t at = 0; at < length; ++at) {
      state.asked.push_back(std::ssize(state.text));
      state.text.push_back({index_t(random() % std::uint32_t(words_of(net))), at, 0});
    }
    state.offsets.push_back(std::ssize(state.text));
  }
  return state;
}

/// The name of the table of tokens if it is the output's, too.
std::string tied_of(const model& m) {
  const auto last = m.net->parameters(m.net->block_count() - 1);
  const bool apart = std::any_of(last.begin(), last.end(),
                                 [](const auto& p) { return p.name.ends_with("lm_head.weight"); });
  return apart ? std::string() : m.net->parameters(0).front().name;
}

}  // namespace

TEST_CASE("every recorded input and the logits agree with transformers") {
  REQUIRE(variants.size() >= 14);
  for (const std::string& variant : variants) check_agrees(variant, "logits", {"nll"});
}

TEST_CASE("likelihoods of labels agree with transformers, and the metrics with their definitions") {
  int compared = 0;
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const auto reader = m.net->open_samples(fixture(variant) / "samples.safetensors");
    const auto scores = harness::score_tokens(*m.net, m.weights, *reader);
    // One sample at a time if few logits may be in memory.
    std::vector<index_t> done;
    const auto apart = harness::score_tokens(
        *m.net, m.weights, *reader, {}, [&](index_t n) { done.push_back(n); }, 8, 1);
    CHECK(std::ssize(done) == reader->size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      REQUIRE(apart[i].size() == scores[i].size());
      for (std::size_t t = 0; t < scores[i].size(); ++t) {
        CHECK(std::abs(apart[i][t].log_likelihood - scores[i][t].log_likelihood) <= tolerance);
      }
    }
    const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
    const matrix logits = tensor_rows(expected, "logits");
    double sum = 0, right = 0, exact = 0;
    index_t row = 0;
    for (index_t i = 0; i < reader->size(); ++i) {
      bool all = true;
      const auto asked = reader->asked(i);
      REQUIRE(scores[std::size_t(i)].size() == asked.size());
      for (std::size_t t = 0; t < asked.size(); ++t, ++row) {
        long double total = 0;
        index_t greedy = 0;
        for (index_t w = 0; w < logits.cols(); ++w) {
          total += std::exp(static_cast<long double>(logits(row, w)));
          if (logits(row, w) > logits(row, greedy)) greedy = w;
        }
        const double nll = double(std::log(total)) - double(logits(row, asked[t].token));
        CHECK(scores[std::size_t(i)][t].log_likelihood == doctest::Approx(-nll).epsilon(1e-4));
        CHECK(scores[std::size_t(i)][t].is_greedy == (greedy == asked[t].token));
        if (expected.find("nll") != nullptr) {
          CHECK(std::abs(tensor_rows(expected, "nll")(row, 0) - nll) <= tolerance);
          ++compared;
        }
        sum += nll;
        right += greedy == asked[t].token ? 1 : 0;
        all = all && greedy == asked[t].token;
      }
      exact += all ? 1 : 0;
    }
    REQUIRE(row == logits.rows());
    const auto close = [](double x) { return doctest::Approx(x).epsilon(1e-4); };
    const auto measured = [&](const std::string& metric) {
      return harness::token_metric(metric, metric, "no file", reader->size())(scores);
    };
    CHECK(measured("perplexity") == close(std::exp(sum / double(row))));
    CHECK(measured("likelihood") == close(100 * std::exp(-sum / double(row))));
    CHECK(measured("accuracy") == close(100 * right / double(row)));
    CHECK(measured("exact") == close(100 * exact / double(reader->size())));
  }
  CHECK(compared > 10);
}

TEST_CASE("choices: the likeliest answer of each question, by its sum or by its mean") {
  // Questions 5 and 9; the third answer is short.
  const harness::sample_scores scores = {{{-1, true}, {-1.5, true}},
                                         {{-2, false}, {-2, false}},
                                         {{-2, true}},
                                         {{-1, true}, {-0.5, true}, {-0.9, true}},
                                         {{-4, true}}};
  table t;
  t.set<std::int32_t>("question", io::dtype::i32, {5}, {5, 9, 5, 9, 5});
  t.set<std::uint8_t>("correct", io::dtype::u8, {5}, {1, 0, 0, 1, 0});
  const auto measured = [&](const std::string& metric) {
    return harness::token_metric(metric, metric, t.write("questions.safetensors"), 5)(scores);
  };
  CHECK(measured("choice") == 50);  // -2.5, -2, -4: the second of 5; -4, -2.4: the second of 9
  CHECK(measured("choice-per-token") == 100);
  t.set<std::uint8_t>("correct", io::dtype::u8, {5}, {0, 0, 1, 0, 1});
  check_message(message_of([&] { measured("choice"); }),
                {"questions.safetensors", "question 9", "none of them correct"});
  t.set<std::uint8_t>("correct", io::dtype::u8, {5}, {1, 0, 2, 1, 0});
  check_message(message_of([&] { measured("choice"); }), {"'correct'", "sample 2", "found 2"});
  t.set<std::uint8_t>("correct", io::dtype::u8, {5}, {1, 0, 1, 1, 1});
  t.set<std::int32_t>("question", io::dtype::i32, {5}, {5, 9, 5, 7, 9});
  check_message(message_of([&] { measured("choice"); }), {"question 7", "found 1"});
  check_message(message_of([&] { measured("f1"); }), {"f1", "likelihood"});
}

TEST_CASE("every parameter belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const auto of_blocks = check_parameters(m, random_texts(*m.net, 40), tied_of(m));
    for (const std::string& name : m.checkpoint.names()) CHECK(of_blocks.count(name) == 1);
  }
}

TEST_CASE("every weight and every scale is recorded, but tables") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    std::set<std::string> recorded;
    for (const auto& block : recorded_names(m, random_texts(*m.net, 3))) {
      for (const auto& group : block) recorded.insert(group.begin(), group.end());
    }
    for (std::size_t block = 1; block < m.net->block_count(); ++block) {
      for (const auto& p : m.net->parameters(block)) {
        CAPTURE(p.name);
        CHECK((recorded.count(p.name) == 1) == p.name.ends_with("weight"));
      }
    }
    for (const auto& p : m.net->parameters(0)) CHECK(recorded.count(p.name) == 0);
  }
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_same_bits(m, random_texts(*m.net, 120));
  }
}

TEST_CASE("a run that ends at an input has recorded it whole") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    check_stops(m, random_texts(*m.net, 3));
  }
}

TEST_CASE("a text's logits depend neither on its neighbours nor on later tokens") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const activations samples = random_texts(*m.net, 60);
    const matrix all = run_all(*m.net, m.weights, samples);
    for (const std::size_t i : {0U, 1U, 30U, 59U}) {
      const matrix one = run_all(*m.net, m.weights, one_of(samples, i));
      const index_t first = samples.offsets[i], count = samples.offsets[i + 1] - first;
      CHECK(largest_difference(one, all.middleRows(first, count)) <= 2e-5);
    }
    // Another last token: the rows before it keep their bits.
    activations text = one_of(samples, 30);
    text.text.resize(7, text.text.front());
    for (index_t at = 0; at < 7; ++at) text.text[std::size_t(at)].position = at;
    text.offsets = {0, 7};
    text.asked = {0, 1, 2, 3, 4, 5, 6};
    activations other = text;
    other.text.back().word = (other.text.back().word + 1) % words_of(*m.net);
    const matrix a = run_all(*m.net, m.weights, text), b = run_all(*m.net, m.weights, other);
    CHECK(same_bits(a.topRows(6), b.topRows(6)));
    CHECK(largest_difference(a.bottomRows(1), b.bottomRows(1)) > 1e-3);
  }
}

TEST_CASE("rows that are asked for are those of all rows") {
  for (const std::string& variant : variants) {
    const model m(variant);
    activations samples = random_texts(*m.net, 20);
    const matrix all = run_all(*m.net, m.weights, samples);
    std::vector<index_t> kept;
    for (const index_t row : samples.asked) {
      if (row % 3 == 0 || row + 1 == samples.offsets.back()) kept.push_back(row);
    }
    samples.asked = kept;
    const matrix some = run_all(*m.net, m.weights, samples);
    REQUIRE(some.rows() == std::ssize(kept));
    for (index_t i = 0; i < some.rows(); ++i) {
      CHECK(largest_difference(some.row(i), all.row(kept[std::size_t(i)])) <= 2e-5);
    }
  }
}

TEST_CASE("padding on either side is left out") {
  const std::string variant = "decoder/llama";
  const model m(variant);
  const auto reader = m.net->open_samples(fixture(variant) / "samples.safetensors");
  const table original(fixture(variant) / "samples.safetensors");
  const auto shape = original.tensors.at("input_ids").shape;
  const index_t n = shape[0], tokens = shape[1];
  table t;
  std::vector<std::int64_t> ids, mask;
  const io::safetensors_file file(fixture(variant) / "samples.safetensors");
  for (index_t i = 0; i < n; ++i) {
    for (int pad = 0; pad < 3; ++pad) {
      ids.push_back(1);
      mask.push_back(0);
    }
    for (index_t at = 0; at < tokens; ++at) {
      ids.push_back(harness::integer_at(file.at("input_ids"), i * tokens + at));
      mask.push_back(harness::integer_at(file.at("attention_mask"), i * tokens + at));
    }
  }
  t.set("input_ids", io::dtype::i64, {n, tokens + 3}, ids);
  t.set("attention_mask", io::dtype::i64, {n, tokens + 3}, mask);
  const auto padded = m.net->open_samples(t.write());
  table plain = original;
  plain.tensors.erase("labels");
  const auto expected = m.net->open_samples(plain.write());
  CHECK(same_bits(run_all(*m.net, m.weights, padded->load(0, n)),
                  run_all(*m.net, m.weights, expected->load(0, n))));
}

TEST_CASE("each missing or misshapen tensor is refused") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const table original(fixture(variant) / "model.safetensors");
    std::set<std::string> names;
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      for (const auto& p : m.net->parameters(block)) names.insert(p.name);
    }
    for (const std::string end : {"embed_tokens.weight", "wte.weight", "lm_head.weight"}) {
      for (const auto& name : names) {
        if (!name.ends_with(end)) continue;
        table t = original;
        t.tensors.erase(name);
        check_message(refusal_of(t, model::config_of(variant)), {"weights.safetensors", end});
        names.erase(name);
        break;
      }
    }
    check_tensors_needed(original, names, "no anchor", model::config_of(variant));
  }
}

TEST_CASE("names with any prefix") {
  const model m("decoder/qwen3");
  const activations samples = random_texts(*m.net, 5);
  const matrix reference = run_all(*m.net, m.weights, samples);
  const table original(fixture("decoder/qwen3") / "model.safetensors");
  for (const std::string prefix : {"language_model.", "a.b."}) {
    table t;
    for (const auto& [name, tensor] : original.tensors) t.tensors[prefix + name] = tensor;
    const model other(t.write(), model::config_of("decoder/qwen3"));
    CHECK(same_bits(run_all(*other.net, other.weights, samples), reference));
  }
}

TEST_CASE("configurations of version 4 mean the same, and so do keys that are left out") {
  // rope_parameters became of rope_theta and rope_scaling, layer_types of patterns.
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    auto config = config_of(variant);
    if (!config.contains("rope_parameters")) continue;
    auto rope = config["rope_parameters"];
    config.erase("rope_parameters");
    if (rope.contains("full_attention")) {
      config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"];
      rope = nlohmann::json(rope["full_attention"]);
    }
    config["rope_theta"] = rope["rope_theta"];
    rope.erase("rope_theta");
    if (rope.contains("partial_rotary_factor")) {
      config["partial_rotary_factor"] = rope["partial_rotary_factor"];
      rope.erase("partial_rotary_factor");
    }
    rope["type"] = rope["rope_type"];
    rope.erase("rope_type");
    config["rope_scaling"] = rope["type"] == "default" ? nlohmann::json() : rope;
    if (variant == "decoder/phi3") {  // it stands beside the settings
      config["rope_scaling"].erase("original_max_position_embeddings");
    }
    config.erase("layer_types");
    if (variant == "decoder/qwen2") config["max_window_layers"] = 1;
    if (variant == "decoder/gemma3_text") config["sliding_window_pattern"] = 3;
    const bool is_usual_epsilon =
        config["rms_norm_eps"] ==
        (variant.ends_with("mixtral") || variant.ends_with("olmo2") || variant.ends_with("phi3")
             ? 1e-5
             : 1e-6);
    CHECK(is_usual_epsilon != (variant == "decoder/llama"));
    if (is_usual_epsilon) config.erase("rms_norm_eps");
    const fs::path file = scratch().file("config.json");
    std::ofstream(file) << config.dump();
    const model old(fixture(variant) / "model.safetensors", file);
    const activations samples = random_texts(*m.net, 10);
    CHECK(same_bits(run_all(*old.net, old.weights, samples), run_all(*m.net, m.weights, samples)));
  }
}

TEST_CASE("a tied output that the file holds with other values is used for itself") {
  // As in transformers 5. The reference says that they are not tied.
  int tried = 0;
  for (const std::string& variant : variants) {
    if (config_of(variant)["tie_word_embeddings"] != true) continue;
    CAPTURE(variant);
    const model tied(variant);
    const activations samples = random_texts(*tied.net, 10);
    const matrix reference = run_all(*tied.net, tied.weights, samples);
    table t(fixture(variant) / "model.safetensors");
    const std::string words = tied.net->parameters(0).front().name;
    auto own = t.tensors.at(words);
    t.tensors["lm_head.weight"] = own;
    const auto with = [&](const fs::path& config) {
      const model m(t.write("with_head.safetensors"), config);
      return std::pair{run_all(*m.net, m.weights, samples),
                       m.net->parameters(m.net->block_count() - 1).back().name};
    };
    const fs::path config = model::config_of(variant);
    const auto [equal, last] = with(config);
    CHECK(same_bits(equal, reference));
    CHECK(last != "lm_head.weight");

    std::rotate(own.bytes.begin(), own.bytes.begin() + 64, own.bytes.end());
    t.tensors["lm_head.weight"] = own;
    const auto [apart, own_name] = with(config);
    CHECK(own_name == "lm_head.weight");
    CHECK(largest_difference(apart, reference) > 1e-3);
    CHECK(same_bits(apart, with(changed_config(variant, "tie_word_embeddings", false)).first));

    std::vector<std::string> told;
    const io::checkpoint file(t.write("with_head.safetensors"));
    harness::open_network(file, config.string(),
                          harness::untied_in(file, [&](const auto& s) { told.push_back(s); }));
    REQUIRE(told.size() == 1);
    check_message(told.front(), {"with_head.safetensors", "'lm_head.weight'", "'" + words + "'"});
    ++tried;
  }
  CHECK(tried >= 4);
}

TEST_CASE("what absent keys mean: the numbers of transformers") {
  const auto names_of = [](const std::string& prefix, int layers) {
    std::vector<std::string> names = {prefix + "embed_tokens.weight", prefix + "norm.weight"};
    for (int i = 0; i < layers; ++i)
      names.push_back(prefix + "layers." + std::to_string(i) + ".input_layernorm.weight");
    return names;
  };
  // Gemma 3 with vision: what equals the default is not in the file.
  const nlohmann::json small = nlohmann::json::parse(R"({"model_type": "gemma3", "text_config": {
    "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024}, "vision_config": {"hidden_size": 1152}})");
  const harness::config_object config("config.json", small);
  const auto names = names_of("language_model.model.", 34);
  const harness::decoder_shape s = harness::read_gemma(config, names, "weights").shape;
  CHECK(s.words == 262208);
  CHECK(s.heads == 8);
  CHECK(s.key_heads == 4);
  CHECK(s.head_width == 256);
  CHECK(s.score_scale == 1.0F / 16);
  CHECK(s.layers.size() == 34);
  CHECK(s.layers[0].feed_forward.width == 10240);
  CHECK(s.layers[0].window == 1024);
  CHECK(s.layers[0].positions.base == 1e4F);
  CHECK_FALSE(s.layers[5].window.has_value());
  CHECK(s.layers[5].positions.base == 1e6F);
  CHECK(s.layers[5].positions.factor == 8);
  CHECK(s.tied);

  // Gemma 3's local base beside nested settings that lack it.
  nlohmann::json nested = small;
  auto& text = nested["text_config"];
  text.erase("rope_scaling");
  text["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}},
                             {"sliding_attention", {{"rope_type", "default"}}}};
  text["rope_theta"] = 5e5;
  text["rope_local_base_freq"] = 2e4;
  const auto positions =
      harness::read_gemma(harness::config_object("config.json", nested), names, "weights")
          .shape.layers;
  CHECK(positions[0].positions.base == 2e4F);
  CHECK(positions[5].positions.base == 5e5F);

  // Phi-3's known length stands beside the settings, or is 4096.
  nlohmann::json phi = {{"model_type", "phi3"},
                        {"hidden_size", 32},
                        {"vocab_size", 9},
                        {"num_attention_heads", 4},
                        {"intermediate_size", 8},
                        {"num_hidden_layers", 1},
                        {"tie_word_embeddings", true},
                        {"max_position_embeddings", 131072}};
  phi["rope_scaling"] = {{"type", "longrope"},
                         {"short_factor", {1, 1, 1, 1}},
                         {"long_factor", {2, 2, 2, 2}},
                         {"original_max_position_embeddings", 16}};
  const auto length_of = [&] {
    return harness::read_phi3(harness::config_object("config.json", phi), names_of("model.", 1),
                              "weights")
        .shape.layers[0]
        .positions.length;
  };
  CHECK(length_of() == 4096);
  phi["original_max_position_embeddings"] = 64;
  CHECK(length_of() == 64);

  // Heads of keys of Mistral and Qwen 3; null: as many as queries have.
  nlohmann::json mistral = {
      {"model_type", "mistral"},     {"hidden_size", 64},        {"vocab_size", 9},
      {"num_attention_heads", 16},   {"intermediate_size", 8},   {"num_hidden_layers", 1},
      {"tie_word_embeddings", true}, {"sliding_window", nullptr}};
  const auto llama = [&] {
    return harness::read_llama(harness::config_object("config.json", mistral),
                               names_of("model.", 1), "weights")
        .shape;
  };
  CHECK(llama().key_heads == 8);
  mistral["num_key_value_heads"] = nullptr;
  CHECK(llama().key_heads == 16);
  mistral["model_type"] = "qwen3";
  CHECK(llama().head_width == 128);
}

TEST_CASE("a configuration that asks for what is not there is refused by its key") {
  const auto refused = [](const std::string& variant, const std::string& key,
                          const nlohmann::json& value, const std::string& named) {
    CAPTURE(variant);
    CAPTURE(key);
    const fs::path config = changed_config(variant, key, value);
    check_message(refusal_of(table(fixture(variant) / "model.safetensors"), config),
                  {config.string(), named});
  };
  refused("decoder/llama", "rope_parameters/rope_type", "mrope", "rope_type");
  refused("decoder/llama", "rope_parameters/partial_rotary_factor", 0.5, "partial_rotary_factor");
  refused("decoder/llama", "rope_parameters/factor", -1, "factor");
  refused("decoder/llama", "rope_parameters/high_freq_factor", 0.01, "high_freq_factor");
  refused("decoder/llama", "hidden_act", "relu", "hidden_act");
  refused("decoder/llama", "num_key_value_heads", 5, "num_key_value_heads");
  refused("decoder/llama", "use_bidirectional_attention", true, "use_bidirectional_attention");
  refused("decoder/qwen3", "head_dim", nullptr, "head_dim");
  refused("decoder/qwen3", "layer_types", {"full_attention"}, "layer_types");
  // Layers with windows where nothing else tells of windows, and full ones where all have one.
  refused("decoder/qwen3", "layer_types", {"full_attention", "sliding_attention"}, "layer_types");
  refused("decoder/llama", "layer_types", {"full_attention", "sliding_attention"}, "layer_types");
  refused("decoder/mistral", "layer_types", {"full_attention", "sliding_attention"}, "layer_types");
  refused("decoder/gemma2", "use_bidirectional_attention", true, "use_bidirectional_attention");
  refused("decoder/gemma2", "layer_types", {"full_attention", "linear_attention"}, "layer_types");
  refused("decoder/gemma3_text", "attn_logit_softcapping", 50.0, "attn_logit_softcapping");
  refused("decoder/gemma3_text", "rope_parameters", {{"rope_theta", 1e4}}, "rope_parameters");
  refused("decoder/gemma3_text", "rope_scaling", {{"full_attention", {{"rope_theta", 1e4}}}},
          "rope_scaling");
  refused("decoder/phi3", "rope_parameters/short_factor", {1.0}, "short_factor");
  refused("decoder/phi3", "rope_parameters/long_factor", {"a"}, "long_factor");
  refused("decoder/gpt2", "scale_attn_by_inverse_layer_idx", true,
          "scale_attn_by_inverse_layer_idx");
  refused("decoder/gpt2", "scale_attn_weights", false, "scale_attn_weights");
  refused("decoder/gpt2", "add_cross_attention", true, "add_cross_attention");
  refused("decoder/gpt2", "n_head", 7, "n_head");
  refused("decoder/mixtral", "num_experts_per_tok", 9, "num_experts_per_tok");
  refused("decoder/olmo2", "rms_norm_eps", 0, "rms_norm_eps");
}

TEST_CASE("routing: the largest probabilities, the first among equals, weights as they say") {
  matrix p(3, 4);
  p << 0.1F, 0.4F, 0.4F, 0.1F,     //
      0.25F, 0.25F, 0.25F, 0.25F,  //
      0.7F, 0.1F, 0.05F, 0.15F;
  harness::feed_forward_shape shape;
  shape.experts = 4;
  shape.chosen = 2;
  for (const bool renormalises : {false, true}) {
    shape.renormalises = renormalises;
    const auto routed = harness::route(p, shape);
    CHECK(routed[0].rows == std::vector<index_t>{1, 2});
    CHECK(routed[1].rows == std::vector<index_t>{0, 1});
    CHECK(routed[2].rows == std::vector<index_t>{0});
    CHECK(routed[3].rows == std::vector<index_t>{2});
    CHECK(routed[3].weights[0] == doctest::Approx(renormalises ? 0.15 / 0.85 : 0.15));
    CHECK(routed[1].weights[0] == doctest::Approx(renormalises ? 0.5 : 0.4));
  }
}

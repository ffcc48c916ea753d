// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/io/adapter_config.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using nlohmann::json;

namespace {
const fs::path fixtures = fs::path(CATMERGE_FIXTURES) / "adapters";

json good() {
  return {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 6}};
}
io::adapter_config parsed(const json& config) {
  return io::parse_adapter_config(config.dump(), "x.json");
}
std::string message_with(const std::string& key, const json& value) {
  json config = good();
  config[key] = value;
  return message_of([&] { parsed(config); });
}
std::string pattern_message(const std::string& pattern) {
  return message_of([&] { io::module_pattern found(pattern); });
}
}  // namespace

// ---------------------------------------------------------------- patterns

TEST_CASE("random patterns match the modules that they match in PEFT") {
  const json all = json::parse(get(fixtures / "patterns.json"));
  const json& modules = all["modules"];
  REQUIRE(all["matches"].size() > 350);
  std::size_t matches = 0;
  for (const auto& [each, expected] : all["matches"].items()) {
    const std::string pattern = each;  // Clang 14 captures no binding
    CAPTURE(pattern);
    const io::module_pattern compiled(pattern);
    CHECK(compiled.text() == pattern);
    std::string found;
    for (const json& module : modules) {
      const bool is_match = compiled.matches(module.get<std::string>());
      found += is_match ? '1' : '0';
      matches += is_match;
    }
    CHECK(found == expected.get<std::string>());
  }
  CHECK(matches > 200);
}

TEST_CASE("patterns agree with the standard library's regular expressions") {
  const std::vector<std::string> patterns = {"a*b|c+d?",       "(ab|a)(bc|c)*", "[^a-c]+\\.?",
                                             "(a|)b(c|d|ab)*", "((a*)*b)+",     "\\w\\.\\w"};
  std::vector<std::string> names = {""};
  for (std::size_t i = 0; names.size() < 3000; ++i) {
    for (const char c : {'a', 'b', 'c', 'd', '.'}) names.push_back(names[i] + c);
  }
  for (const std::string& pattern : patterns) {
    const io::module_pattern compiled(pattern);
    const std::regex reference("(.*\\.)?(" + pattern + ")");
    for (const std::string& name : names) {
      if (compiled.matches(name) != std::regex_match(name, reference)) {
        FAIL_CHECK("pattern ", pattern, " and name '", name, "'");
      }
    }
  }
}

TEST_CASE("no pattern is slow") {
  const io::module_pattern nested("((((a*)*)*)*)*b");
  CHECK_FALSE(nested.matches(std::string(20000, 'a')));
  CHECK(nested.matches(std::string(20000, 'a') + "b"));
}

TEST_CASE("syntax that Python might take in another way is refused by name") {
  for (const auto& [each, what] :
       std::map<std::string, std::string>{{"a{2}", "counted repetition"},
                                          {"a*+", "repetition of a repetition"},
                                          {"*a", "repetition of nothing"},
                                          {"(a|*)", "repetition of nothing"},
                                          {"(?=a)", "extension '(?'"},
                                          {"(?P<x>a)", "extension '(?'"},
                                          {"(a)\\1", "escape '\\1'"},
                                          {"\\bq", "escape '\\b'"},
                                          {"a\\", "without a character"},
                                          {"(a", "'(' without its ')'"},
                                          {"a)|(b", "')' without its '('"},
                                          {"[a", "'[' without its ']'"},
                                          {"[z-a]", "range"},
                                          {"[[:alpha:]]", "character in '[...]'"},
                                          {"[\\d-z]", "range"},
                                          {"^*a", "repetition of a place"},
                                          {"\u00e9", "beyond ASCII"},
                                          {std::string(40, '('), "too many nested groups"}}) {
    const std::string pattern = each;  // Clang 14 captures no binding
    CAPTURE(pattern);
    const std::string message = pattern_message(pattern);
    CHECK_CONTAINS(message, what);
    CHECK_CONTAINS(message, "write the full names of the modules");
  }
}

// ---------------------------------------------------------------- values

TEST_CASE("ranks and scales are those that PEFT gives each module") {
  const json cases = json::parse(get(fixtures / "cases.json"));
  std::size_t count = 0;
  for (const auto& [each, about] : cases.items()) {
    const std::string name = each;  // Clang 14 captures no binding
    CAPTURE(name);
    const auto config = io::read_adapter_config(fixtures / name / "adapter_config.json");
    for (const auto& [inner, values] : about["modules"].items()) {
      const std::string module = inner;  // Clang 14 captures no binding
      CAPTURE(module);
      CHECK(config.rank.of(module) == values[0].get<catmerge::index_t>());
      CHECK(config.scale_of(module) == values[1].get<double>());  // the same operations
      ++count;
    }
  }
  CHECK(count > 50);
}

TEST_CASE("the first pattern in the file's order counts, not in the alphabet's") {
  const std::string head = R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": )";
  const auto first = io::parse_adapter_config(head + R"({"q": 2, "a.q": 3}})", "x.json");
  const auto second = io::parse_adapter_config(head + R"({"a.q": 3, "q": 2}})", "x.json");
  CHECK(first.rank.of("x.a.q") == 2);
  CHECK(second.rank.of("x.a.q") == 3);
  CHECK(second.rank.of("x.b.q") == 2);
  CHECK(second.rank.of("x.b.k") == 4);
  // alpha over the module's own rank
  CHECK(second.scale_of("x.a.q") == 8.0 / 3.0);
}

TEST_CASE("a pattern that does not match itself as a regular expression counts for that name") {
  // As PEFT, which looks the module's name up in the dictionary at last.
  json config = good();
  config["rank_pattern"] = {{"odd+name", 2}};
  CHECK(parsed(config).rank.of("odd+name") == 2);
  CHECK(parsed(config).rank.of("x.odd+name") == 4);
  CHECK(parsed(config).rank.of("oddddname") == 2);
  CHECK_CONTAINS(message_of([&] { (void)parsed(config).rank.of("\u00e9"); }), "beyond ASCII");
}

TEST_CASE("values and defaults") {
  json config = good();
  const auto plain = parsed(config);
  CHECK(plain.scale_of("x") == 1.5);
  CHECK_FALSE(plain.use_rslora);
  CHECK_FALSE(plain.fan_in_fan_out);
  CHECK_FALSE(plain.lora_bias);
  CHECK(plain.bias == io::adapter_biases::none);
  CHECK(plain.base_model.empty());
  config.update({{"use_rslora", true},
                 {"fan_in_fan_out", true},
                 {"lora_bias", true},
                 {"bias", "lora_only"},
                 {"modules_to_save", {"classifier"}},
                 {"target_modules", "all-linear"},
                 {"base_model_name_or_path", "roberta-base"},
                 {"revision", "main"},
                 {"task_type", "SEQ_CLS"},
                 {"lora_alpha", 2.5},
                 {"unheard_of", false},
                 {"and_of_nothing", json::array()}});
  const auto full = parsed(config);
  CHECK(full.scale_of("x") == 2.5 / std::sqrt(4.0));
  CHECK(full.fan_in_fan_out);
  CHECK(full.lora_bias);
  CHECK(full.bias == io::adapter_biases::lora_only);
  CHECK(full.modules_to_save == std::vector<std::string>{"classifier"});
  CHECK(full.target_modules == std::vector<std::string>{"all-linear"});
  CHECK(full.base_model == "roberta-base");
  CHECK(full.revision == "main");
  CHECK(full.task_type == "SEQ_CLS");
}

// ---------------------------------------------------------------- refused

TEST_CASE("keys that change the result and are not supported are refused by name") {
  for (const auto& [each, value] :
       std::map<std::string, json>{{"use_dora", true},
                                   {"kasa_config", {{"beta", 1e-4}}},
                                   {"use_qalora", true},
                                   {"use_bdlora", {{"nblocks", 2}}},
                                   {"alora_invocation_tokens", {5, 6}},
                                   {"arrow_config", {{"top_k", 3}}},
                                   {"velora_config", {{"num_groups", 64}}},
                                   {"monteclora_config", {{"num_samples", 8}}},
                                   {"layer_replication", {{0, 4}, {2, 5}}},
                                   {"target_parameters", {"experts.down_proj"}},
                                   {"trainable_token_indices", {{"embed_tokens", {0, 1}}}},
                                   {"megatron_config", {{"tensor_model_parallel_size", 2}}},
                                   {"ensure_weight_tying", true}}) {
    const std::string key = each;  // Clang 14 captures no binding
    CAPTURE(key);
    const std::string message = message_with(key, value);
    CHECK_CONTAINS(message, "x.json: " + key + ": is set");
    CHECK_CONTAINS(message, "merge_and_unload");
    CHECK(message_with(key, nullptr).empty());
    CHECK(message_with(key, false).empty());
  }
  CHECK_CONTAINS(message_with("lora_magic", 2),
                 "x.json: 'lora_magic': is an unknown key with the "
                 "value '2'");
  CHECK_CONTAINS(message_with("lora_magic", 2), "remove it from the file");
}

TEST_CASE("starts that changed the base are refused, others are not") {
  for (const char* start :
       {"pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga"}) {
    CHECK_CONTAINS(message_with("init_lora_weights", start), "changes the base's weights");
    CHECK_CONTAINS(message_with("init_lora_weights", start),
                   "path_initial_model_for_weight_conversion");
  }
  for (const json& start : {json(true), json(false), json(nullptr), json("gaussian"), json("eva"),
                            json("orthogonal"), json("mica")}) {
    CHECK(message_with("init_lora_weights", start).empty());
  }
  CHECK_CONTAINS(message_with("init_lora_weights", "new"), "unknown start 'new'");
  CHECK_CONTAINS(message_with("init_lora_weights", 3), "expected a boolean or a name, found '3'");
}

TEST_CASE("wrong types and values are refused by name") {
  CHECK_CONTAINS(message_with("peft_type", "IA3"), "peft_type: expected 'LORA', found 'IA3'");
  CHECK_CONTAINS(message_with("peft_type", nullptr), "peft_type: expected 'LORA', found ''");
  CHECK_CONTAINS(message_with("peft_type", 3), "peft_type: expected a text, found '3'");
  CHECK_CONTAINS(message_with("r", 0), "r: expected a positive integer, found '0'");
  CHECK_CONTAINS(message_with("r", -1), "r: expected a positive integer, found '-1'");
  CHECK_CONTAINS(message_with("r", 2.5), "r: expected a positive integer, found '2.5'");
  CHECK_CONTAINS(message_with("r", nullptr), "r: is missing");
  CHECK_CONTAINS(message_with("lora_alpha", nullptr), "lora_alpha: is missing");
  CHECK_CONTAINS(message_with("lora_alpha", "16"), "lora_alpha: expected a number, found '\"16\"'");
  CHECK_CONTAINS(message_with("use_rslora", 1), "use_rslora: expected true or false, found '1'");
  CHECK_CONTAINS(message_with("bias", "some"), "bias: expected none, all or lora_only, found");
  CHECK_CONTAINS(message_with("modules_to_save", {1}), "modules_to_save: expected a list of names");
  CHECK_CONTAINS(message_with("rank_pattern", {1}), "rank_pattern: expected an object");
  CHECK_CONTAINS(message_with("rank_pattern", {{"q", 0}}), "rank_pattern: expected a positive");
  CHECK_CONTAINS(message_with("rank_pattern", {{"a{2}", 3}}),
                 "x.json: rank_pattern: the pattern 'a{2}' has a counted repetition");
  CHECK_CONTAINS(message_with("alpha_pattern", {{"q", "x"}}), "alpha_pattern: expected a number");
  CHECK_CONTAINS(message_of([] { io::parse_adapter_config("[]", "x.json"); }), "not a JSON object");
  CHECK_CONTAINS(message_of([] { io::parse_adapter_config("{", "x.json"); }), "not valid JSON");
  CHECK_CONTAINS(message_of([] { io::parse_adapter_config(R"({"r": 1, "r": 2})", "x.json"); }),
                 "has the key 'r' twice");
}

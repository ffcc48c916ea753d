// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <catmerge/model/networks.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

using namespace catmerge::model;
namespace io = catmerge::io;
using kind = parameter_kind;

namespace {

/// A tensor of a network, and what a reviewer calls it (fixtures/make_architectures.py).
struct reviewed {
  io::tensor_info info;
  std::string what;
};

struct architecture {
  std::string name, model_type;
  std::vector<reviewed> tensors;
  std::vector<std::vector<std::string>> groups;  // of weights that share an input
};

const std::vector<architecture>& architectures() {
  static const std::vector<architecture> all = [] {
    std::ifstream file(std::filesystem::path(CATMERGE_FIXTURES) / "architectures.json");
    const auto table = nlohmann::json::parse(file);
    std::vector<architecture> read;
    for (const auto& [name, value] : table.items()) {
      if (name == "versions") continue;
      architecture a;
      a.name = name;
      value.at("model_type").get_to(a.model_type);
      value.at("groups").get_to(a.groups);
      for (const auto& row : value.at("tensors")) {
        reviewed t;
        row.at(0).get_to(t.info.name);
        t.info.type = io::parse_dtype(row.at(1).get<std::string>()).value();
        row.at(2).get_to(t.info.shape);
        row.at(3).get_to(t.what);
        a.tensors.push_back(std::move(t));
      }
      read.push_back(std::move(a));
    }
    return read;
  }();
  return all;
}

/// The class of a parameter in the words of the table.
std::string words(const classification& c) {
  std::string text(name_of(c.kind));
  if (c.parts != 1) text += ", " + std::to_string(c.parts) + " parts";
  if (c.layout == matrix_layout::in_out) text += ", in_out";
  if (c.stacked) text += ", stacked";
  const bool linear =
      c.kind == kind::linear || c.kind == kind::fused_linear || c.kind == kind::conv;
  if (linear && !c.trim) text += ", not trimmed";
  return text;
}

bool may_be_trimmed(const std::string& what) {
  for (const std::string start : {"linear", "fused linear", "conv", "scale", "shift"}) {
    if (what.starts_with(start)) return !what.ends_with("not trimmed");
  }
  return false;
}

using sorted_groups = std::set<std::set<std::string>>;

/// The groups of more than one name.
sorted_groups found_groups(const name_rules& rules, const architecture& a) {
  std::vector<std::string> names;
  for (const auto& t : a.tensors) names.push_back(t.info.name);
  sorted_groups found;
  for (const auto& group : rules.groups(names)) {
    if (group.names.size() > 1) found.insert({group.names.begin(), group.names.end()});
  }
  return found;
}

}  // namespace

TEST_CASE("every parameter of the architectures of today is what a reviewer calls it") {
  CHECK(architectures().size() >= 24);
  for (const architecture& a : architectures()) {
    CAPTURE(a.name);
    const name_rules rules = rules_for(a.model_type);
    for (const reviewed& t : a.tensors) {
      const io::tensor_info& info = t.info;
      const std::string& what = t.what;
      CAPTURE(info.name);
      const classification found = rules.classify(info);
      CAPTURE(found.rule);
      CHECK(words(found) == what);
      CHECK(found.trim == may_be_trimmed(what));
      // Trimmed parameters are known by the network's own names.
      const auto expected = found.trim ? rule_source::network : found.source;
      CHECK(found.source == expected);
      CHECK_FALSE(found.rule.empty());
    }
    sorted_groups groups;
    for (const auto& group : a.groups) groups.insert({group.begin(), group.end()});
    CHECK(found_groups(rules, a) == groups);
  }
}

TEST_CASE("without a model_type, names tell the same wherever they tell it") {
  // Names that two networks share, for tensors that they store in two ways, or that are last layers
  // in one of them alone.
  const std::vector<std::pair<std::string, glob>> contradictions = {
      {"gpt_bigcode", glob("*.h.0.{attn.c_proj,mlp.c_fc,mlp.c_proj}.weight")},
      {"gpt_neo", glob("*.h.*.mlp.{c_fc,c_proj}.weight")},
      {"gpt_oss", glob("*.experts.{gate_up,down}_proj")},
      {"mixtral", glob("*.experts.{gate_up,down}_proj")},
      {"qwen3_moe", glob("*.experts.{gate_up,down}_proj")},
      {"granitemoe", glob("*.experts.{gate_up,down}_proj")},
      {"blip", glob("{vision_proj,text_proj,itm_head}.*")}};
  for (const std::string type : {"", "llava", "a network of tomorrow"}) {
    const name_rules rules = rules_for(type);
    for (const architecture& a : architectures()) {
      CAPTURE(a.name);
      sorted_groups groups;
      for (const auto& group : a.groups) groups.insert({group.begin(), group.end()});
      CHECK(found_groups(rules, a) == groups);
      for (const reviewed& t : a.tensors) {
        const io::tensor_info& info = t.info;
        const std::string& what = t.what;
        CAPTURE(info.name);
        const bool ambiguous = std::any_of(
            contradictions.begin(), contradictions.end(),
            [&](const auto& c) { return c.first == a.model_type && c.second.matches(info.name); });
        const classification found = rules.classify(info);
        if (!ambiguous) {
          CHECK(words(found) == what);
          continue;
        }
        // Nothing is trimmed in a layout that was guessed, but for GPT-2's own names.
        CHECK(words(found) != what);
        if (info.name.find("experts") != std::string::npos) CHECK_FALSE(found.trim);
      }
    }
  }
}

TEST_CASE("a network inside another has a prefix before its names, and is found all the same") {
  for (const architecture& a : architectures()) {
    CAPTURE(a.name);
    const name_rules own = rules_for(a.model_type);
    for (const reviewed& t : a.tensors) {
      io::tensor_info info = t.info;
      const classification alone = own.classify(info);
      if (alone.source != rule_source::network) continue;
      info.name = "model.part." + info.name;
      CAPTURE(info.name);
      CHECK(words(own.classify(info)) == t.what);
    }
  }
}

TEST_CASE("what no network's rules name is what the general rule says") {
  name_rules rules;
  rules.use_general_rule();
  // A name tells no layout and no parts. It does not tell either that these are left alone, and
  // these look like tables and heads, or like nothing, and are left alone though they need not be.
  const glob trimmed_by_mistake(
      "*{text_projection.weight,visual_projection.weight,logit_bias,e_score_correction_bias,"
      "vision_proj.weight,vision_proj.bias,text_proj.weight,text_proj.bias,itm_head.weight,"
      "itm_head.bias}");
  const glob left_by_mistake(
      "*{embedding_hidden_mapping_in,embeddings_project,vision_model.head,downsampling_layer.0,"
      "feature_extractor.conv_layers.0,experts,cls.predictions.transform}.*");
  int trimmed = 0, fixed = 0, measured = 0;
  for (const architecture& a : architectures()) {
    CAPTURE(a.name);
    for (const reviewed& t : a.tensors) {
      const io::tensor_info& info = t.info;
      const std::string& what = t.what;
      CAPTURE(info.name);
      const classification found = rules.classify(info);
      CAPTURE(words(found));
      CHECK(found.source != rule_source::network);
      CHECK((found.source == rule_source::none) == (found.kind == kind::unknown));
      if (found.trim && !trimmed_by_mistake.matches(info.name)) {
        const std::string expected = what.starts_with("fused ") ? what.substr(6) : what;
        CHECK(expected.starts_with(name_of(found.kind)));
        CHECK(may_be_trimmed(what));
      }
      const bool missed = may_be_trimmed(what) && !found.trim && what.find("stacked") == what.npos;
      if (missed) CHECK(left_by_mistake.matches(info.name));
      if (what == "running statistics" || (what == "fixed" && info.name != "final_logits_bias")) {
        CHECK(words(found) == what);
      }
      trimmed += found.trim;
      fixed += found.kind == kind::fixed;
      measured += found.kind == kind::running_statistics;
    }
  }
  CHECK(trimmed > 1000);
  CHECK(fixed > 5);
  CHECK(measured > 10);
}

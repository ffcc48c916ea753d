// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/model/networks.hpp>
#include <random>
#include <string>
#include <vector>

#include "io_support.hpp"

using namespace catmerge::model;
using namespace io_test;
using kind = parameter_kind;

namespace {

/// Matching as the definition says it, exponentially: the oracle.
bool defined_match(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*') {
    return defined_match(pattern.substr(1), name) ||
           (!name.empty() && defined_match(pattern, name.substr(1)));
  }
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) &&
         defined_match(pattern.substr(1), name.substr(1));
}

/// The parameters of a CLIPVisionModelWithProjection with two layers.
std::vector<io::tensor_info> clip_parameters(const std::string& prefix) {
  constexpr catmerge::index_t d = 4, rows = 5;
  std::vector<io::tensor_info> infos;
  const auto add = [&](const std::string& name, io::shape_t shape) {
    infos.push_back({prefix + name, io::dtype::f32, std::move(shape)});
  };
  add("embeddings.class_embedding", {d});
  add("embeddings.patch_embedding.weight", {d, 3, 7, 7});
  add("embeddings.position_embedding.weight", {rows, d});
  infos.push_back({prefix + "embeddings.position_ids", io::dtype::i64, {1, rows}});
  for (const std::string norm : {"pre_layrnorm", "post_layernorm"}) {
    add(norm + ".weight", {d});
    add(norm + ".bias", {d});
  }
  for (const std::string layer : {"encoder.layers.0.", "encoder.layers.11."}) {
    for (const std::string name : {"k_proj", "v_proj", "q_proj", "out_proj"}) {
      add(layer + "self_attn." + name + ".weight", {d, d});
      add(layer + "self_attn." + name + ".bias", {d});
    }
    for (const std::string norm : {"layer_norm1", "layer_norm2"}) {
      add(layer + norm + ".weight", {d});
      add(layer + norm + ".bias", {d});
    }
    add(layer + "mlp.fc1.weight", {16, d});
    add(layer + "mlp.fc1.bias", {16});
    add(layer + "mlp.fc2.weight", {d, 16});
    add(layer + "mlp.fc2.bias", {d});
  }
  return infos;
}

bool ends_with_any(const std::string& name, const std::vector<std::string>& ends) {
  for (const auto& end : ends) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("globs match whole names") {
  CHECK(glob("a.b").matches("a.b"));
  CHECK_FALSE(glob("a.b").matches("a.bc"));
  CHECK_FALSE(glob("a.b").matches("xa.b"));
  CHECK(glob("*").matches(""));
  CHECK(glob("").matches(""));
  CHECK_FALSE(glob("").matches("a"));
  CHECK(glob("*.weight").matches("a.b.weight"));
  CHECK(glob("a?c").matches("a.c"));
  CHECK_FALSE(glob("a?c").matches("ac"));
  CHECK(glob("[a]").matches("[a]"));
  const glob braces("{,x.}{q,k*}.w{}");
  for (const std::string name : {"q.w", "x.q.w", "k.w", "x.k12.w"}) CHECK(braces.matches(name));
  for (const std::string name : {"q12.w", "y.q.w", "x.w", "q.w{}"}) {
    CHECK_FALSE(braces.matches(name));
  }
  for (const std::string bad : {"{a", "a}", "{a{b}}", "}{"}) {
    CHECK_CONTAINS(message_of([&] { glob{bad}; }),
                   "pattern '" + bad + "': braces must come in pairs");
  }
  std::string many;
  for (int i = 0; i < 40; ++i) many += "{a,b}";
  CHECK_CONTAINS(message_of([&] { glob{many}; }), "more than 1000 patterns");
}

TEST_CASE("globs agree with their definition on random patterns, and are never slow") {
  std::mt19937 random(5);
  const auto text = [&](std::string_view letters, std::size_t longest) {
    std::string result;
    for (auto size = random() % longest; size-- > 0;) result += letters[random() % letters.size()];
    return result;
  };
  int matched = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string pattern = text("ab*?", 8), name = text("ab", 8);
    const bool expected = defined_match(pattern, name);
    matched += expected;
    if (glob(pattern).matches(name) != expected) {
      CAPTURE(pattern);
      CAPTURE(name);
      CHECK(glob(pattern).matches(name) == expected);
    }
  }
  CHECK(matched > 1000);
  std::string stars;
  for (int i = 0; i < 50; ++i) stars += "*a";
  CHECK_FALSE(glob(stars + "b").matches(std::string(10000, 'a')));
}

TEST_CASE("CLIP's vision model is classified, with any prefix") {
  const name_rules rules = hugging_face_clip_vision();
  for (const std::string prefix : {"", "vision_model.", "clip.vision_model."}) {
    int count = 0;
    for (const auto& info : clip_parameters(prefix)) {
      CAPTURE(info.name);
      const classification found = rules.classify(info);
      const bool weight = info.name.ends_with(".weight");
      kind expected = weight ? kind::linear : kind::shift;
      bool trim = true;
      if (weight && info.shape.size() == 1) expected = kind::scale;
      if (ends_with_any(info.name, {"class_embedding", "patch_embedding.weight",
                                    "position_embedding.weight"})) {
        expected = kind::embedding;
        trim = false;
      }
      if (info.type == io::dtype::i64) {
        expected = kind::fixed;
        trim = false;
      }
      CHECK(found.kind == expected);
      CHECK(found.trim == trim);
      CHECK(found.parts == 1);
      CHECK(found.layout == matrix_layout::out_in);
      ++count;
    }
    CHECK(count == 40);
  }
  const classification projection =
      rules.classify({"visual_projection.weight", io::dtype::f16, {2, 4}});
  CHECK(projection.kind == kind::linear);
  CHECK_FALSE(projection.trim);
  for (const std::string name : {"text_model.encoder.layers.0.self_attn.q_proj.weight",
                                 "logit_scale", "xvision_model.encoder.layers.0.mlp.fc1.weight"}) {
    CHECK(rules.classify({name, io::dtype::f32, {2, 2}}).kind == kind::unknown);
  }
}

TEST_CASE("the last rule that matches decides, and nothing makes integers arithmetic") {
  name_rules rules = hugging_face_clip_vision();
  rules.add({.pattern = "*visual_projection.weight", .kind = kind::linear});
  rules.add({.pattern = "*.layers.0.*", .kind = kind::fixed});
  rules.add({.pattern = "*.in_proj_weight", .kind = kind::fused_linear, .parts = 3});
  rules.add({.pattern = "*.in_proj_bias", .kind = kind::shift, .parts = 3});
  rules.add({.pattern = "*c_attn.weight",
             .kind = kind::fused_linear,
             .layout = matrix_layout::in_out,
             .parts = 3});
  rules.add({.pattern = "*patch_embedding.weight", .kind = kind::conv});

  CHECK(rules.classify({"visual_projection.weight", io::dtype::f32, {2, 2}}).trim);
  const auto frozen = rules.classify({"encoder.layers.0.mlp.fc1.weight", io::dtype::f32, {2, 2}});
  CHECK(frozen.kind == kind::fixed);
  CHECK_FALSE(frozen.trim);
  CHECK(rules.classify({"encoder.layers.1.mlp.fc1.weight", io::dtype::f32, {2, 2}}).trim);
  CHECK(rules.classify({"a.in_proj_weight", io::dtype::f32, {6, 2}}).parts == 3);
  CHECK(rules.classify({"a.in_proj_bias", io::dtype::f32, {6}}).parts == 3);
  CHECK(rules.classify({"h.0.c_attn.weight", io::dtype::f32, {2, 6}}).layout ==
        matrix_layout::in_out);
  CHECK(rules.classify({"embeddings.patch_embedding.weight", io::dtype::f32, {4, 3, 2, 2}}).kind ==
        kind::conv);
  for (const io::dtype type : {io::dtype::i64, io::dtype::boolean, io::dtype::f8_e4m3}) {
    CHECK(rules.classify({"a.in_proj_weight", type, {1}}).kind == kind::packed);
    CHECK(rules.classify({"no rule", type, {1}}).kind == kind::packed);
    CHECK(rules.classify({"embeddings.position_ids", type, {1}}).kind == kind::fixed);
    CHECK_FALSE(rules.classify({"a.in_proj_weight", type, {1}}).trim);
  }
  CHECK(name_rules().classify({"x", io::dtype::f32, {1}}).kind == kind::unknown);
  CHECK_FALSE(name_rules().classify({"x", io::dtype::f32, {1}}).trim);
}

TEST_CASE("a shape that does not fit its rule is an error that names tensor and rule") {
  const auto refused = [](const parameter_rule& rule, io::shape_t shape) {
    return message_of([&] { name_rules({rule}).classify({"w", io::dtype::f32, shape}); });
  };
  CHECK_CONTAINS(
      refused({.pattern = "w"}, {2}),
      "tensor 'w': expected two extents for what the rule 'w' calls linear, found F32 [2]");
  CHECK_CONTAINS(refused({.pattern = "w"}, {2, 2, 2}), "expected two extents");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::scale}, {2, 2}), "expected one extent");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::shift}, {}), "expected one extent");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::conv}, {2, 2}), "three extents or more");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::fused_linear, .parts = 3}, {4, 3}),
                 "an output extent divisible by 3");
  CHECK(refused({.pattern = "*", .kind = kind::embedding}, {}) == "");

  const auto malformed = [](const parameter_rule& rule) {
    return message_of([&] { name_rules({rule}); });
  };
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::fused_linear}), "rule 'w'");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::linear, .parts = 2}), "2 parts");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::shift, .parts = 0}), "0 parts");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::unknown}), "rule 'w'");
  CHECK_CONTAINS(malformed({.pattern = "{"}), "braces");
}

TEST_CASE("q, k and v of one attention are a group; everything else stands alone") {
  const name_rules rules = hugging_face_clip_vision();
  std::vector<std::string> names;
  for (const auto& info : clip_parameters("vision_model.")) names.push_back(info.name);
  names.push_back("logit_scale");
  const auto groups = rules.groups(names);
  CHECK(groups.size() == names.size() - 4);
  std::vector<std::string> all;
  for (const auto& group : groups) {
    REQUIRE_FALSE(group.names.empty());
    all.insert(all.end(), group.names.begin(), group.names.end());
    if (group.names.size() == 1) continue;
    const std::string attention = group.names[0].substr(0, group.names[0].find("k_proj"));
    CHECK(group.names == std::vector<std::string>{attention + "k_proj.weight",
                                                  attention + "v_proj.weight",
                                                  attention + "q_proj.weight"});
  }
  std::sort(all.begin(), all.end());
  std::sort(names.begin(), names.end());
  CHECK(all == names);

  // A rule that the user adds takes its parameter out of the group.
  name_rules changed = rules;
  changed.add({.pattern = "*.0.self_attn.q_proj.weight"});
  CHECK(changed.groups(names).size() == groups.size() + 1);
  CHECK(name_rules({{.pattern = "{q,k}", .siblings_share_input = true}})
            .groups({"q", "x", "k"})
            .at(0)
            .names == std::vector<std::string>{"q", "k"});
}

namespace {

/// What a name is: kind, whether it is trimmed, parts, layout.
std::string found_as(const name_rules& rules, const std::string& name, io::shape_t shape) {
  const classification c = rules.classify({name, io::dtype::f32, std::move(shape)});
  std::string text(name_of(c.kind));
  if (!c.trim) text += ", not trimmed";
  if (c.parts != 1) text += ", " + std::to_string(c.parts) + " parts";
  if (c.layout == matrix_layout::in_out) text += ", in_out";
  return text;
}

}  // namespace

TEST_CASE("OpenCLIP's vision transformer: every parameter, behind any prefix, and no text") {
  const std::string layer = "transformer.resblocks.11.";
  const struct {
    std::string name;
    io::shape_t shape;
    std::string kind;
  } cases[] = {{"class_embedding", {4}, "embedding, not trimmed"},
               {"positional_embedding", {5, 4}, "embedding, not trimmed"},
               {"conv1.weight", {4, 3, 7, 7}, "embedding, not trimmed"},
               {"proj", {4, 2}, "linear, not trimmed, in_out"},
               {"ln_pre.weight", {4}, "scale"},
               {"ln_pre.bias", {4}, "shift"},
               {"ln_post.weight", {4}, "scale"},
               {"ln_post.bias", {4}, "shift"},
               {layer + "ln_1.weight", {4}, "scale"},
               {layer + "ln_2.bias", {4}, "shift"},
               {layer + "attn.in_proj_weight", {12, 4}, "fused linear, 3 parts"},
               {layer + "attn.in_proj_bias", {12}, "shift, 3 parts"},
               {layer + "attn.out_proj.weight", {4, 4}, "linear"},
               {layer + "attn.out_proj.bias", {4}, "shift"},
               {layer + "mlp.c_fc.weight", {8, 4}, "linear"},
               {layer + "mlp.c_fc.bias", {8}, "shift"},
               {layer + "mlp.c_proj.weight", {4, 8}, "linear"},
               {layer + "mlp.c_proj.bias", {4}, "shift"}};
  for (const auto& rules : {open_clip_vision(), known_networks()}) {
    for (const auto& c : cases) {
      CAPTURE(c.name);
      for (const std::string prefix : {"visual.", "model.visual."}) {
        CHECK(found_as(rules, prefix + c.name, c.shape) == c.kind);
      }
      CHECK(found_as(rules, "audiovisual." + c.name, c.shape) == "unknown, not trimmed");
      // The text part's names are these without "visual.".
      CHECK(found_as(rules, c.name, c.shape) == "unknown, not trimmed");
    }
  }
}

TEST_CASE("BERT and RoBERTa: every parameter, with and without prefix, and no heads") {
  const std::string layer = "encoder.layer.11.";
  const struct {
    std::string name;
    io::shape_t shape;
    std::string kind;
  } cases[] = {{"embeddings.word_embeddings.weight", {9, 4}, "embedding, not trimmed"},
               {"embeddings.position_embeddings.weight", {6, 4}, "embedding, not trimmed"},
               {"embeddings.token_type_embeddings.weight", {2, 4}, "embedding, not trimmed"},
               {"embeddings.LayerNorm.weight", {4}, "scale"},
               {"embeddings.LayerNorm.bias", {4}, "shift"},
               {"embeddings.LayerNorm.gamma", {4}, "scale"},
               {"embeddings.LayerNorm.beta", {4}, "shift"},
               {"embeddings.position_ids", {1, 6}, "fixed, not trimmed"},
               {"embeddings.token_type_ids", {1, 6}, "fixed, not trimmed"},
               {layer + "attention.self.query.weight", {4, 4}, "linear"},
               {layer + "attention.self.key.bias", {4}, "shift"},
               {layer + "attention.self.value.weight", {4, 4}, "linear"},
               {layer + "attention.output.dense.weight", {4, 4}, "linear"},
               {layer + "attention.output.dense.bias", {4}, "shift"},
               {layer + "attention.output.LayerNorm.weight", {4}, "scale"},
               {layer + "attention.output.LayerNorm.beta", {4}, "shift"},
               {layer + "intermediate.dense.weight", {8, 4}, "linear"},
               {layer + "intermediate.dense.bias", {8}, "shift"},
               {layer + "output.dense.weight", {4, 8}, "linear"},
               {layer + "output.dense.bias", {4}, "shift"},
               {layer + "output.LayerNorm.gamma", {4}, "scale"},
               {layer + "output.LayerNorm.bias", {4}, "shift"},
               {"pooler.dense.weight", {4, 4}, "linear"},
               {"pooler.dense.bias", {4}, "shift"}};
  for (const auto& rules : {hugging_face_bert(), known_networks()}) {
    for (const auto& c : cases) {
      CAPTURE(c.name);
      for (const std::string prefix : {"", "bert.", "roberta.", "model.roberta."}) {
        CHECK(found_as(rules, prefix + c.name, c.shape) == c.kind);
      }
    }
    for (const std::string head :
         {"classifier.weight", "classifier.dense.weight", "classifier.out_proj.weight",
          "lm_head.dense.weight", "lm_head.layer_norm.weight", "cls.predictions.bias"}) {
      CHECK(found_as(rules, head, {4, 4}) == "unknown, not trimmed");
    }
    const auto groups = rules.groups({"bert." + layer + "attention.self.query.weight",
                                      "bert." + layer + "attention.self.query.bias",
                                      "bert." + layer + "attention.self.value.weight",
                                      "bert.encoder.layer.1.attention.self.key.weight",
                                      "bert." + layer + "attention.self.key.weight"});
    CHECK(groups.size() == 3);
    CHECK(groups[0].names.size() == 3);
  }
}

TEST_CASE("a list is appended after what is there") {
  name_rules first({{.pattern = "a*", .kind = kind::scale}});
  first.append(name_rules({{.pattern = "*b", .kind = kind::shift}}));
  CHECK(found_as(first, "a", {1}) == "scale");
  CHECK(found_as(first, "ab", {1}) == "shift");
  first.append(first);
  CHECK(found_as(first, "ab", {1}) == "shift");
  // What one family's rules say, all of them together say too.
  const name_rules vision = hugging_face_clip_vision(), all = known_networks();
  for (const std::string prefix : {"", "vision_model.", "clip.vision_model."}) {
    for (const auto& info : clip_parameters(prefix)) {
      CHECK(all.classify(info).kind == vision.classify(info).kind);
      CHECK(all.classify(info).trim == vision.classify(info).trim);
    }
  }
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/model/networks.hpp>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "support/files.hpp"

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
      "tensor 'w': expected two extents, since the rule 'w' calls it linear, found F32 [2]");
  CHECK_CONTAINS(refused({.pattern = "w"}, {2, 2, 2}), "expected two extents");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::scale}, {2, 2}), "expected one extent");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::shift}, {}), "expected one extent");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::conv}, {2, 2}), "three extents or more");
  CHECK_CONTAINS(refused({.pattern = "*", .kind = kind::fused_linear, .parts = 3}, {4, 3}),
                 "an output extent divisible by 3");
  CHECK(refused({.pattern = "*", .kind = kind::embedding}, {}) == "");
  CHECK_CONTAINS(refused({.pattern = "w"}, {2, 2, 2}), "mark a stack of them as stacked");
  const auto stack_of = [](kind what, int parts = 1, matrix_layout layout = {}) {
    return parameter_rule{
        .pattern = "w", .kind = what, .layout = layout, .parts = parts, .stacked = true};
  };
  CHECK_CONTAINS(refused(stack_of(kind::linear), {2, 2}), "three extents (a stack of matrices)");
  CHECK_CONTAINS(refused(stack_of(kind::shift), {2}), "two extents (a stack of vectors)");
  CHECK(refused(stack_of(kind::scale), {3, 5}) == "");
  CHECK(refused(stack_of(kind::fused_linear, 2), {3, 4, 5}) == "");
  CHECK_CONTAINS(refused(stack_of(kind::fused_linear, 2), {2, 5, 4}), "divisible by 2");
  CHECK(refused(stack_of(kind::fused_linear, 2, matrix_layout::in_out), {3, 5, 4}) == "");
  CHECK_CONTAINS(refused(stack_of(kind::fused_linear, 2, matrix_layout::in_out), {2, 4, 5}),
                 "divisible by 2");

  const auto malformed = [](const parameter_rule& rule) {
    return message_of([&] { name_rules({rule}); });
  };
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::fused_linear}), "rule 'w'");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::linear, .parts = 2}), "2 parts");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::shift, .parts = 0}), "0 parts");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::unknown}), "rule 'w'");
  CHECK_CONTAINS(malformed({.pattern = "{"}), "braces");
  CHECK_CONTAINS(malformed({.pattern = "w", .kind = kind::packed}), "cannot be chosen by a rule");
  for (const kind what : {kind::conv, kind::embedding, kind::fixed, kind::running_statistics}) {
    CHECK_CONTAINS(malformed({.pattern = "w", .kind = what, .stacked = true}), "be stacked");
  }
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

/// The class of a name: kind, whether it is trimmed, parts, layout.
std::string found_as(const name_rules& rules, const std::string& name, io::shape_t shape) {
  const classification c = rules.classify({name, io::dtype::f32, std::move(shape)});
  std::string text(name_of(c.kind));
  if (!c.trim) text += ", not trimmed";
  if (c.parts != 1) text += ", " + std::to_string(c.parts) + " parts";
  if (c.layout == matrix_layout::in_out) text += ", in_out";
  return text;
}

}  // namespace

TEST_CASE("OpenCLIP's transformers: every parameter, behind any prefix") {
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
    }
  }
  for (const auto& c : cases) {
    CAPTURE(c.name);
    const auto vision = open_clip_vision();
    CHECK(found_as(vision, "audiovisual." + c.name, c.shape) == "unknown, not trimmed");
    CHECK(found_as(vision, c.name, c.shape) == "unknown, not trimmed");
    // The text part's layers have these names without "visual.".
    if (c.name.starts_with(layer)) {
      CHECK(found_as(open_clip_text(), c.name, c.shape) == c.kind);
      CHECK(found_as(known_networks(), c.name, c.shape) == c.kind);
    }
  }
  CHECK(found_as(known_networks(), "text_projection", {4, 2}) == "linear, not trimmed, in_out");
  CHECK(found_as(known_networks(), "ln_final.weight", {4}) == "scale");
}

TEST_CASE("BERT and RoBERTa: every parameter, with and without prefix, and no heads") {
  const std::string layer = "encoder.layer.11.";
  const struct {
    std::string name;
    io::shape_t shape;
    std::string kind;
  } cases[] = {{"embeddings.word_embeddings.weight", {9, 4}, "token table, not trimmed"},
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
      CHECK(found_as(hugging_face_bert(), head, {4, 4}) == "unknown, not trimmed");
      CHECK(found_as(known_networks(), head, {4, 4}) == "embedding, not trimmed");
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

TEST_CASE("BLIP's output is tied to the table of the answers, not to that of the questions") {
  const std::string head = "text_decoder.cls.predictions.",
                    table = "embeddings.word_embeddings.weight";
  const auto of_answers = tie_class_of("text_decoder.bert." + table);
  CHECK(may_be_tied(of_answers, tie_class_of(head + "decoder.weight")));
  CHECK(may_be_tied(tie_class_of(head + "bias"), tie_class_of(head + "decoder.bias")));
  const std::string of_questions = "text_encoder." + table;
  for (const std::string prefix : {"", "model."}) {
    CHECK(tie_class_of(prefix + of_questions) == tie_class::none);
    CHECK(is_token_table({prefix + of_questions, io::dtype::f32, {9, 4}}));
    CHECK(found_as(known_networks(), prefix + of_questions, {9, 4}) == "token table, not trimmed");
  }
  CHECK(tie_class_of("encoder." + table) == tie_class::token_table);
}

TEST_CASE("a list is appended after what is there") {
  name_rules first({{.pattern = "a*", .kind = kind::scale}});
  first.append(name_rules({{.pattern = "*b", .kind = kind::shift}}));
  CHECK(found_as(first, "a", {1}) == "scale");
  CHECK(found_as(first, "ab", {1}) == "shift");
  first.append(first);
  CHECK(found_as(first, "ab", {1}) == "shift");
  // The rules of one family agree with those of all families together.
  const name_rules vision = hugging_face_clip_vision(), all = known_networks();
  for (const std::string prefix : {"", "vision_model.", "clip.vision_model."}) {
    for (const auto& info : clip_parameters(prefix)) {
      CHECK(all.classify(info).kind == vision.classify(info).kind);
      CHECK(all.classify(info).trim == vision.classify(info).trim);
    }
  }
}

TEST_CASE("a network's rule passes over what it does not fit; a user's does not") {
  const parameter_rule two{.pattern = "*.w", .kind = kind::fused_linear, .parts = 2};
  const parameter_rule square{
      .pattern = "*.w", .kind = kind::fused_linear, .parts = 3, .square_parts = true};
  name_rules rules = network_rules({{.pattern = "*.w"}, two, square});
  CHECK(found_as(rules, "a.w", {9, 3}) == "fused linear, 3 parts");
  CHECK(found_as(rules, "a.w", {9, 4}) == "linear");
  CHECK(found_as(rules, "a.w", {6, 3}) == "fused linear, 2 parts");
  CHECK(found_as(rules, "a.w", {6}) == "unknown, not trimmed");
  parameter_rule transposed = square;
  transposed.layout = matrix_layout::in_out;
  const name_rules columns = network_rules({transposed});
  CHECK(found_as(columns, "a.w", {3, 9}) == "fused linear, 3 parts, in_out");
  CHECK(found_as(columns, "a.w", {9, 3}) == "unknown, not trimmed");
  rules.add(square);
  CHECK_CONTAINS(message_of([&] {
                   rules.classify({"a.w", io::dtype::f32, {9, 4}});
                 }),
                 "tensor 'a.w': expected 3 parts of d_in x d_in, since the rule '*.w' calls it");
}

TEST_CASE("whose rule decided, and which") {
  name_rules rules = rules_for("llama");
  const auto of = [&](const std::string& name, io::shape_t shape) {
    const auto found = rules.classify({name, io::dtype::f32, std::move(shape)});
    return std::string(name_of(found.source)) + ": " + found.rule;
  };
  const std::string norm = "model.layers.3.input_layernorm.weight";
  CHECK_CONTAINS(of(norm, {4}), "network: {,*.}");
  CHECK(of("mine.weight", {4, 4}) == "general: a matrix called weight is linear");
  CHECK(of("mine", {4, 4}) == "none: ");
  rules.add({.pattern = "*norm.weight", .kind = kind::fixed});
  CHECK(of(norm, {4}) == "user: *norm.weight");
  CHECK(of("final.norm.weight", {4}) == "user: *norm.weight");
}

TEST_CASE("buffers and types that are no weights") {
  const name_rules rules = known_networks();
  const struct {
    std::string name;
    io::dtype type;
    io::shape_t shape;
    kind expected;
  } cases[] = {
      {"a.bn.running_mean", io::dtype::f32, {4}, kind::running_statistics},
      {"layer1.0.bn1.running_var", io::dtype::bf16, {4}, kind::running_statistics},
      {"a.bn.num_batches_tracked", io::dtype::i64, {}, kind::fixed},
      {"a.bn.num_batches_tracked", io::dtype::f32, {}, kind::fixed},
      {"transformer.h.0.attn.bias", io::dtype::u8, {1, 1, 6, 6}, kind::fixed},
      {"transformer.h.0.attn.bias", io::dtype::f32, {1, 1, 6, 6}, kind::fixed},
      {"transformer.h.0.attn.masked_bias", io::dtype::f32, {}, kind::fixed},
      {"gpt_neox.layers.1.attention.bias", io::dtype::boolean, {1, 1, 6, 6}, kind::fixed},
      {"model.layers.0.self_attn.rotary_emb.inv_freq", io::dtype::f32, {4}, kind::fixed},
      {"text_model.embeddings.position_ids", io::dtype::i64, {1, 6}, kind::fixed},
      {"layers.0.blocks.1.attn.relative_position_index", io::dtype::i64, {9, 9}, kind::fixed},
      // Quantised weights: what their names say matters only where they are floats.
      {"model.layers.0.mlp.up_proj.weight", io::dtype::f8_e4m3, {4, 4}, kind::packed},
      {"model.layers.0.mlp.up_proj.weight", io::dtype::u8, {8, 1}, kind::packed},
      {"model.layers.0.mlp.up_proj.qweight", io::dtype::i32, {4, 4}, kind::packed},
      {"model.layers.0.mlp.up_proj.g_idx", io::dtype::i32, {4}, kind::packed}};
  for (const auto& c : cases) {
    CAPTURE(c.name);
    const auto found = rules.classify({c.name, c.type, c.shape});
    CHECK(name_of(found.kind) == name_of(c.expected));
    CHECK_FALSE(found.trim);
  }
}

TEST_CASE("tables of tokens at both ends, and no tables of anything else") {
  const auto kind_in = [](const char* model_type, const char* name, io::shape_t shape) {
    return std::string(
        name_of(rules_for(model_type).classify({name, io::dtype::f32, std::move(shape)}).kind));
  };
  const struct {
    const char *model_type, *name;
    io::shape_t shape;
  } tables[] = {
      {"bert", "bert.embeddings.word_embeddings.weight", {30522, 768}},
      {"bert", "embeddings.word_embeddings.weight", {30522, 768}},
      {"bert", "cls.predictions.decoder.weight", {30522, 768}},
      {"roberta", "roberta.embeddings.word_embeddings.weight", {50265, 768}},
      {"roberta", "lm_head.decoder.weight", {50265, 768}},
      {"gpt2", "transformer.wte.weight", {50257, 768}},
      {"gpt2", "wte.weight", {50257, 768}},
      {"gpt2", "lm_head.weight", {50257, 768}},
      {"llama", "model.embed_tokens.weight", {32000, 4096}},
      {"llama", "lm_head.weight", {32000, 4096}},
      {"llama", "model.embed_tokens.weight", {256, 512}},  // over bytes
      {"t5", "shared.weight", {32128, 512}},
      {"t5", "encoder.embed_tokens.weight", {32128, 512}},
      {"t5", "lm_head.weight", {32128, 512}},
      {"clip", "text_model.embeddings.token_embedding.weight", {49408, 512}},
      {"", "token_embedding.weight", {49408, 512}},  // OpenCLIP
      {"", "visual.text.token_embedding.weight", {49408, 512}},
      {"modernbert", "model.embeddings.tok_embeddings.weight", {50368, 768}},
      {"whisper", "proj_out.weight", {51865, 384}},
      {"gpt_neox", "embed_out.weight", {50304, 512}},
      {"mamba", "backbone.embeddings.weight", {50280, 768}},
  };
  for (const auto& t : tables) {
    CAPTURE(t.name);
    CHECK(kind_in(t.model_type, t.name, t.shape) == "token table");
    CHECK(kind_in("", t.name, t.shape) == "token table");
  }
  const struct {
    const char *model_type, *name;
    io::shape_t shape;
    const char* expected;
  } others[] = {
      {"bert", "bert.embeddings.position_embeddings.weight", {512, 768}, "embedding"},
      {"bert", "bert.embeddings.token_type_embeddings.weight", {2, 768}, "embedding"},
      {"bert", "cls.predictions.transform.dense.weight", {768, 768}, "embedding"},
      {"bert", "cls.predictions.bias", {30522}, "embedding"},
      {"bert", "classifier.weight", {2, 768}, "embedding"},
      {"roberta", "roberta.embeddings.token_type_embeddings.weight", {1, 768}, "embedding"},
      {"gpt2", "transformer.wpe.weight", {1024, 768}, "embedding"},
      {"llama", "score.weight", {2, 4096}, "embedding"},
      {"opt", "model.decoder.embed_positions.weight", {2050, 768}, "embedding"},
      {"t5",
       "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
       {32, 8},
       "embedding"},
      {"clip", "text_model.embeddings.position_embedding.weight", {77, 512}, "embedding"},
      {"clip", "vision_model.embeddings.class_embedding", {768}, "embedding"},
      {"clip", "text_projection.weight", {512, 512}, "linear"},
      {"", "positional_embedding", {77, 512}, "embedding"},
      {"", "text_projection", {512, 512}, "linear"},
      // Linear weights under names of tables.
      {"", "transformer_blocks.0.proj_out.weight", {320, 320}, "embedding"},
      {"", "mlp.shared.weight", {512, 512}, "embedding"},
  };
  for (const auto& o : others) {
    CAPTURE(o.name);
    CHECK(kind_in(o.model_type, o.name, o.shape) == o.expected);
  }
  // A rule of one's own takes a table for something else, or something else for a table.
  name_rules rules = known_networks();
  rules.add({.pattern = "lm_head.weight", .kind = kind::embedding, .trim = false});
  rules.add({.pattern = "output.weight", .kind = kind::token_table, .trim = false});
  CHECK(rules.classify({"lm_head.weight", io::dtype::f32, {9, 4}}).kind == kind::embedding);
  CHECK(rules.classify({"output.weight", io::dtype::f32, {9, 4}}).kind == kind::token_table);
  CHECK_CONTAINS(message_of([&] {
                   rules.classify({"output.weight", io::dtype::f32, {9}});
                 }),
                 "two extents");
}

TEST_CASE("the general rule on names that no network has") {
  const name_rules rules = rules_for("a network of tomorrow");
  const struct {
    std::string name;
    io::shape_t shape;
    std::string expected;
  } cases[] = {{"net.stem.weight", {8, 4}, "linear"},
               {"net.stem.bias", {8}, "shift"},
               {"net.seq.0.weight", {8, 4}, "linear"},
               {"net.pre_ln.weight", {4}, "scale"},
               {"net.ln.beta", {4}, "shift"},
               {"net.bn3.weight", {4}, "scale"},
               {"net.norms.0.weight", {4}, "scale"},
               {"net.RMSNorm_2.weight", {4}, "scale"},
               {"net.kiln.weight", {4}, "unknown, not trimmed"},
               {"net.prelu.weight", {4}, "unknown, not trimmed"},
               {"net.norm.weight", {2, 4}, "embedding, not trimmed"},
               {"net.stem.weight", {8, 4, 3, 3}, "conv"},
               {"net.stem.weight", {8, 4, 3}, "conv"},
               {"net.stem.weight", {8, 1, 3, 3}, "embedding, not trimmed"},
               {"patch_embed.proj.weight", {8, 3, 4, 4}, "embedding, not trimmed"},
               {"patch_embed.proj.bias", {8}, "embedding, not trimmed"},
               {"patch_embed.norm.weight", {8}, "embedding, not trimmed"},
               {"net.reg_token", {1, 1, 8}, "embedding, not trimmed"},
               {"net.pos_embed", {1, 5, 8}, "embedding, not trimmed"},
               {"net.token_embedding.weight", {9, 4}, "token table, not trimmed"},
               {"lm_head.weight", {9, 4}, "token table, not trimmed"},
               {"lm_head.bias", {9}, "embedding, not trimmed"},
               {"score.weight", {2, 4}, "embedding, not trimmed"},
               {"classifier.1.weight", {2, 4}, "embedding, not trimmed"},
               {"fc.weight", {2, 4}, "embedding, not trimmed"},
               {"net.fc.weight", {8, 4}, "linear"},
               {"blocks.0.ls1.gamma", {4}, "scale"},
               {"blocks.0.moe.w1", {2, 8, 4}, "linear, not trimmed"},
               {"blocks.0.alpha", {4}, "unknown, not trimmed"}};
  for (const auto& c : cases) {
    CAPTURE(c.name);
    CHECK(found_as(rules, c.name, c.shape) == c.expected);
  }
}

TEST_CASE("torchvision's ResNet") {
  const name_rules rules = rules_for("");
  CHECK(found_as(rules, "conv1.weight", {4, 3, 7, 7}) == "conv");
  CHECK(found_as(rules, "bn1.weight", {4}) == "scale");
  CHECK(found_as(rules, "layer1.0.conv2.weight", {4, 4, 3, 3}) == "conv");
  CHECK(found_as(rules, "layer4.1.bn3.bias", {4}) == "shift");
  CHECK(found_as(rules, "layer2.0.downsample.0.weight", {4, 4, 1, 1}) == "conv");
  CHECK(found_as(rules, "layer2.0.downsample.1.weight", {4}) == "scale");
  CHECK(found_as(rules, "fc.bias", {4}) == "embedding, not trimmed");
}

TEST_CASE("an index of patterns finds what trying them all finds") {
  std::mt19937 random(9);
  const auto any = [&](const std::vector<std::string>& of) { return of[random() % of.size()]; };
  const std::vector<std::string> parts = {"a", "b", "ab", "weight", "bias", "7"};
  const std::vector<std::string> pieces = {"a",  "b",      "*",     "*.",     "{,*.}",   "{a,b}",
                                           "?",  ".",      ".a",    "weight", ".weight", "ab.",
                                           "a.", "{*,a.}", ".bias", "{.a,b}"};
  std::size_t matched = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<glob> globs;
    pattern_index index;
    for (int i = 0; i < 12; ++i) {
      std::string pattern;
      for (auto size = 1 + random() % 4; size-- > 0;) pattern += any(pieces);
      globs.emplace_back(pattern);
      index.add(globs.back());
    }
    for (int i = 0; i < 20; ++i) {
      std::string name = any({"", ".", "a", "ab"});
      for (auto size = random() % 4; size-- > 0;) name += (name.empty() ? "" : ".") + any(parts);
      const auto parity = random() % 3;  // what is accepted
      const auto accept = [&](std::size_t number) { return parity == 2 || number % 2 == parity; };
      std::size_t expected = pattern_index::none;
      for (std::size_t k = 0; k < globs.size(); ++k) {
        if (accept(k) && globs[k].matches(name)) expected = k;
      }
      CAPTURE(name);
      CHECK(index.find_last(name, accept) == expected);
      matched += expected != pattern_index::none;
    }
  }
  CHECK(matched > 1000);
}

TEST_CASE("a hundred thousand names are classified and grouped at once") {
  const auto began = std::chrono::steady_clock::now();
  const name_rules rules = rules_for("qwen3_moe");
  std::vector<std::string> names;
  for (int layer = 0; layer < 130; ++layer) {
    const std::string experts = "model.layers." + std::to_string(layer) + ".mlp.experts.";
    for (int i = 0; i < 256; ++i) {
      for (const std::string part : {"gate", "up", "down"}) {
        names.push_back(experts + std::to_string(i) + "." + part + "_proj.weight");
      }
    }
  }
  for (const auto& name : names) {
    REQUIRE(rules.classify({name, io::dtype::f32, {4, 4}}).kind == kind::linear);
  }
  CHECK(rules.groups(names).size() == names.size() / 3 * 2);
  // Half a second, a second under sanitizers; trying a thousand patterns in turn takes minutes.
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(20));
}

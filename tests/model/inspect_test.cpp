// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/io/safetensors_writer.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/commands/commands.hpp>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "support/files.hpp"

/// `catmerge inspect` and --rule, in this process: what is told of names, layouts and stacks.
namespace {

using namespace catmerge;
using namespace io_test;
using kind = model::parameter_kind;

/// A folder with zeros of these names and shapes, and a config.json unless model_type is empty.
fs::path write_network(const temporary_folder& where, const std::vector<io::tensor_info>& tensors,
                       const std::string& model_type) {
  io::safetensors_writer writer(where / "model.safetensors", tensors, {}, io::existing::replace);
  for (const auto& info : tensors) {
    const std::vector<std::byte> zeros(*io::byte_count(info));
    writer.write(info.name, zeros);
  }
  writer.commit();
  fs::remove(where / "config.json");
  if (!model_type.empty())
    std::ofstream(where / "config.json") << "{\"model_type\": \"" << model_type << "\"}";
  return where.path();
}

/// The output of the command.
std::string inspected(std::vector<std::string> words) {
  CLI::App program;
  harness::add_inspect(program);
  words.insert(words.begin(), "inspect");
  std::reverse(words.begin(), words.end());
  std::ostringstream out;
  auto* const screen = std::cout.rdbuf(out.rdbuf());
  try {
    program.parse(words);
  } catch (...) {
    std::cout.rdbuf(screen);
    throw;
  }
  std::cout.rdbuf(screen);
  return out.str();
}

/// The text behind the shape in a tensor's line.
std::string kind_of(const std::string& printed, const std::string& name) {
  std::istringstream lines(printed);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("  " + name + " ")) continue;
    const auto behind = line.find_first_not_of(' ', line.find(']') + 1);
    return line.substr(behind);
  }
  return "not there";
}

std::string refused(const std::string& rule) {
  try {
    harness::rule_words::parse(rule);
  } catch (const harness::option_error& problem) {
    return problem.what();
  }
  return "";
}

}  // namespace

TEST_CASE("inspect tells layouts and stacks by the model_type beside the weights") {
  const temporary_folder folder;
  const std::string block = "transformer.h.0.", experts = "model.layers.0.mlp.experts.";
  const std::vector<io::tensor_info> tensors = {
      {block + "mlp.c_fc.weight", io::dtype::f32, {4, 8}},
      {block + "attn.c_attn.weight", io::dtype::f16, {4, 12}},
      {experts + "gate_up_proj", io::dtype::bf16, {3, 4, 8}},
      {experts + "down_proj_bias", io::dtype::f32, {3, 4}}};
  const auto check = [&](const std::string& type, const std::string& c_fc,
                         const std::string& c_attn, const std::string& gate_up) {
    CAPTURE(type);
    write_network(folder, tensors, type);
    // A file in a folder is of the network that the folder is of.
    for (const fs::path& path : {folder.path(), folder / "model.safetensors"}) {
      const std::string printed = inspected({path.string()});
      CHECK(kind_of(printed, tensors[0].name) == c_fc);
      CHECK(kind_of(printed, tensors[1].name) == c_attn);
      CHECK(kind_of(printed, tensors[2].name) == gate_up);
      CHECK(kind_of(printed, tensors[3].name) == "shift, stacked");
      CHECK(contains(printed, "model_type: " + type + "\n") == !type.empty());
    }
  };
  const std::string three = "fused linear, 3 parts, d_in x d_out";
  check("gpt2", "linear, d_in x d_out", three, "linear, stacked, not trimmed");
  check("", "linear, d_in x d_out", three, "linear, stacked, not trimmed");
  check("gpt_bigcode", "linear", "linear", "linear, stacked, not trimmed");
  check("gpt_oss", "linear, d_in x d_out", three, "linear, d_in x d_out, stacked");
  check("qwen3_moe", "linear, d_in x d_out", three, "fused linear, 2 parts, stacked");
}

TEST_CASE("inspect tells what the general rule decided, and what nothing decided") {
  const temporary_folder folder;
  write_network(folder,
                {{"lm_head.weight", io::dtype::f32, {4, 4}},
                 {"net.a.weight", io::dtype::f32, {4, 4}},
                 {"net.b.weight", io::dtype::f32, {4, 4}},
                 {"net.c.qweight", io::dtype::i32, {4}},
                 {"net.c.running_mean", io::dtype::f32, {4}},
                 {"net.d", io::dtype::f32, {4, 2}},
                 {"model.layers.0.mlp.up_proj.weight", io::dtype::f32, {4, 4}}},
                "a network of tomorrow");
  const std::string printed = inspected({folder.path().string(), "--rule", "*.b.weight=untrimmed"});
  CHECK(kind_of(printed, "net.a.weight") == "linear, by the general rule");
  CHECK(kind_of(printed, "net.b.weight") == "embedding, not trimmed");
  CHECK(kind_of(printed, "net.c.qweight") == "packed");
  CHECK(kind_of(printed, "net.c.running_mean") == "running statistics, by the general rule");
  CHECK(kind_of(printed, "net.d") == "unknown, not trimmed");
  CHECK(kind_of(printed, "lm_head.weight") == "token table, not trimmed, by the general rule");
  CHECK(kind_of(printed, "model.layers.0.mlp.up_proj.weight") == "linear");
  CHECK_CONTAINS(printed, "general rule, 1 of them: a matrix called weight is linear\n");
  CHECK_CONTAINS(printed, "general rule, 1 of them: tables of tokens are left alone\n");
  CHECK_CONTAINS(printed, "token table, 1 of them: the mean, whatever alpha");
  CHECK_CONTAINS(printed, "unknown, 1 of them: no rule names them; --rule");
}

TEST_CASE("--rule says kinds, layouts, stacks and parts") {
  const auto parsed = [](const std::string& text) { return harness::rule_words::parse(text); };
  CHECK(parsed("*.{a,b}.w=linear").pattern == "*.{a,b}.w");
  CHECK(parsed("a=b=linear").pattern == "a=b");
  CHECK(parsed("w=linear").trim);
  CHECK(parsed("w=linear").layout == model::matrix_layout::out_in);
  CHECK(parsed("w=tokens").kind == kind::token_table);
  CHECK_FALSE(parsed("w=tokens").trim);
  CHECK(parsed("w=average").kind == kind::running_statistics);
  CHECK(parsed("w=fixed").kind == kind::fixed);
  CHECK_FALSE(parsed("w=untrimmed").trim);
  for (const std::string text :
       {"w=linear,in-out,stacked,2-parts", "w=linear,2-parts,stacked,in-out"}) {
    const auto rule = parsed(text);
    CHECK(rule.kind == kind::fused_linear);
    CHECK(rule.parts == 2);
    CHECK(rule.stacked);
    CHECK(rule.layout == model::matrix_layout::in_out);
    CHECK(rule.source == model::rule_source::user);
  }
  CHECK(parsed("w=shift,stacked,3-parts").parts == 3);
  CHECK(parsed("w=shift,stacked,3-parts").kind == kind::shift);
  CHECK(parsed("w=scale,stacked").stacked);
  for (const std::string bad : {"w", "w=", "w=bad", "w=in-out", "w=,linear", "w=Linear"})
    CHECK_CONTAINS(refused(bad), "found '" + bad + "'");
  for (const std::string bad :
       {"w=linear,", "w=linear,out-in", "w=linear,1-parts", "w=linear,x-parts", "w=linear,3",
        "w=scale,in-out", "w=shift,in-out", "w=scale,2-parts", "w=conv,stacked", "w=fixed,stacked",
        "w=average,in-out", "w=untrimmed,stacked", "w=linear,-2-parts", "w=linear,2-parts "})
    CHECK_CONTAINS(refused(bad), "'" + bad + "': '");
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using nlohmann::json;

namespace {
const fs::path fixtures = fs::path(CATMERGE_FIXTURES) / "adapters";

using io::adapter_layer;
using io::dtype;

io::planned_target plan(const std::string& module, catmerge::index_t rank = 2,
                        const io::shape_t& input = {3},
                        adapter_layer layer = adapter_layer::linear) {
  return {module, layer, rank, 4, input, dtype::f32, false};
}
/// Writes zeros.
void write_zeros(const fs::path& path, const std::vector<io::planned_target>& plans,
                 const std::vector<io::tensor_info>& replaced = {},
                 const io::adapter_options& how = {}) {
  io::adapter_writer out(path, plans, replaced, how);
  const auto zeros = [&](io::tensor_info info) {
    const std::string bytes(*io::byte_count(info), '\0');
    out.write(info.name, bytes_of(bytes));
  };
  for (const auto& each : plans) {
    zeros(each.a()), zeros(each.b());
    if (each.has_bias) zeros(each.bias());
  }
  for (io::tensor_info info : replaced) {
    info.name = out.name_of(info.name);
    zeros(info);
  }
  out.commit();
}

/// The values of a tensor in double, times a factor.
std::vector<double> scaled(const io::tensor_entry& entry, double factor) {
  std::vector<double> all(*io::element_count(entry.shape));
  io::convert(entry.bytes, *io::scalar_of(entry.type), std::span<double>(all));
  for (double& x : all) x *= factor;
  return all;
}

/// The same adapter with s = 1: B times s in double. Tensors held whole are kept.
void write_again(const io::adapter& tuned, const fs::path& path) {
  std::vector<io::planned_target> plans;
  for (const auto& target : tuned.targets()) {
    plans.push_back(io::plan_like(target, target.rank, dtype::f64));
  }
  std::vector<io::tensor_info> replaced;
  for (const auto& tensor : tuned.replaced()) {
    replaced.push_back({tensor.name, tensor.entry->type, tensor.entry->shape});
  }
  io::adapter_options how;
  how.bias = tuned.config().bias;
  if (tuned.config().task_type == "SEQ_CLS") how.task_type = "SEQ_CLS";
  for (const auto& name : tuned.config().modules_to_save) how.modules_to_save.push_back(name);
  io::adapter_writer out(path, plans, replaced, how);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const auto& target = tuned.targets()[i];
    const auto a = scaled(*target.a, 1), b = scaled(*target.b, target.scale);
    out.write(plans[i].a().name, std::as_bytes(std::span(a)));
    out.write(plans[i].b().name, std::as_bytes(std::span(b)));
    if (target.bias == nullptr) continue;
    const auto bias = scaled(*target.bias, target.scale);
    out.write(plans[i].bias().name, std::as_bytes(std::span(bias)));
  }
  for (const auto& tensor : tuned.replaced()) {
    out.write(out.name_of(tensor.name), tensor.entry->bytes);
  }
  out.commit();
}

/// The sum of adapters of linear layers, exactly: [s_1 B_1 | s_2 B_2 | ...] [A_1; A_2; ...].
void write_sum(const std::vector<const io::adapter*>& adapters, const fs::path& path) {
  std::map<std::string, std::vector<const io::adapter_target*>> parts;
  for (const auto* each : adapters) {
    for (const auto& target : each->targets()) parts[target.module].push_back(&target);
  }
  std::vector<io::planned_target> plans;
  for (const auto& [module, targets] : parts) {
    catmerge::index_t rank = 0;
    for (const auto* target : targets) rank += target->rank;
    plans.push_back(io::plan_like(*targets.front(), rank, dtype::f64));
  }
  io::adapter_writer out(path, plans, {}, {});
  for (const auto& each : plans) {
    std::vector<double> b(static_cast<std::size_t>(each.d_out * each.rank));
    std::size_t column = 0;
    for (const auto* target : parts.at(each.module)) {
      const auto a = scaled(*target->a, 1), b_of_one = scaled(*target->b, target->scale);
      out.append(each.a().name, std::as_bytes(std::span(a)));
      const auto r = static_cast<std::size_t>(target->rank);
      for (std::size_t i = 0; i < b_of_one.size(); ++i) {
        b[i / r * static_cast<std::size_t>(each.rank) + column + i % r] = b_of_one[i];
      }
      column += r;
    }
    out.write(each.b().name, std::as_bytes(std::span(b)));
  }
  out.commit();
}

/// A folder for tests/python/test_adapters.py, named by CATMERGE_ADAPTERS; else one that goes.
fs::path kept(const temporary_folder& folder, const std::string& name) {
  const char* const keep = std::getenv("CATMERGE_ADAPTERS");
  return keep == nullptr || *keep == '\0' ? folder / name : fs::path(keep) / name;
}

std::string message_about(const std::vector<io::planned_target>& plans,
                          const std::vector<io::tensor_info>& replaced = {},
                          const io::adapter_options& how = {}) {
  const temporary_folder folder;
  const std::string message =
      message_of([&] { write_zeros(folder / "out", plans, replaced, how); });
  CHECK(folder.names() ==
        (message.empty() ? std::vector<std::string>{"out"} : std::vector<std::string>{}));
  return message;
}
}  // namespace

TEST_CASE("an adapter that is read and written has the same differences and tensors") {
  const json cases = json::parse(get(fixtures / "cases.json"));
  for (const auto& [each, about] : cases.items()) {
    const std::string name = each;  // Clang 14 captures no binding
    CAPTURE(name);
    const temporary_folder folder;
    const io::adapter before(fixtures / name);
    const fs::path path = kept(folder, name);
    write_again(before, path);
    const io::adapter after(path);
    REQUIRE(after.targets().size() == before.targets().size());
    for (std::size_t i = 0; i < after.targets().size(); ++i) {
      const auto &a = before.targets()[i], &b = after.targets()[i];
      CAPTURE(a.module);
      CHECK(b.module == a.module);
      CHECK(b.layer == a.layer);
      CHECK(b.rank == a.rank);
      CHECK(b.scale == 1.0);
      CHECK(b.shape() == a.shape());
      const auto x = io::difference_of<double>(a), y = io::difference_of<double>(b);
      for (std::size_t j = 0; j < x.size(); ++j) {
        CHECK(y[j] == doctest::Approx(x[j]).epsilon(1e-12));
      }
      const auto p = io::bias_difference_of<double>(a), q = io::bias_difference_of<double>(b);
      CHECK(p == q);
    }
    REQUIRE(after.replaced().size() == before.replaced().size());
    for (std::size_t i = 0; i < after.replaced().size(); ++i) {
      CHECK(after.replaced()[i].name == before.replaced()[i].name);
      CHECK(text_of(after.replaced()[i].entry->bytes) ==
            text_of(before.replaced()[i].entry->bytes));
    }
    CHECK(after.tensors().unused.empty());
  }
}

TEST_CASE("the concatenation of adapters with other ranks and modules is their sum") {
  const temporary_folder folder;
  const io::adapter plain(fixtures / "plain"), second(fixtures / "second");
  const io::adapter patterns(fixtures / "patterns"), stable(fixtures / "rslora_patterns");
  const std::vector<const io::adapter*> all = {&plain, &second, &patterns, &stable};
  write_sum(all, kept(folder, "sum"));
  const io::adapter sum(kept(folder, "sum"));
  std::map<std::string, std::vector<double>> expected;
  std::map<std::string, catmerge::index_t> ranks;
  for (const auto* each : all) {
    for (const auto& target : each->targets()) {
      const auto values = io::difference_of<double>(target);
      auto& to = expected.try_emplace(target.module, values.size(), 0.0).first->second;
      for (std::size_t i = 0; i < values.size(); ++i) to[i] += values[i];
      ranks[target.module] += target.rank;
    }
  }
  REQUIRE(sum.targets().size() == expected.size());
  for (const auto& target : sum.targets()) {
    CAPTURE(target.module);
    CHECK(target.rank == ranks.at(target.module));
    const auto values = io::difference_of<double>(target);
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(values[i] == doctest::Approx(expected.at(target.module)[i]).epsilon(1e-11));
    }
  }
}

TEST_CASE("r is the commonest rank, and patterns match one module each") {
  const temporary_folder folder;
  write_zeros(folder / "out",
              {plan("a.q", 3), plan("x.a.q", 2), plan("a.k", 2), plan("a+b.q", 5), plan("a_b", 2)},
              {}, {.base_model = "roberta-base", .revision = "main", .task_type = "CAUSAL_LM"});
  const json config = json::parse(get(folder / "out" / "adapter_config.json"));
  CHECK(config["r"] == 2);
  CHECK(config["lora_alpha"] == 2);
  CHECK(config["rank_pattern"] == json{{"^a\\.q", 3}, {"^a\\+b\\.q", 5}});
  CHECK(config["alpha_pattern"] == config["rank_pattern"]);
  CHECK(config["target_modules"] == json{"a.q", "x.a.q", "a.k", "a+b.q", "a_b"});
  CHECK(config["base_model_name_or_path"] == "roberta-base");
  CHECK(config["revision"] == "main");
  CHECK(config["task_type"] == "CAUSAL_LM");
  CHECK(config["bias"] == "none");
  CHECK(config["peft_type"] == "LORA");
  CHECK(config["fan_in_fan_out"] == false);
  CHECK(config["modules_to_save"].is_null());
  const io::adapter written(folder / "out");
  std::map<std::string, catmerge::index_t> ranks;
  for (const auto& target : written.targets()) {
    ranks[target.module] = target.rank;
    CHECK(target.scale == 1.0);
  }
  CHECK(ranks == std::map<std::string, catmerge::index_t>{
                     {"a.q", 3}, {"x.a.q", 2}, {"a.k", 2}, {"a+b.q", 5}, {"a_b", 2}});
  CHECK(written.file().metadata() == io::metadata_t{{"format", "pt"}});
}

TEST_CASE("kinds of layers have PEFT's names and shapes") {
  const auto embedding = plan("e", 2, {9}, adapter_layer::embedding);
  CHECK(embedding.a().name == "base_model.model.e.lora_embedding_A");
  CHECK(embedding.a().shape == io::shape_t{2, 9});
  CHECK(embedding.b().name == "base_model.model.e.lora_embedding_B");
  const auto convolution = plan("c", 2, {3, 5, 6}, adapter_layer::convolution);
  CHECK(convolution.a().shape == io::shape_t{2, 3, 5, 6});
  CHECK(convolution.b().shape == io::shape_t{4, 2, 1, 1});
  const temporary_folder folder;
  write_zeros(folder / "out", {plan("q", 2, {3}, adapter_layer::transposed_linear)});
  CHECK(io::adapter(folder / "out").config().fan_in_fan_out);
}

TEST_CASE("tensors held whole have the names under which PEFT finds them") {
  const temporary_folder folder;
  write_zeros(folder / "out", {plan("a.q")},
              {{"a.q.bias", dtype::f32, {4}}, {"head.weight", dtype::f16, {2, 3}}},
              {.modules_to_save = {"head"}, .bias = io::adapter_biases::lora_only});
  const io::adapter written(folder / "out");
  CHECK(written.file().find("base_model.model.a.q.base_layer.bias") != nullptr);
  CHECK(written.file().find("base_model.model.head.weight") != nullptr);
  CHECK(written.config().modules_to_save == std::vector<std::string>{"head"});
  CHECK(written.config().bias == io::adapter_biases::lora_only);
  CHECK(written.replaced().size() == 2);
}

TEST_CASE("what adapters hold whole is compared bit for bit") {
  const temporary_folder folder;
  const std::vector<io::tensor_info> two = {{"same", dtype::f32, {2}}, {"other", dtype::f32, {2}}};
  write_zeros(folder / "a", {plan("q")}, two);
  write_zeros(folder / "b", {plan("q")},
              {two[0], {"other", dtype::f16, {2}}, {"new", dtype::f32, {1}}});
  const io::adapter a(folder / "a"), b(folder / "b");
  const std::vector<const io::adapter_tensors*> both = {&a.tensors(), &b.tensors()};
  const auto found = io::agreed_tensors(both);
  REQUIRE(found.agreed.size() == 1);
  CHECK(found.agreed[0].name == "same");
  CHECK(found.differing == std::vector<std::string>{"new", "other"});
  const std::vector<const io::adapter_tensors*> twice = {&a.tensors(), &a.tensors()};
  CHECK(io::agreed_tensors(twice).agreed.size() == 2);
}

TEST_CASE("what PEFT would not open is refused, and leaves nothing behind") {
  CHECK_CONTAINS(message_about({}), "an adapter needs one target or more");
  CHECK_CONTAINS(message_about({plan("q"), plan("q")}), "tensor 'q': is declared twice");
  CHECK_CONTAINS(message_about({plan("q", 0)}), "leave a target without rank out");
  CHECK_CONTAINS(message_about({plan("q", 2, {3, 3, 3})}), "expected positive extents that fit");
  CHECK_CONTAINS(message_about({plan("c", 2, {3}, adapter_layer::convolution)}),
                 "expected positive extents that fit the layer");
  auto biased = plan("q");
  biased.has_bias = true;
  CHECK(message_about({biased}).empty());
  CHECK_CONTAINS(message_about({biased, plan("k")}), "lora_bias holds for all targets");
  auto embedding = plan("e", 2, {9}, adapter_layer::embedding);
  embedding.has_bias = true;
  CHECK_CONTAINS(message_about({embedding}), "none of them an embedding");
  CHECK_CONTAINS(message_about({plan("a.head.out")}, {{"a.head.x", dtype::f32, {1}}},
                               {.modules_to_save = {"head"}}),
                 "lies in the module 'head', which is saved whole");
  CHECK(message_about({plan("a.heads.out")}, {}, {.modules_to_save = {"head"}}).empty());
  CHECK_CONTAINS(message_about({plan("q")}, {}, {.task_type = "SEQ_CLS"}),
                 "adapter_config.json: task_type: PEFT looks for a head in adapters for 'SEQ_CLS'");
  CHECK(
      message_about({plan("q")}, {{"classifier.weight", dtype::f32, {1}}}, {.task_type = "SEQ_CLS"})
          .empty());
  CHECK_CONTAINS(message_about({plan("q")}, {{"q.lora_A.weight", dtype::f32, {1}}}),
                 "is declared twice");
}

TEST_CASE("the folder appears whole, and an unfinished one leaves nothing") {
  const temporary_folder folder;
  {
    io::adapter_writer out(folder / "out", {plan("q")}, {}, {});
    CHECK(folder.names().size() == 1);  // the partial one
    CHECK_FALSE(fs::exists(folder / "out"));
    CHECK_CONTAINS(message_of([&] { out.commit(); }), "2 of 2 tensors were not written completely");
  }
  CHECK(folder.names().empty());
  write_zeros(folder / "out", {plan("q")});
  CHECK_CONTAINS(message_of([&] { write_zeros(folder / "out", {plan("k")}); }), "exists already");
  write_zeros(folder / "out", {plan("k")}, {}, {.target = io::existing::replace});
  CHECK(io::adapter(folder / "out").targets()[0].module == "k");
  put(folder / "out" / "notes.txt", "mine");
  CHECK_CONTAINS(message_of([&] {
                   write_zeros(folder / "out", {plan("q")}, {}, {.target = io::existing::replace});
                 }),
                 "is not replaced: it holds 'notes.txt'");
  CHECK((folder.names() == std::vector<std::string>{"out"}));
}

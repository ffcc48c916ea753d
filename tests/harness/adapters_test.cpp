// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <set>

#include "support/harness/program.hpp"

// Experts that are adapters of PEFT: the merge sees the networks that PEFT's merge_and_unload makes
// of them (tests/fixtures/make_adapters.py), whatever else it does.

using namespace harness_test;

namespace {

const fs::path cases = fs::path(CATMERGE_FIXTURES) / "adapters";

json case_list() {
  return json::parse(get(cases / "cases.json"));
}

/// A network of the fixtures with random values.
table base_of(const std::string& network, unsigned seed = 5) {
  const json all = json::parse(get(cases / "bases.json"));
  noise n(seed);
  table base;
  for (const auto& [name, shape] : all[network].items()) {
    const auto extents = shape.get<io::shape_t>();
    values_t values(static_cast<std::size_t>(*io::element_count(extents)));
    for (double& x : values) x = n();
    base.set(name, dtype::f64, extents, values);
  }
  return base;
}

/// The names that an adapter holds whole, from the names in its file.
std::set<std::string> held_whole(const fs::path& adapter) {
  std::set<std::string> names;
  for (const auto& [key, unused] : table(adapter / "adapter_model.safetensors").tensors) {
    std::string name = key.substr(std::string("base_model.model.").size());
    if (name.find("lora_") != std::string::npos) continue;
    if (const auto at = name.find(".base_layer"); at != std::string::npos) name.erase(at, 11);
    names.insert(name);
  }
  return names;
}

/// The network that PEFT makes of the base and a fixture.
table full(const table& base, const std::string& one) {
  const auto whole = held_whole(cases / one);
  table network = base;
  const table changed(cases / one / "expected.safetensors");
  for (const auto& [name, t] : changed.tensors) {
    values_t values = changed.values(name);
    if (!whole.contains(name)) {
      const values_t before = base.values(name);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += before[i];
    }
    network.set(name, dtype::f64, t.shape, values);
  }
  return network;
}

struct experts_of {
  std::vector<std::pair<std::string, fs::path>> paths;
  arguments options() const {
    arguments list;
    for (const auto& [task, path] : paths)
      list = list + arguments{"--expert", task + "=" + path.string()};
    return list;
  }
};

/// Merges with a base on the disk.
outcome merge(const fs::path& base, const experts_of& experts, const fs::path& output,
              const arguments& options) {
  return run(arguments{"merge", "--base", base, "--output", output} + experts.options() + options);
}

table well_merged(const fs::path& base, const experts_of& experts, const arguments& options) {
  const fs::path output = clips().fresh();
  const outcome result = merge(base, experts, output, options);
  CAPTURE(result.err);
  REQUIRE(result.status == 0);
  return table(output);
}

std::string refusal(const fs::path& base, const experts_of& experts, const arguments& options) {
  const fs::path output = clips().fresh();
  const outcome result = merge(base, experts, output, options);
  CHECK(result.status == 1);
  CHECK(!fs::exists(output));
  return result.err;
}

void check_close(const table& found, const table& expected, double bound) {
  REQUIRE(found.tensors.size() == expected.tensors.size());
  for (const auto& [name, t] : expected.tensors) {
    if (!is_float(t)) continue;
    CAPTURE(name);
    CHECK(largest_difference(found.values(name), expected.values(name)) <= bound);
  }
}

/// An adapter of rank 2 for some weights of a base, with random factors.
fs::path write_adapter(const fs::path& folder, const table& base,
                       const std::vector<std::string>& weights, unsigned seed, double alpha,
                       json config = json::object()) {
  fs::create_directories(folder);
  config.update({{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", alpha}});
  put(folder / "adapter_config.json", config.dump());
  noise n(seed);
  table factors;
  for (const auto& weight : weights) {
    const auto shape = base.at(weight).shape;
    const std::string module = "base_model.model." + weight.substr(0, weight.rfind(".weight"));
    values_t a(static_cast<std::size_t>(2 * shape[1])), b(static_cast<std::size_t>(shape[0] * 2));
    for (double& x : a) x = n(0.3);
    for (double& x : b) x = n(0.3);
    factors.set(module + ".lora_A.weight", dtype::f32, {2, shape[1]}, a);
    factors.set(module + ".lora_B.weight", dtype::f32, {shape[0], 2}, b);
  }
  factors.write(folder / "adapter_model.safetensors");
  return folder;
}

/// The base plus s B A, by plain loops, in double.
table with_factors(const table& base, const fs::path& adapter, double scale) {
  const table factors(adapter / "adapter_model.safetensors");
  table network = base;
  for (const auto& [key, t] : factors.tensors) {
    const auto end = key.find(".lora_A.weight");
    if (end == std::string::npos) continue;
    const std::string module = key.substr(0, end), prefix = "base_model.model.";
    const std::string weight = module.substr(prefix.size()) + ".weight";
    const values_t a = factors.values(key), b = factors.values(module + ".lora_B.weight");
    values_t w = base.values(weight);
    const std::size_t rank = 2, width = a.size() / rank;
    for (std::size_t i = 0; i < w.size() / width; ++i)
      for (std::size_t j = 0; j < width; ++j)
        for (std::size_t r = 0; r < rank; ++r)
          w[i * width + j] += scale * b[i * rank + r] * a[r * width + j];
    network.set(weight, dtype::f64, base.at(weight).shape, w);
  }
  return network;
}

}  // namespace

TEST_CASE("adapters: one at alpha 1 is the network that PEFT makes of it, for every kind") {
  const json all = case_list();
  for (const auto& [one, about] : all.items()) {
    CAPTURE(one);
    const table base = base_of(about["network"]);
    const fs::path file = base.write(clips().fresh("base.safetensors"));
    const table found = well_merged(file, {{{"a", cases / one}}},
                                    {"--method", "task-arithmetic:alpha=1", "--missing", "error"});
    // The fixtures' differences are below 30, in double.
    check_close(found, full(base, one), 1e-13);
    const table changed(cases / one / "expected.safetensors");
    const std::string& first = changed.tensors.begin()->first;
    CHECK(largest_difference(found.values(first), base.values(first)) > 1e-3);
  }
}

TEST_CASE("adapters: every kind of method gives what it gives for the full networks") {
  const table base = base_of("bert");
  const fs::path file = base.write(clips().fresh("base.safetensors"));
  experts_of adapters, networks, mixed;
  for (const std::string task : {"plain", "second", "lora_bias"}) {
    adapters.paths.emplace_back(task, cases / task);
    networks.paths.emplace_back(task, full(base, task).write(clips().fresh(task + ".safetensors")));
    mixed.paths.push_back(task == "second" ? networks.paths.back() : adapters.paths.back());
  }
  for (const std::string method : {"task-arithmetic:alpha=0.3", "ties", "tsv-m", "iso-c", "average",
                                   "swudi", "pcb", "breadcrumbs"}) {
    CAPTURE(method);
    const table expected = well_merged(file, networks, {"--method", method});
    check_close(well_merged(file, adapters, {"--method", method}), expected, 1e-10);
    check_close(well_merged(file, mixed, {"--method", method}), expected, 1e-10);
  }
  // In pieces of rows, and with weights.
  const arguments weights = {"--method", "task-arithmetic", "--weight", "plain=2"};
  check_close(well_merged(file, adapters, weights), well_merged(file, networks, weights), 1e-12);
}

TEST_CASE("adapters: samples run through the base with the adapter") {
  const table& base = clips().base();
  const std::vector<std::string> weights = {q0, layer0 + "mlp.fc1.weight",
                                            layer1 + "self_attn.v_proj.weight"};
  experts_of adapters, networks;
  unsigned seed = 31;
  for (const std::string task : {"a", "b"}) {
    const fs::path folder = clips().fresh("adapter_" + task);
    write_adapter(folder, base, weights, seed++, 3);
    adapters.paths.emplace_back(task, folder);
    networks.paths.emplace_back(
        task, with_factors(base, folder, 1.5).write(clips().fresh(task + ".safetensors")));
  }
  const std::vector<std::string> tasks = {"a", "b"};
  for (const std::string method : {"cat:lambda=1", "lot", "regmean"}) {
    CAPTURE(method);
    const arguments options = arguments{"--method", method} + clips().with_samples(tasks);
    // Networks run in float.
    check_close(well_merged(clips().base_path(), adapters, options),
                well_merged(clips().base_path(), networks, options), 2e-5);
  }
}

TEST_CASE("adapters: what does not fit, or would change what it should not, is refused by name") {
  const table base = base_of("bert");
  const fs::path file = base.write(clips().fresh("base.safetensors"));
  const arguments average = {"--method", "average"};
  // Another network.
  std::string message = refusal(file, {{{"a", cases / "fan_in_fan_out"}}}, average);
  CHECK_CONTAINS(message, (cases / "fan_in_fan_out").string());
  CHECK_CONTAINS(message, "has no parameter");

  // A variant whose factors mean something else.
  const fs::path dora = clips().fresh("dora");
  write_adapter(dora, base, {"bert.encoder.layer.0.intermediate.dense.weight"}, 3, 2,
                {{"use_dora", true}});
  CHECK_CONTAINS(refusal(file, {{{"a", dora}}}, average), "use_dora");

  // A tensor of a task that factors change is no tensor of its own.
  const fs::path head = clips().fresh("head");
  write_adapter(head, base, {"classifier.weight"}, 3, 2);
  message = refusal(file, {{{"a", head}}},
                    average + arguments{"--task-heads", "classifier.*", "--heads-output",
                                        clips().fresh("heads")});
  CHECK_CONTAINS(message, "'classifier.weight', which the adapter changes by factors");
}

TEST_CASE("adapters: fan_in_fan_out counts for a square weight that no rule knows") {
  noise n(8);
  table base;
  const std::string weight = "stem.mixer.weight";
  values_t values(36);
  for (double& x : values) x = n();
  base.set(weight, dtype::f64, {6, 6}, values);
  const fs::path file = base.write(clips().fresh("base.safetensors"));
  for (const bool in_out : {false, true}) {
    CAPTURE(in_out);
    const fs::path adapter = clips().fresh("adapter");
    write_adapter(adapter, base, {weight}, 9, 4, {{"fan_in_fan_out", in_out}});
    const values_t sum = with_factors(base, adapter, 2).values(weight);
    values_t expected(36);
    for (std::size_t i = 0; i < 6; ++i)
      for (std::size_t j = 0; j < 6; ++j) {
        const std::size_t at = i * 6 + j, from = in_out ? j * 6 + i : at;
        expected[at] = values[at] + sum[from] - values[from];
      }
    const table found =
        well_merged(file, {{{"a", adapter}}}, {"--method", "task-arithmetic:alpha=1"});
    CHECK(largest_difference(found.values(weight), expected) <= 1e-13);
  }
}

TEST_CASE("adapters: the file of factors alone is no expert, and the message names the folder") {
  const table base = base_of("bert");
  const fs::path file = base.write(clips().fresh("base.safetensors"));
  CHECK_CONTAINS(refusal(file, {{{"a", cases / "plain" / "adapter_model.safetensors"}}},
                         {"--method", "average"}),
                 "name the folder that holds its adapter_config.json");
}

TEST_CASE("adapters: heads that adapters hold are each task's own, by the names of the base") {
  const table base = base_of("bert");
  const fs::path file = base.write(clips().fresh("base.safetensors"));
  const fs::path heads = clips().fresh("heads");
  const fs::path one = cases / "modules_to_save";
  const auto whole = held_whole(one);
  REQUIRE(whole.contains("classifier.weight"));
  const table merged =
      well_merged(file, {{{"a", one}}},
                  {"--method", "average", "--task-heads", "classifier.*", "--heads-output", heads});
  CHECK(!merged.has("classifier.weight"));
  const table found(heads / "a.safetensors"), expected = full(base, "modules_to_save");
  for (const auto& [name, t] : found.tensors) {
    CAPTURE(name);
    CHECK(largest_difference(found.values(name), expected.values(name)) == 0);
  }
  CHECK(found.has("classifier.weight"));
  CHECK(found.has("classifier.bias"));

  // A full network whose names are others.
  table renamed;
  for (const auto& [name, t] : expected.tensors) renamed.tensors["m." + name] = t;
  const fs::path again = clips().fresh("heads");
  well_merged(file, {{{"a", renamed.write(clips().fresh("renamed.safetensors"))}}},
              {"--method", "average", "--rename", "m.*=*", "--task-heads", "classifier.*",
               "--heads-output", again});
  check_close(table(again / "a.safetensors"), found, 0);
}

TEST_CASE("adapters: one of two tied tensors is not changed alone") {
  table base = base_of("llama");
  const std::string tokens = "model.embed_tokens.weight", output = "lm_head.weight";
  base.tensors[output] = base.at(tokens);
  const fs::path tied = base.write(clips().fresh("tied.safetensors"));
  const fs::path adapter = clips().fresh("adapter");
  write_adapter(adapter, base, {output}, 4, 2);
  const std::string message = refusal(tied, {{{"a", adapter}}}, {"--method", "average"});
  CHECK_CONTAINS(message, adapter.string());
  CHECK_CONTAINS(message, "the adapter changes 'lm_head.weight'");
  CHECK_CONTAINS(message, "share their values");
  // Once they differ, they are two tensors.
  base.poke(output, 0, 7);
  const fs::path apart = base.write(clips().fresh("apart.safetensors"));
  check_close(well_merged(apart, {{{"a", adapter}}}, {"--method", "task-arithmetic:alpha=1"}),
              with_factors(base, adapter, 1), 1e-13);
}

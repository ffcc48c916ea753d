// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// checkpoint_set in this process: what is read ahead and let go, and that the networks that give
// the features are made of the same tensors as the merge.

#include <catmerge/io/safetensors_writer.hpp>
#include <harness/features/expert_weights.hpp>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using namespace catmerge::harness;
using catmerge::index_t;

namespace {

struct tensor {
  io::shape_t shape;
  std::vector<float> values;
};
using tensors = std::map<std::string, tensor>;

tensor random_tensor(std::mt19937& random, io::shape_t shape) {
  tensor t{std::move(shape), {}};
  std::size_t count = 1;
  for (const index_t extent : t.shape) count *= static_cast<std::size_t>(extent);
  for (std::size_t i = 0; i < count; ++i)
    t.values.push_back(static_cast<float>(random() % 2000) / 1000 - 1);
  return t;
}

void write(const fs::path& path, const tensors& all) {
  std::vector<io::tensor_info> infos;
  for (const auto& [name, t] : all) infos.push_back({name, io::dtype::f32, t.shape});
  io::safetensors_writer writer(path, infos);
  for (const auto& [name, t] : all) writer.write(name, std::as_bytes(std::span(t.values)));
  writer.commit();
}

catmerge::model::name_rules linear_rules() {
  catmerge::model::parameter_rule rule;
  rule.pattern = "linear*";
  return catmerge::model::name_rules({rule});
}

}  // namespace

TEST_CASE("the next group is read while this one is worked on, and the last one is let go") {
  const temporary_folder folder;
  std::mt19937 random(3);
  // Groups in the order of names; a table of 24 MiB comes in pieces of 8.
  const auto make = [&](const std::string& file) {
    tensors all;
    for (const char* name : {"linear_0", "linear_1", "linear_2"})
      all[name] = random_tensor(random, {1024, 1024});
    all["table"] = random_tensor(random, {6144, 1024});
    write(folder / file, all);
  };
  make("base"), make("expert");
  checkpoint_set set((folder / "base").string(), {{"task", (folder / "expert").string()}},
                     linear_rules());
  REQUIRE(set.groups().size() == 6);
  for (const char* file : {"base", "expert"}) evict(folder / file);
  const auto bytes_of_group = [&](std::size_t g, bool of_expert) {
    const auto& p = set.groups()[g].front();
    const auto part = set.piece_of(p);
    const auto& file = of_expert ? set.expert_file(0) : set.base_file();
    const auto whole = file.at(part.tensor).bytes;
    const std::size_t row = 1024 * sizeof(float);
    return whole.subspan(static_cast<std::size_t>(part.first) * row,
                         static_cast<std::size_t>(part.count) * row);
  };
  if (share_cached(bytes_of_group(5, false)) > 0.9) {
    MESSAGE("this file system keeps its files in memory: nothing to see");
    return;
  }
  const std::size_t at_start = resident_bytes();
  for (std::size_t g = 0; g < set.groups().size(); ++g) {
    CAPTURE(g);
    const auto& p = set.groups()[g].front();
    const auto base = set.base(p), expert = set.expert(0, p);
    CHECK(base.rows == set.piece_of(p).count);
    const bool piece = g >= 3;
    CHECK(p.whole == (piece ? "table" : ""));
    CHECK(p.first_row == (piece ? 2048 * static_cast<index_t>(g - 3) : 0));
    if (g + 1 < set.groups().size()) {
      for (const bool of_expert : {false, true}) {
        const auto next = bytes_of_group(g + 1, of_expert);
        for (int i = 0; i < 500 && share_cached(next) < 1; ++i) ::usleep(10000);
        CHECK(share_cached(next) == 1);
      }
    }
    float sum = 0;  // touches all of both
    for (const auto& view : {base, expert})
      for (index_t i = 0; i < view.rows * view.columns; i += 512)
        sum += static_cast<const float*>(view.data)[i];
    CHECK(std::isfinite(sum));
    const std::size_t group_size = 2 * bytes_of_group(g, false).size();
    // This group is in memory, with pages at the edges of tensors.
    CHECK(resident_bytes() <= at_start + group_size + (std::size_t{1} << 20));
    set.release(set.groups()[g]);
    CHECK(resident_bytes() <= at_start + (std::size_t{1} << 20));
  }
}

TEST_CASE("the network of an expert is made of what the merge takes from it") {
  const temporary_folder folder;
  std::mt19937 random(4);
  tensors base;
  for (const char* name : {"linear", "lacking", "head"}) base[name] = random_tensor(random, {4, 3});
  for (const char* name : {"taller", "lower"}) base[name] = random_tensor(random, {5, 3});
  base["wte.weight"] = base["lm_head.weight"] = random_tensor(random, {6, 3});
  tensors expert = base;
  for (auto& [name, t] : expert) t = random_tensor(random, t.shape);
  expert.erase("lacking");
  expert["taller"] = random_tensor(random, {7, 3});
  expert["lower"] = random_tensor(random, {2, 3});
  expert["head"] = random_tensor(random, {2, 4});
  SUBCASE("a tied tensor under its first name") {
    expert.erase("wte.weight");
  }
  SUBCASE("a tied tensor under its second name") {
    expert.erase("lm_head.weight");
  }
  SUBCASE("a tied tensor under both") {
    expert["lm_head.weight"] = expert["wte.weight"];
  }
  write(folder / "base", base);
  write(folder / "expert", expert);
  merge_policy policy;
  policy.base_for_missing = true;
  policy.resized = {"--resized", {"{taller,lower}"}};
  policy.task_heads = {"--task-heads", {"head"}};
  checkpoint_set set((folder / "base").string(), {{"task", (folder / "expert").string()}},
                     linear_rules(), policy);
  CHECK(set.tied().size() == 1);
  const fitted_weights weights(set, 0);
  for (const auto& group : set.groups())
    for (const auto& p : group) {
      CAPTURE(p.name);
      const auto& shape = base.at(p.name).shape;
      const auto merged = set.expert(0, p);
      weights.check({p.name, shape});
      const weight network = weights.get({p.name, shape});
      REQUIRE(merged.rows * merged.columns == network.size());
      bool same = true, is_base = true;
      for (index_t i = 0; i < network.size(); ++i) {
        const float value = network.data()[i];
        same = same && static_cast<const float*>(merged.data)[i] == value;
        is_base = is_base && base.at(p.name).values[static_cast<std::size_t>(i)] == value;
      }
      CHECK(same);
      CHECK(is_base == (p.name == "lacking"));
    }
  // A tensor outside the merge, of another shape in the experts: the base's own.
  const weight head = weights.get({"head", {4, 3}});
  CHECK(std::equal(head.data(), head.data() + 12, base.at("head").values.begin()));
}

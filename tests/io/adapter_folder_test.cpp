// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using nlohmann::json;

namespace {
const fs::path fixtures = fs::path(CATMERGE_FIXTURES) / "adapters";

std::vector<double> values_of(const io::tensor_entry& entry) {
  std::vector<double> values(*io::element_count(entry.shape));
  io::convert(entry.bytes, *io::scalar_of(entry.type), std::span<double>(values));
  return values;
}

/// The names and shapes of a network of the fixtures.
std::vector<io::tensor_info> base_of(const std::string& network) {
  static const json all = json::parse(get(fixtures / "bases.json"));
  std::vector<io::tensor_info> infos;
  for (const auto& [name, shape] : all[network].items()) {
    infos.push_back({name, io::dtype::f32, shape.get<io::shape_t>()});
  }
  return infos;
}
io::adapter_placement placed_in(const std::vector<io::tensor_info>& base, const io::adapter& tuned,
                                const io::known_layout& layout = {}) {
  return io::target_in(base, "base", tuned.tensors(), tuned.file().path(), layout);
}

/// What an adapter makes of a network of zeros, by parameter, with differences in S.
template <class S>
std::map<std::string, std::vector<double>> merged_over_zeros(const io::adapter_placement& placed) {
  std::map<std::string, std::vector<double>> merged;
  for (const auto& tensor : placed.replaced) merged[tensor.parameter] = values_of(*tensor.entry);
  const auto add = [&](const std::string& name, const std::vector<S>& values) {
    auto& sum = merged.try_emplace(name, values.size(), 0.0).first->second;
    REQUIRE(sum.size() == values.size());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(values[i]);
  };
  for (const auto& target : placed.targets) {
    add(target.parameter, io::difference_of<S>(target));
    if (target.bias != nullptr) add(target.bias_parameter, io::bias_difference_of<S>(target));
  }
  return merged;
}

/// The largest difference of two lists, over the largest value.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0, most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(b[i]));
    most = std::max(most, std::abs(a[i] - b[i]));
  }
  return most / largest;
}

using tensors = std::map<std::string, io::shape_t>;  // by the name in an adapter
const json plain_config = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}};

/// Writes an adapter of zeros.
fs::path make(const temporary_folder& folder, const tensors& shapes,
              const json& config = plain_config, io::dtype type = io::dtype::f32) {
  const fs::path path = folder / "adapter";
  fs::remove_all(path);
  fs::create_directories(path);
  put(path / "adapter_config.json", config.dump());
  std::vector<io::tensor_info> infos;
  for (const auto& [name, shape] : shapes) infos.push_back({name, type, shape});
  io::safetensors_writer out(path / "adapter_model.safetensors", infos);
  for (const auto& info : infos) {
    const std::string zeros(*io::byte_count(info), '\0');
    out.write(info.name, bytes_of(zeros));
  }
  out.commit();
  return path;
}
std::string message_about(const tensors& shapes, const json& config = plain_config) {
  const temporary_folder folder;
  const fs::path path = make(folder, shapes, config);
  return message_of([&] { io::adapter tuned(path); });
}

const std::string root = "base_model.model.";
tensors good() {
  return {{root + "a.q.lora_A.weight", {2, 3}}, {root + "a.q.lora_B.weight", {4, 2}}};
}
tensors good_and(const std::string& name, const io::shape_t& shape) {
  tensors all = good();
  all[root + name] = shape;
  return all;
}
json with(const std::string& key, const json& value) {
  json config = plain_config;
  config[key] = value;
  return config;
}
}  // namespace

// ---------------------------------------------------------------- as PEFT

TEST_CASE("the merged network is that of PEFT's merge_and_unload, for each configuration") {
  const json cases = json::parse(get(fixtures / "cases.json"));
  REQUIRE(cases.size() == 14);
  for (const auto& [each, about] : cases.items()) {
    const std::string name = each;  // Clang 14 captures no binding
    CAPTURE(name);
    const io::adapter tuned(fixtures / name);
    CHECK(tuned.targets().size() == about["modules"].size());
    const auto placed = placed_in(base_of(about["network"]), tuned);
    const io::safetensors_file expected(fixtures / name / "expected.safetensors");

    const auto exact = merged_over_zeros<double>(placed);
    const auto rounded = merged_over_zeros<float>(placed);
    std::set<std::string> names, wanted;
    for (const auto& [parameter, values] : exact) names.insert(parameter);
    for (const auto& entry : expected.entries()) wanted.insert(entry.name);
    CHECK(names == wanted);
    for (const auto& entry : expected.entries()) {
      CAPTURE(entry.name);
      const auto values = values_of(entry);
      // Sums of r <= 6 products and one more, with a factor: a few roundings of the largest terms,
      // which exceed the largest sum at most by what cancels.
      CHECK(distance(exact.at(entry.name), values) < 20 * 2.3e-16);
      CHECK(distance(rounded.at(entry.name), values) < 20 * 1.2e-7);
    }
  }
}

TEST_CASE("kinds of layers, and what is held whole") {
  const io::adapter convolution(fixtures / "convolution");
  std::map<std::string, io::adapter_layer> layers;
  std::map<std::string, io::shape_t> shapes;
  for (const auto& target : convolution.targets()) {
    layers[target.module] = target.layer;
    shapes[target.name()] = target.shape();
  }
  CHECK(layers ==
        std::map<std::string, io::adapter_layer>{{"head", io::adapter_layer::linear},
                                                 {"line", io::adapter_layer::convolution},
                                                 {"point", io::adapter_layer::convolution},
                                                 {"stem", io::adapter_layer::convolution}});
  CHECK(shapes["stem.weight"] == io::shape_t{4, 3, 3, 2});
  CHECK(shapes["line.weight"] == io::shape_t{3, 5, 3});

  const io::adapter embedding(fixtures / "embedding");
  REQUIRE(embedding.targets().size() == 2);
  CHECK(embedding.targets()[0].layer == io::adapter_layer::embedding);
  CHECK(embedding.targets()[0].shape() == io::shape_t{10, 8});
  // PEFT saves the embedding itself beside its factors: both count.
  REQUIRE(embedding.replaced().size() == 1);
  CHECK(embedding.replaced()[0].name == "model.embed_tokens.weight");

  const io::adapter biases(fixtures / "bias_all");
  CHECK(biases.tensors().unused.size() == 2);  // classifier's original_module and modules_to_save
  const auto is_in = [&](const std::string& name) {
    return std::any_of(biases.replaced().begin(), biases.replaced().end(),
                       [&](const auto& tensor) { return tensor.name == name; });
  };
  CHECK(is_in("classifier.bias"));
  CHECK(is_in("bert.encoder.layer.0.attention.self.query.bias"));
  CHECK(is_in("bert.embeddings.LayerNorm.bias"));

  const io::adapter transposed(fixtures / "fan_in_fan_out");
  for (const auto& target : transposed.targets()) {
    CHECK(target.layer == io::adapter_layer::transposed_linear);
  }
}

TEST_CASE("PEFT's add_weighted_adapter: cat is the sum, linear and rsLoRA are not") {
  const io::safetensors_file file(fixtures / "weighted.safetensors");
  const io::adapter plain(fixtures / "plain"), second(fixtures / "second");
  const io::adapter stable(fixtures / "rslora");
  const auto base = base_of("bert");
  auto sum = merged_over_zeros<double>(placed_in(base, plain));
  for (const auto& [name, values] : merged_over_zeros<double>(placed_in(base, second))) {
    for (std::size_t i = 0; i < values.size(); ++i) sum.at(name)[i] += values[i];
  }
  for (const auto& [each, values] : sum) {
    const std::string name = each;  // Clang 14 captures no binding
    CAPTURE(name);
    CHECK(distance(values, values_of(file.at("cat." + name))) < 1e-14);
    // cross terms B_1 A_2 + B_2 A_1, as large as the terms themselves
    CHECK(distance(values, values_of(file.at("linear." + name))) > 0.2);
  }
  for (auto [each, values] : merged_over_zeros<double>(placed_in(base, stable))) {
    const std::string name = each;  // Clang 14 captures no binding
    CAPTURE(name);
    const auto theirs = values_of(file.at("rslora." + name));
    CHECK(distance(values, theirs) > 0.4);
    for (double& value : values) value *= std::sqrt(4.0);  // sqrt(r) too strong
    // PEFT combines a single adapter as "linear", with sqrt(s) rounded to float in A and in B.
    CHECK(distance(values, theirs) < 1.2e-7);
  }
}

// ---------------------------------------------------------------- products

TEST_CASE("differences are the formulas' in plain loops, for every type and order of memory") {
  const temporary_folder folder;
  std::mt19937 random(7);
  const fs::path path = make(folder,
                             {{root + "e.lora_embedding_A", {2, 5}},
                              {root + "e.lora_embedding_B", {3, 2}},
                              {root + "c.lora_A.weight", {2, 2, 3, 1}},
                              {root + "c.lora_B.weight", {4, 2, 1, 1}},
                              {root + "l.lora_A.weight", {2, 6}},
                              {root + "l.lora_B.weight", {3, 2}}},
                             with("use_rslora", true), io::dtype::f64);
  // Random values in the place of the zeros, and an odd header that leaves them unaligned.
  std::string bytes = get(path / "adapter_model.safetensors");
  const std::size_t begin =
      8 + static_cast<unsigned char>(bytes[0]) + 256U * static_cast<unsigned char>(bytes[1]);
  std::normal_distribution<double> normal;
  for (std::size_t at = begin; at < bytes.size(); at += sizeof(double)) {
    const double x = normal(random);
    std::memcpy(&bytes[at], &x, sizeof x);
  }
  for (const bool is_aligned : {true, false}) {
    if (!is_aligned) {
      const std::size_t length = begin - 8 + 1;
      bytes.insert(begin, 1, ' ');
      bytes[0] = static_cast<char>(length & 0xff), bytes[1] = static_cast<char>(length >> 8);
    }
    put(path / "adapter_model.safetensors", bytes);
    const io::adapter tuned(path);
    REQUIRE(tuned.targets().size() == 3);
    CHECK(io::is_aligned(*tuned.targets()[0].a) == is_aligned);
    for (const auto& target : tuned.targets()) {
      CAPTURE(target.module);
      const auto a = values_of(*target.a), b = values_of(*target.b);
      const auto at = [](auto i) { return static_cast<std::size_t>(i); };
      const bool is_embedding = target.layer == io::adapter_layer::embedding;
      const auto rows = is_embedding ? target.d_in : target.d_out;
      const auto columns = is_embedding ? target.d_out : target.d_in;
      std::vector<double> expected(at(rows * columns));
      for (catmerge::index_t i = 0; i < target.d_out; ++i) {
        for (catmerge::index_t j = 0; j < target.d_in; ++j) {
          long double sum = 0;
          for (catmerge::index_t k = 0; k < 2; ++k) {
            sum += static_cast<long double>(b[at(i * 2 + k)]) * a[at(k * target.d_in + j)];
          }
          sum *= 4 / std::sqrt(2.0L);
          expected[at(is_embedding ? j * columns + i : i * columns + j)] = static_cast<double>(sum);
        }
      }
      CHECK(distance(io::difference_of<double>(target), expected) < 1e-15);
      std::vector<double> columns_first(expected.size());
      catmerge::context<catmerge::host> on;
      io::add_difference(target, 0,
                         {columns_first.data(), catmerge::scalar_type::f64, rows, columns, 1, rows},
                         on);
      for (catmerge::index_t i = 0; i < rows; ++i) {
        for (catmerge::index_t j = 0; j < columns; ++j) {
          CHECK(columns_first[at(j * rows + i)] ==
                doctest::Approx(expected[at(i * columns + j)]).epsilon(1e-13));
        }
      }
    }
  }
}

// ---------------------------------------------------------------- places in a base

TEST_CASE("names may differ by one module around the network") {
  const io::adapter tuned(fixtures / "modules_to_save");
  auto inner = base_of("bert");  // the network alone: no "bert.", no head
  std::erase_if(inner, [](const auto& info) { return !info.name.starts_with("bert."); });
  for (auto& info : inner) info.name = info.name.substr(5);
  const auto dropped = placed_in(inner, tuned);
  CHECK(dropped.dropped == "bert.");
  CHECK(dropped.targets[0].parameter == "encoder.layer.0.attention.self.query.weight");
  REQUIRE(dropped.replaced.size() == 2);
  CHECK(dropped.replaced[1].parameter == "classifier.weight");
  CHECK_FALSE(dropped.replaced[1].shape_in_base);

  auto outer = base_of("bert");
  for (auto& info : outer) info.name = "model." + info.name;
  const auto added = placed_in(outer, tuned);
  CHECK(added.added == "model.");
  CHECK(added.targets[0].parameter == "model.bert.encoder.layer.0.attention.self.query.weight");
  CHECK(added.replaced[1].shape_in_base == io::shape_t{3, 8});

  auto both = outer;
  for (const auto& info : outer) both.push_back({"other." + info.name, info.type, info.shape});
  for (auto& info : both) info.name = "x." + info.name;
  CHECK_CONTAINS(message_of([&] { placed_in(both, tuned); }), "several parameters of the base");
  auto less = base_of("bert");
  std::erase_if(
      less, [](const auto& info) { return info.name.ends_with("0.attention.self.query.weight"); });
  CHECK_CONTAINS(message_of([&] { placed_in(less, tuned); }),
                 "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight': the "
                 "base base has no parameter "
                 "'bert.encoder.layer.0.attention.self.query.weight'");
}

TEST_CASE("shapes that differ from the base's are refused by name") {
  const auto changed = [](const char* network, const std::string& name, const io::shape_t& shape) {
    auto base = base_of(network);
    for (auto& info : base) {
      if (info.name == name) info.shape = shape;
    }
    return base;
  };
  const io::adapter embedding(fixtures / "embedding");
  const std::string about_tokens = message_of([&] {
    placed_in(changed("llama", "model.embed_tokens.weight", {12, 8}), embedding);
  });
  CHECK_CONTAINS(about_tokens, "lora_embedding_A': expected a parameter [10, 8] in the base");
  CHECK_CONTAINS(about_tokens, "found F32 [12, 8]");
  CHECK_CONTAINS(about_tokens, "was the vocabulary changed?");
  const std::string query = "bert.encoder.layer.0.attention.self.query";
  CHECK_CONTAINS(
      message_of([&] {
        placed_in(changed("bert", query + ".weight", {8, 9}), io::adapter(fixtures / "plain"));
      }),
      "expected a parameter [8, 8] in the base");
  const io::adapter biased(fixtures / "lora_bias");
  CHECK_CONTAINS(message_of([&] { placed_in(changed("bert", query + ".bias", {9}), biased); }),
                 "query.lora_B.bias': expected a bias [8] in the base to add it to, found F32 [9]");
  auto without = base_of("bert");
  std::erase_if(without, [&](const auto& info) { return info.name == query + ".bias"; });
  CHECK_CONTAINS(message_of([&] { placed_in(without, biased); }), "found none under the name");
}

TEST_CASE("the base's shape tells how a linear weight is stored; a square one needs the flag") {
  const temporary_folder folder;
  const tensors shapes = {{root + "wide.lora_A.weight", {2, 3}},
                          {root + "wide.lora_B.weight", {5, 2}},
                          {root + "square.lora_A.weight", {2, 4}},
                          {root + "square.lora_B.weight", {4, 2}}};
  const auto base = [](const io::shape_t& wide) {
    return std::vector<io::tensor_info>{{"wide.weight", io::dtype::f32, wide},
                                        {"square.weight", io::dtype::f32, {4, 4}}};
  };
  for (const bool flag : {false, true}) {
    const io::adapter tuned(make(folder, shapes, with("fan_in_fan_out", flag)));
    const auto layer = flag ? io::adapter_layer::transposed_linear : io::adapter_layer::linear;
    const auto agreeing = placed_in(base(flag ? io::shape_t{3, 5} : io::shape_t{5, 3}), tuned);
    CHECK(agreeing.targets[0].layer == layer);  // square
    CHECK(agreeing.targets[1].layer == layer);
    const auto other = base(flag ? io::shape_t{5, 3} : io::shape_t{3, 5});
    CHECK_CONTAINS(message_of([&] { placed_in(other, tuned); }),
                   "square.lora_A.weight': its weight is square, and fan_in_fan_out");
    const auto known = placed_in(other, tuned, [](std::string_view name) -> std::optional<bool> {
      CHECK(name == "square.weight");
      return true;
    });
    CHECK(known.targets[0].layer == io::adapter_layer::transposed_linear);
    CHECK(known.targets[1].layer != layer);
  }
}

// ---------------------------------------------------------------- hostile files

TEST_CASE("damaged adapters are refused by name of file and tensor") {
  CHECK(message_about(good()).empty());
  tensors no_b = good(), no_a = good(), rank = good(), wide = good();
  no_b.erase(root + "a.q.lora_B.weight");
  no_a.erase(root + "a.q.lora_A.weight");
  CHECK_CONTAINS(message_about(no_b),
                 "adapter_model.safetensors: tensor 'base_model.model.a.q.lora_A.weight': has no "
                 "partner: expected a tensor 'base_model.model.a.q.lora_B.weight'");
  CHECK_CONTAINS(message_about(no_a), "expected a tensor 'base_model.model.a.q.lora_A.weight'");
  rank[root + "a.q.lora_B.weight"] = {4, 3};
  CHECK_CONTAINS(message_about(rank), "lora_B.weight': expected the rank 2 of A, F32 [2, 3]");
  CHECK_CONTAINS(message_about(good(), with("r", 3)),
                 "lora_A.weight': expected the rank 3 of adapter_config.json (r and rank_pattern)");
  CHECK_CONTAINS(message_about(good(), with("rank_pattern", {{"q", 1}})), "expected the rank 1");
  CHECK(message_about(
            good(),
            {{"peft_type", "LORA"}, {"r", 8}, {"lora_alpha", 8}, {"rank_pattern", {{"q", 2}}}})
            .empty());
  wide[root + "a.q.lora_B.weight"] = {4, 2, 1};
  CHECK_CONTAINS(message_about(wide), "lora_B.weight': expected d_out x r beside A");
  wide = good();
  wide[root + "a.q.lora_A.weight"] = {6};
  CHECK_CONTAINS(message_about(wide), "lora_A.weight': expected 2 to 5 extents, found F32 [6]");
  wide = {{root + "c.lora_A.weight", {2, 3, 3, 3}}, {root + "c.lora_B.weight", {4, 2, 3, 1}}};
  CHECK_CONTAINS(message_about(wide), "c.lora_B.weight': expected d_out x r and extents of 1");
  wide[root + "c.lora_B.weight"] = {4, 1, 1, 1};
  CHECK_CONTAINS(message_about(wide), "a convolution in groups cannot be merged");
  wide = good();
  wide[root + "a.q.lora_A.weight"] = {2, 0};
  CHECK_CONTAINS(message_about(wide), "lora_A.weight': is empty, F32 [2, 0]: sharded factors");
  wide[root + "a.q.lora_A.weight"] = {0, 3};
  CHECK_CONTAINS(message_about(wide), "is empty");
  CHECK_CONTAINS(message_about({{root + "head.weight", {2, 3}}}), "holds no factors");
  CHECK_CONTAINS(message_about({{"a.q.lora_A.weight", {2, 3}}}), "begins with 'base_model.model.'");
  CHECK_CONTAINS(message_about({{root, {2, 3}}}), "begins with 'base_model.model.'");
}

TEST_CASE("parts of other kinds of adapters are refused by name") {
  CHECK_CONTAINS(
      message_about(good_and("a.q.lora_magnitude_vector", {4})),
      "a.q.lora_magnitude_vector': is a magnitude vector of DoRA, though use_dora is not");
  CHECK_CONTAINS(message_about(good_and("e.token_adapter.trainable_tokens_delta", {2, 3})),
                 "trainable_tokens_delta': holds trained tokens, though");
  CHECK_CONTAINS(message_about(good_and("a.q.lora_diag", {2})), "lora_diag': unknown part");
  CHECK_CONTAINS(message_about(good_and("a.k.lora_A.default.weight", {2, 3})),
                 "lora_A.default.weight': unknown part of an adapter");
  CHECK_CONTAINS(message_about(good_and("lora_A.weight", {2, 3})), "unknown part of an adapter");
  CHECK_CONTAINS(message_about(good_and("m.experts.base_layer.lora_A.weight", {2, 3})),
                 "belongs to a layer inside a layer");
  CHECK_CONTAINS(message_about(good_and("m.base_layer.out_proj.base_layer.bias", {2})),
                 "belongs to a layer inside a layer");
  CHECK_CONTAINS(message_about(good_and("a.q.lora_embedding_A", {2, 3})),
                 "the same module has factors of another kind");
  CHECK_CONTAINS(message_about(good_and("a.q.lora_B.bias", {4})),
                 "lora_B.bias': is a bias of B, though lora_bias is not set");
  CHECK_CONTAINS(message_about(good(), with("lora_bias", true)),
                 "lora_B.weight': has no bias beside it, though lora_bias is set");
  CHECK_CONTAINS(message_about(good_and("a.q.lora_B.bias", {5}), with("lora_bias", true)),
                 "lora_B.bias': expected [4] beside B, F32 [4, 2], found F32 [5]");
  CHECK(message_about(good_and("a.q.lora_B.bias", {4}), with("lora_bias", true)).empty());
}

TEST_CASE("tensors held whole: one for each parameter") {
  CHECK_CONTAINS(message_about(good_and("a.q.weight", {4, 3})),
                 "a.q.weight': replaces a weight that has factors, too");
  CHECK(message_about(good_and("a.q.base_layer.weight", {4, 3})).empty());
  tensors twice = good_and("a.q.bias", {4});
  twice[root + "a.q.base_layer.bias"] = {4};
  CHECK_CONTAINS(message_about(twice), "replaces the same parameter as tensor");
  tensors copies = good_and("head.modules_to_save.bias", {4});
  CHECK_CONTAINS(message_about(copies), "expected a tensor 'base_model.model.head.bias'");
  copies[root + "head.bias"] = {4};
  copies[root + "head.original_module.bias"] = {4};
  CHECK(message_about(copies).empty());
  copies[root + "head.bias"] = {5};
  CHECK_CONTAINS(message_about(copies), "differs from tensor 'base_model.model.head.bias'");
}

TEST_CASE("integers and small floats are no factors") {
  const temporary_folder folder;
  for (const io::dtype type : {io::dtype::i64, io::dtype::u8, io::dtype::boolean}) {
    const fs::path path = make(folder, good(), plain_config, type);
    CHECK_CONTAINS(message_of([&] { io::adapter tuned(path); }),
                   "expected floating-point values of 16 bits or more, found");
  }
  const fs::path path = make(folder, good());
  const std::string weights = get(path / "adapter_model.safetensors");
  // What is held whole may be anything: a module's counter of batches.
  const std::string header =
      weights.substr(8, weights.find('}', weights.find("lora_B")) - 8 + 1) +
      ",\"base_model.model.n.count\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[56,64]}}";
  put(path / "adapter_model.safetensors", safetensors_bytes(header, std::string(64, '\0')));
  const io::adapter counted(path);
  REQUIRE(counted.replaced().size() == 1);
  CHECK(counted.replaced()[0].entry->type == io::dtype::i64);
}

TEST_CASE("folders that are no adapter, and what to do") {
  const temporary_folder folder;
  const fs::path path = make(folder, good());
  CHECK(io::is_adapter_folder(path));
  CHECK_FALSE(io::is_adapter_folder(folder.path()));
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(folder.path()); }),
                 "there are adapters in its folders 'adapter' (PEFT saves an adapter that is not "
                 "called 'default' into a folder of its name): name one of them, such as " +
                     path.string());
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(folder / "none"); }),
                 "there is no such folder");
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(path / "adapter_config.json"); }),
                 "expected the folder of an adapter, found a file");
  fs::rename(path / "adapter_model.safetensors", path / "adapter_model.bin");
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(path); }),
                 "adapter_model.bin: is a PyTorch file, and there is no adapter_model.safetensors");
  fs::remove(path / "adapter_model.bin");
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(path); }), "download the adapter whole");
  fs::remove(path / "adapter_config.json");
  CHECK_CONTAINS(message_of([&] { io::adapter tuned(path); }), "holds no adapter: expected");
}

TEST_CASE("random damage of a file is an error or an adapter that fits its configuration") {
  const temporary_folder folder;
  std::mt19937 random(11);
  const fs::path path = make(folder, good_and("head.weight", {2, 3}));
  const std::string weights = get(path / "adapter_model.safetensors");
  const std::string config = get(path / "adapter_config.json");
  int read = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const bool in_config = random() % 4 == 0;
    const std::string bytes =
        in_config ? weights : mutated(random, weights, "lora_AB.weight\"[],:0123456789");
    const std::string text =
        in_config ? mutated(random, config, "lora_pr\"[]{},:0123456789") : config;
    try {
      const auto values = io::parse_adapter_config(text, "x/config");
      const auto contents = io::parse_safetensors(bytes_of(bytes), "x/weights");
      const auto sorted = io::sort_adapter_tensors(values, contents.entries, "x/weights");
      for (const auto& target : sorted.targets) {
        REQUIRE(target.rank == values.rank.of(target.module));
        (void)io::difference_of<float>(target);
      }
      ++read;
    } catch (const catmerge::error& problem) {
      REQUIRE(contains(problem.what(), "x/"));
      ++refused;
    }
  }
  CHECK(read > 500);
  CHECK(refused > 500);
}

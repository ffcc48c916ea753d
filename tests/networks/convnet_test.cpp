// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// The convolutional network against PyTorch (fixtures/make_convnet.py), its patches against their
// definition, what its configuration and its checkpoints must hold, and how a merge takes it.
#include <doctest/doctest.h>

#include <catmerge/model/layer_of.hpp>
#include <catmerge/model/networks.hpp>
#include <cmath>
#include <harness/features/input_statistics.hpp>
#include <harness/networks/convnet/convnet_network.hpp>
#include <harness/networks/convnet/convnet_rules.hpp>
#include <nlohmann/json.hpp>

#include "support/networks/checks.hpp"

using namespace network_test;
using nlohmann::json;

namespace {

const std::vector<std::string> variants = {"grey", "colour"};

std::string prefix_of(const std::string& variant) {
  return variant == "colour" ? "model.convnet." : "convnet.";
}

harness::convnet_config config_of(const std::string& variant) {
  const fs::path file = fixture("convnet/" + variant) / "config.json";
  std::ifstream in(file);
  return harness::read_convnet(file, json::parse(in));
}

activations random_samples(const std::string& variant, index_t count) {
  const auto c = config_of(variant);
  const index_t pixels = c.channels * c.image_size * c.image_size;
  return {harness::equal_offsets(count, 1), 0, matrix::Random(count, pixels), {}};
}

}  // namespace

TEST_CASE("every recorded input and the output agree with PyTorch") {
  for (const std::string& variant : variants) {
    check_agrees("convnet/" + variant, "image_embeds", {"pixel_values"});
    const model m("convnet/" + variant);
    const io::safetensors_file expected(fixture("convnet/" + variant) / "expected.safetensors");
    CHECK(largest_difference(
              model::samples(*m.net, "convnet/" + variant).hidden.reshaped<Eigen::RowMajor>(),
              tensor_rows(expected, "pixel_values").reshaped<Eigen::RowMajor>()) == 0);
    CHECK(m.net->output() == harness::output_kind::embedding);
  }
}

TEST_CASE("patches are windows of the image with a border of zeros") {
  for (const index_t inputs : {1, 3}) {
    for (const index_t side : {1, 2, 3, 6, 7}) {
      for (const index_t stride : {1, 2}) {
        CAPTURE(inputs);
        CAPTURE(side);
        CAPTURE(stride);
        // The border is there, and windows start at every stride-th place where one fits.
        const index_t wide = side + 2;
        const index_t out = (wide - 3) / stride + 1;
        std::vector<matrix> bordered;
        for (index_t c = 0; c < inputs; ++c) {
          bordered.push_back(matrix::Zero(wide, wide));
          bordered.back().block(1, 1, side, side) = matrix::Random(side, side);
        }
        matrix expected(out * out, inputs * 9);
        for (index_t i = 0; i < expected.rows(); ++i) {
          for (index_t j = 0; j < expected.cols(); ++j) {
            expected(i, j) = bordered[static_cast<std::size_t>(j / 9)](i / out * stride + j % 9 / 3,
                                                                       i % out * stride + j % 3);
          }
        }
        matrix planes(inputs, side * side);  // channel after channel
        for (index_t c = 0; c < inputs; ++c) {
          const matrix inner = bordered[static_cast<std::size_t>(c)].block(1, 1, side, side);
          planes.row(c) = harness::matrix_view(inner.data(), 1, side * side);
        }
        const matrix rows = planes.transpose();  // all channels of a position
        const harness::convnet_stage s{inputs, 1, stride, side, out};
        const auto unfolded = [&](const matrix& image, const harness::pixel_strides& at) {
          matrix patches(out * out, inputs * 9);
          harness::unfold(s, image.data(), at, harness::rows_of(patches, 0, out * out));
          return patches;
        };
        CHECK(same_bits(unfolded(planes, {side * side, side, 1}), expected));
        CHECK(same_bits(unfolded(rows, {1, side * inputs, inputs}), expected));
        const json values = {{"model_type", "catmerge_convnet"},
                             {"num_channels", inputs},
                             {"image_size", side},
                             {"channels", {1}},
                             {"strides", {stride}},
                             {"projection_dim", 1}};
        CHECK(harness::read_convnet("config.json", values).stages[0].side == out);
      }
    }
  }
}

TEST_CASE("the recorder is called for each convolution and its norm, and for the projection") {
  for (const std::string& variant : variants) {
    const model m("convnet/" + variant);
    const std::string prefix = prefix_of(variant);
    std::vector<std::vector<std::vector<std::string>>> expected;
    for (std::size_t stage = 0; stage + 1 < m.net->block_count(); ++stage) {
      const std::string at = prefix + "stages." + std::to_string(stage) + ".";
      expected.push_back({{at + "conv.weight"}, {at + "norm.weight"}});
    }
    expected.push_back({{prefix + "projection.weight"}});
    CHECK(recorded_names(m, random_samples(variant, 2)) == expected);
  }
}

TEST_CASE("every parameter belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    const model m("convnet/" + variant);
    const std::set<std::string> of_blocks = check_parameters(m, random_samples(variant, 2));
    const std::vector<std::string> names = m.checkpoint.names();
    CHECK(of_blocks == std::set<std::string>(names.begin(), names.end()));
  }
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m("convnet/" + variant);
    check_same_bits(m, random_samples(variant, 40));  // several chunks in every stage
  }
}

TEST_CASE("a run that ends at an input has recorded it whole") {
  for (const std::string& variant : variants) {
    const model m("convnet/" + variant);
    check_stops(m, random_samples(variant, 3));
  }
}

TEST_CASE("samples do not see each other, and what is not a number stays so") {
  const model m("convnet/grey");
  activations samples = random_samples("grey", 30);
  const matrix all = run_all(*m.net, m.weights, samples);
  for (const index_t i : {0, 13, 29}) {
    const matrix one = run_all(*m.net, m.weights, {{0, 1}, 0, samples.hidden.row(i), {}});
    CHECK(largest_difference(one, all.row(i)) <= 1e-5);
  }
  samples.hidden(13, 40) = std::nanf("");
  const matrix found = run_all(*m.net, m.weights, samples);
  CHECK(found.row(13).array().isNaN().all());
  CHECK(same_bits(found.topRows(13), all.topRows(13)));
  CHECK(same_bits(found.bottomRows(16), all.bottomRows(16)));
}

TEST_CASE("names are understood behind any prefix") {
  const model m("convnet/grey");
  const auto samples = random_samples("grey", 2);
  const matrix reference = run_all(*m.net, m.weights, samples);
  table renamed(fixture("convnet/grey") / "model.safetensors");
  for (const std::string& name : m.checkpoint.names()) renamed.rename(name, "ema.net." + name);
  const model other(renamed.write(), fixture("convnet/grey") / "config.json");
  CHECK(same_bits(run_all(*other.net, other.weights, samples), reference));
}

TEST_CASE("checkpoints that are not this network are refused") {
  const fs::path config = fixture("convnet/grey") / "config.json";
  const table original(fixture("convnet/grey") / "model.safetensors");
  SUBCASE("any tensor missing, or of another shape") {
    std::set<std::string> names;
    for (const auto& [name, tensor] : original.tensors) names.insert(name);
    check_tensors_needed(original, names, "convnet.projection.weight", config);
  }
  SUBCASE("more stages than the configuration says") {
    table t = original;
    t.set("convnet.stages.3.conv.bias", io::dtype::f32, {1}, std::vector{1.0F});
    check_message(refusal_of(t, config), {"weights.safetensors", "'convnet.stages.3.conv.bias'",
                                          "expected 3 layers", "channels", config.string()});
  }
  SUBCASE("two networks") {
    table t = original;
    t.tensors["ema.convnet.projection.weight"] = t.tensors["convnet.projection.weight"];
    check_message(refusal_of(t, config), {"weights.safetensors", "'convnet.projection.weight'",
                                          "'ema.convnet.projection.weight'"});
  }
  SUBCASE("another network") {
    table t = original;
    t.rename("convnet.projection.weight", "other.projection.weight");
    check_message(refusal_of(t, config),
                  {"weights.safetensors", "not a catmerge_convnet", "'convnet.projection.weight'"});
  }
  SUBCASE("samples of another size") {
    const model m("convnet/grey");
    check_message(
        message_of([&] { m.net->open_samples(fixture("convnet/colour") / "samples.safetensors"); }),
        {"samples.safetensors", "'pixel_values'", "[n, 1, 9, 9]", "[3, 3, 6, 6]"});
  }
}

TEST_CASE("a configuration says what the stages are") {
  const auto c = config_of("grey");
  CHECK(c.channels == 1);
  CHECK(c.image_size == 9);
  CHECK(c.projection == 4);
  CHECK(c.epsilon == 1e-5F);
  REQUIRE(c.stages.size() == 3);
  const index_t expected[3][5] = {{1, 5, 2, 9, 5}, {5, 6, 1, 5, 5}, {6, 7, 2, 5, 3}};
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(c.stages[i].inputs == expected[i][0]);
    CHECK(c.stages[i].channels == expected[i][1]);
    CHECK(c.stages[i].stride == expected[i][2]);
    CHECK(c.stages[i].side_in == expected[i][3]);
    CHECK(c.stages[i].side == expected[i][4]);
  }
  CHECK(config_of("colour").epsilon == 1e-2F);
}

TEST_CASE("configurations that are refused name the file and the key") {
  const json good = {{"model_type", "catmerge_convnet"},
                     {"num_channels", 1},
                     {"image_size", 9},
                     {"channels", {5, 6}},
                     {"strides", {2, 1}},
                     {"projection_dim", 4},
                     {"layer_norm_eps", 1e-5}};
  CHECK(harness::read_convnet("some/config.json", good).stages.size() == 2);
  const auto check_refused = [&](const std::string& key, const json& value,
                                 const std::string& named, const std::string& part) {
    json config = good;
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
    check_message(message_of([&] { harness::read_convnet("some/config.json", config); }),
                  {"some/config.json", "'" + named + "'", part});
  };
  for (const std::string key : {"num_channels", "image_size", "projection_dim"}) {
    check_refused(key, nullptr, key, "lacks");
    for (const json& bad : {json(0), json(-3), json("24"), json(2.5), json(1048577), json({2})}) {
      check_refused(key, bad, key, "expected an integer from 1");
    }
  }
  for (const std::string key : {"channels", "strides"}) {
    check_refused(key, nullptr, key, "lacks");
    for (const json& bad : {json(2), json("2, 1"), json::array(), json::object()}) {
      check_refused(key, bad, key, "expected a list of integers, one per stage");
    }
    check_refused(key, {1, 0}, key + ".1", "expected an integer from 1");
    check_refused(key, {"1", 1}, key + ".0", "expected an integer from 1");
    check_refused(key, {1, nullptr}, key + ".1", "lacks");
    check_refused(key, {1, 1, 1}, "strides", "strides, as many as channels, found");
  }
  check_refused("strides", {1, 3}, "strides.1", "expected 1 or 2, found 3");
  check_refused("layer_norm_eps", 0.0, "layer_norm_eps", "positive number");
  check_refused("model_type", "resnet", "model_type", "expected 'catmerge_convnet'");
  check_refused("model_type", nullptr, "model_type", "expected 'catmerge_convnet'");
  check_refused("kernel_size", 5, "kernel_size", "expected one of model_type num_channels");
}

TEST_CASE("rules of names: every parameter is trimmed, convolutions as linear maps") {
  using catmerge::model::parameter_kind;
  auto rules = catmerge::model::known_networks();
  rules.append(harness::small_convnet());
  const auto kind_of = [&](const std::string& name, io::shape_t shape) {
    return rules.classify({name, io::dtype::f16, std::move(shape)});
  };
  for (const std::string& variant : variants) {
    const model m("convnet/" + variant);
    std::map<parameter_kind, int> kinds;
    for (const std::string& name : m.checkpoint.names()) {
      CAPTURE(name);
      const auto found = kind_of(name, m.checkpoint.at(name).shape);
      CHECK(found.trim);
      CHECK(found.layout == catmerge::model::matrix_layout::out_in);
      ++kinds[found.kind];
      const std::size_t rank = m.checkpoint.at(name).shape.size();
      CHECK((layer_of(found) == catmerge::layer_kind::linear) == (rank > 1));
    }
    const int stages = static_cast<int>(m.net->block_count()) - 1;
    const std::map<parameter_kind, int> expected = {{parameter_kind::linear, 1},
                                                    {parameter_kind::conv, stages},
                                                    {parameter_kind::scale, stages},
                                                    {parameter_kind::shift, 2 * stages}};
    CHECK(kinds == expected);
    CHECK(rules.groups(m.checkpoint.names()).size() == m.checkpoint.names().size());
  }
  for (const std::string name :
       {"stages.0.conv.weight", "myconvnet.stages.0.conv.weight", "projection.weight"}) {
    CHECK(harness::small_convnet().find(name) == nullptr);
  }
}

TEST_CASE("a merge gets the statistics of every convolution from samples") {
  // Two experts; the second is the base with every value half as large again.
  const fs::path folder = fixture("convnet/grey");
  table changed(folder / "model.safetensors");
  for (auto& [name, t] : changed.tensors) {
    for (std::size_t i = 0; i < t.bytes.size(); i += 4) {
      float v = 0;
      std::memcpy(&v, &t.bytes[i], 4);
      v *= 1.5F;
      std::memcpy(&t.bytes[i], &v, 4);
    }
  }
  const fs::path expert = changed.write("expert.safetensors");
  const std::string base = (folder / "model.safetensors").string();
  const std::string samples = (folder / "samples.safetensors").string();
  harness::checkpoint_set set(base, {{"a", base}, {"b", expert.string()}},
                              harness::small_convnet());
  const model m("convnet/grey"), other(expert, folder / "config.json");
  const index_t count = 3;
  const auto recorded = [&](const model& of) {
    keep_all recorder;
    run_all(*m.net, of.weights, m.net->open_samples(samples)->load(0, count), &recorder);
    return recorder.records;
  };
  const auto rows_a = recorded(m), rows_b = recorded(other);
  harness::pool threads(1);
  harness::sample_statistics statistics(*m.net, {{"a", samples}, {"b", samples}}, count, 1.0, set,
                                        threads);
  std::size_t found = 0;
  for (const auto& group : set.groups()) {
    REQUIRE(group.size() == 1);
    const catmerge::parameter_info& p = group.front();
    CAPTURE(p.name);
    const auto shape = m.checkpoint.at(p.name).shape;
    const bool scale = p.kind == catmerge::layer_kind::scale;
    if (p.kind == catmerge::layer_kind::shift) continue;
    CHECK(scale == (shape.size() == 1));
    for (const index_t k : {0, 1}) {
      const auto& expected = (k == 0 ? rows_a : rows_b)[found];
      REQUIRE(expected.names == std::vector{p.name});
      const auto statistic = statistics.get(k, p);
      REQUIRE(statistic.has_value());
      CHECK(statistic->rows == static_cast<double>(expected.rows.rows()));
      if (scale) continue;
      CHECK(statistic->data.columns == set.base(p).columns);
      CHECK(expected.rows.cols() == set.base(p).columns);
      CHECK(set.base(p).rows == shape.front());
    }
    ++found;
  }
  CHECK(found == rows_a.size());
}

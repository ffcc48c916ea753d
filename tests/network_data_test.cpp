// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Images, labels, heads and accuracy.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <network/accuracy.hpp>
#include <network/head.hpp>
#include <network/images.hpp>
#include <network/labels.hpp>
#include <random>

#include "network_fixtures.hpp"

using namespace network_test;
using harness::matrix;

namespace {

constexpr harness::image_shape shape{3, 12, 12};

table byte_images() {
  return table(fixture("projected") / "samples.safetensors");
}

/// The message with which the image file made of `t` is refused, opened or read.
std::string refusal(const table& t) {
  const fs::path file = t.write("images.safetensors");
  return message_of([&] {
    const harness::image_file images(file, shape);
    images.load(0, images.size());
  });
}

}  // namespace

TEST_CASE("bytes with mean and std are the same images as floats") {
  const harness::image_file bytes(fixture("projected") / "samples.safetensors", shape);
  const fs::path floats_path = fixture("projected") / "expected.safetensors";
  const harness::image_file floats(floats_path, shape);
  REQUIRE(bytes.size() == 3);
  CHECK(same_bits(bytes.load(0, 3).hidden, floats.load(0, 3).hidden));

  const model m("projected");
  CHECK(same_bits(run_all(*m.net, m.weights, bytes.load(0, 3)),
                  run_all(*m.net, m.weights, floats.load(0, 3))));

  // Any part of the file, in any type.
  for (const auto type : {catmerge::scalar_type::f64, catmerge::scalar_type::f16}) {
    table t(floats_path);
    auto& pixels = t.tensors["pixel_values"];
    std::vector<std::byte> converted(pixels.bytes.size() / 4 * size_of(type));
    io::convert(pixels.bytes, catmerge::scalar_type::f32, converted, type);
    pixels = {io::dtype_of(type), pixels.shape, converted};
    const harness::image_file other(t.write(), shape);
    const double error = type == catmerge::scalar_type::f64 ? 0 : 2e-3;
    for (index_t first = 0; first < 3; ++first) {
      const auto part = other.load(first, 3 - first);
      CHECK(part.samples == 3 - first);
      CHECK(part.next_block == 0);
      CHECK(largest_difference(part.hidden, bytes.load(0, 3).hidden.bottomRows(3 - first)) <=
            error);
    }
  }
}

TEST_CASE("images that do not fit are refused") {
  const table good = byte_images();
  table t = good;
  t.tensors.erase("pixel_values");
  check_message(refusal(t), {"images.safetensors", "'pixel_values'"});

  for (const io::shape_t& wrong :
       {io::shape_t{3, 432}, {3, 12, 12, 3}, {9, 1, 12, 12}, {3, 3, 6, 24}, {1, 3, 3, 12, 12}}) {
    t = good;
    t.tensors["pixel_values"].shape = wrong;
    check_message(refusal(t),
                  {"images.safetensors", "'pixel_values'", "[n, 3, 12, 12]", io::to_string(wrong)});
  }
  t = good;
  t.set("pixel_values", io::dtype::u8, {0, 3, 12, 12}, std::vector<std::uint8_t>{});
  check_message(refusal(t), {"images.safetensors", "'pixel_values'", "no images"});
  t = good;
  t.tensors["pixel_values"].type = io::dtype::i8;
  check_message(refusal(t), {"images.safetensors", "'pixel_values'", "I8"});

  for (const std::string key : {"mean", "std"}) {
    t = good;
    t.metadata.erase(key);
    check_message(refusal(t), {"images.safetensors", "'" + key + "'", "missing"});
    for (const std::string wrong : {"0.5", "0.5,0.5", "0.5,0.5,0.5,0.5"}) {
      t.metadata[key] = wrong;
      check_message(refusal(t), {"images.safetensors", "'" + key + "'", "3 numbers", wrong});
    }
    for (const std::string wrong : {"", "0.5,,0.5", "0.5,0.5,", "a,b,c", "0.5,0.5,0.5x", "1,nan,1",
                                    "1,inf,1", "1,1e999,1", "1, ,1"}) {
      t.metadata[key] = wrong;
      check_message(refusal(t), {"images.safetensors", "'" + key + "'", "numbers"});
    }
  }
  for (const std::string wrong : {"0.5,0,0.5", "0.5,0.5,-1", "1e-300,1,1"}) {
    t = good;
    t.metadata["std"] = wrong;
    check_message(refusal(t), {"images.safetensors", "'std'"});
  }

  t = good;
  std::vector<float> pixels(1296, 0.5F);
  pixels[700] = std::numeric_limits<float>::infinity();
  t.set("pixel_values", io::dtype::f32, {3, 3, 12, 12}, pixels);
  check_message(refusal(t), {"images.safetensors", "'pixel_values'", "element 700", "finite"});
}

TEST_CASE("labels: int64 or int32, one per sample, within the classes") {
  const auto read = [](const table& t, index_t samples, index_t classes) {
    return harness::read_labels(io::safetensors_file(t.write("labels.safetensors")), samples,
                                classes);
  };
  table t = byte_images();
  const std::vector<std::int64_t> expected = {2, 0, 1};
  CHECK(read(t, 3, 3) == expected);
  t.set("labels", io::dtype::i32, {3}, std::vector<std::int32_t>{2, 0, 1});
  CHECK(read(t, 3, 3) == expected);

  check_message(message_of([&] { read(t, 3, 2); }),
                {"labels.safetensors", "'labels'", "sample 0", "label 2", "2 classes"});
  check_message(message_of([&] { read(t, 4, 3); }),
                {"labels.safetensors", "'labels'", "[4]", "[3]"});
  t.set("labels", io::dtype::i64, {3}, std::vector<std::int64_t>{0, 1, -1});
  check_message(message_of([&] { read(t, 3, 3); }), {"'labels'", "sample 2", "label -1"});
  t.set("labels", io::dtype::f32, {3}, std::vector<float>{0, 1, 1});
  check_message(message_of([&] { read(t, 3, 3); }), {"'labels'", "F32"});
  t.set("labels", io::dtype::i64, {3, 1}, expected);
  check_message(message_of([&] { read(t, 3, 3); }), {"'labels'", "[3, 1]"});
  t.tensors.erase("labels");
  check_message(message_of([&] { read(t, 3, 3); }), {"labels.safetensors", "'labels'"});
}

TEST_CASE("heads that do not fit are refused") {
  const auto refused = [](const table& t) {
    const fs::path file = t.write("head.safetensors");
    return message_of([&] { harness::classification_head(file, 4); });
  };
  const std::vector<float> values(12, 0.5F);
  table t;
  t.set("weights", io::dtype::f32, {3, 4}, values);
  check_message(refused(t), {"head.safetensors", "'weight'"});
  for (const io::shape_t& wrong : {io::shape_t{4, 3}, {12}, {1, 3, 4}}) {
    t.set("weight", io::dtype::f32, wrong, values);
    check_message(refused(t),
                  {"head.safetensors", "'weight'", "[classes, 4]", io::to_string(wrong)});
  }
  t.set("weight", io::dtype::f32, {0, 4}, std::vector<float>{});
  check_message(refused(t), {"head.safetensors", "'weight'"});
  t.set("weight", io::dtype::f32, {3, 4}, values);
  t.set("bias", io::dtype::f32, {4}, std::vector<float>(4));
  check_message(refused(t), {"head.safetensors", "'bias'", "[3]", "[4]"});
  t.set("bias", io::dtype::i32, {3}, std::vector<float>(3));
  check_message(refused(t), {"head.safetensors", "'bias'", "I32"});
  t.set("bias", io::dtype::f32, {3}, std::vector<float>{0, std::nanf(""), 0});
  check_message(refused(t), {"head.safetensors", "'bias'", "element 1"});
}

TEST_CASE("accuracy is what a plain loop counts") {
  const model m("projected");
  constexpr index_t samples = 150;  // more than a batch
  constexpr index_t classes = 5;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> pixels(static_cast<std::size_t>(samples * m.net->config().pixels()));
  for (float& p : pixels) p = normal(random);
  table data;
  data.set("pixel_values", io::dtype::f32, {samples, 3, 12, 12}, pixels);
  std::vector<std::int64_t> labels(samples);
  for (auto& label : labels) label = static_cast<std::int64_t>(random() % classes);
  data.set("labels", io::dtype::i64, {samples}, labels);
  const fs::path data_file = data.write();

  table head_table;
  std::vector<float> weight(static_cast<std::size_t>(classes * 10));
  for (float& w : weight) w = normal(random);
  head_table.set("weight", io::dtype::f32, {classes, 10}, weight);
  const std::vector<float> bias = {0.3F, -0.2F, 0.0F, 0.1F, -0.4F};

  for (const bool with_bias : {false, true}) {
    if (with_bias) head_table.set("bias", io::dtype::f32, {classes}, bias);
    const harness::classification_head head(head_table.write(), m.net->output_width());
    CHECK(head.classes() == classes);
    const auto reader = m.net->open_samples(data_file);
    const auto read = harness::read_labels(io::safetensors_file(data_file), samples, classes);

    const matrix embeddings = run_all(*m.net, m.weights, reader->load(0, samples));
    index_t correct = 0;
    for (index_t i = 0; i < samples; ++i) {
      double norm = 0;
      for (index_t j = 0; j < 10; ++j) norm += std::pow(double{embeddings(i, j)}, 2);
      index_t best = -1;
      double best_logit = -1e300;
      for (index_t c = 0; c < classes; ++c) {
        const auto row = static_cast<std::size_t>(c);
        double logit = with_bias ? double{bias[row]} : 0.0;
        for (index_t j = 0; j < 10; ++j) {
          logit += double{embeddings(i, j)} / std::sqrt(norm) *
                   double{weight[row * 10 + static_cast<std::size_t>(j)]};
        }
        if (logit > best_logit) best = c, best_logit = logit;
      }
      correct += best == labels[static_cast<std::size_t>(i)] ? 1 : 0;
    }

    for (const index_t batch : {1, 7, 64, 1000}) {
      index_t calls = 0;
      const auto found = harness::measure_accuracy(*m.net, m.weights, *reader, read, head, batch,
                                                   on_threads(2), [&](const auto& so_far) {
                                                     ++calls;
                                                     CHECK(so_far.total <= samples);
                                                   });
      CHECK(found.correct == correct);
      CHECK(found.total == samples);
      CHECK(found.percent() == doctest::Approx(100.0 * double(correct) / double(samples)));
      CHECK(calls == (samples + batch - 1) / batch);
    }
  }
}

TEST_CASE("logits: ties go to the first, a zero embedding stays zero") {
  table t;
  t.set("weight", io::dtype::f32, {3, 2}, std::vector<float>{1, 0, 1, 0, 0, 1});
  t.set("bias", io::dtype::f32, {3}, std::vector<float>{0, 0, 0.5F});
  const harness::classification_head head(t.write(), 2);
  matrix x(3, 2);
  x << 10, 0, 0, 0, 0, 0.001F;
  const matrix logits = head.logits(harness::view(x));
  CHECK(logits(0, 0) == 1.0F);
  CHECK(logits(1, 2) == 0.5F);
  CHECK(logits(2, 2) == doctest::Approx(1.5F));
  CHECK(harness::top1(harness::view(logits)) == std::vector<index_t>{0, 2, 2});
}

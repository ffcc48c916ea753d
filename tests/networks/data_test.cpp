// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Images, texts, labels, heads, and what they make of a network.
#include <doctest/doctest.h>

#include <cmath>
#include <harness/networks/data/head.hpp>
#include <harness/networks/data/images.hpp>
#include <harness/networks/data/labels.hpp>
#include <harness/networks/data/metrics.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/data/texts.hpp>
#include <limits>
#include <memory>
#include <random>
#include <utility>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using harness::matrix;

namespace {

constexpr harness::image_shape shape{3, 12, 12};

table byte_images() {
  return table(fixture("clip_vision/projected") / "samples.safetensors");
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
  const harness::image_file bytes(fixture("clip_vision/projected") / "samples.safetensors", shape);
  const fs::path floats_path = fixture("clip_vision/projected") / "expected.safetensors";
  const harness::image_file floats(floats_path, shape);
  REQUIRE(bytes.size() == 3);
  CHECK(same_bits(bytes.load(0, 3).hidden, floats.load(0, 3).hidden));

  const model m("clip_vision/projected");
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
      CHECK(part.samples() == 3 - first);
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

namespace {

constexpr harness::text_shape texts_of_bert{10, 5, 2, {}};

/// Two texts of three tokens, the second one shorter.
table two_texts() {
  table t;
  t.set("input_ids", io::dtype::i64, {2, 3}, std::vector<std::int64_t>{7, 8, 9, 6, 1, 1});
  t.set("attention_mask", io::dtype::u8, {2, 3}, std::vector<std::uint8_t>{1, 1, 1, 1, 0, 0});
  t.set("token_type_ids", io::dtype::i32, {2, 3}, std::vector<std::int32_t>{0, 0, 1, 1, 0, 0});
  return t;
}

std::string text_refusal(const table& t, const harness::text_shape& extents = texts_of_bert) {
  const fs::path file = t.write("texts.safetensors");
  return message_of([&] { harness::text_file(file, extents); });
}

/// "word/position/type" of each token, samples apart by a bar.
std::string tokens_of(const table& t, const harness::text_shape& extents = texts_of_bert) {
  const harness::text_file file(t.write("texts.safetensors"), extents);
  const auto state = file.load(0, file.size());
  std::string all;
  for (index_t i = 0; i < state.samples(); ++i) {
    all += "|";
    for (index_t r = state.offsets[std::size_t(i)]; r < state.offsets[std::size_t(i) + 1]; ++r) {
      const harness::token& token = state.text[std::size_t(r)];
      all += " " + std::to_string(token.word) + "/" + std::to_string(token.position) + "/" +
             std::to_string(token.type);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("texts: masked tokens are dropped, positions are those before") {
  table t = two_texts();
  CHECK(tokens_of(t) == "| 7/0/0 8/1/0 9/2/1| 6/0/1");
  t.set("attention_mask", io::dtype::i64, {2, 3}, std::vector<std::int64_t>{1, 0, 1, 1, 0, 1});
  CHECK(tokens_of(t) == "| 7/0/0 9/2/1| 6/0/1 1/2/0");
  t.set("attention_mask", io::dtype::boolean, {2, 3}, std::vector<std::uint8_t>{1, 0, 1, 1, 0, 1});
  CHECK(tokens_of(t) == "| 7/0/0 9/2/1| 6/0/1 1/2/0");
  t.tensors.erase("token_type_ids");
  CHECK(tokens_of(t) == "| 7/0/0 9/2/0| 6/0/0 1/2/0");
  t.tensors.erase("attention_mask");
  CHECK(tokens_of(t) == "| 7/0/0 8/1/0 9/2/0| 6/0/0 1/1/0 1/2/0");
  // RoBERTa: from pad + 1 on, padding not counted, wherever it stands.
  harness::text_shape roberta{10, 5, 1, 1};
  CHECK(tokens_of(t, roberta) == "| 7/2/0 8/3/0 9/4/0| 6/2/0 1/1/0 1/1/0");
  t.set("input_ids", io::dtype::i64, {1, 3}, std::vector<std::int64_t>{7, 1, 8});
  CHECK(tokens_of(t, roberta) == "| 7/2/0 1/1/0 8/3/0");

  // Any integers, at any place of the file; parts of it.
  t = two_texts();
  const std::string all = tokens_of(t);
  t.set("input_ids", io::dtype::u8, {2, 3}, std::vector<std::uint8_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  t.set("input_ids", io::dtype::i8, {2, 3}, std::vector<std::int8_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  t.set("input_ids", io::dtype::u16, {2, 3}, std::vector<std::uint16_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  t.set("input_ids", io::dtype::i16, {2, 3}, std::vector<std::int16_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  t.set("input_ids", io::dtype::u32, {2, 3}, std::vector<std::uint32_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  t.set("input_ids", io::dtype::i32, {2, 3}, std::vector<std::int32_t>{7, 8, 9, 6, 1, 1});
  CHECK(tokens_of(t) == all);
  const harness::text_file file(t.write(), texts_of_bert);
  const auto second = file.load(1, 1);
  CHECK(second.offsets == std::vector<index_t>{0, 1});
  CHECK(second.text[0].word == 6);
}

TEST_CASE("texts that do not fit are refused by file, tensor and sample") {
  const auto set = [](table t, const std::string& name, index_t at, std::int64_t value) {
    std::vector<std::int64_t> values = {1, 1, 1, 1, 0, 0};
    if (name == "input_ids") values = {7, 8, 9, 6, 1, 1};
    if (name == "token_type_ids") values.assign(6, 0);
    values[std::size_t(at)] = value;
    t.set(name, io::dtype::i64, {2, 3}, values);
    return t;
  };
  const table good = two_texts();
  for (const std::int64_t id : {std::int64_t{10}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    check_message(text_refusal(set(good, "input_ids", 2, id)),
                  {"texts.safetensors", "'input_ids'", "sample 0", "token 2",
                   "id " + std::to_string(id), "0 to 9"});
  }
  tokens_of(set(good, "input_ids", 5, 99));  // masked: nobody reads it
  check_message(text_refusal(set(good, "token_type_ids", 3, 2)),
                {"texts.safetensors", "'token_type_ids'", "sample 1", "type 2", "0 to 1"});
  for (const std::int64_t mask : {2, -1}) {
    check_message(text_refusal(set(good, "attention_mask", 4, mask)),
                  {"texts.safetensors", "'attention_mask'", "sample 1", "token 1",
                   "mask " + std::to_string(mask), "0 to 1"});
  }
  for (const index_t first : {0, 3}) {
    check_message(text_refusal(set(good, "attention_mask", first, 0)),
                  {"texts.safetensors", "'attention_mask'", "sample " + std::to_string(first / 3),
                   "first token", "masked"});
  }
  check_message(text_refusal(good, {10, 2, 2, {}}),
                {"'input_ids'", "sample 0", "token 2", "position 2", "0 to 1"});
  check_message(text_refusal(good, {10, 4, 2, 1}), {"'input_ids'", "sample 0", "position 4"});

  table t = good;
  t.tensors.erase("input_ids");
  check_message(text_refusal(t), {"texts.safetensors", "'input_ids'"});
  for (const std::string name : {"input_ids", "attention_mask", "token_type_ids"}) {
    t = good;
    t.tensors[name] = {io::dtype::f32, {2, 3}, std::vector<std::byte>(24)};
    check_message(text_refusal(t), {"texts.safetensors", "'" + name + "'", "integers", "F32"});
    t.tensors[name] = {io::dtype::u64, {2, 3}, std::vector<std::byte>(48)};
    check_message(text_refusal(t), {"texts.safetensors", "'" + name + "'", "integers", "U64"});
    t.tensors[name] = {io::dtype::u8, {6}, std::vector<std::byte>(6)};
    check_message(text_refusal(t), {"texts.safetensors", "'" + name + "'", "[6]"});
  }
  t = good;
  t.tensors["attention_mask"] = {io::dtype::u8, {3, 2}, std::vector<std::byte>(6)};
  check_message(text_refusal(t), {"'attention_mask'", "[2, 3]", "[3, 2]"});
  t.tensors["input_ids"] = {io::dtype::u8, {0, 3}, {}};
  check_message(text_refusal(t), {"'input_ids'", "no texts"});
  t.tensors["input_ids"] = {io::dtype::u8, {2, 0}, {}};
  check_message(text_refusal(t), {"'input_ids'", "[n, tokens]", "[2, 0]"});
}

TEST_CASE("next tokens: labels in their places, padding left out") {
  const auto open = [](const table& t) {
    harness::text_shape decoder;
    decoder.words = 50;
    decoder.types = 1;
    decoder.causal = true;
    return std::make_unique<harness::text_file>(t.write("texts.safetensors"), decoder);
  };
  const auto asked = [](const harness::text_file& file, index_t sample) {
    std::vector<std::pair<index_t, std::int64_t>> list;
    for (const auto& each : file.asked(sample)) list.emplace_back(each.row, each.token);
    return list;
  };
  using pairs = std::vector<std::pair<index_t, std::int64_t>>;
  table t;
  t.set<std::int64_t>("input_ids", io::dtype::i64, {2, 5}, {7, 8, 9, 10, 11, 1, 12, 13, 14, 1});
  t.set<std::uint8_t>("attention_mask", io::dtype::u8, {2, 5}, {1, 1, 1, 1, 1, 0, 1, 1, 1, 0});
  {  // Every token but the first.
    const auto file = open(t);
    CHECK(asked(*file, 0) == pairs{{0, 8}, {1, 9}, {2, 10}, {3, 11}});
    CHECK(asked(*file, 1) == pairs{{0, 13}, {1, 14}});
    const auto state = file->load(0, 2);
    CHECK(state.offsets == std::vector<index_t>{0, 5, 8});
    CHECK(state.asked == std::vector<index_t>{0, 1, 2, 3, 5, 6});
    CHECK(harness::output_offsets(state) == std::vector<index_t>{0, 4, 6});
    CHECK(state.text[5].word == 12);
    CHECK(state.text[5].position == 0);
    CHECK(file->load(1, 1).asked == std::vector<index_t>{0, 1});
  }
  // The label stands where its token stands; a first token's is left out; it may be another token
  // than the one that follows.
  t.set<std::int16_t>("labels", io::dtype::i16, {2, 5},
                      {7, -100, 40, -100, 0, -100, 12, -100, 49, -100});
  {
    const auto file = open(t);
    CHECK(asked(*file, 0) == pairs{{1, 40}, {3, 0}});
    CHECK(asked(*file, 1) == pairs{{1, 49}});
    CHECK(file->load(0, 2).asked == std::vector<index_t>{1, 3, 6});
  }
  const auto refused = [&](std::vector<std::int16_t> labels,
                           const std::vector<std::string>& parts) {
    table bad = t;
    bad.set("labels", io::dtype::i16, {2, 5}, labels);
    const std::string message = message_of([&] { open(bad); });
    check_message(message, {"texts.safetensors", "'labels'", "sample 1"});
    check_message(message, parts);
  };
  const std::int16_t no = -100;
  refused({no, 1, no, no, no, no, no, no, 50, no}, {"token 3", "label 50", "0 to 49"});
  refused({no, 1, no, no, no, no, no, no, -1, no}, {"token 3", "label -1", "0 to 49"});
  refused({no, 1, no, no, no, no, no, no, 1, 1}, {"token 4", "masked"});
  refused({no, 1, no, no, no, no, no, no, no, no}, {"all labels are -100"});
  refused({no, 1, no, no, no, no, 1, no, no, no}, {"all labels are -100"});
  table bad = t;
  bad.set<std::int16_t>("labels", io::dtype::i16, {2}, {0, 1});
  check_message(message_of([&] { open(bad); }), {"'labels'", "[2, 5]", "I16"});
  bad = t;
  bad.tensors.erase("labels");
  bad.set<std::uint8_t>("attention_mask", io::dtype::u8, {2, 5}, {1, 1, 1, 1, 1, 0, 1, 0, 0, 0});
  check_message(message_of([&] { open(bad); }),
                {"'input_ids'", "sample 1", "two tokens", "found 1"});
}

TEST_CASE("labels: integers within the classes, or values") {
  const auto read = [](const table& t, index_t samples) {
    return harness::task_labels(t.write("labels.safetensors"), samples);
  };
  const auto classes = [&](const table& t, index_t count) { return read(t, 3).classes(count); };
  table t = byte_images();
  const std::vector<std::int64_t> expected = {2, 0, 1};
  CHECK(classes(t, 3) == expected);
  t.set("labels", io::dtype::i32, {3}, std::vector<std::int32_t>{2, 0, 1});
  CHECK(classes(t, 3) == expected);
  t.set("labels", io::dtype::u8, {3}, std::vector<std::uint8_t>{2, 0, 1});
  CHECK(classes(t, 3) == expected);
  CHECK(read(t, 3).are_classes());
  CHECK(read(t, 3).values() == std::vector<double>{2, 0, 1});

  check_message(message_of([&] { classes(t, 2); }),
                {"labels.safetensors", "'labels'", "sample 0", "label 2", "2 classes"});
  check_message(message_of([&] { read(t, 4); }), {"labels.safetensors", "'labels'", "[4]", "[3]"});
  t.set("labels", io::dtype::i64, {3}, std::vector<std::int64_t>{0, 1, -1});
  check_message(message_of([&] { classes(t, 3); }), {"'labels'", "sample 2", "label -1"});
  t.set("labels", io::dtype::f32, {3}, std::vector<float>{0, 1.5F, 1});
  CHECK_FALSE(read(t, 3).are_classes());
  CHECK(read(t, 3).values() == std::vector<double>{0, 1.5, 1});
  check_message(message_of([&] { classes(t, 3); }),
                {"labels.safetensors", "'labels'", "integers", "F32"});
  t.set("labels", io::dtype::f32, {3}, std::vector<float>{0, std::nanf(""), 1});
  check_message(message_of([&] { read(t, 3); }), {"'labels'", "element 1", "not finite"});
  t.set("labels", io::dtype::i64, {3, 1}, expected);
  check_message(message_of([&] { read(t, 3); }), {"'labels'", "[3, 1]"});
  t.set("labels", io::dtype::boolean, {3}, std::vector<std::uint8_t>{1, 0, 1});
  check_message(message_of([&] { read(t, 3); }), {"'labels'", "BOOL"});
  t.tensors.erase("labels");
  check_message(message_of([&] { read(t, 3); }), {"labels.safetensors", "'labels'"});
}

using harness::output_kind;

TEST_CASE("heads that do not fit are refused") {
  const auto refused = [](const table& t, output_kind kind = output_kind::embedding) {
    const fs::path file = t.write("head.safetensors");
    return message_of([&] { harness::task_head(file, kind, 4); });
  };
  const std::vector<float> values(12, 0.5F);
  table t;
  t.set("weights", io::dtype::f32, {3, 4}, values);
  check_message(refused(t), {"head.safetensors", "'weight'", "'classifier.weight'",
                             "'classifier.out_proj.weight'"});
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

  // Each form has the outputs that it is for.
  table bert, roberta;
  bert.set("classifier.weight", io::dtype::f32, {3, 4}, values);
  roberta.set("classifier.out_proj.weight", io::dtype::f32, {3, 4}, values);
  check_message(refused(roberta, output_kind::first_token),
                {"head.safetensors", "'classifier.dense.weight'", "[4, 4]"});
  roberta.set("classifier.dense.weight", io::dtype::f32, {4, 4}, std::vector<float>(16));
  harness::task_head(bert.write(), output_kind::pooled, 4);
  harness::task_head(roberta.write(), output_kind::first_token, 4);
  for (const auto kind : {output_kind::embedding, output_kind::first_token}) {
    check_message(refused(bert, kind), {"head.safetensors", "'classifier.weight'", "pooled"});
  }
  for (const auto kind : {output_kind::embedding, output_kind::pooled}) {
    check_message(refused(roberta, kind),
                  {"head.safetensors", "'classifier.out_proj.weight'", "first token"});
  }
  bert.set("weight", io::dtype::f32, {3, 4}, values);
  check_message(refused(bert, output_kind::pooled),
                {"head.safetensors", "'classifier.weight'", "'weight'", "another head"});
}

TEST_CASE("heads of texts do not normalise; RoBERTa's has a hidden layer") {
  const auto outputs = [](const table& t, output_kind kind, const matrix& x) {
    return harness::task_head(t.write(), kind, 2)(harness::view(x));
  };
  matrix x(1, 2);
  x << 3, 4;
  table t;
  t.set("weight", io::dtype::f32, {1, 2}, std::vector<float>{1, 2});
  CHECK(outputs(t, output_kind::embedding, x)(0, 0) == doctest::Approx(2.2));
  CHECK(outputs(t, output_kind::pooled, x)(0, 0) == 11);
  CHECK(outputs(t, output_kind::first_token, x)(0, 0) == 11);
  t.rename("weight", "classifier.weight");
  t.set("classifier.bias", io::dtype::f32, {1}, std::vector<float>{0.5});
  CHECK(outputs(t, output_kind::pooled, x)(0, 0) == 11.5);
  t.rename("classifier.weight", "classifier.out_proj.weight");
  t.rename("classifier.bias", "classifier.out_proj.bias");
  t.set("classifier.dense.weight", io::dtype::f32, {2, 2}, std::vector<float>{1, -1, 0, 0.25F});
  t.set("classifier.dense.bias", io::dtype::f32, {2}, std::vector<float>{0.5F, -1});
  CHECK(outputs(t, output_kind::first_token, x)(0, 0) ==
        doctest::Approx(std::tanh(-0.5) + 2 * std::tanh(0.0) + 0.5));
}

TEST_CASE("accuracy is what a plain loop counts") {
  const model m("clip_vision/projected");
  constexpr index_t samples = 150;  // more than a batch
  constexpr index_t classes = 5;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> pixels(static_cast<std::size_t>(samples * 432));
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
    const harness::task_head head(head_table.write(), m.net->output(), m.net->output_width());
    CHECK(head.outputs() == classes);
    const auto reader = m.net->open_samples(data_file);
    const harness::task_labels read(data_file, samples);

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
      const matrix outputs = harness::predict(*m.net, m.weights, *reader, head, batch,
                                              on_threads(2), [&](index_t done) {
                                                ++calls;
                                                CHECK(done == std::min(samples, calls * batch));
                                              });
      REQUIRE(outputs.rows() == samples);
      const auto predicted = harness::top1(harness::view(outputs));
      CHECK(harness::count_correct(predicted, read.classes(classes)) == correct);
      CHECK(calls == (samples + batch - 1) / batch);
    }
  }
}

TEST_CASE("logits: ties go to the first, a zero embedding stays zero") {
  table t;
  t.set("weight", io::dtype::f32, {3, 2}, std::vector<float>{1, 0, 1, 0, 0, 1});
  t.set("bias", io::dtype::f32, {3}, std::vector<float>{0, 0, 0.5F});
  const harness::task_head head(t.write(), output_kind::embedding, 2);
  matrix x(3, 2);
  x << 10, 0, 0, 0, 0, 0.001F;
  const matrix logits = head(harness::view(x));
  CHECK(logits(0, 0) == 1.0F);
  CHECK(logits(1, 2) == 0.5F);
  CHECK(logits(2, 2) == doctest::Approx(1.5F));
  CHECK(harness::top1(harness::view(logits)) == std::vector<std::int64_t>{0, 2, 2});
}

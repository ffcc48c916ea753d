// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <set>

#include "support/networks/fixtures.hpp"

/// Checks that every network must pass, whatever its family.
namespace network_test {

using harness::activations;
using harness::matrix;

/// Agreement with the networks' own libraries. Values here are of size 1 to 15, float32 rounds at
/// 6e-8 of that, and the deepest fixture has some 20 layers: about 1e-6 is expected (and printed
/// with --success).
constexpr double tolerance = 1e-4;

inline std::size_t last_encoder_block(const harness::network& net) {
  return net.block_count() - 2;
}

/// Every recorded input, the last hidden state and the output are those that the fixture holds, and
/// nothing that it holds is missing, but for `others`. Inputs of no rows (an expert of a mixture
/// that gets no token) are not in the fixture.
inline void check_agrees(const std::string& variant, const std::string& output,
                         std::set<std::string> others = {}) {
  CAPTURE(variant);
  const model m(variant);
  const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
  activations state = model::samples(*m.net, variant);
  const auto offsets = harness::output_offsets(state);

  double largest = 0;
  std::set<std::string>& seen = others;
  const auto compare = [&](const std::string& name, const matrix& found) {
    CAPTURE(name);
    const double difference = largest_difference(found, tensor_rows(expected, name));
    CHECK(difference <= tolerance);
    largest = std::max(largest, difference);
    CHECK(seen.insert(name).second);
  };
  keep_all recorder;
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    m.net->run(block, m.weights, state, &recorder);
    if (block == last_encoder_block(*m.net) && expected.find("last_hidden_state") != nullptr)
      compare("last_hidden_state", state.hidden);
  }
  for (const auto& r : recorder.records) {
    if (r.rows.rows() > 0) compare(r.names.front(), r.rows);
  }
  compare(output, state.hidden);
  CHECK(state.hidden.cols() == m.net->output_width());
  CHECK(state.offsets == offsets);
  for (const io::tensor_entry& e : expected.entries()) {
    CAPTURE(e.name);
    CHECK(seen.count(e.name) == 1);
  }
  MESSAGE(variant << ": largest absolute error " << largest);
}

/// The same bits on any number of threads, recording or not, and at the second time. `samples`:
/// better of several chunks.
inline void check_same_bits(const model& m, const activations& samples) {
  keep_all alone;
  const matrix reference = run_all(*m.net, m.weights, samples, &alone);
  CHECK(same_bits(run_all(*m.net, m.weights, samples), reference));
  for (const int threads : {1, 2, 3}) {
    keep_all together;
    CHECK(
        same_bits(run_all(*m.net, m.weights, samples, &together, on_threads(threads)), reference));
    REQUIRE(together.records.size() == alone.records.size());
    for (std::size_t i = 0; i < alone.records.size(); ++i) {
      CHECK(together.records[i].names == alone.records[i].names);
      CHECK(same_bits(together.records[i].rows, alone.records[i].rows));
    }
  }
}

/// One text of several; its rows that are asked for, if any.
inline activations one_of(const activations& samples, std::size_t i) {
  const index_t first = samples.offsets[i], end = samples.offsets[i + 1];
  activations one;
  one.text.assign(samples.text.begin() + first, samples.text.begin() + end);
  for (const index_t row : samples.asked) {
    if (row >= first && row < end) one.asked.push_back(row - first);
  }
  one.offsets.push_back(end - first);
  return one;
}

/// Each block asks for its own parameters, each once, in the shape that the file has, and for no
/// others but `tied`, which the last block may ask for, too; no two blocks share one. Returns all
/// their names.
inline std::set<std::string> check_parameters(const model& m, activations samples,
                                              const std::string& tied = {}) {
  struct spy : harness::weight_source {
    explicit spy(const weight_source& to) : from(to) {}
    const weight_source& from;
    mutable std::multiset<std::string> asked;
    void check(const harness::parameter& p) const override { from.check(p); }
    harness::weight get(const harness::parameter& p) const override {
      asked.insert(p.name);
      return from.get(p);
    }
    harness::weight rows(const harness::parameter& p,
                         const std::vector<index_t>& which) const override {
      asked.insert(p.name);
      return from.rows(p, which);
    }
  };
  check_weights(*m.net, m.weights);
  std::set<std::string> of_blocks;
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    const spy weights(m.weights);
    m.net->run(block, weights, samples);
    std::multiset<std::string> own;
    for (const auto& p : m.net->parameters(block)) {
      own.insert(p.name);
      CHECK(of_blocks.insert(p.name).second);
      CHECK(m.checkpoint.at(p.name).shape == p.shape);
    }
    if (block + 1 == m.net->block_count() && !tied.empty()) own.insert(tied);
    CHECK(weights.asked == own);
  }
  return of_blocks;
}

/// The names that each block records, in order.
inline std::vector<std::vector<std::vector<std::string>>> recorded_names(const model& m,
                                                                         activations samples) {
  std::vector<std::vector<std::vector<std::string>>> result;
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    keep_all recorder;
    m.net->run(block, m.weights, samples, &recorder);
    result.emplace_back();
    for (const auto& r : recorder.records) result.back().push_back(r.names);
  }
  return result;
}

/// The message with which `t` is refused as the checkpoint of a configuration.
inline std::string refusal_of(const table& t, const fs::path& config) {
  const fs::path file = t.write("weights.safetensors");
  return message_of([&] {
    const model m(file, config);
    check_weights(*m.net, m.weights);
  });
}

/// A checkpoint without one of `names`, or with one of another shape, is refused by its name (by
/// `anchor` if that is the one by which all others are found).
inline void check_tensors_needed(const table& original, const std::set<std::string>& names,
                                 const std::string& anchor, const fs::path& config) {
  for (const std::string& name : names) {
    CAPTURE(name);
    table t = original;
    t.tensors.erase(name);
    check_message(refusal_of(t, config),
                  {"weights.safetensors", name.ends_with(anchor) ? anchor : name});
    t = original;
    auto& shape = t.tensors[name].shape;
    const std::string right = io::to_string(shape);
    shape.push_back(1);
    check_message(refusal_of(t, config), {"weights.safetensors", "'" + name + "'",
                                          "expected shape " + right, io::to_string(shape)});
  }
}

/// Checks that a recorder of one input, at which a run may end, gets what a whole run records.
inline void check_stops(const model& m, harness::activations state) {
  struct one_input final : keep_all {
    std::vector<std::string> wanted;
    bool found = false;
    bool wants(const std::vector<std::string>& names) override { return found = names == wanted; }
    bool stops() const override { return found; }
  };
  for (std::size_t block = 0; block < m.net->block_count(); ++block) {
    const harness::activations before = state;
    keep_all all;
    m.net->run(block, m.weights, state, &all);
    for (const auto& expected : all.records) {
      one_input one;
      one.wanted = expected.names;
      harness::activations copy = before;
      m.net->run(block, m.weights, copy, &one, on_threads(2));
      REQUIRE(one.records.size() == 1);
      CHECK(same_bits(one.records[0].rows, expected.rows));
    }
  }
}

}  // namespace network_test

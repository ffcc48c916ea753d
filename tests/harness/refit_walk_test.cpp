// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Refits of a whole network, in this process. Refits that go on side by side and leave out samples:
// each is the refit, alone, to the samples that it fits. And in the last layer of a transformer the
// rows that reach the output are enough.

#include <harness/calibration/output_judge.hpp>
#include <harness/calibration/refit_walk.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using namespace harness;

namespace {

/// The fixture's network with every value moved by up to `most`.
fs::path moved(const std::string& variant, unsigned seed, float most) {
  table t(fixture(variant) / "model.safetensors");
  std::mt19937 random(seed);
  for (auto& [name, tensor] : t.tensors) {
    REQUIRE(tensor.type == io::dtype::f32);
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    for (float& v : values) v += most * (static_cast<float>(random() % 2001) / 1000 - 1);
    t.set(name, tensor.type, tensor.shape, values);
  }
  return t.write("expert.safetensors");
}

/// Two tasks of a fixture's network, with a prior at random.
struct problem {
  explicit problem(const std::string& variant)
      : base(variant),
        set(base.checkpoint.path().string(),
            {{"one", moved(variant, 1, 0.05F).string()},
             {"two", moved(variant, 2, 0.05F).string()}},
            catmerge::model::name_rules()),
        prior(set) {
    std::mt19937 random(3);
    for (std::size_t block = 0; block < base.net->block_count(); ++block)
      for (const auto& p : base.net->parameters(block)) {
        std::vector<float> values(static_cast<std::size_t>(base.weights.get(p).size()));
        for (float& v : values) v = 0.02F * (static_cast<float>(random() % 2001) / 1000 - 1);
        prior.write(p.name, values);
      }
    const auto reader = base.net->open_samples(fixture(variant) / "samples.safetensors");
    const index_t last = reader->size() - 1;
    for (index_t i = 0; i <= last; ++i) samples[0].push_back(reader->load(i, 1));
    for (const index_t i : {last, index_t{0}}) samples[1].push_back(reader->load(i, 1));
  }

  /// The samples per task that a plan fits, or all.
  std::vector<activations> of(const refit_plan& plan) const {
    std::vector<activations> chosen;
    for (const auto& task : samples) {
      std::vector<activations> kept;
      for (index_t i = 0; i < std::ssize(task); ++i)
        if (plan.fits(i)) kept.push_back(task[static_cast<std::size_t>(i)]);
      chosen.push_back(joined(kept));
    }
    return chosen;
  }

  model base;
  checkpoint_set set;
  merged_vectors prior;
  std::vector<std::vector<activations>> samples = std::vector<std::vector<activations>>(2);
};

}  // namespace

TEST_CASE("refits side by side are the refits alone, to the samples that each of them fits") {
  for (const std::string variant :
       {"clip_vision/projected", "clip_vision/grey", "convnet/grey", "bert/bert", "bert/roberta"}) {
    CAPTURE(variant);
    const problem p(variant);
    std::vector<refit_plan> plans;
    for (const double gain : {1.0, 2.0})
      for (index_t fold = 0; fold < 2; ++fold) plans.push_back({gain, {}, 2, fold});
    plans.push_back({1.5, {}});  // fits all
    const auto found = outputs_of_refits(*p.base.net, p.of({}), plans, p.prior, on_threads(2));
    REQUIRE(found.size() == plans.size());
    std::vector<matrix> alone;
    for (const auto& plan : plans) {
      merged_vectors tau = p.prior;
      const auto names =
          refit_network(*p.base.net, p.of(plan), {plan.gain, plan.options}, tau, on_threads(1));
      CHECK(names.size() >= 3);
      alone.push_back(run_all(*p.base.net, merged_vectors::network(tau), joined(p.of({}))));
    }
    for (std::size_t i = 0; i < plans.size(); ++i)
      for (std::size_t j = 0; j < plans.size(); ++j) {
        const double apart = largest_difference(found[i], alone[j]);
        CAPTURE(i);
        CAPTURE(j);
        if (i == j)
          CHECK(apart <= 1e-4);
        else
          CHECK(apart > 1e-3);
      }
    // The prior is as it was.
    std::mt19937 random(3);
    const parameter first = p.base.net->parameters(0).front();
    for (const float v : p.prior.read(first.name))
      CHECK(v == 0.02F * (static_cast<float>(random() % 2001) / 1000 - 1));
  }
}

namespace {

/// The fixture's network with the linear weights of its last layer moved at random.
fs::path with_last_layer_moved(const std::string& variant, const network& net) {
  table t(fixture(variant) / "model.safetensors");
  std::mt19937 random(5);
  for (const auto& p : net.parameters(net.block_count() - 2)) {
    if (p.shape.size() < 2) continue;
    const auto& tensor = t.tensors.at(p.name);
    REQUIRE(tensor.type == io::dtype::f32);
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    for (float& v : values) v += 0.1F * (static_cast<float>(random() % 2001) / 1000 - 1);
    t.set(p.name, tensor.type, tensor.shape, values);
  }
  return t.write("expert.safetensors");
}

/// The inputs of a block's layers by names.
class all_inputs final : public recorder {
 public:
  void record(const std::vector<std::string>& names, matrix rows) override {
    for (const auto& name : names) rows_[name] = rows;
  }
  const matrix& of(const std::string& name) const { return rows_.at(name); }

 private:
  std::map<std::string, matrix> rows_;
};

}  // namespace

// One sample has fewer rows than a layer has inputs, so that least squares without an anchor fits
// every row it is given, and the refitted network is the expert on this sample: if and only if the
// rows it is given are all that reach the output.
TEST_CASE("the rows of the last layer that reach the output are enough for a refit") {
  for (const std::string variant :
       {"clip_vision/projected", "clip_vision/grey", "bert/bert", "bert/roberta"}) {
    CAPTURE(variant);
    const model base(variant);
    const network& net = *base.net;
    const std::size_t last = net.block_count() - 2;
    const fs::path path = with_last_layer_moved(variant, net);
    checkpoint_set set(base.checkpoint.path().string(), {{"one", path.string()}},
                       catmerge::model::name_rules());
    merged_vectors tau(set);
    for (std::size_t block = 0; block < net.block_count(); ++block)
      for (const auto& p : net.parameters(block))
        tau.write(p.name, std::vector<float>(static_cast<std::size_t>(base.weights.get(p).size())));
    const auto sample = net.open_samples(fixture(variant) / "samples.safetensors")->load(0, 1);
    refit_plan plan;
    plan.options.anchor = 0;
    plan.options.own = 1;
    refit_network(net, {sample}, plan, tau, on_threads(1));

    const io::checkpoint expert_file(path);
    const checkpoint_weights expert(expert_file);
    const merged_vectors::network refitted(tau);
    const matrix wanted = run_all(net, expert, sample);
    CHECK(largest_difference(run_all(net, base.weights, sample), wanted) > 1e-2);
    CHECK(largest_difference(run_all(net, refitted, sample), wanted) <= 1e-4);

    // Keys and values fit all rows; the others fit the first row and no other.
    activations state = sample;
    all_inputs inputs;
    while (state.next_block < last) net.run(state.next_block, refitted, state);
    net.run(last, refitted, state, &inputs);
    int by_first_rows = 0;
    for (const auto& p : net.parameters(last)) {
      if (p.shape.size() < 2) continue;
      CAPTURE(p.name);
      const matrix& x = inputs.of(p.name);
      REQUIRE(x.rows() > 2);
      REQUIRE(x.rows() <= x.cols());
      const matrix apart = x * (refitted.get(p).rows() - expert.get(p).rows()).transpose();
      CHECK(apart.row(0).norm() <= 1e-3);
      const bool first = net.first_rows_suffice(p.name);
      by_first_rows += first ? 1 : 0;
      for (index_t i = 1; i < x.rows(); ++i)
        if (first)
          CHECK(apart.row(i).norm() > 1e-2);
        else
          CHECK(apart.row(i).norm() <= 1e-3);
    }
    CHECK(by_first_rows >= 3);
    for (const auto& p : net.parameters(last - 1)) CHECK_FALSE(net.first_rows_suffice(p.name));
  }
}

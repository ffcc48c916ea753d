// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/open_network.hpp>
#include <memory>
#include <set>

#include "support/harness/program.hpp"

// Merges whose settings the outputs on unlabeled samples choose. What the program writes is
// compared with formulas on the inputs and outputs of the written network's layers, which the
// test records itself: the inputs of a layer depend on earlier layers alone, so those of the
// finished network are those that its refit saw.

namespace {

using namespace harness_test;
namespace harness = catmerge::harness;
using dense = Eigen::MatrixXd;

constexpr index_t classes = 4;  // of each head

/// A family of CLIPs with a head per task.
class headed_family {
 public:
  headed_family() {
    unsigned seed = 50;
    for (const auto& task : task_names) {
      noise n(seed++);
      const index_t columns = output_width();
      values_t weights(static_cast<std::size_t>(classes * columns)), bias(classes);
      for (double& x : weights) x = n(6);
      for (double& x : bias) x = n(1);
      table t;
      t.set("weight", dtype::f32, {classes, columns}, weights);
      t.set("bias", dtype::f32, {classes}, bias);
      t.write(head(task));
    }
  }

  family files;

  fs::path head(const std::string& task) const {
    return files.in() / ("head_" + task + ".safetensors");
  }
  arguments with_heads() const {
    arguments list;
    for (const auto& task : task_names)
      list = list + arguments{"--head", task + "=" + head(task).string()};
    return list;
  }
  arguments with_outputs() const { return files.with_samples() + with_heads(); }

  struct merge_result {
    fs::path path;
    table merged;
    json choice;
    outcome run;
  };

  /// A merge with samples and heads.
  merge_result merge(const arguments& options) {
    const fs::path output = files.fresh(), report = files.fresh("report.json");
    const outcome done = run(files.merge(output) + with_outputs() + options +
                             arguments{"--out-dtype", "f32", "--report", report});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    return {output, table(output), json::parse(get(report))["choice"], done};
  }

 private:
  index_t output_width() const {
    return harness::open_network(io::checkpoint(files.base_path()), files.config().string())
        ->output_width();
  }
};

headed_family& headed() {
  static headed_family f;
  return f;
}

dense as_dense(const harness::matrix& x) {
  return x.cast<double>();
}

/// The inputs of a network's layers, by the names of the parameters.
class all_inputs final : public harness::recorder {
 public:
  void record(const std::vector<std::string>& names, harness::matrix rows) override {
    for (const auto& name : names) rows_[name] = as_dense(rows);
    if (rows.cols() > 0) order_.insert(order_.end(), names.begin(), names.end());
  }
  const dense& at(const std::string& name) const { return rows_.at(name); }
  const std::vector<std::string>& order() const { return order_; }

 private:
  std::map<std::string, dense> rows_;
  std::vector<std::string> order_;
};

/// A run of a task's samples through a network.
struct run_of_samples {
  all_inputs inputs;
  dense outputs;

  run_of_samples(const fs::path& model, const std::string& task) {
    const io::checkpoint file(model);
    const auto net = harness::open_network(file, headed().files.config().string());
    const auto samples = net->open_samples(headed().files.samples(task));
    outputs = as_dense(harness::run_all(*net, harness::checkpoint_weights(file),
                                        samples->load(0, samples->size()), &inputs));
  }
};

dense matrix_of(const table& t, const std::string& name) {
  const auto& shape = t.at(name).shape;
  const auto values = t.values(name);
  const index_t rows = shape.front(), columns = std::ssize(values) / rows;
  return Eigen::Map<const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
      values.data(), rows, columns);
}

/// The logits of a task's samples in a network.
dense logits(const fs::path& model, const std::string& task) {
  const table head(headed().head(task));
  const dense w = matrix_of(head, "weight"), b = matrix_of(head, "bias");
  const dense x = run_of_samples(model, task).outputs;
  return (x.rowwise().normalized() * w.transpose()).rowwise() + b.col(0).transpose();
}

/// J of one task by its formula.
double distance(const fs::path& model, const std::string& task) {
  const dense z = logits(model, task) / 2, e = logits(headed().files.model(task), task) / 2;
  double sum = 0;
  for (index_t i = 0; i < z.rows(); ++i) {
    const Eigen::ArrayXd p = z.row(i).array().exp() / z.row(i).array().exp().sum();
    const Eigen::ArrayXd q = e.row(i).array().exp() / e.row(i).array().exp().sum();
    sum += 4 * (p * (p / q).log()).sum();
  }
  return sum / static_cast<double>(z.rows());
}

double mean_distance(const fs::path& model) {
  double sum = 0;
  for (const auto& task : task_names) sum += distance(model, task) / 3;
  return sum;
}

/// The program's default of --method.
surroundings own_default() {
  surroundings s;
  s.own_default = true;
  return s;
}

/// The position of the least value.
std::size_t least(const json& values) {
  const auto list = values.get<std::vector<double>>();
  return static_cast<std::size_t>(std::min_element(list.begin(), list.end()) - list.begin());
}

bool same_values(const table& a, const table& b) {
  bool same = a.tensors.size() == b.tensors.size();
  for (const auto& [name, t] : a.tensors) same = same && b.has(name) && b.at(name).bytes == t.bytes;
  return same;
}

/// The largest difference, relative to the largest value of `from`.
double difference(const dense& a, const dense& from) {
  return (a - from).cwiseAbs().maxCoeff() / from.cwiseAbs().maxCoeff();
}

/// The inputs of a layer that reach the output: in the last encoder layer, but for keys and values,
/// the first row of each sample.
dense rows_that_count(const std::string& name, const dense& x, index_t samples) {
  if (!name.starts_with(layer1) || name.find("k_proj") != std::string::npos ||
      name.find("v_proj") != std::string::npos)
    return x;
  const index_t tokens = x.rows() / samples;
  dense first(samples, x.cols());
  for (index_t i = 0; i < samples; ++i) first.row(i) = x.row(i * tokens);
  return first;
}

}  // namespace

TEST_CASE("auto: every linear layer solves its least squares") {
  const double anchor = 3, own = 0.25, gain = 1.5;
  const auto prior = headed().merge({"--method", "auto:refit=no"});
  const auto result = headed().merge({"--method", "auto:anchor=3,own=0.25,gain=1.5"});
  const table base(headed().files.base_path());

  std::vector<std::unique_ptr<run_of_samples>> merged, experts;
  std::vector<table> tensors;
  double samples = 0;
  for (const auto& task : task_names) {
    merged.push_back(std::make_unique<run_of_samples>(result.path, task));
    experts.push_back(std::make_unique<run_of_samples>(headed().files.model(task), task));
    tensors.emplace_back(headed().files.model(task));
    samples += static_cast<double>(merged.back()->outputs.rows()) / 3;
  }
  std::vector<std::string> linears;
  for (const auto& name : merged.front()->inputs.order())
    if (base.at(name).shape.size() > 1) linears.push_back(name);
  REQUIRE(linears.size() == 13);  // q, k, v, out, fc1, fc2 of two layers, and the projection
  CHECK(result.choice["refitted"].get<std::vector<std::string>>() == linears);
  CHECK(result.choice["gain"] == gain);

  for (const auto& name : linears) {
    CAPTURE(name);
    const dense w0 = matrix_of(base, name);
    const dense tau0 = gain * (matrix_of(prior.merged, name) - w0);
    const std::string bias = name.substr(0, name.size() - 6) + "bias";
    dense s = dense::Zero(w0.cols(), w0.cols()), target = dense::Zero(w0.rows(), w0.cols());
    for (std::size_t k = 0; k < 3; ++k) {
      const dense t = matrix_of(tensors[k], name) - w0;
      const index_t count = merged[k]->outputs.rows();
      const dense z = rows_that_count(name, merged[k]->inputs.at(name), count);
      const dense x = rows_that_count(name, experts[k]->inputs.at(name), count);
      dense y = x * (w0 + t).transpose() - z * w0.transpose();
      if (base.has(bias))
        y.rowwise() +=
            (matrix_of(tensors[k], bias) - matrix_of(result.merged, bias)).col(0).transpose();
      const dense r = own * y + (1 - own) * z * t.transpose();
      const double weight = 1 / (x * t.transpose()).squaredNorm();
      s += weight * z.transpose() * z;
      target += weight * r.transpose() * z;
    }
    const double mu = anchor / samples * s.trace() / static_cast<double>(s.rows());
    const dense system = s + mu * dense::Identity(s.rows(), s.rows());
    const dense expected = system.ldlt().solve((target + mu * tau0).transpose()).transpose();
    // The files round to 6e-8 of a weight; weights are up to 20 times the task vectors, and the
    // condition of the system is below 1e3.
    CHECK(difference(matrix_of(result.merged, name) - w0, expected) < 2e-3);
    CHECK(difference(tau0, expected) > 0.02);  // the refit is no copy of the prior
  }
  for (const auto& [name, t] : base.tensors) {
    if (!is_float(t) || std::find(linears.begin(), linears.end(), name) != linears.end()) continue;
    CAPTURE(name);
    const dense w0 = matrix_of(base, name);
    CHECK(difference(matrix_of(result.merged, name) - w0,
                     gain * (matrix_of(prior.merged, name) - w0)) < 1e-4);
  }
}

TEST_CASE("auto: the prior is the mean of three merges, each at the alpha of the least J") {
  const auto prior = headed().merge({"--method", "auto:refit=no"});
  REQUIRE(prior.choice["alpha"].size() == 3);
  std::string of;
  const char* const names[] = {"tsv-m", "iso-c", "iso-cts"};
  for (std::size_t i = 0; i < 3; ++i) {
    const json& curve = prior.choice["alpha"][i];
    const double alpha = curve["chosen"];
    const std::size_t best = least(curve["distance"]);
    CHECK(curve["values"][best] == alpha);
    const std::string text = std::string(names[i]) + ":alpha=" + json(alpha).dump();
    of += (i == 0 ? "" : "+") + text;
    const auto alone = headed().merge({"--method", text});
    CHECK(mean_distance(alone.path) ==
          doctest::Approx(curve["distance"][best].get<double>()).epsilon(1e-3));
  }
  const auto mean = headed().merge({"--method", "mean:of=" + of});
  for (const auto& [name, t] : mean.merged.tensors) {
    if (!is_float(t)) continue;
    CAPTURE(name);
    CHECK(difference(matrix_of(prior.merged, name), matrix_of(mean.merged, name)) < 1e-6);
  }
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(prior.choice["distance"]["base"][k].get<double>() ==
          doctest::Approx(distance(headed().files.base_path(), task_names[k])).epsilon(1e-3));
    CHECK(prior.choice["distance"]["merged"][k].get<double>() ==
          doctest::Approx(distance(prior.path, task_names[k])).epsilon(1e-3));
    const dense odds =
        logits(headed().files.model(task_names[k]), task_names[k]).array().exp().matrix();
    const double confidence =
        (odds.rowwise().maxCoeff().array() / odds.rowwise().sum().array()).mean();
    CHECK(prior.choice["confidence"][k].get<double>() == doctest::Approx(confidence).epsilon(1e-5));
  }
}

TEST_CASE("auto: a prior of infinite weight is the result") {
  const auto prior = headed().merge({"--method", "auto:refit=no"});
  const auto same = headed().merge({"--method", "auto:gain=1,anchor=1e12"});
  for (const auto& [name, t] : prior.merged.tensors)
    if (is_float(t))
      CHECK(difference(matrix_of(same.merged, name), matrix_of(prior.merged, name)) < 1e-6);
}

TEST_CASE("auto: the default of merge; g is cross-fitted with few samples") {
  const fs::path output = headed().files.fresh();
  const outcome done =
      run(headed().files.merge(output) + headed().with_outputs() + arguments{"--out-dtype", "f32"},
          own_default());
  CHECK(done.status == 0);
  const auto chosen = headed().merge({"--method", "auto", "--threads", "3"});
  CHECK(same_values(table(output), chosen.merged));
  CHECK(contains(done.out, "The prior is the mean of TSV-M"));
  CHECK(contains(done.err, "with 2 samples a task"));
  const json& curve = chosen.choice["gain_by_cross_fitting"];
  CHECK(curve["values"] == json{1.0, 1.5, 2.0});
  CHECK(curve["values"][least(curve["distance"])] == chosen.choice["gain"]);
  CHECK(chosen.choice["samples"] == json{3, 5, 2});
}

TEST_CASE("auto: without heads and without samples") {
  const fs::path with = headed().files.fresh(), without = headed().files.fresh();
  const outcome samples =
      run(headed().files.merge(with) + headed().files.with_samples(), own_default());
  CHECK(samples.status == 0);
  CHECK(contains(samples.err, "--head NAME=H"));
  CHECK(contains(samples.out, "13 linear layers were refitted around 2 times the prior"));
  const outcome nothing = run(headed().files.merge(without), own_default());
  CHECK(nothing.status == 0);
  CHECK(contains(nothing.err, "--samples"));
  CHECK(!same_values(table(with), table(without)));
}

TEST_CASE("alpha auto: the bits of the merge at the alpha that it names") {
  for (const std::string method : {"tsv-m", "ties:density=0.2", "task-arithmetic", "lot"}) {
    CAPTURE(method);
    const auto chosen = headed().merge({"--method", method, "--alpha", "auto"});
    const json& curve = chosen.choice["alpha"][0];
    const auto same = headed().merge({"--method", method, "--alpha", curve["chosen"].dump()});
    CHECK(same_values(chosen.merged, same.merged));
    CHECK(curve["values"][least(curve["distance"])] == curve["chosen"]);
    CHECK(mean_distance(chosen.path) ==
          doctest::Approx(curve["distance"][least(curve["distance"])].get<double>()).epsilon(1e-3));
  }
}

TEST_CASE("settings that are auto: the bits of the merge at the settings of the least J") {
  struct one {
    std::string method;
    arguments more;
    std::vector<std::string> tried;
  };
  const std::vector<std::string> trims = {"lambda=1,rank=1", "lambda=1,rank=4", "lambda=5,rank=1",
                                          "lambda=5,rank=4"};
  const std::vector<one> all = {
      one{"ties:density=auto", {}, {"density=0.1", "density=0.2", "density=0.4"}},
      one{"ties:density=auto,merge=sum,alpha=auto",
          {},
          {"density=0.1,merge=sum", "density=0.2,merge=sum", "density=0.4,merge=sum"}},
      one{"pcb:alpha=1.2,ratio=auto",
          {},
          {"alpha=1.2,ratio=0.05", "alpha=1.2,ratio=0.1", "alpha=1.2,ratio=0.2"}},
      one{"breadcrumbs:gamma=auto", {"--alpha", "0.3"}, {"gamma=0.01", "gamma=0.1"}},
      one{"regmean:off-diagonal=auto",
          {},
          {"off-diagonal=0.1", "off-diagonal=0.5", "off-diagonal=0.9", "off-diagonal=1"}},
      one{"cat:lambda=auto,rank=auto", {}, trims},
      one{"cat", {"--lambda", "auto", "--rank", "auto"}, trims}};
  for (const auto& [method, more, tried] : all) {
    CAPTURE(method);
    const auto chosen = headed().merge(arguments{"--method", method} + more);
    const json& settings = chosen.choice["settings"];
    const std::string name = method.substr(0, method.find(':'));
    std::vector<double> distances;
    std::vector<std::string> texts;
    for (const auto& t : settings["tried"]) {
      texts.push_back(t["settings"]);
      const auto same =
          headed().merge({"--method", name + ":" + texts.back(), "--alpha", t["alpha"].dump()});
      distances.push_back(mean_distance(same.path));
      CHECK(distances.back() == doctest::Approx(t["distance"].get<double>()).epsilon(1e-3));
      CHECK(same_values(chosen.merged, same.merged) == (texts.back() == settings["chosen"]));
    }
    CHECK(texts == tried);
    CHECK(texts[least(distances)] == settings["chosen"]);
    CHECK(contains(chosen.run.out, "Of " + std::to_string(texts.size()) + " settings of "));
    CHECK(contains(chosen.run.out, settings["chosen"].get<std::string>()));
    const bool alpha_is_given =
        contains(method, "alpha=1.2") || more == arguments{"--alpha", "0.3"};
    CHECK(chosen.choice.contains("alpha") == (!alpha_is_given && name != "regmean"));
  }
}

TEST_CASE("settings that are auto: the report has the chosen ones") {
  const fs::path output = headed().files.fresh(), report = headed().files.fresh("report.json");
  REQUIRE(run(headed().files.merge(output) + headed().with_outputs() +
              arguments{"--method", "cat:rank=auto", "--report", report})
              .status == 0);
  const json all = json::parse(get(report));
  const json& settings = all["catmerge"]["settings"];
  CHECK("rank=" + settings["rank"].dump() == all["choice"]["settings"]["chosen"]);
  CHECK(settings["alpha"] == all["choice"]["alpha"][0]["chosen"]);
  const double share = all["choice"]["settings"]["share_of_resamplings"];
  CHECK(share > 0);
  CHECK(share <= 1);
}

TEST_CASE("cat:auto: lambda 1, half of the energy, and alpha by outputs") {
  const auto chosen = headed().merge({"--method", "cat:auto"});
  const json& curve = chosen.choice["alpha"][0];
  const arguments settings = {"--method", "cat", "--lambda", "1", "--basis-energy", "0.5"};
  const auto same = headed().merge(settings + arguments{"--alpha", curve["chosen"].dump()});
  for (const auto& [name, t] : same.merged.tensors)
    if (is_float(t))
      CHECK(difference(matrix_of(chosen.merged, name), matrix_of(same.merged, name)) < 1e-6);
  CHECK(same_values(headed().merge({"--method", "cat", "--preset", "auto"}).merged, chosen.merged));
  // A given alpha counts, and so does the default where outputs are not known.
  CHECK(same_values(headed().merge({"--method", "cat:auto,alpha=0.3"}).merged,
                    headed().merge(settings + arguments{"--alpha", "0.3"}).merged));
  const fs::path output = headed().files.fresh();
  const outcome done = run(headed().files.merge(output) + headed().files.with_samples() +
                           arguments{"--method", "cat:auto", "--out-dtype", "f32"});
  CHECK(done.status == 0);
  CHECK(contains(done.err, "alpha was not chosen"));
  CHECK(same_values(table(output), headed().merge(settings + arguments{"--alpha", "0.4"}).merged));
}

TEST_CASE("auto: features alone") {
  const fs::path output = headed().files.fresh(), prior = headed().files.fresh();
  const arguments command = arguments{"--method", "auto"} + headed().files.with_features();
  const outcome done = run(headed().files.merge(output) + command);
  CHECK(done.status == 0);
  CHECK(contains(done.err, "--samples"));
  CHECK(run(headed().files.merge(prior) + arguments{"--method", "auto"}).status == 0);
  // Shifts are twice the prior's; linears lie between twice the prior and the experts.
  const table base(headed().files.base_path()), found(output), alone(prior);
  const std::string shift = layer0 + "mlp.fc1.bias";
  CHECK(difference(matrix_of(found, shift) - matrix_of(base, shift),
                   2 * (matrix_of(alone, shift) - matrix_of(base, shift))) < 1e-4);
  CHECK(difference(matrix_of(found, q0) - matrix_of(base, q0),
                   2 * (matrix_of(alone, q0) - matrix_of(base, q0))) > 0.01);
}

TEST_CASE("auto: what does not go with outputs is refused") {
  const auto refused = [&](const arguments& options) {
    const outcome r = run(headed().files.merge(headed().files.fresh()) + options);
    CHECK(r.status != 0);
    return r.err;
  };
  const arguments outputs = headed().with_outputs(), samples = headed().files.with_samples();
  CHECK(contains(refused({"--method", "ties", "--alpha", "auto"}), "--samples"));
  CHECK(contains(refused({"--method", "ties:density=auto"}), "--samples"));
  CHECK(contains(refused(arguments{"--method", "ties:density=auto"} + samples), "--head"));
  CHECK(contains(refused(arguments{"--method", "ties:merge=auto"} + outputs),
                 "--method: ties: outputs cannot choose 'merge': expected density"));
  CHECK(contains(refused(arguments{"--method", "iso-cts:common=auto"} + outputs),
                 "they can choose no setting of it but alpha"));
  CHECK(contains(refused(arguments{"--method", "ties", "--lambda", "auto"} + outputs), "--lambda"));
  CHECK(contains(refused(arguments{"--method", "average:density=auto"} + outputs),
                 "outputs cannot choose 'density': they can choose no setting of it"));
  const outcome onto_a_head =
      run(headed().files.merge(headed().head("a")) + outputs + arguments{"--overwrite"});
  CHECK(onto_a_head.status != 0);
  CHECK(contains(onto_a_head.err, headed().head("a").string()));
  CHECK(contains(refused(arguments{"--method", "ties", "--alpha", "auto"} + samples), "--head"));
  CHECK(
      contains(refused(arguments{"--method", "average", "--alpha", "auto"} + outputs), "no alpha"));
  CHECK(contains(refused(arguments{"--method", "ties", "--alpha", "much"} + outputs), "or auto"));
  CHECK(contains(refused(arguments{"--method", "auto", "--set", "@linear:alpha=1"} + outputs),
                 "--set"));
  CHECK(contains(refused(arguments{"--method", "auto", "--before", "dare"} + outputs), "--before"));
  CHECK(contains(refused(arguments{"--method", "auto:own=2"} + outputs), "own"));
  CHECK(
      contains(refused(arguments{"--method", "auto", "--head", "z=" + headed().head("a").string()} +
                       samples),
               "'z'"));
}

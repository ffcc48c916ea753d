// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge experiment`: its figures are those of merges and evaluations by hand, its choices the
/// best on validation, and nothing depends on threads.

#include <harness/experiment/calibration.hpp>
#include <harness/experiment/rank_correlation.hpp>
#include <harness/experiment/results.hpp>
#include <harness/experiment/scrambled.hpp>
#include <numeric>
#include <set>

#include "support/harness/program.hpp"

using namespace harness_test;
using catmerge::index_t;
namespace h = catmerge::harness;

namespace {

const fs::path networks = CATMERGE_FAMILY;

const std::vector<std::string>& tasks() {
  static const std::vector<std::string> list = [] {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(networks / "experts"))
      names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
  }();
  return list;
}

arguments with_each(const std::string& option, const std::string& folder) {
  arguments list;
  for (const auto& task : tasks())
    list = list +
           arguments{option, task + "=" + (networks / folder / (task + ".safetensors")).string()};
  return list;
}

fs::path merge_by_hand(const arguments& options) {
  const fs::path output = clips().fresh();
  run_well(
      arguments{"merge", "--base", networks / "base", "--output", output, "--out-dtype", "f32"} +
          with_each("--expert", "experts") + options,
      warning::any);
  return output;
}

double evaluate(const fs::path& model, const std::string& task, const std::string& split) {
  const std::string file = task + ".safetensors";
  const outcome result =
      run_well({"evaluate", "--model", model, "--config", networks / "base" / "config.json",
                "--data", networks / split / file, "--head", networks / "heads" / file});
  const auto line = result.out.rfind('\n', result.out.size() - 2);
  return std::stod(result.out.substr(line == std::string::npos ? 0 : line + 1));
}

double mean_on(const fs::path& model, const std::string& split) {
  double sum = 0;
  for (const auto& task : tasks()) sum += evaluate(model, task, split);
  return sum / static_cast<double>(tasks().size());
}

const json& row_of(const json& study, const std::string& label) {
  for (const auto& row : study["rows"])
    if (row["label"] == label) return row;
  FAIL("no row '" << label << "'");
  return study;
}

}  // namespace

TEST_CASE("the comparison's figures are those of merge and evaluate") {
  const fs::path out = clips().fresh("experiment");
  const arguments plan = {"experiment", networks,      "--studies",
                          "comparison", "--methods",   "average,task-arithmetic,cat,fisher,lot",
                          "--alphas",   "0.2,0.3,0.5", "--lambdas",
                          "1",          "--ranks",     "2,4",
                          "--seeds",    "1",           "--samples",
                          "3"};
  const outcome result = run_well(plan + arguments{"--output", out});
  const auto results = json::parse(get(out / "results.json"));
  CHECK(results["tasks"].get<std::vector<std::string>>() == tasks());
  const json& study = results["studies"][0];
  const auto check_row = [&](const std::string& label, const fs::path& model) {
    CAPTURE(label);
    const json& row = row_of(study, label);
    double sum = 0;
    for (std::size_t k = 0; k < tasks().size(); ++k) {
      const double by_hand = evaluate(model, tasks()[k], "test");
      sum += by_hand;
      // evaluate prints two digits. The same weights but for the last bit of some: no prediction
      // of these images hangs on it.
      CHECK(row["tasks"][k]["mean"].get<double>() == doctest::Approx(by_hand).epsilon(1e-4));
    }
    CHECK(row["average"]["mean"].get<double>() ==
          doctest::Approx(sum / static_cast<double>(tasks().size())).epsilon(1e-4));
    if (row.contains("validation"))
      CHECK(row["validation"]["mean"].get<double>() ==
            doctest::Approx(mean_on(model, "validation")).epsilon(1e-4));
  };
  check_row("base, not merged", networks / "base");
  check_row("weight averaging", merge_by_hand({"--method", "average"}));
  const arguments task_arithmetic = {"--method", "task-arithmetic", "--alpha", "0.4"};
  check_row("Task Arithmetic, alpha 0.4", merge_by_hand(task_arithmetic));
  check_row("Fisher",
            merge_by_hand(arguments{"--method", "fisher"} + with_each("--importance", "fisher")));
  const arguments config = {"--config", networks / "base" / "config.json", "--sample-count", "3"};
  const arguments samples = with_each("--samples", "samples") + config;
  check_row("CAT, the paper's settings, alpha 0.4", merge_by_hand(samples));

  // The setting that was chosen for CAT is the best of all on validation, and the first of equals.
  const json& cat = row_of(study, "CAT");
  double best = -1;
  std::string chosen;
  for (const char* rank : {"2", "4"})
    for (const char* alpha : {"0.2", "0.3", "0.5"}) {
      const fs::path model =
          merge_by_hand(samples + arguments{"--lambda", "1", "--rank", rank, "--alpha", alpha});
      const double mean = mean_on(model, "validation");
      if (mean <= best + 1e-9) continue;
      best = mean;
      chosen = std::string("lambda=1, rank=") + rank + ", alpha=" + alpha;
    }
  CHECK(cat["setting"] == chosen);
  CHECK(cat["validation"]["mean"].get<double>() == doctest::Approx(best).epsilon(1e-4));
  // Means of task vectors have the grid of sums, times the number of tasks.
  const std::string lot = row_of(study, "LOT")["setting"];
  CHECK((lot == "alpha=0.8" || lot == "alpha=1.2" || lot == "alpha=2"));

  // The experts, each on its own task.
  const json& experts = row_of(study, "each task's own expert");
  for (std::size_t k = 0; k < tasks().size(); ++k)
    CHECK(experts["tasks"][k]["mean"].get<double>() ==
          doctest::Approx(
              evaluate(networks / "experts" / (tasks()[k] + ".safetensors"), tasks()[k], "test"))
              .epsilon(1e-4));

  // All forms say the same.
  const std::string tables = get(out / "tables.md"), csv = get(out / "results.csv"),
                    page = get(out / "index.html");
  char mean[32];
  std::snprintf(mean, sizeof mean, "%.2f", cat["average"]["mean"].get<double>());
  CHECK(tables.find(std::string("**") + mean + "**") != std::string::npos);
  CHECK(result.out.find(std::string("**") + mean + "**") != std::string::npos);
  CHECK(page.find(mean) != std::string::npos);
  CHECK(csv.starts_with("study,what,setting,x,run,task,value\n"));
  CHECK(csv.find("comparison,CAT,\"" + chosen + "\",,0," + tasks()[0] + ",") != std::string::npos);

  // Threads change nothing.
  const fs::path again = clips().fresh("experiment");
  run_well(plan + arguments{"--output", again, "--threads", "3"});
  CHECK(get(again / "results.csv") == csv);
}

TEST_CASE("studies of settings, samples, orders and numbers of tasks have what they promise") {
  const fs::path out = clips().fresh("studies");
  run_well({"experiment", networks, "--studies", "ablation,samples,lambda,rank,order,classes,tasks",
            "--methods", "average,task-arithmetic,cat", "--alphas", "0.3", "--lambdas", "1",
            "--ranks", "2", "--seeds", "2", "--output", out});
  const auto results = json::parse(get(out / "results.json"));
  std::map<std::string, json> studies;
  for (const auto& s : results["studies"]) studies[s["name"]] = s;
  REQUIRE(studies.size() == 7);

  // Without any trim CAT is Task Arithmetic; all trims are the whole.
  const json& ablation = studies["ablation"];
  CHECK(
      row_of(ablation, "no trim (Task Arithmetic), alpha 0.4")["tasks"][0]["mean"].get<double>() ==
      doctest::Approx(evaluate(merge_by_hand({"--method", "task-arithmetic", "--alpha", "0.4"}),
                               tasks()[0], "test"))
          .epsilon(1e-4));
  CHECK(ablation["rows"].size() == 16);

  const auto points = [&](const std::string& study, std::size_t curve) {
    return studies[study]["curves"][curve]["points"];
  };
  std::vector<int> counts;
  for (const auto& p : points("samples", 0)) counts.push_back(p["x"].get<int>());
  CHECK(counts == std::vector<int>{1, 2, 3, 8, 24, 64});
  // One draw where all samples are taken: no spread.
  CHECK_FALSE(points("samples", 0).back().contains("spread"));
  CHECK(points("samples", 0)[0].contains("spread"));
  // Rank 0 removes no directions: as without the linear trim, whatever lambda.
  CHECK(points("rank", 0)[0]["mean"] == row_of(ablation, "without linear")["average"]["mean"]);
  // Three samples and the comparison's setting: the same figure in every study.
  const json whole = row_of(ablation, "all trims")["average"]["mean"];
  CHECK(points("samples", 0)[2]["mean"] == whole);
  CHECK(points("order", 0)[0]["mean"] == whole);
  CHECK(points("lambda", 0)[2]["x"] == 1);
  CHECK(points("lambda", 0)[2]["mean"] == whole);
  // Jointly, one point; in sequence, one per order.
  CHECK(points("order", 0).size() == 5);
  CHECK(points("order", 1).size() == 1);
  CHECK(points("classes", 0).size() == 3);
  // With all tasks: the average in shares of the experts'.
  std::vector<int> tasks_merged;
  for (const auto& p : points("tasks", 0)) tasks_merged.push_back(p["x"].get<int>());
  std::vector<int> expected(tasks().size() - 1);
  std::iota(expected.begin(), expected.end(), 2);
  CHECK(tasks_merged == expected);
}

TEST_CASE("draws of samples: seeds, classes") {
  // Seed 0 is the files' own order, others are permutations.
  CHECK(h::permutation(4, 0) == std::vector<index_t>{0, 1, 2, 3});
  std::set<std::vector<index_t>> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    auto list = h::permutation(4, seed);
    seen.insert(list);
    std::sort(list.begin(), list.end());
    CHECK(list == std::vector<index_t>{0, 1, 2, 3});
  }
  CHECK(seen.size() == 24);  // all of them
  CHECK(h::drawn_samples(5, 9, 3).size() == 5);
  const auto few = h::drawn_samples(50, 3, 3), more = h::drawn_samples(50, 10, 3);
  CHECK(std::equal(few.begin(), few.end(), more.begin()));  // a larger draw holds the smaller

  const std::vector<std::int64_t> labels = {0, 1, 2, 0, 1, 2, 0, 1, 3, 0};
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    for (const index_t classes : {1, 2, 3}) {
      const auto chosen = h::samples_of_classes(labels, 3, classes, seed);
      std::set<index_t> different(chosen.begin(), chosen.end());
      std::set<std::int64_t> of;
      for (const index_t i : chosen) of.insert(labels[static_cast<std::size_t>(i)]);
      CHECK(different.size() == 3);
      CHECK(std::ssize(of) == classes);
    }
    // Class 3 has one sample: it is not chosen where two are wanted of a class.
    for (const index_t i : h::samples_of_classes(labels, 2, 1, seed)) CHECK(i != 8);
  }
  // Fewer than asked for, where there are no more.
  CHECK(h::samples_of_classes({5, 5, 6}, 4, 1, 0).size() == 2);
}

TEST_CASE("relations of tasks: correlations, and weights without labels") {
  const auto run_studies = [](const std::string& names, const char* seeds) {
    const fs::path out = clips().fresh("relations");
    run_well({"experiment", networks, "--studies", names, "--alphas", "0.1,0.2,0.4", "--seeds",
              seeds, "--output", out});
    return json::parse(get(out / "results.json"))["studies"];
  };
  const json curves = run_studies("relatedness", "2")[0]["curves"];
  REQUIRE(curves.size() == 9);  // of three merges: rho, from, to
  for (std::size_t first = 0; first < 9; first += 3)
    for (std::size_t i = 0; i < 10; ++i) {  // five predictors of points, and of shares
      const auto value = [&](std::size_t line) {
        return curves[line]["points"][i]["mean"].get<double>();
      };
      CHECK(value(first + 1) <= value(first));
      CHECK(value(first) <= value(first + 2));
    }
  // Samples are drawn for the conflict alone.
  CHECK(curves[0]["points"][0].contains("spread"));
  CHECK_FALSE(curves[0]["points"][1].contains("spread"));

  // Equal weights are Task Arithmetic.
  const json weights = run_studies("task-weights", "1")[0];
  const json& equal = row_of(weights, "equal weights");
  const std::string setting = equal["setting"];
  CHECK(setting.ends_with(", weights 1 1 1 1"));
  const std::string alpha = setting.substr(6, setting.find(',') - 6);
  const fs::path by_hand = merge_by_hand({"--method", "task-arithmetic", "--alpha", alpha});
  for (std::size_t k = 0; k < tasks().size(); ++k)
    CHECK(equal["tasks"][k]["mean"].get<double>() ==
          doctest::Approx(evaluate(by_hand, tasks()[k], "test")).epsilon(1e-4));
  // The last row is one of the others.
  const auto& rows = weights["rows"];
  const json& least = rows.back()["tasks"];
  CHECK(std::any_of(rows.begin(), rows.end() - 1,
                    [&](const json& row) { return row["tasks"] == least; }));
}

TEST_CASE("samples of another distribution") {
  const fs::path out = clips().fresh("other");
  run_well({"experiment", networks, "--studies", "other-samples,classes,auto", "--methods",
            "auto,lot", "--alphas", "0.3", "--seeds", "1", "--output", out});
  const auto studies = json::parse(get(out / "results.json"))["studies"];
  std::map<std::string, json> curves;
  for (const auto& s : studies)
    for (const auto& c : s["curves"])
      curves[s["name"].get<std::string>() + "/" + c["label"].get<std::string>()] = c["points"];
  const auto mean = [&](const std::string& line, std::size_t i) {
    return curves.at(line)[i]["mean"].get<double>();
  };
  CHECK(curves.at("other-samples/LOT").size() == 4);
  CHECK(curves.at("classes/auto").size() == 3);
  // As drawn: the study of the number of samples has the same merge, with three samples.
  CHECK(mean("other-samples/auto", 0) == mean("auto/auto", 1));
  CHECK(mean("other-samples/auto, the prior alone", 0) == mean("auto/the prior", 1));
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(mean("other-samples/J of the base", i) > 0);
    CHECK(mean("other-samples/confidence", i) > 10);  // ten classes
    CHECK(mean("other-samples/confidence", i) <= 100);
  }
}

TEST_CASE("exchanged pixels and words") {
  h::activations image, text;
  image.hidden = h::matrix::Random(1, 1000);
  for (const index_t word : {0, 5, 6, 7, 8, 2}) text.text.push_back({word, 0, 0});
  const h::task_inputs inputs = {{image}, {text, text}};
  CHECK(h::scrambled(inputs, 0, 1)[0][0].hidden == image.hidden);
  const auto half = h::scrambled(inputs, 0.5, 1), all = h::scrambled(inputs, 1, 1);
  const auto kept = [&](const h::task_inputs& other) {
    return (other[0][0].hidden.array() == image.hidden.array()).count();
  };
  CHECK(kept(half) > 400);
  CHECK(kept(half) < 600);
  CHECK(kept(all) < 20);
  for (const float pixel : all[0][0].hidden.reshaped())
    CHECK((image.hidden.array() == pixel).any());
  for (const auto& sample : all[1]) {
    CHECK(sample.text.front().word == 0);
    CHECK(sample.text.back().word == 2);
    for (std::size_t i = 1; i < 5; ++i) {
      CHECK(sample.text[i].word >= 5);
      CHECK(sample.text[i].word <= 8);
    }
  }
  CHECK(h::scrambled(inputs, 0.5, 1)[0][0].hidden == half[0][0].hidden);
}

TEST_CASE("rank correlations and their intervals") {
  CHECK(h::average_ranks(std::vector<double>{10, 30, 20, 20}) ==
        std::vector<double>{1, 4, 2.5, 2.5});
  // 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 6 * 4 / 120
  CHECK(*h::rank_correlation({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}) == doctest::Approx(0.8));
  // Ranks 1, 2.5, 2.5, 4: 4.5 / sqrt(5 * 4.5)
  CHECK(*h::rank_correlation({1, 2, 3, 4}, {1, 7, 7, 9}) == doctest::Approx(std::sqrt(0.9)));
  CHECK_FALSE(h::rank_correlation({1, 2}, {3, 3}).has_value());

  Eigen::MatrixXd a(3, 3), b(3, 3);
  a << 9, 1, 2, 3, 9, 4, 5, 6, 9;  // the diagonal, the largest, is left out
  b << 0, 2, 1, 4, 0, 3, 5, 6, 0;
  // Ranks 1 to 6 and 2, 1, 4, 3, 5, 6: 1 - 6 * 4 / 210
  CHECK(*h::rank_correlation(a, b, {0, 1, 2}) == doctest::Approx(1 - 24.0 / 210));
  // (0, 1) and (1, 0), twice each
  CHECK(*h::rank_correlation(a, b, {0, 0, 1}) == doctest::Approx(1));
  // Three different tasks of three are all of them, each once: the interval is the value.
  const auto whole = h::correlate(a, b);
  CHECK(whole.rho == doctest::Approx(1 - 24.0 / 210));
  CHECK(whole.low == doctest::Approx(whole.rho));
  CHECK(whole.high == doctest::Approx(whole.rho));

  std::mt19937_64 bits(5);
  Eigen::MatrixXd c(7, 7), d(7, 7);
  for (auto* m : {&c, &d})
    for (double& x : m->reshaped()) x = static_cast<double>(bits() % 1000);
  const auto none = h::correlate(c, d), again = h::correlate(c, d), same = h::correlate(c, c),
             opposed = h::correlate(c, -c);
  CHECK(none.low < none.rho);
  CHECK(none.rho < none.high);
  CHECK(none.low < 0);  // of independent numbers
  CHECK(none.high > 0);
  CHECK(none.low == again.low);
  CHECK(same.low == doctest::Approx(1));
  CHECK(opposed.high == doctest::Approx(-1));
}

TEST_CASE("means and spreads") {
  const auto one = h::estimate::of({3});
  CHECK(one.mean == 3);
  CHECK_FALSE(one.spread.has_value());
  const auto some = h::estimate::of({1, 2, 3, 6});
  CHECK(some.mean == 3);
  CHECK(*some.spread == doctest::Approx(std::sqrt(14.0 / 3)));
  CHECK(some.text() == "3.00 ± 2.16");
}

TEST_CASE("what is no family is refused, and nothing is written") {
  const fs::path out = clips().fresh("nothing");
  const auto check = [&](const arguments& given, int status, const std::string& message) {
    const outcome result = run(given);
    CAPTURE(result.err);
    CHECK(result.status == status);
    CHECK(result.err.find(message) != std::string::npos);
    CHECK_FALSE(fs::exists(out));
  };
  check({"experiment", clips().in(), "--output", out}, 1, "base: is missing: a family needs it");
  check({"experiment", networks, "--output", networks / "x"}, 1, "lies in one of the inputs");
  check({"experiment", networks, "--studies", "colours", "--output", out}, 2, "--studies");
  check({"experiment", networks, "--methods", "slerp", "--output", out}, 2, "--methods");
  // A method without rows of its own in the comparison.
  check({"experiment", networks, "--methods", "mean", "--output", out}, 2, "--methods");
  check({"experiment", networks, "--seeds", "0", "--output", out}, 2, "--seeds");
  const fs::path taken = clips().fresh("taken");
  fs::create_directory(taken);
  check({"experiment", networks, "--studies", "alpha", "--output", taken}, 1, "exists already");
}

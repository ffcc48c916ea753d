// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge merge`, run as users run it: its numbers against oracles of their own.

#include "support/harness/oracle.hpp"

using namespace harness_test;

namespace {

/// Of rounding in float32: base, sum and product round once or twice each, entries of the base stay
/// below 4, those of task vectors below 0.2.
constexpr double tolerance = 2e-6;

/// theta_0 + alpha sum_k T_k in double.
values_t task_arithmetic(const std::string& name, double alpha,
                         const std::vector<std::string>& tasks = task_names) {
  const values_t base = clips().base().values(name);
  values_t sum = base;
  for (const auto& task : tasks) {
    const values_t v = clips().expert(task).values(name);
    for (std::size_t j = 0; j < v.size(); ++j) sum[j] += alpha * (v[j] - base[j]);
  }
  return sum;
}

/// Names, types and shapes of the base; what is not floating-point bit for bit.
void check_frame(const table& t) {
  const table& base = clips().base();
  CHECK(t.metadata == base.metadata);
  REQUIRE(t.tensors.size() == base.tensors.size());
  for (const auto& [name, entry] : base.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(t.at(name).shape == entry.shape);
    CHECK(t.at(name).type == entry.type);
    if (!is_float(entry)) CHECK(t.at(name).bytes == entry.bytes);
  }
}

std::vector<table> tables(const std::vector<std::string>& tasks, bool features) {
  std::vector<table> list;
  for (const auto& task : tasks)
    list.push_back(features ? table(clips().features(task)) : clips().expert(task));
  return list;
}

double most(const values_t& a) {
  double m = 0;
  for (const double x : a) m = std::max(m, std::fabs(x));
  return m;
}

struct merged_with_report {
  table out;
  json report;
};

merged_with_report with_report(const arguments& options,
                               const std::vector<std::string>& tasks = task_names,
                               warning expected = warning::none) {
  const fs::path report = clips().fresh("report.json");
  table out = merged(options + arguments{"--report", report}, tasks, expected);
  return {std::move(out), json::parse(get(report))};
}

const json& parameter(const json& report, const std::string& name) {
  for (const json& p : report.at("parameters"))
    if (p.at("name") == name) return p;
  FAIL("the report lacks " << name);
  return report;
}

/// Entries of a and b, of that scale (or of b's largest entry), are equal to `relative`.
void check_close(const json& a, const values_t& b, double relative = 1e-4, double scale = 0) {
  const auto found = a.get<values_t>();
  CAPTURE(a.dump());
  CAPTURE(json(b).dump());
  CHECK(largest_difference(found, b) <= relative * std::max(most(b), scale));
}

void check_close(const json& a, const oracle::dense& b, double relative = 1e-4, double scale = 0) {
  REQUIRE(a.size() == b.rows);
  values_t flat;
  for (const json& row : a)
    for (const double x : row.get<values_t>()) flat.push_back(x);
  check_close(json(flat), b.v, relative, scale);
}

struct summary {
  int trimmed = 0;          ///< parameters whose result differs from Task Arithmetic's
  std::size_t removed = 0;  ///< directions and coordinates in all
};

/// Runs the program with these options and compares every parameter, and every number of the
/// report, with the oracle.
summary check_against_oracle(const arguments& given, const oracle::options& o,
                             const std::vector<std::string>& tasks = task_names) {
  summary s;
  const auto [out, report] = with_report(given + clips().with_features(tasks), tasks, warning::any);
  check_frame(out);
  const auto experts = tables(tasks, false), features = tables(tasks, true);
  for (const auto& [name, entry] : clips().base().tensors) {
    if (!is_float(entry)) continue;
    const std::string& shown = name;
    CAPTURE(shown);
    const auto expected = oracle::merge_one(name, clips().base(), experts, features, o);
    CHECK(expected.smallest_gap > 1e-7);  // else B is not unique and the seeds are ill chosen
    const values_t found = out.values(name);
    CHECK(largest_difference(found, expected.merged) < tolerance);
    if (largest_difference(found, task_arithmetic(name, o.alpha, tasks)) > 50 * tolerance)
      ++s.trimmed;

    const json& p = parameter(report, name);
    using oracle::kind;
    CHECK(p.at("trimmed") == (expected.what != kind::other));
    if (expected.what == kind::other) continue;
    CHECK(p.at("kind") == (expected.what == kind::linear  ? "linear"
                           : expected.what == kind::scale ? "scale"
                                                          : "shift"));
    check_close(p.at("shifts_before"), expected.before);
    check_close(p.at("shifts_after"), expected.after, 1e-4, most(expected.before.v));
    check_close(p.at("deviation"), expected.deviation, 1e-4, most(expected.before.v));
    check_close(p.at("energy_removed"), expected.energy_removed, 1e-4, 1);
    check_close(p.at("overlap"), expected.overlap, 1e-4, 1);
    for (std::size_t k = 0; k < tasks.size(); ++k) {
      double before = 0, after = 0;
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        if (i == k) continue;
        before += expected.before(k, i), after += expected.after(k, i);
      }
      CHECK(p.at("conflict_before").at(k).get<double>() == doctest::Approx(before).epsilon(1e-4));
      CHECK(p.at("conflict_after").at(k).get<double>() ==
            doctest::Approx(after).epsilon(1e-4).scale(before));
      const json& removed = p.at("removed").at(k);
      CHECK(removed.at("protects") == tasks[k]);
      if (expected.what == kind::linear) {
        check_close(removed.at("eigenvalues"), expected.eigenvalues[k]);
        s.removed += expected.eigenvalues[k].size();
      } else {
        CHECK(removed.at("coordinates").get<std::vector<std::size_t>>() == expected.coordinates[k]);
        s.removed += expected.coordinates[k].size();
      }
    }
  }
  return s;
}

void check_same(const table& a, const table& b) {
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [name, t] : a.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(t.bytes == b.at(name).bytes);
  }
}

}  // namespace

TEST_CASE("Task Arithmetic is what float64 loops give") {
  for (const double alpha : {0.4, 0.3, -1.25, 0.0}) {
    CAPTURE(alpha);
    const table out = merged({"--method", "task-arithmetic", "--alpha", std::to_string(alpha)});
    check_frame(out);
    for (const auto& [name, t] : clips().base().tensors) {
      if (!is_float(t)) continue;
      const std::string& shown = name;
      CAPTURE(shown);
      CHECK(largest_difference(out.values(name), task_arithmetic(name, alpha)) < tolerance);
    }
  }
}

TEST_CASE("default alphas are the library's") {
  check_same(merged({"--method", "task-arithmetic"}),
             merged({"--method", "task-arithmetic", "--alpha", "0.3"}));
  check_same(merged(clips().with_features()),
             merged(arguments{"--alpha", "0.4"} + clips().with_features()));
}

TEST_CASE("averaging is the mean of the experts") {
  const table out = merged({"--method", "average"});
  check_frame(out);
  for (const auto& [name, t] : clips().base().tensors) {
    if (!is_float(t)) continue;
    const std::string& shown = name;
    CAPTURE(shown);
    values_t mean(clips().base().values(name).size(), 0);
    for (const auto& task : task_names) {
      const values_t v = clips().expert(task).values(name);
      for (std::size_t j = 0; j < v.size(); ++j) mean[j] += v[j] / 3;
    }
    CHECK(largest_difference(out.values(name), mean) < tolerance);
  }
}

TEST_CASE("CAT: every parameter and every number of the report as the dense oracle has it") {
  SUBCASE("defaults") {
    const auto s = check_against_oracle({}, {});
    CHECK(s.removed > 0);
    CHECK(s.trimmed > 10);
  }
  SUBCASE("a smaller lambda, with which all ranks are used") {
    oracle::options o;
    o.lambda = 0.5, o.scale_lambda = 0.25;
    const auto s = check_against_oracle({"--lambda", "0.5", "--scale-lambda", "0.25"}, o);
    CHECK(s.trimmed > 30);
  }
  SUBCASE("ranks and alpha") {
    oracle::options o;
    o.alpha = 0.7, o.lambda = 0, o.rank = 2, o.scale_rank = 7, o.scale_lambda = 0, o.shift_rank = 1;
    const auto s =
        check_against_oracle({"--alpha", "0.7", "--lambda", "0", "--rank", "2", "--scale-rank", "7",
                              "--scale-lambda", "0", "--shift-rank", "1"},
                             o);
    // 12 linears, 6 scales, 18 shifts; 3 tasks.
    CHECK(s.removed == 3 * (12 * 2 + 6 * 7 + 18 * 1));
  }
  SUBCASE("a rank above d_out removes all there is") {
    oracle::options o;
    o.lambda = 0, o.rank = 1000, o.shift_rank = 1000, o.scale_rank = 1000, o.scale_lambda = 0;
    check_against_oracle({"--rank", "1000", "--lambda", "0", "--scale-rank", "1000",
                          "--scale-lambda", "0", "--shift-rank", "1000"},
                         o, {"a", "c"});
  }
  SUBCASE("joint order") {
    oracle::options o;
    o.lambda = 0.5, o.joint = true;
    check_against_oracle({"--lambda", "0.5", "--order", "joint"}, o);
  }
  SUBCASE("mean rows") {
    oracle::options o;
    o.lambda = 0.5, o.mean_rows = true;
    check_against_oracle({"--lambda", "0.5", "--weighting", "mean"}, o);
  }
  SUBCASE("every positive eigenvalue") {
    oracle::options o;
    o.lambda = 1, o.all_positive = true;
    check_against_oracle({"--lambda", "1", "--basis-positive"}, o);
  }
  SUBCASE("a share of the energy") {
    oracle::options o;
    o.lambda = 0.5, o.energy = 0.7;
    check_against_oracle({"--lambda", "0.5", "--basis-energy", "0.7"}, o);
  }
  SUBCASE("norms restored") {
    oracle::options o;
    o.lambda = 0.5, o.scale_lambda = 0.5, o.rescaled = true;
    check_against_oracle({"--lambda", "0.5", "--scale-lambda", "0.5", "--rescale", "frobenius"}, o);
  }
  SUBCASE("the port") {
    check_against_oracle({"--preset", "port"}, oracle::options::port());
  }
  SUBCASE("the port, a share of the energy") {
    auto o = oracle::options::port();
    o.energy = 0.8, o.lambda = 0.5;
    check_against_oracle({"--preset", "port", "--basis-energy", "0.8", "--lambda", "0.5"}, o);
  }
  SUBCASE("the port, without rescaling") {
    auto o = oracle::options::port();
    o.rescaled = false;
    check_against_oracle({"--preset", "port", "--rescale", "none"}, o);
  }
  SUBCASE("two tasks, in the other order") {
    oracle::options o;
    o.lambda = 0.5;
    check_against_oracle({"--lambda", "0.5"}, o, {"c", "a"});
  }
}

TEST_CASE("tasks trim in the order of the command line, however features are ordered") {
  const arguments few = {"--lambda", "0.5"};
  const table abc = merged(few + clips().with_features());
  check_same(abc, merged(few + clips().with_features({"c", "b", "a"})));
  const table cab = merged(few + clips().with_features(), {"c", "a", "b"});
  CHECK(abc.at(q0).bytes != cab.at(q0).bytes);
  // Two tasks: order does not matter but for the last digit of the sum.
  const table ab = merged(few + clips().with_features({"a", "b"}), {"a", "b"});
  const table ba = merged(few + clips().with_features({"a", "b"}), {"b", "a"});
  CHECK(largest_difference(ab.values(q0), ba.values(q0)) < tolerance);
}

TEST_CASE("what removes nothing is Task Arithmetic, bit for bit") {
  const table plain = merged({"--method", "task-arithmetic", "--alpha", "0.6"});
  check_same(plain, merged(arguments{"--alpha", "0.6", "--rank", "0", "--scale-rank", "0",
                                     "--shift-rank", "0"} +
                           clips().with_features()));
  // One task has no others to be protected from.
  check_same(merged({"--method", "task-arithmetic", "--alpha", "0.6"}, {"b"}),
             merged(arguments{"--alpha", "0.6"} + clips().with_features({"b"}), {"b"}));
}

TEST_CASE("alpha 0 is the base, one expert with alpha 1 the expert to rounding") {
  const table none = merged(arguments{"--alpha", "0"} + clips().with_features());
  const table all = merged(arguments{"--alpha", "1"} + clips().with_features({"a"}), {"a"});
  for (const auto& [name, t] : clips().base().tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(none.at(name).bytes == t.bytes);
    if (is_float(t))
      CHECK(largest_difference(all.values(name), clips().expert("a").values(name)) < tolerance);
  }
}

TEST_CASE("embeddings and the projection are summed as in Task Arithmetic") {
  const table plain = merged({"--method", "task-arithmetic", "--alpha", "0.4"});
  const table cat = merged(arguments{"--lambda", "0.5"} + clips().with_features());
  for (const std::string name :
       {"vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight", "visual_projection.weight"}) {
    CAPTURE(name);
    CHECK(cat.at(name).bytes == plain.at(name).bytes);
  }
  CHECK(cat.at(q0).bytes != plain.at(q0).bytes);
}

TEST_CASE("samples, features, threads and repetition: the same bytes") {
  for (const arguments& options : {arguments{}, arguments{"--lambda", "0.5", "--order", "joint"},
                                   arguments{"--preset", "port", "--feature-coefficient", "1"}}) {
    const bool port = options.size() > 2 && options[1] == "port";
    const arguments shared = port ? arguments{"--preset", "port"} : options;
    const std::string by_features = merged_bytes(shared + clips().with_features());
    CHECK(by_features == merged_bytes(options + clips().with_samples()));
    CHECK(by_features == merged_bytes(shared + clips().with_features()));
    for (const std::string threads : {"1", "2", "3", "8"}) {
      CAPTURE(threads);
      CHECK(by_features ==
            merged_bytes(options + clips().with_samples() + arguments{"--threads", threads}));
      CHECK(by_features ==
            merged_bytes(shared + clips().with_features() + arguments{"--threads", threads}));
    }
  }
  for (const std::string method : {"average", "task-arithmetic"}) {
    const std::string one = merged_bytes({"--method", method, "--threads", "1"});
    CHECK(one == merged_bytes({"--method", method, "--threads", "8"}));
    CHECK(one == merged_bytes({"--method", method}));
  }
}

TEST_CASE("features: the same bytes with any number of threads") {
  const std::string one = get(clips().features("b"));
  for (const std::string threads : {"1", "2", "3", "8"}) {
    const fs::path path = clips().fresh();
    run_well({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
              "--config", clips().config(), "--threads", threads, "--output", path});
    CHECK(get(path) == one);
  }
}

TEST_CASE("features are those that transformers recorded") {
  const fs::path path = clips().fresh();
  run_well({"features", "--model", fixture(""), "--samples", fixture("samples.safetensors"),
            "--output", path});
  const table found(path), expected(fixture("expected.safetensors"));
  int compared = 0;
  for (const auto& [name, t] : expected.tensors) {
    if (!name.ends_with(".weight") || name == "visual_projection.weight") continue;
    const std::string& shown = name;
    CAPTURE(shown);
    const auto s = oracle::statistics_of(found, name),
               right = oracle::statistics_of(expected, name);
    CHECK(s.rows == right.rows);
    if (contains(name, "norm") || contains(name, "layrnorm"))
      CHECK(largest_difference(s.moment, right.moment) < 1e-4);
    else
      CHECK(largest_difference(s.gram.v, right.gram.v) < 1e-3 * most(right.gram.v));
    ++compared;
  }
  CHECK(compared == 14);
  // As the README says: few rows stay rows, many become a Gram matrix, q, k and v share.
  CHECK(found.at(layer0 + "mlp.fc2.weight").shape == io::shape_t{30, 40});
  CHECK(found.at(layer0 + "mlp.fc1.weight::gram").shape == io::shape_t{24, 24});
  CHECK(found.at(layer0 + "layer_norm1.weight::second_moment").shape == io::shape_t{24});
  CHECK(found.metadata.at("alias:" + layer0 + "self_attn.k_proj.weight") == q0);
  CHECK(found.metadata.at("rows:vision_model.post_layernorm.weight") == "3");
}

TEST_CASE("--sample-count takes the first samples of every file") {
  arguments cut = {"--config", clips().config()};
  for (const auto& task : task_names) {
    table t(clips().samples(task));
    const auto pixels = t.at("pixel_values");
    const std::size_t half = pixels.bytes.size() / static_cast<std::size_t>(pixels.shape[0]) * 2;
    t.tensors.erase("labels");
    t.tensors["pixel_values"] = {pixels.type, {2, 3, 12, 12}, pixels.bytes.substr(0, half)};
    const fs::path path = clips().fresh("samples.safetensors");
    t.write(path);
    cut = cut + arguments{"--samples", task + "=" + path.string()};
  }
  const std::string two = merged_bytes(cut);
  CHECK(two == merged_bytes(clips().with_samples() + arguments{"--sample-count", "2"}));
  CHECK(two != merged_bytes(clips().with_samples()));
  CHECK(merged_bytes(clips().with_samples()) ==
        merged_bytes(clips().with_samples() + arguments{"--sample-count", "0"}));

  const fs::path path = clips().fresh(), whole = clips().fresh();
  run_well({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
            "--config", clips().config(), "--sample-count", "1", "--output", path});
  CHECK(table(path).metadata.at("rows:vision_model.post_layernorm.weight") == "1");
}

TEST_CASE("--feature-coefficient: the features of base + A (expert - base)") {
  arguments mixed;
  for (const auto& task : task_names) {
    table t = clips().base();
    for (const auto& [name, entry] : clips().base().tensors) {
      if (!is_float(entry)) continue;
      values_t v = clips().base().values(name);
      const values_t e = clips().expert(task).values(name);
      for (std::size_t j = 0; j < v.size(); ++j) v[j] += 0.25 * (e[j] - v[j]);
      t.set(name, entry.type, entry.shape, v);
    }
    const fs::path model = clips().fresh("mixed.safetensors"),
                   features = clips().fresh("features.safetensors");
    t.write(model);
    run_well({"features", "--model", model, "--samples", clips().samples(task), "--config",
              clips().config(), "--output", features});
    mixed = mixed + arguments{"--features", task + "=" + features.string()};
  }
  const arguments few = {"--lambda", "0.5"};
  const table right = merged(few + mixed);
  const table found =
      merged(few + clips().with_samples() + arguments{"--feature-coefficient", "0.25"});
  const table expert = merged(few + clips().with_samples());
  double difference = 0, effect = 0;
  for (const auto& [name, t] : right.tensors) {
    if (!is_float(t)) continue;
    difference = std::max(difference, largest_difference(found.values(name), right.values(name)));
    effect = std::max(effect, largest_difference(expert.values(name), right.values(name)));
  }
  CHECK(difference < 1e-5);  // the mixture is rounded in another way, and bases follow
  CHECK(effect > 1e-3);
  check_same(expert,
             merged(few + clips().with_samples() + arguments{"--feature-coefficient", "1"}));
  // The port's own is alpha.
  check_same(
      merged(arguments{"--preset", "port", "--alpha", "0.25"} + clips().with_samples()),
      merged(arguments{"--preset", "port", "--alpha", "0.25", "--feature-coefficient", "0.25"} +
             clips().with_samples()));
}

TEST_CASE("--out-dtype rounds the result once") {
  const arguments options = arguments{"--lambda", "0.5"} + clips().with_features();
  const table whole = merged(options);
  const std::vector<std::pair<std::string, dtype>> types = {{"base", dtype::f32},
                                                            {"f32", dtype::f32},
                                                            {"f16", dtype::f16},
                                                            {"bf16", dtype::bf16},
                                                            {"f64", dtype::f64}};
  for (const auto& [text, type] : types) {
    const std::string& type_shown = text;
    CAPTURE(type_shown);
    const table out = merged(options + arguments{"--out-dtype", text});
    CHECK(out.metadata == whole.metadata);
    for (const auto& [name, t] : whole.tensors) {
      const std::string& shown = name;
      CAPTURE(shown);
      CHECK(out.at(name).shape == t.shape);
      if (!is_float(t)) {
        CHECK(out.at(name).type == t.type);
        CHECK(out.at(name).bytes == t.bytes);
        continue;
      }
      CHECK(out.at(name).type == type);
      values_t expected = t.type == dtype::f32 ? whole.values(name) : values_t{};
      for (double& x : expected) x = rounded(x, type);
      CHECK(out.values(name) == expected);
    }
  }
}

TEST_CASE("the paper's preset never raises a conflict") {
  for (const arguments& options :
       {arguments{}, arguments{"--lambda", "0"}, arguments{"--order", "joint", "--rank", "9"},
        arguments{"--basis-positive", "--lambda", "0.1"},
        arguments{"--weighting", "mean", "--shift-rank", "9"}}) {
    const json report =
        with_report(options + clips().with_features(), task_names, warning::any).report;
    int seen = 0;
    for (const json& p : report.at("parameters")) {
      if (!p.at("trimmed")) continue;
      CAPTURE(p.at("name").get<std::string>());
      for (std::size_t k = 0; k < 3; ++k) {
        const double before = p.at("conflict_before").at(k), after = p.at("conflict_after").at(k);
        CHECK(after <= before * (1 + 1e-6));
        ++seen;
      }
    }
    CHECK(seen == 3 * 36);
    for (const std::string what : {"linear", "scale", "shift"})
      for (std::size_t k = 0; k < 3; ++k)
        CHECK(report.at("totals").at(what).at("conflict_after").at(k).get<double>() <=
              report.at("totals").at(what).at("conflict_before").at(k).get<double>() * (1 + 1e-6));
  }
}

TEST_CASE("cat:resamples: the merge of cat, and the angles of its removed directions") {
  const arguments resampled = {"--method", "cat:resamples=2"};
  const auto run = [&](const arguments& options) {
    return with_report(options, task_names, warning::any);
  };
  // One sample: fewer rows than inputs.
  const arguments few = arguments{"--sample-count", "1"} + clips().with_samples();
  const auto plain = run(few), measured = run(resampled + few);
  for (const auto& [name, entry] : plain.out.tensors)
    if (is_float(entry)) CHECK(measured.out.values(name) == plain.out.values(name));
  std::size_t seen = 0;
  double sum = 0;
  for (const json& p : measured.report.at("parameters")) {
    if (!p.at("trimmed") || p.at("kind") != "linear") continue;
    CAPTURE(p.at("name").get<std::string>());
    for (const json& removed : p.at("removed")) {
      if (removed.at("eigenvalues").empty()) continue;
      const double angle = removed.value("angle", -1.0);
      CHECK(angle > 0);
      CHECK(angle < 90);
      sum += angle, ++seen;
    }
  }
  CHECK(seen > 20);
  CHECK(contains(measured.report.at("summary"),
                 "turn by " + std::to_string(std::lround(sum / static_cast<double>(seen))) +
                     " degrees on average"));
  CHECK_FALSE(contains(plain.report.at("summary"), "degrees"));
  CHECK_FALSE(contains(measured.report.at("warnings").dump(), "no rows can be drawn"));
  // All samples: many rows are kept as a Gram matrix.
  CHECK(contains(run(resampled + clips().with_samples()).report.at("warnings").dump(),
                 "no rows can be drawn"));
}

TEST_CASE("the report: settings, totals, what was copied") {
  SUBCASE("the paper") {
    const json report = with_report(clips().with_samples()).report;
    const json& s = report.at("catmerge").at("settings");
    CHECK(s == json{{"method", "cat"},
                    {"alpha", 0.4},
                    {"preset", "paper"},
                    {"rank", 4},
                    {"lambda", 5.0},
                    {"scale_rank", 4},
                    {"scale_lambda", 10.0},
                    {"shift_rank", 4},
                    {"rescale", "none"},
                    {"order", "sequential"},
                    {"weighting", "sum"},
                    {"fused", "split"},
                    {"feature_coefficient", 1.0},
                    {"samples", 0}});
    CHECK(report.at("catmerge").at("label") == "CAT");
    CHECK(report.at("tasks") == json(task_names));
    CHECK(report.at("warnings") == json::array());
    CHECK(report.at("copied") == json{"vision_model.embeddings.position_ids", "flags"});
    CHECK(report.at("parameters").size() == 40);
    // Totals are sums over the parameters of a kind.
    for (const std::string what : {"linear", "scale", "shift"})
      for (const std::string number : {"conflict_before", "conflict_after", "deviation"}) {
        values_t sum(3, 0);
        for (const json& p : report.at("parameters"))
          for (std::size_t k = 0; k < 3 && p.at("trimmed") && p.at("kind") == what; ++k)
            sum[k] += p.at(number).at(k).get<double>();
        check_close(report.at("totals").at(what).at(number), sum, 1e-9);
      }
    const json& p = parameter(report, q0);
    CHECK(p.at("rows") == json{30.0, 50.0, 20.0});
    for (std::size_t k = 0; k < 3; ++k) {
      const values_t e = clips().expert(task_names[k]).values(q0), b = clips().base().values(q0);
      double squares = 0;
      for (std::size_t j = 0; j < b.size(); ++j) squares += (e[j] - b[j]) * (e[j] - b[j]);
      CHECK(p.at("task_vector_norm").at(k).get<double>() ==
            doctest::Approx(std::sqrt(squares)).epsilon(1e-5));
    }
  }
  SUBCASE("the port") {
    const json report =
        with_report(arguments{"--preset", "port", "--alpha", "0.3"} + clips().with_samples())
            .report;
    const json& s = report.at("catmerge").at("settings");
    CHECK(s.at("preset") == "port");
    CHECK(s.at("rescale") == "frobenius");
    CHECK(s.at("feature_coefficient") == 0.3);
    CHECK(s.at("alpha") == 0.3);
    CHECK(s.at("rank") == 4);
    CHECK_FALSE(parameter(report, layer0 + "self_attn.out_proj.weight").at("trimmed"));
    CHECK(parameter(report, "vision_model.embeddings.class_embedding").at("kind") == "shift");
  }
  SUBCASE("what else can be set") {
    const json report =
        with_report(arguments{"--basis-energy", "0.5", "--order", "joint", "--weighting", "mean",
                              "--lambda", "2", "--rescale", "frobenius"} +
                    clips().with_features())
            .report;
    const json& s = report.at("catmerge").at("settings");
    CHECK(s.at("basis_energy") == 0.5);
    CHECK(s.at("order") == "joint");
    CHECK(s.at("weighting") == "mean");
    CHECK(s.at("lambda") == 2.0);
    CHECK(s.at("rescale") == "frobenius");
    CHECK_FALSE(s.contains("rank"));
    CHECK_FALSE(s.contains("samples"));
    CHECK(with_report(arguments{"--basis-positive"} + clips().with_features())
              .report.at("catmerge")
              .at("settings")
              .at("basis_positive") == "yes");
  }
  SUBCASE("other methods") {
    const json report = with_report({"--method", "task-arithmetic", "--alpha", "0.2"}).report;
    CHECK(report.at("catmerge").at("settings") ==
          json{{"method", "task-arithmetic"}, {"alpha", 0.2}});
    CHECK(with_report({"--method", "average"}).report.at("catmerge").at("settings") ==
          json{{"method", "average"}});
    for (const json& p : report.at("parameters")) CHECK_FALSE(p.at("trimmed"));
  }
  SUBCASE("a report changes nothing") {
    check_same(merged(clips().with_features()), with_report(clips().with_features()).out);
  }
}

TEST_CASE("rescaling restores the norms of linear and scale task vectors") {
  // One expert's vector alone is seen with alpha 1 if the other expert equals the base.
  fs::path same = clips().fresh("same.safetensors");
  clips().base().write(same);
  const auto run_one = [&](const std::string& rescale) {
    const fs::path path = clips().fresh();
    run_well({"merge",
              "--base",
              clips().base_path(),
              "--expert",
              "a=" + clips().model("a").string(),
              "--expert",
              "z=" + same.string(),
              "--features",
              "a=" + clips().features("a").string(),
              "--features",
              "z=" + clips().features("b").string(),
              "--alpha",
              "1",
              "--lambda",
              "0",
              "--scale-lambda",
              "0",
              "--rescale",
              rescale,
              "--output",
              path},
             warning::some);  // that z's task vector is zero
    return table(path);
  };
  const table whole = run_one("frobenius"), shrunk = run_one("none");
  for (const auto& [name, t] : clips().base().tensors) {
    const auto what = is_float(t) ? oracle::kind_of(name, {}) : oracle::kind::other;
    if (what == oracle::kind::other) continue;
    const std::string& shown = name;
    CAPTURE(shown);
    const auto norm = [&, &name = name](const table& of) {
      values_t d = of.values(name);
      const values_t b = clips().base().values(name);
      double sum = 0;
      for (std::size_t j = 0; j < d.size(); ++j) sum += (d[j] - b[j]) * (d[j] - b[j]);
      return std::sqrt(sum);
    };
    CHECK(norm(shrunk) < 0.99 * norm(clips().expert("a")));
    if (what != oracle::kind::shift)
      CHECK(norm(whole) == doctest::Approx(norm(clips().expert("a"))).epsilon(1e-4));
    else
      CHECK(norm(whole) == norm(shrunk));
  }
}

TEST_CASE("--rule says what parameters are; the last that matches decides") {
  const arguments few = arguments{"--lambda", "0.5"} + clips().with_features();
  const table usual = merged(few),
              plain = merged({"--method", "task-arithmetic", "--alpha", "0.4"});
  const auto same = [](const table& a, const table& b, const std::string& name) {
    return a.at(name).bytes == b.at(name).bytes;
  };
  SUBCASE("untrimmed") {
    const table out = merged(few + arguments{"--rule", "*.layers.0.*=untrimmed"});
    for (const auto& [name, t] : usual.tensors) {
      const std::string& shown = name;
      CAPTURE(shown);
      CHECK(same(out, contains(name, ".layers.0.") ? plain : usual, name));
    }
  }
  SUBCASE("fixed") {
    const table out = merged(few + arguments{"--rule", "*.layers.1.*=untrimmed", "--rule",
                                             "{*.layers.1.*,visual_projection.weight}=fixed"});
    for (const auto& [name, t] : usual.tensors) {
      const std::string& shown = name;
      CAPTURE(shown);
      const bool fixed = contains(name, ".layers.1.") || name == "visual_projection.weight";
      CHECK(same(out, fixed ? clips().base() : usual, name));
    }
  }
  SUBCASE("fixed tensors keep their type") {
    const table out =
        merged(few + arguments{"--rule", "visual_projection.weight=fixed", "--out-dtype", "f16"});
    CHECK(same(out, clips().base(), "visual_projection.weight"));
    CHECK(out.at(q0).type == dtype::f16);
  }
  SUBCASE("an embedding as a shift") {
    const std::string name = "vision_model.embeddings.class_embedding";
    const table out = merged(few + arguments{"--rule", "*class_embedding=shift"});
    auto o = oracle::options{};
    o.masked_as_shift = {"class_embedding"};
    const auto expected = oracle::merge_one(name, clips().base(), tables(task_names, false), {}, o);
    CHECK(largest_difference(out.values(name), expected.merged) < tolerance);
    CHECK_FALSE(same(out, usual, name));
  }
  SUBCASE("the projection as a linear, by samples") {
    const table out =
        merged(arguments{"--lambda", "0.5", "--rule", "visual_projection.weight=linear"} +
               clips().with_samples());
    CHECK_FALSE(same(out, usual, "visual_projection.weight"));
    CHECK(same(out, usual, q0));
  }
}

TEST_CASE("features that were opted in by the same rule in `catmerge features`") {
  arguments files;
  for (const auto& task : task_names) {
    const fs::path path = clips().fresh("features.safetensors");
    run_well({"features", "--model", clips().model(task), "--samples", clips().samples(task),
              "--config", clips().config(), "--rule", "visual_projection.weight=linear", "--output",
              path});
    files = files + arguments{"--features", task + "=" + path.string()};
  }
  const arguments rule = {"--lambda", "0.5", "--rule", "visual_projection.weight=linear"};
  CHECK(merged_bytes(rule + files) == merged_bytes(rule + clips().with_samples()));
}

TEST_CASE("a parameter without statistics while others have them") {
  const std::string fc1 = layer1 + "mlp.fc1.weight", norm = layer0 + "layer_norm2.weight";
  // Missing for one task is missing for all.
  table t(clips().features("b"));
  std::erase_if(t.tensors, [&](const auto& e) {
    return e.first.starts_with(fc1) || e.first.starts_with(norm);
  });
  t.metadata.erase("rows:" + fc1), t.metadata.erase("rows:" + norm);
  const fs::path path = clips().fresh("features.safetensors"), out_path = clips().fresh(),
                 report_path = clips().fresh("report.json");
  t.write(path);
  const outcome r = run(clips().merge(out_path) + clips().with_features({"a", "c"}) +
                        arguments{"--features", "b=" + path.string(), "--report", report_path});
  CAPTURE(r.err);
  REQUIRE(r.status == 0);
  CHECK_CONTAINS(r.err, "catmerge: warning: ");
  CHECK_CONTAINS(r.err, "have no features and were merged by the sum of the task vectors");
  CHECK_CONTAINS(r.err, fc1);
  CHECK_CONTAINS(r.err, norm);
  CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  const json report = json::parse(get(report_path));
  REQUIRE(report.at("warnings").size() == 1);
  CHECK_CONTAINS(report.at("warnings").at(0).get<std::string>(), fc1);
  const table out(out_path), plain = merged({"--method", "task-arithmetic", "--alpha", "0.4"}),
                             usual = merged(clips().with_features());
  for (const auto& [name, entry] : usual.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    const bool missing = name == fc1 || name == norm;
    CHECK(out.at(name).bytes == (missing ? plain : usual).at(name).bytes);
    if (is_float(entry)) CHECK(parameter(report, name).contains("missing_statistics") == missing);
  }
}

TEST_CASE("names that no rule knows are Task Arithmetic, with a warning") {
  const auto renamed = [](table t, const fs::path& path) {
    auto node = t.tensors.extract("visual_projection.weight");
    node.key() = "adapter.weight";
    t.tensors.insert(std::move(node));
    return t.write(path);
  };
  arguments command = {"merge", "--base",
                       renamed(clips().base(), clips().fresh("base.safetensors"))};
  for (const auto& task : task_names)
    command = command +
              arguments{"--expert",
                        task + "=" +
                            renamed(clips().expert(task), clips().fresh("e.safetensors")).string()};
  const fs::path path = clips().fresh();
  const outcome r = run(command + clips().with_features() + arguments{"--output", path});
  REQUIRE(r.status == 0);
  CHECK_CONTAINS(r.err, "adapter.weight");
  CHECK(largest_difference(table(path).values("adapter.weight"),
                           task_arithmetic("visual_projection.weight", 0.4)) < tolerance);
}

TEST_CASE("vectors that the trim leaves at zero are reported") {
  const fs::path report = clips().fresh("report.json"), path = clips().fresh();
  const outcome r = run(clips().merge(path) + clips().with_features() +
                        arguments{"--shift-rank", "1000", "--report", report});
  REQUIRE(r.status == 0);
  CHECK_CONTAINS(r.err, "trimmed to zero");
  const json whole = json::parse(get(report));
  const json& p = parameter(whole, layer0 + "mlp.fc1.bias");
  CHECK(p.at("trimmed_to_zero") == json(task_names));
  CHECK(table(path).at(layer0 + "mlp.fc1.bias").bytes ==
        clips().base().at(layer0 + "mlp.fc1.bias").bytes);
}

TEST_CASE("fused: parts of a weight alone, or as one matrix") {
  const arguments few = arguments{"--lambda", "0.5"} + clips().with_features(),
                  parts = few + arguments{"--rule", q0 + "=linear,3-parts"};
  const std::string one_matrix = merged(few).at(q0).bytes;
  CHECK(merged(parts).at(q0).bytes != one_matrix);
  CHECK(merged(parts + arguments{"--fused", "split"}).at(q0).bytes == merged(parts).at(q0).bytes);
  for (const arguments& options :
       {arguments{"--fused", "whole"},
        {"--method", "cat:fused=whole"},
        {"--set", q0 + ":fused=whole"},
        {"--method", "task-arithmetic:alpha=0.4", "--before", "cat:fused=whole"}})
    CHECK(merged(parts + options).at(q0).bytes == one_matrix);
}

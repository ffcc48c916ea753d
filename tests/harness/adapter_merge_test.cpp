// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge merge --adapter`: adapters that PEFT made and random ones, against the dense methods
/// on their differences; the written folder, as io::adapter reads it; what is refused.

#include <Eigen/SVD>
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <catmerge/io/statistics.hpp>
#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <cstdlib>

#include "support/harness/program.hpp"

using namespace harness_test;
using Eigen::MatrixXd;
using io::adapter_layer;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace {

const fs::path fixtures = fs::path(CATMERGE_FIXTURES) / "adapters";

/// Factors written in F32: products of numbers that were rounded once or twice each.
constexpr double in_float = 1e-6;
/// Adapters in F64: the factors' algebra, whose error io and rounding do not reach.
constexpr double in_double = 1e-9;

/// s B A of each weight, d_out x d_in, by name; and s b under the name of the bias.
std::map<std::string, MatrixXd> differences(const io::adapter& tuned) {
  std::map<std::string, MatrixXd> all;
  for (const auto& target : tuned.targets()) {
    const auto values = io::difference_of<double>(target);
    const bool out_in = io::is_out_in(target);
    const index_t rows = out_in ? target.d_out : target.d_in,
                  columns = out_in ? target.d_in : target.d_out;
    const MatrixXd stored = Eigen::Map<const row_major>(values.data(), rows, columns);
    all[target.name()] = out_in ? stored : MatrixXd(stored.transpose());
    const auto bias = io::bias_difference_of<double>(target);
    if (!bias.empty())
      all[target.bias_name()] = Eigen::Map<const Eigen::VectorXd>(bias.data(), target.d_out);
  }
  return all;
}

void check_equal(const std::map<std::string, MatrixXd>& found,
                 const std::map<std::string, MatrixXd>& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (const auto& [key, value] : expected) {
    const std::string& name = key;
    CAPTURE(name);
    REQUIRE(found.contains(name));
    CHECK((found.at(name) - value).norm() <= tolerance * value.norm());
  }
}

/// A random number of both signs, seeded.
MatrixXd random_matrix(noise& n, index_t rows, index_t columns, double size = 1) {
  MatrixXd m(rows, columns);
  for (index_t j = 0; j < columns; ++j)
    for (index_t i = 0; i < rows; ++i) m(i, j) = n(size);
  return m;
}

/// One target of a small adapter, in F64.
struct small_target {
  std::string module;
  index_t d_out = 0;
  io::shape_t input;
  index_t rank = 1;
  adapter_layer layer = adapter_layer::linear;
  MatrixXd b{}, a{}, bias{};
};

small_target random_target(noise& n, const std::string& module, index_t d_out, io::shape_t input,
                           index_t rank, adapter_layer layer = adapter_layer::linear) {
  index_t d_in = 1;
  for (const index_t extent : input) d_in *= extent;
  return {module,
          d_out,
          std::move(input),
          rank,
          layer,
          random_matrix(n, d_out, rank),
          random_matrix(n, rank, d_in)};
}

struct whole_tensor {
  std::string name;
  values_t values;
};

/// Writes an adapter with s = 1.
fs::path write_adapter(const fs::path& path, const std::vector<small_target>& targets,
                       const std::vector<whole_tensor>& whole = {}, io::adapter_options how = {},
                       dtype type = dtype::f64) {
  std::vector<io::planned_target> plans;
  for (const auto& t : targets)
    plans.push_back({t.module, t.layer, t.rank, t.d_out, t.input, type, t.bias.size() > 0});
  std::vector<io::tensor_info> infos;
  for (const auto& tensor : whole)
    infos.push_back({tensor.name, dtype::f64, {static_cast<index_t>(tensor.values.size())}});
  io::adapter_writer out(path, plans, infos, how);
  const auto put = [&](const io::tensor_info& info, const MatrixXd& m) {
    const row_major values = m;
    std::vector<std::byte> bytes(*io::byte_count(info));
    io::convert(std::span(values.data(), static_cast<std::size_t>(values.size())), std::span(bytes),
                *io::scalar_of(type));
    out.write(info.name, bytes);
  };
  for (std::size_t i = 0; i < plans.size(); ++i) {
    put(plans[i].a(), targets[i].a);
    put(plans[i].b(), targets[i].b);
    if (plans[i].has_bias) put(plans[i].bias(), targets[i].bias);
  }
  for (const auto& tensor : whole)
    out.write(out.name_of(tensor.name), std::as_bytes(std::span(tensor.values)));
  out.commit();
  return path;
}

/// A file of features: rows of X for each parameter.
fs::path write_features(const fs::path& path, const std::map<std::string, MatrixXd>& rows) {
  std::vector<io::statistics_writer::declaration> all;
  for (const auto& [name, x] : rows)
    all.push_back(
        {name, catmerge::statistics_form::rows, dtype::f64, {x.rows(), x.cols()}, x.rows()});
  io::statistics_writer writer(path, all);
  for (const auto& [name, x] : rows) {
    const row_major values = x;
    writer.write(name,
                 std::as_bytes(std::span(values.data(), static_cast<std::size_t>(values.size()))));
  }
  writer.commit();
  return path;
}

/// Adapters in a folder of their own.
struct workplace {
  temporary_folder folder;
  arguments experts, features;

  fs::path out() const { return folder / "out"; }
  void add(const std::string& task, const fs::path& path) {
    experts = experts + arguments{"--expert", task + "=" + path.string()};
  }
  void add_features(const std::string& task, const std::map<std::string, MatrixXd>& rows) {
    const fs::path path = write_features(folder / (task + ".safetensors"), rows);
    features = features + arguments{"--features", task + "=" + path.string()};
  }
  arguments command(const arguments& more) const {
    return arguments{"merge", "--adapter", "--output", out()} + experts + features + more;
  }
  io::adapter merged(const arguments& more, warning expected = warning::none) const {
    fs::remove_all(out());
    run_well(command(more), expected);
    return io::adapter(out());
  }
  json report(const arguments& more, warning expected = warning::none) const {
    const fs::path path = folder / "report.json";
    fs::remove(path);
    merged(more + arguments{"--report", path}, expected);
    return json::parse(get(path));
  }
  /// The message of a merge that must fail and leave nothing.
  std::string refused(const arguments& more, int status) const {
    fs::remove_all(out());
    const auto before = folder.names();
    surroundings as_users;
    as_users.own_default = true;
    const outcome result = run(command(more), as_users);
    CHECK(result.status == status);
    CHECK(folder.names() == before);
    return result.err;
  }
};

const json& parameter(const json& report, const std::string& name) {
  for (const json& p : report.at("parameters"))
    if (p.at("name") == name) return p;
  FAIL("the report lacks " << name);
  return report;
}

/// Three tasks, two weights; the last task leaves the second weight alone. All have features of it.
struct three_tasks : workplace {
  static constexpr index_t d_out = 10, d_in = 8;
  std::map<std::string, std::vector<MatrixXd>> vectors, rows;  // dense, by weight

  explicit three_tasks(adapter_layer layer = adapter_layer::linear,
                       const std::string& stem = "model.layers.0.") {
    noise n(7);
    for (const std::string task : {"a", "b", "c"}) {
      std::vector<small_target> targets;
      std::map<std::string, MatrixXd> inputs;
      for (const std::string module : {"up_proj", "down_proj"}) {
        const std::string name = stem + "mlp." + module + ".weight";
        inputs[name] = random_matrix(n, 5 + static_cast<index_t>(task[0] - 'a'), d_in);
        rows[name].push_back(inputs[name]);
        if (task == "c" && module == "down_proj") {
          vectors[name].push_back(MatrixXd::Zero(d_out, d_in));
          continue;
        }
        targets.push_back(random_target(n, stem + "mlp." + module, d_out, {d_in},
                                        2 + static_cast<index_t>(task[0] - 'a'), layer));
        vectors[name].push_back(targets.back().b * targets.back().a);
      }
      add(task, write_adapter(folder / task, targets));
      add_features(task, inputs);
    }
  }
};

const arguments sum_of = {"--method", "task-arithmetic", "--alpha", "1"};

}  // namespace

/// Leaves an output for tests/python/test_adapters.py, in the folder named by CATMERGE_ADAPTERS.
void keep(const fs::path& output, const std::string& name) {
  const char* const folder = std::getenv("CATMERGE_ADAPTERS");
  if (folder == nullptr || *folder == '\0') return;
  fs::remove_all(fs::path(folder) / name);
  fs::create_directories(folder);
  fs::copy(output, fs::path(folder) / name);
}

TEST_CASE("one adapter is itself, whatever its configuration") {
  const json cases = json::parse(get(fixtures / "cases.json"));
  CHECK(cases.size() > 12);
  for (const auto& [key, about] : cases.items()) {
    const std::string name = key;
    CAPTURE(name);
    workplace w;
    w.add("a", fixtures / name);
    const io::adapter before(fixtures / name);
    const io::adapter after = w.merged(sum_of + arguments{"--out-dtype", "f32"});
    keep(w.out(), "program_" + name);
    check_equal(differences(after), differences(before), in_float);
    REQUIRE(after.targets().size() == before.targets().size());
    for (std::size_t i = 0; i < after.targets().size(); ++i) {
      CHECK(after.targets()[i].module == before.targets()[i].module);
      CHECK(after.targets()[i].layer == before.targets()[i].layer);
      CHECK(after.targets()[i].rank == before.targets()[i].rank);
      CHECK(after.targets()[i].shape() == before.targets()[i].shape());
    }
    REQUIRE(after.replaced().size() == before.replaced().size());
    for (std::size_t i = 0; i < after.replaced().size(); ++i) {
      CHECK(after.replaced()[i].name == before.replaced()[i].name);
      CHECK(io_test::text_of(after.replaced()[i].entry->bytes) ==
            io_test::text_of(before.replaced()[i].entry->bytes));
    }
    CHECK(after.config().bias == before.config().bias);
    CHECK(after.config().task_type == before.config().task_type);
    const io::adapter as_it_was = w.merged(sum_of);
    CHECK(as_it_was.targets()[0].a->type == before.targets()[0].a->type);
  }
}

TEST_CASE("several adapters are their sum, with weights, in any order") {
  workplace w;
  std::map<std::string, MatrixXd> expected, mean;
  std::map<std::string, index_t> ranks;
  const std::vector<std::string> names = {"plain", "second", "patterns", "rslora_patterns"};
  for (const auto& name : names) {
    w.add(name, fixtures / name);
    const io::adapter tuned(fixtures / name);
    for (const auto& target : tuned.targets()) ranks[target.name()] += target.rank;
    for (const auto& [key, value] : differences(tuned)) {
      if (!expected.contains(key)) {
        expected[key] = mean[key] = MatrixXd::Zero(value.rows(), value.cols());
      }
      expected[key] += 0.5 * (name == "second" ? -2 : 1) * value;
      mean[key] += value / 4;
    }
  }
  const arguments half = {"--method", "task-arithmetic:alpha=0.5", "--weight", "second=-2"};
  const io::adapter sum = w.merged(half, warning::some);
  check_equal(differences(sum), expected, in_float);
  for (const auto& target : sum.targets()) CHECK(target.rank == ranks.at(target.name()));
  workplace turned;
  for (auto name = names.rbegin(); name != names.rend(); ++name)
    turned.add(*name, fixtures / *name);
  check_equal(differences(turned.merged(half, warning::some)), expected, in_float);
  check_equal(differences(w.merged({"--method", "average"}, warning::some)), mean, in_float);

  const outcome told = run(w.command({"--method", "average", "--overwrite"}));
  CHECK_CONTAINS(told.out, "11 parameters merged: 11 by the method's rule");
  CHECK_CONTAINS(told.out, "Ranks: 1 to 6 in the adapters, ");
  CHECK_CONTAINS(told.err, "are missing from experts");
  CHECK_CONTAINS(told.err, "bert.pooler.dense.weight of 'rslora_patterns'");

  w.merged(sum_of, warning::some);
  keep(w.out(), "program");
}

TEST_CASE("CAT, LOT and TSV-M equal the dense methods on the differences") {
  for (const auto layer : {adapter_layer::linear, adapter_layer::transposed_linear}) {
    const three_tasks t(layer);
    const auto dense = [&](const auto& merge) {
      std::map<std::string, MatrixXd> all;
      const MatrixXd zero = MatrixXd::Zero(t.d_out, t.d_in);
      for (const auto& [name, vectors] : t.vectors)
        all[name] = merge(zero, vectors, t.rows.at(name)).merged;
      return all;
    };
    catmerge::cat_options cat;
    cat.linear.lambda = 1;
    cat.linear.directions = catmerge::largest{1};
    cat.alpha = 0.5;
    const arguments by_cat = {"--method", "cat:lambda=1,rank=1,alpha=0.5"};
    const auto expected = dense([&](const auto& zero, const auto& vectors, const auto& rows) {
      return catmerge::cat_linear(zero, vectors, rows, cat);
    });
    check_equal(differences(t.merged(by_cat, warning::some)), expected, in_double);
    // The options of the command line are the method's settings.
    check_equal(
        differences(t.merged({"--method", "cat", "--lambda", "1", "--rank", "1", "--alpha", "0.5"},
                             warning::some)),
        expected, in_double);
    // It does something, and the ranks are the sums of those of adapters with factors.
    CHECK((expected.begin()->second -
           0.5 * (t.vectors.begin()->second[0] + t.vectors.begin()->second[1]))
              .norm() > 0.1);
    const io::adapter merged = t.merged(by_cat, warning::some);
    CHECK(merged.targets()[0].rank == 2 + 3);
    CHECK(merged.targets()[1].rank == 2 + 3 + 4);
    CHECK(merged.targets()[0].layer == layer);

    check_equal(
        differences(t.merged({"--method", "lot:alpha=1.2,ridge=0.01"}, warning::some)),
        dense([&](const auto& zero, const auto& vectors, const auto& rows) {
          return catmerge::lot_linear(zero, vectors, rows, catmerge::lot_options{1.2, 0.01});
        }),
        in_double);
    workplace without;
    without.experts = t.experts;
    check_equal(differences(without.merged({"--method", "tsv-m:alpha=0.7"}, warning::some)),
                dense([&](const auto& zero, const auto& vectors, const auto&) {
                  catmerge::tsv_m_options o;
                  o.alpha = 0.7;
                  return catmerge::tsv_m(zero, vectors, o);
                }),
                in_double);
    const MatrixXd& up = t.vectors.rbegin()->second[0];
    CHECK(t.vectors.rbegin()->first == "model.layers.0.mlp.up_proj.weight");
    std::vector<catmerge::factored_vector<MatrixXd, MatrixXd>> factors;
    for (const auto& v : t.vectors.rbegin()->second)
      factors.push_back({v, MatrixXd::Identity(up.cols(), up.cols())});
    // (Other factors of the same vectors, and the same core space.)
    catmerge::iso_options iso;
    iso.alpha = 2;
    const auto core = catmerge::core_iso(factors, iso);
    const auto found = differences(without.merged({"--method", "core-iso:alpha=2"}, warning::some));
    const MatrixXd all = core.merged.scale * core.merged.b * core.merged.a;
    CHECK((found.at("model.layers.0.mlp.up_proj.weight") - all).norm() <= in_double * all.norm());
  }
}

TEST_CASE("q, k and v in one weight are trimmed each alone, by the names of the network") {
  noise n(3);
  workplace w;
  const std::string module = "transformer.h.0.attn.c_attn";
  std::vector<MatrixXd> vectors, rows;
  for (const std::string task : {"a", "b"}) {
    const auto target = random_target(n, module, 18, {6}, 3, adapter_layer::transposed_linear);
    w.add(task, write_adapter(w.folder / task, {target}));
    vectors.push_back(target.b * target.a);
    rows.push_back(random_matrix(n, 9, 6));
    w.add_features(task, {{module + ".weight", rows.back()}});
  }
  catmerge::cat_method cat;
  cat.options.linear.directions = catmerge::largest{1};
  catmerge::layer_problem<catmerge::context<catmerge::host>> p;
  p.kind = catmerge::layer_kind::linear;
  catmerge::context<catmerge::host> c;
  p.statistics = catmerge::detail::as_statistics_list(rows);
  const MatrixXd zero = MatrixXd::Zero(18, 6);
  const auto whole = catmerge::merge_parameter(cat, p, zero, vectors, c).merged;
  p.parts = 3;
  const MatrixXd parts = catmerge::merge_parameter(cat, p, zero, vectors, c).merged;
  CHECK((whole - parts).norm() > 0.01);
  const auto found = differences(w.merged({"--method", "cat:rank=1"})).at(module + ".weight");
  CHECK((found - parts).norm() <= in_double * parts.norm());
  const auto together =
      differences(w.merged({"--method", "cat:rank=1,fused=whole"})).at(module + ".weight");
  CHECK((together - whole).norm() <= in_double * whole.norm());
}

TEST_CASE("a chosen rank loses what the singular values beyond it hold, and says how much") {
  const three_tasks t;
  std::map<std::string, MatrixXd> sums;
  for (const auto& [name, vectors] : t.vectors) sums[name] = vectors[0] + vectors[1] + vectors[2];
  workplace w;
  w.experts = t.experts;
  const fs::path path = w.folder / "report.json";
  const io::adapter merged =
      w.merged(sum_of + arguments{"--adapter-rank", "3", "--report", path}, warning::some);
  const json report = json::parse(get(path));
  const auto found = differences(merged);
  for (const auto& target : merged.targets()) {
    CHECK(target.rank == 3);
    const MatrixXd& sum = sums.at(target.name());
    const Eigen::VectorXd s = Eigen::JacobiSVD<MatrixXd>(sum).singularValues();
    const double lost = s.tail(s.size() - 3).norm() / s.norm();
    CHECK(lost > 0.1);
    CHECK((found.at(target.name()) - sum).norm() / sum.norm() ==
          doctest::Approx(lost).epsilon(1e-9));
    const json& p = parameter(report, target.name());
    CHECK(p.at("compression_error").get<double>() == doctest::Approx(lost).epsilon(1e-9));
    CHECK(p.at("ranks").at("written") == 3);
    CHECK(p.at("ranks").at("experts").size() == 3);
  }
  CHECK(parameter(report, "model.layers.0.mlp.down_proj.weight").at("ranks").at("experts") ==
        json{2, 3, 0});
  CHECK_CONTAINS(report.at("summary").get<std::string>(), "the compression's largest relative");
  // A rank that is not reached changes nothing.
  const io::adapter whole = w.merged(sum_of + arguments{"--adapter-rank", "50"}, warning::some);
  for (const auto& target : whole.targets()) CHECK(target.rank > 4);
}

TEST_CASE("the report is that of a merge into a network") {
  const three_tasks t;
  const json report = t.report({"--method", "cat:rank=2"}, warning::some);
  CHECK(report.at("tasks") == json{"a", "b", "c"});
  CHECK(report.at("catmerge").at("settings").at("method") == "cat:rank=2");
  CHECK(report.at("catmerge").at("settings").at("adapter") == true);
  // No base is read, so nothing is relative to one.
  CHECK(report.at("totals").at("task_vectors").contains("norm"));
  CHECK(!report.at("totals").at("task_vectors").contains("relative"));
  CHECK(!report.at("parameters").at(0).contains("base_norm"));
  double before = 0, after = 0;
  for (const auto& [name, vectors] : t.vectors) {
    const json& p = parameter(report, name);
    CHECK(p.at("kind") == "linear");
    CHECK(p.at("trimmed") == true);
    const MatrixXd merged = differences(io::adapter(t.out())).at(name);
    for (std::size_t k = 0; k < 3; ++k) {
      const MatrixXd& x = t.rows.at(name)[k];
      double conflict = 0;
      for (std::size_t i = 0; i < 3; ++i)
        if (i != k) conflict += (x * vectors[i].transpose()).squaredNorm();
      CHECK(p.at("conflict_before")[k].get<double>() == doctest::Approx(conflict).epsilon(1e-9));
      CHECK(p.at("task_vector_norm")[k].get<double>() ==
            doctest::Approx(vectors[k].norm()).epsilon(1e-9));
      CHECK(p.at("drift")[k].get<double>() ==
            doctest::Approx((x * (merged - vectors[k]).transpose()).squaredNorm()).epsilon(1e-8));
      before += p.at("conflict_before")[k].get<double>();
      after += p.at("conflict_after")[k].get<double>();
    }
  }
  CHECK(after < before);
  const outcome told = run(t.command({"--method", "cat:rank=2", "--overwrite"}));
  CHECK_CONTAINS(told.out, "Conflict of linear weights: ");
  CHECK_CONTAINS(told.out, "2 by the method's rule, on trimmed task vectors");
  const fs::path page = t.folder / "report.html";
  t.merged({"--method", "core-iso", "--report", page}, warning::some);
  CHECK_CONTAINS(get(page), "3 experts merged by Iso-C in core space");
}

TEST_CASE("what is no linear map, or has no features, falls back as in networks") {
  noise n(11);
  workplace w;
  std::vector<std::map<std::string, MatrixXd>> tasks;
  for (const std::string task : {"a", "b"}) {
    const std::vector<small_target> targets = {
        random_target(n, "model.embed_tokens", 4, {9}, 2, adapter_layer::embedding),
        random_target(n, "stem", 4, {3, 2, 2}, 2, adapter_layer::convolution),
        random_target(n, "model.layers.0.self_attn.q_proj", 6, {5}, 2),
        random_target(n, "model.layers.0.self_attn.k_proj", 6, {5}, 2)};
    w.add(task, write_adapter(w.folder / task, targets));
    w.add_features(task, {{"model.layers.0.self_attn.q_proj.weight", random_matrix(n, 7, 5)}});
    tasks.push_back(differences(io::adapter(w.folder / task)));
  }
  const std::vector<std::string> others = {"model.embed_tokens.weight", "stem.weight",
                                           "model.layers.0.self_attn.k_proj.weight"};
  for (const std::string method : {"cat:alpha=0.5", "lot:alpha=0.5"}) {
    CAPTURE(method);
    const json report = w.report({"--method", method}, warning::some);
    const auto found = differences(io::adapter(w.out()));
    const double factor = method.starts_with("cat") ? 0.5 : 0.25;
    for (const auto& name : others) {
      CAPTURE(name);
      CHECK(parameter(report, name).at("fallback") == true);
      const MatrixXd expected = factor * (tasks[0].at(name) + tasks[1].at(name));
      CHECK((found.at(name) - expected).norm() <= in_double * expected.norm());
    }
    CHECK_FALSE(parameter(report, "model.layers.0.self_attn.q_proj.weight").contains("fallback"));
    CHECK(parameter(report, others[2]).at("missing_statistics") == true);
    CHECK(parameter(report, others[2]).at("because") == "there are no features of it");
  }
  // Methods of singular directions leave tables of tokens to the mean.
  workplace without;
  without.experts = w.experts;
  const auto found = differences(without.merged({"--method", "tsv-m:alpha=3"}));
  const MatrixXd mean = (tasks[0].at(others[0]) + tasks[1].at(others[0])) / 2;
  CHECK((found.at(others[0]) - mean).norm() <= in_double * mean.norm());
}

TEST_CASE("a convolution with features is trimmed as the matrix of its kernel") {
  noise n(12);
  workplace w;
  std::vector<MatrixXd> vectors, rows;
  for (const std::string task : {"a", "b"}) {
    const auto target =
        random_target(n, "layer1.0.conv1", 5, {2, 2, 1}, 2, adapter_layer::convolution);
    w.add(task, write_adapter(w.folder / task, {target}));
    vectors.push_back(target.b * target.a);
    rows.push_back(random_matrix(n, 6, 4));
    w.add_features(task, {{"layer1.0.conv1.weight", rows.back()}});
  }
  catmerge::cat_options cat;
  cat.linear.directions = catmerge::largest{1};
  const MatrixXd expected =
      catmerge::cat_linear(MatrixXd(MatrixXd::Zero(5, 4)), vectors, rows, cat).merged;
  const auto found =
      differences(w.merged({"--method", "cat:rank=1", "--rule", "*conv1.weight=conv"}));
  CHECK((found.at("layer1.0.conv1.weight") - expected).norm() <= in_double * expected.norm());
}

TEST_CASE("biases of B follow the method's rule for shifts") {
  noise n(13);
  workplace w;
  const std::string module = "bert.encoder.layer.0.attention.self.query";
  std::vector<Eigen::VectorXd> biases;
  std::map<std::string, MatrixXd> rows;
  for (const std::string task : {"a", "b"}) {
    auto target = random_target(n, module, 6, {5}, 2);
    target.bias = random_matrix(n, 6, 1);
    biases.emplace_back(target.bias);
    w.add(task, write_adapter(w.folder / task, {target}));
    w.add_features(task, {{module + ".weight", random_matrix(n, 7, 5)}});
  }
  const auto bias_by = [&](const arguments& method) {
    return differences(w.merged(method)).at(module + ".bias");
  };
  catmerge::cat_options cat;
  cat.alpha = 0.4;
  cat.shift.count = 2;
  const Eigen::VectorXd zero = Eigen::VectorXd::Zero(6);
  const Eigen::VectorXd masked = catmerge::cat_shift(zero, biases, cat).merged;
  CHECK((bias_by({"--method", "cat", "--shift-rank", "2", "--alpha", "0.4"}) - masked).norm() <=
        in_double);
  CHECK((masked - 0.4 * (biases[0] + biases[1])).norm() > 0.1);
  CHECK((bias_by({"--method", "lot:alpha=1.2"}) - 0.6 * (biases[0] + biases[1])).norm() <=
        in_double);
  w.features = {};
  CHECK((bias_by({"--method", "task-arithmetic", "--alpha", "2", "--weight", "a=3"}) -
         2 * (3 * biases[0] + biases[1]))
            .norm() <= in_double);
  // An adapter without such biases adds none; a module without one in any adapter has no place.
  w.add("c", write_adapter(w.folder / "c", {random_target(n, module, 6, {5}, 1)}));
  CHECK((bias_by(sum_of) - biases[0] - biases[1]).norm() <= in_double);
  w.add("d", write_adapter(w.folder / "d", {random_target(n, module, 6, {5}, 1),
                                            random_target(n, "bert.other", 6, {5}, 1)}));
  CHECK_CONTAINS(w.refused(sum_of, 1), "bert.other.lora_B.weight': has no bias beside it");
}

TEST_CASE("what adapters hold whole is kept if all agree, and else named") {
  noise n(17);
  workplace w;
  const io::adapter_options head = {.task_type = "SEQ_CLS", .modules_to_save = {"classifier"}};
  const auto target = [&] { return std::vector{random_target(n, "bert.x.query", 4, {3}, 2)}; };
  w.add("a", write_adapter(w.folder / "a", target(),
                           {{"classifier.bias", {1, 2}}, {"classifier.weight", {3, 4, 5}}}, head));
  w.add("b", write_adapter(w.folder / "b", target(),
                           {{"classifier.bias", {1, 2}}, {"classifier.weight", {3, 4, 6}}}, head));
  const std::string message = w.refused(sum_of, 1);
  CHECK_CONTAINS(message, "'classifier.weight' of 'a', 'b'");
  CHECK_CONTAINS(message, "--drop");
  CHECK_CONTAINS(message, "--task-heads");
  {
    const io::adapter merged = w.merged(sum_of + arguments{"--drop", "classifier.weight"});
    REQUIRE(merged.replaced().size() == 1);
    CHECK(merged.replaced()[0].name == "classifier.bias");
    CHECK(merged.config().task_type == "SEQ_CLS");
    CHECK(merged.config().modules_to_save == std::vector<std::string>{"classifier"});
  }
  const fs::path heads = w.folder / "heads";
  const outcome told =
      run_well(w.command(sum_of + arguments{"--task-heads", "classifier.*", "--heads-output", heads,
                                            "--overwrite"}),
               warning::some);
  CHECK_CONTAINS(told.err, "task_type 'SEQ_CLS' is not written");
  CHECK_CONTAINS(told.out, "2 left out: classifier.weight classifier.bias");
  CHECK(io::adapter(w.out()).replaced().empty());
  CHECK(io::adapter(w.out()).config().task_type.empty());
  CHECK(table(heads / "a.safetensors").values("classifier.weight") == values_t{3, 4, 5});
  CHECK(table(heads / "b.safetensors").values("classifier.weight") == values_t{3, 4, 6});
  CHECK(table(heads / "b.safetensors").values("classifier.bias") == values_t{1, 2});
  // One without the head, and one of another task.
  w.add("c", write_adapter(w.folder / "c", target(), {}, {}));
  CHECK_CONTAINS(w.refused(sum_of, 1), "task_type is 'SEQ_CLS' for 'a' and none for 'c'");
  const arguments warn = {"--contradictions", "warn", "--drop", "classifier*"};
  CHECK(w.merged(sum_of + warn, warning::some).replaced().empty());
}

TEST_CASE("weights can be left to the base") {
  const three_tasks t;
  workplace w;
  w.experts = t.experts;
  const io::adapter merged = w.merged(sum_of + arguments{"--exclude", "*down_proj*"});
  REQUIRE(merged.targets().size() == 1);
  CHECK(merged.targets()[0].module == "model.layers.0.mlp.up_proj");
  CHECK(w.merged(sum_of + arguments{"--drop", "*up_proj*"}, warning::some).targets().size() == 1);
  CHECK(w.merged(sum_of + arguments{"--include", "*up_proj*"}).targets().size() == 1);
  CHECK_CONTAINS(w.refused(sum_of + arguments{"--exclude", "*upp*"}, 1), "no tensor's name");
  CHECK_CONTAINS(w.refused(sum_of + arguments{"--drop", "*"}, 1), "leave no weight to merge");
}

TEST_CASE("a base finds features by its own names, and checks the adapters") {
  noise n(19);
  workplace w;
  table base;
  base.set("layer.0.query.weight", dtype::f32, {4, 3}, values_t(12, 1.0));
  base.write(w.folder / "base.safetensors");
  std::map<std::string, MatrixXd> rows;
  std::vector<MatrixXd> vectors, features;
  for (const std::string task : {"a", "b"}) {
    const auto target = random_target(n, "bert.layer.0.query", 4, {3}, 2);
    w.add(task, write_adapter(w.folder / task, {target}));
    vectors.push_back(target.b * target.a);
    features.push_back(random_matrix(n, 6, 3));
    w.add_features(task, {{"layer.0.query.weight", features.back()}});
  }
  const arguments cat = {"--method", "cat:rank=1", "--rule", "*query.weight=linear"};
  const std::string message = w.refused(cat, 1);
  CHECK_CONTAINS(message, "a.safetensors");
  CHECK_CONTAINS(message, "'layer.0.query.weight'");
  CHECK_CONTAINS(message, "'bert.layer.0.query.weight'");
  const arguments with_base = {"--base", w.folder / "base.safetensors"};
  catmerge::cat_options o;
  o.linear.directions = catmerge::largest{1};
  const MatrixXd expected =
      catmerge::cat_linear(MatrixXd(MatrixXd::Zero(4, 3)), vectors, features, o).merged;
  const io::adapter merged = w.merged(cat + with_base);
  const auto found = differences(merged);
  REQUIRE(found.contains("bert.layer.0.query.weight"));  // as PEFT calls it
  CHECK((found.at("bert.layer.0.query.weight") - expected).norm() <= in_double * expected.norm());
  w.add("c", write_adapter(w.folder / "c", {random_target(n, "bert.layer.1.query", 4, {3}, 2)}));
  w.features = {};
  CHECK_CONTAINS(w.refused(sum_of + with_base, 1), "has no parameter 'bert.layer.1.query.weight'");
  CHECK_CONTAINS(w.refused(sum_of, 1), "shares no module with the adapters before it");
}

TEST_CASE("factors of any size fit half precision if their product does") {
  workplace w;
  noise n(23);
  auto target = random_target(n, "x.query", 4, {3}, 2);
  target.b *= 1e7;  // the largest half is 65504
  target.a *= 1e-7;
  w.add("a", write_adapter(w.folder / "a", {target}));
  const io::adapter merged = w.merged(sum_of + arguments{"--out-dtype", "f16"});
  CHECK(merged.targets()[0].a->type == dtype::f16);
  CHECK(merged.targets()[0].b->type == dtype::f16);
  // Two roundings to 11 bits, of entries that are mostly below their vector's norm.
  const MatrixXd expected = target.b * target.a;
  CHECK((differences(merged).at("x.query.weight") - expected).norm() <= 1e-3 * expected.norm());
  // Directions whose factors differ in size, each for itself.
  target.b.col(1) *= 1e-5;
  target.a.row(1) *= 1e9;
  target.b.col(0) *= 1e-3;
  fs::remove_all(w.folder / "a");
  write_adapter(w.folder / "a", {target});
  const MatrixXd again = target.b * target.a;
  CHECK(
      (differences(w.merged(sum_of + arguments{"--out-dtype", "f16"})).at("x.query.weight") - again)
          .norm() <= 1e-3 * again.norm());
  target.b *= 1e12;
  fs::remove_all(w.folder / "a");
  write_adapter(w.folder / "a", {target});
  CHECK_CONTAINS(w.refused(sum_of + arguments{"--out-dtype", "f16"}, 1),
                 "a merged value does not fit F16; choose a wider --out-dtype");
}

TEST_CASE("the result does not depend on the number of threads") {
  const three_tasks t;
  const arguments cat = {"--method", "cat:rank=2", "--adapter-rank", "4"};
  t.merged(cat + arguments{"--threads", "1"}, warning::some);
  const auto one = contents(t.out());
  CHECK(one.size() == 2);
  t.merged(cat + arguments{"--threads", "3"}, warning::some);
  CHECK(contents(t.out()) == one);
}

TEST_CASE("adapters that do not fit each other are refused by name") {
  noise n(29);
  workplace w;
  w.add("a", write_adapter(w.folder / "a", {random_target(n, "x.query", 4, {3}, 2)}));
  w.add("b", write_adapter(w.folder / "b", {random_target(n, "x.query", 4, {5}, 2)}));
  const std::string message = w.refused(sum_of, 1);
  CHECK_CONTAINS(message, "x.query.lora_A.weight");
  CHECK_CONTAINS(message, "different bases");
  w.experts = {"--expert", "a=" + (w.folder / "a").string()};
  fs::create_directory(w.folder / "empty");
  w.add("e", w.folder / "empty");
  CHECK_CONTAINS(w.refused(sum_of, 1), "holds no adapter");
  w.experts = {};
  const fs::path one = write_adapter(w.folder / "one", {random_target(n, "x.query", 4, {3}, 2)}, {},
                                     {.base_model = "bert-base"});
  const fs::path two = write_adapter(w.folder / "two", {random_target(n, "x.query", 4, {3}, 2)}, {},
                                     {.base_model = "roberta-base"});
  w.add("one", one), w.add("two", two);
  const outcome told = run_well(w.command(sum_of), warning::some);
  CHECK_CONTAINS(told.err, "base_model_name_or_path is 'bert-base' for 'one' and 'roberta-base'");
  CHECK(io::adapter(w.out()).config().base_model == "bert-base");
  // The folder is there.
  const auto before = contents(w.out());
  const outcome again = run(w.command(sum_of));
  CHECK(again.status == 1);
  CHECK_CONTAINS(again.err, "exists already");
  CHECK(contents(w.out()) == before);
}

TEST_CASE("methods and options without a rule for factors are refused by name") {
  const three_tasks t;
  for (const std::string method : {"ties", "pcb", "breadcrumbs", "consensus", "tatr", "fisher",
                                   "regmean", "wudi", "dc-merge", "mean", "auto", "iso-cts"}) {
    CAPTURE(method);
    const std::string message = t.refused({"--method", method}, 2);
    CHECK_CONTAINS(message, "--method: " + method + " has no rule for factors");
    CHECK_CONTAINS(message, "core-iso, or merge into the network");
  }
  CHECK_CONTAINS(t.refused({}, 2), "auto has no rule for factors");
  CHECK_CONTAINS(t.refused({"--method", "iso-c"}, 2), "core-iso takes it over the directions");
  CHECK_CONTAINS(t.refused({"--method", "tsv-m:fused=split"}, 2), "fused=split");
  CHECK_CONTAINS(t.refused({"--method", "cat:resamples=3"}, 2), "'resamples'");
  CHECK_CONTAINS(t.refused({"--method", "cat:lambda=auto"}, 2), "'lambda=auto' needs samples");
  CHECK_CONTAINS(t.refused({"--method", "cat:rnak=1"}, 2), "cat has no setting 'rnak'");
  workplace w;
  w.experts = t.experts;
  const std::vector<std::pair<std::string, std::string>> options = {
      {"--before", "dare"},       {"--after", "svc"},        {"--alpha", "auto"},
      {"--method-for", "x=ties"}, {"--set", "x:alpha=1"},    {"--samples", "a=f"},
      {"--head", "a=f"},          {"--sample-count", "3"},   {"--config", "f"},
      {"--importance", "a=f"},    {"--resized", "x"},        {"--rename", "a=b"},
      {"--missing", "base"},      {"--max-shard-size", "1"}, {"--feature-coefficient", "1"},
      {"--scale-lambda", "1"},    {"--preset", "port"},      {"--adapter-rank", "0"}};
  for (const auto& [option, value] : options) {
    CAPTURE(option);
    CHECK_CONTAINS(w.refused({"--method", "task-arithmetic", option, value}, 2), option + ": ");
  }
  CHECK_CONTAINS(w.refused({"--method", "cat"}, 2), "features are needed");
  // And the other way round.
  const arguments network = {"merge", "--output", w.out(), "--expert", "a=x"};
  CHECK_CONTAINS(run(network).err, "--base is required");
  CHECK_CONTAINS(run(network + arguments{"--base", "x", "--adapter-rank", "3"}).err,
                 "--adapter-rank: needs --adapter");
  CHECK_CONTAINS(run(network + arguments{"--base", "x", "--method", "core-iso"}).err,
                 "core-iso merges adapters into an adapter");
}

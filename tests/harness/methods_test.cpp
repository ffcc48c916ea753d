// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge merge` by every method that it offers: the library's own results, bit for bit; what
/// the settings are, and what is refused. And reports: pages, verbosity.

#include <catmerge/merge/mean_of.hpp>
#include <catmerge/methods/breadcrumbs.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dare.hpp>
#include <catmerge/methods/dc_merge.hpp>
#include <catmerge/methods/esm_layers.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lines.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/svc.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/methods/wudi.hpp>
#include <catmerge/model/layer_depths.hpp>
#include <catmerge/model/networks.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/methods/any_method.hpp>

#include "support/harness/program.hpp"

using namespace harness_test;
using catmerge::chain;
using catmerge::index_t;
using catmerge::harness::any_method;

namespace {

/// Positive numbers for every floating-point tensor of a task.
fs::path importance(const std::string& task) {
  const fs::path path = clips().in() / ("importance_" + task + ".safetensors");
  if (fs::exists(path)) return path;
  noise n(static_cast<unsigned>(task.front()));
  table t;
  for (const auto& [name, entry] : clips().base().tensors) {
    if (!is_float(entry)) continue;
    values_t values = clips().base().values(name);
    for (double& x : values) x = std::fabs(n(1));
    t.set(name, dtype::f32, entry.shape, values);
  }
  return t.write(path);
}

arguments with_importance() {
  arguments list;
  for (const auto& task : task_names)
    list = list + arguments{"--importance", task + "=" + importance(task).string()};
  return list;
}

/// The library's merge of the family, in this process.
std::map<std::string, values_t> by_library(const any_method& method) {
  namespace h = catmerge::harness;
  std::vector<h::task_file> experts, features, importances;
  for (const auto& task : task_names) {
    experts.push_back({task, clips().model(task)});
    features.push_back({task, clips().features(task)});
    importances.push_back({task, importance(task)});
  }
  h::checkpoint_set set(clips().base_path(), experts, catmerge::model::known_networks());
  h::file_statistics statistics(features, set);
  h::merge_knowledge knowledge(statistics, importances, set);
  struct {
    void put(const catmerge::parameter_info& p, const catmerge::host_matrix& merged) {
      const catmerge::host_const_view v = merged;
      catmerge::context<catmerge::host> c;
      const Eigen::MatrixXd m = c.to_host(v).transpose();  // the entries, row after row
      values[p.name] = values_t(m.data(), m.data() + m.size());
    }
    std::map<std::string, values_t> values;
  } sink;
  catmerge::context<catmerge::host> c;
  catmerge::merge_stream(method, set, knowledge, sink, c);
  return sink.values;
}

/// The program and this test are compiled for different processors, so sums and products of floats
/// may be fused in one and not in the other: a few roundings of weights below 4, and what solving
/// does to them (condition below 100 here).
constexpr double rounding = 1e-4;

void check_same(const table& found, const std::map<std::string, values_t>& expected) {
  CHECK(expected.size() + 2 == found.tensors.size());  // but for the ids and the flags
  for (const auto& [name, values] : expected) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(largest_difference(found.values(name), values) <= rounding);
  }
}

struct offer {
  arguments given;
  any_method method;
  bool features = false, importance = false;
};

any_method ties(double density, catmerge::ties_merge merge, double alpha) {
  catmerge::ties_options o;
  o.density = density;
  o.merge = merge;
  o.alpha = alpha;
  return any_method(catmerge::ties_method(o));
}

outcome refused(const arguments& options) {
  const fs::path path = clips().fresh();
  outcome result = run(clips().merge(path) + options);
  CHECK(result.status == 2);
  CHECK_FALSE(fs::exists(path));
  return result;
}

bool says(const outcome& o, const std::string& text) {
  CAPTURE(o.err);
  CAPTURE(text);
  return o.err.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("every method by its name is the library's") {
  catmerge::iso_options cts;
  cts.variant = catmerge::iso_variant::cts;
  cts.common = 0.5;
  catmerge::tatr_options zero_shot, sensitive;
  zero_shot.zero_shot = true;
  zero_shot.quantile = sensitive.quantile = 0.8;
  catmerge::pcb_options pcb;
  pcb.ratio = 0.3;
  pcb.alpha = 0.9;
  catmerge::consensus_options consensus;
  consensus.lambda = {0.2};
  consensus.k = 1;
  catmerge::fisher_options fisher;
  fisher.normalise = true;
  catmerge::cat_options cat;
  cat.linear.lambda = 1;
  cat.linear.directions = catmerge::largest{2};
  catmerge::dare_options dare;
  dare.drop = 0.4;
  dare.seed = 7;
  catmerge::wudi_options swudi, aswudi;
  swudi.variant = catmerge::wudi_variant::swudi;
  swudi.time = 30;
  swudi.share = 0.5;
  aswudi.variant = catmerge::wudi_variant::aswudi;
  catmerge::wudi_options actmat;
  actmat.variant = catmerge::wudi_variant::actmat;
  const std::vector<offer> offers = {
      {{"--method", "average"}, any_method(catmerge::weight_average_method{})},
      {{"--method", "task-arithmetic"}, any_method(catmerge::task_arithmetic_method{})},
      {{"--method", "task-arithmetic:alpha=0.2"},
       any_method(catmerge::task_arithmetic_method{0.2})},
      {{"--method", "ties"}, ties(0.2, catmerge::ties_merge::mean, 1)},
      {{"--method", "ties:density=0.5,merge=sum", "--alpha", "0.7"},
       ties(0.5, catmerge::ties_merge::sum, 0.7)},
      {{"--method", "breadcrumbs:density=0.6,gamma=0.1"},
       any_method(catmerge::breadcrumbs_method{{0.6, 0.1, 0.4}})},
      {{"--method", "consensus:lambda=0.2,k=1"},
       any_method(catmerge::consensus_method<>{consensus, {}})},
      {{"--method", "consensus-ties:lambda=0.2,k=1"},
       any_method(catmerge::consensus_method<catmerge::ties_method>{
           consensus, catmerge::ties_method(catmerge::ties_options{0.2, 1, catmerge::ties_merge::sum})})},
      {{"--method", "pcb:ratio=0.3,alpha=0.9"}, any_method(catmerge::pcb_method(pcb))},
      {{"--method", "tatr:zero-shot=yes,quantile=0.8"},
       any_method(catmerge::tatr_method(zero_shot))},
      {{"--method", "tatr:quantile=0.8"},
       any_method(catmerge::tatr_method(sensitive)),
       false,
       true},
      {{"--method", "fisher"}, any_method(catmerge::fisher_method()), false, true},
      {{"--method", "fisher:normalise=yes"},
       any_method(catmerge::fisher_method(fisher)),
       false,
       true},
      {{"--method", "regmean:off-diagonal=0.5"}, any_method(catmerge::regmean_method{{0.5}}), true},
      {{"--method", "lot:alpha=1.2"}, any_method(catmerge::lot_method{{1.2}}), true},
      {{"--method", "tsv-m"}, any_method(catmerge::tsv_m_method{})},
      {{"--method", "iso-c"}, any_method(catmerge::iso_method{})},
      {{"--method", "iso-cts:common=0.5"}, any_method(catmerge::iso_method{cts})},
      {{"--method", "wudi"}, any_method(catmerge::wudi_method{})},
      {{"--method", "swudi:time=30,share=0.5"}, any_method(catmerge::wudi_method{swudi})},
      {{"--method", "aswudi"}, any_method(catmerge::wudi_method{aswudi})},
      {{"--method", "actmat"}, any_method(catmerge::wudi_method{actmat})},
      {{"--method", "dc-merge:share=0.1"}, any_method(catmerge::dc_merge_method{{1, 0.1}})},
      {{"--method", "mean:of=tsv-m:alpha=0.7+ties:density=0.3+iso-cts:common=0.5"},
       any_method(catmerge::mean_of{catmerge::tsv_m_method{{0.7}},
                                    ties(0.3, catmerge::ties_merge::mean, 1),
                                    catmerge::iso_method{cts}})},
      {{"--method", "mean"},
       any_method(catmerge::mean_of{catmerge::tsv_m_method{}, catmerge::iso_method{},
                                    catmerge::iso_method{{catmerge::iso_variant::cts}}})},
      {{"--method", "cat:lambda=1,rank=2"}, any_method(catmerge::cat_method{cat}), true},
      // Transforms, and other methods for some.
      {{"--method", "ties", "--before", "cat:lambda=1,rank=2"},
       any_method(chain{catmerge::cat_trim{cat}, catmerge::ties_method()}),
       true},
      {{"--method", "task-arithmetic:alpha=0.3", "--before", "dare:drop=0.4,seed=7", "--before",
        "tatr:zero-shot=yes,quantile=0.8"},
       any_method(
           chain{catmerge::dare_transform{dare},
                 chain{catmerge::tatr_filter(zero_shot), catmerge::task_arithmetic_method{0.3}}})},
      // A transform after the merge changes the merged vector, alpha included, of any method.
      {{"--method", "task-arithmetic:alpha=1", "--after", "svc"},
       any_method(catmerge::then{catmerge::task_arithmetic_method{1}, catmerge::svc_transform{}})},
      {{"--method", "average", "--before", "dare:drop=0.4,seed=7", "--method-for",
        "@linear=task-arithmetic:alpha=0.3", "--after", "svc:floor=0.3"},
       any_method(chain{
           catmerge::dare_transform{dare},
           catmerge::then{
               catmerge::where{[](const auto& p) { return p.kind == catmerge::layer_kind::linear; },
                               catmerge::task_arithmetic_method{0.3},
                               catmerge::weight_average_method{}},
               catmerge::svc_transform{{0.3}}}})},
      // Two layers: the first, the last, and what lies outside.
      {{"--method", "task-arithmetic:alpha=0.8", "--after", "lines:first=0.5,last=2"},
       any_method(catmerge::then{
           catmerge::task_arithmetic_method{0.8},
           catmerge::lines_transform{
               {0.5, 2}, [](const std::string& n) { return n.starts_with(layer1) ? 1.0 : 0.0; }}})},
      {{"--method", "tsv-m:alpha=0.9", "--after", "esm-layers:exponent=1"},
       any_method(catmerge::then{
           catmerge::tsv_m_method{{0.9}},
           catmerge::esm_layers_transform{{1}, catmerge::model::role_in_layer}})},
      // A filter of the whole model looks at all of it, whichever method comes after it where.
      {{"--method", "average", "--before", "tatr:zero-shot=yes,quantile=0.8", "--method-for",
        "@linear=task-arithmetic:alpha=0.3"},
       any_method(chain{
           catmerge::tatr_filter(zero_shot),
           catmerge::where{[](const auto& p) { return p.kind == catmerge::layer_kind::linear; },
                           catmerge::task_arithmetic_method{0.3},
                           catmerge::weight_average_method{}}})},
      {{"--method", "tsv-m", "--method-for", "@shift=task-arithmetic:alpha=0.1", "--method-for",
        layer0 + "*=average"},
       any_method(catmerge::where{
           [](const auto& p) { return p.names.parameter.starts_with(layer0); },
           catmerge::weight_average_method{},
           catmerge::where{[](const auto& p) { return p.kind == catmerge::layer_kind::shift; },
                           catmerge::task_arithmetic_method{0.1}, catmerge::tsv_m_method{}}})},
      {{"--method", "lot", "--set", layer1 + "*:alpha=0.5"},
       any_method(catmerge::adjusted{catmerge::lot_method{},
                                     [](const auto& p, auto& m) {
                                       if (p.names.parameter.starts_with(layer1))
                                         m.options.alpha = 0.5;
                                     }}),
       true},
  };
  std::map<std::string, std::vector<std::string>> seen;  // bytes of q0 -> who made them
  for (const auto& o : offers) {
    arguments all = o.given;
    if (o.features) all = all + clips().with_features();
    if (o.importance) all = all + with_importance();
    CAPTURE(o.given[1]);
    const table found = merged(all, task_names, warning::any);
    check_same(found, by_library(o.method));
    seen[found.at(q0).bytes].push_back(o.given[1]);
  }
  // Different methods make different networks (cat's trims at rank 2 do, too).
  CHECK(seen.size() >= offers.size() - 2);
}

TEST_CASE("scans see the samples' features again: as from files") {
  const arguments options = {"--method", "ties", "--before", "cat:lambda=1"};
  const table by_files = merged(options + clips().with_features(), task_names, warning::any);
  const table by_samples = merged(options + clips().with_samples(), task_names, warning::any);
  for (const auto& [name, t] : by_files.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    // Statistics go through files as they are, so the bits are the same.
    CHECK(t.bytes == by_samples.at(name).bytes);
  }
  for (const char* threads : {"1", "3"})
    CHECK(table(by_samples).at(q0).bytes ==
          merged(options + clips().with_samples() + arguments{"--threads", threads}, task_names,
                 warning::any)
              .at(q0)
              .bytes);
}

TEST_CASE("methods lists all that --method and --before take, with their settings") {
  const outcome list = run_well({"methods"});
  for (const char* name : {"auto",
                           "cat",
                           "task-arithmetic",
                           "average",
                           "fisher",
                           "regmean",
                           "ties",
                           "breadcrumbs",
                           "consensus",
                           "consensus-ties",
                           "pcb",
                           "tatr",
                           "lot",
                           "tsv-m",
                           "iso-c",
                           "iso-cts",
                           "wudi",
                           "swudi",
                           "aswudi",
                           "actmat",
                           "dc-merge",
                           "svc",
                           "lines",
                           "esm-layers",
                           "mean",
                           "dare"})
    CHECK(list.out.find(std::string("\n  ") + name + " ") != std::string::npos);
  CHECK(list.out.find("density          share of each task's entries that are kept (0.2)") !=
        std::string::npos);
  CHECK(list.out.find("alpha            the factor of the merged task vector (0.3)") !=
        std::string::npos);
  // A name of the list is taken, one that is not lists them.
  const outcome unknown = refused({"--method", "slerp"});
  CHECK(
      says(unknown,
           "--method: there is no method 'slerp': expected auto, average, task-arithmetic, cat, "));
  CHECK(says(refused({"--method", "average", "--before", "ties"}),
             "--before: there is no transform 'ties': expected cat, dare, breadcrumbs or tatr"));
}

TEST_CASE("settings that make no sense are refused, and named") {
  const std::pair<arguments, const char*> wrong[] = {
      {{"--method", "ties:keep=0.1"},
       "--method: ties has no setting 'keep': expected alpha, density or merge"},
      {{"--method", "average:alpha=1"}, "--method: average has no setting 'alpha'"},
      {{"--method", "ties:density=1.5"},
       "the setting 'density' of ties: expected a number in 0 ... 1, found '1.5'"},
      {{"--method", "ties:density=nan"}, "expected a number in 0 ... 1, found 'nan'"},
      {{"--method", "ties:density="}, "expected KEY=VALUE, found 'density='"},
      {{"--method", "ties:density=0"}, "TIES: density must be above 0 and at most 1"},
      {{"--method", "consensus-ties:density=0"}, "TIES: density must be above 0"},
      {{"--method", "average", "--before", "dare:drop=1"}, "--before: DARE: the probability"},
      {{"--method", "average", "--after", "svc:floor=0"}, "--after: SVC: floor must be"},
      {{"--method", "average", "--after", "dare"},
       "--after: there is no transform of what was merged 'dare': expected svc, lines or "
       "esm-layers"},
      {{"--method", "ties:"}, "--method: expected settings behind 'ties:'"},
      {{"--method", "ties:density=0.1,"}, "the settings of ties end with a comma"},
      {{"--method", "ties:density=0.1,density=0.2"}, "the settings of ties give 'density' twice"},
      {{"--method", "ties:merge=median"},
       "the setting 'merge' of ties: expected mean or sum, found 'median'"},
      {{"--method", "consensus:k=1.5"}, "expected a whole number of at least 0, found '1.5'"},
      {{"--method", "consensus:lambda=-1"}, "expected a number of at least 0, found '-1'"},
      {{"--method", "mean:of=tsv-m+slerp"}, "--method: there is no method 'slerp'"},
      {{"--method", "mean:of=tsv-m++iso-c"}, "expected METHOD+METHOD+..., found 'tsv-m++iso-c'"},
      {{"--method", "mean:of=tsv-m+fisher"}, "'fisher' needs importances"},
      {{"--method", "mean:of=tsv-m+lot"}, "features are needed"},
      {{"--method", "tatr"}, "--importance is needed for every expert"},
      {{"--method", "lot"}, "features are needed: give --features or --samples for every expert"},
      {{"--method", "ties", "--before", "cat"}, "features are needed"},
      {{"--method", "average", "--method-for", "@scales=ties"},
       "--method-for: expected @linear, @scale, @shift or @other"},
      {{"--method", "average", "--method-for", "ties"}, "expected PATTERN=METHOD, found 'ties'"},
      {{"--method", "average", "--report", "report.txt"},
       "expected a name that ends in .json or .html, found 'report.txt'"}};
  for (const auto& [options, message] : wrong) {
    const std::string& shown = options[1];
    CAPTURE(shown);
    CHECK(says(refused(options), message));
  }
  CHECK(says(refused(arguments{"--method", "ties", "--before", "cat", "--set", "@linear:lambda=1"} +
                     clips().with_features()),
             "'@linear:lambda=1': a method or transform that looks at the whole model"));

  // Importances are inputs, too: no output may replace one.
  const std::string kept = importance("a").string();
  const std::string before = get(kept);
  const outcome replaced =
      run(clips().merge(kept) + arguments{"--method", "fisher", "--overwrite"} + with_importance());
  CHECK(replaced.status == 1);
  CHECK(says(replaced, "the output is one of the inputs"));
  CHECK(get(kept) == before);

  // Mistakes in the files themselves.
  const fs::path unused = clips().fresh();
  const outcome nothing =
      run(clips().merge(unused) + arguments{"--method", "average", "--method-for", "none.*=ties"});
  CHECK(nothing.status == 1);
  CHECK(says(nothing, "--method-for 'none.*=ties' applies to no parameter that is merged"));
  table narrow(importance("b"));
  narrow.set(q0, dtype::f32, {2, 2}, {1, 1, 1, 1});
  const fs::path file = narrow.write(clips().fresh("narrow.safetensors"));
  arguments given = {"--method", "fisher", "--importance", "b=" + file.string()};
  for (const char* task : {"a", "c"})
    given = given + arguments{"--importance", std::string(task) + "=" + importance(task).string()};
  const outcome shape = run(clips().merge(unused) + given);
  CHECK(shape.status == 1);
  CHECK(says(shape, file.string()));
  CHECK(says(shape, q0));
  CHECK(says(shape, "expected floating-point values [24, 24], as the base's, found F32 [2, 2]"));
  CHECK_FALSE(fs::exists(unused));
}

TEST_CASE("an option that the method has no use for is noted by name, and changes nothing") {
  const fs::path path = clips().fresh(), numbers = clips().fresh("notes.json");
  const auto with = [&](const char* method, const arguments& options) {
    return run(clips().merge(path) + arguments{"--method", method, "--overwrite"} + options);
  };
  const auto bytes_of = [&](const char* method) {
    CHECK(with(method, {}).status == 0);
    return get(path);
  };
  const std::string average = bytes_of("average"), ties = bytes_of("ties");
  struct useless {
    const char* method;
    arguments options;
    std::vector<std::string> notes;  // what of the options is noted
  };
  for (const auto& [method, options, notes] : std::vector<useless>{
           {"average", {"--alpha", "1"}, {"--alpha"}},
           {"ties",
            {"--rank", "3", "--lambda", "2", "--preset", "port", "--order", "joint"},
            {"--rank", "--lambda", "--preset", "--order"}},
           {"ties", {"--set", "@linear:rank=1"}, {"--set: '@linear:rank=1'"}},
           {"average", {"--set", "*:alpha=1"}, {"--set: '*:alpha=1'"}},
           {"average", with_importance(), {"--importance"}},
           {"average", clips().with_features(), {"--features"}},
           {"ties", clips().with_samples(), {"--samples"}}}) {
    const outcome o = with(method, options);
    CAPTURE(o.err);
    CHECK(o.status == 0);
    CHECK(get(path) == (method == std::string("ties") ? ties : average));
    for (const std::string& note : notes) {
      CHECK(says(o, "catmerge: warning: " + note));
      CHECK(says(o, std::string("has no meaning for --method ") + method));
    }
    CHECK(with(method, options + arguments{"--quiet"}).err.empty());
  }
  // The report has them, too.
  CHECK(with("average", {"--alpha", "1", "--report", numbers}).status == 0);
  CHECK(nlohmann::json::parse(get(numbers))["warnings"][0] ==
        "--alpha: has no meaning for --method average");

  // Files that are not used are looked at all the same.
  for (const std::string option : {"--features", "--samples", "--importance"}) {
    arguments files;
    for (const auto& task : task_names)
      files = files + arguments{option, task + "=" + clips().fresh("absent.safetensors").string()};
    const outcome o = with("average", files);
    CHECK(o.status == 1);
    CHECK(says(o, "absent.safetensors"));
  }
}

TEST_CASE("parameters without importances are named") {
  table some(importance("b"));
  some.tensors.erase(q0);
  const fs::path file = some.write(clips().fresh("some.safetensors"));
  const fs::path numbers = clips().fresh("report.json");
  arguments given = {"--method",           "fisher",   "--importance",
                     "b=" + file.string(), "--report", numbers.string()};
  for (const char* task : {"a", "c"})
    given = given + arguments{"--importance", std::string(task) + "=" + importance(task).string()};
  const outcome o = run(clips().merge(clips().fresh()) + given);
  CHECK(o.status == 0);
  CHECK(says(
      o,
      "1 parameters have no importances and were merged by the mean of the task vectors: " + q0));
  for (const auto& p : nlohmann::json::parse(get(numbers))["parameters"])
    CHECK(p.contains("missing_importance") == (p["name"] == q0));
}

TEST_CASE("a report is a page, JSON, or both, of the same merge") {
  const fs::path page = clips().fresh("report.html"), numbers = clips().fresh("report.json");
  const arguments both = {"--report", page, "--report", numbers};
  merged(both + clips().with_features(), task_names, warning::any);
  const std::string text = get(page);
  CHECK(text.starts_with("<!DOCTYPE html>"));
  CHECK(text.find("http://") == text.find("http://www.w3.org"));  // nothing is fetched
  const auto report = nlohmann::json::parse(get(numbers));
  CHECK(report["catmerge"]["version"].get<std::string>().size() >= 5);
  CHECK(report["run"]["seconds"].get<double>() > 0);
  CHECK(report["run"]["peak_memory_bytes"].get<double>() > 1e6);
  CHECK(report["catmerge"]["settings"]["alpha"] == 0.4);

  // Drift is measured of any method, where features are given, and is what its definition says.
  const fs::path drift = clips().fresh("drift.json");
  const table out =
      merged(arguments{"--method", "average", "--report", drift} + clips().with_features(),
             task_names, warning::any);
  const auto of_average = nlohmann::json::parse(get(drift));
  CHECK_FALSE(of_average["catmerge"]["settings"].contains("rank"));
  for (const auto& p : of_average["parameters"]) {
    CHECK(p["trimmed"] == false);
    CHECK_FALSE(p.contains("missing_statistics"));
    if (p["name"] != gamma0) continue;
    const table features(clips().features("c"));
    const std::string name = gamma0 + "::second_moment";
    const values_t moment = features.values(name), theta = out.values(gamma0),
                   own = clips().expert("c").values(gamma0), base = clips().base().values(gamma0);
    const double rows = std::stod(features.metadata.at("rows:" + gamma0));
    double after = 0, before = 0;
    for (std::size_t j = 0; j < moment.size(); ++j) {
      after += rows * moment[j] * (theta[j] - own[j]) * (theta[j] - own[j]);
      before += rows * moment[j] * (base[j] - own[j]) * (base[j] - own[j]);
    }
    // Differences of floats of size 1 are exact to 1e-7 of entries of 0.05: 1e-5 of their squares.
    CHECK(p["drift"][2].get<double>() == doctest::Approx(after).epsilon(1e-4));
    CHECK(p["drift_scale"][2].get<double>() == doctest::Approx(before).epsilon(1e-4));
  }
}

TEST_CASE("a report is made a page later, with scores") {
  const fs::path numbers = clips().fresh("report.json"), page = clips().fresh("page.html"),
                 again = clips().fresh("again.json");
  merged(arguments{"--method", "ties", "--report", numbers} + clips().with_features(), task_names,
         warning::any);
  run_well({"report", numbers, "--output", page, "--output", again, "--scores",
            "the merged one:a=61.25,c=43.5,b=70", "--scores", "base:a=50,b=40,c=30"});
  const std::string text = get(page);
  CHECK(text.starts_with("<!DOCTYPE html>"));
  CHECK(text.find("the merged one") != std::string::npos);
  CHECK(text.find("43.5") != std::string::npos);
  auto report = nlohmann::ordered_json::parse(get(again));
  const auto row = report["evaluation"]["rows"][0];
  CHECK(row["values"].get<values_t>() == values_t{61.25, 70, 43.5});
  CHECK(row["mean"].get<double>() == doctest::Approx((61.25 + 70 + 43.5) / 3));
  // Nothing else has changed, not even the order.
  report.erase("evaluation");
  CHECK(report.dump() == nlohmann::ordered_json::parse(get(numbers)).dump());

  const fs::path unused = clips().fresh("unused.html");
  const auto check = [&](const arguments& given, int status, const std::string& message) {
    const outcome result = run(arguments{"report"} + given + arguments{"--output", unused});
    CAPTURE(result.err);
    CHECK(result.status == status);
    CHECK(says(result, message));
    CHECK_FALSE(fs::exists(unused));
  };
  check({numbers, "--scores", "x:a=1,b=2"}, 2, "expected a value for the task 'c'");
  check({numbers, "--scores", "x:a=1,b=2,c=3,a=4"}, 2, "the task 'a' is given twice");
  check({numbers, "--scores", "x:a=1,b=2,d=3"}, 2, "expected TASK=VALUE of a task of the report");
  check({numbers, "--scores", "x:a=1,b=2,c=nan"}, 2, "expected a number in 'c=nan'");
  check({numbers, "--scores", "a=1,b=2,c=3"}, 2, "expected LABEL:TASK=VALUE,...");
  check({put(clips().fresh("other.json"), "[1, 2]")}, 1, "is no report of `catmerge merge`");
  check({put(clips().fresh("broken.json"), "{")}, 1, "broken.json");
  check({clips().fresh("missing.json")}, 1, "missing.json");
}

TEST_CASE("quiet says nothing but errors, verbose says what was done") {
  // A rule that knows nothing of the final projection has a warning.
  const arguments warned = {"--method", "average", "--rule", "visual_projection.*=untrimmed"};
  const fs::path path = clips().fresh();
  const outcome quiet = run_well(clips().merge(path) + warned + arguments{"--quiet"});
  CHECK(quiet.out.empty());
  const outcome loud =
      run(clips().merge(clips().fresh()) + arguments{"--method", "ties", "--verbose"});
  CHECK(loud.status == 0);
  CHECK_CONTAINS(loud.out, " by the method's rule");
  CHECK(says(loud, "catmerge: looking at the whole model, pass 1: "));
  CHECK(says(loud, "catmerge: merging parameters: "));
  CHECK(refused({"--method", "average", "--quiet", "--verbose"}).err.find("--quiet") !=
        std::string::npos);
  surroundings screen;
  screen.terminal = true;
  const outcome shown = run(clips().merge(clips().fresh()) + arguments{"--method", "ties"}, screen);
  CHECK(shown.status == 0);
  CHECK(says(shown, "looking at the whole model, pass 1 1/"));
  CHECK(says(shown, " MB"));
  const outcome hidden =
      run(clips().merge(clips().fresh()) + arguments{"--method", "ties", "--quiet"}, screen);
  CHECK(hidden.err.empty());
}

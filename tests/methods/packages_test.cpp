// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Agreement with the packages that people merge with today. fixtures/methods holds a small model,
// and what each package makes of it (fixtures/make_methods.py: versions, functions, what each one
// computes); expected/index.json tells where packages differ from one another.
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/io/safetensors.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dc_merge.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/refit.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/svc.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/wudi.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

using catmerge::index_t;
using catmerge::layer_kind;
using matrix = Eigen::MatrixXd;
using tensors = std::map<std::string, matrix>;

const std::filesystem::path folder = std::filesystem::path(CATMERGE_FIXTURES) / "methods";

/// The floating-point tensors of a file, in double; rank 1 as d x 1.
tensors read(const std::string& name) {
  const catmerge::io::safetensors_file file(folder / (name + ".safetensors"));
  tensors all;
  for (const auto& entry : file.entries()) {
    const auto& tensor = entry.name;
    const auto type = catmerge::io::scalar_of(entry.type);
    if (!type) continue;
    const index_t rows = entry.shape[0];
    const index_t columns = entry.shape.size() > 1 ? entry.shape[1] : 1;
    all[tensor].resize(rows, columns);
    const catmerge::host_const_view v(entry.bytes.data(), *type, rows, columns, columns, 1);
    catmerge::context<catmerge::host>().assign(v, catmerge::view_of(all[tensor]));
  }
  return all;
}

tensors of_task(const std::string& what, index_t k) {
  return read(what + "_" + std::string(1, static_cast<char>('a' + k)));
}

/// The small model: source, statistics and sink of a merge.
struct model {
  tensors base = read("base"), merged{};
  std::vector<tensors> experts{of_task("expert", 0), of_task("expert", 1), of_task("expert", 2)};
  std::vector<tensors> features{}, weights{};
  bool tables_are_linear = false;  ///< the packages' "2-D parameters" are all alike

  layer_kind kind(const std::string& name) const {
    if (base.at(name).cols() > 1)
      return name.find("position_embedding") == std::string::npos || tables_are_linear
                 ? layer_kind::linear
                 : layer_kind::other;
    if (name.ends_with("layer_norm1.weight")) return layer_kind::scale;
    return name.ends_with("bias") ? layer_kind::shift : layer_kind::other;
  }

  std::vector<std::string> tasks() const { return {"a", "b", "c"}; }
  std::vector<catmerge::parameter_group> groups() const {
    std::vector<catmerge::parameter_group> list;
    for (const auto& [name, value] : base) list.push_back({{name, kind(name)}});
    return list;
  }
  const matrix& base_of(const std::string& name) const { return base.at(name); }
  const matrix& expert(index_t k, const catmerge::parameter_info& p) const {
    return experts[static_cast<std::size_t>(k)].at(p.name);
  }
  std::optional<catmerge::statistics_view<>> get(index_t k,
                                                 const catmerge::parameter_info& p) const {
    if (features.empty()) return std::nullopt;
    const auto& mine = features[static_cast<std::size_t>(k)];
    const auto found = mine.find(p.name);
    if (found == mine.end()) return std::nullopt;
    return catmerge::statistics_of(found->second);
  }
  std::optional<catmerge::host_const_view> importance(index_t k,
                                                      const catmerge::parameter_info& p) const {
    return catmerge::const_view_of(weights[static_cast<std::size_t>(k)].at(p.name));
  }
  void release(const catmerge::parameter_group&) {}
  void put(const catmerge::parameter_info& p, matrix value) { merged[p.name] = std::move(value); }

  void use_features(const std::string& what) {
    for (index_t k = 0; k < 3; ++k) features.push_back(of_task(what, k));
  }
  void use_importance(const std::string& what) {
    for (index_t k = 0; k < 3; ++k) weights.push_back(of_task(what, k));
  }

  template <class Method>
  const tensors& merge(const Method& method) {
    struct {
      model& m;
      std::vector<std::string> tasks() const { return m.tasks(); }
      std::vector<catmerge::parameter_group> groups() const { return m.groups(); }
      const matrix& base(const catmerge::parameter_info& p) const { return m.base_of(p.name); }
      const matrix& expert(index_t k, const catmerge::parameter_info& p) const {
        return m.expert(k, p);
      }
      void release(const catmerge::parameter_group&) {}
    } source{*this};
    catmerge::merge_stream(method, source, *this, *this);
    return merged;
  }
};

/// Both computed in double; sums and decompositions in another order. The task vectors are about
/// 0.1 and the worst condition of what is solved here 1e4 (make_methods.py asserts it): 1e4 eps
/// leaves 1e-12, of which 1e-10 is a hundredfold.
constexpr double rounding = 1e-10;

/// The largest difference to what a package made, over parameters that `counts` wants.
double distance(const tensors& merged, const std::string& file,
                const std::function<bool(const std::string&)>& counts = {}) {
  const tensors expected = read("expected/" + file);
  CHECK(expected.size() == merged.size());
  double largest = 0;
  for (const auto& [name, value] : expected) {
    if (counts && !counts(name)) continue;
    const std::string& shown = name;  // (Clang 14 captures no structured binding)
    INFO(file, ": ", shown);
    REQUIRE(value.rows() == merged.at(name).rows());
    REQUIRE(value.cols() == merged.at(name).cols());
    largest = std::max(largest, (value - merged.at(name)).cwiseAbs().maxCoeff());
  }
  return largest;
}

bool is_matrix(const std::string& name) {
  static const tensors base = read("base");
  return base.at(name).cols() > 1;
}

}  // namespace

TEST_CASE("the fixtures tell methods apart") {
  // No two files hold the same merged model, so a method cannot pass for another.
  std::vector<tensors> all;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "expected")) {
    const auto stem = entry.path().stem().string();
    if (entry.path().extension() != ".safetensors" || stem.ends_with("masks")) continue;
    all.push_back(read("expected/" + stem));
    names.push_back(stem);
  }
  CHECK(all.size() >= 20);
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      double largest = 0;
      for (const auto& [name, value] : all[i])
        largest = std::max(largest, (value - all[j].at(name)).cwiseAbs().maxCoeff());
      INFO(names[i], " and ", names[j]);
      CHECK(largest > 1e-4);
    }
}

TEST_CASE("weight averaging and Task Arithmetic: FusionBench") {
  CHECK(distance(model().merge(catmerge::weight_average_method{}), "fusion_bench-weight_average") <=
        rounding);
  CHECK(distance(model().merge(catmerge::task_arithmetic_method{0.3}),
                 "fusion_bench-task_arithmetic") <= rounding);
}

TEST_CASE("Fisher: FusionBench") {
  model m;
  m.use_importance("squared_gradients");
  CHECK(distance(m.merge(catmerge::fisher_method{}), "fusion_bench-fisher") <= rounding);
  catmerge::fisher_options o;
  o.normalise = true;
  CHECK(distance(m.merge(catmerge::fisher_method{o}), "fusion_bench-fisher-normalized") <=
        rounding);
}

TEST_CASE("RegMean: FusionBench") {
  model few, many;
  few.use_features("features");
  many.use_features("features_long");
  // Scales and all others: the mean of theta.
  CHECK(distance(few.merge(catmerge::regmean_method{{1.0}}), "fusion_bench-regmean-short-1.0") <=
        rounding);
  CHECK(distance(many.merge(catmerge::regmean_method{{1.0}}), "fusion_bench-regmean-long-1.0") <=
        rounding);
  // The package rounds 0.9 to float32, by 2.4e-8: the result moves by no more than about that.
  CHECK(distance(few.merge(catmerge::regmean_method{{0.9}}), "fusion_bench-regmean-short-0.9") <=
        5e-8);
}

TEST_CASE("RegMean++: FusionBench, as a refit without outputs, anchor and prior") {
  model m;
  m.use_features("features_long");
  const std::vector<matrix> none;
  const auto refitted = [&](const std::string& name, index_t rows, bool means) {
    std::vector<matrix> experts, z;
    for (std::size_t k = 0; k < 3; ++k) {
      const matrix& all = m.features[k].at(name);
      const index_t n = rows > 0 ? rows : all.rows();
      experts.push_back(m.experts[k].at(name));
      z.push_back(all.topRows(n) * (means ? 1 / std::sqrt(static_cast<double>(n)) : 1.0));
    }
    return catmerge::refit(m.base.at(name), experts, catmerge::refit_data{z, none, none},
                           {0, 0, catmerge::refit_weighting::rows})
        .merged;
  };
  // The package's files set 0.95 for the entries of Gram matrices off the diagonal; here it is 1.
  const tensors equal = read("expected/fusion_bench-regmean_plusplus"),
                unequal = read("expected/fusion_bench-regmean-long-1.0");
  int found = 0;
  for (const auto& [name, value] : equal) {
    if (m.kind(name) != layer_kind::linear) continue;
    const std::string& shown = name;
    INFO(shown);
    CHECK((refitted(name, 21, false) - value).cwiseAbs().maxCoeff() <= rounding);
    // The package takes means over a task's rows.
    CHECK((refitted(name, 0, true) - unequal.at(name)).cwiseAbs().maxCoeff() <= rounding);
    CHECK((refitted(name, 0, false) - unequal.at(name)).cwiseAbs().maxCoeff() > 1e-5);
    ++found;
  }
  CHECK(found == 4);
}

TEST_CASE("TIES: FusionBench, and mergekit parameter by parameter") {
  catmerge::ties_options o;
  CHECK(distance(model().merge(catmerge::ties_method{o}), "fusion_bench-ties-mean") <= rounding);
  o.merge = catmerge::ties_merge::sum;
  CHECK(distance(model().merge(catmerge::ties_method{o}), "fusion_bench-ties-sum") <= rounding);

  // mergekit keeps max(1, floor(0.2 n)) entries of each parameter, ours floor(density n) + 1; and
  // where a sum cancels it elects plus, ours the majority: one entry of the fixture is so.
  const tensors expected = read("expected/mergekit-ties-mean");
  const model m;
  for (const auto& [name, base] : m.base) {
    const index_t kept = std::max<index_t>(1, base.size() / 5);
    catmerge::ties_options own;
    own.density = (static_cast<double>(kept) - 0.5) / static_cast<double>(base.size());
    const std::vector<matrix> experts = {m.experts[0].at(name), m.experts[1].at(name),
                                         m.experts[2].at(name)};
    const matrix merged = catmerge::ties(base, experts, own).merged;
    for (index_t i = 0; i < base.rows(); ++i)
      for (index_t j = 0; j < base.cols(); ++j) {
        if (name.ends_with("q_proj.weight") && i == 0 && j == 0) continue;
        const std::string& shown = name;
        INFO(shown, " ", i, " ", j);
        CHECK(std::abs(merged(i, j) - expected.at(name)(i, j)) <= rounding);
      }
  }
}

TEST_CASE("Consensus: FusionBench") {
  CHECK(distance(model().merge(catmerge::consensus_method<>{}), "fusion_bench-consensus") <=
        rounding);
}

TEST_CASE("PCB: the authors' function") {
  catmerge::pcb_options o;
  o.ratio = 0.2;
  CHECK(distance(model().merge(catmerge::pcb_method{o}), "pcb_merging-pcb") <= rounding);
}

TEST_CASE("TATR: FusionBench") {
  catmerge::tatr_options o;
  o.quantile = 0.9;
  o.zero_shot = true;
  CHECK(distance(model().merge(catmerge::tatr_method{o}), "fusion_bench-tatr-zero_shot") <=
        rounding);
  o.zero_shot = false;
  model m;
  m.use_importance("sensitivity");
  CHECK(distance(m.merge(catmerge::tatr_method{o}), "fusion_bench-tatr") <= rounding);
}

TEST_CASE("TSV-M, Iso-C and Iso-CTS: FusionBench") {
  // tau of a matrix with fewer directions than tasks is 0 in the package, the mean of the task
  // vectors with us: no parameter of the fixture is so.
  model m;
  m.tables_are_linear = true;
  CHECK(distance(m.merge(catmerge::tsv_m_method{}), "fusion_bench-tsv_m") <= rounding);
  CHECK(distance(m.merge(catmerge::iso_method{}), "fusion_bench-iso_c") <= rounding);
  catmerge::iso_options o;
  o.variant = catmerge::iso_variant::cts;
  CHECK(distance(m.merge(catmerge::iso_method{o}), "fusion_bench-iso_cts") <= rounding);
  // A table is a matrix, whatever its kind.
  m.tables_are_linear = false;
  CHECK(distance(m.merge(catmerge::tsv_m_method{}), "fusion_bench-tsv_m") <= rounding);
}

TEST_CASE("WUDI: the closed form, and how far the published 300 steps are from it") {
  model m;
  m.tables_are_linear = true;
  const tensors merged = m.merge(catmerge::wudi_method{});
  // Vectors: the package averages them, the paper and we leave theta_0.
  CHECK(distance(merged, "reference-wudi-closed_form", is_matrix) <= rounding);
  for (const auto& [name, value] : merged)
    if (!is_matrix(name)) CHECK(value == m.base.at(name));
  // A step of Adam moves an entry by at most lr (1 - beta1) / sqrt(1 - beta2), 3.2e-5 here (Kingma
  // & Ba, ICLR 2015, section 2.1): 300 steps by 9.5e-3. Both share the objective, and the steps end
  // nearer to the minimum than they start, at the sum of the task vectors.
  const tensors stopped = read("expected/fusion_bench-wudi");
  for (const auto& [name, value] : merged) {
    if (!is_matrix(name)) continue;
    const auto loss = [&, parameter = name](const matrix& theta) {
      double sum = 0;
      for (const auto& expert : m.experts) {
        const matrix t = expert.at(parameter) - m.base.at(parameter);
        sum += ((theta - expert.at(parameter)) * t.transpose()).squaredNorm() / t.squaredNorm();
      }
      return sum;
    };
    matrix start = m.base.at(name);
    for (const auto& expert : m.experts) start += expert.at(name) - m.base.at(name);
    const std::string& shown = name;
    INFO(shown);
    CHECK(loss(value) <= loss(stopped.at(name)) * (1 + 1e-12));
    CHECK(loss(stopped.at(name)) < loss(start));
    CHECK((stopped.at(name) - start).cwiseAbs().maxCoeff() < 9.5e-3);
  }
}

TEST_CASE("SWUDI and ASWUDI: the authors' functions") {
  // Every 2-D parameter, the table too, which has directions that no task vector has.
  catmerge::wudi_options o;
  o.variant = catmerge::wudi_variant::swudi;
  CHECK(distance(model().merge(catmerge::wudi_method{o}), "mllmerging-swudi") <= rounding);
  o.variant = catmerge::wudi_variant::aswudi;
  CHECK(distance(model().merge(catmerge::wudi_method{o}), "mllmerging-aswudi") <= rounding);
}

TEST_CASE("ACTMat: least squares") {
  catmerge::wudi_options o;
  o.variant = catmerge::wudi_variant::actmat;
  CHECK(distance(model().merge(catmerge::wudi_method{o}), "reference-actmat") <= rounding);
}

TEST_CASE("DC-Merge: the authors' function") {
  CHECK(distance(model().merge(catmerge::dc_merge_method{}), "dc_merge-dc_merge-0.001") <=
        rounding);
  CHECK(distance(model().merge(catmerge::dc_merge_method{{1, 0.1}}), "dc_merge-dc_merge-0.1") <=
        rounding);
}

TEST_CASE("SVC: FusionBench") {
  const catmerge::then arithmetic{catmerge::task_arithmetic_method{0.3}, catmerge::svc_transform{}};
  CHECK(distance(model().merge(arithmetic), "fusion_bench-svc-task_arithmetic") <= rounding);
  const catmerge::then tsv{catmerge::tsv_m_method{}, catmerge::svc_transform{{0.5}}};
  CHECK(distance(model().merge(tsv), "fusion_bench-svc-tsv_m") <= rounding);
}

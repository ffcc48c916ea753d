// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catmerge/catmerge.hpp>
#include <functional>
#include <optional>
#include <string>

#include "support/data.hpp"
#include "support/fake_device.hpp"

// Every algorithm on memory that cannot be read, with the host's bits and next to no traffic.

using namespace test;
using catmerge::basis_solver;
using catmerge::layer_kind;
using catmerge::trim_order;

namespace {

using device_matrix = fake_tensor<2>;
using device_vector = fake_tensor<1>;
static_assert(catmerge::any_matrix<device_matrix> && !catmerge::any_vector<device_matrix>);
static_assert(catmerge::any_vector<device_vector> && !catmerge::any_matrix<device_vector>);
static_assert(catmerge::any_matrix<fake_tensor<catmerge::dynamic_rank>>);
static_assert(!std::is_convertible_v<fake_const_view, fake_view>);

template <class Device, class Tensor>
std::vector<Device> upload_all(const std::vector<Tensor>& all) {
  std::vector<Device> list;
  for (const auto& t : all) list.push_back(Device::upload(t));
  return list;
}

/// The traffic while f ran.
template <class F>
traffic crossing(const F& f) {
  fake_traffic() = {};
  f();
  return fake_traffic();
}

/// Whether both tensors hold the same bits.
template <class Device, class Host>
bool same(const Device& d, const Host& h) {
  using S = typename Host::Scalar;
  return same_bits(d.template download<S>(), matrix_of<S>(h));
}

bool same_report(const catmerge::layer_report& first, const catmerge::layer_report& second) {
  if (!first.trim || !second.trim) return first.trim.has_value() == second.trim.has_value();
  const catmerge::trim_report &a = *first.trim, &b = *second.trim;
  bool same = same_bits(a.conflict_before, b.conflict_before) &&
              same_bits(a.conflict_after, b.conflict_after) && same_bits(a.overlap, b.overlap) &&
              same_bits(a.deviation, b.deviation) && same_bits(a.norm, b.norm) &&
              same_bits(a.energy_removed, b.energy_removed) &&
              a.protections.size() == b.protections.size();
  for (std::size_t k = 0; same && k < a.protections.size(); ++k)
    same = same_bits(a.protections[k].eigenvalues, b.protections[k].eigenvalues) &&
           a.protections[k].coordinates == b.protections[k].coordinates;
  return same;
}

constexpr basis_solver every_way[] = {basis_solver::dense, basis_solver::shifts,
                                      basis_solver::weights};

}  // namespace

TEST_CASE("the fake device's memory cannot be read outside its context") {
  auto t = device_matrix::upload(Eigen::MatrixXf::Ones(3, 3).eval());
  const auto child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGSEGV, SIG_DFL);  // no word of doctest's or a sanitizer's
    ::alarm(60);
    volatile const float* p = static_cast<const float*>(t.view().handle.buffer->address());
    const float read = *p;
    ::_exit(read == 1.0F ? 0 : 1);  // not reached
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
  CHECK(t.download<float>()(2, 2) == 1.0F);
}

TEST_CASE_TEMPLATE("task vectors on the device", S, double, float, catmerge::half) {
  generator g(1);
  const matrix_of<S> base = g.matrix<S>(20, 30), expert = g.matrix<S>(20, 30);
  const auto b = device_matrix::upload(base);
  auto e = device_matrix::upload(expert);
  const auto crossed = crossing([&] {
    const auto t = catmerge::task_vector(b, e);
    CHECK(same(t, catmerge::task_vector(base, expert)));
    CHECK(same(catmerge::with_task_vector(b, t, 0.5),
               catmerge::with_task_vector(base, catmerge::task_vector(base, expert), 0.5)));
    catmerge::subtract_base(b, e);
    matrix_of<S> in_place = expert;
    catmerge::subtract_base(base, in_place);
    CHECK(same(e, in_place));
    catmerge::add_task_vector(e, t, -2);
    catmerge::add_task_vector(in_place, catmerge::task_vector(base, expert), -2);
    CHECK(same(e, in_place));
  });
  CHECK(crossed.bytes() == 0);
  CHECK(crossed.operations >= 5);
}

TEST_CASE("features on the device: rows, Gram matrices, moments, halves") {
  generator g(2);
  const index_t d = 24;
  for (const index_t n : {10, 60}) {
    const Eigen::MatrixXf x = g.matrix<float>(n, d), more = g.matrix<float>(7, d);
    const auto dx = device_matrix::upload(x), dmore = device_matrix::upload(more);
    catmerge::feature_statistics<> host, host_other;
    catmerge::feature_statistics<fake_device> device, device_other;
    catmerge::moment_statistics<> moment, moment_other;
    catmerge::moment_statistics<fake_device> device_moment, device_moment_other;
    const auto crossed = crossing([&] {
      host.update(x), device.update(dx);
      host.update(more), device.update(dmore);
      host_other.update(more), device_other.update(dmore);
      host.combine(host_other), device.combine(device_other);
      moment.update(x), device_moment.update(dx);
      moment_other.update(more), device_moment_other.update(dmore);
      moment.combine(moment_other), device_moment.combine(device_moment_other);
    });
    CHECK(crossed.bytes() == 0);
    CHECK(device.count() == host.count());
    REQUIRE(device.view().form == host.view().form);
    catmerge::context<fake_device> c;
    catmerge::context<catmerge::host> h;
    CHECK(same_bits(c.to_host(device.view().data), h.to_host(host.view().data)));
    CHECK(same_bits(c.to_host(device_moment.view().data), h.to_host(moment.view().data)));
  }
}

TEST_CASE("conflict and spectral norm on the device") {
  const auto l = random_linear<float>(3, 60, 50, {5, 7, 60});
  const auto vectors = upload_all<device_matrix>(l.vectors),
             features = upload_all<device_matrix>(l.features);
  const auto crossed = crossing([&] {
    CHECK(same_bits(catmerge::conflict_matrix(layer_kind::linear, features, vectors),
                    catmerge::conflict_matrix(layer_kind::linear, l.features, l.vectors)));
  });
  CHECK(crossed.bytes() == 0);
  const auto v = random_vector<float>(4, 40, {5, 7});
  const auto scales = upload_all<device_vector>(v.vectors);
  const auto inputs = upload_all<device_matrix>(v.features);
  for (const auto kind : {layer_kind::scale, layer_kind::shift})
    CHECK(same_bits(catmerge::conflict_matrix(kind, inputs, scales),
                    catmerge::conflict_matrix(kind, v.features, v.vectors)));
  const auto norm = crossing(
      [&] { CHECK(catmerge::spectral_norm(vectors[0]) == catmerge::spectral_norm(l.vectors[0])); });
  // One wanted vector: blocks of 5, a basis of at most 40, of which a restart keeps half.
  CHECK(norm.largest <= 40 * 20 * sizeof(double));
}

TEST_CASE_TEMPLATE("removal basis and trims on the device, every way", S, double, float) {
  const index_t d_out = 120, d_in = 100, rank = 2, block = rank + 4, limit = 8 * block;
  const auto l = random_linear<S>(5, d_out, d_in, {5, 7, 6});
  const auto vectors = upload_all<device_matrix>(l.vectors),
             features = upload_all<device_matrix>(l.features);
  for (const auto way : every_way) {
    catmerge::projection_options o;
    o.directions = catmerge::largest{rank};
    o.solver = way;
    std::optional<catmerge::removal_basis_result<device_matrix>> found;
    const auto crossed =
        crossing([&] { found.emplace(catmerge::removal_basis(1, vectors, features, o)); });
    const auto expected = catmerge::removal_basis(1, l.vectors, l.features, o);
    CHECK(same(found->basis, expected.basis));
    CHECK(same_bits(found->eigenvalues, expected.eigenvalues));
    if (way != basis_solver::dense) {
      // Coefficients of thin blocks, of at most limit x limit / 2 numbers, and one starting block.
      CHECK(crossed.largest <=
            sizeof(double) * static_cast<std::size_t>(std::max(d_out * block, limit * limit / 2)));
      CHECK(crossed.largest < sizeof(double) * static_cast<std::size_t>(d_out * d_in) / 4);
      // Per block of products: h's new columns, three Gram matrices of each orthonormalisation and
      // the transforms, together below ten times limit x block.
      CHECK(crossed.bytes() < sizeof(double) * static_cast<std::size_t>(10 * limit * block) * 60);
    } else {
      // The dense way sends the identity in strips where it cannot stack shifts; here it can.
      CHECK(crossed.bytes() == 0);
    }
    auto t = device_matrix::upload(l.vectors[0]);
    matrix_of<S> h = l.vectors[0];
    const auto trimmed = crossing([&] { catmerge::project_out(found->basis, t); });
    catmerge::project_out(expected.basis, h);
    CHECK(same(t, h));
    CHECK(trimmed.bytes() == 0);
  }
}

TEST_CASE("masks on the device: scores cross, weights do not") {
  const index_t d = 500;
  const auto l = random_vector<float>(6, d, {5, 7, 3});
  const auto vectors = upload_all<device_vector>(l.vectors);
  const auto features = upload_all<device_matrix>(l.features);
  const auto crossed = crossing([&] {
    CHECK(catmerge::scale_mask(0, vectors, features) ==
          catmerge::scale_mask(0, l.vectors, l.features));
    CHECK(catmerge::shift_mask(2, vectors) == catmerge::shift_mask(2, l.vectors));
  });
  CHECK(crossed.bytes() <= 3 * static_cast<std::size_t>(d) * sizeof(double));
  auto t = device_vector::upload(l.vectors[0]);
  Eigen::VectorXf h = l.vectors[0];
  const std::vector<index_t> mask{0, 7, 499};
  catmerge::mask_out(mask, t);
  catmerge::mask_out(mask, h);
  CHECK(same(t, h));
}

TEST_CASE_TEMPLATE("CAT, Task Arithmetic and weight averaging on the device", S, double, float,
                   catmerge::half) {
  generator g(7);
  const index_t d_out = 100, d_in = 90;
  const matrix_of<S> base = g.matrix<S>(d_out, d_in);
  std::vector<matrix_of<S>> experts, x;
  for (int k = 0; k < 3; ++k)
    experts.push_back(g.matrix<S>(d_out, d_in)), x.push_back(g.matrix<S>(5, d_in));
  const auto b = device_matrix::upload(base);
  const auto e = upload_all<device_matrix>(experts), f = upload_all<device_matrix>(x);
  for (const auto way : every_way)
    for (const auto order : {trim_order::sequential, trim_order::joint})
      for (const auto& preset : {catmerge::cat_options::paper(), catmerge::cat_options::port()}) {
        auto o = preset;
        o.linear.solver = way;
        o.linear.order = order;
        const auto expected = catmerge::cat_linear(base, experts, x, o);
        const auto crossed = crossing([&] {
          const auto found = catmerge::cat_linear(b, e, f, o);
          CHECK(same(found.merged, expected.merged));
          CHECK(same_report(found.report, expected.report));
        });
        CHECK(crossed.largest < sizeof(double) * static_cast<std::size_t>(d_out * d_in) / 2);
      }
  CHECK(same(catmerge::task_arithmetic(b, e).merged,
             catmerge::task_arithmetic(base, experts).merged));
  CHECK(
      same(catmerge::weight_average(b, e).merged, catmerge::weight_average(base, experts).merged));

  const vector_of<S> v = g.vector<S>(d_in);
  std::vector<vector_of<S>> others;
  for (int k = 0; k < 3; ++k) others.push_back(g.vector<S>(d_in));
  const auto dv = device_vector::upload(v);
  const auto de = upload_all<device_vector>(others);
  const auto scale = catmerge::cat_scale(dv, de, f);
  const auto expected = catmerge::cat_scale(v, others, x);
  CHECK(same(scale.merged, expected.merged));
  CHECK(same_report(scale.report, expected.report));
  CHECK(same(catmerge::cat_shift(dv, de).merged, catmerge::cat_shift(v, others).merged));
}

TEST_CASE("entry functions, column factors and keys on the device") {
  generator g(10);
  const Eigen::MatrixXf x = g.matrix<float>(70, 60), q = g.matrix<float>(70, 60);
  const auto dx = device_matrix::upload(x), dq = device_matrix::upload(q);
  catmerge::context<fake_device> c;
  catmerge::context<catmerge::host> h;
  const auto read = [](const auto& t) { return catmerge::const_view_of(t); };
  Eigen::MatrixXf y = x;
  auto dy = device_matrix::upload(x);
  std::vector<double> w;
  for (int j = 0; j < 60; ++j) w.push_back(g.normal());
  const auto crossed = crossing([&] {
    for (const auto f : {catmerge::entry_function::absolute, catmerge::entry_function::sign,
                         catmerge::entry_function::exponential, catmerge::entry_function::tangent,
                         catmerge::entry_function::at_least, catmerge::entry_function::at_most,
                         catmerge::entry_function::above}) {
      c.map(f, 0.25, read(dx), dy.view()), h.map(f, 0.25, read(x), catmerge::view_of(y));
      CHECK(same(dy, y));
    }
    for (const auto f : {catmerge::pair_function::product, catmerge::pair_function::quotient}) {
      c.zip(f, read(dx), read(dq), dy.view());
      h.zip(f, read(x), read(q), catmerge::view_of(y));
      c.zip(f, dy.view(), dy.view(), dy.view());
      h.zip(f, read(y), read(y), catmerge::view_of(y));
      CHECK(same(dy, y));
    }
    c.scale_columns(w, dy.view()), h.scale_columns(w, catmerge::view_of(y));
    CHECK(same(dy, y));
  });
  CHECK(crossed.bytes() == 0);
  CHECK(crossed.operations == 12);

  std::vector<std::uint64_t> found(std::size_t{1} << 18), expected = found;
  const auto counted = crossing([&] { c.count_keys(read(dx), 0, 0, found); });
  h.count_keys(read(x), 0, 0, expected);
  CHECK(found == expected);
  CHECK(counted.bytes_read == found.size() * sizeof(std::uint64_t));
  CHECK(counted.bytes_written == 0);
}

TEST_CASE_TEMPLATE("order statistics on the device: counts cross, numbers do not", S, double, float,
                   catmerge::half) {
  generator g(11);
  std::vector<matrix_of<S>> host;
  for (const index_t rows : {200, 1, 90}) host.push_back(g.matrix<S>(rows, 30));
  const auto device = upload_all<device_matrix>(host);
  const auto search = [](auto& c, const auto& tensors) {
    catmerge::order_search s([](std::uint64_t n) { return std::vector{n / 5, n - 1}; });
    while (s.wanted()) {
      for (const auto& t : tensors) s.see(c, catmerge::const_view_of(t));
      s.end_pass();
    }
    return std::pair{s.value(0), s.value(1)};
  };
  catmerge::context<fake_device> c;
  catmerge::context<catmerge::host> h;
  const auto crossed = crossing([&] { CHECK(search(c, device) == search(h, host)); });
  // 2 MiB per tensor and rank looked for, in each of two passes (the first looks for all at once)
  // or four (the last counts 1024 digits).
  const std::size_t large = (std::size_t{1} << 18) * sizeof(std::uint64_t), tensors = 3;
  CHECK(crossed.largest == large);
  CHECK(crossed.bytes() ==
        tensors *
            (std::is_same_v<S, double> ? 5 * large + 2 * 1024 * sizeof(std::uint64_t) : 3 * large));
}

namespace {

/// A network on the device: one linear, one scale, one shift and a table.
struct device_network {
  using tensor = fake_tensor<catmerge::dynamic_rank>;
  std::vector<catmerge::parameter_info> infos;
  std::vector<tensor> bases;
  std::vector<std::vector<tensor>> all_experts;  // [parameter][task]
  std::vector<std::vector<tensor>> rows;

  std::size_t find(const catmerge::parameter_info& p) const {
    std::size_t i = 0;
    while (infos[i].name != p.name) ++i;
    return i;
  }
  std::vector<std::string> tasks() const { return {"a", "b"}; }
  std::vector<catmerge::parameter_group> groups() const {
    std::vector<catmerge::parameter_group> g;
    for (const auto& i : infos) g.push_back({i});
    return g;
  }
  const tensor& base(const catmerge::parameter_info& p) const { return bases[find(p)]; }
  const tensor& expert(index_t k, const catmerge::parameter_info& p) const {
    return all_experts[find(p)][at(k)];
  }
  void release(const catmerge::parameter_group&) {}
  std::optional<catmerge::statistics_view<fake_device>> get(
      index_t k, const catmerge::parameter_info& p) const {
    const auto& list = rows[find(p)];
    if (list.empty()) return std::nullopt;
    const fake_const_view v = list[at(k)].view();
    return catmerge::statistics_view<fake_device>{catmerge::statistics_form::rows, v,
                                                  static_cast<double>(v.rows)};
  }
};

struct device_sink {
  std::vector<device_network::tensor> merged;
  void put(const catmerge::parameter_info&, device_network::tensor t) {
    merged.push_back(std::move(t));
  }
};

}  // namespace

TEST_CASE("a stream of parameters on the device") {
  const auto linear = random_linear<float>(8, 40, 30, {4, 5});
  const auto scale = random_vector<float>(9, 30, {4, 5});
  device_network n;
  const auto add = [&](const char* name, layer_kind kind, const auto& l, bool features) {
    using tensor = device_network::tensor;
    n.infos.push_back({name, kind});
    n.bases.push_back(tensor::upload(l.base));
    n.all_experts.push_back(upload_all<tensor>(l.experts));
    n.rows.push_back(features ? upload_all<tensor>(l.features) : std::vector<tensor>{});
  };
  add("linear", layer_kind::linear, linear, true);
  add("scale", layer_kind::scale, scale, true);
  add("shift", layer_kind::shift, scale, false);
  add("table", layer_kind::other, linear, false);
  device_sink sink;
  catmerge::context<fake_device> c;
  const auto reports = catmerge::merge_stream(catmerge::cat_method{}, n, n, sink, c);
  REQUIRE(sink.merged.size() == 4);
  CHECK(same(sink.merged[0],
             catmerge::cat_linear(linear.base, linear.experts, linear.features).merged));
  CHECK(
      same(sink.merged[1], catmerge::cat_scale(scale.base, scale.experts, scale.features).merged));
  CHECK(same(sink.merged[2], catmerge::cat_shift(scale.base, scale.experts).merged));
  CHECK(same(sink.merged[3], catmerge::task_arithmetic(linear.base, linear.experts, 0.4).merged));
  CHECK(reports[0].layer.trim.has_value());
  CHECK_FALSE(reports[3].layer.trim.has_value());
}

namespace {

/// Sums those entries of task vectors whose size is above the median of all sizes: what a method
/// with a scan is, on any domain.
struct above_median {
  catmerge::order_search sizes{[](std::uint64_t n) { return std::vector{n / 2}; }};

  static constexpr bool needs_statistics(layer_kind) { return false; }
  static constexpr double factor() { return 1; }
  bool scan_wanted() const { return sizes.wanted(); }
  template <class Context>
  static auto size_of(Context& c, typename Context::const_view t) {
    auto size = c.make(c.type(t), c.rows(t), c.columns(t));
    c.map(catmerge::entry_function::absolute, 0, t, size);
    return size;
  }
  template <class Context>
  void scan(Context& c, const catmerge::layer_problem<Context>&,
            catmerge::vector_list<Context> vectors) {
    for (const auto& t : vectors) sizes.see(c, size_of(c, t));
  }
  void end_scan() { sizes.end_pass(); }
  template <class Context>
  void combine(Context& c, const catmerge::layer_problem<Context>&,
               catmerge::vector_list<Context> vectors, const typename Context::view& tau,
               catmerge::layer_report&) const {
    for (const auto& t : vectors) {
      auto kept = size_of(c, t);
      c.map(catmerge::entry_function::above, sizes.value(0), kept, kept);
      c.zip(catmerge::pair_function::product, kept, t, kept);
      c.axpy(1, kept, tau);
    }
  }
  template <class Context>
  catmerge::layer_report merge(Context& c, const catmerge::layer_problem<Context>& p,
                               typename Context::view out) const {
    return catmerge::merge_vectors(*this, c, p, out);
  }
};

}  // namespace

TEST_CASE("composed methods and scans on the device") {
  const auto l = random_linear<float>(12, 20, 30, {4, 5});
  const auto b = device_matrix::upload(l.base);
  const auto e = upload_all<device_matrix>(l.experts), f = upload_all<device_matrix>(l.features);
  catmerge::context<fake_device> c;
  catmerge::context<catmerge::host> h;
  const auto both = [&](const auto& method) {
    const auto merge = [&](auto& context, const auto& base, const auto& experts,
                           const auto& features) {
      catmerge::layer_problem<std::remove_cvref_t<decltype(context)>> p;
      p.kind = layer_kind::linear;
      p.statistics = catmerge::detail::as_statistics_list(features);
      return catmerge::detail::merge_one(context, method, p, base, experts);
    };
    const auto expected = merge(h, l.base, l.experts, l.features);
    const auto crossed = crossing([&] {
      const auto found = merge(c, b, e, f);
      CHECK(same(found.merged, expected.merged));
      CHECK(same_bits(found.report.drift, expected.report.drift));
      CHECK(same_bits(found.report.drift_of_base, expected.report.drift_of_base));
    });
    CHECK_FALSE(same_bits(expected.merged, l.base));
    return std::pair{crossed, expected.report};
  };
  CHECK(both(above_median{}).first.largest == (std::size_t{1} << 18) * sizeof(std::uint64_t));
  both(catmerge::chain{catmerge::cat_trim{}, above_median{}});
  both(catmerge::where{[](const auto& p) { return p.kind == layer_kind::linear; }, above_median{},
                       catmerge::task_arithmetic_method{}});
  both(catmerge::adjusted{catmerge::cat_method{},
                          [](const auto&, auto& m) { m.options.alpha = 0.2; }});
  const auto [crossed, report] = both(catmerge::with_drift{catmerge::task_arithmetic_method{}});
  CHECK(report.drift.size() == 2);
  CHECK(crossed.bytes() == 0);
}

TEST_CASE("CAT of what it cannot trim does no more than Task Arithmetic, which holds no vectors") {
  const auto l = random_linear<float>(13, 20, 30, {4, 5});
  const auto b = device_matrix::upload(l.base);
  const auto e = upload_all<device_matrix>(l.experts);
  std::optional<catmerge::merge_result<device_matrix>> one, other;
  const auto sum = crossing([&] { one.emplace(catmerge::task_arithmetic(b, e, 0.4)); });
  const auto trim =
      crossing([&] { other.emplace(catmerge::cat_linear(b, e, std::vector<device_matrix>{})); });
  CHECK(trim.operations == sum.operations);
  CHECK(same(other->merged, one->merged.download<float>()));
  CHECK(other->report.fallback == catmerge::fallback_rule::sum);
  CHECK_FALSE(other->report.trim.has_value());
}

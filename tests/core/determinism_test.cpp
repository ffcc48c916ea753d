// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <functional>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/windows.hpp"

// One binary gives the same bits at any number of threads, in any order of tasks, for every storage
// order and wherever memory lies.

using namespace test;
using catmerge::op;

namespace {

using host_context = catmerge::context<catmerge::host>;

/// Everything that a merge gives, as bytes.
struct fingerprint {
  std::vector<double> numbers;
  bool operator==(const fingerprint& other) const { return same_bits(numbers, other.numbers); }
};

template <class Tensor>
void append(fingerprint& f, host_context& c, const Tensor& t) {
  const Eigen::MatrixXd m = c.to_host(catmerge::const_view_of(t));
  f.numbers.insert(f.numbers.end(), m.data(), m.data() + m.size());
}

template <class Tensor>
fingerprint of(host_context& c, const catmerge::merge_result<Tensor>& r) {
  fingerprint f;
  append(f, c, r.merged);
  for (const auto* m :
       {&r.report.trim->conflict_before, &r.report.trim->conflict_after, &r.report.trim->overlap})
    f.numbers.insert(f.numbers.end(), m->data(), m->data() + m->size());
  for (const auto* v :
       {&r.report.trim->deviation, &r.report.trim->norm, &r.report.trim->energy_removed})
    f.numbers.insert(f.numbers.end(), v->begin(), v->end());
  for (const auto& p : r.report.trim->protections)
    f.numbers.insert(f.numbers.end(), p.eigenvalues.begin(), p.eigenvalues.end());
  return f;
}

constexpr catmerge::basis_solver ways[] = {
    catmerge::basis_solver::dense, catmerge::basis_solver::shifts, catmerge::basis_solver::weights};

catmerge::cat_options options_of(catmerge::basis_solver way) {
  catmerge::cat_options o;
  o.linear.solver = way;
  return o;
}

/// A row-major copy that starts `offset` elements after an aligned address, with a gap after each
/// row.
template <class S>
struct shifted_copy {
  Eigen::Matrix<S, Eigen::Dynamic, 1> memory;
  index_t rows, columns, offset;

  shifted_copy(const matrix_of<S>& m, index_t first)
      : memory(Eigen::Matrix<S, Eigen::Dynamic, 1>::Constant(m.rows() * (m.cols() + 3) + first + 1,
                                                             S(7))),
        rows(m.rows()),
        columns(m.cols()),
        offset(first) {
    map() = m;
  }
  using map_type = Eigen::Map<row_major_of<S>, 0, Eigen::OuterStride<>>;
  map_type map() {
    return {memory.data() + offset, rows, columns, Eigen::OuterStride<>(columns + 3)};
  }
};

}  // namespace

TEST_CASE_TEMPLATE("CAT gives the same bits at 1, 2, 3 and 8 threads", S, float, double) {
  const auto l = random_linear<S>(1, 300, 270, {40, 3, 60});
  for (const auto way : ways) {
    if (std::is_same_v<S, double> && way == catmerge::basis_solver::dense)
      continue;  // slow, and the same
    const auto options = options_of(way);
    host_context plain;
    const auto expected =
        of(plain, catmerge::cat_linear(l.base, l.experts, l.features, options, plain));
    const auto again =
        of(plain, catmerge::cat_linear(l.base, l.experts, l.features, options, plain));
    CHECK(again == expected);
    // Starting threads is what takes the time here: all numbers of them on the ways that are fast.
    const bool all = way != catmerge::basis_solver::dense;
    for (const int threads : all ? std::vector<int>{1, 2, 3, 8} : std::vector<int>{3}) {
      std::atomic<int> calls{0};
      host_context c(scrambled(threads, &calls));
      const auto found = of(c, catmerge::cat_linear(l.base, l.experts, l.features, options, c));
      CHECK(found == expected);
      CHECK(calls > 0);
    }
  }
}

TEST_CASE("scales and features give the same bits at any number of threads") {
  const auto l = random_vector<float>(2, 5000, {200, 3, 70});
  host_context plain;
  const auto expected = of(plain, catmerge::cat_scale(l.base, l.experts, l.features, {}, plain));
  catmerge::feature_statistics<> gram;
  generator g(3);
  const matrix_of<float> x = g.matrix<float>(700, 300);
  gram.update(x, plain);
  REQUIRE(gram.view().form == catmerge::statistics_form::gram);
  const Eigen::MatrixXd expected_gram = plain.to_host(gram.view().data);
  for (const int threads : {2, 3, 8}) {
    host_context c(scrambled(threads));
    CHECK(of(c, catmerge::cat_scale(l.base, l.experts, l.features, {}, c)) == expected);
    catmerge::feature_statistics<> other;
    other.update(x, c);
    CHECK(same_bits(c.to_host(other.view().data), expected_gram));
  }
}

TEST_CASE("an exception of a task comes out of the executor, and inputs stay as they were") {
  host_context c(scrambled(3));
  const auto l = random_linear<float>(4, 300, 300, {10, 10});
  const auto before = l.base;
  auto bad = l.features;
  bad[1] = matrix_of<float>(10, 299);
  CHECK_THROWS_AS(catmerge::cat_linear(l.base, l.experts, bad, {}, c), catmerge::error);
  CHECK(same_bits(before, l.base));
}

TEST_CASE_TEMPLATE("CAT gives the same bits for every storage order and alignment", S, float,
                   double) {
  // A size beyond a tile, one within, and one so small that Eigen takes other paths for its
  // products.
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{270, 300}, {40, 50}, {6, 5}}) {
    const auto l = random_linear<S>(5, d_out, d_in, {7, 2, 9});
    std::vector<row_major_of<S>> experts(l.experts.begin(), l.experts.end()),
        features(l.features.begin(), l.features.end());
    const row_major_of<S> base = l.base;
    for (const auto way : ways) {
      if (d_out > 256 && way == catmerge::basis_solver::dense)
        continue;  // its parts are in the others
      const auto options = options_of(way);
      host_context c;
      const auto expected = of(c, catmerge::cat_linear(l.base, l.experts, l.features, options, c));
      CHECK(of(c, catmerge::cat_linear(base, experts, features, options, c)) == expected);

      std::vector<catmerge::flat_matrix<const S>> flat_experts, flat_features;
      const auto flat = [](const row_major_of<S>& m) {
        return catmerge::flat_matrix<const S>({m.data(), static_cast<std::size_t>(m.size())},
                                              m.rows(), m.cols());
      };
      for (const auto& e : experts) flat_experts.push_back(flat(e));
      for (const auto& f : features) flat_features.push_back(flat(f));
      CHECK(of(c, catmerge::cat_linear(flat(base), flat_experts, flat_features, options, c)) ==
            expected);

      for (const index_t offset : {1, 3}) {
        shifted_copy<S> shifted_base(l.base, offset);
        std::vector<shifted_copy<S>> keep;
        for (const auto& e : l.experts) keep.emplace_back(e, offset + 1);
        for (const auto& f : l.features) keep.emplace_back(f, offset + 2);
        std::vector<typename shifted_copy<S>::map_type> maps;
        for (auto& k : keep) maps.push_back(k.map());
        const auto middle = maps.begin() + static_cast<index_t>(l.experts.size());
        const std::vector<typename shifted_copy<S>::map_type> e(maps.begin(), middle),
            f(middle, maps.end());
        CHECK(of(c, catmerge::cat_linear(shifted_base.map(), e, f, options, c)) == expected);
      }
    }
  }
}

TEST_CASE("products of every small shape give the same bits for every layout and alignment") {
  // Eigen has paths of its own for vectors and small products; none may let alignment or strides
  // decide the order of a sum.
  host_context c;
  index_t wrong = 0, tried = 0;
  const index_t sizes[] = {1, 2, 3, 5, 8, 17, 33, 90};
  for (const auto type : {scalar_type::f32, scalar_type::f64})
    for (const index_t m : sizes)
      for (const index_t k : sizes)
        for (const index_t n : sizes) {
          generator g(static_cast<std::uint64_t>(m * 10007 + k * 101 + n));
          const Eigen::MatrixXd a = g.matrix(m, k), b = g.matrix(k, n);
          const auto put = [&](const Eigen::MatrixXd& x, layout how, index_t offset) {
            window w(type, x.rows(), x.cols(), how, offset);
            w.fill([&](index_t i, index_t j) { return rounded(type, x(i, j)); });
            return w;
          };
          std::vector<double> expected;
          for (const auto& [how_a, how_b] : {std::pair{layout::row_major, layout::column_major},
                                             {layout::row_major, layout::row_major},
                                             {layout::column_major, layout::padded_columns},
                                             {layout::padded_rows, layout::spread}})
            for (const index_t offset : {0, 1}) {
              const window left = put(a, how_a, offset), right = put(b, how_b, offset);
              window y(type, m, n, how_b, offset);
              c.multiply(1, left, op::none, right, op::none, 0, y);
              std::vector<double> found;
              for (index_t i = 0; i < m; ++i)
                for (index_t j = 0; j < n; ++j) found.push_back(y(i, j));
              if (expected.empty()) expected = found;
              wrong += !same_bits(found, expected);
              ++tried;
            }
        }
  CHECK(tried == 2 * 512 * 8);
  CHECK(wrong == 0);
}

TEST_CASE("a long stride does not change a product's bits") {
  // Eigen chooses the blocks of matrix-vector products by the stride of the matrix.
  host_context c;
  for (const index_t n : {1, 2, 7, 64}) {
    const index_t k = 300, stride = 20000;
    generator g(6);
    const Eigen::VectorXf memory_a = g.matrix<float>(stride * n, 1);
    const Eigen::MatrixXf b = g.matrix<float>(k, 3);
    const catmerge::host_const_view wide(memory_a.data(), scalar_type::f32, n, k, stride, 1);
    row_major_of<float> tight(n, k);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < k; ++j) tight(i, j) = memory_a(i * stride + j);
    for (const index_t columns : {1, 3}) {
      row_major_of<float> y(n, columns), z(n, columns);
      const auto right = c.slice(catmerge::const_view_of(b), 0, k, 0, columns);
      c.multiply(1, wide, op::none, right, op::none, 0, catmerge::view_of(y));
      c.multiply(1, catmerge::const_view_of(tight), op::none, right, op::none, 0,
                 catmerge::view_of(z));
      CHECK(same_bits(y, z));
    }
  }
}

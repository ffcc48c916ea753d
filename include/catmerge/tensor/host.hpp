// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <catmerge/tensor/executor.hpp>
#include <catmerge/tensor/host_blocks.hpp>
#include <catmerge/tensor/host_view.hpp>
#include <functional>
#include <utility>
#include <vector>

namespace catmerge {

/// The operations of tensor/context.hpp on host memory, on Eigen.
///
/// Work is cut into blocks by the extents alone and each block is computed by one task, so one
/// binary gives the same bits at any number of threads and for every storage order. (If you compile
/// with OpenMP, define EIGEN_DONT_PARALLELIZE: Eigen's own threads cut products differently for
/// each thread count.)
template <>
class context<host> {
 public:
  using domain = host;
  using view = host_view;
  using const_view = host_const_view;
  using matrix = host_matrix;

  /// Computes on the caller's thread.
  context() = default;

  /// Computes on `run`.
  explicit context(executor run) : run_(std::move(run)) {}

  static index_t rows(const_view v) { return v.rows; }
  static index_t columns(const_view v) { return v.columns; }
  static scalar_type type(const_view v) { return v.type; }

  matrix make(scalar_type type, index_t rows, index_t columns) { return {type, rows, columns}; }

  const_view slice(const_view v, index_t row, index_t rows, index_t column, index_t columns) {
    return v.window(row, rows, column, columns);
  }
  view slice(view v, index_t row, index_t rows, index_t column, index_t columns) {
    return v.window(row, rows, column, columns);
  }

  void assign(const_view x, view y) {
    elementwise(
        y, x.type == scalar_type::f64, [](auto&, const auto& a) { return a; }, x);
  }

  void subtract(const_view a, const_view b, view y) {
    elementwise(
        y, any_f64(a, b, y), [](auto&, const auto& p, const auto& q) { return p - q; }, a, b);
  }

  void accumulate(double alpha, const_view a, const_view b, view y) {
    elementwise_onto(
        y, any_f64(a, b, y),
        [alpha](const auto& old, const auto& p, const auto& q) {
          using C = typename std::decay_t<decltype(old)>::Scalar;
          return old + static_cast<C>(alpha) * (p - q);
        },
        a, b);
  }

  void axpy(double alpha, const_view x, view y) {
    elementwise_onto(
        y, any_f64(x, y),
        [alpha](const auto& old, const auto& p) {
          using C = typename std::decay_t<decltype(old)>::Scalar;
          return old + static_cast<C>(alpha) * p;
        },
        x);
  }

  void scale(double alpha, view y) {
    elementwise_onto(y, y.type == scalar_type::f64, [alpha](const auto& old) {
      using C = typename std::decay_t<decltype(old)>::Scalar;
      return static_cast<C>(alpha) * old;
    });
  }

  void multiply(double alpha, const_view a, op op_a, const_view b, op op_b, double beta, view y) {
    if (op_a == op::transpose) a = a.transposed();
    if (op_b == op::transpose) b = b.transposed();
    if (a.columns != b.rows || a.rows != y.rows || b.columns != y.columns)
      throw error("product of " + detail::shape_text(a.rows, a.columns) + " and " +
                  detail::shape_text(b.rows, b.columns) + " into " +
                  detail::shape_text(y.rows, y.columns));
    if (y.type == scalar_type::f64)
      product<double>(alpha, a, b, beta, y);
    else
      product<float>(alpha, a, b, beta, y);
  }

  double squared_norm(const_view x) {
    return sum_over_blocks(
        x, [](const auto& p) { return p.square().sum(); }, x);
  }

  double dot(const_view x, const_view y) {
    return sum_over_blocks(
        x, [](const auto& p, const auto& q) { return (p * q).sum(); }, x, y);
  }

  void column_energies(double alpha, const_view x, view y) {
    detail::require_shape(*this, y, x.columns, 1, "column energies");
    // One task per strip of columns, rows in order: every sum has one order.
    constexpr index_t strip = 64;
    const index_t strips = (x.columns + strip - 1) / strip;
    parallel(strips, [&](index_t s) {
      const index_t first = s * strip, width = std::min(strip, x.columns - first);
      Eigen::ArrayXd sum = Eigen::ArrayXd::Zero(width);
      const index_t height = detail::block_grid::block_elements / strip;
      buffer<double> block(height * width);
      for (index_t i = 0; i < x.rows; i += height) {
        const index_t count = std::min(height, x.rows - i);
        detail::load(x.window(i, count, first, width), block.data());
        for (index_t r = 0; r < count; ++r) sum += block.segment(r * width, width).square();
      }
      const auto out = y.window(first, width, 0, 1);
      buffer<double> old(width);
      detail::load<double>(out, old.data());
      old += alpha * sum;
      detail::store(old.data(), out);
    });
  }

  void weighted_square(double alpha, const_view w, const_view x, view y) {
    elementwise_onto(
        y, true,
        [alpha](const auto& old, const auto& p, const auto& q) {
          return old + alpha * p * q.square();
        },
        w, x);
  }

  void zero_rows(std::span<const index_t> list, view y) {
    const std::vector<double> zeros(static_cast<std::size_t>(y.columns), 0.0);
    for (const index_t i : list)
      if (i < 0 || i >= y.rows)
        throw error("row " + std::to_string(i) + " of " + detail::shape_text(y.rows, y.columns));
    for (const index_t i : list) detail::store(zeros.data(), y.window(i, 1, 0, y.columns));
  }

  bool all_finite(const_view x) {
    // 0 * x is 0 for every finite x and NaN for the rest.
    return sum_over_blocks(
               x, [](const auto& p) { return (0.0 * p).sum(); }, x) == 0.0;
  }

  std::vector<double> symmetric_eigen(view y) {
    detail::require_shape(*this, y, y.rows, y.rows, "symmetric eigenproblem");
    if (y.rows == 0) return {};  // Eigen's solver asks for one row at least
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(to_host(y));
    if (solver.info() != Eigen::Success)
      throw error("the symmetric eigenproblem of size " + std::to_string(y.rows) +
                  " did not converge");
    from_host(solver.eigenvectors(), y);
    return {solver.eigenvalues().begin(), solver.eigenvalues().end()};
  }

  Eigen::MatrixXd to_host(const_view x) {
    Eigen::MatrixXd m(x.rows, x.columns);
    if (m.size() > 0) detail::load(x.transposed(), m.data());
    return m;
  }

  void from_host(const Eigen::MatrixXd& m, view y) {
    if (m.rows() != y.rows || m.cols() != y.columns) throw error("from_host: the shapes differ");
    if (m.size() > 0) detail::store(m.data(), y.transposed());
  }

 private:
  template <class C>
  using buffer =
      Eigen::Array<C, Eigen::Dynamic, 1>;  // aligned, so that Eigen's sums have one order
  using task = std::function<void(index_t)>;

  void parallel(index_t count, const task& f) {
    if (run_ && count > 1)
      run_(count, f);
    else
      for (index_t i = 0; i < count; ++i) f(i);
  }

  template <class... Views>
  static bool any_f64(const Views&... v) {
    return ((v.type == scalar_type::f64) || ...);
  }

  template <class... Views>
  static void require_same_shape(const_view y, const Views&... x) {
    if (((x.rows != y.rows || x.columns != y.columns) || ...))
      throw error(std::string("elementwise operation on tensors of different shapes: ") +
                  detail::shape_text(y.rows, y.columns) +
                  ((" and " + detail::shape_text(x.rows, x.columns)) + ... + std::string()));
  }

  /// y = f(old, x...) block by block, on arrays of float or double; `old` is y where it is read.
  template <bool ReadsOld, class C, class F, class... Views>
  void elementwise_in(view y, const F& f, const Views&... x) {
    require_same_shape(y, x...);
    const detail::block_grid grid(y.rows, y.columns);
    parallel(grid.count(), [&](index_t b) {
      const auto out = grid.window(y, b);
      const index_t n = out.rows * out.columns;
      [[maybe_unused]] const auto read = [&](const const_view& v) {
        buffer<C> in(n);
        detail::load(grid.window(v, b), in.data());
        return in;
      };
      buffer<C> old(n);
      if constexpr (ReadsOld) detail::load<C>(out, old.data());
      const buffer<C> result = f(old, read(x)...);
      detail::store(result.data(), out);
    });
  }

  template <class F, class... Views>
  void elementwise(view y, bool in_double, const F& f, const Views&... x) {
    in_double ? elementwise_in<false, double>(y, f, x...)
              : elementwise_in<false, float>(y, f, x...);
  }

  template <class F, class... Views>
  void elementwise_onto(view y, bool in_double, const F& f, const Views&... x) {
    in_double ? elementwise_in<true, double>(y, f, x...) : elementwise_in<true, float>(y, f, x...);
  }

  /// The sum of f(x...) over blocks, in double, in the order of the blocks.
  template <class F, class... Views>
  double sum_over_blocks(const_view shape, const F& f, const Views&... x) {
    require_same_shape(shape, x...);
    const detail::block_grid grid(shape.rows, shape.columns);
    std::vector<double> part(static_cast<std::size_t>(grid.count()));
    parallel(grid.count(), [&](index_t b) {
      const auto read = [&](const const_view& v) {
        const auto w = grid.window(v, b);
        buffer<double> in(w.rows * w.columns);
        detail::load(w, in.data());
        return in;
      };
      part[static_cast<std::size_t>(b)] = f(read(x)...);
    });
    double sum = 0;
    for (const double p : part) sum += p;
    return sum;
  }

  /// k x m block of a factor with k contiguous: the window itself where it is stored so in type C,
  /// else a converted copy in `copy`. Products then need one kernel for all orders and types.
  template <class C>
  static Eigen::Map<const Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic>, 0, Eigen::OuterStride<>>
  depth_first(const const_view& v, buffer<C>& copy) {  // v is m x k
    if (v.type == scalar_type_v<C> && v.column_stride == 1 && v.row_stride >= v.columns)
      return {static_cast<const C*>(v.data), v.columns, v.rows, Eigen::OuterStride<>(v.row_stride)};
    if (copy.size() < v.rows * v.columns) copy.resize(v.rows * v.columns);
    detail::load(v, copy.data());
    return {copy.data(), v.columns, v.rows, Eigen::OuterStride<>(v.columns)};
  }

  /// y = alpha a b + beta y, tile by tile; each tile adds its depth in fixed pieces.
  template <class C>
  void product(double alpha, const const_view& a, const const_view& b, double beta, const view& y) {
    // 256 x 256 results over a depth of 512: the factors' pieces (512 KiB in float) stay in a
    // second-level cache while they are used, and copying one costs 1/256 of its use.
    constexpr index_t tile = 256, piece = 512;
    const index_t depth = a.columns, down = (y.rows + tile - 1) / tile,
                  across = (y.columns + tile - 1) / tile;
    parallel(down * across, [&](index_t t) {
      const index_t i = (t / across) * tile, j = (t % across) * tile;
      const index_t m = std::min(tile, y.rows - i), n = std::min(tile, y.columns - j);
      Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic> sum =
          Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic>::Zero(n, m);
      buffer<C> copy_a, copy_b;
      for (index_t k = 0; k < depth; k += piece) {
        const index_t d = std::min(piece, depth - k);
        const auto left = depth_first<C>(a.window(i, m, k, d), copy_a);
        const auto right = depth_first<C>(b.window(k, d, j, n).transposed(), copy_b);
        sum.noalias() +=
            right.transpose() * left;  // the tile's transpose, so that its rows are contiguous
      }
      const auto out = y.window(i, m, j, n);
      buffer<C> old;
      if (beta != 0) {
        old.resize(m * n);
        detail::load<C>(out, old.data());
      }
      Eigen::Map<buffer<C>> result(sum.data(), m * n);
      if (alpha != 1) result *= static_cast<C>(alpha);
      if (beta != 0) result += static_cast<C>(beta) * old;
      detail::store(sum.data(), out);
    });
  }

  executor run_;
};

static_assert(compute_context<context<host>>);

}  // namespace catmerge

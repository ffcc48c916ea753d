// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <catmerge/tensor/detail/blocks.hpp>
#include <catmerge/tensor/detail/entry_kernels.hpp>
#include <catmerge/tensor/detail/gemm.hpp>
#include <catmerge/tensor/detail/same_flags.hpp>
#include <catmerge/tensor/executor.hpp>
#include <catmerge/tensor/host/strided_view.hpp>
#include <catmerge/tensor/order_keys.hpp>
#include <catmerge/tensor/symmetric_eigen.hpp>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace catmerge {

/// The operations of tensor/context.hpp on host memory, on Eigen.
///
/// Work is cut into blocks by the extents alone and each block is computed by one task, so one
/// binary gives the same bits at any number of threads and for every storage order. (If you compile
/// with OpenMP, define EIGEN_DONT_PARALLELIZE: Eigen's own threads cut the products of the dense
/// eigensolver differently for each thread count. Under EIGEN_USE_BLAS the BLAS computes products
/// of more than 128 rows: some percent faster, but without this promise. Have it use one thread.)
template <>
class context<host> {
 public:
  using domain = host;                 ///< of the tensors that it computes on
  using view = host_view;              ///< a matrix that is written to
  using const_view = host_const_view;  ///< a matrix that is read
  using matrix = host_matrix;          ///< owns a matrix, row-major

  /// Computes on the caller's thread.
  context() = default;

  /// Computes on `run`, with equal bits, and allocates matrices from a resource. Both must outlive
  /// the context; the resource must also outlive the matrices.
  explicit context(executor run,
                   std::pmr::memory_resource* memory = std::pmr::get_default_resource())
      : run_(std::move(run)), memory_(memory) {}

  /// @cond specialisation

  static index_t rows(const const_view& v) { return v.rows; }
  static index_t columns(const const_view& v) { return v.columns; }
  static scalar_type type(const const_view& v) { return v.type; }

  matrix make(scalar_type type, index_t rows, index_t columns) {
    return {type, rows, columns, memory_};
  }

  const_view slice(const const_view& v, index_t row, index_t rows, index_t column,
                   index_t columns) {
    return v.window(row, rows, column, columns);
  }
  view slice(const view& v, index_t row, index_t rows, index_t column, index_t columns) {
    return v.window(row, rows, column, columns);
  }

  void assign(const const_view& x, const view& y) {
    elementwise(entry::copy, x.type == scalar_type::f64, 1, y, x);
  }
  void subtract(const const_view& a, const const_view& b, const view& y) {
    elementwise(entry::difference, any_f64(a, b, y), 1, y, a, b);
  }
  void transpose(const const_view& x, const view& y) { assign(x.transposed(), y); }

  void accumulate(double alpha, std::span<const const_view> list, const view& y) {
    accumulate_from(alpha, list, nullptr, y);
  }
  void accumulate(double alpha, std::span<const const_view> list, const const_view& b,
                  const view& y) {
    accumulate_from(alpha, list, &b, y);
  }
  void axpy(double alpha, const const_view& x, const view& y) {
    elementwise(entry::add, any_f64(x, y), alpha, y, x);
  }
  void scale(double alpha, const view& y) {
    elementwise(entry::scaled, y.type == scalar_type::f64, alpha, y, y);
  }
  void weighted_square(double alpha, const const_view& w, const const_view& x, const view& y) {
    elementwise(entry::add_weighted_square, true, alpha, y, w, x);
  }

  void multiply(double alpha, const const_view& first, op op_a, const const_view& second, op op_b,
                double beta, const view& y) {
    const const_view a = op_a == op::transpose ? first.transposed() : first;
    const const_view b = op_b == op::transpose ? second.transposed() : second;
    if (a.columns != b.rows || a.rows != y.rows || b.columns != y.columns)
      throw error("product of " + detail::shape_text(a.rows, a.columns) + " and " +
                  detail::shape_text(b.rows, b.columns) + " into " +
                  detail::shape_text(y.rows, y.columns));
    if (y.type == scalar_type::f64)
      product<double>(alpha, a, b, beta, y);
    else
      product<float>(alpha, a, b, beta, y);
  }

  double squared_norm(const const_view& x) { return reduce(x, x); }

  double dot(const const_view& x, const const_view& y) { return reduce(x, y); }

  void add_diagonal(double alpha, const const_view& x, const view& y) {
    detail::require_shape(*this, x, y.rows, y.rows, "diagonal");
    const_view diagonal = x;
    diagonal.columns = 1;
    diagonal.row_stride = x.row_stride + x.column_stride;
    axpy(alpha, diagonal, y);
  }

  void column_energies(double alpha, const const_view& x, const view& y) {
    detail::require_shape(*this, y, x.columns, 1, "column energies");
    // One task per strip of columns, rows in order: every sum has one order.
    constexpr index_t strip = 64, height = detail::block_grid::block_elements / strip;
    const index_t strips = (x.columns + strip - 1) / strip;
    parallel(strips, [&](index_t s) {
      const index_t first = s * strip, width = (std::min)(strip, x.columns - first);
      double sum[strip] = {}, old[strip];
      const auto block = buffer<double>(height * width);
      for (index_t i = 0; i < x.rows; i += height) {
        const index_t count = (std::min)(height, x.rows - i);
        detail::load(x.window(i, count, first, width), block.get());
        for (index_t r = 0; r < count; ++r)
          for (index_t j = 0; j < width; ++j)
            sum[j] += block[at(r * width + j)] * block[at(r * width + j)];
      }
      const auto out = y.window(first, width, 0, 1);
      detail::load<double>(out, old);
      for (index_t j = 0; j < width; ++j) old[j] += alpha * sum[j];
      detail::store(old, out);
    });
  }

  void zero_rows(std::span<const index_t> list, const view& y) {
    const std::vector<double> zeros(static_cast<std::size_t>(y.columns), 0.0);
    for (const index_t i : list)
      if (i < 0 || i >= y.rows)
        throw error("row " + std::to_string(i) + " of " + detail::shape_text(y.rows, y.columns));
    for (const index_t i : list) detail::store(zeros.data(), y.window(i, 1, 0, y.columns));
  }

  void scale_columns(std::span<const double> w, const view& y) {
    if (std::ssize(w) != y.columns)
      throw error(std::to_string(w.size()) + " factors for the columns of " +
                  detail::shape_text(y.rows, y.columns));
    const const_view row(w.data(), scalar_type::f64, 1, y.columns, y.columns, 1);
    const auto scaled = [&]<class C>(C*) {
      const detail::block_grid grid(y.rows, y.columns);
      parallel(grid.count(), [&](index_t b) {
        const auto out = grid.window(y, b);
        const auto block = loaded<C>(out);
        const auto factors = loaded<C>(row.window(0, 1, grid.first_column(b), out.columns));
        for (index_t i = 0; i < out.rows; ++i)
          for (index_t j = 0; j < out.columns; ++j)
            block[at(i * out.columns + j)] *= factors[at(j)];
        detail::store(block.get(), out);
      });
    };
    y.type == scalar_type::f64 ? scaled(static_cast<double*>(nullptr))
                               : scaled(static_cast<float*>(nullptr));
  }

  void map(entry_function f, double a, const const_view& x, const view& y) {
    require_same_shape(y, x);
    any_f64(x, y) ? map_in<double>(f, a, x, y) : map_in<float>(f, static_cast<float>(a), x, y);
  }

  void zip(pair_function f, const const_view& p, const const_view& q, const view& y) {
    elementwise(f == pair_function::product ? entry::product : entry::quotient, any_f64(p, q, y), 1,
                y, p, q);
  }

  void count_keys(const const_view& x, int depth, std::uint64_t before,
                  std::span<std::uint64_t> counts) {
    const detail::key_digit digit = detail::digit_of_key(depth);
    if (std::ssize(counts) != index_t{1} << digit.bits)
      throw error("count_keys: " + std::to_string(counts.size()) + " counts for digits of " +
                  std::to_string(digit.bits) + " bits");
    const detail::block_grid grid(x.rows, x.columns);
    for (index_t b = 0; b < grid.count(); ++b) {
      const auto block = loaded<double>(grid.window(x, b));
      for (index_t i = 0, n = grid.size(b); i < n; ++i) {
        const std::uint64_t key = detail::order_key(block[at(i)]);
        if (digit.before(key) == before) ++counts[digit(key)];
      }
    }
  }

  bool all_finite(const const_view& x) {
    if (x.rows > 1 && same_lines(x)) return all_finite(line(x));
    const detail::block_grid grid(x.rows, x.columns);
    std::vector<char> finite(at(grid.count()), 1);
    const auto look = [&]<class C>(C*) {
      parallel(grid.count(), [&](index_t b) {
        const auto window = grid.window(x, b);
        const auto copy = copy_of<C>(window);
        const auto rows = rows_of<C>(window, copy.get());
        char all = 1;
        for (index_t i = 0; i < window.rows; ++i)
          all &= finite_row(rows.data + i * rows.stride, window.columns);
        finite[at(b)] = all;
      });
    };
    x.type == scalar_type::f64 ? look(static_cast<double*>(nullptr))
                               : look(static_cast<float*>(nullptr));
    for (const char f : finite)
      if (f == 0) return false;
    return true;
  }

  template <class Matrix = small_matrix>  // (a template: see symmetric_eigen.hpp)
  std::vector<double> symmetric_eigen(const view& y, index_t count) {
    detail::require_shape(*this, y, y.rows, y.rows, "symmetric eigenproblem");
    if (y.type != scalar_type::f64 || count < 0 || count > y.rows)
      throw error("symmetric eigenproblem: not in double, or more vectors than there are");
    const view last = y.window(0, y.rows, y.rows - count, count);
    Matrix m(y.rows, y.rows);
    detail::load(y, m.data());  // rows for columns: y is symmetric
    return detail::solve_symmetric(std::move(m), count, static_cast<double*>(last.writable()),
                                   last.row_stride, last.column_stride,
                                   [&](index_t n, const task& f) { parallel(n, f); });
  }

  void concurrently(index_t count, const std::function<void(index_t)>& f) { parallel(count, f); }

  small_matrix to_host(const const_view& x) {
    small_matrix m(x.rows, x.columns);
    if (m.size() > 0) detail::load(x.transposed(), m.data());
    return m;
  }

  void from_host(const small_matrix& m, const view& y) {
    if (m.rows() != y.rows || m.cols() != y.columns) throw error("from_host: the shapes differ");
    if (m.size() > 0) detail::store(m.data(), y.transposed());
  }
  /// @endcond

 private:
  using task = std::function<void(index_t)>;

  /// The rows of a window, each contiguous; see rows_of.
  template <class C>
  struct row_block {
    const C* data;
    index_t stride;
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  /// Uninitialised room for n elements.
  template <class C>
  static std::unique_ptr<C[]> buffer(index_t n) {
    return std::unique_ptr<C[]>(new C[at(n)]);
  }

  /// A copy of a window, row after row.
  template <class C>
  static std::unique_ptr<C[]> loaded(const const_view& v) {
    auto copy = buffer<C>(v.rows * v.columns);
    detail::load(v, copy.get());
    return copy;
  }

  /// Room for the copy that rows_of makes of a window; null if it makes none.
  template <class C>
  static std::unique_ptr<C[]> copy_of(const const_view& v) {
    return has_rows<C>(v) ? nullptr : buffer<C>(v.rows * v.columns);
  }

  void parallel(index_t count, const task& f) {
    if (run_ && count > 1)
      detail::run_all(run_, count, f);
    else
      for (index_t i = 0; i < count; ++i) f(i);
  }

  template <class... Views>
  static bool any_f64(const Views&... v) {
    return ((v.type == scalar_type::f64) || ...);
  }

  static void require_same_shape(const const_view& y, const const_view& x) {
    if (x.rows != y.rows || x.columns != y.columns)
      throw error("elementwise operation on tensors of different shapes: " +
                  detail::shape_text(y.rows, y.columns) + " and " +
                  detail::shape_text(x.rows, x.columns));
  }

  /// True if all operands are stored without gaps in the same order. Elementwise operations then
  /// treat them as vectors, which reads memory in sequence.
  template <class... Views>
  static bool same_lines(const Views&... v) {
    return ((v.column_stride == 1 && v.row_stride == v.columns) && ...) ||
           ((v.row_stride == 1 && v.column_stride == v.rows) && ...);
  }
  static const_view line(const const_view& v) {
    const index_t n = v.rows * v.columns;
    return {v.data, v.type, 1, n, n, 1};
  }
  static view line(const view& v) {
    const index_t n = v.rows * v.columns;
    return {v.writable(), v.type, 1, n, n, 1};
  }

  /// The new value of an entry y of the result; p and q are entries of the operands.
  enum class entry {
    copy,                 ///< p
    difference,           ///< p - q
    scaled,               ///< alpha p
    add,                  ///< y + alpha p
    add_weighted_square,  ///< y + alpha p q^2
    product,              ///< p q
    quotient              ///< p / q, 0 where q is 0
  };

  template <class C>
  static void combine(entry e, C alpha, const C* p, const C* q, C* y, index_t n) {
    switch (e) {
      case entry::copy:
        if (p != y) std::copy_n(p, n, y);
        break;
      case entry::difference:
        for (index_t i = 0; i < n; ++i) y[i] = p[i] - q[i];
        break;
      case entry::scaled:
        for (index_t i = 0; i < n; ++i) y[i] = alpha * p[i];
        break;
      case entry::add:
        for (index_t i = 0; i < n; ++i) y[i] += alpha * p[i];
        break;
      case entry::add_weighted_square:
        for (index_t i = 0; i < n; ++i) y[i] += alpha * p[i] * (q[i] * q[i]);
        break;
      case entry::product:
        for (index_t i = 0; i < n; ++i) y[i] = p[i] * q[i];
        break;
      case entry::quotient:
        for (index_t i = 0; i < n; ++i) y[i] = q[i] == 0 ? C(0) : p[i] / q[i];
        break;
    }
  }

  /// Entry by entry in blocks, in double or float. (Operations of one operand have no q.)
  void elementwise(entry e, bool in_double, double alpha, const view& y, const const_view& p,
                   const const_view& q) {
    in_double ? elementwise_in<double>(e, alpha, y, p, &q)
              : elementwise_in<float>(e, static_cast<float>(alpha), y, p, &q);
  }
  void elementwise(entry e, bool in_double, double alpha, const view& y, const const_view& p) {
    in_double ? elementwise_in<double>(e, alpha, y, p, nullptr)
              : elementwise_in<float>(e, static_cast<float>(alpha), y, p, nullptr);
  }

  template <class C>
  void elementwise_in(entry e, C alpha, const view& y, const const_view& p, const const_view* q) {
    require_same_shape(y, p);
    if (q != nullptr) require_same_shape(y, *q);
    if (y.rows > 1 && same_lines(y, p, q != nullptr ? *q : p)) {
      const const_view other = q != nullptr ? line(*q) : const_view();
      return elementwise_in<C>(e, alpha, line(y), line(p), q != nullptr ? &other : nullptr);
    }
    const bool reads_y = e == entry::add || e == entry::add_weighted_square;
    const detail::block_grid grid(y.rows, y.columns);
    parallel(grid.count(), [&](index_t b) {
      const auto out = grid.window(y, b);
      const auto first = grid.window(p, b);
      const auto second = q != nullptr ? grid.window(*q, b) : const_view();
      const auto copy_p = copy_of<C>(first), copy_q = copy_of<C>(second), copy_y = copy_of<C>(out);
      const auto left = rows_of<C>(first, copy_p.get()), right = rows_of<C>(second, copy_q.get());
      if (copy_y && reads_y) detail::load(out, copy_y.get());
      C* const result = copy_y ? copy_y.get() : static_cast<C*>(out.writable());
      const index_t stride = copy_y ? out.columns : out.row_stride;
      for (index_t i = 0; i < out.rows; ++i)
        combine<C>(e, alpha, left.data + i * left.stride,
                   q != nullptr ? right.data + i * right.stride : nullptr, result + i * stride,
                   out.columns);
      if (copy_y) detail::store(result, out);
    });
  }

  /// y += alpha sum_i (a_i - b), b null for y += alpha sum_i a_i.
  void accumulate_from(double alpha, std::span<const const_view> list, const const_view* b,
                       const view& y) {
    bool in_double = y.type == scalar_type::f64 || (b != nullptr && b->type == scalar_type::f64);
    for (const auto& a : list) in_double = in_double || a.type == scalar_type::f64;
    in_double ? accumulate_in<double>(alpha, list, b, y)
              : accumulate_in<float>(static_cast<float>(alpha), list, b, y);
  }

  /// Block by block, so that y is read and written once however long the list is.
  template <class C>
  void accumulate_in(C alpha, std::span<const const_view> list, const const_view* b,
                     const view& y) {
    const bool plain = b == nullptr;
    if (!plain) require_same_shape(y, *b);
    bool flat = y.rows > 1;
    for (const auto& a : list) {
      require_same_shape(y, a);
      flat = flat && same_lines(y, a, plain ? a : *b);
    }
    if (flat) {
      std::vector<const_view> lines;
      for (const auto& a : list) lines.push_back(line(a));
      const const_view under = plain ? const_view() : line(*b);
      return accumulate_in<C>(alpha, lines, plain ? nullptr : &under, line(y));
    }
    const detail::block_grid grid(y.rows, y.columns);
    parallel(grid.count(), [&](index_t k) {
      const auto out = grid.window(y, k);
      const index_t n = grid.size(k), width = out.columns;
      const auto copy_a = buffer<C>(group * n), copy_b = buffer<C>(n), sum = buffer<C>(n);
      std::fill_n(sum.get(), n, C(0));
      if (plain) std::fill_n(copy_b.get(), n, C(0));
      const auto under =
          plain ? row_block<C>{copy_b.get(), width} : rows_of<C>(grid.window(*b, k), copy_b.get());
      for (std::size_t first = 0; first < list.size(); first += group) {
        const auto count =
            (std::min<index_t>)(group, std::ssize(list) - static_cast<index_t>(first));
        row_block<C> next[group] = {};
        for (index_t l = 0; l < count; ++l)
          next[l] = rows_of<C>(grid.window(list[first + at(l)], k), copy_a.get() + l * n);
        for (index_t i = 0; i < out.rows; ++i)
          add_differences(next, count, i, under.data + i * under.stride, sum.get() + i * width,
                          width);
      }
      const auto result = loaded<C>(out);
      for (index_t i = 0; i < n; ++i) result[at(i)] += alpha * sum[at(i)];
      detail::store(result.get(), out);
    });
  }

  /// How many operands are added in one pass over their sum.
  static constexpr index_t group = 4;

  /// sum += a - b for row i of each a, one after the other.
  template <class C>
  static void add_differences(const row_block<C> (&a)[group], index_t count, index_t i, const C* b,
                              C* sum, index_t n) {
    const auto row = [&](index_t l) { return a[l].data + i * a[l].stride; };
    if (count < group) {
      for (index_t l = 0; l < count; ++l)
        for (index_t j = 0; j < n; ++j) sum[j] += row(l)[j] - b[j];
      return;
    }
    const C *const a0 = row(0), *const a1 = row(1), *const a2 = row(2), *const a3 = row(3);
    for (index_t j = 0; j < n; ++j)
      sum[j] = (((sum[j] + (a0[j] - b[j])) + (a1[j] - b[j])) + (a2[j] - b[j])) + (a3[j] - b[j]);
  }

  template <class C>
  void map_in(entry_function f, C a, const const_view& x, const view& y) {
    const detail::block_grid grid(y.rows, y.columns);
    parallel(grid.count(), [&](index_t b) {
      const auto block = loaded<C>(grid.window(x, b));
      detail::apply(f, a, block.get(), grid.size(b));
      detail::store(block.get(), grid.window(y, b));
    });
  }

  /// Whether all entries are finite: 0 * x is 0 for every finite x and NaN for the rest.
  template <class C>
  static char finite_row(const C* x, index_t n) {
    C sum[lanes] = {};
    const index_t whole = n - n % lanes;
    for (index_t i = 0; i < whole; i += lanes)
      for (index_t j = 0; j < lanes; ++j) sum[j] += C(0) * x[i + j];
    for (index_t i = whole; i < n; ++i) sum[i - whole] += C(0) * x[i];
    for (index_t j = 1; j < lanes; ++j) sum[0] += sum[j];
    return sum[0] == 0;
  }

  /// How many sums a reduction runs side by side: independent additions keep the adders busy.
  static constexpr index_t lanes = 32;

  /// s[j] += p q over the entries i = j modulo `lanes`; products and sums in double.
  template <class C>
  static void add_products(const C* p, const C* q, index_t n, double* s) {
    double sum[lanes];
    std::copy_n(s, lanes, sum);
    const index_t whole = n - n % lanes;
    for (index_t i = 0; i < whole; i += lanes)
      for (index_t j = 0; j < lanes; ++j)
        sum[j] += static_cast<double>(p[i + j]) * static_cast<double>(q[i + j]);
    for (index_t i = whole; i < n; ++i)
      sum[i - whole] += static_cast<double>(p[i]) * static_cast<double>(q[i]);
    std::copy_n(sum, lanes, s);
  }

  /// The sum of products of entries, in double: blocks in their order, each as interleaved sums,
  /// added pairwise.
  double reduce(const const_view& x, const const_view& y) {
    require_same_shape(x, y);
    const detail::block_grid grid(x.rows, x.columns);
    std::vector<double> part(at(grid.count()));
    const auto add = [&]<class C>(C*) {
      parallel(grid.count(), [&](index_t b) {
        const auto first = grid.window(x, b), second = grid.window(y, b);
        // Sums continue across rows. Rows that do not fill all lanes are copied into one.
        double s[lanes] = {};
        if (first.columns % lanes == 0 && has_rows<C>(first) && has_rows<C>(second)) {
          for (index_t i = 0; i < first.rows; ++i)
            add_products(static_cast<const C*>(first.at(i, 0)),
                         static_cast<const C*>(second.at(i, 0)), first.columns, s);
        } else {
          const auto p = loaded<C>(first), q = loaded<C>(second);
          add_products(p.get(), q.get(), grid.size(b), s);
        }
        for (index_t width = lanes / 2; width > 0; width /= 2)
          for (index_t j = 0; j < width; ++j) s[j] += s[j + width];
        part[at(b)] = s[0];
      });
    };
    any_f64(x, y) ? add(static_cast<double*>(nullptr)) : add(static_cast<float*>(nullptr));
    double sum = 0;
    for (const double p : part) sum += p;
    return sum;
  }

  template <class C>
  static bool has_rows(const const_view& v) {
    return v.type == scalar_type_v<C> && v.column_stride == 1 && v.row_stride >= v.columns;
  }
  /// The window itself if it is stored as rows of type C, else a converted copy in `copy`. So one
  /// loop serves all types.
  template <class C>
  static row_block<C> rows_of(const const_view& v, C* copy) {
    if (has_rows<C>(v)) return {static_cast<const C*>(v.data), v.row_stride};
    detail::load(v, copy);
    return {copy, v.columns};
  }

  /// y = alpha a b + beta y, tile by tile; each tile adds its depth in fixed pieces. Of a Gram
  /// matrix a a^T, each tile above the diagonal is also written below it: the same sums, to the
  /// last bit.
  template <class C>
  void product(double alpha, const const_view& a, const const_view& b, double beta, const view& y) {
    // 256 x 256 results over a depth of 512: a factor's piece (512 KiB in float) stays in a
    // second-level cache while it is used, and copying one, where types differ, costs little. For
    // few rows times a weight in place, 512 columns: the weight is read in longer runs.
    constexpr index_t tile = 256, piece = 512;
    const bool few = y.rows <= 128;
    const index_t wide = few && b.column_stride == 1 ? 2 * tile : tile, depth = a.columns,
                  deepest = (std::min)(piece, depth), down = (y.rows + tile - 1) / tile,
                  across = (y.columns + wide - 1) / wide;
    // Few rows times a transposed weight: computed as the weight, in place, times these rows
    // transposed. Only the smaller factor is reordered.
    const bool turned = few && b.column_stride != 1 && 2 * y.rows <= y.columns;
    const bool gram = wide == tile && a.data == b.data && a.type == b.type && a.rows == b.columns &&
                      a.row_stride == b.column_stride && a.column_stride == b.row_stride;
    std::vector<std::pair<index_t, index_t>> tiles;
    for (index_t i = 0; i < down; ++i)
      for (index_t j = gram ? i : 0; j < across; ++j) tiles.emplace_back(i * tile, j * wide);
    parallel(std::ssize(tiles), [&](index_t t) {
      const auto [i, j] = tiles[at(t)];
      const index_t m = (std::min)(tile, y.rows - i), n = (std::min)(wide, y.columns - j);
      const index_t height = turned ? n : m, length = turned ? m : n,
                    room = detail::product_rows<C>(height) * detail::product_columns<C>(length);
      index_t stride = detail::product_columns<C>(length);
      auto sum = buffer<C>(room);
      const auto copy_a = buffer<C>(m * deepest), copy_b = buffer<C>(n * deepest);
      std::fill_n(sum.get(), room, C(0));
      for (index_t k = 0; k < depth; k += piece) {
        const index_t d = (std::min)(piece, depth - k);
        const auto left = rows_of<C>(a.window(i, m, k, d), copy_a.get());
        // The second factor where it lies, if its rows or its columns are contiguous.
        const const_view second = b.window(k, d, j, n);
        const bool flipped = second.column_stride != 1;
        const auto right = rows_of<C>(flipped ? second.transposed() : second, copy_b.get());
        const auto &x = turned ? right : left, &factor = turned ? left : right;
        const auto add = [&](const auto& product) {
          product(x.data, x.stride, factor.data, factor.stride, flipped, sum.get(), stride, height,
                  length, d);
        };
#ifdef EIGEN_USE_BLAS
        if (!few)
          add(detail::add_product_by_blas<C>);
        else
#endif
          add(detail::add_product<C>);
      }
      if (turned) {
        const index_t columns = detail::product_columns<C>(n);
        auto result = buffer<C>(m * columns);
        detail::flip(sum.get(), stride, n, m, result.get(), columns);
        sum = std::move(result);
        stride = columns;
      }
      write_product<C>(alpha, sum.get(), stride, beta, y.window(i, m, j, n));
      if (gram && i < j)
        write_product<C>(alpha, sum.get(), stride, beta, y.transposed().window(i, m, j, n));
    });
  }

  /// y = alpha x + beta y for rows of x that are `stride` apart.
  template <class C>
  static void write_product(double alpha, const C* x, index_t stride, double beta, const view& y) {
    const auto copy = copy_of<C>(y);
    if (copy && beta != 0) detail::load(y, copy.get());
    C* const result = copy ? copy.get() : static_cast<C*>(y.writable());
    const C factor = static_cast<C>(alpha), share = static_cast<C>(beta);
    for (index_t r = 0; r < y.rows; ++r) {
      const C* const from = x + r * stride;
      C* const to = result + r * (copy ? y.columns : y.row_stride);
      if (beta != 0)
        for (index_t e = 0; e < y.columns; ++e) to[e] = factor * from[e] + share * to[e];
      else
        for (index_t e = 0; e < y.columns; ++e) to[e] = factor * from[e];
    }
    if (copy) detail::store(result, y);
  }

  executor run_;
  std::pmr::memory_resource* memory_ = std::pmr::get_default_resource();
};

static_assert(compute_context<context<host>>);

}  // namespace catmerge

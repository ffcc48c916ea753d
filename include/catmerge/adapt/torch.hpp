// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_eigh_ops.h>
#include <c10/core/InferenceMode.h>

#include <catmerge/adapt/detail/torch_tensor.hpp>
#include <catmerge/tensor/order_keys.hpp>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace catmerge {

/// The operations of tensor/context.hpp by libtorch, on one device. Only the small results of
/// that list leave the device. Gradients are not recorded; parameters that require gradients
/// can be written to. Errors of libtorch (no memory, no such device) pass through.
///
/// Unlike on the host, operands are converted whole, not in blocks, and double becomes float16 or
/// bfloat16 by way of float, rounded twice.
///
/// Bits: on a processor, elementwise operations and sums are equal at any number of threads
/// (at::set_num_threads). Products and eigenvectors are those of BLAS and LAPACK. Debian's
/// reference BLAS and LAPACK gave equal ones, too; MKL (in PyTorch's own binaries) gave equal
/// products, but other eigenvectors at 2 threads than at 1 from 100 x 100 on. So expect equal bits
/// from the same binary at the same number of threads. For other devices see libtorch's notes on
/// reproducibility. Products of floats are less exact if the program allows it (TF32, bfloat16
/// passes: at::Context::setFloat32MatmulPrecision); libtorch's default does not.
template <>
class context<torch_domain> {
 public:
  using domain = torch_domain;          ///< of its operands
  using view = torch_view;              ///< a matrix to write
  using const_view = torch_const_view;  ///< a matrix to read
  using matrix = torch_matrix;          ///< owns a matrix, on the context's device

  /// A context on the processor.
  context() = default;
  /// A context on a device; "cuda" without an index is the current device of its kind.
  explicit context(at::Device device) : device_(nothing().to(device).device()) {}
  /// A context on the device of this tensor.
  explicit context(const const_view& like) : device_(like.tensor.device()) {}

  /// The device of all operands; operations throw error for others.
  at::Device device() const { return device_; }

  /// @cond specialisation

  static index_t rows(const const_view& v) { return v.tensor.size(0); }
  static index_t columns(const const_view& v) { return v.tensor.size(1); }
  static scalar_type type(const const_view& v) {
    return detail::type_of_torch(v.tensor.scalar_type()).value();
  }

  matrix make(scalar_type type, index_t rows, index_t columns) {
    if (rows < 0 || columns < 0) throw error("a matrix cannot have a negative extent");
    const auto options = at::TensorOptions().dtype(detail::torch_type(type)).device(device_);
    return matrix(nothing().new_zeros({rows, columns}, options));
  }

  const_view slice(const const_view& v, index_t row, index_t rows, index_t column,
                   index_t columns) {
    return {v.tensor.narrow(0, row, rows).narrow(1, column, columns)};
  }
  view slice(const view& v, index_t row, index_t rows, index_t column, index_t columns) {
    return {v.tensor.narrow(0, row, rows).narrow(1, column, columns)};
  }

  void assign(const const_view& x, const view& y) {
    const auto writing = elementwise(y, x);
    y.tensor.copy_(x.tensor);
  }

  void subtract(const const_view& a, const const_view& b, const view& y) {
    const auto writing = elementwise(y, a, b);
    const auto c = compute(y, a, b);
    if (y.tensor.scalar_type() == c && !y.tensor.is_alias_of(b.tensor))
      y.tensor.copy_(a.tensor).sub_(b.tensor);
    else
      y.tensor.copy_(a.tensor.to(c).sub(b.tensor));
  }

  void transpose(const const_view& x, const view& y) { assign({x.tensor.t()}, y); }

  void accumulate(double alpha, std::span<const const_view> list, const view& y) {
    accumulate_from(alpha, list, nullptr, y);
  }
  void accumulate(double alpha, std::span<const const_view> list, const const_view& b,
                  const view& y) {
    accumulate_from(alpha, list, &b, y);
  }

  void axpy(double alpha, const const_view& x, const view& y) {
    const auto writing = elementwise(y, x);
    add(alpha, x.tensor, y);
  }

  void scale(double alpha, const view& y) {
    const auto writing = operands(y);
    in_place(y, [&](const at::Tensor& t) { t.mul_(alpha); });
  }

  void multiply(double alpha, const const_view& a, op op_a, const const_view& b, op op_b,
                double beta, const view& y) {
    const auto writing = operands(y, a, b);
    const auto c = compute(y);
    const at::Tensor left = a.tensor.to(c);
    const at::Tensor right = b.tensor.is_same(a.tensor) ? left : b.tensor.to(c);  // X^T X: once
    const at::Tensor p = op_a == op::transpose ? left.t() : left;
    const at::Tensor q = op_b == op::transpose ? right.t() : right;
    if (p.size(1) != q.size(0) || p.size(0) != rows(y) || q.size(1) != columns(y))
      throw error("product of " + detail::shape_text(p.size(0), p.size(1)) + " and " +
                  detail::shape_text(q.size(0), q.size(1)) + " into " +
                  detail::shape_text(rows(y), columns(y)));
    in_place(y, [&](const at::Tensor& t) { t.addmm_(p, q, beta, alpha); });
  }

  double squared_norm(const const_view& x) {
    const auto reading = operands(x);
    return total(x.tensor.to(at::kDouble).square().reshape(-1)).item<double>();
  }

  double dot(const const_view& x, const const_view& y) {
    const auto reading = elementwise(x, y);
    return total(x.tensor.to(at::kDouble).mul(y.tensor).reshape(-1)).item<double>();
  }

  void add_diagonal(double alpha, const const_view& x, const view& y) {
    const auto writing = operands(y, x);
    detail::require_shape(*this, x, rows(y), rows(y), "diagonal");
    add(alpha, x.tensor.diagonal().reshape({rows(y), 1}), y);
  }

  void column_energies(double alpha, const const_view& x, const view& y) {
    const auto writing = operands(y, x);
    detail::require_shape(*this, y, columns(x), 1, "column energies");
    const at::Tensor squares = x.tensor.to(at::kDouble).square();
    const at::Tensor sum = columns(x) == 1 ? total(squares.reshape(-1)) : squares.sum(0);
    add(alpha, sum.reshape({columns(x), 1}), y);
  }

  void weighted_square(double alpha, const const_view& w, const const_view& x, const view& y) {
    const auto writing = elementwise(y, w, x);
    add(alpha, x.tensor.to(at::kDouble).square().mul(w.tensor), y);
  }

  void zero_rows(std::span<const index_t> list, const view& y) {
    const auto writing = operands(y);
    for (const index_t i : list)
      if (i < 0 || i >= rows(y))
        throw error("row " + std::to_string(i) + " of " + detail::shape_text(rows(y), columns(y)));
    if (list.empty() || columns(y) == 0) return;
    std::vector<int64_t> positions(list.begin(), list.end());
    const auto index = at::from_blob(positions.data(), {std::ssize(positions)}, at::kLong);
    y.tensor.index_fill_(0, index.to(device_), 0);
  }

  void scale_columns(std::span<const double> w, const view& y) {
    const auto writing = operands(y);
    if (std::ssize(w) != columns(y))
      throw error(std::to_string(w.size()) + " factors for the columns of " +
                  detail::shape_text(rows(y), columns(y)));
    if (w.empty()) return;
    const at::Tensor row = at::from_blob(const_cast<double*>(w.data()), {columns(y)}, at::kDouble);
    const at::Tensor factors = row.to(device_, compute(y));
    in_place(y, [&](const at::Tensor& t) { t.mul_(factors); });
  }

  void map(entry_function f, double a, const const_view& x, const view& y) {
    const auto writing = elementwise(y, x);
    y.tensor.copy_(value_of(f, a, x.tensor.to(compute(x, y))));
  }

  void zip(pair_function f, const const_view& p, const const_view& q, const view& y) {
    const auto writing = elementwise(y, p, q);
    const auto c = compute(p, q, y);
    const at::Tensor first = p.tensor.to(c), second = q.tensor.to(c);
    if (f == pair_function::product)
      y.tensor.copy_(first.mul(second));
    else
      y.tensor.copy_(first.div(second).masked_fill_(second.eq(0), 0));
  }

  void count_keys(const const_view& x, int depth, std::uint64_t before,
                  std::span<std::uint64_t> counts) {
    const auto reading = operands(x);
    const detail::key_digit digit = detail::digit_of_key(depth);
    if (std::ssize(counts) != index_t{1} << digit.bits)
      throw error("count_keys: " + std::to_string(counts.size()) + " counts for digits of " +
                  std::to_string(digit.bits) + " bits");
    // detail::order_key in signed integers. libtorch shifts them arithmetically: a shift by 63
    // gives all ones or all zeros. After other shifts a mask clears the copies of the sign.
    at::Tensor key = x.tensor.to(at::kDouble).add(0.0).view(at::kLong);
    key.bitwise_xor_(key.__rshift__(63).bitwise_or_((std::numeric_limits<int64_t>::min)()));
    const auto low = [](int bits) { return (int64_t{1} << bits) - 1; };
    if (const int known = 64 - digit.shift - digit.bits; known > 0) {
      const at::Tensor first_digits = key.__rshift__(64 - known).bitwise_and_(low(known));
      key = key.masked_select(first_digits.eq(static_cast<int64_t>(before)));
    }
    const at::Tensor digits = key.__rshift__(digit.shift).bitwise_and_(low(digit.bits)).reshape(-1);
    at::from_blob(counts.data(), {std::ssize(counts)}, at::kLong)
        .add_(digits.bincount({}, std::ssize(counts)).to(at::kCPU));
  }

  bool all_finite(const const_view& x) {
    const auto reading = operands(x);
    return x.tensor.isfinite().all().item<bool>();
  }

  std::vector<double> symmetric_eigen(const view& y, index_t count) {
    const auto writing = operands(y);
    const index_t n = rows(y);
    detail::require_shape(*this, y, n, n, "symmetric eigenproblem");
    const auto last = slice(y, 0, n, n - count, count);
    std::vector<double> values(static_cast<std::size_t>(n));
    if (n == 0) return values;
    const auto stop = [n](const std::string& why) {
      throw error("the symmetric eigenproblem of size " + std::to_string(n) + why);
    };
    if (!all_finite(y)) stop(" holds numbers that are not finite");  // LAPACK may not notice
    try {
      const auto [w, v] = at::_ops::linalg_eigh::call(y.tensor.to(at::kDouble), "L");
      at::from_blob(values.data(), {n}, at::kDouble).copy_(w);
      last.tensor.copy_(v.narrow(1, n - count, count));
    } catch (const c10::LinAlgError& e) {
      stop(std::string(" did not converge: ") + e.what_without_backtrace());
    }
    return values;
  }

  void concurrently(index_t count, const std::function<void(index_t)>& f) {
    for (index_t i = 0; i < count; ++i) f(i);  // the device and libtorch's threads are one queue
  }

  small_matrix to_host(const const_view& x) {
    const auto reading = operands(x);
    small_matrix m(rows(x), columns(x));
    if (m.size() > 0) on_host(m).copy_(x.tensor);
    return m;
  }

  void from_host(const small_matrix& m, const view& y) {
    const auto writing = operands(y);
    if (m.rows() != rows(y) || m.cols() != columns(y)) throw error("from_host: the shapes differ");
    if (m.size() > 0) y.tensor.copy_(on_host(m));
  }
  /// @endcond

 private:
  /// Allows writing to tensors of inference mode during its lifetime.
  using access = std::optional<c10::InferenceMode>;

  /// Throws unless all operands live on this context's device.
  template <class... Views>
  access operands(const const_view& y, const Views&... x) const {
    const auto check = [this](const at::Tensor& t) {
      if (t.device() != device_)
        throw error("a torch::Tensor lives on " + t.device().str() +
                    " and this context computes on " + device_.str() + ": move it with to(\"" +
                    device_.str() + "\"), or pass a context of " + t.device().str());
    };
    check(y.tensor), (check(x.tensor), ...);
    return y.tensor.is_inference() ? access(std::in_place) : access();
  }

  /// As operands. Throws also unless all have one shape: libtorch would broadcast.
  template <class... Views>
  access elementwise(const const_view& y, const Views&... x) const {
    if (((rows(x) != rows(y) || columns(x) != columns(y)) || ...))
      throw error(std::string("elementwise operation on tensors of different shapes: ") +
                  detail::shape_text(rows(y), columns(y)) +
                  ((" and " + detail::shape_text(rows(x), columns(x))) + ... + std::string()));
    return operands(y, x...);
  }

  /// y += alpha sum_i (a_i - b), b null for y += alpha sum_i a_i.
  void accumulate_from(double alpha, std::span<const const_view> list, const const_view* b,
                       const view& y) {
    const auto writing = elementwise(y, b != nullptr ? *b : const_view(y));
    auto c = compute(y, b != nullptr ? *b : const_view(y));
    for (const auto& a : list) {
      elementwise(y, a);
      if (compute(a) == at::kDouble) c = at::kDouble;
    }
    const at::Tensor base = b != nullptr ? b->tensor.to(c) : at::Tensor();
    at::Tensor sum;
    for (const auto& a : list) {
      const at::Tensor next = b != nullptr ? a.tensor.to(c).sub(base) : a.tensor.to(c);
      sum = sum.defined() ? sum.add_(next) : b != nullptr ? next : next.clone();
    }
    if (sum.defined()) add(alpha, sum, y);
  }

  /// The scalar type of arithmetic on these.
  template <class... Views>
  static at::ScalarType compute(const Views&... v) {
    return ((v.tensor.scalar_type() == at::kDouble) || ...) ? at::kDouble : at::kFloat;
  }

  /// Applies f to y itself, or to a copy in the compute type that is then rounded into y.
  template <class F>
  static void in_place(const view& y, const F& f) {
    const at::Tensor t = y.tensor.to(compute(y));
    f(t);
    if (!t.is_same(y.tensor)) y.tensor.copy_(t);
  }

  /// f(x; a), in x's type, in a new tensor.
  static at::Tensor value_of(entry_function f, double a, const at::Tensor& x) {
    switch (f) {
      case entry_function::absolute: return x.abs();
      case entry_function::sign: return x.sign();
      case entry_function::exponential: return x.exp();
      case entry_function::tangent: return x.tanh();
      case entry_function::at_least: return x.clamp_min(a);
      case entry_function::at_most: return x.clamp_max(a);
      case entry_function::above: return x.gt(a);
    }
    return x;
  }

  /// y += alpha x, in double if x or y is.
  static void add(double alpha, const at::Tensor& x, const view& y) {
    const auto c = compute(y, const_view{x});
    if (y.tensor.scalar_type() == c || x.scalar_type() == c)  // libtorch computes in this type
      y.tensor.add_(x, alpha);
    else
      y.tensor.copy_(y.tensor.to(c).add_(x, alpha));
  }

  /// The sum of a vector, in pieces of one thread each: libtorch splits a sum of more than 32768
  /// numbers among its threads.
  static at::Tensor total(const at::Tensor& x) {
    constexpr int64_t piece = 4096;
    const int64_t count = x.numel() / piece, all = count * piece;
    if (count < 2) return x.sum();
    return total(x.narrow(0, 0, all).view({count, piece}).sum(1))
        .add(x.narrow(0, all, x.numel() - all).sum());
  }

  /// An empty tensor to make others from.
  static at::Tensor nothing() {
    static double memory = 0;
    return at::from_blob(&memory, {0}, at::kDouble);
  }

  /// Eigen's memory as a tensor. (from_blob takes no const; the tensor of a const matrix is only
  /// read.)
  static at::Tensor on_host(const small_matrix& m) {
    return at::from_blob(const_cast<double*>(m.data()), {m.cols(), m.rows()}, at::kDouble).t();
  }

  at::Device device_{at::kCPU};
};

static_assert(compute_context<context<torch_domain>>);

}  // namespace catmerge

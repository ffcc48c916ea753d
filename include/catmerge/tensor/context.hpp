// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <catmerge/tensor/entry_functions.hpp>
#include <catmerge/tensor/small_matrix.hpp>
#include <catmerge/tensor/traits.hpp>
#include <concepts>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace catmerge {

/// Whether a factor of a product is taken as it is or transposed.
enum class op : bool {
  none,      ///< x
  transpose  ///< x^T
};

// The operations of compute_context: their names in messages, their results, a call of each.
// clang-format off
#define CATMERGE_OPERATIONS(OPERATION)                                                            \
  OPERATION("rows(v)", -> std::same_as<index_t>, rows(x))                                         \
  OPERATION("columns(v)", -> std::same_as<index_t>, columns(x))                                   \
  OPERATION("type(v)", -> std::same_as<scalar_type>, type(x))                                     \
  OPERATION("make(type, rows, columns)", -> std::same_as<typename C::matrix>,                     \
            make(scalar_type::f32, n, n))                                                         \
  OPERATION("slice(const_view, row, rows, column, columns)",                                      \
            -> std::same_as<typename C::const_view>, slice(x, n, n, n, n))                        \
  OPERATION("slice(view, row, rows, column, columns)", -> std::same_as<typename C::view>,         \
            slice(y, n, n, n, n))                                                                 \
  OPERATION("assign(x, y)", , assign(x, y))                                                       \
  OPERATION("subtract(a, b, y)", , subtract(x, x, y))                                             \
  OPERATION("transpose(x, y)", , transpose(x, y))                                                 \
  OPERATION("accumulate(alpha, list, y)", , accumulate(a, operands, y))                           \
  OPERATION("accumulate(alpha, list, b, y)", , accumulate(a, operands, x, y))                     \
  OPERATION("axpy(alpha, x, y)", , axpy(a, x, y))                                                 \
  OPERATION("scale(alpha, y)", , scale(a, y))                                                     \
  OPERATION("multiply(alpha, a, op, b, op, beta, y)", ,                                           \
            multiply(a, x, op::none, x, op::transpose, a, y))                                     \
  OPERATION("squared_norm(x)", -> std::same_as<double>, squared_norm(x))                          \
  OPERATION("dot(x, y)", -> std::same_as<double>, dot(x, x))                                      \
  OPERATION("add_diagonal(alpha, x, y)", , add_diagonal(a, x, y))                                 \
  OPERATION("column_energies(alpha, x, y)", , column_energies(a, x, y))                           \
  OPERATION("weighted_square(alpha, w, x, y)", , weighted_square(a, x, x, y))                     \
  OPERATION("zero_rows(list, y)", , zero_rows(list, y))                                           \
  OPERATION("scale_columns(w, y)", , scale_columns(w, y))                                         \
  OPERATION("map(f, a, x, y)", , map(entry_function::sign, a, x, y))                              \
  OPERATION("zip(f, p, q, y)", , zip(pair_function::product, x, x, y))                            \
  OPERATION("count_keys(x, depth, before, counts)", , count_keys(x, 0, std::uint64_t{0}, counts)) \
  OPERATION("all_finite(x)", -> std::same_as<bool>, all_finite(x))                                \
  OPERATION("symmetric_eigen(y)", -> std::same_as<std::vector<double>>, symmetric_eigen(y))       \
  OPERATION("concurrently(count, f)", , concurrently(n, f))                                       \
  OPERATION("to_host(x)", -> std::same_as<small_matrix>, to_host(x))                              \
  OPERATION("from_host(m, y)", , from_host(m, y))
// clang-format on

/// The closed list of coarse operations: everything that an algorithm of this library asks of a
/// domain. A new domain D specialises catmerge::context<D>.
///
/// Requirements: the types
/// - `domain`: D itself;
/// - `view`, `const_view`: handles of matrices that are written to and read, cheap to copy; a view
///   converts to a const_view;
/// - `matrix`: owns one, converts to both; can be moved, and made empty.
///
/// All know their scalar type at run time. A vector of d is a d x 1 matrix. Operands of one call
/// may differ in scalar type; arithmetic is done in double if any operand is f64, else in float,
/// and is rounded once on the way into the result. And the operations
/// - `rows(v)`, `columns(v)`, `type(v)`;
/// - `make(type, rows, columns)`: a matrix of zeros;
/// - `slice(v, row, rows, column, columns)`: a window, no copy, writable if v is;
/// - `assign(x, y)`: y = x, converting;
/// - `subtract(a, b, y)`: y = a - b;
/// - `transpose(x, y)`: y = x^T, converting;
/// - `accumulate(alpha, list, y)`: y += alpha sum_i a_i for a list of const_views, added in the
///   order of the list, every partial sum rounded as computed;
/// - `accumulate(alpha, list, b, y)`: y += alpha sum_i (a_i - b), likewise;
/// - `axpy(alpha, x, y)`: y += alpha x;
/// - `scale(alpha, y)`: y = alpha y;
/// - `multiply(alpha, a, op, b, op, beta, y)`: y = alpha op(a) op(b) + beta y, in y's precision
///   (so a double y of float factors is a double product); beta = 0 overwrites whatever y held; y
///   overlaps neither factor;
/// - `squared_norm(x)`, `dot(x, y)` = tr(x^T y): in double, to the host;
/// - `add_diagonal(alpha, x, y)`: y(j) += alpha x(j, j), x square, y d x 1;
/// - `column_energies(alpha, x, y)`: y(j) += alpha sum_i x(i, j)^2, y d x 1, f64;
/// - `weighted_square(alpha, w, x, y)`: y += alpha w o x o x, all d x 1, y f64;
/// - `zero_rows(list, y)`: the rows named become zero;
/// - `scale_columns(w, y)`: y(i, j) = w[j] y(i, j);
/// - `map(f, a, x, y)`: y = f(x; a), a function of tensor/entry_functions.hpp, entry by entry;
/// - `zip(f, p, q, y)`: y = f(p, q), likewise;
/// - `count_keys(x, depth, before, counts)`: adds to counts[d] how many entries of x have d as the
///   digit number `depth` of their order key, and `before` as the digits before it
///   (tensor/entry_functions.hpp; numeric/order_search.hpp is what uses it);
/// - `all_finite(x)`;
/// - `symmetric_eigen(y)`: eigenvalues of the symmetric f64 matrix y, ascending, to the host; y is
///   overwritten with the eigenvectors, one per column;
/// - `concurrently(count, f)`: calls f(0) ... f(count - 1), in any order and perhaps at the same
///   time; f may use the context, on what no other of the calls writes;
/// - `to_host(x)`, `from_host(m, y)`: a small_matrix, for what is small (thin blocks' products,
///   scores).
///
/// A context that is constructed by default is made for calls that pass none. Where it can be
/// constructed from a const_view it is made from the first tensor of the call instead: so a context
/// learns the device.
///
/// On the host every operation gives the same bits for the same input, whatever runs it in
/// parallel. A domain whose arithmetic is somebody else's says in its docs what it promises.
/// @code
/// template <catmerge::compute_context C>
/// double distance(C& c, typename C::const_view a, typename C::const_view b) {
///   auto d = c.make(catmerge::scalar_type::f64, c.rows(a), c.columns(a));
///   c.subtract(a, b, d);
///   return std::sqrt(c.squared_norm(d));
/// }
/// @endcode
/// Models: context<host> (tensor/host/host.hpp, the one to read), context<torch_domain>
/// (adapt/torch.hpp).
template <class C>
concept compute_context = requires(C& c, typename C::view y, typename C::const_view x, index_t n,
                                   double a, std::span<const index_t> list,
                                   std::span<const typename C::const_view> operands,
                                   std::span<const double> w, std::span<std::uint64_t> counts,
                                   const std::function<void(index_t)>& f, const small_matrix& m) {
  requires std::same_as<C, context<typename C::domain>>;
  requires std::convertible_to<typename C::view, typename C::const_view>;
  requires std::default_initializable<typename C::matrix> && std::movable<typename C::matrix>;
  requires std::convertible_to<typename C::matrix&, typename C::view>;
  requires std::convertible_to<const typename C::matrix&, typename C::const_view>;
// clang-format off
#define CATMERGE_REQUIREMENT(NAME, RESULT, ...) { c.__VA_ARGS__ } RESULT;
  CATMERGE_OPERATIONS(CATMERGE_REQUIREMENT)
#undef CATMERGE_REQUIREMENT
  // clang-format on
};

/// A tensor as its context reads it: `context.squared_norm(const_view_of(weight))`. Refers to the
/// tensor, which must outlive it.
template <class T>
typename context<domain_t<T>>::const_view const_view_of(const T& t) {
  return tensor_traits<T>::view(t);
}

/// A tensor as its context writes to it, likewise.
template <class T>
typename context<domain_t<T>>::view view_of(T& t) {
  return detail::traits<T>::view(t);
}

namespace detail {

/// "3 x 4", for messages.
inline std::string shape_text(index_t rows, index_t columns) {
  return std::to_string(rows) + " x " + std::to_string(columns);
}

template <class Context>
std::string shape_text(Context& c, typename Context::const_view v) {
  return shape_text(c.rows(v), c.columns(v));
}

/// Throws unless v is rows x columns; `what` names it in the message.
template <class Context>
void require_shape(Context& c, typename Context::const_view v, index_t rows, index_t columns,
                   const std::string& what) {
  if (c.rows(v) != rows || c.columns(v) != columns)
    throw error(what + ": expected " + shape_text(rows, columns) + ", found " + shape_text(c, v));
}

/// The context of a call that passes none; `first` is the call's first tensor.
template <class Domain>
context<Domain> context_on(const typename context<Domain>::const_view& first) {
  if constexpr (std::constructible_from<context<Domain>,
                                        const typename context<Domain>::const_view&>)
    return context<Domain>(first);
  else
    return context<Domain>();
}
template <class T>
context<domain_t<T>> context_of(const T& first) {
  return context_on<domain_t<T>>(const_view_of(first));
}

/// The context of a call that passes none, and whose first tensors are a range.
template <class Range>
auto context_of_first(const Range& range) -> context<domain_t<element_t<Range>>> {
  if (std::begin(range) == std::end(range)) return {};
  return context_of(unwrap(*std::begin(range)));
}

/// The windows of a range of tensors.
template <class Context, class Range>
std::vector<typename Context::const_view> read_all(const Range& range) {
  std::vector<typename Context::const_view> views;
  for (const auto& t : range) views.push_back(const_view_of(unwrap(t)));
  return views;
}

/// A tensor for a result shaped like v.
template <class T, class Context>
result_t<T> make_result(Context& c, const T& like, typename Context::const_view v) {
  return tensor_traits<T>::make(like, c.rows(v), c.columns(v));
}

}  // namespace detail
}  // namespace catmerge

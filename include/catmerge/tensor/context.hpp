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

/// The form of a factor in a product: as it is or transposed.
enum class op : bool {
  none,      ///< x
  transpose  ///< x^T
};

// The operations of compute_context: the name in messages, the result, a sample call.
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
  OPERATION("symmetric_eigen(y, n)", -> std::same_as<std::vector<double>>, symmetric_eigen(y, n)) \
  OPERATION("concurrently(count, f)", , concurrently(n, f))                                       \
  OPERATION("to_host(x)", -> std::same_as<small_matrix>, to_host(x))                              \
  OPERATION("from_host(m, y)", , from_host(m, y))
// clang-format on

/// The closed list of coarse operations. Algorithms of this library use nothing else of a domain. A
/// new domain D specialises catmerge::context<D>.
///
/// Requirements: the types
/// - `domain`: D itself;
/// - `view`, `const_view`: handles of a matrix, to write and to read; cheap to copy; a view
///   converts to a const_view;
/// - `matrix`: owns a matrix, converts to both handles; movable; empty by default.
///
/// All know their scalar type at run time. A vector of d entries is a d x 1 matrix. Operands of one
/// call may differ in scalar type. Arithmetic is in double if any operand is f64, else in float;
/// the result is rounded once when it is stored. And the operations
/// - `rows(v)`, `columns(v)`, `type(v)`;
/// - `make(type, rows, columns)`: a matrix of zeros;
/// - `slice(v, row, rows, column, columns)`: a window, no copy, writable if v is;
/// - `assign(x, y)`: y = x, converting;
/// - `subtract(a, b, y)`: y = a - b;
/// - `transpose(x, y)`: y = x^T, converting;
/// - `accumulate(alpha, list, y)`: y += alpha sum_i a_i for a list of const_views, added in list
///   order, each partial sum rounded to the type of the arithmetic;
/// - `accumulate(alpha, list, b, y)`: y += alpha sum_i (a_i - b), likewise;
/// - `axpy(alpha, x, y)`: y += alpha x;
/// - `scale(alpha, y)`: y = alpha y;
/// - `multiply(alpha, a, op, b, op, beta, y)`: y = alpha op(a) op(b) + beta y, in y's precision (so
///   a double y of float factors is a double product); beta = 0 ignores the old y; y overlaps
///   neither factor;
/// - `squared_norm(x)`, `dot(x, y)` = tr(x^T y): in double, to the host;
/// - `add_diagonal(alpha, x, y)`: y(j) += alpha x(j, j), x square, y d x 1;
/// - `column_energies(alpha, x, y)`: y(j) += alpha sum_i x(i, j)^2, y d x 1, f64;
/// - `weighted_square(alpha, w, x, y)`: y += alpha w o x o x, all d x 1, y f64;
/// - `zero_rows(list, y)`: sets the listed rows to zero;
/// - `scale_columns(w, y)`: y(i, j) = w[j] y(i, j);
/// - `map(f, a, x, y)`: y = f(x; a), a function of tensor/entry_functions.hpp, entry by entry;
/// - `zip(f, p, q, y)`: y = f(p, q), likewise;
/// - `count_keys(x, depth, before, counts)`: adds to counts[d] the number of entries of x whose
///   order key has d as digit number `depth` and `before` as the digits before it
///   (tensor/order_keys.hpp; used by numeric/order_search.hpp);
/// - `all_finite(x)`;
/// - `symmetric_eigen(y, n)`: the eigenvalues of a symmetric f64 y, ascending, to the host; the
///   last n columns of y become the eigenvectors of the n largest, likewise, the rest anything;
/// - `concurrently(count, f)`: calls f(0) ... f(count - 1), in any order and perhaps at the same
///   time; f may use the context on data that no other call of f writes;
/// - `to_host(x)`, `from_host(m, y)`: copy to and from a small_matrix (products of thin blocks,
///   scores).
///
/// A call without a context default-constructs one. If the context is constructible from a
/// const_view, the call constructs it from its first tensor instead, and so on that tensor's
/// device.
///
/// On the host every operation gives the same bits for the same input, at any number of threads. A
/// domain that computes by another library documents its own guarantees.
/// @code
/// template <catmerge::compute_context C>
/// double distance(C& c, typename C::const_view a, typename C::const_view b) {
///   auto d = c.make(catmerge::scalar_type::f64, c.rows(a), c.columns(a));
///   c.subtract(a, b, d);
///   return std::sqrt(c.squared_norm(d));
/// }
/// @endcode
/// Models: context<host> (tensor/host/host.hpp, the reference), context<torch_domain>
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

/// A tensor as a const_view of its context: `context.squared_norm(const_view_of(weight))`. The
/// tensor must outlive the view.
template <class T>
typename context<domain_t<T>>::const_view const_view_of(const T& t) {
  return tensor_traits<T>::view(t);
}

/// A tensor as a view of its context, to write to. The tensor must outlive the view.
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

/// The context of a call without one; `first` is the call's first tensor.
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

/// The context of a call without one that begins with a range of tensors.
template <class Range>
auto context_of_first(const Range& range) -> context<domain_t<element_t<Range>>> {
  if (std::begin(range) == std::end(range)) return {};
  return context_of(unwrap(*std::begin(range)));
}

/// The const_views of a range of tensors.
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

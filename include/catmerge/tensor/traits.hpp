// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <concepts>
#include <functional>
#include <iterator>
#include <type_traits>
#include <utility>

namespace catmerge {

/// The domain of tensors whose elements the processor reads through pointers.
struct host {};

/// The resources of arithmetic on a domain: memory, threads, a stream, a device. There is no
/// general definition; each domain specialises it as compute_context requires. A call makes a
/// context by default; pass one to choose where to compute:
/// @code
/// catmerge::context<catmerge::host> c(pool);  // an executor
/// auto [merged, report] = catmerge::cat_linear(base, experts, features, {}, c);
/// @endcode
/// Specialised for: host (tensor/host/host.hpp), torch_domain (adapt/torch.hpp).
template <class Domain>
class context;

/// A window on host memory, of one element type: element (i, j) lies at
/// data[i * row_stride + j * column_stride]. Strides count elements. A vector of d entries is a
/// d x 1 window. S is const for tensors that are only read.
template <class S>
struct strided_view {
  S* data = nullptr;          ///< element (0, 0); null only if empty
  index_t rows = 0;           ///< d_out of a weight, n of features, d of a vector
  index_t columns = 0;        ///< d_in; 1 for a vector
  index_t row_stride = 0;     ///< elements from (i, j) to (i + 1, j); may be negative
  index_t column_stride = 0;  ///< elements from (i, j) to (i, j + 1); may be negative
};

/// The rank of tensors that know theirs only at run time (xt::xarray, torch::Tensor).
inline constexpr int dynamic_rank = -1;

/// Tells catmerge how to access a foreign tensor type. There is no general definition: adapt/ has
/// one header per library, and a type of your own takes some fifteen lines:
/// @code
/// template <>
/// struct catmerge::tensor_traits<my::matrix> {
///   using domain = host;
///   static constexpr int rank = 2;
///   static strided_view<const float> view(const my::matrix& m) {
///     return {m.data(), m.height(), m.width(), m.width(), 1};
///   }
///   static strided_view<float> view(my::matrix& m) {
///     return {m.data(), m.height(), m.width(), m.width(), 1};
///   }
///   static my::matrix make(const my::matrix&, index_t rows, index_t columns) {
///     return my::matrix(rows, columns);
///   }
/// };
/// @endcode
/// - `domain`: where the elements live; context<domain> computes on them.
/// - `rank`: 1 for a vector, 2 for a matrix, or dynamic_rank. Linear weights are d_out x d_in
///   whatever the storage order; a tensor of rank 3 or more is reshaped by the caller.
/// - `view`: the tensor as context<domain> takes it: for the host a strided_view, else
///   context<domain>::view or const_view. Throws catmerge::error where a tensor of dynamic rank is
///   neither vector nor matrix. The overload for a non-const tensor is needed only for tensors that
///   catmerge writes to.
/// - `make`: a new tensor of the same family and of the *compute* type (float for half types,
///   double for double). Its contents are unspecified. rows and columns may be 0 and
///   need not be those of `like`; for a vector, columns is 1. Needed only for
///   tensors of which a result is made.
///
/// examples/custom_backend.cpp is a whole program.
template <class T>
struct tensor_traits {};

namespace detail {

template <class T>
using traits = tensor_traits<std::remove_cvref_t<T>>;

template <class T>
concept has_domain = requires {
  typename traits<T>::domain;
};

template <class T>
concept has_rank = requires {
  typename std::integral_constant<int, traits<T>::rank>;
};

template <class T>
concept has_known_rank = has_rank<T> &&
    (traits<T>::rank == 1 || traits<T>::rank == 2 || traits<T>::rank == dynamic_rank);

template <class T>
concept has_view = requires(const std::remove_cvref_t<T>& t) {
  traits<T>::view(t);
};

template <class T>
concept has_mutable_view = requires(std::remove_reference_t<T>& t) {
  { traits<T>::view(t) } -> std::convertible_to<typename context<typename traits<T>::domain>::view>;
};

template <class T>
concept has_make = requires(const std::remove_cvref_t<T>& t) {
  traits<T>::make(t, index_t{}, index_t{});
};

}  // namespace detail

/// A type with tensor_traits that name the domain and return a view. (Calls check that the context
/// takes this view: require.hpp.)
///
/// Requirements, of tensor_traits<T>:
/// - `domain`, a type;
/// - `rank`, a constant: 1, 2 or dynamic_rank;
/// - `view(t)` of a const T.
///
/// @code
/// static_assert(catmerge::any_tensor<std::vector<float>>);  // with <catmerge/adapt/span.hpp>
/// @endcode
/// Models: the types that adapt/ covers (Eigen's matrices and tensors, Armadillo's, xtensor's,
/// libtorch's, spans, std::vector, flat_matrix, strided_view), host_matrix and its windows.
template <class T>
concept any_tensor = detail::has_domain<T> && detail::has_known_rank<T> && detail::has_view<T>;

/// A tensor that is a matrix, or may be one at run time.
///
/// Requirements: those of any_tensor, and a rank of 2 or dynamic_rank.
/// @code
/// static_assert(catmerge::any_matrix<Eigen::MatrixXf> && !catmerge::any_matrix<Eigen::VectorXf>);
/// @endcode
/// Models: the tensors that are no vectors at compile time.
template <class T>
concept any_matrix = any_tensor<T> &&
    (detail::traits<T>::rank == 2 || detail::traits<T>::rank == dynamic_rank);

/// A tensor that is a vector, or may be one at run time.
///
/// Requirements: those of any_tensor, and a rank of 1 or dynamic_rank.
/// @code
/// static_assert(catmerge::any_vector<Eigen::VectorXf> && catmerge::any_vector<std::span<const
/// double>>);
/// @endcode
/// Models: std::vector, std::span, Eigen's, Armadillo's and xtensor's vectors; tensors of dynamic
/// rank (at::Tensor, xt::xarray, host_matrix).
template <class T>
concept any_vector = any_tensor<T> &&
    (detail::traits<T>::rank == 1 || detail::traits<T>::rank == dynamic_rank);

namespace detail {

/// Ranges of tensors may hold std::reference_wrapper, so that nobody copies weights into a vector.
template <class T>
const T& unwrap(const T& t) {
  return t;
}
template <class T>
const T& unwrap(const std::reference_wrapper<T>& t) {
  return t.get();
}

template <class Range>
using element_t = std::remove_cvref_t<decltype(unwrap(*std::begin(std::declval<const Range&>())))>;

template <class T>
using made = std::remove_cvref_t<decltype(traits<T>::make(
    std::declval<const std::remove_cvref_t<T>&>(), index_t{}, index_t{}))>;

template <class A, class B>
concept same_domain = std::is_same_v < typename traits<A>::domain,
typename traits<B>::domain > ;

}  // namespace detail

/// A tensor from which results of its own family can be made.
///
/// Requirements: those of any_tensor, and a tensor_traits<T>::make(t, rows, columns) that returns a
/// tensor of the same domain.
/// @code
/// static_assert(catmerge::makeable<Eigen::MatrixXf>);
/// @endcode
/// Models: all tensors of the library and its adapters.
template <class T>
concept makeable = any_tensor<T> && detail::has_make<T> && any_tensor<detail::made<T>> &&
    detail::same_domain<T, detail::made<T>>;

/// The domain of a tensor: the memory that its elements live in.
template <any_tensor T>
using domain_t = typename detail::traits<T>::domain;

/// The result of an operation on tensors like T: of the same family, in the compute type.
template <makeable T>
using result_t = detail::made<T>;

}  // namespace catmerge

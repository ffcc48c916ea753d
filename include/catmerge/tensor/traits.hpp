// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <concepts>
#include <type_traits>
#include <utility>

namespace catmerge {

/// The domain of tensors whose elements the processor reads through pointers.
struct host {};

/// What arithmetic on tensors of a domain runs on: memory, threads, a stream, a device. Specialised
/// per domain; context<host> stands in tensor/host.hpp, the operations in tensor/context.hpp.
template <class Domain>
class context;

/// A window on host memory, of one element type: element (i, j) lies at
/// data[i * row_stride + j * column_stride]. Strides count elements. A vector of d entries is a
/// d x 1 window. S is const for tensors that are only read.
template <class S>
struct strided_view {
  S* data = nullptr;
  index_t rows = 0;
  index_t columns = 0;
  index_t row_stride = 0;
  index_t column_stride = 0;
};

/// The rank of tensors that know theirs only at run time (xt::xarray, torch::Tensor).
inline constexpr int dynamic_rank = -1;

/// Tells catmerge how to look at a foreign tensor type. There is no general definition: adapt/ has
/// one header per library, and a type of your own takes some fifteen lines:
///
///     template <>
///     struct catmerge::tensor_traits<my::matrix> {
///       using domain = catmerge::host;
///       static constexpr int rank = 2;   // 1: a vector, 2: a matrix, dynamic_rank: known at run
///       time static auto view(const my::matrix& m) {
///         return catmerge::strided_view<const float>{m.data(), m.height(), m.width(), m.width(),
///         1};
///       }
///       static auto view(my::matrix& m) {
///         return catmerge::strided_view<float>{m.data(), m.height(), m.width(), m.width(), 1};
///       }
///       static my::matrix make(const my::matrix& like, catmerge::index_t rows, catmerge::index_t
///       columns);
///     };
///
/// domain   where the elements live; context<domain> computes on them.
/// rank     1, 2 or dynamic_rank. Linear weights are d_out x d_in whatever the storage order;
///          a tensor of rank 3 or more is reshaped by the caller.
/// view     the tensor as context<domain> takes it: for the host a strided_view, else
///          context<domain>::view or const_view. Throws catmerge::error where a tensor of dynamic
///          rank is neither vector nor matrix. The overload for a non-const tensor is needed only
///          for tensors that catmerge writes to.
/// make     a new tensor of the same family and of the *compute* type (float for half and bfloat16,
///          double for double). Its contents are unspecified. For a vector, columns is 1. Needed
///          only for tensors of which a result is made.
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
  { traits<T>::rank } -> std::convertible_to<int>;
};

template <class T>
concept has_view = requires(const std::remove_cvref_t<T>& t) {
  traits<T>::view(t);
};

template <class T>
concept has_mutable_view = requires(std::remove_reference_t<T>& t) {
  requires !std::is_const_v<std::remove_reference_t<T>>;
  { traits<T>::view(t) } -> std::convertible_to<typename context<typename traits<T>::domain>::view>;
};

template <class T>
concept has_make = requires(const std::remove_cvref_t<T>& t) {
  traits<T>::make(t, index_t{}, index_t{});
};

}  // namespace detail

/// A type whose tensor_traits say where its elements live and how to read them.
template <class T>
concept tensor = detail::has_domain<T> && detail::has_rank<T> && detail::has_view<T>;

/// A tensor that is a matrix, or may be one at run time.
template <class T>
concept matrix = tensor<T> &&
    (detail::traits<T>::rank == 2 || detail::traits<T>::rank == dynamic_rank);

/// A tensor that is a vector, or may be one at run time.
template <class T>
concept vector = tensor<T> &&
    (detail::traits<T>::rank == 1 || detail::traits<T>::rank == dynamic_rank);

/// A tensor from which results of its own family can be made.
template <class T>
concept makeable = tensor<T> && detail::has_make<T>;

/// Where the elements of a tensor live.
template <tensor T>
using domain_t = typename detail::traits<T>::domain;

/// What an operation on tensors like T returns: same family, compute type.
template <makeable T>
using result_t = std::remove_cvref_t<decltype(detail::traits<T>::make(
    std::declval<const std::remove_cvref_t<T>&>(), index_t{}, index_t{}))>;

namespace detail {

/// The one place where a type that is no tensor is turned away, with a sentence for each thing that
/// is missing. Public callables begin with static_assert(require_...<T>()): evaluating the constant
/// brings the sentence before anything else that the compiler finds wrong.
template <class T>
constexpr bool require_tensor() {
  static_assert(
      has_domain<T>,
      "catmerge: this argument is no tensor that catmerge knows: include the adapter of its "
      "library (for instance <catmerge/adapt/xtensor.hpp>) or specialise "
      "catmerge::tensor_traits for it (<catmerge/tensor/traits.hpp> shows how); "
      "tensor_traits<T>::domain is missing");
  if constexpr (has_domain<T>) {
    static_assert(
        has_rank<T>,
        "catmerge: tensor_traits<T>::rank is missing: an int, 1, 2 or catmerge::dynamic_rank");
    static_assert(
        has_view<T>,
        "catmerge: tensor_traits<T>::view(const T&) is missing: for host memory it returns a "
        "catmerge::strided_view<const S>");
  }
  return true;
}

template <class T>
constexpr bool require_matrix() {
  static_assert(require_tensor<T>());
  if constexpr (tensor<T>)
    static_assert(matrix<T>,
                  "catmerge: a matrix is needed here and this type is a vector "
                  "(tensor_traits<T>::rank is 1)");
  return true;
}

template <class T>
constexpr bool require_makeable() {
  static_assert(require_tensor<T>());
  if constexpr (tensor<T>)
    static_assert(
        has_make<T>,
        "catmerge: tensor_traits<T>::make(like, rows, columns) is missing: it makes the tensor "
        "that a result is returned in");
  return true;
}

template <class T>
constexpr bool require_mutable() {
  static_assert(require_tensor<T>());
  if constexpr (tensor<T>)
    static_assert(has_mutable_view<T>,
                  "catmerge: this tensor is written to, so it must not be const, and "
                  "tensor_traits<T>::view(T&) must exist and return a window that can be written "
                  "(a Map<const ...> or span<const ...> has none)");
  return true;
}

template <class A, class B>
constexpr bool require_same_domain() {
  if constexpr (tensor<A> && tensor<B>)
    static_assert(
        std::is_same_v<domain_t<A>, domain_t<B>>,
        "catmerge: the tensors of one call must live in one domain: copy them to one device first");
  return true;
}

}  // namespace detail
}  // namespace catmerge

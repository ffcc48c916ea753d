// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/error.hpp>
#include <cstddef>
#include <type_traits>

namespace catmerge {

/// Sizes and positions: signed, as wide as a pointer (Eigen's own choice, so nothing converts).
using index_t = std::ptrdiff_t;

/// IEEE 754 binary16: Eigen's type, which rounds to nearest even. All other implementations have
/// the same 16 bits (reinterpret them).
using half = Eigen::half;
/// The upper half of a binary32: Eigen's type, likewise.
using bfloat16 = Eigen::bfloat16;

/// The floating-point types that weights are stored in, as a run-time value.
enum class scalar_type : unsigned char {
  f64,  ///< double
  f32,  ///< float
  f16,  ///< half
  bf16  ///< bfloat16
};

/// Bytes of one element.
constexpr std::size_t size_of(scalar_type type) {
  return type == scalar_type::f64 ? 8 : type == scalar_type::f32 ? 4 : 2;
}

/// "float64", "float32", "float16" or "bfloat16", for messages.
constexpr const char* name_of(scalar_type type) {
  switch (type) {
    case scalar_type::f64: return "float64";
    case scalar_type::f32: return "float32";
    case scalar_type::f16: return "float16";
    case scalar_type::bf16: return "bfloat16";
  }
  return "unknown";
}

namespace detail {
template <class S>
struct scalar_type_of {};
template <>
struct scalar_type_of<double> : std::integral_constant<scalar_type, scalar_type::f64> {};
template <>
struct scalar_type_of<float> : std::integral_constant<scalar_type, scalar_type::f32> {};
template <>
struct scalar_type_of<half> : std::integral_constant<scalar_type, scalar_type::f16> {};
template <>
struct scalar_type_of<bfloat16> : std::integral_constant<scalar_type, scalar_type::bf16> {};
}  // namespace detail

/// A type that weights can be stored in.
///
/// Requirement: being one of the models, const or not; the list is closed.
/// @code
/// static_assert(catmerge::storage_scalar<const catmerge::bfloat16>);
/// @endcode
/// Models: double, float, half, bfloat16.
template <class S>
concept storage_scalar = requires {
  detail::scalar_type_of<std::remove_cv_t<S>>::value;
};

/// A type that arithmetic is done in.
///
/// Requirement: being one of the models, not const; the list is closed.
/// @code
/// static_assert(catmerge::compute_scalar<catmerge::compute_t<catmerge::half>>);  // float
/// @endcode
/// Models: double, float.
template <class S>
concept compute_scalar = std::is_same_v<S, double> || std::is_same_v<S, float>;

/// The run-time name of a storage type.
template <storage_scalar S>
inline constexpr scalar_type scalar_type_v = detail::scalar_type_of<std::remove_cv_t<S>>::value;

/// The type of arithmetic on a storage type: double for double, float for all others.
template <storage_scalar S>
using compute_t = std::conditional_t<std::is_same_v<std::remove_cv_t<S>, double>, double, float>;

/// The same for run-time types: f64 for f64, f32 for the others.
constexpr scalar_type compute_type(scalar_type type) {
  return type == scalar_type::f64 ? scalar_type::f64 : scalar_type::f32;
}

}  // namespace catmerge

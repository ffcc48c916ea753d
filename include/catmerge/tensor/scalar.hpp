// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <type_traits>

namespace catmerge {

/// Sizes and positions: signed, as wide as a pointer (Eigen's own choice, so nothing converts).
using index_t = std::ptrdiff_t;

/// IEEE 754 binary16 and the upper half of a binary32. Eigen's types, which round to nearest even;
/// both are bit-compatible with every other implementation (reinterpret the 16 bits).
using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;

/// The floating-point types that weights are stored in, as a run-time value.
enum class scalar_type : unsigned char { f64, f32, f16, bf16 };

/// Bytes of one element.
constexpr std::size_t size_of(scalar_type type) {
  return type == scalar_type::f64 ? 8 : type == scalar_type::f32 ? 4 : 2;
}

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

/// A type that weights can be stored in: double, float, half or bfloat16.
template <class S>
concept storage_scalar = requires {
  detail::scalar_type_of<std::remove_cv_t<S>>::value;
};

/// A type that arithmetic is done in: double or float.
template <class S>
concept compute_scalar = std::is_same_v<S, double> || std::is_same_v<S, float>;

/// The run-time name of a storage type.
template <storage_scalar S>
inline constexpr scalar_type scalar_type_v = detail::scalar_type_of<std::remove_cv_t<S>>::value;

/// What values of a storage type are computed in: double in double, everything else in float.
template <storage_scalar S>
using compute_t = std::conditional_t<std::is_same_v<std::remove_cv_t<S>, double>, double, float>;

/// The same for run-time types: f64 for f64, f32 for the others.
constexpr scalar_type compute_type(scalar_type type) {
  return type == scalar_type::f64 ? scalar_type::f64 : scalar_type::f32;
}

}  // namespace catmerge

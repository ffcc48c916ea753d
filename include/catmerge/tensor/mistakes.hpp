// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/traits.hpp>
#include <complex>
#include <functional>
#include <iterator>
#include <type_traits>

/// Common arguments that are no tensors, each with a message: the compiler's first error
/// (require.hpp).
namespace catmerge::detail {

/// The kinds of types that are no tensors.
enum class mistake {
  unknown,       ///< any other type
  elements,      ///< a tensor of an unsupported element type
  expression,    ///< an expression that its library has not evaluated
  rank,          ///< a tensor that is neither vector nor matrix
  sparse,        ///< a sparse matrix
  bits,          ///< std::vector<bool>, std::bitset
  pointer,       ///< a pointer to a tensor, smart or not; an optional
  bare_pointer,  ///< a pointer to numbers
  wrapped,       ///< a std::reference_wrapper outside a range
  pairs,         ///< a map, or one of its elements
  array,         ///< a range of numbers that has no adapter: std::array, std::deque
  several        ///< a range of tensors
};

/// An adapter derives foreign_type<T> from mistaken_as for each type T of its library that is no
/// tensor.
template <mistake Mistake, class Element = void>
struct mistaken_as {
  static constexpr mistake is = Mistake;
  using element = std::remove_cv_t<Element>;
};
template <class T>
struct foreign_type : mistaken_as<mistake::unknown> {};

/// The element type of a range, without reference_wrapper; void for all other types.
template <class T>
struct item_of {
  using type = void;
};
template <class T>
requires requires(const T& t) {
  *std::begin(t), std::end(t);
}
struct item_of<T> {
  using type = std::remove_cvref_t<std::unwrap_reference_t<
      std::remove_cvref_t<decltype(*std::begin(std::declval<const T&>()))>>>;
};
template <class T>
using item_t = typename item_of<T>::type;

template <class T>
concept known_mistake = foreign_type<T>::is != mistake::unknown;

template <class T>
concept packs_bits =
    std::is_same_v<typename T::value_type, bool> && !std::is_reference_v<typename T::reference>;
template <class T>
concept bitset_like = requires(const T& t) {
  t.to_ulong();
  t.count();
};

template <class T>
concept pair_like = requires(const T& t) {
  t.first;
  t.second;
};

template <class T>
concept pointer_like = std::is_pointer_v<T> || requires(const T& t) {
  *t;
  t.operator->();
};

/// The mistake of passing T. Precondition: T is no tensor.
template <class T>
constexpr mistake mistake_of() {
  using item = item_t<T>;
  if constexpr (known_mistake<T>) {
    return foreign_type<T>::is;
  } else if constexpr (packs_bits<T> || bitset_like<T>) {
    return mistake::bits;
  } else if constexpr (std::is_same_v<T, std::unwrap_reference_t<T>> == false) {
    return mistake::wrapped;
  } else if constexpr (pair_like<T>) {
    return mistake::pairs;
  } else if constexpr (pointer_like<T>) {
    if constexpr (requires(const T& t) { *t; }) {
      using target = std::remove_cvref_t<decltype(*std::declval<const T&>())>;
      return std::is_class_v<target> && !storage_scalar<target> ? mistake::pointer
                                                                : mistake::bare_pointer;
    } else {
      return mistake::bare_pointer;  // void
    }
  } else if constexpr (!std::is_void_v<item>) {
    if constexpr (pair_like<item>)
      return mistake::pairs;
    else if constexpr (storage_scalar<item>)
      return mistake::array;
    else if constexpr (any_tensor<item> || mistake_of<item>() != mistake::unknown)
      return mistake::several;
    else
      return mistake::elements;
  } else {
    return mistake::unknown;
  }
}

/// The element type of T, for the message of mistake::elements.
template <class T>
using mistaken_element =
    std::conditional_t<known_mistake<T>, typename foreign_type<T>::element, item_t<T>>;

/// A 16-bit floating-point type of the compiler itself (_Float16, __fp16, __bf16).
template <class E>
concept compiler_half = !std::is_class_v<E> && !std::is_enum_v<E> && !std::is_integral_v<E> &&
                        !std::is_void_v<E> && requires(E e) {
  requires sizeof(E) == 2;
  static_cast<float>(e);
};
/// True if E tells 1 + 2^-10 from 1, as half does and bfloat16 does not.
template <class E>
constexpr bool has_ten_bits() {
  return static_cast<float>(static_cast<E>(1.0009765625F)) != 1.0F;
}

#define CATMERGE_TAKES "catmerge takes double, float, catmerge::half and catmerge::bfloat16"

/// The message for an element type other than the four.
template <class E>
constexpr bool require_elements() {
#define CATMERGE_ELEMENTS(TYPE, WAY_OUT)  \
  static_assert(!std::is_same_v<E, TYPE>, \
                "catmerge: the elements of this argument are " #TYPE ": " CATMERGE_TAKES WAY_OUT)
#define CATMERGE_INTEGERS(TYPE) CATMERGE_ELEMENTS(TYPE, ": convert them first")
#define CATMERGE_WORDS(TYPE)                                                                    \
  CATMERGE_ELEMENTS(TYPE,                                                                       \
                    ": if these are the bits of a half or a bfloat16, view them as such "       \
                    "(reinterpret_cast<const catmerge::half*>(data), catmerge::bfloat16*); if " \
                    "they are numbers, convert them first")
  CATMERGE_INTEGERS(bool);
  CATMERGE_INTEGERS(char);
  CATMERGE_INTEGERS(signed char);
  CATMERGE_ELEMENTS(unsigned char,
                    ": convert them first (8-bit floats and quantised weights to the floats that "
                    "they stand for)");
  CATMERGE_WORDS(short);
  CATMERGE_WORDS(unsigned short);
  CATMERGE_WORDS(char16_t);
  CATMERGE_INTEGERS(int);
  CATMERGE_INTEGERS(unsigned int);
  CATMERGE_INTEGERS(long);
  CATMERGE_INTEGERS(unsigned long);
  CATMERGE_INTEGERS(long long);
  CATMERGE_INTEGERS(unsigned long long);
  CATMERGE_INTEGERS(long double);
  CATMERGE_ELEMENTS(std::complex<float>,
                    ": merge real and imaginary parts as tensors of their own");
  CATMERGE_ELEMENTS(std::complex<double>,
                    ": merge real and imaginary parts as tensors of their own");
#undef CATMERGE_ELEMENTS
#undef CATMERGE_INTEGERS
#undef CATMERGE_WORDS
  constexpr bool listed = std::is_arithmetic_v<E> || std::is_same_v<E, std::complex<float>> ||
                          std::is_same_v<E, std::complex<double>>;
  if constexpr (compiler_half<E>) {
    static_assert(!has_ten_bits<E>(),
                  "catmerge: the elements of this argument are the compiler's own half (_Float16, "
                  "__fp16): " CATMERGE_TAKES
                  "; catmerge::half has the same bits: view them as such "
                  "(reinterpret_cast<const catmerge::half*>(data))");
    static_assert(has_ten_bits<E>(),
                  "catmerge: the elements of this argument are the compiler's own bfloat16 "
                  "(__bf16): " CATMERGE_TAKES
                  "; catmerge::bfloat16 has the same bits: view them as such "
                  "(reinterpret_cast<const catmerge::bfloat16*>(data))");
  } else {
    static_assert(listed,
                  "catmerge: the elements of this argument are of a type that catmerge does not "
                  "compute with: " CATMERGE_TAKES
                  "; another library's 16-bit floats have the same bits as one of the last two: "
                  "view them as such (reinterpret_cast<const catmerge::half*>(data))");
  }
  return true;
}

/// The message for a T that is no tensor.
template <class T>
constexpr bool require_known() {
  constexpr mistake is = mistake_of<T>();
  if constexpr (is == mistake::elements) static_assert(require_elements<mistaken_element<T>>());
  static_assert(is != mistake::expression,
                "catmerge: this argument is an expression that its library has not evaluated, "
                "perhaps held by `auto`, and no tensor in memory: evaluate it first (Eigen: "
                "(...).eval(), xtensor: xt::eval(...), others: into a variable of the tensor's "
                "type in place of auto)");
  static_assert(is != mistake::rank,
                "catmerge: this argument is a tensor of rank 3 or more (or 0), and a vector or a "
                "matrix is needed: reshape it to (d_out, rest) first; pass a stack of matrices one "
                "by one");
  static_assert(is != mistake::sparse,
                "catmerge: this argument is a sparse matrix: make it dense first");
  static_assert(is != mistake::bits,
                "catmerge: std::vector<bool> (or std::bitset) packs bits, which have no "
                "addresses: " CATMERGE_TAKES ": copy them into a std::vector<float>");
  static_assert(is != mistake::pointer,
                "catmerge: this argument is a pointer to a tensor (or an optional one): pass the "
                "tensor itself, *p; a range of them as std::vector{std::cref(*p), ...}, which "
                "copies nothing");
  static_assert(is != mistake::bare_pointer,
                "catmerge: this argument is a pointer, which knows no extents: pass a vector as "
                "std::span(p, d), a matrix as catmerge::strided_view<const float>{p, rows, "
                "columns, row_stride, 1} (<catmerge/adapt/span.hpp>)");
  static_assert(is != mistake::wrapped,
                "catmerge: std::reference_wrapper is for the tensors in a range: pass this one "
                "itself, .get()");
  static_assert(is != mistake::pairs,
                "catmerge: this argument is a map, or holds its pairs of key and tensor: pass the "
                "tensors alone, in the order of the tasks, as a std::vector of "
                "std::reference_wrapper for instance (std::cref(pair.second), which copies "
                "nothing)");
  static_assert(is != mistake::array,
                "catmerge: this range of numbers is no tensor as it is: pass contiguous ones as a "
                "std::span (<catmerge/adapt/span.hpp>), others as a copy in a std::vector; numbers "
                "that form a matrix as a catmerge::flat_matrix");
  static_assert(is != mistake::several,
                "catmerge: this argument is a range of tensors where one tensor is needed (rows "
                "that are vectors of their own are no matrix: copy them into one block of memory, "
                "catmerge::flat_matrix)");
  static_assert(
      is != mistake::unknown,
      "catmerge: this argument is no tensor that catmerge knows: include the adapter of its "
      "library (for instance <catmerge/adapt/xtensor.hpp>) or specialise "
      "catmerge::tensor_traits for it (<catmerge/tensor/traits.hpp> shows how); "
      "tensor_traits<T>::domain is missing");
  return true;
}

#undef CATMERGE_TAKES

}  // namespace catmerge::detail

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/host/host.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/data.hpp"

/// Host memory in every shape that a view can have, and rounding written a second time.
namespace test {

using catmerge::scalar_type;

inline constexpr scalar_type all_types[] = {scalar_type::f64, scalar_type::f32, scalar_type::f16,
                                            scalar_type::bf16};

/// x rounded once to a storage type, ties to even, in integer steps of the target: no conversion of
/// the compiler's or Eigen's takes part.
inline double rounded(scalar_type type, double x) {
  if (type == scalar_type::f64 || x == 0 || !std::isfinite(x)) return x;
  const int digits = type == scalar_type::f32 ? 24 : type == scalar_type::f16 ? 11 : 8;
  const int lowest = type == scalar_type::f16 ? -14 : -126;  // exponent of the least normal number
  const int highest = type == scalar_type::f16 ? 15 : 127;
  int exponent = 0;
  std::frexp(x, &exponent);  // |x| = m 2^exponent, 0.5 <= m < 1
  const int step = std::max(exponent - 1, lowest) - (digits - 1);
  const double scaled = std::ldexp(x, -step);  // exact: at most 53 bits, and x is no wider
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2.0) != 0)) whole += 1;
  const double result = std::ldexp(whole, step);
  if (std::abs(result) >= std::ldexp(1.0, highest + 1))
    return std::copysign(std::numeric_limits<double>::infinity(), x);
  return std::copysign(result, x);
}

enum class layout {
  row_major,
  column_major,
  padded_rows,     ///< row-major with a gap after each row
  padded_columns,  ///< column-major with a gap after each column
  spread,          ///< both strides above one
  backwards        ///< rows run down in memory
};
inline constexpr layout all_layouts[] = {layout::row_major,   layout::column_major,
                                         layout::padded_rows, layout::padded_columns,
                                         layout::spread,      layout::backwards};

/// A window of a given type and layout whose first element lies `offset` elements after an aligned
/// address, in memory that is filled with a pattern around it.
class window {
 public:
  window(scalar_type type, index_t rows, index_t columns, layout how = layout::row_major,
         index_t offset = 0)
      : type_(type), rows_(rows), columns_(columns) {
    const index_t bytes = static_cast<index_t>(catmerge::size_of(type));
    switch (how) {
      case layout::row_major: row_ = columns, column_ = 1; break;
      case layout::column_major: row_ = 1, column_ = rows; break;
      case layout::padded_rows: row_ = columns + 3, column_ = 1; break;
      case layout::padded_columns: row_ = 1, column_ = rows + 5; break;
      case layout::spread: row_ = 2 * columns + 1, column_ = 2; break;
      case layout::backwards: row_ = -(columns + 1), column_ = 1; break;
    }
    row_ = row_ == 0 ? 1 : row_;
    column_ = column_ == 0 ? 1 : column_;
    const index_t last =
        (rows > 0 ? rows - 1 : 0) * std::abs(row_) + (columns > 0 ? columns : 1) * column_;
    memory_.assign(at((last + offset + 16) * bytes + 64), filler);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    index_t start = static_cast<index_t>((64 - address % 64) % 64) + offset * bytes;
    if (row_ < 0 && rows > 0) start += (rows - 1) * -row_ * bytes;
    first_ = memory_.data() + start;
  }
  window(const window&) = delete;
  window(window&&) = default;  // a moved vector keeps its memory, so first_ stays right
  window& operator=(window&&) = default;

  catmerge::host_view view() { return {first_, type_, rows_, columns_, row_, column_}; }
  catmerge::host_const_view view() const { return {first_, type_, rows_, columns_, row_, column_}; }
  operator catmerge::host_view() { return view(); }
  operator catmerge::host_const_view() { return view(); }
  operator catmerge::host_const_view() const { return view(); }

  index_t rows() const { return rows_; }
  index_t columns() const { return columns_; }
  scalar_type type() const { return type_; }

  double operator()(index_t i, index_t j) const {
    const std::byte* p = place(i, j);
    switch (type_) {
      case scalar_type::f64: return read<double>(p);
      case scalar_type::f32: return static_cast<double>(read<float>(p));
      case scalar_type::f16:
        return static_cast<double>(static_cast<float>(read<catmerge::half>(p)));
      case scalar_type::bf16:
        return static_cast<double>(static_cast<float>(read<catmerge::bfloat16>(p)));
    }
    return 0;
  }

  /// x must be a number of the window's type.
  void set(index_t i, index_t j, double x) {
    std::byte* p = const_cast<std::byte*>(place(i, j));
    const auto f = static_cast<float>(x);
    switch (type_) {
      case scalar_type::f64: return write(p, x);
      case scalar_type::f32: return write(p, f);
      case scalar_type::f16: return write(p, catmerge::half(f));
      case scalar_type::bf16: return write(p, catmerge::bfloat16(f));
    }
  }

  template <class F>
  window& fill(const F& f) {
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < columns_; ++j) set(i, j, f(i, j));
    return *this;
  }

  window& fill_nan() {
    return fill([](index_t, index_t) { return std::numeric_limits<double>::quiet_NaN(); });
  }

  /// Whether the memory around the elements still holds the pattern.
  bool outside_untouched() const {
    std::vector<bool> inside(memory_.size());
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < columns_; ++j)
        for (std::size_t b = 0; b < catmerge::size_of(type_); ++b)
          inside[static_cast<std::size_t>(place(i, j) - memory_.data()) + b] = true;
    for (std::size_t b = 0; b < memory_.size(); ++b)
      if (!inside[b] && memory_[b] != filler) return false;
    return true;
  }

 private:
  static constexpr std::byte filler{0xA5};

  const std::byte* place(index_t i, index_t j) const {
    return first_ + (i * row_ + j * column_) * static_cast<index_t>(catmerge::size_of(type_));
  }
  template <class S>
  static S read(const std::byte* p) {
    S s;
    std::memcpy(&s, p, sizeof s);
    return s;
  }
  template <class S>
  static void write(std::byte* p, S s) {
    std::memcpy(p, &s, sizeof s);
  }

  scalar_type type_;
  index_t rows_, columns_, row_ = 1, column_ = 1;
  std::vector<std::byte> memory_;
  std::byte* first_ = nullptr;
};

/// How many elements differ from f(i, j) in value (a NaN equals a NaN).
template <class F>
index_t wrong_elements(const window& w, const F& f) {
  index_t wrong = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.columns(); ++j) {
      const double found = w(i, j), expected = f(i, j);
      if (!(found == expected) && !(std::isnan(found) && std::isnan(expected))) ++wrong;
    }
  return wrong;
}

}  // namespace test

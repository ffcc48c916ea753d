// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/catmerge.hpp>

#include "support/data.hpp"

/// Tensors that are as little as the concepts ask for, and one that tells when it is copied.
namespace test {

/// Nothing but memory and extents: no default, no copy, no address, no comma. Row-major; a vector
/// where Rank is 1. What the library does with it beyond its traits does not compile.
template <class S, int Rank>
class bare_tensor {
 public:
  bare_tensor(index_t rows, index_t columns)
      : rows_(rows), columns_(columns), values_(at(rows * columns)) {}
  bare_tensor(const bare_tensor&) = delete;
  bare_tensor& operator=(const bare_tensor&) = delete;
  bare_tensor(bare_tensor&&) = default;
  bare_tensor& operator=(bare_tensor&&) = delete;
  bare_tensor* operator&() = delete;
  const bare_tensor* operator&() const = delete;
  template <class T>
  friend void operator,(const bare_tensor&, T&&) = delete;
  template <class T>
  friend void operator,(T&&, const bare_tensor&) = delete;

 private:
  friend catmerge::tensor_traits<bare_tensor>;
  index_t rows_, columns_;
  std::vector<S> values_;
};

/// How often a counting_tensor was copied.
inline index_t& copies_counted() {
  static index_t copies = 0;
  return copies;
}

/// An ordinary tensor with value semantics, column-major, that counts its copies.
template <class S, int Rank>
class counting_tensor {
 public:
  counting_tensor() = default;
  counting_tensor(index_t rows, index_t columns)
      : rows_(rows), columns_(columns), values_(at(rows * columns)) {}
  counting_tensor(const counting_tensor& other)
      : rows_(other.rows_), columns_(other.columns_), values_(other.values_) {
    ++copies_counted();
  }
  counting_tensor& operator=(const counting_tensor& other) {
    ++copies_counted();
    rows_ = other.rows_, columns_ = other.columns_, values_ = other.values_;
    return *this;
  }
  counting_tensor(counting_tensor&&) noexcept = default;
  counting_tensor& operator=(counting_tensor&&) noexcept = default;

 private:
  friend catmerge::tensor_traits<counting_tensor>;
  index_t rows_ = 0, columns_ = 0;
  std::vector<S> values_;
};

/// Puts Eigen's numbers into an archetype and back, through its traits, which are all that it has.
template <class S, template <class, int> class Tensor>
struct archetype_backend {
  using scalar = S;
  static constexpr bool same_bits = true;

  Tensor<S, 2> matrix(const matrix_of<S>& m) { return filled<2>(m); }
  Tensor<S, 1> vector(const vector_of<S>& v) { return filled<1>(v); }
  template <class T>
  static auto to_eigen(const T& t) {
    const auto v = catmerge::tensor_traits<T>::view(t);
    using C = catmerge::compute_t<std::remove_cvref_t<decltype(*v.data)>>;
    matrix_of<C> m(v.rows, v.columns);
    for (index_t j = 0; j < v.columns; ++j)
      for (index_t i = 0; i < v.rows; ++i)
        m(i, j) = static_cast<C>(v.data[i * v.row_stride + j * v.column_stride]);
    return m;
  }

 private:
  template <int Rank, class M>
  Tensor<S, Rank> filled(const M& m) {
    Tensor<S, Rank> t(m.rows(), m.cols());
    const auto v = catmerge::tensor_traits<Tensor<S, Rank>>::view(t);
    for (index_t j = 0; j < v.columns; ++j)
      for (index_t i = 0; i < v.rows; ++i) v.data[i * v.row_stride + j * v.column_stride] = m(i, j);
    return t;
  }
};

}  // namespace test

template <class S, int Rank>
struct catmerge::tensor_traits<test::bare_tensor<S, Rank>> {
  using domain = host;
  static constexpr int rank = Rank;
  using type = test::bare_tensor<S, Rank>;
  static strided_view<const S> view(const type& t) {
    return {t.values_.data(), t.rows_, t.columns_, t.columns_, 1};
  }
  static strided_view<S> view(type& t) {
    return {t.values_.data(), t.rows_, t.columns_, t.columns_, 1};
  }
  static test::bare_tensor<compute_t<S>, Rank> make(const type&, index_t rows, index_t columns) {
    return {rows, columns};
  }
};

template <class S, int Rank>
struct catmerge::tensor_traits<test::counting_tensor<S, Rank>> {
  using domain = host;
  static constexpr int rank = Rank;
  using type = test::counting_tensor<S, Rank>;
  static strided_view<const S> view(const type& t) {
    return {t.values_.data(), t.rows_, t.columns_, 1, t.rows_};
  }
  static strided_view<S> view(type& t) {
    return {t.values_.data(), t.rows_, t.columns_, 1, t.rows_};
  }
  static test::counting_tensor<compute_t<S>, Rank> make(const type&, index_t rows,
                                                        index_t columns) {
    return {rows, columns};
  }
};

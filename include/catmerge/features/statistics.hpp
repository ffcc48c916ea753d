// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics_view.hpp>
#include <optional>
#include <utility>

/// @file
/// Accumulators of statistics of a layer's inputs, batch by batch.
namespace catmerge {

class host_matrix;  // tensor/host/strided_view.hpp

/// The rows that enter a layer, gathered in batches. Up to d_in rows are kept as they are, more as
/// their Gram matrix, in double. Both are exact for results that depend on X_k^T X_k alone.
///
///     catmerge::feature_statistics<> statistics;  // examples/streaming_features.cpp
///     for (const auto& batch : batches) statistics.update(batch);   // each n x d_in
///
/// combine() adds another accumulator's rows after the own ones.
template <class Domain = host>
class feature_statistics {
  static_assert(detail::require_context<Domain>());
  using context_type = context<Domain>;
  using matrix_type = typename context_type::matrix;
  using const_view = typename context_type::const_view;

 public:
  /// Adds a batch of rows (n x d_in). Throws if d_in differs from that of earlier batches. An error
  /// leaves the accumulator unchanged, unless memory runs out while a batch is added to a Gram
  /// matrix.
  template <class Rows>
  void update(const Rows& rows, context_type& c) {
    static_assert(detail::require_matrix<Rows>());
    static_assert(detail::require_domain<Domain, domain_t<Rows>>());
    add_rows(c, const_view_of(rows));
  }
  /// The same on a context of its own.
  template <class Rows>
  void update(const Rows& rows) {
    static_assert(detail::require_matrix<Rows>());
    static_assert(detail::require_domain<Domain, domain_t<Rows>>());
    auto c = detail::context_of(rows);
    update(rows, c);
  }

  /// Adds the rows of another accumulator. Throws error if they are of another length.
  void combine(const feature_statistics& other, context_type& c) {
    if (other.count_ == 0) return;
    if (!other.gram_) {
      const const_view rows = c.slice(const_view(*other.rows_), 0, other.count_, 0, other.width_);
      if (&other != this) return add_rows(c, rows);
      matrix_type copy = c.make(c.type(rows), count_, width_);  // add_rows moves the rows
      c.assign(rows, copy);
      return add_rows(c, copy);
    }
    require_width(other.width_);
    if (!gram_) {
      gram_ = gram_of_rows(c);
      rows_.reset();
    }
    c.axpy(1, *other.gram_, *gram_);
    count_ += other.count_;
  }
  /// The same on a context of its own.
  void combine(const feature_statistics& other) {
    if (other.count_ == 0) return;
    auto c = detail::context_on<Domain>(other.view().data);
    combine(other, c);
  }
  /// Does not compile for accumulators of another domain: a sentence says why.
  template <class Other, class... Context>
  void combine(const feature_statistics<Other>&, Context&...) {
    static_assert(detail::require_domain<Domain, Other>());
  }

  /// The number of rows seen.
  index_t count() const { return count_; }
  /// d_in; 0 before the first batch.
  index_t width() const { return count_ > 0 ? width_ : 0; }

  /// The rows, or their Gram matrix. Valid until the next update. Throws error if no rows were
  /// seen.
  statistics_view<Domain> view() const {
    const auto n = static_cast<double>(count_);
    if (count_ == 0) throw error("feature_statistics: no rows were seen yet");
    if (gram_) return {statistics_form::gram, *gram_, n};
    return {statistics_form::rows, context_type{}.slice(const_view(*rows_), 0, count_, 0, width_),
            n};
  }

 private:
  /// Throws unless rows have this width. The first rows set it.
  void require_width(index_t width) {
    if (count_ == 0) width_ = width;
    if (width != width_)
      throw error("feature_statistics: rows of " + std::to_string(width) +
                  " entries after rows of " + std::to_string(width_));
  }

  void add_rows(context_type& c, const_view x) {
    const index_t n = c.rows(x);
    if (n == 0) return;
    require_width(c.columns(x));
    if (!gram_ && count_ + n <= width_) {
      reserve(c, count_ + n, compute_type(c.type(x)));
      c.assign(x, c.slice(typename context_type::view(*rows_), count_, n, 0, width_));
    } else if (gram_) {
      c.multiply(1, x, op::transpose, x, op::none, 1, *gram_);
    } else {
      matrix_type gram = gram_of_rows(c);
      c.multiply(1, x, op::transpose, x, op::none, 1, gram);
      gram_ = std::move(gram);
      rows_.reset();
    }
    count_ += n;
  }

  /// Makes room for n rows, doubling up to d_in. Rows are kept in the widest type seen.
  void reserve(context_type& c, index_t n, scalar_type type) {
    if (count_ == 0) rows_.reset();  // an error may have left some
    if (rows_ && c.type(*rows_) == scalar_type::f64) type = scalar_type::f64;
    if (rows_ && c.type(*rows_) == type && n <= c.rows(*rows_)) return;
    matrix_type larger = c.make(type, (std::min)(width_, 2 * n), width_);
    if (rows_)
      c.assign(c.slice(const_view(*rows_), 0, count_, 0, width_),
               c.slice(typename context_type::view(larger), 0, count_, 0, width_));
    rows_ = std::move(larger);
  }

  matrix_type gram_of_rows(context_type& c) {
    matrix_type gram = c.make(scalar_type::f64, width_, width_);
    if (rows_) {
      const auto x = c.slice(const_view(*rows_), 0, count_, 0, width_);
      c.multiply(1, x, op::transpose, x, op::none, 0, gram);
    }
    return gram;
  }

  std::optional<matrix_type> rows_, gram_;
  index_t count_ = 0, width_ = 0;
};

/// The second moment E[x_j^2] of each coordinate of the rows entering a scale (for a normalisation,
/// of the *normalised* input), gathered in batches, in double.
template <class Domain = host>
class moment_statistics {
  static_assert(detail::require_context<Domain>());
  using context_type = context<Domain>;
  using matrix_type = typename context_type::matrix;

 public:
  /// Adds a batch of rows (n x d). Throws error if d differs from that of earlier batches.
  template <class Rows>
  void update(const Rows& rows, context_type& c) {
    static_assert(detail::require_matrix<Rows>());
    static_assert(detail::require_domain<Domain, domain_t<Rows>>());
    const typename context_type::const_view x = const_view_of(rows);
    if (c.rows(x) == 0) return;
    matrix_type batch = c.make(scalar_type::f64, c.columns(x), 1);
    c.column_energies(1 / static_cast<double>(c.rows(x)), x, batch);
    add(c, batch, c.rows(x));
  }
  /// The same on a context of its own.
  template <class Rows>
  void update(const Rows& rows) {
    static_assert(detail::require_matrix<Rows>());
    static_assert(detail::require_domain<Domain, domain_t<Rows>>());
    auto c = detail::context_of(rows);
    update(rows, c);
  }

  /// Adds the rows of another accumulator. Throws error if they are of another length.
  void combine(const moment_statistics& other, context_type& c) {
    if (other.count_ == 0) return;
    if (&other == this) {  // the same mean, seen twice
      count_ *= 2;
      return;
    }
    add(c, *other.moment_, other.count_);
  }
  /// The same on a context of its own.
  void combine(const moment_statistics& other) {
    if (other.count_ == 0) return;
    auto c = detail::context_on<Domain>(other.view().data);
    combine(other, c);
  }
  /// Does not compile for accumulators of another domain: a sentence says why.
  template <class Other, class... Context>
  void combine(const moment_statistics<Other>&, Context&...) {
    static_assert(detail::require_domain<Domain, Other>());
  }

  /// The number of rows seen.
  index_t count() const { return count_; }

  /// E[x_j^2], d x 1, f64. Valid until the next update. Throws error if no rows were seen.
  statistics_view<Domain> view() const {
    if (!moment_) throw error("moment_statistics: no rows were seen yet");
    return {statistics_form::second_moment, *moment_, static_cast<double>(count_)};
  }

 private:
  /// Adds n rows with this mean of squares. An error leaves the accumulator unchanged.
  void add(context_type& c, const typename context_type::const_view& mean, index_t n) {
    matrix_type moment = c.make(scalar_type::f64, c.rows(mean), 1);
    const auto all = static_cast<double>(count_ + n);
    if (moment_) {
      if (c.rows(*moment_) != c.rows(mean))
        throw error("moment_statistics: rows of " + std::to_string(c.rows(mean)) +
                    " entries after rows of " + std::to_string(c.rows(*moment_)));
      c.axpy(static_cast<double>(count_) / all, *moment_, moment);
    }
    c.axpy(static_cast<double>(n) / all, mean, moment);
    moment_ = std::move(moment);
    count_ += n;
  }

  std::optional<matrix_type> moment_;
  index_t count_ = 0;
};

namespace detail {

template <class D>
statistics_view<D> as_statistics(const statistics_view<D>& s) {
  return s;
}
template <class D>
statistics_view<D> as_statistics(const feature_statistics<D>& s) {
  return s.view();
}
template <class D>
statistics_view<D> as_statistics(const moment_statistics<D>& s) {
  return s.view();
}
/// Statistics in the form of rows, from a matrix of rows.
template <class T>
requires any_tensor<T> statistics_view<domain_t<T>> as_statistics(const T& rows) {
  static_assert(require_matrix<T>());
  const auto v = const_view_of(rows);
  return {statistics_form::rows, v, static_cast<double>(context<domain_t<T>>{}.rows(v))};
}

template <class D>
void eigen_plain(const Eigen::PlainObjectBase<D>*);
template <class D>
void accumulator(const feature_statistics<D>*);
template <class D>
void accumulator(const moment_statistics<D>*);

/// Types known to own the elements that their views refer to.
template <class F>
concept owns_elements = std::is_same_v<F, host_matrix> || requires(const F* f) {
  eigen_plain(f);
} || requires(const F* f) {
  accumulator(f);
};

struct statistics_of_fn {
  template <class Features>
  auto operator()(const Features& features) const {
    return as_statistics(features);
  }

  template <owns_elements Features>
  auto operator()(const Features&& features) const {
    static_assert(refused<Features>,
                  "catmerge: statistics_of returns a view, and its argument is a temporary that "
                  "ends with the statement: give it a name first");
    return as_statistics(features);
  }
};

template <class Range>
auto as_statistics_list(const Range& range) {
  using view = decltype(as_statistics(unwrap(*std::begin(range))));
  std::vector<view> list;
  for (const auto& s : range) list.push_back(as_statistics(unwrap(s)));
  return list;
}

/// Statistics of a layer's inputs that are no tensor.
template <class F>
concept statistics = !any_tensor<F> && requires(const F& f) {
  as_statistics(f);
};

/// Requires the features of one task: rows or statistics, of the domain of the weights T.
template <class F, class T>
constexpr bool require_features() {
  if constexpr (statistics<F>) {
    using view = decltype(as_statistics(std::declval<const F&>()));
    static_assert(require_domain<domain_t<T>, typename view::domain>());
  } else {
    static_assert(require_matrix<F>());
    static_assert(require_same_domain<T, F>());
  }
  return true;
}

/// Requires the same for the features of all tasks.
template <class Range, class T>
constexpr bool require_feature_range() {
  static_assert(require_range<Range>());
  static_assert(require_features<element_t<Range>, T>());
  return true;
}

}  // namespace detail

/// The statistics_view of one layer's inputs on one task, as a statistics_source returns it.
/// @code
/// statistics_view<> s = statistics_of(features);
/// @endcode
/// features: rows (n x d_in, any matrix), a feature_statistics or a moment_statistics; they must
/// outlive the view. Throws catmerge::error if an accumulator has seen no rows.
inline constexpr detail::statistics_of_fn statistics_of{};

}  // namespace catmerge

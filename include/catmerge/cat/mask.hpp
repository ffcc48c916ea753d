// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/cat/options.hpp>
#include <catmerge/features/shift_energy.hpp>
#include <catmerge/features/statistics.hpp>
#include <catmerge/tensor/operands.hpp>
#include <numeric>

/// @file
/// CAT Merging's trims of scales and shifts (Sun et al., ICML 2025): the coordinates of the other
/// tasks' vectors that hurt task k most are set to zero.
namespace catmerge {

namespace detail {

/// The positions of the largest scores, in ascending order. Of equal scores, those at lower
/// positions are taken.
inline std::vector<index_t> largest_positions(std::span<const double> scores, const largest& rule) {
  std::vector<index_t> order(scores.size());
  std::iota(order.begin(), order.end(), index_t{0});
  const auto count = (std::min<index_t>)(rule.count, std::ssize(scores));
  const auto score = [&](index_t j) { return scores[static_cast<std::size_t>(j)]; };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](index_t a, index_t b) {
    return score(a) != score(b) ? score(a) > score(b) : a < b;
  });
  order.resize(static_cast<std::size_t>(count));
  if (rule.positive_only) std::erase_if(order, [&](index_t j) { return !(score(j) > 0); });
  std::sort(order.begin(), order.end());
  return order;
}

/// s_k[j] = sum_{i != k} (E[x_k^2] - lambda E[x_i^2])[j] T_i[j]^2, on the host. moments: d x 1,
/// f64.
template <class Context>
std::vector<double> scale_scores(Context& c, index_t k,
                                 const std::vector<typename Context::const_view>& vectors,
                                 const std::vector<typename Context::const_view>& moments,
                                 double lambda) {
  auto scores = c.make(scalar_type::f64, c.rows(vectors[0]), 1);
  for (index_t i = 0; i < std::ssize(vectors); ++i) {
    if (i == k) continue;
    const auto t = vectors[static_cast<std::size_t>(i)];
    c.weighted_square(1, moments[static_cast<std::size_t>(k)], t, scores);
    c.weighted_square(-lambda, moments[static_cast<std::size_t>(i)], t, scores);
  }
  const small_matrix s = c.to_host(scores);
  return {s.data(), s.data() + s.size()};
}

/// s_k[j] = sum_{i != k} T_i[j]^2, on the host.
template <class Context>
std::vector<double> shift_scores(Context& c, index_t k,
                                 const std::vector<typename Context::const_view>& vectors) {
  const index_t d = c.rows(vectors[0]);
  auto scores = c.make(scalar_type::f64, d, 1), ones = c.make(scalar_type::f64, d, 1);
  c.from_host(small_matrix::Ones(d, 1), ones);
  for (index_t i = 0; i < std::ssize(vectors); ++i)
    if (i != k) c.weighted_square(1, ones, vectors[static_cast<std::size_t>(i)], scores);
  const small_matrix s = c.to_host(scores);
  return {s.data(), s.data() + s.size()};
}

template <class Context>
void require_masks(Context& c, index_t k, const std::vector<typename Context::const_view>& vectors,
                   const char* who) {
  if (vectors.empty() || k < 0 || k >= std::ssize(vectors))
    throw error(std::string(who) + ": task " + std::to_string(k) + " of " +
                std::to_string(vectors.size()));
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    require_shape(c, vectors[i], c.rows(vectors[0]), 1,
                  std::string(who) + ": task vector " + std::to_string(i));
    if (!c.all_finite(vectors[i]))
      throw error(std::string(who) + ": task vector " + std::to_string(i) +
                  " holds a value that is not finite");
  }
}

struct scale_mask_fn {
  template <class VectorRange, class FeatureRange, class Context>
  std::vector<index_t> operator()(index_t k, const VectorRange& vectors,
                                  const FeatureRange& features, const scale_mask_options& options,
                                  Context& c) const {
    static_assert(require_tensors<VectorRange>());
    static_assert(require_vector<element_t<VectorRange>>());
    static_assert(require_feature_range<FeatureRange, element_t<VectorRange>>());
    static_assert(require_context_for<Context, element_t<VectorRange>>());
    validate(options);
    const auto views = read_all<Context>(vectors);
    require_masks(c, k, views, "scale_mask");
    const auto statistics = as_statistics_list(features);
    if (statistics.size() != views.size())
      throw error("scale_mask: features of " + std::to_string(statistics.size()) + " tasks for " +
                  std::to_string(views.size()) + " task vectors");
    std::vector<typename Context::matrix> moments;
    for (std::size_t i = 0; i < statistics.size(); ++i) {
      require_width(c, statistics[i], c.rows(views[0]),
                    "scale_mask: features " + std::to_string(i));
      moments.push_back(second_moment(c, statistics[i]));
      if (!c.all_finite(moments.back()))
        throw error("scale_mask: features " + std::to_string(i) +
                    " hold a value that is not finite");
    }
    return largest_positions(
        scale_scores(c, k, views,
                     std::vector<typename Context::const_view>(moments.begin(), moments.end()),
                     options.lambda),
        options.coordinates);
  }

  template <class VectorRange, class FeatureRange>
  std::vector<index_t> operator()(index_t k, const VectorRange& vectors,
                                  const FeatureRange& features,
                                  const scale_mask_options& options = {}) const {
    static_assert(require_tensors<VectorRange>());
    auto c = context_of_first(vectors);
    return (*this)(k, vectors, features, options, c);
  }
};

struct shift_mask_fn {
  template <class VectorRange, class Context>
  std::vector<index_t> operator()(index_t k, const VectorRange& vectors,
                                  const shift_mask_options& options, Context& c) const {
    static_assert(require_tensors<VectorRange>());
    static_assert(require_vector<element_t<VectorRange>>());
    static_assert(require_context_for<Context, element_t<VectorRange>>());
    validate(options);
    const auto views = read_all<Context>(vectors);
    require_masks(c, k, views, "shift_mask");
    return largest_positions(shift_scores(c, k, views), largest{options.count, true});
  }

  template <class VectorRange>
  std::vector<index_t> operator()(index_t k, const VectorRange& vectors,
                                  const shift_mask_options& options = {}) const {
    static_assert(require_tensors<VectorRange>());
    auto c = context_of_first(vectors);
    return (*this)(k, vectors, options, c);
  }
};

struct mask_out_fn {
  /// T[j] = 0 for every j of the mask, in place.
  template <class T, class Context>
  void operator()(std::span<const index_t> mask, T& t, Context& c) const {
    static_assert(require_written<Context, T>());
    if constexpr (!handle_of<T, Context>) static_assert(require_vector<T>());
    static_assert(require_context_for<Context, T>());
    const typename Context::view v = view_in<Context>(t);
    require_shape(c, v, c.rows(v), 1, "mask_out: T");
    for (const index_t j : mask)
      if (j < 0 || j >= c.rows(v))
        throw error("mask_out: coordinate " + std::to_string(j) + " of a vector of " +
                    std::to_string(c.rows(v)));
    c.zero_rows(mask, v);
  }

  template <class T>
  void operator()(std::span<const index_t> mask, T& t) const {
    static_assert(require_mutable<T>());
    auto c = context_of(t);
    (*this)(mask, t, c);
  }
};

}  // namespace detail

/// The coordinates removed from every T_i, i != k, to protect task k at a scale. They have the
/// largest positive scores (E: the mean over rows)
///
///     s_k[j] = sum_{i != k} E[(x_k[j] T_i[j])^2] - lambda E[(x_i[j] T_i[j])^2]
///
/// which minimises Eq. 8 averaged over rows (CAT Merging, Sun et al., ICML 2025).
/// @code
/// std::vector<index_t> m = scale_mask(k, vectors, features);  // and (..., options[, context])
/// @endcode
/// vectors: a range of K task vectors of d entries; features: a range of K, rows n_i x d of the
/// *normalised* inputs or statistics in any form. Returns positions, ascending. Throws
/// catmerge::error if k is not a task, tasks or extents do not match, or a value is not finite, and
/// for options that validate refuses.
inline constexpr detail::scale_mask_fn scale_mask{};

/// The same for a shift, by the largest s_k[j] = sum_{i != k} T_i[j]^2, without features. A
/// coordinate that no other task moves is never taken. (Taken literally, Eq. 8 scales the score by
/// 1 - lambda. A port of the authors' code adds T_k[j]^2, which is not copied.)
/// @code
/// std::vector<index_t> m = shift_mask(k, vectors);  // and (..., options[, context])
/// @endcode
/// vectors: a range of K task vectors of d entries. Returns positions, ascending. Throws
/// catmerge::error if k is not a task, extents differ, a value is not finite or options.count is
/// negative.
inline constexpr detail::shift_mask_fn shift_mask{};

/// T[j] = 0 for every j of the mask, in place: Phi_k(T) = T - m_k o T.
/// @code
/// mask_out(mask, T);  // and (mask, T, context)
/// @endcode
/// mask: positions, in any order; T: a vector of d entries, or a view of the context of d x 1.
/// Throws catmerge::error for a position outside T; T is then unchanged.
inline constexpr detail::mask_out_fn mask_out{};

}  // namespace catmerge

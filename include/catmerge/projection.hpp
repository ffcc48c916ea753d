// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/conflict_gram.hpp>
#include <limits>
#include <span>
#include <variant>

/// CAT Merging's trim of linear weights (Sun et al., ICML 2025): a removal basis B_k per protected
/// task, and Phi_k(T_i) = (I - B_k B_k^T) T_i for the others.
namespace catmerge {

/// The `count` largest eigenvalues; of those only the positive ones, since removing along another
/// makes Eq. 8 worse. (positive_only = false: `count`, whatever their sign, as the authors' code.)
struct top {
  index_t count = 4;
  bool positive_only = true;
};

/// So many of the positive eigenvalues that their squares have a share of the sum of all positive
/// ones': the smallest number that reaches it, or (the authors' code) as many as stay below it.
struct energy {
  double share = 0.9;
  enum class bound { reach, below } stop = bound::reach;
};

/// Every positive eigenvalue: the minimiser of Eq. 8 over projections.
struct all_positive {};

/// Which eigenvectors of G_k are removed.
using direction_rule = std::variant<top, energy, all_positive>;

/// In what order one T_i is trimmed by the bases of all other tasks.
enum class trim_order {
  sequential,  ///< one after the other, in task order: only the last is removed exactly
  joint        ///< onto the complement of all of them at once: free of order, trims more
};

/// What happens to the size of a trimmed vector.
enum class rescale {
  none,      ///< it stays as the trim leaves it
  frobenius  ///< scaled back to the Frobenius norm it had (a vector trimmed to zero stays zero)
};

/// How the eigenvectors are found. All ways agree; `automatic` takes the cheapest.
enum class basis_way {
  automatic,
  dense,   ///< G_k is formed and decomposed
  shifts,  ///< block Krylov on the stacked feature shifts
  weights  ///< block Krylov on the weights, nothing formed
};

struct projection_options {
  direction_rule directions = top{4};
  double lambda = 5;  ///< the weight of the deviation, second term of Eq. 8
  row_weight rows = row_weight::sum;
  trim_order order = trim_order::sequential;
  rescale size = rescale::none;
  basis_way way = basis_way::automatic;
  eigen_options eigen{};  ///< of the Krylov ways; its count follows from `directions`
};

/// B_k, d_out x c with orthonormal columns, and how it was found.
template <class Matrix>
struct removal_basis_result {
  Matrix basis;
  std::vector<double> eigenvalues;  ///< those taken, largest first
  double magnitude = 0;             ///< the largest |eigenvalue| of G_k that was seen
  double residual = 0;              ///< of the worst eigenpair, relative to magnitude; 0 when dense
  index_t positive = 0;             ///< how many of the eigenvalues looked at were positive
  basis_way way = basis_way::dense;
};

namespace detail {

/// An eigenvalue counts as positive above this: d_out times the rounding of G_k times max|lambda|.
/// Without it the zeros of a low-rank G_k come out "positive" by rounding.
inline double positive_above(index_t size, double rounding, double magnitude) {
  return static_cast<double>(size) * rounding * magnitude;
}

/// How many of the eigenvalues (descending) the rule takes.
inline index_t directions_taken(const direction_rule& rule, const std::vector<double>& values,
                                double threshold) {
  index_t positive = 0;
  while (positive < std::ssize(values) && values[static_cast<std::size_t>(positive)] > threshold)
    ++positive;
  if (const auto* t = std::get_if<top>(&rule))
    return std::min<index_t>(t->count, t->positive_only ? positive : std::ssize(values));
  if (std::holds_alternative<all_positive>(rule)) return positive;
  const auto& e = std::get<energy>(rule);
  double total = 0;
  for (index_t j = 0; j < positive; ++j)
    total += values[static_cast<std::size_t>(j)] * values[static_cast<std::size_t>(j)];
  double sum = 0;
  index_t count = 0;
  for (; count < positive; ++count) {
    const double next =
        sum + values[static_cast<std::size_t>(count)] * values[static_cast<std::size_t>(count)];
    if (e.stop == energy::bound::reach ? sum >= e.share * total : next >= e.share * total) break;
    sum = next;
  }
  return count;
}

/// The cheapest way for one task, by operations counted at the rate of a double product. What the
/// constants stand for was measured with benchmarks/removal_basis (AVX-512, 2.6 GHz) on layers of
/// ViT-B/32: block Krylov takes 12 to 16 blocks; products with a thin block run at a quarter of the
/// rate; orthonormalising one costs some 700 block^2 operations per row; shifts are formed in
/// float, twice as fast; the dense solver takes as long as 14 n^3 operations, and twice that once
/// the matrix has left the cache (n > 1024). benchmarks/README.md has the times.
template <class Context>
basis_way cheapest_way(Context& c, const std::vector<typename Context::const_view>& vectors,
                       const std::vector<statistics_view<typename Context::domain>>& statistics,
                       const direction_rule& rule) {
  const auto* few = std::get_if<top>(&rule);
  const double d_out = static_cast<double>(c.rows(vectors[0])),
               d_in = static_cast<double>(c.columns(vectors[0]));
  if (few == nullptr) return basis_way::dense;  // all positive eigenvalues have to be known
  const double tasks = static_cast<double>(vectors.size()),
               block = static_cast<double>(few->count) + 4;
  double rows = 0;  // of all tasks' statistics
  for (const auto& s : statistics) rows += static_cast<double>(c.rows(s.data));
  const double stacked = 2 * rows;  // rows of shifts in G_k, about
  const double blocks = 15, thin = 4;
  const bool can_stack = conflict_gram<Context>::has_rows(statistics);

  const double orthonormalise = blocks * 700 * d_out * block * block;
  const double form_shifts =
      stacked * d_in * d_out * (compute_type(c.type(vectors[0])) == scalar_type::f64 ? 2 : 1);
  const double by_shifts =
      form_shifts + blocks * thin * 4 * stacked * d_out * block + orthonormalise;
  const double apply_weights = thin * (tasks * 4 * d_out * d_in + 8 * rows * d_in);
  const double by_weights = blocks * apply_weights * block + orthonormalise;
  const double form_dense =
      can_stack ? form_shifts + 2 * stacked * d_out * d_out : apply_weights * d_out;
  const double dense = form_dense + (d_out <= 1024 ? 14 : 28) * d_out * d_out * d_out;
  if (dense <= by_weights && (!can_stack || dense <= by_shifts)) return basis_way::dense;
  return can_stack && by_shifts <= by_weights ? basis_way::shifts : basis_way::weights;
}

/// The removal basis of the task that g protects.
template <class Context>
removal_basis_result<typename Context::matrix> find_basis(Context& c, conflict_gram<Context>& g,
                                                          const projection_options& options,
                                                          basis_way way) {
  using const_view = typename Context::const_view;
  removal_basis_result<typename Context::matrix> result;
  const index_t size = g.size();
  const auto* few = std::get_if<top>(&options.directions);
  if (way != basis_way::dense && few != nullptr) {
    eigen_options eigen = options.eigen;
    eigen.count = few->count;
    auto pairs = largest_eigenpairs(
        c, size, [&](const_view x, typename Context::view y) { g.apply(x, y); }, eigen);
    if (pairs.converged) {
      const double threshold = positive_above(size, g.rounding(), pairs.magnitude);
      const index_t count = directions_taken(options.directions, pairs.values, threshold);
      result.basis = c.make(scalar_type::f64, size, count);
      c.assign(c.slice(const_view(pairs.vectors), 0, size, 0, count), result.basis);
      result.positive = std::count_if(pairs.values.begin(), pairs.values.end(),
                                      [&](double v) { return v > threshold; });
      result.eigenvalues.assign(pairs.values.begin(), pairs.values.begin() + count);
      result.magnitude = pairs.magnitude;
      result.residual = pairs.residual;
      result.way = way;
      return result;
    }
    // The products are spent without the residual asked for: the dense solver always gets there,
    // and result.way says that it was used.
  }
  auto vectors = g.dense();
  auto values = c.symmetric_eigen(vectors);
  std::reverse(values.begin(), values.end());
  if (!values.empty())
    result.magnitude = std::max(std::abs(values.front()), std::abs(values.back()));
  const double threshold = positive_above(size, g.rounding(), result.magnitude);
  const index_t count = directions_taken(options.directions, values, threshold);
  result.positive =
      std::count_if(values.begin(), values.end(), [&](double v) { return v > threshold; });
  result.basis = c.make(scalar_type::f64, size, count);
  for (index_t j = 0; j < count; ++j)
    c.assign(c.slice(const_view(vectors), 0, size, size - 1 - j, 1),
             c.slice(typename Context::view(result.basis), 0, size, j, 1));
  result.eigenvalues.assign(values.begin(), values.begin() + count);
  return result;
}

/// T -= B (B^T T).
template <class Context>
void remove_directions(Context& c, typename Context::const_view basis, typename Context::view t) {
  if (c.columns(basis) == 0) return;
  auto coefficients = c.make(compute_type(c.type(t)), c.columns(basis), c.columns(t));
  c.multiply(1, basis, op::transpose, t, op::none, 0, coefficients);
  c.multiply(-1, basis, op::none, coefficients, op::none, 1, t);
}

/// An orthonormal basis of the span of several, d_out x (at most the sum of their widths).
template <class Context>
typename Context::matrix joint_basis(Context& c,
                                     const std::vector<typename Context::const_view>& bases,
                                     index_t size) {
  index_t total = 0;
  for (const auto& b : bases) total += c.columns(b);
  auto all = c.make(scalar_type::f64, size, total);
  index_t used = 0;
  for (const auto& b : bases) {
    const index_t width = c.columns(b);
    if (width == 0) continue;
    auto block = c.make(scalar_type::f64, size, width);
    c.assign(b, block);
    const index_t kept = orthonormalise(c, all, used, block);
    c.assign(c.slice(typename Context::const_view(block), 0, size, 0, kept),
             c.slice(typename Context::view(all), 0, size, used, kept));
    used += kept;
  }
  auto basis = c.make(scalar_type::f64, size, used);
  c.assign(c.slice(typename Context::const_view(all), 0, size, 0, used), basis);
  return basis;
}

inline void require_lambda(double lambda) {
  if (!(lambda >= 0) || !std::isfinite(lambda))
    throw error("lambda must be a finite number that is not negative, found " +
                std::to_string(lambda));
}

/// Throws unless the options make sense.
inline void validate(const projection_options& options) {
  require_lambda(options.lambda);
  if (const auto* t = std::get_if<top>(&options.directions); t != nullptr && t->count < 0)
    throw error("the rank of a removal basis cannot be negative, found " +
                std::to_string(t->count));
  if (const auto* e = std::get_if<energy>(&options.directions);
      e != nullptr && !(e->share >= 0 && e->share <= 1))
    throw error("the share of energy of a removal basis must lie in [0, 1], found " +
                std::to_string(e->share));
  if (!(options.eigen.tolerance > 0)) throw error("the tolerance of eigenpairs must be positive");
}

/// G_k of the options, by the way that they ask for or the cheapest one.
template <class Context>
std::pair<conflict_gram<Context>, basis_way> make_gram(
    Context& c, std::vector<typename Context::const_view> vectors,
    std::vector<statistics_view<typename Context::domain>> statistics,
    const projection_options& options) {
  using gram = conflict_gram<Context>;
  basis_way way = options.way;
  if (way == basis_way::automatic) way = cheapest_way(c, vectors, statistics, options.directions);
  const bool stack =
      way == basis_way::shifts || (way == basis_way::dense && gram::has_rows(statistics));
  return {gram(c, std::move(vectors), std::move(statistics), options.lambda, options.rows,
               stack ? gram::way::shifts : gram::way::weights),
          way};
}

struct removal_basis_fn {
  template <class VectorRange, class FeatureRange, class Context>
  auto operator()(index_t k, const VectorRange& vectors, const FeatureRange& features,
                  const projection_options& options, Context& c) const {
    using T = element_t<VectorRange>;
    static_assert(require_matrix<T>());
    static_assert(require_makeable<T>());
    validate(options);
    auto views = read_all<Context>(vectors);
    auto statistics = as_statistics_list(features);
    if (views.empty() || k < 0 || k >= std::ssize(views))
      throw error("removal_basis: task " + std::to_string(k) + " of " +
                  std::to_string(views.size()));
    if (statistics.size() != views.size())
      throw error("removal_basis: features of " + std::to_string(statistics.size()) +
                  " tasks for " + std::to_string(views.size()) + " task vectors");
    for (std::size_t i = 0; i < views.size(); ++i) {
      require_shape(c, views[i], c.rows(views[0]), c.columns(views[0]),
                    "removal_basis: task vector " + std::to_string(i));
      require_width(c, statistics[i], c.columns(views[0]),
                    "removal_basis: features " + std::to_string(i));
      if (statistics[i].form == statistics_form::second_moment)
        throw error("removal_basis: features " + std::to_string(i) +
                    ": a linear layer needs rows, a factor or a Gram matrix, found second moments");
      if (!c.all_finite(views[i]))
        throw error("removal_basis: task vector " + std::to_string(i) +
                    " holds a value that is not finite");
      if (!c.all_finite(statistics[i].data))
        throw error("removal_basis: features " + std::to_string(i) +
                    " hold a value that is not finite");
    }
    auto [gram, way] = make_gram(c, std::move(views), std::move(statistics), options);
    gram.protect(k);
    auto found = find_basis(c, gram, options, way);
    const T& like = unwrap(*std::begin(vectors));
    removal_basis_result<result_t<T>> result{
        make_result(c, like, typename Context::const_view(found.basis)),
        std::move(found.eigenvalues),
        found.magnitude,
        found.residual,
        found.positive,
        found.way};
    c.assign(found.basis, write(result.basis));
    return result;
  }

  template <class VectorRange, class FeatureRange>
  auto operator()(index_t k, const VectorRange& vectors, const FeatureRange& features,
                  const projection_options& options = {}) const {
    static_assert(require_matrix<element_t<VectorRange>>());
    context<domain_t<element_t<VectorRange>>> c;
    return (*this)(k, vectors, features, options, c);
  }
};

struct project_out_fn {
  /// T <- (I - B B^T) T, in place.
  template <class Basis, class T, class Context>
  void operator()(const Basis& basis, T& t, Context& c) const {
    static_assert(require_matrix<Basis>());
    static_assert(require_matrix<T>());
    static_assert(require_mutable<T>());
    static_assert(require_same_domain<Basis, T>());
    const typename Context::const_view b = read(basis);
    require_shape(c, b, c.rows(typename Context::const_view(write(t))), c.columns(b),
                  "project_out: basis");
    remove_directions(c, b, write(t));
  }

  template <class Basis, class T>
  void operator()(const Basis& basis, T& t) const {
    static_assert(require_matrix<T>());
    context<domain_t<T>> c;
    (*this)(basis, t, c);
  }
};

}  // namespace detail

/// removal_basis(k, vectors, features, options): B_k, the directions of output space along which
/// the other tasks' vectors disturb task k's features more than lambda times what removing them
/// costs those tasks. vectors: T_i, d_out x d_in, one per task; features: X_i, n_i x d_in each, or
/// statistics. At most min(d_out, (K - 1) n_k) eigenvalues are positive. B is unique up to rotation
/// within equal eigenvalues; compare B B^T or the value of Eq. 8, never B.
inline constexpr detail::removal_basis_fn removal_basis{};

/// project_out(B, T): T <- (I - B B^T) T in place, B d_out x c with orthonormal columns.
inline constexpr detail::project_out_fn project_out{};

}  // namespace catmerge

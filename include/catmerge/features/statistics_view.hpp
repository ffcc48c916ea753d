// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/require.hpp>

/// @file
/// Statistics of the inputs X_k (n x d_in, one row per token of a calibration sample) of one layer
/// on one task. Merging depends on X_k only through X_k^T X_k, so any data with the same Gram
/// matrix can replace the rows.
namespace catmerge {

/// The form of statistics, in place of the Gram matrix X^T X (d_in x d_in) of a layer's inputs.
enum class statistics_form {
  rows,          ///< X itself, n x d_in
  factor,        ///< R with R^T R = X^T X, m x d_in, for instance the triangle of X = Q R
  gram,          ///< X^T X, d_in x d_in
  second_moment  ///< E[x_j^2], d x 1: enough for a scale
};

/// A non-owning view of statistics of one layer on one task, in any form.
template <class Domain = host>
struct statistics_view {
  static_assert(detail::require_context<Domain>());
  using domain = Domain;  ///< the domain of `data`

  statistics_form form = statistics_form::rows;  ///< the form of `data`
  /// m x d_in (rows, factor), d_in x d_in (gram) or d x 1 (second_moment).
  typename context<Domain>::const_view data{};
  double rows = 0;  ///< n, the number of rows seen
};

namespace detail {

/// Throws unless s fits a layer of d_in inputs. `what` names s.
template <class Context, class Statistics>
void require_width(Context& c, const Statistics& s, index_t d_in, const std::string& what) {
  const bool moment = s.form == statistics_form::second_moment;
  const index_t width = moment ? c.rows(s.data) : c.columns(s.data);
  if (width != d_in)
    throw error(what + ": expected rows of " + std::to_string(d_in) + " entries, found " +
                shape_text(c, s.data));
  if (s.form == statistics_form::gram)
    require_shape(c, s.data, d_in, d_in, what + " (Gram matrix)");
  if (!(s.rows >= 0)) throw error(what + ": the number of rows is negative or not a number");
}

/// Throws unless s fits a linear weight of d_out x d_in. `what` names s. The message tells of a
/// transposed layout if the extents show it.
template <class Context, class Statistics>
void require_inputs(Context& c, const Statistics& s, index_t d_out, index_t d_in,
                    const std::string& what) {
  const bool moment = s.form == statistics_form::second_moment;
  const index_t width = moment ? c.rows(s.data) : c.columns(s.data);
  const auto refuse = [&](const std::string& why) {
    throw error(what + ": expected rows of " + std::to_string(d_in) + " entries, found " +
                shape_text(c, s.data) + why);
  };
  if (width != d_in && width == d_out)
    refuse(
        ", as wide as d_out: weights are d_out x d_in; if base and experts are stored d_in x d_out "
        "(as GPT-2's Conv1D and embedding tables are), pass them transposed, as views");
  if (width != d_in && s.form == statistics_form::rows && c.rows(s.data) == d_in)
    refuse(": features are n x d_in, a row for each token: pass them transposed");
  require_width(c, s, d_in, what);
  if (moment)
    throw error(what +
                ": a linear layer needs rows, a factor or a Gram matrix, found second moments");
}

}  // namespace detail
}  // namespace catmerge

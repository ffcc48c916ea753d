// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/cat/detail/trimmed_vectors.hpp>
#include <catmerge/cat/mask.hpp>
#include <catmerge/features/shift_energy.hpp>
#include <catmerge/merge/problem.hpp>
#include <cmath>
#include <iterator>

namespace catmerge::detail {

/// The trim of scales and shifts: by masks.
template <class Context>
class mask_trim final : public layer_trim<Context> {
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  mask_trim(Context& c, const layer_problem<Context>& p, const cat_options& options,
            trim_report& report)
      : c_(c), p_(p), options_(options), report_(report) {
    if (scale())
      for (const auto& s : p.statistics) moments_.push_back(second_moment(c, s));
    for (index_t k = 0; k < std::ssize(moments_); ++k)
      if (!c.all_finite(moments_[at(k)]))
        throw error(p.names.features(k) +
                    ": their squares overflow float64: divide the features of all tasks by one "
                    "power of two, which changes no mask");
  }

  rescale rescaling() const override { return scale() ? options_.scale.rescaling : rescale::none; }
  double rows(index_t k) const override { return scale() ? p_.statistics[at(k)].rows : 1; }
  double energy(index_t k, const const_view& t) override {
    if (!scale()) return c_.squared_norm(t);
    return scale_energy(c_, moments_[at(k)], p_.statistics[at(k)].rows, t);
  }
  double energy_left(index_t k, index_t, const const_view& t, double) override {
    return energy(k, t);
  }

  void trim(index_t part, const std::vector<view>& t, const std::vector<double>&) override {
    const index_t tasks = std::ssize(t);
    const std::vector<const_view> vectors(t.begin(), t.end());
    if (options_.diagnostics)
      for (index_t k = 0; k < tasks; ++k)
        for (index_t i = 0; i < tasks; ++i)
          report_.conflict_before(k, i) += energy(k, vectors[at(i)]);
    std::vector<std::vector<index_t>> masks;  // all from the untrimmed vectors
    for (index_t k = 0; k < tasks; ++k) masks.push_back(mask(k, vectors));
    for (index_t k = 0; k < tasks; ++k) {
      const auto& mine = masks[at(k)];
      for (index_t l = 0; l < tasks; ++l) {
        std::vector<index_t> both;
        std::set_intersection(mine.begin(), mine.end(), masks[at(l)].begin(), masks[at(l)].end(),
                              std::back_inserter(both));
        const auto narrow = (std::min)(mine.size(), masks[at(l)].size());
        if (narrow > 0)
          report_.overlap(k, l) += static_cast<double>(both.size()) / static_cast<double>(narrow);
      }
      for (index_t i = 0; i < tasks; ++i)
        if (i != k) c_.zero_rows(mine, t[at(i)]);
      protection& taken = report_.protections.emplace_back();
      taken.part = part;
      taken.task = k;
      taken.coordinates = mine;
    }
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  bool scale() const { return p_.kind == layer_kind::scale; }

  std::vector<index_t> mask(index_t k, const std::vector<const_view>& vectors) {
    if (!scale())
      return largest_positions(shift_scores(c_, k, vectors), largest{options_.shift.count, true});
    const std::vector<const_view> moments(moments_.begin(), moments_.end());
    const auto scores = scale_scores(c_, k, vectors, moments, options_.scale.lambda);
    for (const double s : scores)
      if (!std::isfinite(s))
        throw error(p_.names.who() +
                    ": the scores of its coordinates overflow float64: divide the features of all "
                    "tasks by one power of two, which changes no mask");
    return largest_positions(scores, options_.scale.coordinates);
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const cat_options& options_;
  trim_report& report_;
  std::vector<typename Context::matrix> moments_;
};

}  // namespace catmerge::detail

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/numeric/order_search.hpp>
#include <cstddef>
#include <vector>

namespace catmerge::detail {

/// Order statistics of a whole model, for each task alone. Methods use them in their scans to find
/// thresholds.
class task_thresholds {
 public:
  /// True if another pass over the numbers is needed.
  bool wanted() const { return wanted_; }

  /// Counts the entries of x, part of task k's numbers; `rule` gives the wanted ranks.
  template <class Context>
  void see(Context& c, std::size_t k, typename Context::const_view x,
           const order_search::rank_rule& rule) {
    while (searches_.size() <= k) searches_.emplace_back(rule);
    if (searches_[k].wanted()) searches_[k].see(c, x);
  }

  /// Ends a pass over all numbers.
  void end_pass() {
    wanted_ = false;
    for (auto& s : searches_) {
      if (s.wanted()) s.end_pass();
      wanted_ = wanted_ || s.wanted();
    }
  }

  /// The number of the i-th rank wanted, among task k's. Throws catmerge::error if the scans were
  /// left out.
  double value(std::size_t k, std::size_t i = 0) const {
    if (wanted_ || k >= searches_.size())
      throw error("this method merges a parameter after all have passed its scans");
    return searches_[k].value(i);
  }

 private:
  bool wanted_ = true;
  std::vector<order_search> searches_;
};

}  // namespace catmerge::detail

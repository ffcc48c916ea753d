// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/order_keys.hpp>
#include <catmerge/tensor/require.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Order statistics of more numbers than memory holds, for thresholds over a whole model.
namespace catmerge {

/// Finds the numbers of given ranks in a stream, exactly, in a few passes. A radix search: each
/// pass finds one more digit of each wanted number (two passes for floats, four for doubles;
/// tensor/order_keys.hpp). 2 MiB per rank.
///
/// @code
/// order_search median([](std::uint64_t n) { return std::vector{n / 2}; });
/// while (median.wanted()) {
///   for (const auto& tensor : model) median.see(context, tensor);  // the same ones every time
///   median.end_pass();
/// }
/// double m = median.value(0);
/// @endcode
class order_search {
 public:
  /// The wanted ranks among n >= 1 numbers, each from 0 (the smallest) to n - 1.
  using rank_rule = std::function<std::vector<std::uint64_t>(std::uint64_t n)>;

  /// `rule` is called at the end of the first pass, when n is known.
  explicit order_search(rank_rule rule) : rule_(std::move(rule)) { prepare({0}); }

  /// True if another pass over the numbers is needed.
  bool wanted() const { return depth_ < detail::key_digits && !found_; }

  /// Counts the entries of x. Precondition: they are finite.
  template <class Context>
  void see(Context& c, typename Context::const_view x) {
    if (depth_ == 0) count_ += static_cast<std::uint64_t>(c.rows(x) * c.columns(x));
    if (c.type(x) == scalar_type::f64) floats_ = false;
    for (auto& [before, counts] : counts_) c.count_keys(x, depth_, before, counts);
  }

  /// Ends a pass over all numbers. Throws catmerge::error if there were none, if the rule gave a
  /// rank above n - 1, or if it finds that the numbers differ from those of the pass before.
  void end_pass() {
    if (depth_ == 0) {
      if (count_ == 0) throw error("a quantile of no numbers");
      for (const std::uint64_t rank : rule_(count_)) targets_.push_back({rank, 0});
    }
    const detail::key_digit digit = detail::digit_of_key(depth_);
    for (auto& t : targets_) {
      const auto& counts = counts_.at(t.key);
      std::size_t d = 0;
      for (; d < counts.size() && t.rank >= counts[d]; ++d) t.rank -= counts[d];
      if (d == counts.size())
        throw error(depth_ == 0 ? "a rank beyond the " + std::to_string(count_) + " numbers"
                                : std::string("numbers that differ from one pass to the next"));
      t.key = t.key << digit.bits | d;
    }
    ++depth_;
    // If all numbers are floats, the second half of the key is known: zeros, or ones for negative
    // numbers.
    found_ = targets_.empty() || (floats_ && depth_ == 2);
    std::vector<std::uint64_t> prefixes;
    for (const auto& t : targets_) prefixes.push_back(t.key);
    prepare(wanted() ? prefixes : std::vector<std::uint64_t>{});
  }

  /// n, the number of entries seen in the first pass.
  std::uint64_t count() const { return count_; }

  /// The number of the i-th wanted rank. Precondition: !wanted().
  double value(std::size_t i) const {
    std::uint64_t key = targets_.at(i).key;
    if (found_) {
      const int rest = detail::digit_of_key(1).shift;
      const bool negative = key >> (63 - rest) == 0;
      key = key << rest | (negative ? (std::uint64_t{1} << rest) - 1 : 0);
    }
    return detail::of_order_key(key);
  }

 private:
  struct target {
    std::uint64_t rank;  ///< among the numbers with these digits
    std::uint64_t key;   ///< the known digits
  };

  void prepare(const std::vector<std::uint64_t>& prefixes) {
    counts_.clear();
    if (depth_ >= detail::key_digits) return;
    for (const std::uint64_t before : prefixes)
      counts_[before].assign(std::size_t{1} << detail::digit_of_key(depth_).bits, 0);
  }

  rank_rule rule_;
  int depth_ = 0;
  bool floats_ = true, found_ = false;
  std::uint64_t count_ = 0;
  std::vector<target> targets_;
  std::map<std::uint64_t, std::vector<std::uint64_t>> counts_;  // by the digits before
};

}  // namespace catmerge

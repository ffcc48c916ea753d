// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <harness/methods/settings.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The constants of the merge without settings: chosen on the four families of examples/families,
/// and confirmed on families that were made afterwards (examples/experiments/README.md).
struct automatic_options {
  /// g: the prior of refitted layers is so many times as long as J says. None: 2, or with fewer
  /// than `enough` samples a task the best of `gains` by cross-fitting.
  std::optional<double> gain{};
  double anchor = 10;  ///< c: mu is c / n of the mean eigenvalue, for n samples a task
  double own = 0.5;    ///< the share of the experts' own outputs in the target
  bool refit = true;   ///< false: the prior alone, with a gain of 1

  static constexpr index_t enough = 8;
  static std::vector<double> gains() { return {1, 1.5, 2}; }
};

/// Reads the settings of --method auto.
void read_automatic(settings& s, automatic_options& o);

/// The methods whose mean is the prior, each with its alpha where no outputs can be compared: the
/// middle of what validation chose on the families of examples/families, 0.3 to 2.4.
inline const std::vector<std::pair<std::string, double>>& prior_methods() {
  static const std::vector<std::pair<std::string, double>> list = {
      {"tsv-m", 0.75}, {"iso-c", 0.75}, {"iso-cts", 0.75}};
  return list;
}

}  // namespace catmerge::harness

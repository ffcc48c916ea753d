// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/calibration/automatic.hpp>
#include <harness/report/report_json.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The settings that outputs on unlabeled samples chose, as sentences and as JSON.
struct choice_account {
  json numbers;           ///< "choice" of the report
  std::string sentences;  ///< the choices and their reasons
  std::vector<std::string> warnings;
};

/// Of --method auto.
choice_account account_of(const automatic_merge& merged, const std::vector<std::string>& tasks);

/// A method's text, and the distances of its merge over alpha.
struct tried_setting {
  std::string text;
  distance_curve curve;
};

/// Of settings that are auto: the text of the least distance is chosen, among equals the first.
/// label: the method's. samples: per task.
choice_account account_of(const std::vector<tried_setting>& tried, const std::string& label,
                          const std::vector<index_t>& samples,
                          const std::vector<std::string>& tasks);

}  // namespace catmerge::harness

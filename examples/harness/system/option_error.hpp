// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <string>
#include <utility>

namespace catmerge::harness {

/// The error of a request that cannot be met, with the command-line option at fault: what() is
/// "OPTION: REASON". The program then ends with status 2, as for a command line that cannot be
/// parsed.
class option_error : public error {
 public:
  option_error(std::string option, std::string reason)
      : error(option + ": " + reason), option_(std::move(option)), reason_(std::move(reason)) {}

  const std::string& option() const { return option_; }  ///< "--expert"
  const std::string& reason() const { return reason_; }

 private:
  std::string option_, reason_;
};

/// Returns make(). A catmerge::error of it is rethrown with the option's name.
template <class Make>
auto blaming(const std::string& option, const Make& make) -> decltype(make()) {
  try {
    return make();
  } catch (const option_error&) {
    throw;
  } catch (const error& problem) {
    throw option_error(option, problem.what());
  }
}

}  // namespace catmerge::harness

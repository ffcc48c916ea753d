// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <string>
#include <utility>

namespace catmerge::harness {

/// A request that cannot be met as it stands, with the option of the command line that is to
/// blame: what() is "OPTION: REASON". The program ends with status 2 for it, as for a command line
/// that cannot be parsed.
class option_error : public error {
 public:
  option_error(std::string option, std::string reason)
      : error(option + ": " + reason), option_(std::move(option)), reason_(std::move(reason)) {}

  const std::string& option() const { return option_; }  ///< "--expert"
  const std::string& reason() const { return reason_; }

 private:
  std::string option_, reason_;
};

/// Returns make(). A catmerge::error in it becomes the option's.
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

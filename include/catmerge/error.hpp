// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

namespace catmerge {

/// Everything that catmerge throws on bad input: shapes that do not fit, non-finite numbers, files
/// that lie. The message names the tensor (and the file, where there is one), what was expected and
/// what was found. Errors of memory and of the standard library pass through unchanged.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace catmerge

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/language.hpp>
#include <stdexcept>
#include <string>

/// Task vectors, statistics of features, conflicts, trims and merging methods, on the tensors that
/// a program has. Everywhere: weights are d_out x d_in, rows of features n x d_in, vectors d x 1; a
/// call takes its context last, and makes one where none is passed; what is refused is a
/// catmerge::error.
namespace catmerge {

/// Everything that catmerge throws on bad input: shapes that do not fit, non-finite numbers, files
/// that lie. The message names the tensor (and the file, where there is one), what was expected and
/// what was found. Errors of memory and of the standard library pass through unchanged.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The error of an input that holds an infinity or what is no number: a program may say what to do
/// about such a tensor.
class not_finite_error : public error {
 public:
  using error::error;
};

}  // namespace catmerge

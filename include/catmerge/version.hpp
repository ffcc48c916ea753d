// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The version, major.minor.patch. These lines are its only source: CMake reads them.

/// May break programs.
#define CATMERGE_VERSION_MAJOR 0
/// New names and behaviour. While major is 0, it may break programs, too.
#define CATMERGE_VERSION_MINOR 2
/// Corrections only.
#define CATMERGE_VERSION_PATCH 0

/// The number of version major.minor.patch, for comparisons, also in the preprocessor. Minor and
/// patch are below 1000.
/// @code
/// #if CATMERGE_VERSION >= CATMERGE_VERSION_NUMBER(0, 2, 0)
/// @endcode
#define CATMERGE_VERSION_NUMBER(major, minor, patch) ((major)*1000000 + (minor)*1000 + (patch))
/// The number of this version.
#define CATMERGE_VERSION \
  CATMERGE_VERSION_NUMBER(CATMERGE_VERSION_MAJOR, CATMERGE_VERSION_MINOR, CATMERGE_VERSION_PATCH)

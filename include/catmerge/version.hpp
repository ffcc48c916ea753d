// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The version, major.minor.patch. This is the one place where it stands: CMake reads the lines.

/// May break programs.
#define CATMERGE_VERSION_MAJOR 0
/// New names and behaviour.
#define CATMERGE_VERSION_MINOR 1
/// Nothing but corrections.
#define CATMERGE_VERSION_PATCH 0

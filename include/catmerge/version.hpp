// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

// The one place where the version stands: CMake reads these three lines.
#define CATMERGE_VERSION_MAJOR 0
#define CATMERGE_VERSION_MINOR 1
#define CATMERGE_VERSION_PATCH 0

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>

/// @file
/// The system headers (POSIX) that reading and writing files needs. The core needs none.
#ifdef _WIN32
#error catmerge/io maps and writes files by POSIX, which Windows lacks: use the core there, \
    <catmerge/catmerge.hpp> and <catmerge/methods.hpp>, on tensors that you read yourself (or WSL).
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

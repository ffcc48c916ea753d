// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>

/// @file
/// What reading and writing files takes of the system: POSIX. The core takes nothing of it.
#ifdef _WIN32
#error catmerge/io maps and writes files by POSIX, which Windows lacks: use the core there, \
    <catmerge/catmerge.hpp> and <catmerge/methods.hpp>, on tensors that you read yourself (or WSL).
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/error.hpp>

/// @file
/// All files of a program that use Eigen must be compiled for the same processor (-march, -mavx2
/// and the like). Eigen's allocation depends on the processor, and one file may free memory that
/// another allocated. A mismatch crashes, with catmerge or without. If files compiled by GCC or
/// MSVC disagree, the linker stops with the name or the text below. (Not checked: files compiled by
/// Clang, changes by -flto or --gc-sections, and shared libraries, which are linked separately.)
///
/// Compile all files with the same flags; put code for several processors into a shared library
/// each. -DEIGEN_MAX_ALIGN_BYTES=64 in all files prevents the crash too, but functions that files
/// share are then still compiled for one of the processors.

#if defined(_MSC_VER)
#define CATMERGE_TEXT_OF(x) #x
#define CATMERGE_TEXT(x) CATMERGE_TEXT_OF(x)
#pragma detect_mismatch("catmerge: EIGEN_MAX_ALIGN_BYTES", CATMERGE_TEXT(EIGEN_MAX_ALIGN_BYTES))
#undef CATMERGE_TEXT
#undef CATMERGE_TEXT_OF
#elif defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
// The linker keeps an inline function and its aliases from one file and drops all other copies.
// Each file refers to the function by an alias with its alignment, which the kept copy must have.
#define CATMERGE_JOINED(a, b) a##b
#define CATMERGE_JOIN(a, b) CATMERGE_JOINED(a, b)
#define CATMERGE_NAME                                                               \
  CATMERGE_JOIN(catmerge_all_files_need_the_same_m_flags_or_EIGEN_MAX_ALIGN_BYTES_, \
                EIGEN_MAX_ALIGN_BYTES)
extern "C" {
[[gnu::used, gnu::visibility("hidden")]] inline void catmerge_memory_of_eigen() noexcept {}
[[gnu::alias("catmerge_memory_of_eigen"), gnu::visibility("hidden")]] void CATMERGE_NAME() noexcept;
}
namespace catmerge::detail {
[[gnu::used]] static void (*const memory_of_eigen)() noexcept = CATMERGE_NAME;
}  // namespace catmerge::detail
#undef CATMERGE_NAME
#undef CATMERGE_JOIN
#undef CATMERGE_JOINED
#endif

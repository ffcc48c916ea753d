// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// All of this folder's programs as they are right: that none of them fails for another reason than
// the one its MUST_FAIL brings in.
#define main const_output
#include "const_output.cpp"
#undef main
#define main matrix_for_vector
#include "matrix_for_vector.cpp"
#undef main
#define main no_make
#include "no_make.cpp"
#undef main
#define main no_traits
#include "no_traits.cpp"
#undef main
#define main read_only_map
#include "read_only_map.cpp"
#undef main
#define main two_domains
#include "two_domains.cpp"
#undef main
#define main vector_for_matrix
#include "vector_for_matrix.cpp"
#undef main

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Arguments passed for a tensor by mistake, or left out: the sentence names the kind of mistake.
#include <Eigen/Sparse>
#include <array>
#include <bitset>
#include <catmerge/adapt/eigen_tensor.hpp>
#include <catmerge/catmerge.hpp>
#include <catmerge/methods.hpp>
#include <complex>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

using W = Eigen::MatrixXf;
using V = Eigen::VectorXf;

enum class color { red };

void calls(const W& w, W& a, const V& v, const std::vector<W>& ws, const std::vector<V>& vs,
           const catmerge::cat_options& options) {
  static_cast<void>(a), static_cast<void>(v), static_cast<void>(vs), static_cast<void>(options);
  catmerge::cat_linear(w, ws, ws);

  // Elements.
#ifdef CASE_bytes  // expect: catmerge: the elements of this argument are signed char: catmerge
                   // takes
  catmerge::cat_shift(v, std::vector<std::vector<std::int8_t>>(2));
#endif
#ifdef CASE_quantised  // expect: catmerge: the elements of this argument are unsigned char:
  catmerge::task_vector(w, Eigen::Map<const Eigen::Matrix<std::uint8_t, 2, 2>>(nullptr));
#endif
#ifdef CASE_ids  // expect: catmerge: the elements of this argument are long: catmerge takes double,
  catmerge::task_vector(Eigen::Array<std::int64_t, 2, 2>(), w);
#endif
#ifdef CASE_sums_of_integers  // expect: catmerge: the elements of this argument are int: catmerge
  catmerge::task_vector(w, Eigen::MatrixXi(2, 2) + Eigen::MatrixXi(2, 2));
#endif
#ifdef CASE_span_of_unsigned  // expect: catmerge: the elements of this argument are unsigned int:
  catmerge::task_vector(v, std::span<const std::uint32_t>());
#endif
#ifdef CASE_long_double  // expect: catmerge: the elements of this argument are long double:
                         // catmerge
  catmerge::cat_linear(Eigen::Matrix<long double, -1, -1>(2, 2), ws, ws);
#endif
#ifdef CASE_complex  // expect: catmerge: the elements of this argument are std::complex<float>:
  catmerge::cat_linear(w, std::vector<Eigen::MatrixXcf>(2), ws);
#endif
#ifdef CASE_words  // expect: short: catmerge takes double, float, catmerge::half and
  catmerge::weight_average(std::array<std::int16_t, 4>(), vs);
#endif
#ifdef CASE_words_of_eigen  // expect: if these are the bits of a half or a bfloat16, view them
  catmerge::cat_linear(w, ws, std::vector<Eigen::Matrix<std::uint16_t, -1, -1>>(2));
#endif
#ifdef CASE_compilers_half  // expect: the compiler's own half (_Float16, __fp16)
#ifdef __FLT16_MANT_DIG__
  using own = _Float16;
#else
  using own = __fp16;
#endif
  catmerge::cat_shift(std::span<const own>(), vs);
#endif
#ifdef CASE_enumeration  // expect: catmerge: the elements of this argument are of a type that
  catmerge::cat_shift(std::vector<color>(3), vs);
#endif
#ifdef CASE_tensor_of_int  // expect: catmerge: the elements of this argument are int: catmerge
                           // takes
  catmerge::task_vector(w, Eigen::Tensor<int, 2>(2, 2));
#endif
#ifdef CASE_bits  // expect: catmerge: std::vector<bool> (or std::bitset) packs bits
  catmerge::cat_shift(v, std::vector<std::vector<bool>>(2));
#endif
#ifdef CASE_bitset  // expect: catmerge: std::vector<bool> (or std::bitset) packs bits
  catmerge::task_vector(v, std::bitset<8>());
#endif

  // Expressions and sparse matrices.
#ifdef CASE_expression_of_features  // expect: catmerge: this argument is an expression that
  auto scaled = 2 * w;
  catmerge::cat_linear(w, ws, std::vector{scaled, scaled});
#endif
#ifdef CASE_product  // expect: catmerge: this argument is an expression that its library has not
  catmerge::cat_linear(w * w, ws, ws);
#endif
#ifdef CASE_segment_of_expression  // expect: catmerge: this argument is an expression that
  catmerge::task_vector(v, (v + v).head(2));
#endif
#ifdef CASE_diagonal  // expect: catmerge: this argument is an expression that its library has not
  catmerge::task_vector(w, v.asDiagonal());
#endif
#ifdef CASE_triangle  // expect: catmerge: this argument is an expression that its library has not
  catmerge::task_vector(w, w.triangularView<Eigen::Upper>());
#endif
#ifdef CASE_tensor_expression  // expect: catmerge: this argument is an expression that its library
  Eigen::Tensor<float, 2> t(2, 2);
  catmerge::task_vector(w, t + t);
#endif
#ifdef CASE_sparse  // expect: catmerge: this argument is a sparse matrix: make it dense
  catmerge::task_vector(w, Eigen::SparseMatrix<float>(2, 2));
#endif

  // Ranks.
#ifdef CASE_rank_3  // expect: catmerge: this argument is a tensor of rank 3 or more (or 0)
  catmerge::cat_linear(w, std::vector<Eigen::Tensor<float, 3>>(2), ws);
#endif
#ifdef CASE_rank_4_of_map  // expect: catmerge: this argument is a tensor of rank 3 or more (or 0)
  catmerge::task_vector(w, Eigen::TensorMap<Eigen::Tensor<const double, 4>>(nullptr, 1, 1, 1, 1));
#endif

  // Pointers, maps, ranges.
#ifdef CASE_pointer  // expect: catmerge: this argument is a pointer to a tensor
  catmerge::task_vector(w, &a);
#endif
#ifdef CASE_unique_pointers  // expect: catmerge: this argument is a pointer to a tensor
  catmerge::cat_linear(w, std::array<std::unique_ptr<W>, 2>(), ws);
#endif
#ifdef CASE_shared_pointers  // expect: catmerge: this argument is a pointer to a tensor
  catmerge::cat_linear(w, ws, std::vector<std::shared_ptr<const W>>(2));
#endif
#ifdef CASE_optional  // expect: catmerge: this argument is a pointer to a tensor (or an optional
                      // one)
  catmerge::cat_linear(std::optional<W>(w), ws, ws);
#endif
#ifdef CASE_numbers_by_pointer  // expect: catmerge: this argument is a pointer, which knows no
  catmerge::cat_shift(v.data(), std::vector{v.data(), v.data()});
#endif
#ifdef CASE_void_pointer  // expect: catmerge: this argument is a pointer, which knows no extents
  const void* bytes = v.data();
  catmerge::task_vector(v, bytes);
#endif
#ifdef CASE_wrapped  // expect: catmerge: std::reference_wrapper is for the tensors in a range
  catmerge::cat_linear(std::cref(w), ws, ws);
#endif
#ifdef CASE_map  // expect: catmerge: this argument is a map, or holds its pairs of key and tensor
  catmerge::cat_linear(w, std::unordered_map<std::string, W>(), ws);
#endif
#ifdef CASE_map_of_features  // expect: catmerge: this argument is a map, or holds its pairs
  catmerge::cat_linear(w, ws, std::map<int, W>());
#endif
#ifdef CASE_map_for_tensor  // expect: catmerge: this argument is a map, or holds its pairs of key
                            // and
  catmerge::cat_linear(std::map<std::string, W>(), ws, ws);
#endif
#ifdef CASE_pairs  // expect: catmerge: this argument is a map, or holds its pairs of key and tensor
  catmerge::cat_linear(w, std::vector<std::pair<std::string, W>>(2), ws);
#endif
#ifdef CASE_array  // expect: catmerge: this range of numbers is no tensor as it is: pass contiguous
  catmerge::cat_shift(std::array<float, 3>(), vs);
#endif
#ifdef CASE_c_array  // expect: catmerge: this range of numbers is no tensor as it is: pass
                     // contiguous
  const double numbers[3] = {};
  catmerge::task_vector(v, numbers);
#endif
#ifdef CASE_deques  // expect: catmerge: this range of numbers is no tensor as it is: pass
                    // contiguous
  catmerge::cat_shift(v, std::vector<std::deque<float>>(2));
#endif
#ifdef CASE_rows_of_their_own  // expect: catmerge: this argument is a range of tensors where one
  catmerge::cat_linear(std::vector<std::vector<float>>(2), ws, ws);
#endif
#ifdef CASE_range_for_base  // expect: catmerge: this argument is a range of tensors where one
                            // tensor
  catmerge::cat_linear(ws, ws, ws);
#endif
#ifdef CASE_pointers_for_base  // expect: catmerge: this argument is a range of tensors where one
  catmerge::cat_linear(std::vector<const W*>(2), ws, ws);
#endif

  // Braces, and what was forgotten.
#ifdef CASE_braced_experts  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::cat_linear(w, {a, w}, ws);
#endif
#ifdef CASE_braced_features  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::cat_linear(w, ws, {a, w}, options);
#endif
#ifdef CASE_braced_both  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::cat_scale(v, {v, v}, {w, w});
#endif
#ifdef CASE_braced_shifts  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::cat_shift(v, {v, v}, options);
#endif
#ifdef CASE_braced_average  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::weight_average(w, {a, w});
#endif
#ifdef CASE_braced_arithmetic  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::task_arithmetic(w, {a, w}, 0.5);
#endif
#ifdef CASE_braced_ties  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::ties(w, {a, w});
#endif
#ifdef CASE_braced_regmean  // expect: catmerge: a braced list would copy the tensors in it
  catmerge::regmean_linear(w, ws, {a, w});
#endif
#ifdef CASE_no_features  // expect: catmerge: the features are missing: (base, experts, features)
  catmerge::cat_linear(w, ws);
#endif
#ifdef CASE_options_for_features  // expect: catmerge: the features are missing: (base, experts,
  catmerge::cat_linear(w, ws, options);
#endif
#ifdef CASE_lot_options_for_features  // expect: catmerge: the features are missing: (base, experts,
  catmerge::lot_linear(w, ws, catmerge::lot_options{});
#endif
#ifdef CASE_no_features_of_scale  // expect: catmerge: the features are missing: (base, experts,
  catmerge::cat_scale(v, vs);
#endif
#ifdef CASE_no_features_of_group  // expect: catmerge: the features are missing: (base, experts,
  catmerge::cat_group(ws, std::array{ws, ws});
#endif
#ifdef CASE_no_features_of_lot  // expect: catmerge: the features are missing: (base, experts,
  catmerge::lot_linear(w, ws);
#endif
#ifdef CASE_no_rows_of_refit  // expect: catmerge: the rows are missing: (base, experts, refit_data{
  catmerge::refit(w, ws);
#endif
#ifdef CASE_features_for_rows  // expect: catmerge: the rows are missing: (base, experts,
                               // refit_data{
  catmerge::refit(w, ws, ws);
#endif
#ifdef CASE_bias_of_refit  // expect: catmerge: a vector of d entries is needed here
  catmerge::refit(w, ws, catmerge::refit_data{ws, ws, ws, &w, &w});
#endif
#ifdef CASE_braced_and_no_features  // expect: catmerge: the features are missing: (base, experts,
  catmerge::cat_linear(w, {a, w});
#endif

  // Factored vectors.
#ifdef CASE_dense_for_factors  // expect: catmerge: a range of catmerge::factored_vector is needed
  catmerge::cat_factors(ws, ws);
#endif
#ifdef CASE_no_range_of_factors  // expect: catmerge: a range, with one element per task or weight,
  catmerge::trim_factors(catmerge::factored_vector{w, a}, ws);
#endif
#ifdef CASE_factor_is_a_vector  // expect: catmerge: a matrix is needed here and this type is a
  catmerge::concatenate(std::vector{catmerge::factored_vector{v, v}});
#endif
#ifdef CASE_dense_compressed  // expect: catmerge: compress takes a catmerge::factored_vector
  catmerge::compress(w, 3);
#endif
  const std::vector factors{catmerge::factored_vector{w, a, 2.0}};
  catmerge::cat_factors(factors, ws, {.alpha = 0.3});

  // Temporaries.
#ifdef CASE_statistics_of_temporary  // expect: catmerge: statistics_of returns a view, and its
  catmerge::statistics_of(W(2, 2));
#endif
#ifdef CASE_statistics_of_product  // expect: catmerge: statistics_of returns a view, and its
  catmerge::statistics_of((w * a).eval());
#endif
#ifdef CASE_statistics_of_accumulator  // expect: catmerge: statistics_of returns a view, and its
  catmerge::statistics_of(catmerge::feature_statistics<>());
#endif
  catmerge::statistics_of(w), catmerge::statistics_of(w.topRows(2));  // of memory that lasts

  // Correct calls still compile: options in braces, and none.
  catmerge::cat_shift(v, vs, {.alpha = 0.3});
  catmerge::cat_linear(w, ws, ws, {.alpha = 0.3});
  catmerge::ties(w, ws, {});
  catmerge::refit(w, ws, catmerge::refit_data{ws, ws, ws, nullptr, &v}, {.own = 0.3});
  catmerge::task_arithmetic(w, ws, 0.3);
}

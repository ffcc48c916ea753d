// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Armadillo's objects that are no tensors.
#include <catmerge/adapt/armadillo.hpp>
#include <catmerge/catmerge.hpp>

void calls(const arma::fmat& w, const std::vector<arma::fmat>& ws) {
  static_cast<void>(ws);
  catmerge::task_vector(w, w);
#ifdef CASE_cube  // expect: catmerge: this argument is a tensor of rank 3 or more (or 0)
  catmerge::cat_linear(w, std::vector<arma::fcube>(2), ws);
#endif
#ifdef CASE_integers  // expect: catmerge: the elements of this argument are long long: catmerge
                      // takes
  catmerge::task_vector(w, arma::Mat<long long>());
#endif
#ifdef CASE_complex  // expect: catmerge: the elements of this argument are std::complex<double>:
  catmerge::cat_linear(arma::cx_mat(), ws, ws);
#endif
#ifdef CASE_sum  // expect: catmerge: this argument is an expression that its library has not
  catmerge::task_vector(w + w, w);
#endif
#ifdef CASE_transposed_product  // expect: catmerge: this argument is an expression that its library
  auto t = w.t() * w;
  catmerge::cat_linear(w, ws, std::vector{t, t});
#endif
#ifdef CASE_sparse  // expect: catmerge: this argument is a sparse matrix: make it dense
  catmerge::task_vector(arma::sp_mat(), w);
#endif
}

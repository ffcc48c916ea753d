// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// xtensor's objects that are no tensors.
#include <catmerge/adapt/xtensor.hpp>
#include <catmerge/catmerge.hpp>
#include <xtensor/xadapt.hpp>
#include <xtensor/xview.hpp>

void calls(const xt::xtensor<float, 2>& w, const std::vector<xt::xtensor<float, 2>>& ws) {
  static_cast<void>(ws);
  catmerge::task_vector(w, w);
#ifdef CASE_rank_3  // expect: catmerge: this argument is a tensor of rank 3 or more (or 0)
  catmerge::cat_linear(w, std::vector<xt::xtensor<double, 3>>(2), ws);
#endif
#ifdef CASE_rank_4_fixed  // expect: catmerge: this argument is a tensor of rank 3 or more (or 0)
  catmerge::task_vector(xt::xtensor_fixed<float, xt::xshape<2, 2, 3, 3>>(), w);
#endif
#ifdef CASE_integers  // expect: catmerge: the elements of this argument are int: catmerge takes
  catmerge::task_vector(w, xt::xarray<int>());
#endif
#ifdef CASE_expression  // expect: catmerge: this argument is an expression that its library has not
  auto t = w + 0.1F * w;
  catmerge::cat_linear(w, std::vector{t, t}, ws);
#endif
#ifdef CASE_kept_rows  // expect: catmerge: this argument is an expression that its library has not
  catmerge::task_vector(xt::view(w, xt::keep(0, 2), xt::all()), w);
#endif
}

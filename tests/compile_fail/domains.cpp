// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Two backends in one call, for each call that takes several tensors.
#include <array>
#include <catmerge/catmerge.hpp>

#include "support/device.hpp"

using namespace catmerge;

void calls(Eigen::MatrixXf& w, Eigen::VectorXf& v, device_tensor<2>& device_w,
           device_tensor<1>& device_v, const std::vector<Eigen::MatrixXf>& ws,
           const std::vector<Eigen::VectorXf>& vs, const std::vector<device_tensor<2>>& device_ws,
           const std::vector<device_tensor<1>>& device_vs, context<host>& c,
           context<device>& elsewhere, feature_statistics<>& rows,
           feature_statistics<device>& device_rows, moment_statistics<>& moments,
           moment_statistics<device>& device_moments) {
#ifdef CASE_task_vector  // expect: catmerge: the tensors of one call
  task_vector(w, device_w);
#endif
#ifdef CASE_task_vector_of_device  // expect: catmerge: the tensors of one call
  task_vector(device_w, w, elsewhere);
#endif
#ifdef CASE_subtract_base  // expect: catmerge: the tensors of one call
  subtract_base(w, device_w);
#endif
#ifdef CASE_add_task_vector  // expect: catmerge: the tensors of one call
  add_task_vector(w, device_w);
#endif
#ifdef CASE_with_task_vector  // expect: catmerge: the tensors of one call
  with_task_vector(w, device_w);
#endif
#ifdef CASE_task_arithmetic  // expect: catmerge: the tensors of one call
  task_arithmetic(w, device_ws);
#endif
#ifdef CASE_weight_average  // expect: catmerge: the tensors of one call
  weight_average(device_w, ws);
#endif
#ifdef CASE_linear_experts  // expect: catmerge: the tensors of one call
  cat_linear(w, device_ws, ws);
#endif
#ifdef CASE_linear_features  // expect: catmerge: the tensors of one call
  cat_linear(w, ws, device_ws);
#endif
#ifdef CASE_linear_references  // expect: catmerge: the tensors of one call
  cat_linear(w, std::vector{std::cref(device_w)}, ws);
#endif
#ifdef CASE_linear_statistics  // expect: catmerge: the tensors of one call
  cat_linear(w, ws, std::vector{device_rows.view()});
#endif
#ifdef CASE_linear_accumulators  // expect: catmerge: the tensors of one call
  cat_linear(w, ws, std::vector{std::cref(device_rows)});
#endif
#ifdef CASE_scale_experts  // expect: catmerge: the tensors of one call
  cat_scale(v, device_vs, ws);
#endif
#ifdef CASE_scale_features  // expect: catmerge: the tensors of one call
  cat_scale(v, vs, device_ws);
#endif
#ifdef CASE_scale_moments  // expect: catmerge: the tensors of one call
  cat_scale(v, vs, std::vector{std::cref(device_moments)});
#endif
#ifdef CASE_shift_experts  // expect: catmerge: the tensors of one call
  cat_shift(v, device_vs);
#endif
#ifdef CASE_group_experts  // expect: catmerge: the tensors of one call
  cat_group(ws, std::array{device_ws}, ws);
#endif
#ifdef CASE_group_features  // expect: catmerge: the tensors of one call
  cat_group(ws, std::array{ws}, device_ws);
#endif
#ifdef CASE_removal_basis  // expect: catmerge: the tensors of one call
  removal_basis(0, ws, device_ws);
#endif
#ifdef CASE_removal_basis_statistics  // expect: catmerge: the tensors of one call
  removal_basis(0, ws, std::vector{device_rows.view()});
#endif
#ifdef CASE_project_out  // expect: catmerge: the tensors of one call
  project_out(device_w, w);
#endif
#ifdef CASE_feature_shift  // expect: catmerge: the tensors of one call
  feature_shift(layer_kind::linear, device_w, w);
#endif
#ifdef CASE_feature_shift_statistics  // expect: catmerge: the tensors of one call
  feature_shift(layer_kind::linear, device_rows, w);
#endif
#ifdef CASE_conflict_matrix  // expect: catmerge: the tensors of one call
  conflict_matrix(layer_kind::linear, device_ws, ws);
#endif
#ifdef CASE_scale_mask  // expect: catmerge: the tensors of one call
  scale_mask(0, vs, device_ws);
#endif
#ifdef CASE_scale_mask_moments  // expect: catmerge: the tensors of one call
  scale_mask(0, vs, std::vector{device_moments.view()});
#endif
#ifdef CASE_update_rows  // expect: catmerge: the tensors of one call
  rows.update(device_w);
#endif
#ifdef CASE_update_rows_on_host  // expect: catmerge: the tensors of one call
  rows.update(device_w, c);
#endif
#ifdef CASE_update_moments  // expect: catmerge: the tensors of one call
  moments.update(device_w);
#endif
#ifdef CASE_update_moments_on_host  // expect: catmerge: the tensors of one call
  moments.update(device_w, c);
#endif
#ifdef CASE_combine_rows  // expect: catmerge: the tensors of one call
  rows.combine(device_rows);
#endif
#ifdef CASE_combine_rows_on_host  // expect: catmerge: the tensors of one call
  rows.combine(device_rows, c);
#endif
#ifdef CASE_combine_moments  // expect: catmerge: the tensors of one call
  moments.combine(device_moments);
#endif
#ifdef CASE_context_of_task_vector  // expect: catmerge: the last argument of this call must be
  task_vector(w, w, elsewhere);
#endif
#ifdef CASE_context_of_subtract_base  // expect: catmerge: the last argument of this call must be
  subtract_base(w, w, elsewhere);
#endif
#ifdef CASE_context_of_add_task_vector  // expect: catmerge: the last argument of this call must be
  add_task_vector(w, w, 1, elsewhere);
#endif
#ifdef CASE_context_of_with_task_vector  // expect: catmerge: the last argument of this call must be
  with_task_vector(w, w, 1, elsewhere);
#endif
#ifdef CASE_context_of_task_arithmetic  // expect: catmerge: the last argument of this call must be
  task_arithmetic(w, ws, 1, elsewhere);
#endif
#ifdef CASE_context_of_weight_average  // expect: catmerge: the last argument of this call must be
  weight_average(w, ws, elsewhere);
#endif
#ifdef CASE_context_of_cat_linear  // expect: catmerge: the last argument of this call must be
  cat_linear(w, ws, ws, {}, elsewhere);
#endif
#ifdef CASE_context_of_cat_group  // expect: catmerge: the last argument of this call must be
  cat_group(ws, std::array{ws}, ws, {}, elsewhere);
#endif
#ifdef CASE_context_of_removal_basis  // expect: catmerge: the last argument of this call must be
  removal_basis(0, ws, ws, {}, elsewhere);
#endif
#ifdef CASE_context_of_project_out  // expect: catmerge: the last argument of this call must be
  project_out(w, w, elsewhere);
#endif
#ifdef CASE_context_of_feature_shift  // expect: catmerge: the last argument of this call must be
  feature_shift(layer_kind::linear, w, w, elsewhere);
#endif
#ifdef CASE_context_of_conflict_matrix  // expect: catmerge: the last argument of this call must be
  conflict_matrix(layer_kind::linear, ws, ws, elsewhere);
#endif
#ifdef CASE_context_of_spectral_norm  // expect: catmerge: the last argument of this call must be
  spectral_norm(w, elsewhere);
#endif
#ifdef CASE_context_of_scale_mask  // expect: catmerge: the last argument of this call must be
  scale_mask(0, vs, ws, {}, elsewhere);
#endif
#ifdef CASE_context_of_shift_mask  // expect: catmerge: the last argument of this call must be
  shift_mask(0, vs, {}, elsewhere);
#endif
#ifdef CASE_context_of_mask_out  // expect: catmerge: the last argument of this call must be
  mask_out({}, v, elsewhere);
#endif
}

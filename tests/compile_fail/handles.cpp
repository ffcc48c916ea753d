// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Targets of writes that do not compile: const tensors that own their elements, and handles for
// reading only.
#include <catmerge/catmerge.hpp>

using context = catmerge::context<catmerge::host>;

void calls(context& c, const context::view& view, const context::const_view& read,
           const context::matrix& matrix, context::matrix& mine, const Eigen::MatrixXf& w,
           const Eigen::VectorXf& v, const std::vector<float>& list,
           const Eigen::Map<const Eigen::MatrixXf>& map, const std::vector<catmerge::index_t>& at) {
  static_cast<void>(read), static_cast<void>(matrix), static_cast<void>(list);
  static_cast<void>(v), static_cast<void>(map);
  for (const auto& one : std::vector{view}) {
    catmerge::project_out(mine, one, c);
    catmerge::project_out(matrix, one);
    catmerge::mask_out(at, one, c);
    catmerge::subtract_base(w, one, c);
    catmerge::add_task_vector(one, w, 1, c);
  }
  catmerge::mask_out(at, mine, c);

#ifdef CASE_project_const  // expect: catmerge: this tensor is written to, so it must not be const
  catmerge::project_out(mine, w, c);
#endif
#ifdef CASE_project_const_map  // expect: catmerge: this tensor is written to, so it must not be
  catmerge::project_out(mine, map, c);
#endif
#ifdef CASE_mask_const  // expect: catmerge: this tensor is written to, so it must not be const
  catmerge::mask_out(at, v, c);
#endif
#ifdef CASE_mask_const_list  // expect: catmerge: this tensor is written to, so it must not be const
  catmerge::mask_out(at, list);
#endif
#ifdef CASE_add_to_const  // expect: catmerge: this tensor is written to, so it must not be const
  catmerge::add_task_vector(w, w, 1, c);
#endif
#ifdef CASE_project_read_handle  // expect: catmerge: this handle is written to, so it must be a
  catmerge::project_out(mine, read, c);
#endif
#ifdef CASE_subtract_from_read_handle  // expect: catmerge: this handle is written to, so it must
  catmerge::subtract_base(w, read, c);
#endif
#ifdef CASE_mask_const_matrix  // expect: catmerge: this handle is written to, so it must be a
  catmerge::mask_out(at, matrix, c);
#endif
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <catmerge/cat/mask.hpp>
#include <catmerge/cat/projection.hpp>
#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/task_vector.hpp>
#include <catmerge/numeric/spectral_norm.hpp>
#include <harness/methods/catalogue.hpp>
#include <harness/report/report_json.hpp>

#include "bindings.hpp"
#include "features.hpp"
#include "session.hpp"

namespace catmerge::python {

namespace {

/// The options of CAT's trims by the settings of the method: "lambda=1,rank=2".
cat_options cat_options_of(const std::string& settings) {
  auto cat = harness::parse_method(settings.empty() ? "cat" : "cat:" + settings);
  return *cat.find_trims();
}

nb::object task_vector_of(nb::handle base, nb::handle expert, unsigned threads) {
  const array b = array::of(base, "base"), e = array::of(expert, "expert");
  array result;
  {
    const nb::gil_scoped_release unlocked;
    session s(threads);
    result = task_vector(b, e, s.c());
  }
  return result.object();
}

nb::object with_task_vector_of(nb::handle base, nb::handle vector, double alpha, unsigned threads) {
  const array b = array::of(base, "base"), t = array::of(vector, "vector");
  array result;
  {
    const nb::gil_scoped_release unlocked;
    session s(threads);
    result = with_task_vector(b, t, alpha, s.c());
  }
  return result.object();
}

void subtract_base_in(nb::handle base, nb::handle expert, unsigned threads) {
  const array b = array::of(base, "base");
  array e = array::of(expert, "expert");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  subtract_base(b, e, s.c());
}

void add_task_vector_to(nb::handle parameter, nb::handle vector, double alpha, unsigned threads) {
  array p = array::of(parameter, "parameter");
  const array t = array::of(vector, "vector");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  add_task_vector(p, t, alpha, s.c());
}

double feature_shift_of(const std::string& kind, nb::handle rows, nb::handle vector,
                        unsigned threads) {
  const features x = features_of(rows, "features");
  const array t = array::of(vector, "vector");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  return feature_shift(kind_of(kind), x.view, t, s.c());
}

nb::object from_eigen(const Eigen::MatrixXd& m) {
  array result = array::empty(family::numpy, scalar_type::f64, {m.rows(), m.cols()});
  context<host>().assign(strided_view<const double>{m.data(), m.rows(), m.cols(), 1, m.rows()},
                         result.writable_view());
  return result.object();
}

nb::object conflict_matrix_of(const std::string& kind, nb::handle rows, nb::handle vectors,
                              unsigned threads) {
  const auto x = all_features_of(rows);
  const auto t = arrays_of(vectors, "task vector");
  Eigen::MatrixXd shifts;
  {
    const nb::gil_scoped_release unlocked;
    session s(threads);
    shifts = conflict_matrix(kind_of(kind), views_of(x), t, s.c());
  }
  return from_eigen(shifts);
}

nb::dict removal_basis_of(index_t k, nb::handle vectors, nb::handle rows,
                          const std::string& settings, unsigned threads) {
  const auto t = arrays_of(vectors, "task vector");
  const auto x = all_features_of(rows);
  const projection_options options = cat_options_of(settings).linear;
  std::optional<removal_basis_result<array>> found;
  {
    const nb::gil_scoped_release unlocked;
    session s(threads);
    found.emplace(removal_basis(k, t, views_of(x), options, s.c()));
  }
  nb::dict result;
  result["basis"] = found->basis.object();
  result["eigenvalues"] = found->eigenvalues;
  result["spectrum"] = found->spectrum;
  result["magnitude"] = found->magnitude;
  result["residual"] = found->residual;
  result["positive"] = found->positive;
  result["products"] = found->products;
  result["solver"] = harness::name_of(found->solver);
  return result;
}

void project_out_of(nb::handle basis, nb::handle vector, unsigned threads) {
  const array b = array::of(basis, "basis");
  array t = array::of(vector, "vector");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  project_out(b, t, s.c());
}

std::vector<index_t> scale_mask_of(index_t k, nb::handle vectors, nb::handle rows,
                                   const std::string& settings, unsigned threads) {
  const auto t = arrays_of(vectors, "task vector");
  const auto x = all_features_of(rows);
  const auto options = cat_options_of(settings).scale;
  const nb::gil_scoped_release unlocked;
  session s(threads);
  return scale_mask(k, t, views_of(x), options, s.c());
}

std::vector<index_t> shift_mask_of(index_t k, nb::handle vectors, const std::string& settings,
                                   unsigned threads) {
  const auto t = arrays_of(vectors, "task vector");
  const auto options = cat_options_of(settings).shift;
  const nb::gil_scoped_release unlocked;
  session s(threads);
  return shift_mask(k, t, options, s.c());
}

void mask_out_of(const std::vector<index_t>& mask, nb::handle vector) {
  array t = array::of(vector, "vector");
  mask_out(std::span<const index_t>(mask), t);
}

double spectral_norm_of(nb::handle weight, unsigned threads) {
  const array w = array::of(weight, "weight");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  return spectral_norm(w, s.c());
}

double lipschitz_bound_of(double beta, const std::vector<double>& gammas,
                          const std::vector<double>& shifts) {
  return lipschitz_bound(beta, gammas, shifts);
}

}  // namespace

void bind_steps(nb::module_& m) {
  m.def("task_vector", &task_vector_of);
  m.def("with_task_vector", &with_task_vector_of);
  m.def("subtract_base", &subtract_base_in);
  m.def("add_task_vector", &add_task_vector_to);
  m.def("feature_shift", &feature_shift_of);
  m.def("conflict_matrix", &conflict_matrix_of);
  m.def("removal_basis", &removal_basis_of);
  m.def("project_out", &project_out_of);
  m.def("scale_mask", &scale_mask_of);
  m.def("shift_mask", &shift_mask_of);
  m.def("mask_out", &mask_out_of);
  m.def("spectral_norm", &spectral_norm_of);
  m.def("lipschitz_bound", &lipschitz_bound_of);
}

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include "features.hpp"

#include <catmerge/features/layer_kind.hpp>

namespace catmerge::python {

features features_of(nb::handle object, const std::string& what) {
  const auto found = [&](statistics_view<host> view) {
    return features{view, {nb::borrow(object).release().ptr(), [](void* p) {
                             const nb::gil_scoped_acquire lock;
                             Py_DECREF(static_cast<PyObject*>(p));
                           }}};
  };
  if (nb::isinstance<feature_statistics<>>(object))
    return found(nb::cast<const feature_statistics<>&>(object).view());
  if (nb::isinstance<moment_statistics<>>(object))
    return found(nb::cast<const moment_statistics<>&>(object).view());
  if (nb::isinstance<given_statistics>(object))
    return found(nb::cast<const given_statistics&>(object).view());
  auto rows = std::make_shared<array>(array::of(object, what));
  if (rows->rank() != 2)
    throw error(what + ": expected rows, n x d_in, found an array of " +
                std::to_string(rows->rank()) + " axes");
  const host_const_view view = rows->view();
  return {{statistics_form::rows, view, static_cast<double>(view.rows)}, std::move(rows)};
}

std::vector<features> all_features_of(nb::handle list) {
  std::vector<features> all;
  for (nb::handle one : list)
    all.push_back(features_of(one, "features " + std::to_string(all.size())));
  return all;
}

std::vector<statistics_view<host>> views_of(const std::vector<features>& all) {
  std::vector<statistics_view<host>> views;
  for (const auto& one : all) views.push_back(one.view);
  return views;
}

std::vector<array> arrays_of(nb::handle list, const std::string& what) {
  std::vector<array> all;
  for (nb::handle one : list)
    all.push_back(array::of(one, what + " " + std::to_string(all.size())));
  return all;
}

layer_kind kind_of(const std::string& word) {
  for (const auto kind :
       {layer_kind::linear, layer_kind::scale, layer_kind::shift, layer_kind::other})
    if (word == catmerge::name_of(kind)) return kind;
  throw error("kind: expected linear, scale, shift or other, found '" + word + "'");
}

statistics_form form_of(const std::string& word) {
  for (const auto form : {statistics_form::rows, statistics_form::factor, statistics_form::gram,
                          statistics_form::second_moment})
    if (word == name_of(form)) return form;
  throw error("form: expected rows, factor, gram or second_moment, found '" + word + "'");
}

const char* name_of(statistics_form form) {
  switch (form) {
    case statistics_form::rows: return "rows";
    case statistics_form::factor: return "factor";
    case statistics_form::gram: return "gram";
    case statistics_form::second_moment: break;
  }
  return "second_moment";
}

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "features.hpp"
#include "session.hpp"

namespace catmerge::python {

namespace {

/// A copy of what an accumulator holds, as a NumPy array.
nb::object copied(const host_const_view& data, bool is_vector) {
  std::vector<index_t> shape{data.rows};
  if (!is_vector) shape.push_back(data.columns);
  array copy = array::empty(family::numpy, data.type, std::move(shape));
  context<host>().assign(data, copy.writable_view());
  return copy.object();
}

template <class Accumulator>
void update(Accumulator& self, nb::handle rows, unsigned threads) {
  const array x = array::of(rows, "rows");
  if (x.rank() != 2)
    throw error("rows: expected n x d_in, found an array of " + std::to_string(x.rank()) + " axes");
  const nb::gil_scoped_release unlocked;
  session s(threads);
  self.update(x, s.c());
}

template <class Accumulator>
void bind_accumulator(nb::module_& m, const char* name, const char* doc) {
  nb::class_<Accumulator>(m, name, doc)
      .def(nb::init<>(), "An accumulator that has seen no rows.")
      .def("update", &update<Accumulator>, nb::arg("rows"), nb::arg("threads") = 1,
           "Add a batch of rows, n x d_in.\n\nRaises Error if d_in differs from that of earlier "
           "batches; the accumulator is then\nunchanged. Not to be called by two threads at once.")
      .def(
          "combine",
          [](Accumulator& self, const Accumulator& other) {
            const nb::gil_scoped_release unlocked;
            self.combine(other);
          },
          nb::arg("other"), "Add the rows of another accumulator, after the own ones.")
      .def_prop_ro(
          "count", [](const Accumulator& a) { return a.count(); }, "The number of rows seen.")
      .def_prop_ro(
          "rows", [](const Accumulator& a) { return a.count() == 0 ? 0.0 : a.view().rows; },
          "The number of rows seen, as in `statistics_view`.")
      .def_prop_ro(
          "form", [](const Accumulator& a) { return std::string(name_of(a.view().form)); },
          "The form of `data`. Raises Error if no rows were seen.")
      .def_prop_ro(
          "data",
          [](const Accumulator& a) {
            const auto v = a.view();
            return copied(v.data, v.form == statistics_form::second_moment);
          },
          "A copy of the statistics as a NumPy array. Raises Error if no rows were seen.")
      .def("__len__", [](const Accumulator& a) { return a.count(); });
}

}  // namespace

void bind_statistics(nb::module_& m) {
  bind_accumulator<feature_statistics<>>(
      m, "feature_statistics",
      "The rows that enter a layer, gathered batch by batch.\n\nUp to d_in rows are kept as they "
      "are (form 'rows'), more as their Gram matrix X^T X in\nfloat64 (form 'gram', d_in x d_in). "
      "Both are exact for every method.");
  bind_accumulator<moment_statistics<>>(
      m, "moment_statistics",
      "E[x_j^2] of each coordinate of the rows that enter a scale (for a normalisation, of "
      "the\n*normalised* input), gathered batch by batch, in float64 (form 'second_moment').");
  nb::class_<given_statistics>(
      m, "statistics_view",
      "Statistics of one layer's inputs on one task, in any form, without a copy.\n\nParameters\n"
      "----------\nform : str\n    'rows' (X, n x d_in), 'factor' (R with R^T R = X^T X), 'gram' "
      "(X^T X, d_in x d_in) or\n    'second_moment' (E[x_j^2], d entries: enough for a scale).\n"
      "data : array\n    In that form.\nrows : float\n    n, the number of rows seen; by default "
      "those of `data`.")
      .def(
          "__init__",
          [](given_statistics* self, const std::string& form, nb::handle data, double rows) {
            new (self) given_statistics{form_of(form), array::of(data, "data"), rows};
            const auto view = self->data.view();  // (throws for other ranks)
            const bool vector = self->form == statistics_form::second_moment;
            if (rows < 0 && self->form != statistics_form::rows)
              throw error("statistics_view: the number of rows is needed for the form '" + form +
                          "'");
            if ((self->data.rank() == 1) != vector)
              throw error("statistics_view: the form '" + form + "' has " +
                          (vector ? "one axis" : "two axes"));
            if (rows < 0) self->rows = static_cast<double>(view.rows);
          },
          nb::arg("form"), nb::arg("data"), nb::arg("rows") = -1.0)
      .def_prop_ro("form", [](const given_statistics& s) { return std::string(name_of(s.form)); })
      .def_prop_ro("data", [](const given_statistics& s) { return s.data.object(); })
      .def_prop_ro("rows", [](const given_statistics& s) { return s.rows; });
}

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>

#include <catmerge/error.hpp>
#include <harness/report/report_files.hpp>
#include <harness/system/large_blocks.hpp>
#include <memory_resource>

#include "bindings.hpp"

NB_MODULE(_core, m) {
  // The library's matrices, as in the program. Never destroyed: other modules may hold its memory.
  std::pmr::set_default_resource(new catmerge::harness::large_blocks);
  m.doc() = "The compiled part of catmerge.";
  nanobind::exception<catmerge::error>(m, "Error", PyExc_ValueError);
  m.attr("version") = catmerge::harness::version_text;
  catmerge::python::bind_statistics(m);
  catmerge::python::bind_steps(m);
  catmerge::python::bind_catalogue(m);
  catmerge::python::bind_words(m);
  catmerge::python::bind_parameter(m);
  catmerge::python::bind_network(m);
  catmerge::python::bind_report(m);
  catmerge::python::bind_files(m);
  catmerge::python::bind_program(m);
  catmerge::python::bind_writing(m);
  catmerge::python::bind_kinds(m);
}

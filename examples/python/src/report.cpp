// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <harness/report/page/merge_page.hpp>

#include "bindings.hpp"

namespace catmerge::python {

namespace {

/// The page of a report, both as text.
std::string page_of(const std::string& report) {
  return harness::merge_page(harness::json::parse(report));
}

}  // namespace

void bind_report(nanobind::module_& m) {
  m.def("page_of", &page_of);
}

}  // namespace catmerge::python

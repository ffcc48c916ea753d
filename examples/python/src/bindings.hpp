// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>

/// The parts of the module catmerge._core, a file each. The functions are called by the package's
/// Python files, which document them.
namespace catmerge::python {

void bind_statistics(nanobind::module_& m);  ///< accumulators of a layer's inputs
void bind_steps(nanobind::module_& m);       ///< task vectors, features, the steps of CAT
void bind_catalogue(nanobind::module_& m);   ///< the methods, transforms and settings there are
void bind_words(nanobind::module_& m);       ///< the options of a merge
void bind_parameter(nanobind::module_& m);   ///< one parameter by any method
void bind_network(nanobind::module_& m);     ///< networks as mappings of names to arrays
void bind_report(nanobind::module_& m);      ///< pages of reports
void bind_files(nanobind::module_& m);       ///< checkpoints and statistics on the disk
void bind_program(nanobind::module_& m);     ///< the program and its command `merge`
void bind_writing(nanobind::module_& m);     ///< files of arrays
void bind_kinds(nanobind::module_& m);       ///< the roles of parameters by their names

}  // namespace catmerge::python

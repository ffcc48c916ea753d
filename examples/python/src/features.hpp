// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/layer_kind.hpp>
#include <catmerge/features/statistics.hpp>
#include <string>
#include <variant>
#include <vector>

#include "array.hpp"

namespace catmerge::python {

/// Statistics of a layer's inputs that were made elsewhere: a Gram matrix, say.
struct given_statistics {
  statistics_form form = statistics_form::rows;
  array data;
  double rows = 0;

  statistics_view<host> view() const { return {form, data.view(), rows}; }
};

/// The statistics of a layer's inputs on one task, and the owner of their memory.
struct features {
  statistics_view<host> view;
  std::shared_ptr<void> owner;
};

/// From rows (any array), a feature_statistics, a moment_statistics or a statistics_view of Python.
/// Throws catmerge::error for anything else. Needs the interpreter's lock.
features features_of(nb::handle object, const std::string& what);

/// The same of each task.
std::vector<features> all_features_of(nb::handle list);
std::vector<statistics_view<host>> views_of(const std::vector<features>& all);

/// The arrays of a sequence, "WHAT 0", "WHAT 1", ... in errors. Needs the interpreter's lock.
std::vector<array> arrays_of(nb::handle list, const std::string& what);

/// "linear", "scale", "shift" or "other". Throws catmerge::error for another word.
layer_kind kind_of(const std::string& word);

/// "rows", "factor", "gram" or "second_moment", and back.
statistics_form form_of(const std::string& word);
const char* name_of(statistics_form form);

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <harness/methods/catalogue.hpp>

#include "bindings.hpp"

namespace catmerge::python {

namespace nb = nanobind;

namespace {

using harness::settings;

nb::list described_settings(const std::vector<settings::known>& all) {
  nb::list list;
  for (const auto& s : all) {
    nb::dict one;
    one["name"] = s.key;
    one["default"] = s.value;
    one["help"] = s.help;
    switch (s.type) {
      case settings::form::number: one["type"] = "number"; break;
      case settings::form::count: one["type"] = "count"; break;
      case settings::form::word: one["type"] = "word"; break;
      case settings::form::flag: one["type"] = "flag"; break;
      case settings::form::text: one["type"] = "text"; break;
    }
    one["words"] = s.words;
    list.append(one);
  }
  return list;
}

/// An entry of the catalogue, as it is with the default settings.
template <class Entry, class Make>
nb::dict described_entry(const Entry& entry, const Make& make) {
  settings nothing(entry.name, "");
  const auto made = make(nothing);
  nb::dict one;
  one["name"] = entry.name;
  one["label"] = entry.label;
  one["summary"] = entry.summary;
  one["paper"] = entry.source.text;
  one["arxiv"] = entry.source.arxiv;
  one["needs_features"] =
      made.needs_statistics(layer_kind::linear) || made.needs_statistics(layer_kind::scale);
  one["needs_importance"] = made.needs_importance();
  one["looks_at_whole_model"] = made.scan_wanted();
  one["settings"] = described_settings(nothing.documented());
  return one;
}

nb::list methods() {
  nb::list list;
  for (const auto& entry : harness::all_methods())
    list.append(described_entry(entry, [&](settings& s) { return entry.make(s, {}); }));
  return list;
}

nb::list transforms() {
  nb::list list;
  for (const auto& entry : harness::all_transforms())
    list.append(described_entry(entry, [&](settings& s) { return entry.make(s, {}); }));
  return list;
}

nb::list merged_transforms() {
  nb::list list;
  for (const auto& entry : harness::all_merged_transforms())
    list.append(described_entry(entry, [&](settings& s) { return entry.make(s); }));
  return list;
}

/// The names of a method's settings.
std::vector<std::string> settings_of(const std::string& method) {
  settings given = harness::settings_in(method);
  harness::method_entry_of(method).make(given, {});
  std::vector<std::string> names;
  for (const auto& s : given.documented()) names.push_back(s.key);
  return names;
}

}  // namespace

void bind_catalogue(nb::module_& m) {
  m.def("methods", &methods);
  m.def("transforms", &transforms);
  m.def("merged_transforms", &merged_transforms);
  m.def("settings_of", &settings_of);
  m.def("with_settings", &harness::with_settings);
}

}  // namespace catmerge::python

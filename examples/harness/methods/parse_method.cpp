// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/error.hpp>
#include <harness/methods/catalogue.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

template <class Entry>
const Entry& entry_of(const std::string& text, const std::vector<Entry>& list, const char* what) {
  const std::string name = name_in_spec(text);
  std::vector<std::string> names;
  for (const auto& entry : list) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
  }
  throw error(std::string("there is no ") + what + " '" + name + "': expected " + listed(names));
}

auto made(const std::string& text, const auto& entry, const auto&... defaults) {
  settings s = settings_in(text);
  auto m = entry.make(s, defaults...);
  s.require_all_known();
  return m;
}

/// The values of a setting in the method's experiments.
const std::vector<std::string>& values_to_try(const method_entry& m, const std::string& key) {
  std::vector<std::string> keys;
  for (const auto& trial : m.trials)
    for (const auto& [known, values] : trial.grid) {
      if (known == key && values.size() > 1) return values;
      if (values.size() > 1) keys.push_back(known);
    }
  throw error(m.name + ": outputs cannot choose '" + key + "': " +
              (!keys.empty()                ? "expected " + listed(keys)
               : m.unit == alpha_unit::none ? "they can choose no setting of it"
                                            : "they can choose no setting of it but alpha"));
}

}  // namespace

const method_entry& method_entry_of(const std::string& text) {
  return entry_of(text, all_methods(), "method");
}

const transform_entry& transform_entry_of(const std::string& text) {
  return entry_of(text, all_transforms(), "transform");
}

const merged_transform_entry& merged_transform_entry_of(const std::string& text) {
  return entry_of(text, all_merged_transforms(), "transform of what was merged");
}

any_method parse_method(const std::string& text, const cat_options& defaults) {
  return made(text, method_entry_of(text), defaults);
}

any_transform parse_transform(const std::string& text, const cat_options& defaults) {
  return made(text, transform_entry_of(text), defaults);
}

any_merged_transform parse_merged_transform(const std::string& text) {
  return made(text, merged_transform_entry_of(text));
}

std::string name_in_spec(const std::string& text) {
  return text.substr(0, text.find(':'));
}

settings settings_in(const std::string& text) {
  const std::string name = name_in_spec(text);
  if (text.size() == name.size() + 1) throw error("expected settings behind '" + text + "'");
  std::string given = text.size() > name.size() ? text.substr(name.size() + 1) : "";
  if (name == "cat" && (given == "auto" || given.starts_with("auto,"))) given = "preset=" + given;
  return {name, given};
}

std::vector<std::string> texts_at(const std::string& name, const setting_grid& grid) {
  std::vector<std::string> texts = {name};
  for (const auto& [key, values] : grid) {
    std::vector<std::string> longer;
    for (const auto& text : texts)
      for (const auto& value : values) longer.push_back(with_settings(text, key + "=" + value));
    texts = std::move(longer);
  }
  return texts;
}

std::vector<std::string> texts_to_try(const std::string& text) {
  setting_grid grid;
  const settings given = settings_in(text);
  for (const auto& [key, value] : given.given()) {
    if (value != "auto" || key == "preset")
      grid.push_back({key, {value}});
    else if (key != "alpha")
      grid.push_back({key, values_to_try(method_entry_of(text), key)});
  }
  return texts_at(name_in_spec(text), grid);
}

std::string with_settings(const std::string& text, const std::string& more) {
  settings all = settings_in(text);
  all.set(settings(name_in_spec(text), more));
  const std::string settings_text = all.text();
  return name_in_spec(text) + (settings_text.empty() ? "" : ":" + settings_text);
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <functional>
#include <harness/methods/any_method.hpp>
#include <harness/methods/settings.hpp>
#include <string>
#include <utility>
#include <vector>

/// Methods by name: "ties", "ties:density=0.1,merge=sum".
namespace catmerge::harness {

/// A method or transform of the library as the program offers it.
template <class Any>
struct offered {
  std::string name;
  std::string summary;  ///< with its source
  /// Made with what `s` gives. Options of CAT begin with `defaults`.
  std::function<Any(settings& s, const cat_options& defaults)> make;
};

/// All of them, in the order in which they are listed.
const std::vector<offered<any_method>>& offered_methods();
const std::vector<offered<any_transform>>& offered_transforms();

/// "NAME" or "NAME:KEY=VALUE,...". Throws catmerge::error, listing what there is, for a name that
/// is unknown, and for settings as `settings` does.
any_method parse_method(const std::string& text, const cat_options& defaults = {});
any_transform parse_transform(const std::string& text, const cat_options& defaults = {});

/// The name in such a text.
std::string name_in_spec(const std::string& text);

/// Such a text with more settings, "KEY=VALUE,..."; a key that is there already takes the later
/// value.
std::string with_settings(const std::string& text, const std::string& more);

}  // namespace catmerge::harness

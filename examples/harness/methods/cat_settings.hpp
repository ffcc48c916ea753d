// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <catmerge/features/layer_kind.hpp>
#include <harness/methods/settings.hpp>
#include <string>
#include <utility>
#include <vector>

/// The settings of CAT's trims. read_cat declares each of them once, for the options of `merge`
/// (--lambda), the settings of the method and the transform (cat:lambda=1), the settings of some
/// parameters (--set '@scale:lambda=1'), and reports.
namespace catmerge::harness {

/// The library's presets by their names, the default first.
const std::vector<std::pair<std::string, cat_options>>& cat_presets();

/// The options of a preset. Throws catmerge::error for another name.
cat_options cat_preset(const std::string& name);

/// Changes `o` by the settings. Throws as `settings` does.
void read_cat(settings& s, cat_options& o);

/// All settings, with their values in `o`.
std::vector<settings::known> cat_settings(cat_options o = {});

/// The settings as a parameter of this kind takes them: `lambda` is `scale-lambda` for a scale,
/// `rank` is `scale-rank` or `shift-rank`.
settings cat_settings_for(layer_kind kind, const settings& s);

}  // namespace catmerge::harness

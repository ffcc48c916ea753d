// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <functional>
#include <harness/methods/any_method.hpp>
#include <harness/methods/automatic_options.hpp>
#include <harness/methods/importance_kind.hpp>
#include <harness/methods/settings.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// The merging methods: one entry each, in catalogue.cpp. `merge`, `methods`, `experiment`, pages
/// and the README's table read it.
namespace catmerge::harness {

/// The paper of a method.
struct publication {
  std::string text{};   ///< "Yadav et al., NeurIPS 2023"
  std::string arxiv{};  ///< "2306.01708"
};

/// The unit of a method's alpha; an experiment multiplies its grid of alphas by it.
enum class alpha_unit {
  none,     ///< no alpha
  sum,      ///< a factor of the sum of task vectors: times 1
  mean,     ///< a factor of their mean: times the number of tasks
  spectrum  ///< a factor of another spectrum: times 3
};

/// Keys, each with its values: every combination of values is one setting.
using setting_grid = std::vector<std::pair<std::string, std::vector<std::string>>>;

/// A row of an experiment: one setting of the grid is chosen.
struct trial {
  setting_grid grid{};  ///< without alpha
  std::string label{};  ///< of the row; empty: the method's
};

/// A method of the library as the program offers it.
struct method_entry {
  std::string name{};     ///< --method NAME
  std::string label{};    ///< in tables and on pages
  std::string summary{};  ///< a line
  publication source{};
  std::string improved_by{};  ///< inputs that it can do without
  std::string calls{};        ///< the library's call for one parameter, as Markdown
  importance_kind importance = importance_kind::none;  ///< the kind that its settings may need
  alpha_unit unit = alpha_unit::none;
  std::vector<trial> trials{};        ///< rows of an experiment; none: it omits the method
  std::vector<std::string> before{};  ///< transforms that an experiment tries before it
  std::vector<std::string> after{};   ///< transforms that an experiment tries after it
  /// The method with the given settings. Options of CAT begin with `defaults`.
  std::function<any_method(settings& s, const cat_options& defaults)> make{};
};

/// A transform of task vectors, which comes before a method.
struct transform_entry {
  std::string name{};     ///< --before NAME
  std::string label{};    ///< in tables
  std::string summary{};  ///< a line
  publication source{};
  std::string calls{};                                 ///< the library's type, as Markdown
  importance_kind importance = importance_kind::none;  ///< the kind that its settings may need
  std::function<any_transform(settings& s, const cat_options& defaults)> make{};
};

/// A transform of what was merged, which comes after a method.
struct merged_transform_entry {
  std::string name{};     ///< --after NAME
  std::string label{};    ///< in tables
  std::string summary{};  ///< a line
  publication source{};
  std::string calls{};                                 ///< the library's type, as Markdown
  importance_kind importance = importance_kind::none;  ///< the kind that its settings may need
  std::optional<alpha_unit> unit{};  ///< of what it returns, in an experiment; none: the method's
  std::function<any_merged_transform(settings& s)> make{};
};

/// --method auto where there are features and no samples: LOT around its prior (lot_around.hpp).
any_method automatic_from_features(const automatic_options& options);

/// All entries, in the order of lists.
const std::vector<method_entry>& all_methods();
const std::vector<transform_entry>& all_transforms();
const std::vector<merged_transform_entry>& all_merged_transforms();

/// The entry of "NAME" or "NAME:KEY=VALUE,...". Throws catmerge::error, listing all names, for an
/// unknown one.
const method_entry& method_entry_of(const std::string& text);
const transform_entry& transform_entry_of(const std::string& text);
const merged_transform_entry& merged_transform_entry_of(const std::string& text);

/// The method or transform of such a text. Throws catmerge::error for an unknown name and for
/// invalid settings (`settings`, and the library's `validate`).
any_method parse_method(const std::string& text, const cat_options& defaults = {});
any_transform parse_transform(const std::string& text, const cat_options& defaults = {});
any_merged_transform parse_merged_transform(const std::string& text);

/// The name in such a text.
std::string name_in_spec(const std::string& text);

/// The settings in such a text. "cat:auto" is "cat:preset=auto". Throws catmerge::error for another
/// form.
settings settings_in(const std::string& text);

/// The texts of a method at every point of a grid; the last key varies fastest.
std::vector<std::string> texts_at(const std::string& name, const setting_grid& grid);

/// The texts that stand for one in which settings are "auto": "ties:density=auto" is one text per
/// value of an experiment's grid. The text itself if no setting is. alpha=auto is left out. Throws
/// catmerge::error for settings without a grid, listing those with one.
std::vector<std::string> texts_to_try(const std::string& text);

/// Such a text with more settings, "KEY=VALUE,..."; they replace values of the same keys.
std::string with_settings(const std::string& text, const std::string& more);

}  // namespace catmerge::harness

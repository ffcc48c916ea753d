// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <catmerge/merge/compose.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/merge/selectors.hpp>
#include <harness/methods/any_method.hpp>
#include <harness/methods/cat_settings.hpp>
#include <harness/system/option_error.hpp>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// --set SELECTOR:KEY=VALUE,...: other settings for some parameters.
namespace catmerge::harness {

/// Settings of the parameters that a selector means: alpha, and those of CAT's trims.
class override_rule {
 public:
  /// Throws option_error for what is not of the form `PATTERN:KEY=VALUE,...` or `@KIND:...`, and
  /// for settings that there are not.
  explicit override_rule(const std::string& text)
      : text_(text),
        selector_(blaming(
            "--set", [&] { return parameter_selector("--set", text.substr(0, colon_in(text))); })),
        given_(blaming(
            "--set", [&] { return settings("'" + text + "'", text.substr(colon_in(text) + 1)); })) {
    constexpr double any = std::numeric_limits<double>::max();
    blaming("--set", [&] {
      settings all = given_;
      cat_options unused;
      all.number("alpha", alpha_, "", -any, any);
      read_cat(all, unused);
      all.require_all_known();
    });
  }

  const std::string& text() const { return text_; }
  bool has_alpha() const { return alpha_.has_value(); }
  bool has_trim() const { return given_.given().size() > (has_alpha() ? 1 : 0); }

  /// Whether a parameter of the set is meant.
  bool applies(const checkpoint_set& set, const std::string& parameter, layer_kind kind) const {
    return selector_.applies(set, parameter, kind);
  }

  /// Throws if it applies to nothing that is merged.
  void require_use(const checkpoint_set& set) const {
    selector_.require_use(set, "--set '" + text_ + "'");
  }

  /// A method gets those of the settings that it has. Those of CAT are the parameter's kind's.
  void apply(layer_kind kind, any_method& m) const {
    if (double* const alpha = m.find_alpha(); alpha != nullptr && alpha_) *alpha = *alpha_;
    if (cat_options* const trims = m.find_trims(); trims != nullptr) {
      settings own = cat_settings_for(kind, given_);
      read_cat(own, *trims);
    }
  }

 private:
  static std::size_t colon_in(const std::string& text) {
    const auto colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == text.size())
      throw option_error("--set", "expected PATTERN:KEY=VALUE, found '" + text + "'");
    return colon;
  }

  std::string text_;
  parameter_selector selector_;
  settings given_;
  std::optional<double> alpha_;
};

/// The method with other settings where rules apply; of rules for the same setting the last one
/// counts. `set` knows which tensor a piece of one belongs to, and outlives what is returned.
inline auto with_overrides(any_method method, std::vector<override_rule> rules,
                           const checkpoint_set& set) {
  return adjusted{std::move(method),
                  [rules = std::move(rules), &set](const host_problem& p, any_method& m) {
                    for (const auto& rule : rules)
                      if (rule.applies(set, p.names.parameter, p.kind)) rule.apply(p.kind, m);
                  }};
}

}  // namespace catmerge::harness

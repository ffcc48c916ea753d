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

/// Settings of the parameters that a selector matches: alpha, and the settings of CAT's trims.
class override_rule {
 public:
  /// Throws option_error for a form other than `PATTERN:KEY=VALUE,...` and `@KIND:...`, and for an
  /// unknown setting.
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

  /// True if the selector matches a parameter of the set.
  bool applies(const network_names& set, const std::string& parameter, layer_kind kind) const {
    return selector_.applies(set, parameter, kind);
  }

  /// Throws if the rule applies to no merged parameter.
  void require_use(const network_names& set) const {
    selector_.require_use(set, "--set '" + text_ + "'");
  }

  /// Changes the settings that the method has. CAT's are read for the parameter's kind.
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

/// The method, with other settings for the parameters that rules apply to; of rules for the same
/// setting the last one counts. `set` knows the tensor of a piece; it must outlive the result.
inline auto with_overrides(any_method method, std::vector<override_rule> rules,
                           const network_names& set) {
  return adjusted{std::move(method),
                  [rules = std::move(rules), &set](const host_problem& p, any_method& m) {
                    for (const auto& rule : rules)
                      if (rule.applies(set, p.names.parameter, p.kind)) rule.apply(p.kind, m);
                  }};
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <catmerge/merge/compose.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/merge/selectors.hpp>
#include <harness/methods/any_method.hpp>
#include <harness/system/option_error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// --set SELECTOR:KEY=VALUE,...: other settings for some parameters.
namespace catmerge::harness {

/// Settings of the parameters that a selector means.
class override_rule {
 public:
  /// Throws option_error for what is not of the form
  /// `PATTERN:alpha=A,lambda=L,rank=C` or `@KIND:...`.
  explicit override_rule(const std::string& text) : text_(text) {
    const auto colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0) refuse("expected PATTERN:KEY=VALUE");
    try {
      selector_.emplace("--set", text.substr(0, colon));
    } catch (const error& problem) {
      refuse(problem.what());
    }
    std::string_view rest = std::string_view(text_).substr(colon + 1);
    for (bool more = true; more;) {
      const auto comma = rest.find(',');
      more = comma != std::string_view::npos;
      read(rest.substr(0, comma));
      if (more) rest.remove_prefix(comma + 1);
    }
  }

  const std::string& text() const { return text_; }
  bool has_trim() const { return lambda_.has_value() || rank_.has_value(); }

  /// Whether a parameter of the set is meant.
  bool applies(const checkpoint_set& set, const std::string& parameter, layer_kind kind) const {
    return selector_->applies(set, parameter, kind);
  }

  /// Throws if it applies to nothing that is merged.
  void require_use(const checkpoint_set& set) const {
    selector_->require_use(set, "--set '" + text_ + "'");
  }

  bool has_alpha() const { return alpha_.has_value(); }

  /// A rank or lambda is that of the parameter's kind. What a method has none of, it does not get.
  void apply(layer_kind kind, any_method& m) const {
    if (double* const alpha = m.find_alpha(); alpha != nullptr && alpha_) *alpha = *alpha_;
    if (cat_options* const trims = m.find_trims(); trims != nullptr) apply(kind, *trims);
  }

 private:
  void apply(layer_kind kind, cat_options& o) const {
    if (lambda_ && kind == layer_kind::linear) o.linear.lambda = *lambda_;
    if (lambda_ && kind == layer_kind::scale) o.scale.lambda = *lambda_;
    if (!rank_) return;
    if (kind == layer_kind::linear) {
      const auto* before = std::get_if<largest>(&o.linear.directions);
      o.linear.directions = largest{*rank_, before == nullptr || before->positive_only};
    }
    if (kind == layer_kind::scale) o.scale.coordinates.count = *rank_;
    if (kind == layer_kind::shift) o.shift.count = *rank_;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw option_error("--set", why + ", found '" + text_ + "'");
  }

  void read(std::string_view setting) {
    const auto equals = setting.find('=');
    const std::string_view key = setting.substr(0, equals);
    const std::string value(equals == std::string_view::npos ? "" : setting.substr(equals + 1));
    if (key == "rank") {
      index_t count = -1;
      const auto* const end = value.data() + value.size();
      if (std::from_chars(value.data(), end, count).ptr != end || count < 0)
        refuse("expected a whole number of at least 0 for rank");
      rank_ = count;
      return;
    }
    if (key != "alpha" && key != "lambda") refuse("expected alpha=, lambda= or rank=");
    char* end = nullptr;
    const double number = std::strtod(value.c_str(), &end);
    if (value.empty() || *end != '\0' || !std::isfinite(number) || (key == "lambda" && number < 0))
      refuse("expected a number" + std::string(key == "lambda" ? " of at least 0" : "") + " for " +
             std::string(key));
    (key == "alpha" ? alpha_ : lambda_) = number;
  }

  std::string text_;
  std::optional<parameter_selector> selector_;
  std::optional<double> alpha_, lambda_;
  std::optional<index_t> rank_;
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

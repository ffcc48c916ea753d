// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/catalogue.hpp>
#include <harness/system/option_error.hpp>
#include <map>
#include <optional>
#include <string>

/// The parameters that an option applies to.
namespace catmerge::harness {

/// Parameters by a pattern of names, or by their kind: "@linear", "@scale", "@shift", "@other".
class parameter_selector {
 public:
  /// Throws catmerge::error for another @, and, naming `option`, for a malformed pattern.
  parameter_selector(const std::string& option, const std::string& text) {
    if (text.empty() || text.front() != '@') {
      names_ = name_patterns(option, {text});
      return;
    }
    static const std::map<std::string, layer_kind> kinds = {{"@linear", layer_kind::linear},
                                                            {"@scale", layer_kind::scale},
                                                            {"@shift", layer_kind::shift},
                                                            {"@other", layer_kind::other}};
    const auto found = kinds.find(text);
    if (found == kinds.end()) throw error("expected @linear, @scale, @shift or @other");
    kind_ = found->second;
  }

  /// True for a parameter, or a piece of one, of the kind or with a matching name of its tensor.
  bool applies(const network_names& set, const std::string& parameter, layer_kind kind) const {
    if (kind_) return *kind_ == kind;
    const auto names = set.names_of(set.tensor_of(parameter));
    return std::any_of(names.begin(), names.end(),
                       [this](const auto& name) { return names_.match(name); });
  }

  /// Throws, naming `what`, if no merged parameter matches.
  void require_use(const network_names& set, const std::string& what) const {
    for (const auto& group : set.groups())
      for (const auto& p : group)
        if (applies(set, p.name, p.kind)) return;
    throw error(what + " applies to no parameter that is merged");
  }

 private:
  name_patterns names_;
  std::optional<layer_kind> kind_;
};

/// --method-for SELECTOR=METHOD: another method for some parameters.
class method_rule {
 public:
  /// Throws option_error for another form, catmerge::error for an unknown selector or method.
  /// defaults: options of CAT.
  method_rule(const std::string& text, const cat_options& defaults)
      : text_(text),
        selector_("--method-for", text.substr(0, equals_in(text))),
        method_(parse_method(text.substr(equals_in(text) + 1), defaults)) {}

  const parameter_selector& selector() const { return selector_; }
  const any_method& method() const { return method_; }

  /// Throws if the rule applies to no merged parameter.
  void require_use(const network_names& set) const {
    selector_.require_use(set, "--method-for '" + text_ + "'");
  }

 private:
  /// The position of the first '=': a selector holds none, a method's settings may.
  static std::size_t equals_in(const std::string& text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw option_error("--method-for", "expected PATTERN=METHOD, found '" + text + "'");
    return equals;
  }

  std::string text_;
  parameter_selector selector_;
  any_method method_;
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/then.hpp>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace catmerge {

/// Settings of ESM's factors of layers.
struct esm_layers_options {
  double exponent = 2;  ///< as the authors have it; 0 leaves all layers as they are
};

/// Throws catmerge::error for an exponent that is negative or not finite.
inline void validate(const esm_layers_options& options) {
  if (!(options.exponent >= 0 && std::isfinite(options.exponent)))
    throw error("ESM's factors: exponent must be a finite number that is not negative");
}

/// The factors of layers of ESM (Li, Qi, Geng, "Model Merging in the Essential Subspace", CVPR
/// 2026, arXiv 2602.20208), a merged_transform (then.hpp). Layers that changed much grow, the
/// others shrink, among linears of the same role:
///
///     tau_l <- (||tau_l||_F / m)^2 tau_l,   m the mean of ||tau_l||_F over the layers
///
/// As in the authors' code (github.com/kiddo127/ESM, `inter_layer_scaling`), which does it to the
/// six linears of each encoder layer and leaves all else alone. A role whose vectors are zero stays
/// zero. ESM's other parts, a basis of each task's shifts and factors of columns, are not in it.
///
/// It scans the merged vectors, so that the method merges twice.
struct esm_layers_transform {
  esm_layers_options options{};  ///< checked by validate in each scan
  /// The role of a tensor, the same for all layers; none outside of the layers.
  /// model::role_in_layer (model/layer_depths.hpp) reads it from the name.
  std::function<std::optional<std::string>(const std::string&)> role{};

  /// False: the factor depends on the merged vectors alone.
  static constexpr bool reads_vectors() { return false; }

  bool scan_wanted() const { return !scanned_; }  ///< true before the scan

  /// Adds ||tau||^2 of a linear. Throws catmerge::error without roles.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> merged) {
    validate(options);
    if (!role) throw error("ESM's factors: the roles of layers are not known");
    if (p.kind != layer_kind::linear || !role(p.names.tensor())) return;
    energies_[p.names.tensor()] += c.squared_norm(merged.front());
  }

  /// Finds the factors.
  void end_scan() {
    struct sum {
      double norms = 0, layers = 0;
    };
    std::map<std::string, sum> roles;
    for (const auto& [name, energy] : energies_) {
      sum& s = roles[*role(name)];
      s.norms += std::sqrt(energy);
      s.layers += 1;
    }
    for (const auto& [name, energy] : energies_) {
      const sum& s = roles[*role(name)];
      if (s.norms > 0)
        factors_[name] = std::pow(std::sqrt(energy) * s.layers / s.norms, options.exponent);
    }
    scanned_ = true;
  }

  /// Scales tau.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context>,
             const typename Context::view& tau, layer_report&) const {
    const auto factor = factors_.find(p.names.tensor());
    if (p.kind == layer_kind::linear && factor != factors_.end()) c.scale(factor->second, tau);
  }

  /// @cond state of the scan (public, since this is an aggregate)
  std::map<std::string, double> energies_{};  // by tensor
  std::map<std::string, double> factors_{};
  bool scanned_ = false;
  /// @endcond
};

}  // namespace catmerge

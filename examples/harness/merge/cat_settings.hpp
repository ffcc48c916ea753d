// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace catmerge::harness {

/// The settings of CAT's trims that a request gives. What it does not give is the preset's.
struct cat_settings {
  std::optional<std::string> preset;              ///< "paper", the default, or "port"
  std::optional<index_t> rank;                    ///< directions of linears: so many, or
  std::optional<double> basis_energy;             ///< as many as hold this share, or
  bool basis_positive = false;                    ///< all of positive eigenvalue
  std::optional<double> basis_tolerance;          ///< of these directions
  std::optional<double> lambda, scale_lambda;     ///< of linears, of scales
  std::optional<index_t> scale_rank, shift_rank;  ///< coordinates of scales, of shifts
  std::optional<rescale> size;                    ///< of trimmed linears and scales
  std::optional<trim_order> order;
  std::optional<row_weight> rows;

  bool is_port() const { return preset == "port"; }

  /// The options that are given, by their names on the command line.
  std::vector<std::string> given() const {
    std::vector<std::string> names;
    const auto add = [&](bool is_given, const char* name) {
      if (is_given) names.emplace_back(name);
    };
    add(preset.has_value(), "--preset");
    add(rank.has_value(), "--rank");
    add(basis_energy.has_value(), "--basis-energy");
    add(basis_positive, "--basis-positive");
    add(basis_tolerance.has_value(), "--basis-tolerance");
    add(lambda.has_value(), "--lambda");
    add(scale_rank.has_value(), "--scale-rank");
    add(scale_lambda.has_value(), "--scale-lambda");
    add(shift_rank.has_value(), "--shift-rank");
    add(size.has_value(), "--rescale");
    add(order.has_value(), "--order");
    add(rows.has_value(), "--rows");
    return names;
  }

  /// The library's options. Throws catmerge::error as its validate does.
  cat_options options() const {
    cat_options o = is_port() ? cat_options::port() : cat_options::paper();
    if (basis_energy)
      o.linear.directions = energy_share{
          *basis_energy, is_port() ? energy_share::bound::below : energy_share::bound::reach};
    else if (basis_positive)
      o.linear.directions = all_positive{};
    else if (rank)
      std::get<largest>(o.linear.directions).count = *rank;
    o.linear.eigen.tolerance = basis_tolerance.value_or(o.linear.eigen.tolerance);
    o.linear.lambda = lambda.value_or(o.linear.lambda);
    o.scale.lambda = scale_lambda.value_or(o.scale.lambda);
    o.scale.coordinates.count = scale_rank.value_or(o.scale.coordinates.count);
    o.shift.count = shift_rank.value_or(o.shift.count);
    o.linear.rescaling = size.value_or(o.linear.rescaling);
    o.scale.rescaling = size.value_or(o.scale.rescaling);
    o.linear.order = order.value_or(o.linear.order);
    o.linear.weighting = rows.value_or(o.linear.weighting);
    validate(o);
    return o;
  }
};

}  // namespace catmerge::harness

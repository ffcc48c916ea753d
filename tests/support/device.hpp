// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host/host.hpp>

/// A domain whose handles are the host's: nothing but the domain tells its tensors apart.
struct device {};

template <>
class catmerge::context<device> : public context<host> {
 public:
  using domain = device;
};

template <int Rank>
struct device_tensor {};

template <int Rank>
struct catmerge::tensor_traits<device_tensor<Rank>> {
  using domain = device;
  static constexpr int rank = Rank;
  static host_const_view view(const device_tensor<Rank>&);
  static host_view view(device_tensor<Rank>&);
  static device_tensor<Rank> make(const device_tensor<Rank>&, index_t, index_t);
};

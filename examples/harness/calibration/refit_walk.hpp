// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/methods/refit.hpp>
#include <harness/calibration/merged_vectors.hpp>
#include <harness/networks/network.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// Refits the linear layers of a merged network one after the other, in forward order (refit.hpp of
/// the library): the inputs Z_k of each layer are those of the network whose earlier layers are
/// refitted already. Each task's samples run through its expert and through the merged network side
/// by side, block by block, so that the rows of one block are in memory at a time.
///
/// Refitted are the matrices of the set whose inputs the network records; all others, and vectors,
/// keep tau. samples: per task, before the first block. tau: the prior on entry, for every tensor
/// of the set; the result on return. Returns the names of refitted tensors, in forward order.
/// Throws catmerge::error, naming the tensor, for values that are not finite.
std::vector<std::string> refit_network(const network& net, const std::vector<activations>& samples,
                                       const refit_options& options, merged_vectors& tau,
                                       const executor& threads);

}  // namespace catmerge::harness

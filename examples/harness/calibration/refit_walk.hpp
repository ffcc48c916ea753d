// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/methods/refit.hpp>
#include <harness/calibration/merged_vectors.hpp>
#include <harness/networks/network.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A refit of a network.
struct refit_plan {
  double gain = 1;  ///< the refit stays near this times the prior
  refit_options options;
  index_t folds = 0, fold = 0;  ///< it leaves out sample i of each task if i mod folds is fold

  /// False for samples that are left out. Without folds there are none.
  bool fits(index_t sample) const { return folds == 0 || sample % folds != fold; }
};

/// Refits the linear layers of a merged network one after the other, in forward order (refit.hpp of
/// the library): the inputs Z_k of each layer are those of the network whose earlier layers are
/// refitted already. Each task's samples run through its expert and through the merged network side
/// by side, block by block, so that the rows of one block are in memory at a time.
///
/// Refitted are the matrices of the set whose inputs the network records, but for experts of
/// mixtures, which get other rows in another network; all others, and vectors, keep tau. samples:
/// per task, before the first block. tau: the prior on entry, for every tensor of the set; the
/// result on return. Returns the names of refitted tensors, in forward order. Throws
/// catmerge::error, naming the tensor, for values that are not finite.
std::vector<std::string> refit_network(const network& net, const std::vector<activations>& samples,
                                       const refit_plan& plan, merged_vectors& tau,
                                       const executor& threads);

/// The outputs for all samples, also those that are left out, of the networks that several refits
/// of one prior give: a row per sample, task by task. The refits go on side by side, so that the
/// experts run once and one block of each refitted network exists at a time.
std::vector<matrix> outputs_of_refits(const network& net, const std::vector<activations>& samples,
                                      const std::vector<refit_plan>& plans,
                                      const merged_vectors& prior, const executor& threads);

}  // namespace catmerge::harness

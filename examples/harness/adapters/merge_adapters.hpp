// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/merge/request.hpp>
#include <harness/merge/run_merge.hpp>

namespace catmerge::harness {

/// Merges LoRA adapters of one base into one adapter, in their factors, weight by weight, and
/// writes it as PEFT does: run_merge for a request with `adapter`. Errors as of run_merge.
merge_result merge_adapters(const merge_request& request);

/// Throws option_error for an option that only merges of adapters have.
void require_network_options(const merge_request& request);

}  // namespace catmerge::harness

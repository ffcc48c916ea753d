// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// All merging methods beside CAT, and the methods of task vectors in factors. catmerge.hpp leaves
/// them out, so that CAT alone compiles faster.
#include <catmerge/factors/cat.hpp>
#include <catmerge/factors/conflict.hpp>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/factors/factored_vector.hpp>
#include <catmerge/factors/lot.hpp>
#include <catmerge/factors/sum.hpp>
#include <catmerge/methods/breadcrumbs.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dare.hpp>
#include <catmerge/methods/dc_merge.hpp>
#include <catmerge/methods/esm_layers.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lines.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/lot_around.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/refit.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/svc.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/methods/wudi.hpp>

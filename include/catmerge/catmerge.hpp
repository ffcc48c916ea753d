// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The whole library but the adapters of other tensors (adapt/eigen_tensor.hpp, adapt/xtensor.hpp
/// ...), files (io/) and names (model/), which are included one by one. Needs Eigen alone.
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/adapt/span.hpp>
#include <catmerge/cat.hpp>
#include <catmerge/compose.hpp>
#include <catmerge/conflict.hpp>
#include <catmerge/eigen_basis.hpp>
#include <catmerge/features.hpp>
#include <catmerge/mask.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dare.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/methods/wudi.hpp>
#include <catmerge/order_statistics.hpp>
#include <catmerge/projection.hpp>
#include <catmerge/stream.hpp>
#include <catmerge/task_vector.hpp>
#include <catmerge/version.hpp>

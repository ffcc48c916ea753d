// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The whole library except the methods beside CAT (methods.hpp), the adapters of other tensors
/// (adapt/eigen_tensor.hpp, adapt/xtensor.hpp, ...), files (io/) and names (model/): include those
/// one by one. Needs Eigen alone.
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/adapt/span.hpp>
#include <catmerge/cat/mask.hpp>
#include <catmerge/cat/projection.hpp>
#include <catmerge/cat/trim.hpp>
#include <catmerge/features/conflict.hpp>
#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/drift.hpp>
#include <catmerge/merge/mean_of.hpp>
#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/merge/stream.hpp>
#include <catmerge/merge/task_vector.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/numeric/eigen_search.hpp>
#include <catmerge/numeric/order_search.hpp>
#include <catmerge/numeric/spectral_norm.hpp>
#include <catmerge/version.hpp>

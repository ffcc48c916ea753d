// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The whole library but the methods beside CAT (methods.hpp), the adapters of other tensors
/// (adapt/eigen_tensor.hpp, adapt/xtensor.hpp, ...), files (io/) and names (model/), which are
/// included one by one. Needs Eigen alone.
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/adapt/span.hpp>
#include <catmerge/cat.hpp>
#include <catmerge/compose.hpp>
#include <catmerge/conflict.hpp>
#include <catmerge/eigen_basis.hpp>
#include <catmerge/features.hpp>
#include <catmerge/mask.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/order_statistics.hpp>
#include <catmerge/projection.hpp>
#include <catmerge/stream.hpp>
#include <catmerge/task_vector.hpp>
#include <catmerge/version.hpp>

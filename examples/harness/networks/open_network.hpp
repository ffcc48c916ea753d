// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <harness/networks/network.hpp>
#include <memory>
#include <string>

namespace catmerge::harness {

/// The network that a checkpoint (a base or any expert: they share names) holds the parameters of,
/// by the configuration named or, if that is empty, the one in its folder: config.json, or
/// OpenCLIP's open_clip_config.json. Which family it is of is said there, which names its
/// parameters have is found out from the checkpoint. Throws catmerge::error naming the file and the
/// key or the tensor.
///
/// Compiled once, in open_network.cpp: the layers are slow to compile.
std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config);

}  // namespace catmerge::harness

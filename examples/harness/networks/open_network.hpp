// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <harness/networks/network.hpp>
#include <memory>
#include <string>

namespace catmerge::harness {

/// The network of a checkpoint (a base or any expert: they share names). The configuration is the
/// file named or, if that is empty, config.json or OpenCLIP's open_clip_config.json in the
/// checkpoint's folder. The configuration decides the family, the checkpoint the names of
/// parameters. Throws catmerge::error naming the file and the key or the tensor.
///
/// open_network.cpp compiles it once: the layers are slow to compile.
std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config);

}  // namespace catmerge::harness

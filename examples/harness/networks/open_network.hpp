// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <functional>
#include <harness/networks/network.hpp>
#include <memory>
#include <string>

namespace catmerge::harness {

/// Decides, of two tensors of a checkpoint that its configuration ties, whether each is used for
/// itself.
using untied_test = std::function<bool(const std::string& one, const std::string& other)>;

/// True for different values, as in the transformers library. `weights` must outlive it. warn, if
/// given, gets a sentence on each such pair.
untied_test untied_in(const io::checkpoint& weights,
                      std::function<void(const std::string& sentence)> warn = {});

/// The network of a checkpoint (a base or any expert: they share names). The configuration is the
/// file named or, if that is empty, config.json or OpenCLIP's open_clip_config.json in the
/// checkpoint's folder. The configuration decides the family, the checkpoint the names of
/// parameters, and `untied`, by default untied_in(weights), what is tied. Throws catmerge::error
/// naming the file and the key or the tensor.
///
/// open_network.cpp compiles it once: the layers are slow to compile.
std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config,
                                      const untied_test& untied);
std::unique_ptr<network> open_network(const io::checkpoint& weights, const std::string& config);

}  // namespace catmerge::harness

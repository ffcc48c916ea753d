// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <network/matrix.hpp>
#include <network/recorder.hpp>
#include <network/weights.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The state of a forward pass between two blocks, for all samples of one batch.
struct activations {
  index_t samples = 0;
  index_t tokens = 0;          ///< per sample
  std::size_t next_block = 0;  ///< the block that runs next
  /// (samples * tokens) x width, in the order sample, token. Before the first block whatever the
  /// family's inputs are (CLIP: one row of pixels per sample), after the last the output, a row per
  /// sample.
  matrix hidden;
};

/// A file of inputs, opened and checked: read in batches, never all at once.
class sample_reader {
 public:
  sample_reader() = default;
  sample_reader(const sample_reader&) = delete;
  sample_reader& operator=(const sample_reader&) = delete;
  virtual ~sample_reader() = default;

  virtual index_t size() const = 0;

  /// Samples first ... first + count - 1, ready for block 0.
  virtual activations load(index_t first, index_t count) const = 0;
};

/// A network as a list of resumable blocks: whoever runs it may stop after any block, keep the
/// activations, and go on later, with the same weights or with others. It holds names and shapes,
/// no parameter values, so one object serves a base and all its experts.
///
///   activations state = samples->load(0, samples->size());
///   for (std::size_t b = 0; b < net.block_count(); ++b) net.run(b, weights, state, &recorder);
///   // state.hidden: one row per sample
class network {
 public:
  network() = default;
  network(const network&) = delete;
  network& operator=(const network&) = delete;
  virtual ~network() = default;

  virtual std::size_t block_count() const = 0;

  /// The parameters that block uses. Every parameter belongs to exactly one block.
  virtual std::vector<parameter> parameters(std::size_t block) const = 0;

  /// Columns of the output.
  virtual index_t output_width() const = 0;

  /// Opens a file of this network's inputs and checks that they fit.
  virtual std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const = 0;

  /// Advances `state` by one block. Only this block's parameters are asked for, and let go at the
  /// end. If `record` is given it receives the block's inputs (recorder.hpp), for all samples of
  /// the state together: cut the samples into several states to bound the memory.
  /// Precondition: state.next_block == block (std::logic_error otherwise).
  void run(std::size_t block, const weight_source& weights, activations& state,
           recorder* record = nullptr, const executor& threads = {}) const {
    if (block != state.next_block || block >= block_count()) {
      throw std::logic_error("network::run: block " + std::to_string(block) + " after block " +
                             std::to_string(state.next_block) + " was due");
    }
    tape recorded(record);
    advance(block, weights, state, recorded, threads);
    ++state.next_block;
    recorded.deliver();
  }

 protected:
  virtual void advance(std::size_t block, const weight_source& weights, activations& state,
                       tape& recorded, const executor& threads) const = 0;
};

/// Throws unless `weights` has every parameter of the network in the right shape; reads no values.
inline void check_weights(const network& net, const weight_source& weights) {
  for (std::size_t block = 0; block < net.block_count(); ++block) {
    for (const parameter& p : net.parameters(block)) weights.check(p);
  }
}

/// Runs the blocks that are left and returns the output, a row per sample.
inline matrix run_all(const network& net, const weight_source& weights, activations state,
                      recorder* record = nullptr, const executor& threads = {}) {
  while (state.next_block < net.block_count()) {
    net.run(state.next_block, weights, state, record, threads);
  }
  return std::move(state.hidden);
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/activations.hpp>
#include <harness/networks/recorder.hpp>
#include <harness/networks/weights.hpp>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A token's rows in the embedding tables of words, positions and types.
struct token {
  index_t word, position, type;
};

/// A text of each sample, one after the other.
struct sample_texts {
  std::vector<token> tokens;
  std::vector<index_t> offsets = {0};  ///< the first token of each sample's, and the end
};

/// A layer's keys and values of a memory: a row of each for every row of it.
struct keys_and_values {
  matrix keys, values;
};
/// Those of all layers, by the name of the weight that makes a layer's keys.
using memory_keys = std::map<std::string, std::shared_ptr<const keys_and_values>>;

/// The state of a forward pass between two blocks, for all samples of one batch. Samples may have
/// different lengths; there is no padding.
struct activations {
  /// The rows of sample i are offsets[i] ... offsets[i + 1] - 1: samples + 1 numbers.
  std::vector<index_t> offsets = {0};
  std::size_t next_block = 0;  ///< the block that runs next
  /// A row per token, in the order sample, token. Before the first block of an image network it
  /// holds a row of pixels per sample; after the last block the output, a row per sample, or per
  /// token in `asked`.
  matrix hidden;
  std::vector<token> text;  ///< before the first block of a text network: one per row
  /// The rows whose next token a language model shall predict, ascending; none for other networks.
  std::vector<index_t> asked{};

  /// Of networks of several parts (blip): the texts of the parts that are yet to run, in order.
  /// `asked` are rows of the last one.
  std::vector<sample_texts> waiting{};
  /// The rows that a part left for the cross attention of the next, and the first of each sample's,
  /// and the end.
  matrix memory{};
  std::vector<index_t> memory_offsets = {0};
  /// The sample of `memory` of each sample, where they differ: several texts share an image.
  std::vector<index_t> memory_of{};
  /// If given, layers keep the keys and values of the memory, for runs with other texts.
  std::shared_ptr<memory_keys> keys{};

  index_t samples() const { return std::ssize(offsets) - 1; }
};

/// The first row of each sample in a network's output, and the end: before the last block.
inline std::vector<index_t> output_offsets(const activations& state) {
  const auto& rows = state.waiting.empty() ? state.offsets : state.waiting.back().offsets;
  std::vector<index_t> offsets(rows.size());
  std::size_t count = 0;
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    if (state.asked.empty()) {
      ++count;
    } else {
      while (count < state.asked.size() && state.asked[count] < rows[i]) ++count;
    }
    offsets[i] = static_cast<index_t>(count);
  }
  return offsets;
}

/// A token that a language model shall predict.
struct asked_token {
  index_t row;         ///< of the token before it, among the sample's
  std::int64_t token;  ///< the right answer
};

/// An open, checked file of inputs. It is read in batches, never all at once.
class sample_reader {
 public:
  sample_reader() = default;
  sample_reader(const sample_reader&) = delete;
  sample_reader& operator=(const sample_reader&) = delete;
  virtual ~sample_reader() = default;

  virtual index_t size() const = 0;

  /// Samples first ... first + count - 1, ready for block 0.
  virtual activations load(index_t first, index_t count) const = 0;

  /// True if the texts that the samples ask for are not there: the network has to write them
  /// (writing/written_samples.hpp). load() gives their beginnings.
  virtual bool lacks_texts() const { return false; }

  /// The tokens of a sample that a language model shall predict, in the order of its output's rows.
  /// Empty for other networks.
  virtual std::vector<asked_token> asked(index_t /*sample*/) const { return {}; }
};

/// The kind of a network's output, which decides which heads fit it (head.hpp).
enum class output_kind : unsigned char {
  embedding,    ///< of an image, compared by direction alone (CLIP)
  pooled,       ///< the first token's row after the pooler (BERT)
  first_token,  ///< the first token's row (RoBERTa)
  next_token,   ///< a logit for each token, in a row per token that is asked for: no head
  match         ///< logits of no match and match of an image and a text, and a cosine: no head
};

/// How a network writes texts.
struct text_writing {
  /// The block that reads the last of the waiting texts. A state before it may run anew with other
  /// texts: all else that the later blocks read is in `memory`.
  std::size_t first_block;
  index_t begin, end, pad;  ///< tokens before and after a text, and of padding
  index_t longest;          ///< a text may have no more tokens
};

/// A network as a list of resumable blocks: a caller may stop after any block, keep the
/// activations, and go on later, with the same weights or others. It holds names and shapes, no
/// parameter values, so one object serves a base and all its experts.
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

  /// The parameters of a block. Every parameter belongs to exactly one block.
  virtual std::vector<parameter> parameters(std::size_t block) const = 0;

  /// Columns of the output.
  virtual index_t output_width() const = 0;

  virtual output_kind output() const = 0;

  /// True for a linear weight whose inputs reach the output by the first row of each sample alone:
  /// in the last layer of a transformer whose output is the first token's row, all weights but
  /// those of keys and values.
  virtual bool first_rows_suffice(const std::string& /*weight*/) const { return false; }

  /// False for a weight whose inputs are some rows only, which depend on the weights: an expert of
  /// a mixture.
  virtual bool gets_every_row(const std::string& /*weight*/) const { return true; }

  /// None if the network does not write texts.
  virtual std::optional<text_writing> writing() const { return std::nullopt; }

  /// The rows of each sample among those that enter a weight: the first of each, and the end.
  /// `state`: after the weight's block.
  virtual std::vector<index_t> rows_of_samples(const std::string& /*weight*/,
                                               const activations& state) const {
    return state.offsets;
  }

  /// Opens a file of this network's inputs and checks that they fit.
  virtual std::unique_ptr<sample_reader> open_samples(const std::filesystem::path& file) const = 0;

  /// Advances `state` by one block. Only this block's parameters are loaded, and released at the
  /// end. If `record` is given, it receives the block's inputs (recorder.hpp) for all samples of
  /// the state together: cut the samples into several states to bound the memory. Precondition:
  /// state.next_block == block (std::logic_error otherwise).
  void run(std::size_t block, const weight_source& weights, activations& state,
           recorder* record = nullptr, const executor& threads = {}) const {
    if (block != state.next_block || block >= block_count()) {
      throw std::logic_error("network::run: block " + std::to_string(block) + " after block " +
                             std::to_string(state.next_block) + " was due");
    }
    tape recorded(record);
    advance(block, weights, state, recorded, threads);
    for (const parameter& p : parameters(block)) weights.release(p);
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

/// Runs the remaining blocks and returns the output: a row per sample, or as output_offsets says.
inline matrix run_all(const network& net, const weight_source& weights, activations state,
                      recorder* record = nullptr, const executor& threads = {}) {
  while (state.next_block < net.block_count()) {
    net.run(state.next_block, weights, state, record, threads);
  }
  return std::move(state.hidden);
}

}  // namespace catmerge::harness

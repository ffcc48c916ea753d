// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/activations.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Receives the inputs of a network's parameters during a run: the features X_k.
class recorder {
 public:
  recorder() = default;
  recorder(const recorder&) = delete;
  recorder& operator=(const recorder&) = delete;
  virtual ~recorder() = default;

  /// False if the common input of these parameters is not needed; it then takes no memory.
  virtual bool wants(const std::vector<std::string>& /*names*/) { return true; }

  /// True once nothing is needed beyond the last input that was wanted: the run of a block may end
  /// there, and leaves the network's state of no use.
  virtual bool stops() const { return false; }

  /// False if the network's output is of no use: a language model then makes no logits, which take
  /// much memory.
  virtual bool wants_output() const { return true; }

  /// Called at the end of each block, on the caller's thread, once per group of parameters with a
  /// common input, in the order of the inputs. `names` are those of the checkpoint. rows: n x d_in,
  /// a row per token in the order sample, token; for the scale of a norm the normalised input, n x
  /// d. Padding is no token and has no row.
  virtual void record(const std::vector<std::string>& names, matrix rows) = 0;
};

/// The inputs recorded in one block. Chunks of samples are computed in any order and on any
/// threads; each writes its own rows, and deliver() passes everything on in order. So recording
/// does not change the results of a run.
class tape {
 public:
  explicit tape(recorder* to) : to_(to) {}

  /// Allocates rows x columns, before the chunks start. Returns the entry's number.
  std::size_t expect(std::vector<std::string> names, index_t rows, index_t columns) {
    const bool wanted = to_ != nullptr && to_->wants(names);
    entries_.push_back({std::move(names), wanted, wanted ? matrix(rows, columns) : matrix()});
    const std::size_t number = entries_.size() - 1;
    if (wanted && to_->stops()) last_ = number;
    return number;
  }

  /// False if nobody needs the network's output.
  bool wants_output() const { return to_ == nullptr || to_->wants_output(); }

  /// True if a run may end once entry `number` is put.
  bool stops_at(std::size_t number) const { return last_ == number; }

  /// True if a run may end once the entries so far are put.
  bool stops() const { return last_.has_value(); }

  /// Copies the rows of a chunk into entry `number`, from row `first` on. Different chunks may call
  /// this at the same time.
  void put(std::size_t number, index_t first, const matrix_view& chunk) {
    entry& to = entries_[number];
    if (to.wanted) rows_of(to.rows, first, chunk.rows()) = chunk;
  }

  /// Passes the entries to the recorder and clears them.
  void deliver() {
    for (entry& e : entries_) {
      if (e.wanted) to_->record(e.names, std::move(e.rows));
    }
    entries_.clear();
  }

 private:
  struct entry {
    std::vector<std::string> names;
    bool wanted;
    matrix rows;
  };
  recorder* to_;
  std::vector<entry> entries_;
  std::optional<std::size_t> last_;  ///< the last entry that the recorder needs, if it has said so
};

}  // namespace catmerge::harness

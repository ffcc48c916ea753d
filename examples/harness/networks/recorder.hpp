// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/activations.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Receives what enters the parameters of a network while it runs: the features X_k.
class recorder {
 public:
  recorder() = default;
  recorder(const recorder&) = delete;
  recorder& operator=(const recorder&) = delete;
  virtual ~recorder() = default;

  /// Whether to record the input that these parameters share; what nobody wants takes no memory.
  virtual bool wants(const std::vector<std::string>& /*names*/) { return true; }

  /// Called at the end of each block, on the caller's thread, once per group of parameters that
  /// share an input, in the order in which the inputs enter. `names` are the checkpoint's own.
  /// rows: n x d_in, a row per token in the order sample, token; for the scale of a normalisation
  /// the normalised input, n x d. Padding is no token and has no row.
  virtual void record(const std::vector<std::string>& names, matrix rows) = 0;
};

/// What one block has recorded so far. Chunks of samples are computed in any order and on any
/// threads; each puts its rows in their place, and deliver() hands everything on in order. So a run
/// that records computes exactly what a run that does not computes.
class tape {
 public:
  explicit tape(recorder* to) : to_(to) {}

  /// Makes room for rows x columns; before the chunks start. Returns the entry's number.
  std::size_t expect(std::vector<std::string> names, index_t rows, index_t columns) {
    const bool wanted = to_ != nullptr && to_->wants(names);
    entries_.push_back({std::move(names), wanted, wanted ? matrix(rows, columns) : matrix()});
    return entries_.size() - 1;
  }

  /// Copies the rows of a chunk into entry `number`, from row `first` on. Different chunks may do
  /// so at the same time.
  void put(std::size_t number, index_t first, const matrix_view& chunk) {
    entry& to = entries_[number];
    if (to.wanted) rows_of(to.rows, first, chunk.rows()) = chunk;
  }

  /// Hands the entries to the recorder and forgets them.
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
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/stream.hpp>
#include <harness/checkpoints/network_names.hpp>
#include <harness/system/progress.hpp>
#include <memory>
#include <string>

namespace catmerge::harness {

/// Observes merge_stream: shows the progress of scans of the whole model, and of the merge.
class merge_progress {
 public:
  merge_progress(verbosity how, const network_names& set) : state_(std::make_shared<state>(how)) {
    for (const auto& group : set.groups()) state_->total += std::ssize(group);
  }

  void scanned(const parameter_info&) const {
    if (state_->done == state_->total) {
      state_->done = 0;
      ++state_->pass;
    }
    state_->terminal.show("looking at the whole model, pass " + std::to_string(state_->pass),
                          ++state_->done, state_->total);
  }
  void operator()(const parameter_report&) const {
    if (!state_->merging) state_->done = 0;
    state_->merging = true;
    state_->terminal.show("merging parameters", ++state_->done, state_->total);
  }
  void clear() const { state_->terminal.clear(); }

 private:
  struct state {
    explicit state(verbosity how) : terminal(how) {}
    progress terminal;
    index_t total = 0, done = 0, pass = 1;
    bool merging = false;
  };
  std::shared_ptr<state> state_;
};

}  // namespace catmerge::harness

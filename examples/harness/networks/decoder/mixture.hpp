// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <harness/networks/attention.hpp>
#include <harness/networks/decoder/decoder_shape.hpp>
#include <harness/networks/decoder/projections.hpp>
#include <harness/networks/recorder.hpp>
#include <numeric>
#include <utility>
#include <vector>

/// Mixtures of experts: a router chooses some feed-forward layers for each token.
namespace catmerge::harness {

/// The rows that one expert gets.
struct routed_rows {
  std::vector<index_t> rows;   ///< ascending
  std::vector<float> weights;  ///< of its result for each
};

/// Distributes tokens over experts. probabilities: rows x experts. Among equal probabilities the
/// first expert is chosen.
inline std::vector<routed_rows> route(const matrix& probabilities, const feed_forward_shape& s) {
  std::vector<routed_rows> experts(static_cast<std::size_t>(s.experts));
  std::vector<index_t> order(experts.size());
  for (index_t row = 0; row < probabilities.rows(); ++row) {
    const auto p = probabilities.row(row);
    std::iota(order.begin(), order.end(), index_t{0});
    std::partial_sort(order.begin(), order.begin() + s.chosen, order.end(),
                      [&](index_t a, index_t b) { return p(a) != p(b) ? p(a) > p(b) : a < b; });
    float sum = 0;
    for (index_t i = 0; i < s.chosen; ++i) sum += p(order[static_cast<std::size_t>(i)]);
    for (index_t i = 0; i < s.chosen; ++i) {
      const index_t chosen = order[static_cast<std::size_t>(i)];
      auto& expert = experts[static_cast<std::size_t>(chosen)];
      expert.rows.push_back(row);
      expert.weights.push_back(s.renormalises ? p(chosen) / sum : p(chosen));
    }
  }
  return experts;
}

/// The sum of the chosen experts' results, weighted by the router's probabilities. x: all rows of
/// the batch. Recorded: x for the router; the inputs of each expert are the rows routed to it, none
/// for some perhaps. An empty matrix if the recorder stops at one of them.
inline matrix mixture_of_experts(const decoder_layer_names& n, const decoder_shape& s,
                                 const feed_forward_shape& shape, const weight_source& from,
                                 const matrix& x, tape& recorded, const executor& threads) {
  const auto router_in = recorded.expect({n.router.weight}, x.rows(), s.width);
  recorded.put(router_in, 0, view(x));
  if (recorded.stops()) return {};
  matrix probabilities = load_projection(from, n.router, shape.experts, s.width, s)(view(x));
  softmax_rows(probabilities);
  const auto routed = route(probabilities, shape);

  matrix sum = matrix::Zero(x.rows(), s.width);
  for (std::size_t e = 0; e < routed.size(); ++e) {
    const auto& rows = routed[e].rows;
    const auto count = std::ssize(rows);
    const auto in = recorded.expect(weights_of(n.experts[e].in), count, s.width);
    const auto out_in = recorded.expect({n.experts[e].out.weight}, count, shape.width);
    if (count == 0) {
      if (recorded.stops()) return {};
      continue;
    }
    const feed_forward expert(from, n.experts[e], s, shape.width);
    // Each row is a sample of its own: the chunks share the expert's rows evenly.
    for_chunks(equal_offsets(count, 1), threads, [&](const chunk& part) {
      matrix mine(part.rows(), s.width);
      for (index_t i = 0; i < part.rows(); ++i) {
        mine.row(i) = x.row(rows[static_cast<std::size_t>(part.row() + i)]);
      }
      recorded.put(in, part.row(), view(mine));
      if (recorded.stops_at(in)) return;
      const matrix inner = expert.inner(view(mine));
      recorded.put(out_in, part.row(), view(inner));
      if (recorded.stops_at(out_in)) return;
      const matrix result = expert.out(view(inner));
      for (index_t i = 0; i < part.rows(); ++i) {
        const auto at = static_cast<std::size_t>(part.row() + i);
        sum.row(rows[at]) += routed[e].weights[at] * result.row(i);
      }
    });
    if (recorded.stops()) return {};
  }
  return sum;
}

}  // namespace catmerge::harness

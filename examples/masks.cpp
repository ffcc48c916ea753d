// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// The scale and the shift of one LayerNorm, fine-tuned for two tasks. The program shows the
// coordinates that CAT removes from one task's vector to protect the other, and their scores.
#include <algorithm>
#include <catmerge/catmerge.hpp>
#include <cstdio>
#include <iostream>

int main() {
  using vector = Eigen::VectorXd;
  using matrix = Eigen::MatrixXd;
  const vector gamma = vector::Ones(4), beta = vector::Zero(4);
  const std::vector<vector> scale_experts = {vector{{1.5, 1.0, 1.4, 1.1}},
                                             vector{{1.0, 0.6, 1.3, 0.9}}};
  const std::vector<vector> shift_experts = {vector{{0.3, 0.0, -0.1, 0.0}},
                                             vector{{0.0, 0.2, 0.1, -0.4}}};
  // The *normalised* input of the scale, one row per token. Coordinate 0 is large in task 1 and
  // small in task 0, coordinate 1 the other way round.
  const std::vector<matrix> inputs = {
      matrix{{0.1, 1.6, -1.1, 0.3}, {-0.1, -1.4, 0.9, 1.0}, {0.2, 1.7, 0.8, -0.6}},
      matrix{{1.5, 0.2, 1.0, 0.6}, {-1.8, 0.1, 0.9, -0.4}, {1.4, -0.1, -1.2, 0.7}}};
  std::vector<vector> scales, shifts;  // the task vectors
  for (const vector& expert : scale_experts) scales.push_back(catmerge::task_vector(gamma, expert));
  for (const vector& expert : shift_experts) shifts.push_back(catmerge::task_vector(beta, expert));

  catmerge::cat_options options;  // the paper's, but for 2 coordinates of 4, not 4 of many
  options.scale.coordinates.count = options.shift.count = 2;
  bool holds = true;

  // Prints the masks that protect task k from task i. x_k and x_i are their inputs.
  const auto protect = [&](catmerge::index_t k, const matrix& x_k, const matrix& x_i,
                           const vector& scale, const vector& shift) {
    const auto scale_mask = catmerge::scale_mask(k, scales, inputs, options.scale);
    const auto shift_mask = catmerge::shift_mask(k, shifts, options.shift);
    const auto mark = [](const auto& mask, catmerge::index_t j) {
      return std::count(mask.begin(), mask.end(), j) > 0 ? "yes" : "-";
    };
    std::printf("To protect task %td, what goes from the other task's vectors:\n", k);
    std::printf("   j  scale T    harm    loss   score  goes | shift T  score  goes\n");
    for (catmerge::index_t j = 0; j < 4; ++j) {
      // harm: E[(x_k T)^2], the conflict in task k; loss: E[(x_i T)^2], the deviation of task i.
      const double harm = x_k.col(j).cwiseAbs2().mean() * scale[j] * scale[j];
      const double loss = x_i.col(j).cwiseAbs2().mean() * scale[j] * scale[j];
      const double score = harm - options.scale.lambda * loss;
      std::printf("  %2td  %7.2f  %.4f  %.4f  %6.3f  %-4s | %7.2f  %5.2f  %s\n", j, scale[j], harm,
                  loss, score, mark(scale_mask, j), shift[j], shift[j] * shift[j],
                  mark(shift_mask, j));
      holds = holds && (score > 0) == (*mark(scale_mask, j) == 'y');
    }
  };
  protect(0, inputs[0], inputs[1], scales[1], shifts[1]);
  protect(1, inputs[1], inputs[0], scales[0], shifts[0]);

  const auto scale = catmerge::cat_scale(gamma, scale_experts, inputs, options);
  const auto shift = catmerge::cat_shift(beta, shift_experts, options);
  const Eigen::IOFormat line(3, Eigen::DontAlignCols, "  ", "  ");
  std::cout << "Merged scale: " << scale.merged.transpose().format(line)
            << "\nMerged shift: " << shift.merged.transpose().format(line) << std::endl;
  for (const auto& [k, i] : {std::pair(0, 1), std::pair(1, 0)}) {
    const double before = scale.report.trim->conflict_before(k, i);
    const double after = scale.report.trim->conflict_after(k, i);
    std::printf("Scale of task %d on the features of task %d: conflict %.2f, trimmed %.2f\n", i, k,
                before, after);
    holds = holds && after < before;
  }
  return holds ? 0 : 1;
}

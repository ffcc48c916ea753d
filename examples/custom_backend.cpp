// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// One struct adapts a new tensor type to catmerge: tensor_traits.
#include <catmerge/catmerge.hpp>
#include <cstdio>
#include <random>

namespace lab {

/// A column-major matrix with a gap between its columns.
struct panel {
  std::vector<float> values;
  long height = 0, width = 0, pitch = 0;  // `pitch` values from one column to the next
  panel(long h, long w)
      : values(static_cast<std::size_t>(w * (h + 3))), height(h), width(w), pitch(h + 3) {}
  float& at(long i, long j) { return values[static_cast<std::size_t>(j * pitch + i)]; }
};

}  // namespace lab

template <>
struct catmerge::tensor_traits<lab::panel> {
  using domain = host;            // elements are read through pointers
  static constexpr int rank = 2;  // a matrix
  static strided_view<const float> view(const lab::panel& p) {
    return {p.values.data(), p.height, p.width, 1, p.pitch};
  }
  static strided_view<float> view(lab::panel& p) {
    return {p.values.data(), p.height, p.width, 1, p.pitch};
  }
  static lab::panel make(const lab::panel&, index_t rows, index_t columns) {
    return {rows, columns};
  }
};

int main() {
  std::mt19937 bits(1);
  const auto noise = [&](long rows, long columns, float size) {
    lab::panel p(rows, columns);
    for (long j = 0; j < columns; ++j)
      for (long i = 0; i < rows; ++i)
        p.at(i, j) = size * (static_cast<float>(bits()) * 0x1p-31F - 1);
    return p;
  };
  const lab::panel base = noise(6, 10, 1);  // d_out x d_in
  std::vector<lab::panel> experts, inputs;
  for (int k = 0; k < 3; ++k) {
    lab::panel expert = base;
    catmerge::add_task_vector(expert, noise(6, 10, 0.1F));
    experts.push_back(expert);
    inputs.push_back(noise(4, 10, 1));  // the rows that enter the layer, n x d_in
  }

  catmerge::cat_options options;
  options.linear.lambda = 1;
  auto [merged, report] = catmerge::cat_linear(base, experts, inputs, options);  // a lab::panel
  const auto before = catmerge::inter_task_conflict(report.trim->conflict_before);
  const auto after = catmerge::inter_task_conflict(report.trim->conflict_after);
  std::printf("the merged layer is a panel of %ld x %ld, pitch %ld\n", merged.height, merged.width,
              merged.pitch);
  std::printf("task   conflict   trimmed   directions removed from the others\n");
  bool holds = merged.height == 6 && merged.width == 10;
  for (const auto& p : report.trim->protections) {
    const auto k = static_cast<std::size_t>(p.task);
    std::printf("%4td   %8.3f   %7.3f   %zu\n", p.task, before[k], after[k], p.eigenvalues.size());
    holds = holds && after[k] < before[k];
  }
  return holds ? 0 : 1;
}

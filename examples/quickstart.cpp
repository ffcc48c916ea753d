#include <catmerge/catmerge.hpp>
#include <iostream>

int main() {
  using weights = Eigen::MatrixXf;  // d_out x d_in, as checkpoints store them
  const auto noise = [](int rows) -> weights { return weights::Random(rows, 16); };
  const weights base = noise(8);
  const std::vector<weights> experts = {base + 0.1F * noise(8), base + 0.1F * noise(8)};
  const std::vector<weights> inputs = {noise(5), noise(5)};  // rows entering the layer, n x d_in
  const auto [merged, report] = catmerge::cat_linear(base, experts, inputs);
  std::cout << merged << "\n\nconflict before:\n" << report.trim->conflict_before;
  std::cout << "\nand after:\n" << report.trim->conflict_after << '\n';
}

// One call of CAT on Eigen's matrices.
#include <catmerge/catmerge.hpp>

int main() {
  const Eigen::MatrixXf base = Eigen::MatrixXf::Random(8, 6);
  const std::vector<Eigen::MatrixXf> experts = {base, base}, features = {base, base};
  const auto result = catmerge::cat_linear(base, experts, features);
  return result.merged(0, 0) == base(0, 0) ? 0 : 1;
}

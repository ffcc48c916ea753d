#include <catmerge/catmerge.hpp>

// The two tasks change different columns of the weight, and no task's inputs reach a column that
// the other changes: there is no conflict to trim, and CAT's result is the plain sum.
int main() {
  using weights = Eigen::MatrixXf;
  const weights base = weights::Zero(3, 4);
  std::vector<weights> experts(2, base), inputs(2, weights::Zero(2, 4));
  experts[0].leftCols(2).setConstant(1.F);
  experts[1].rightCols(2).setConstant(2.F);
  inputs[0].leftCols(2).setIdentity();
  inputs[1].rightCols(2).setIdentity();
  auto options = catmerge::cat_options::paper();
  options.alpha = 0.5;
  const auto [merged, report] = catmerge::cat_linear(base, experts, inputs, options);
  weights expected(3, 4);
  expected << weights::Constant(3, 2, 0.5F), weights::Constant(3, 2, 1.F);
  return report.trim->conflict_before(0, 1) == 0 && (merged - expected).norm() < 1e-6F ? 0 : 1;
}

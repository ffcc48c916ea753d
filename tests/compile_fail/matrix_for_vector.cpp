// expect: catmerge: a scale or a shift is a vector of d entries
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/cat.hpp>

int main() {
#ifdef MUST_FAIL
  const Eigen::MatrixXf b = Eigen::MatrixXf::Zero(2, 2);
#else
  const Eigen::VectorXf b = Eigen::VectorXf::Zero(2);
#endif
  catmerge::cat_shift(b, std::vector{b});
  return 0;
}

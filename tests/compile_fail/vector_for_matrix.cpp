// expect: catmerge: a matrix is needed here and this type is a vector
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/cat.hpp>

int main() {
#ifdef MUST_FAIL
  const Eigen::VectorXf w = Eigen::VectorXf::Zero(2);
#else
  const Eigen::MatrixXf w = Eigen::MatrixXf::Zero(2, 2);
#endif
  const Eigen::MatrixXf x = Eigen::MatrixXf::Zero(2, 2);
  catmerge::cat_linear(w, std::vector{w}, std::vector{x});
  return 0;
}

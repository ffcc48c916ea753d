// expect: catmerge: this tensor is written to, so it must not be const
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/task_vector.hpp>

int main() {
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
#ifdef MUST_FAIL
  const Eigen::MatrixXf expert = base;
#else
  Eigen::MatrixXf expert = base;
#endif
  catmerge::subtract_base(base, expert);
  return 0;
}

// expect: catmerge: this tensor is written to, so it must not be const
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/task_vector.hpp>

int main() {
  float memory[4] = {};
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
#ifdef MUST_FAIL
  Eigen::Map<const Eigen::MatrixXf> expert(memory, 2, 2);
#else
  Eigen::Map<Eigen::MatrixXf> expert(memory, 2, 2);
#endif
  catmerge::subtract_base(base, expert);
  return 0;
}

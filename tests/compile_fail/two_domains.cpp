// expect: catmerge: the tensors of one call must live in one domain
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/task_vector.hpp>

#include "backends/fake_device.hpp"

int main() {
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
#ifdef MUST_FAIL
  const test::fake_tensor<2> expert(catmerge::scalar_type::f32, 2, 2);
#else
  const Eigen::MatrixXf expert = base;
#endif
  catmerge::task_vector(base, expert);
  return 0;
}

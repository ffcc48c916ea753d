// expect: catmerge: this argument is no tensor that catmerge knows
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/task_vector.hpp>

struct foreign {
  float data[4];
};

int main() {
#ifdef MUST_FAIL
  const foreign a{}, b{};
#else
  const Eigen::MatrixXf a(2, 2), b(2, 2);
#endif
  catmerge::task_vector(a, b);
  return 0;
}

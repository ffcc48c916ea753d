// expect: catmerge: tensor_traits<T>::make(like, rows, columns) is missing
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/task_vector.hpp>

struct readable {
  float data[4];
};
template <>
struct catmerge::tensor_traits<readable> {
  using domain = catmerge::host;
  static constexpr int rank = 2;
  static auto view(const readable& r) {
    return catmerge::strided_view<const float>{r.data, 2, 2, 2, 1};
  }
};

int main() {
  const readable expert{};
#ifdef MUST_FAIL
  const readable base{};
#else
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
#endif
  catmerge::task_vector(base, expert);
  return 0;
}

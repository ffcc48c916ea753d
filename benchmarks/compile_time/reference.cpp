// The reference of the library's compile time: Eigen's solver and a product.
#include <Eigen/Core>
#include <Eigen/Eigenvalues>

int main() {
  const Eigen::MatrixXd a = Eigen::MatrixXd::Random(50, 50), b = a.transpose();
  const Eigen::MatrixXd product = a * b;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(product);
  return solver.eigenvalues()(0) < -1 ? 1 : 0;
}

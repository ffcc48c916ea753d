#include <catmerge/features/conflict.hpp>
#include <catmerge/io/json.hpp>

int main() {
  const auto list = catmerge::io::parse_json("[1, 2]", "no file", "text");
  const auto conflict = catmerge::inter_task_conflict(Eigen::MatrixXd::Ones(2, 2));
  return list.size() == conflict.size() && conflict[1] == 1 ? 0 : 1;
}

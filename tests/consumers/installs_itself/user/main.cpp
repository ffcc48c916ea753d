#include <half_way.hpp>

int main() {
  const std::vector<float> base(6, 1.F), expert(6, 2.F);
  return half_way({base, 2, 3}, {expert, 2, 3}, "[1]") == 1.5F &&
                 half_way({base, 2, 3}, {expert, 2, 3}, "[]") == -1
             ? 0
             : 1;
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// catmerge inside another framework, `fw`, with memory, tensors and threads of its own. Networks
// are merged a group of parameters at a time, without a file or a copy of a weight.
#include <catmerge/catmerge.hpp>
#include <cstdio>
#include <future>
#include <map>
#include <random>

namespace fw {
std::size_t held = 0, peak = 0, made = 0;  // bytes, bytes, tensors
struct tensor {                            // a handle; the last one frees the memory
  long n, m;                               // rows, columns
  catmerge::scalar_type type;              // known at run time
  std::shared_ptr<void> memory;
};
tensor make(long rows, long columns, catmerge::scalar_type type) {
  const auto bytes = static_cast<std::size_t>(rows * columns) * catmerge::size_of(type);
  ++made, held += bytes, peak = std::max(peak, held);
  const auto give_back = [bytes](void* p) { held -= bytes, ::operator delete(p); };
  return {rows, columns, type, {::operator new(bytes), give_back}};
}
void parallel_for(long count, const std::function<void(long)>& task) {
  std::vector<std::future<void>> running;
  for (long i = 0; i < count; ++i) running.push_back(std::async(std::launch::async, task, i));
  for (auto& one : running) one.get();  // rethrows a task's exception
}
}  // namespace fw

template <>
struct catmerge::tensor_traits<fw::tensor> {
  using domain = host;
  static constexpr int rank = 2;
  static host_view view(const fw::tensor& t) { return {t.memory.get(), t.type, t.n, t.m, t.m, 1}; }
  static fw::tensor make(const fw::tensor& like, index_t rows, index_t columns) {
    return fw::make(rows, columns, compute_type(like.type));
  }
};

using info = catmerge::parameter_info;
struct networks {  // a base and three experts: loaded on demand, freed on release
  std::map<std::string, fw::tensor> loaded;
  std::mt19937 bits{1};  // random numbers stand in for weights and inputs
  const fw::tensor& load(const std::string& name, long rows) {
    fw::tensor& t = loaded[name];
    if (t.memory) return t;
    t = fw::make(rows, 64, catmerge::scalar_type::bf16);
    auto* const values = static_cast<catmerge::bfloat16*>(t.memory.get());
    for (long i = 0; i < rows * 64; ++i)
      values[i] = catmerge::bfloat16(static_cast<float>(bits()) * 0x1p-31F - 1);
    return t;
  }
  std::vector<std::string> tasks() const { return {"birds", "cars", "digits"}; }
  std::vector<catmerge::parameter_group> groups() const {
    const auto linear = catmerge::layer_kind::linear;
    return {{{"0.q", linear}, {"0.k", linear}}, {{"1.q", linear}, {"1.k", linear}}};
  }
  const fw::tensor& base(const info& p) { return load(p.name, 64); }
  const fw::tensor& expert(long k, const info& p) { return load(p.name + std::to_string(k), 64); }
  std::optional<catmerge::statistics_view<>> get(long k, const info& p) {
    const fw::tensor& x = load(p.name.substr(0, 2) + std::to_string(k), 5);  // of both, q and k
    return catmerge::statistics_of(x);
  }
  void release(const catmerge::parameter_group&) { loaded.clear(); }
  void put(const info&, const fw::tensor&) {}  // here a program would store or send it
};

int main() {
  networks all;
  catmerge::context<catmerge::host> c(fw::parallel_for);
  catmerge::merge_stream(catmerge::cat_method{}, all, all, all, c);
  // 2 groups: q and k of 4 networks and 3 inputs, bfloat16, and 2 results, float, one at a time.
  constexpr std::size_t tensors = 2 * 13, most = 8 * (64 * 64 * 2) + 3 * (5 * 64 * 2) + 64 * 64 * 4;
  std::printf("tensors made: %zu, without any copy: %zu\n", fw::made, tensors);
  std::printf("peak: %zu bytes, one group and result: %zu, left: %zu\n", fw::peak, most, fw::held);
  return fw::made == tensors && fw::peak == most && fw::held == 0 ? 0 : 1;
}

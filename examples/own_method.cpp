// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// A merging method of your own, written in the operations of catmerge's contexts: it runs on every
// backend. Here it merges a whole network beside Task Arithmetic.
#include <catmerge/catmerge.hpp>
#include <cstdio>
#include <map>
#include <random>

// Task Arithmetic with equal weight for every task: theta_0 + alpha sum_k (m / ||T_k||) T_k, m the
// mean of the norms. An expert with a longer training does not drown the others.
struct balanced_method {
  double alpha = 0.3;
  double factor() const { return alpha; }

  template <class Context>
  void combine(Context& c, const catmerge::layer_problem<Context>&,
               catmerge::vector_list<Context> vectors, typename Context::view tau,
               catmerge::layer_report&) const {
    std::vector<double> norms;
    double mean = 0;
    for (const auto& t : vectors) {
      norms.push_back(std::sqrt(c.squared_norm(t)));
      mean += norms.back() / static_cast<double>(vectors.size());
    }
    for (std::size_t k = 0; k < vectors.size(); ++k)
      if (norms[k] > 0) c.axpy(mean / norms[k], vectors[k], tau);
  }
};
static_assert(catmerge::vector_method<balanced_method, catmerge::context<catmerge::host>>);

// Checkpoints in memory, source and sink in one. (The source of embedding.cpp loads and frees.)
using matrix = Eigen::MatrixXf;
using checkpoint = std::map<std::string, matrix>;
using info = catmerge::parameter_info;
struct network {
  checkpoint pretrained, merged;
  std::map<catmerge::index_t, checkpoint> experts;
  std::vector<std::string> tasks() const { return {"brief", "usual", "long"}; }
  std::vector<catmerge::parameter_group> groups() const { return {{{"up"}}, {{"down"}}}; }
  const matrix& base(const info& p) { return pretrained.at(p.name); }
  const matrix& expert(catmerge::index_t k, const info& p) { return experts.at(k).at(p.name); }
  void release(const catmerge::parameter_group&) {}
  void put(const info& p, matrix t) { merged[p.name] = std::move(t); }
};

int main() {
  std::mt19937 bits(5);
  const auto uniform = [&] { return static_cast<float>(bits()) * 0x1p-31F - 1; };
  const auto noise = [&](float x) -> matrix { return x * matrix::NullaryExpr(8, 8, uniform); };
  network net{{{"up", noise(1)}, {"down", noise(1)}}, {}, {}};
  for (const float far : {0.05F, 0.1F, 0.8F})  // size of each task's vector
    net.experts[std::ssize(net.experts)] = {{"up", net.pretrained["up"] + noise(far)},
                                            {"down", net.pretrained["down"] + noise(far)}};
  // The least cosine of the merged network's change with a task's: the share of the weakest task.
  const auto least_cosine = [&](const char* name, const auto& method) {
    catmerge::merge_stream(method, net, net);  // a source and a sink
    float least = 1;
    for (const auto& [parameter, merged] : net.merged)
      for (const auto& [k, expert] : net.experts) {
        const matrix change = merged - net.pretrained[parameter];
        const matrix t = expert.at(parameter) - net.pretrained[parameter];
        least = std::min(least, change.cwiseProduct(t).sum() / (change.norm() * t.norm()));
      }
    std::printf("%-16s %.2f\n", name, least);
    return least;
  };
  std::printf("Least cosine of the merged network's change with a task's\n");
  const float summed = least_cosine("task arithmetic", catmerge::task_arithmetic_method{0.3});
  return least_cosine("balanced", balanced_method{0.3}) > summed + 0.3F ? 0 : 1;
}

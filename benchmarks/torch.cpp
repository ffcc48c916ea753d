// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// The time of CAT's trims of a network in libtorch, on a GPU with --cuda, beside a plain port of
// the formulas in libtorch on the same device: dense G_k, full eigh, explicit B B^T. Layers are
// those of layers.hpp, with the shapes of CLIP's vision transformers, eight experts, in float. One
// of each shape is timed, times its count.
//
//     benchmark_torch [--cuda] [vit-b-32] [vit-l-14]
//
// Without --cuda the processor computes, and the port, which takes minutes a layer there, is left
// out. With --cuda and no such device the program says so and ends. It fails if library and port
// disagree.

#include <torch/torch.h>

#include <algorithm>
#include <catmerge/adapt/torch.hpp>
#include <catmerge/methods/cat.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "layers.hpp"

namespace {

using catmerge::index_t;
using torch::Tensor;

constexpr index_t tasks = 8;

struct network {
  std::string name;
  index_t width, mlp, layers, rows;  ///< rows of features per task: two images
};
const std::vector<network> networks = {{"vit-b-32", 768, 3072, 12, 100},
                                       {"vit-l-14", 1024, 4096, 24, 514}};

struct layer {
  Tensor base;
  std::vector<Tensor> experts, features;
};

layer make_layer(const torch::Device& device, index_t d_out, index_t d_in, index_t rows) {
  auto host = catmerge_benchmark::make_layer(d_out, d_in, tasks, rows);
  const auto tensor = [&](catmerge_benchmark::matrix& m) {
    return torch::from_blob(m.data(), {m.rows(), m.cols()}).clone().to(device);
  };
  layer l{tensor(host.base), {}, {}};
  for (auto& expert : host.experts) l.experts.push_back(tensor(expert));
  for (auto& x : host.features) l.features.push_back(tensor(x));
  return l;
}

/// theta_0 + alpha sum_i T_i', straight from the formulas.
Tensor by_formulas(const layer& l, const catmerge::cat_options& options) {
  const index_t rank = std::get<catmerge::largest>(options.linear.directions).count;
  std::vector<Tensor> vectors, grams, projections;
  for (const Tensor& expert : l.experts) vectors.push_back(expert - l.base);
  for (const Tensor& x : l.features) grams.push_back(x.t().mm(x));
  const Tensor one = torch::eye(l.base.size(0), l.base.options());
  for (std::size_t k = 0; k < vectors.size(); ++k) {
    Tensor g = torch::zeros_like(one);
    for (std::size_t i = 0; i < vectors.size(); ++i)
      if (i != k)
        g += vectors[i].mm(grams[k] - options.linear.lambda * grams[i]).mm(vectors[i].t());
    const auto [values, vectors_of_g] = torch::linalg_eigh((g + g.t()) / 2);
    const Tensor b = vectors_of_g.slice(1, vectors_of_g.size(1) - rank);
    projections.push_back(one - b.mm(b.t()));
  }
  Tensor sum = torch::zeros_like(l.base);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    Tensor t = vectors[i];
    for (std::size_t k = 0; k < vectors.size(); ++k)
      if (k != i) t = projections[k].mm(t);
    sum += t;
  }
  return l.base + options.alpha * sum;
}

/// Seconds of the quickest of `times` calls; the device is idle before and after.
double seconds_of(const torch::Device& device, int times, const std::function<void()>& f) {
  const auto wait = [&] {
    if (device.is_cuda()) torch::cuda::synchronize();
  };
  double best = 0;
  for (int i = 0; i < times; ++i) {
    wait();
    const auto start = std::chrono::steady_clock::now();
    f();
    wait();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = i == 0 ? taken.count() : std::min(best, taken.count());
  }
  return best;
}

/// Returns true if library and port agree.
bool measure(const torch::Device& device, const network& n) {
  const struct {
    index_t d_out, d_in, count;
  } shapes[] = {
      {n.width, n.width, 4 * n.layers}, {n.mlp, n.width, n.layers}, {n.width, n.mlp, n.layers}};
  catmerge::cat_options options;
  options.diagnostics = false;
  double library = 0, port = 0;
  bool agree = true;
  for (const auto& s : shapes) {
    const layer l = make_layer(device, s.d_out, s.d_in, n.rows);
    Tensor merged, expected;
    const double seconds = seconds_of(device, 3, [&] {
      merged = catmerge::cat_linear(l.base, l.experts, l.features, options).merged;
    });
    std::printf("| %-8s | %4ld x %4ld | %2ld | %8.3f |", n.name.c_str(), long{s.d_out},
                long{s.d_in}, long{s.count}, seconds);
    library += seconds * static_cast<double>(s.count);
    if (device.is_cuda()) {
      const double port_seconds =
          seconds_of(device, 2, [&] { expected = by_formulas(l, options); });
      port += port_seconds * static_cast<double>(s.count);
      const double difference =
          ((merged - expected).norm() / (expected - l.base).norm()).item<double>();
      std::printf(" %8.3f | %5.1f | %.1e |\n", port_seconds, port_seconds / seconds, difference);
      agree = agree && difference < 1e-3;  // the port's eigenvectors are in float
    } else {
      std::printf("  skipped |       |         |\n");
    }
    std::fflush(stdout);
  }
  std::printf("| %-8s | all         |    | %8.2f |", n.name.c_str(), library);
  if (device.is_cuda())
    std::printf(" %8.2f | %5.1f |         |\n", port, port / library);
  else
    std::printf("          |       |         |\n");
  return agree;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool cuda = !words.empty() && words.front() == "--cuda";
  if (cuda) words.erase(words.begin());
  std::vector<network> wanted;
  for (const network& n : networks)
    if (words.empty() || std::find(words.begin(), words.end(), n.name) != words.end())
      wanted.push_back(n);
  if (wanted.size() < words.size()) {
    std::fprintf(stderr, "usage: %s [--cuda] [vit-b-32] [vit-l-14]\n", argv[0]);
    return 2;
  }
  if (cuda && !torch::cuda::is_available()) {
    std::printf("no CUDA device, or a libtorch without CUDA: everything is skipped\n");
    return 0;
  }
  try {
    const torch::NoGradGuard no_grad;
    bool agree = true;
    std::printf("| network  | layer       | of |  seconds | the port | ratio | apart   |\n");
    std::printf("|----------|-------------|---:|---------:|---------:|------:|--------:|\n");
    for (const network& n : wanted)
      agree = measure(torch::Device(cuda ? torch::kCUDA : torch::kCPU), n) && agree;
    return agree ? 0 : 1;
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}

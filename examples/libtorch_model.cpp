// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Three fine-tuned copies of a torch::nn::Module, merged into the original module, in place.
// Parameters are passed as torch::Tensor; nothing leaves libtorch.
#include <torch/torch.h>

#include <catmerge/adapt/torch.hpp>
#include <catmerge/methods/cat.hpp>
#include <cstdio>
#include <random>

using torch::Tensor;
using features = torch::OrderedDict<std::string, Tensor>;  // inputs by parameter name

// Independent of libtorch's generator, whose numbers differ from version to version.
Tensor noise(std::mt19937& bits, at::IntArrayRef shape, double size) {
  Tensor t = torch::empty(shape);
  float* const values = t.data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i)
    values[i] = static_cast<float>(size * (static_cast<double>(bits()) * 0x1p-31 - 1));
  return t;
}

struct block : torch::nn::Module {
  torch::nn::LayerNorm norm{torch::nn::LayerNormOptions({12})};
  torch::nn::Linear up{12, 24}, down{24, 12};
  block() {
    register_module("norm", norm), register_module("up", up), register_module("down", down);
  }
  Tensor forward(const Tensor& x, features* seen = nullptr) {
    const Tensor a = norm(x), b = torch::gelu(up(a));
    if (seen != nullptr) {
      seen->insert("norm.weight", torch::layer_norm(x, {12}));  // the input of the scale
      seen->insert("up.weight", a), seen->insert("down.weight", b);
    }
    return down(b);
  }
};

int main() {
  const torch::NoGradGuard no_grad;
  std::mt19937 bits(6);
  block base;
  for (Tensor& p : base.parameters()) p.copy_(noise(bits, p.sizes(), 0.5));
  std::vector<block> experts(3);
  std::vector<features> inputs(3);
  std::vector<Tensor> samples, wanted;
  for (std::size_t k = 0; k < 3; ++k) {
    for (const auto& p : base.named_parameters())
      experts[k].named_parameters()[p.key()].copy_(p.value() + noise(bits, p.value().sizes(), 0.2));
    samples.push_back(noise(bits, {4, 12}, 1));
    wanted.push_back(experts[k].forward(samples[k], &inputs[k]));
  }
  const auto loss = [&](std::size_t k) {  // of the base network, against expert k's outputs
    return torch::mse_loss(base.forward(samples[k]), wanted[k]).item<double>();
  };
  const double before[] = {loss(0), loss(1), loss(2)};

  for (auto& p : base.named_parameters()) {
    std::vector<Tensor> copies, rows;
    for (std::size_t k = 0; k < 3; ++k) {
      copies.push_back(experts[k].named_parameters()[p.key()]);
      if (const Tensor* x = inputs[k].find(p.key())) rows.push_back(*x);
    }
    Tensor& weight = p.value();
    if (weight.dim() == 2)
      weight.copy_(catmerge::cat_linear(weight, copies, rows).merged);
    else
      weight.copy_(rows.empty() ? catmerge::cat_shift(weight, copies).merged
                                : catmerge::cat_scale(weight, copies, rows).merged);
  }
  bool holds = true;
  for (std::size_t k = 0; k < 3; ++k) {
    std::printf("task %zu: loss of the base %.3f, merged %.3f\n", k, before[k], loss(k));
    holds = holds && loss(k) < before[k];
  }
  return holds ? 0 : 1;
}

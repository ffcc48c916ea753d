// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// An adapter: adapter_config.json, a zero byte, adapter_model.safetensors.

#include <algorithm>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <cmath>
#include <string_view>
#include <vector>

#include "target.hpp"

namespace io = catmerge::io;

namespace {
void check(const io::adapter_config& config, const io::adapter_tensors& tensors) {
  fuzz::require(!tensors.targets.empty(), "an adapter has a target");
  std::vector<io::tensor_info> base;
  std::vector<io::planned_target> plans;
  for (const io::adapter_target& target : tensors.targets) {
    fuzz::require(target.rank > 0 && target.rank == config.rank.of(target.module),
                  "the rank is that of the configuration");
    fuzz::require(std::isfinite(target.scale), "the scale is finite");
    fuzz::require(
        io::element_count(target.a->shape) == static_cast<std::uint64_t>(target.rank * target.d_in),
        "A is r x d_in");
    fuzz::require(io::element_count(target.b->shape) ==
                      static_cast<std::uint64_t>(target.rank * target.d_out),
                  "B is d_out x r");
    const auto values = io::difference_of<float>(target);
    fuzz::require(io::element_count(target.shape()) == values.size(),
                  "the difference has the parameter's shape");
    base.push_back({target.name(), io::dtype::f32, target.shape()});
    if (target.bias != nullptr) {
      base.push_back({target.bias_name(), io::dtype::f32, {target.d_out}});
    }
    plans.push_back(io::plan_like(target, target.rank, target.a->type));
  }
  const auto placed = io::target_in(base, "base", tensors, "file");
  fuzz::require(placed.targets.size() == tensors.targets.size(), "every target has its parameter");
  for (const auto& target : placed.targets) {
    fuzz::require(target.parameter == target.name(), "equal names are kept");
  }
  // What would be written has the same ranks, and s = 1.
  const auto written =
      io::parse_adapter_config(io::detail::make_adapter_config("out", plans, {}), "out");
  for (const io::adapter_target& target : tensors.targets) {
    if (!io::module_pattern::is_plain(target.module)) continue;
    fuzz::require(written.rank.of(target.module) == target.rank, "the rank is written");
    fuzz::require(written.scale_of(target.module) == 1, "the scale is 1");
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* const end = std::find(data, data + size, std::uint8_t{0});
  const auto length = static_cast<std::size_t>(end - data);
  const auto text = io::as_text(fuzz::bytes(data, length));
  const auto rest = length < size ? length + 1 : size;
  const auto bytes = fuzz::bytes(data + rest, size - rest);
  try {
    const auto config = io::parse_adapter_config(text, "file");
    const auto contents = io::parse_safetensors(bytes, "file");
    check(config, io::sort_adapter_tensors(config, contents.entries, "file"));
  } catch (const catmerge::error& problem) {
    fuzz::require(*problem.what() != '\0', "an error has a message");
  }
  return 0;
}

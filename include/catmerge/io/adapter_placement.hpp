// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::io {

/// A target with its parameter in a base. `layer` is that of the base's parameter.
struct placed_target : adapter_target {
  std::string parameter;       ///< the name in the base of the weight
  std::string bias_parameter;  ///< of the bias that B's bias is added to; empty without one
};

/// A tensor that an adapter holds whole, with its parameter in a base.
struct placed_tensor : adapter_tensor {
  std::string parameter;                 ///< its name among those of the base
  std::optional<shape_t> shape_in_base;  ///< none if the base lacks it, as a task's head
};

/// An adapter's tensors with their parameters in a base.
struct adapter_placement {
  std::vector<placed_target> targets;   ///< in the adapter's order
  std::vector<placed_tensor> replaced;  ///< likewise
  std::string dropped;                  ///< how the adapter's names begin, and the base's do not
  std::string added;                    ///< how the base's names begin in its place; may be empty
};

/// Tells how a linear parameter of the base is stored, which the shape of a square one does not:
/// true for d_in x d_out, none if that is not known.
using known_layout = std::function<std::optional<bool>(std::string_view parameter)>;

namespace detail {

/// Places an adapter's tensors. Messages name the adapter's file and the tensor.
class adapter_placer {
 public:
  adapter_placer(const adapter_tensors& tensors, const std::filesystem::path& file,
                 std::span<const tensor_info> base, const std::filesystem::path& base_path,
                 const known_layout& layout)
      : tensors_(tensors), file_(file), base_(base), base_path_(base_path), layout_(layout) {
    for (const tensor_info& info : base) by_name_.emplace(info.name, &info);
  }

  adapter_placement run() {
    choose_names();
    note_contradiction();
    adapter_placement result;
    for (const adapter_target& target : tensors_.targets) result.targets.push_back(placed(target));
    for (const adapter_tensor& tensor : tensors_.replaced) {
      placed_tensor found{tensor, renamed(tensor.name), std::nullopt};
      if (const tensor_info* info = find(found.parameter)) found.shape_in_base = info->shape;
      result.replaced.push_back(std::move(found));
    }
    result.dropped = dropped_;
    result.added = added_;
    return result;
  }

 private:
  const tensor_info* find(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

  std::string renamed(std::string_view name, std::string_view dropped,
                      std::string_view added) const {
    // A head beside the network that is inside a wrapper keeps its name.
    if (!name.starts_with(dropped)) return std::string(name);
    return std::string(added) + std::string(name.substr(dropped.size()));
  }
  std::string renamed(std::string_view name) const { return renamed(name, dropped_, added_); }

  /// The first target that the base lacks under such names; null if there is none.
  const adapter_target* first_missing(std::string_view dropped, std::string_view added) const {
    for (const adapter_target& target : tensors_.targets) {
      if (find(renamed(target.name(), dropped, added)) == nullptr) return &target;
    }
    return nullptr;
  }

  /// Finds the beginnings of names that differ: a model for a task holds the network as a module
  /// ("bert."), a checkpoint of the network alone does not, or the other way round.
  void choose_names() {
    const adapter_target* const missing = first_missing("", "");
    if (missing == nullptr) return;
    const std::string wanted = missing->name();
    std::set<std::pair<std::string, std::string>> candidates;
    for (std::size_t dot = wanted.find('.'); dot != std::string::npos;
         dot = wanted.find('.', dot + 1)) {
      if (find(std::string_view(wanted).substr(dot + 1)) != nullptr) {
        candidates.emplace(wanted.substr(0, dot + 1), "");
      }
    }
    for (const tensor_info& info : base_) {
      if (info.name.size() > wanted.size() && info.name.ends_with("." + wanted)) {
        candidates.emplace("", info.name.substr(0, info.name.size() - wanted.size()));
      }
    }
    std::vector<std::pair<std::string, std::string>> fitting;
    for (const auto& [dropped, added] : candidates) {
      if (first_missing(dropped, added) == nullptr) fitting.emplace_back(dropped, added);
    }
    if (fitting.size() > 1) {
      fail(file_, missing->a->name,
           "several parameters of the base " + base_path_.string() + " fit, such as " +
               in_quotes(renamed(wanted, fitting[0].first, fitting[0].second)) + " and " +
               in_quotes(renamed(wanted, fitting[1].first, fitting[1].second)) +
               ": use the base that the adapter was trained on");
    }
    if (fitting.empty()) {
      fail(file_, missing->a->name,
           "the base " + base_path_.string() + " has no parameter " + in_quotes(wanted) +
               ": use the base that the adapter was trained on (adapter_config.json names it)");
    }
    std::tie(dropped_, added_) = fitting.front();
  }

  static bool is_linear(const adapter_target& target) {
    return target.layer == adapter_layer::linear ||
           target.layer == adapter_layer::transposed_linear;
  }

  /// The layer that the shape in the base shows; none if both or neither fit. PEFT, too, decides by
  /// the base's module and not by fan_in_fan_out.
  std::optional<adapter_layer> layer_by_shape(const adapter_target& target) const {
    const tensor_info& info = *find(renamed(target.name()));
    const bool is_out_in = info.shape == shape_t{target.d_out, target.d_in};
    const bool is_in_out = info.shape == shape_t{target.d_in, target.d_out};
    if (is_out_in == is_in_out) return std::nullopt;
    return is_out_in ? adapter_layer::linear : adapter_layer::transposed_linear;
  }

  /// Finds a layer whose shape contradicts fan_in_fan_out: then that says nothing of square layers.
  void note_contradiction() {
    for (const adapter_target& target : tensors_.targets) {
      if (!is_linear(target)) continue;
      const auto shown = layer_by_shape(target);
      if (shown && *shown != target.layer) contradiction_ = &target;
    }
  }

  placed_target placed(const adapter_target& target) const {
    placed_target result{target, renamed(target.name()), {}};
    const tensor_info& info = *find(result.parameter);
    if (is_linear(target)) result.layer = linear_layer(target, result.parameter);
    if (info.shape != result.shape()) {
      fail(file_, target.a->name,
           "expected a parameter " + to_string(result.shape()) + " in the base, found " +
               describe(info) + " under the name " + in_quotes(info.name) + " of the base " +
               base_path_.string() +
               (result.layer == adapter_layer::embedding
                    ? " (was the vocabulary changed? then resize the base's embeddings first)"
                    : ": use the base that the adapter was trained on"));
    }
    if (target.bias != nullptr) {
      result.bias_parameter = renamed(target.bias_name());
      const tensor_info* const bias = find(result.bias_parameter);
      if (bias == nullptr || bias->shape != shape_t{target.d_out}) {
        fail(file_, target.bias->name,
             "expected a bias " + to_string({target.d_out}) + " in the base to add it to, found " +
                 (bias == nullptr ? "none" : describe(*bias)) + " under the name " +
                 in_quotes(result.bias_parameter) + " of the base " + base_path_.string());
      }
    }
    return result;
  }

  adapter_layer linear_layer(const adapter_target& target, const std::string& parameter) const {
    if (target.d_out != target.d_in) return layer_by_shape(target).value_or(target.layer);
    if (const auto known = layout_ ? layout_(parameter) : std::nullopt) {
      return *known ? adapter_layer::transposed_linear : adapter_layer::linear;
    }
    if (contradiction_ != nullptr) {
      fail(file_, target.a->name,
           "its weight is square, and fan_in_fan_out of adapter_config.json does not hold for all "
           "modules (the base's " +
               in_quotes(renamed(contradiction_->name())) +
               " shows it): say how this weight is stored");
    }
    return target.layer;
  }

  const adapter_tensors& tensors_;
  const std::filesystem::path& file_;
  std::span<const tensor_info> base_;
  const std::filesystem::path& base_path_;
  const known_layout& layout_;
  std::unordered_map<std::string_view, const tensor_info*> by_name_;
  std::string dropped_, added_;
  const adapter_target* contradiction_ = nullptr;
};

}  // namespace detail

/// Finds the parameters of a base that an adapter changes. Names may differ in their beginning, by
/// one module around the network (see adapter_placement::dropped). The shape in the base tells
/// whether a linear weight is stored d_in x d_out, as PEFT goes by the module; a square one is by
/// `layout`, or else by fan_in_fan_out. `file` and `base_path` are for messages. The adapter
/// must outlive the result.
///
/// Throws error, naming the adapter's tensor, if the base has no such parameter, if its shape
/// differs, if it has no bias to add B's bias to, or if the layout of a square weight is unknown.
/// Tensors that the adapter holds whole are not checked: the base may lack them.
inline adapter_placement target_in(std::span<const tensor_info> base,
                                   const std::filesystem::path& base_path,
                                   const adapter_tensors& tensors,
                                   const std::filesystem::path& file,
                                   const known_layout& layout = {}) {
  return detail::adapter_placer(tensors, file, base, base_path, layout).run();
}

/// The same for an adapter and a base on the disk.
inline adapter_placement target_in(const checkpoint& base, const adapter& tuned,
                                   const known_layout& layout = {}) {
  std::vector<tensor_info> infos;
  for (const std::string& name : base.names()) {
    infos.push_back({name, base.at(name).type, base.at(name).shape});
  }
  return target_in(infos, base.path(), tuned.tensors(), tuned.file().path(), layout);
}

}  // namespace catmerge::io

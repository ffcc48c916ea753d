// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <array>
#include <catmerge/model/layer_of.hpp>
#include <harness/adapters/adapter_set.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <set>
#include <string_view>
#include <utility>

namespace catmerge::harness {

namespace {

const char* const into_the_network = "merge into the network, with --base and without --adapter";

/// The narrowest type that holds the values of both.
io::dtype wider(io::dtype a, io::dtype b) {
  if (a == b) return a;
  const bool is_double = a == io::dtype::f64 || b == io::dtype::f64;
  return is_double ? io::dtype::f64 : io::dtype::f32;  // f16 and bf16 hold different values
}

/// Conv1D and Linear have the same factors, and PEFT asks the module which one it is.
bool same_factors(io::adapter_layer a, io::adapter_layer b) {
  const auto is_linear = [](io::adapter_layer layer) {
    return layer == io::adapter_layer::linear || layer == io::adapter_layer::transposed_linear;
  };
  return a == b || (is_linear(a) && is_linear(b));
}

/// The weight's shape in the base. (Rules for Conv1D know it better than fan_in_fan_out does.)
io::shape_t shape_for(const model::name_rules& rules, const adapter_weight& weight) {
  const io::adapter_target& target = weight.first();
  if (!same_factors(target.layer, io::adapter_layer::linear)) return target.shape();
  const auto* const rule = rules.find(weight.name);
  if (rule != nullptr && rule->layout == model::matrix_layout::in_out)
    return {target.d_in, target.d_out};
  return {target.d_out, target.d_in};
}

}  // namespace

const io::adapter_target& adapter_weight::first() const {
  return **std::find_if(of_task.begin(), of_task.end(),
                        [](const auto* target) { return target != nullptr; });
}

adapter_set::adapter_set(const merge_request& request, merge_policy policy)
    : policy_(std::move(policy)) {
  for (const auto& expert : request.experts) {
    tasks_.push_back(expert.task);
    adapters_.emplace_back(expert.path);
  }
  if (!request.base.empty()) base_.emplace(request.base);
  auto rules = base_ ? rules_of(*base_) : rules_of(std::string());
  add_rules(request.rules, rules);
  compare_configurations(request.contradictions_pass);
  open(rules);
  check_policy();
  std::vector<std::string> parameters;
  for (const auto& [name, weight] : by_name_) {
    parameters.push_back(name);
    if (weight.has_bias) parameters.push_back(weight.bias_name);
  }
  for (const auto& text : request.rules)
    name_patterns("--rule '" + text + "'", std::vector{rule_words::parse(text).pattern})
        .require_use(parameters);
  classify(rules);
  plan_biases();
  keep_whole_tensors();
  settle_configuration();
  if (request.overwrite) options_.target = io::existing::replace;
}

/// Reads the configurations against each other.
void adapter_set::compare_configurations(bool contradictions_pass) {
  const auto& first = adapters_.front().config();
  const auto quoted = [](const std::string& text) {
    return text.empty() ? std::string("none") : io::in_quotes(text);
  };
  options_.base_model = first.base_model;
  options_.revision = first.revision;
  options_.task_type = first.task_type;
  for (std::size_t k = 1; k < adapters_.size(); ++k) {
    const auto& config = adapters_[k].config();
    const auto differ = [&](const std::string& key, const std::string& one,
                            const std::string& other) {
      return key + " is " + quoted(one) + " for '" + tasks_[0] + "' and " + quoted(other) +
             " for '" + tasks_[k] + "'";
    };
    if (config.base_model != first.base_model)
      warnings_.push_back(differ("base_model_name_or_path", first.base_model, config.base_model) +
                          ": adapters of different bases have no common sum; the first is written");
    else if (config.revision != first.revision)
      warnings_.push_back(differ("the base's revision", first.revision, config.revision) +
                          ": the first is written");
    if (config.task_type == first.task_type) continue;
    const std::string text = differ("task_type", first.task_type, config.task_type);
    if (!contradictions_pass)
      io::fail(adapters_[k].path() / "adapter_config.json",
               text +
                   ": the adapters belong to networks of different forms (--contradictions warn "
                   "merges them, and writes no task_type)");
    warnings_.push_back(text + ": none is written");
    options_.task_type.clear();
  }
}

void adapter_set::open(const model::name_rules& rules) {
  for (std::size_t k = 0; k < adapters_.size(); ++k) {
    const io::adapter& tuned = adapters_[k];
    if (!base_) {
      for (const auto& target : tuned.targets())
        add_target(k, target, target.name(), target.bias_name());
    } else {
      placements_.push_back(io::target_in(*base_, tuned, layout_by(rules)));
      const auto &placed = placements_.back(), &front = placements_.front();
      if (placed.dropped != front.dropped || placed.added != front.added)
        throw error(tuned.path().string() +
                    ": its modules' names begin in another way than those "
                    "of " +
                    adapters_[0].path().string() + " ('" + placed.dropped + "' and '" +
                    front.dropped +
                    "' before the base's names): PEFT opens an adapter on one "
                    "network; " +
                    into_the_network);
    }
  }
  // Only now: the placements no longer move.
  for (std::size_t k = 0; k < placements_.size(); ++k)
    for (const auto& target : placements_[k].targets)
      add_target(k, target, target.parameter,
                 target.parameter.substr(0, target.parameter.rfind('.')) + ".bias");
  for (std::size_t k = 1; k < adapters_.size(); ++k) require_common_weight(k);
}

void adapter_set::add_target(std::size_t k, const io::adapter_target& target,
                             const std::string& name, const std::string& bias_name) {
  const io::dtype type = wider(target.a->type, target.b->type);
  const auto [found, is_new] = by_name_.try_emplace(name);
  adapter_weight& weight = found->second;
  if (is_new) {
    weight.name = name;
    weight.bias_name = bias_name;
    weight.of_task.resize(adapters_.size());
    weight.plan = io::plan_like(target, target.rank, type);
  } else {
    const io::adapter_target& first = weight.first();
    const io::planned_target other = io::plan_like(target, target.rank, type);
    if (!same_factors(first.layer, target.layer) || first.d_out != target.d_out ||
        weight.plan.input != other.input)
      io::fail(adapters_[k].file().path(), target.a->name,
               "expected factors that fit those of '" + tasks_[0] + "' and the others, " +
                   io::describe(*first.a) + " and " + io::describe(*first.b) + ", found " +
                   io::describe(*target.a) + " and " + io::describe(*target.b) +
                   ": the adapters have different bases");
    weight.plan.rank += target.rank;
    weight.plan.type = wider(weight.plan.type, type);
  }
  weight.of_task[k] = &target;
  weight.has_bias = weight.has_bias || target.bias != nullptr;
}

/// Names that no adapter shares belong to different networks, or to different names of one.
void adapter_set::require_common_weight(std::size_t k) const {
  const auto shared = [&](const auto& entry) {
    const auto& of_task = entry.second.of_task;
    return of_task[k] != nullptr &&
           std::any_of(of_task.begin(), of_task.begin() + static_cast<std::ptrdiff_t>(k),
                       [](const auto* target) { return target != nullptr; });
  };
  if (std::any_of(by_name_.begin(), by_name_.end(), shared)) return;
  throw error(adapters_[k].path().string() +
              ": shares no module with the adapters before it: it "
              "has '" +
              adapters_[k].targets().front().module + "', and " + adapters_[0].path().string() +
              " has '" + adapters_[0].targets().front().module +
              "': are they adapters of one base?");
}

/// Throws for a pattern that matches nothing.
void adapter_set::check_policy() const {
  std::vector<std::string> all, whole;
  for (const auto& [name, weight] : by_name_) {
    all.push_back(name);
    if (policy_.task_heads.match(name))
      throw error("--task-heads: '" + name +
                  "' is changed by low-rank factors, which no file of "
                  "heads holds: --exclude leaves it out");
  }
  for (const auto& each : adapters_)
    for (const auto& tensor : each.replaced()) {
      all.push_back(tensor.name);
      whole.push_back(tensor.name);
    }
  policy_.include.require_use(all);
  policy_.exclude.require_use(all);
  policy_.drop.require_use(all);
  policy_.task_heads.require_use(whole);
}

/// Sorts the weights into those that are merged and those that the base keeps.
void adapter_set::classify(const model::name_rules& rules) {
  for (auto& [name, weight] : by_name_) {
    if (policy_.drop.match(name)) {
      left_out_.push_back(name);
      continue;
    }
    auto c = rules.classify({name, weight.plan.type, shape_for(rules, weight)});
    if (weight.plan.layer == io::adapter_layer::embedding && is_matrix_kind(c.kind))
      c = {model::parameter_kind::embedding};
    const bool is_fixed = c.kind == model::parameter_kind::fixed;
    classes_.emplace(name, std::move(c));
    if (is_fixed || !policy_.merged(name)) {
      fixed_.push_back(name);
      continue;
    }
    names_.push_back(name);
    const auto& known = classes_.at(name);
    groups_.push_back({{name, model::layer_of(known), known.parts}});
    if (weight.has_bias) {
      classes_.emplace(weight.bias_name,
                       rules.classify({weight.bias_name, weight.plan.type, {weight.plan.d_out}}));
      names_.push_back(weight.bias_name);
      const auto& shift = classes_.at(weight.bias_name);
      groups_.push_back({{weight.bias_name, model::layer_of(shift), shift.parts}});
    }
    for (std::size_t k = 0; k < tasks_.size(); ++k)
      if (weight.of_task[k] == nullptr) absent_.push_back(name + " of '" + tasks_[k] + "'");
    weights_.push_back(weight);
  }
  if (weights_.empty()) throw error("--drop, --include and --exclude leave no weight to merge");
}

std::string adapter_set::why_copied(const std::string& name) const {
  if (!policy_.merged(name)) return "--include or --exclude";
  return "the rule '" + classes_.at(name).rule + "'";
}

/// PEFT's lora_bias holds for all modules: zeros stand in for the biases that no adapter has.
void adapter_set::plan_biases() {
  const bool any = std::any_of(weights_.begin(), weights_.end(),
                               [](const auto& weight) { return weight.has_bias; });
  for (adapter_weight& weight : weights_) {
    weight.plan.has_bias = any;
    if (!any || weight.has_bias) continue;
    const io::adapter_target& target = weight.first();
    const bool can_have = weight.plan.layer != io::adapter_layer::embedding && base_ &&
                          base_->find(weight.bias_name) != nullptr;
    if (!can_have)
      throw error("tensor " + io::in_quotes(target.b->name) +
                  ": has no bias beside it (lora_bias) "
                  "in any adapter, and others have one: in PEFT all modules of an adapter do, and "
                  "this one must then have a bias in the base (" +
                  (base_ ? "it has none" : "--base shows whether it has") +
                  "): leave the module out with --exclude, or " + into_the_network);
  }
}

/// Finds what the merged adapter holds whole. No rule merges such tensors.
void adapter_set::keep_whole_tensors() {
  std::vector<const io::adapter_tensors*> all;
  for (const auto& each : adapters_) all.push_back(&each.tensors());
  io::agreement found = io::agreed_tensors(all);
  std::string differing;
  std::size_t count = 0;
  for (const auto& name : found.differing) {
    if (policy_.left_out(name) || !policy_.merged(name)) {
      left_out_.push_back(name);
      continue;
    }
    if (++count > 10) continue;
    std::string holders;
    for (std::size_t k = 0; k < tasks_.size(); ++k) {
      const auto& held = adapters_[k].replaced();
      if (std::any_of(held.begin(), held.end(), [&](const auto& t) { return t.name == name; }))
        holders += (holders.empty() ? "'" : ", '") + tasks_[k] + "'";
    }
    differing += (differing.empty() ? "" : "; ") + io::in_quotes(name) + " of " + holders;
  }
  if (count > 0)
    throw error(std::to_string(count) +
                (count == 1 ? " tensor that adapters hold whole is"
                            : " tensors that adapters hold whole are") +
                " not the same in all: " + differing + (count > 10 ? " ..." : "") +
                ". They take the place of the base's, and no sum of adapters holds them: --drop "
                "PATTERN leaves them out, --task-heads PATTERN with --heads-output writes each "
                "task's own, or " +
                into_the_network);
  for (auto& tensor : found.agreed) {
    if (policy_.left_out(tensor.name) || !policy_.merged(tensor.name))
      left_out_.push_back(tensor.name);
    else
      kept_.push_back(std::move(tensor));
  }
}

/// modules_to_save, bias and task_type for what is kept.
void adapter_set::settle_configuration() {
  std::set<std::string> saved;
  for (const auto& each : adapters_)
    for (const auto& module : each.config().modules_to_save)
      if (std::any_of(kept_.begin(), kept_.end(),
                      [&](const auto& tensor) { return io::is_inside(module, tensor.name); }))
        saved.insert(module);
  options_.modules_to_save.assign(saved.begin(), saved.end());
  const auto is_saved = [&](const std::string& name) {
    return std::any_of(saved.begin(), saved.end(),
                       [&](const auto& module) { return io::is_inside(module, name); });
  };
  for (const auto& tensor : kept_) {
    if (!tensor.name.ends_with(".bias") || is_saved(tensor.name)) continue;
    for (const auto& each : adapters_) {
      const bool is_wider = options_.bias != io::adapter_biases::all &&
                            each.config().bias != io::adapter_biases::none;
      if (is_wider) options_.bias = each.config().bias;
    }
  }
  constexpr std::array<std::string_view, 3> with_head = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"};
  if (saved.empty() &&
      std::find(with_head.begin(), with_head.end(), options_.task_type) != with_head.end()) {
    warnings_.push_back("task_type " + io::in_quotes(options_.task_type) +
                        " is not written: PEFT looks for a head in such adapters, and none is in "
                        "the merged one");
    options_.task_type.clear();
  }
}

}  // namespace catmerge::harness

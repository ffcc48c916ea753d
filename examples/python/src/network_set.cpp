// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include "network_set.hpp"

#include <algorithm>
#include <harness/checkpoints/comparison.hpp>
#include <harness/checkpoints/tied.hpp>
#include <utility>

namespace catmerge::python {

namespace {

/// True if two arrays without floating-point weights hold the same. Needs the lock.
bool same_values(nb::handle a, nb::handle b) {
  if (nb::hasattr(a, "equal") && nb::hasattr(b, "equal")) return nb::cast<bool>(a.attr("equal")(b));
  return nb::cast<bool>(
      nb::object(nb::bool_(nb::module_::import_("numpy").attr("array_equal")(a, b))));
}

}  // namespace

network_set::network_set(network_file base, std::vector<network_expert> experts,
                         std::vector<std::string> tasks, const model::name_rules& rules,
                         harness::merge_policy policy, std::optional<bool> tied)
    : base_(std::move(base)), tasks_(std::move(tasks)), policy_(std::move(policy)) {
  experts_.reserve(experts.size());
  for (auto& expert : experts)
    std::visit([&](auto& one) { add_expert(std::move(one), rules); }, expert);
  std::vector<std::string> all = base_.names();
  for (const auto& expert : experts_)
    all.insert(all.end(), expert.names().begin(), expert.names().end());
  for (const auto* patterns : {&policy_.include, &policy_.exclude, &policy_.drop})
    patterns->require_use(all);
  for (const auto& name : base_.names())
    if (!policy_.left_out(name)) names_.push_back(name);
  if (names_.empty()) throw error("the base has no tensor to merge");
  for (const auto& name : names_) classes_.emplace(name, rules.classify(info_of(name)));
  tie(tied);
  for (std::size_t k = 0; k < experts_.size(); ++k) compare(experts_[k], tasks_[k], rules);
  for (const auto& name : names_)
    if (is_copied(name)) {
      fixed_.push_back(name);
      tied_.erase(name);
    }
  make_groups(rules);
}

void network_set::add_expert(network_file expert, const model::name_rules&) {
  experts_.push_back(std::move(expert));
  factors_.emplace_back();
}

void network_set::add_expert(network_adapter expert, const model::name_rules& rules) {
  std::vector<io::tensor_info> infos;
  for (const auto& name : base_.names()) infos.push_back(info_of(name));
  auto placed = expert.placed_in(infos, harness::layout_by(rules));
  std::vector<std::pair<std::string, nb::object>> whole;
  for (const auto& tensor : placed.replaced)
    whole.emplace_back(tensor.parameter, expert.object(*tensor.entry));
  for (const auto* entry : expert.unused())
    ignored_.push_back(entry->name + " of '" + tasks_[experts_.size()] + "'");
  experts_.push_back(base_.with(whole, expert.words()));
  factors_.emplace_back(std::move(placed), experts_.back());
  adapters_.push_back(std::move(expert));
}

std::vector<std::string> network_set::names_of(const std::string& tensor) const {
  std::vector<std::string> list{tensor};
  for (const auto& [alias, owner] : owner_of_)
    if (owner == tensor) list.push_back(alias);
  return list;
}

std::string network_set::why_copied(const std::string& name) const {
  if (!policy_.merged(name)) return "--include or --exclude";
  const auto& c = classes_.at(name);
  if (c.kind == model::parameter_kind::packed)
    return "not floating-point, and the same in every expert that has it";
  return "the rule '" + c.rule + "'";
}

std::vector<std::string> network_set::absent() const {
  std::vector<std::string> list;
  for (std::size_t k = 0; k < experts_.size(); ++k)
    for (const auto& group : groups())
      for (const auto& p : group)
        if (rows_of(p).first == 0 && name_in(experts_[k], tensor_of(p.name)) == nullptr)
          list.push_back(tensor_of(p.name) + " of '" + tasks_[k] + "'");
  return list;
}

std::pair<index_t, index_t> network_set::extents(const std::string& tensor) const {
  return harness::extents_of(info_of(tensor).shape, classes_.at(tensor));
}

std::pair<index_t, index_t> network_set::rows_of(const parameter_info& p) const {
  if (const auto* const part = parameters_.find(p.name)) return {part->first, part->count};
  return {0, extents(p.name).first};
}

/// The name under which a file has a tensor of the base, in its shape; null if it has none.
const std::string* network_set::name_in(const network_file& file, const std::string& tensor) const {
  const auto& wanted = info_of(tensor);
  for (const auto& name : names_of(tensor))
    if (const auto* info = file.info(name); info != nullptr && info->shape == wanted.shape)
      return &info->name;
  return nullptr;
}

/// The rows of a parameter, as stored.
host_const_view network_set::rows(network_file& file, const std::string& name,
                                  const parameter_info& p) const {
  const auto [height, columns] = extents(tensor_of(p.name));
  const auto [first, count] = rows_of(p);
  return file.matrix(name, height, columns).window(first, count, 0, columns);
}

host_const_view network_set::expert(index_t k, const parameter_info& p) {
  network_file& file = experts_[static_cast<std::size_t>(k)];
  const auto* const name = name_in(file, tensor_of(p.name));
  if (name == nullptr) return base(p);
  const host_const_view stored = rows(file, *name, p);
  const auto& factors = factors_[static_cast<std::size_t>(k)];
  if (!factors.adds_to(file.at(*name))) return as_read(stored, p);
  host_matrix sum(scalar_type::f64, stored.rows, stored.columns);
  context<host>().assign(stored, sum);
  factors.add(file.at(*name), rows_of(p).first, sum);
  return as_read(sums_.keep(std::move(sum)), p);
}

void network_set::release(const parameter_group& group) {
  sums_.clear();
  for (const auto& p : group) {
    base_.let_go(tensor_of(p.name));
    for (auto& expert : experts_)
      for (const auto& name : names_of(tensor_of(p.name))) expert.let_go(name);
  }
}

bool network_set::is_copied(const std::string& name) const {
  const auto kind = classes_.at(name).kind;
  return !policy_.merged(name) || kind == model::parameter_kind::fixed ||
         kind == model::parameter_kind::packed;
}

void network_set::compare(network_file& expert, const std::string& task,
                          const model::name_rules& rules) {
  harness::expert_differences found;
  std::size_t merged = 0;
  for (const auto& name : names_) {
    const auto kind = classes_.at(name).kind;
    if (!policy_.merged(name) || kind == model::parameter_kind::fixed) continue;
    const io::tensor_info* info = nullptr;
    for (const auto& one : names_of(name))
      if (info == nullptr) info = expert.info(one);
    const auto& wanted = info_of(name);
    if (kind == model::parameter_kind::packed) {
      if (info == nullptr) continue;
      if (info->type != wanted.type || info->shape != wanted.shape)
        found.others.push_back("'" + name + "': expected " + io::describe(wanted) + ", found " +
                               io::describe(*info));
      else if (!same_values(base_.object(name), expert.object(info->name)))
        found.copied.push_back("'" + name + "', " + io::describe(wanted));
      continue;
    }
    if (info == nullptr && tied_.contains(name)) continue;  // its owner is compared
    if (info == nullptr) {
      if (!policy_.base_for_missing) found.missing.push_back(name);
    } else if (info->shape != wanted.shape || !io::scalar_of(info->type)) {
      found.others.push_back("'" + name + "': expected " + io::describe(wanted) + ", found " +
                             io::describe(*info));
    } else {
      ++merged;
    }
  }
  for (const auto& name : expert.names()) {
    if (base_.info(name) != nullptr || policy_.left_out(name) || !policy_.merged(name) ||
        owner_of_.contains(name))
      continue;
    const auto& info = *expert.info(name);
    if (!io::scalar_of(info.type) || rules.classify(info).kind == model::parameter_kind::fixed)
      ignored_.push_back(name + " of '" + task + "'");
    else
      found.extra.push_back(name);
  }
  found.require_none(expert.words(), task, "");
  if (merged == 0)
    throw error(expert.words() +
                " takes part with no tensor: its names differ from the base's, or its tensors are "
                "left out");
}

void network_set::tie(std::optional<bool> declared) {
  auto found = harness::merged_ties(base_, experts_, names_, policy_, declared);
  owner_of_ = std::move(found.owner_of);
  tied_ = std::move(found.in_base);
  warnings_ = std::move(found.contradictions);
  for (const auto& [alias, owner] : owner_of_)
    for (std::size_t k = 0; k < experts_.size(); ++k)
      factors_[k].require_untied(alias, owner, experts_[k].words());
}

void network_set::make_groups(const model::name_rules& rules) {
  for (const auto& group : rules.groups(names_)) {
    for (const auto& name : group.names)
      if (!is_copied(name) && !tied_.contains(name))
        parameters_.add(info_of(name), classes_.at(name), policy_.pieces);
    parameters_.end_group();
  }
}

}  // namespace catmerge::python

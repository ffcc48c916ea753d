// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/checkpoints/comparison.hpp>
#include <harness/checkpoints/contradictions.hpp>
#include <harness/checkpoints/expert_factors.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/checkpoints/network_names.hpp>
#include <harness/checkpoints/parameter_pieces.hpp>
#include <harness/checkpoints/quantised.hpp>
#include <harness/checkpoints/task_file.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <harness/checkpoints/tied.hpp>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A base and its experts, opened and compared: the source of a merge's parameters.
///
/// A parameter is a whole tensor or a window of its rows (parameter_pieces.hpp).
class checkpoint_set : public network_names {
 public:
  using piece = parameter_pieces::piece;

  /// Throws if, against the policy, an expert lacks tensors of the base or has other shapes; if an
  /// expert contradicts the base (contradictions.hpp); if copied tensors differ; if no tensor of an
  /// expert is merged; if a pattern of the policy matches nothing. An error about differences lists
  /// up to ten of them and their number.
  checkpoint_set(io::checkpoint base, const std::vector<task_file>& experts,
                 const model::name_rules& rules, merge_policy policy = {})
      : policy_(std::move(policy)), base_(std::move(base)) {
    for (const auto& expert : experts) {
      tasks_.push_back(expert.task);
      paths_.emplace_back(expert.path);
      const bool adapts = io::is_adapter_folder(expert.path);
      experts_.emplace_back(adapts ? base_.path() : paths_.back());
      factors_.push_back(adapts ? expert_factors(paths_.back(), experts_.back(), rules)
                                : expert_factors());
    }
    rename_experts();
    check_contradictions();
    check_policy();
    read_quantised();
    for (const auto& name : base_.names())
      if (!policy_.left_out(name) && !codes_[0].is_scale(name)) names_.push_back(name);
    if (names_.empty())
      throw error(base_.path().string() + ": --drop and --task-heads leave nothing to merge");
    for (const auto& name : base_.absent())
      if (!policy_.left_out(name))
        throw error(base_.path().string() + ": tensor " + io::in_quotes(name) +
                    " is listed in the index, and no shard has it: --drop leaves it out");
    for (const auto& name : names_) classes_.emplace(name, rules.classify(info_of(name)));
    tie();
    for (index_t k = 0; k < std::ssize(experts_); ++k) {
      compare(k, rules);
      if (const auto* adapter = factors(k).adapter())
        for (const auto* entry : adapter->tensors().unused)
          ignored_.push_back(entry->name + " of '" + tasks_[static_cast<std::size_t>(k)] + "'");
    }
    list_copied();
    make_groups(rules);
  }
  /// The same; opens the base.
  checkpoint_set(const std::string& base, const std::vector<task_file>& experts,
                 const model::name_rules& rules, merge_policy policy = {})
      : checkpoint_set(io::checkpoint(base), experts, rules, std::move(policy)) {}

  const io::checkpoint& base_file() const { return base_; }
  const io::checkpoint& expert_file(index_t k) const {
    return experts_[static_cast<std::size_t>(k)];
  }
  /// The expert's path, as given. (An adapter's tensors are in the base's file and its own.)
  const std::filesystem::path& expert_path(index_t k) const {
    return paths_[static_cast<std::size_t>(k)];
  }
  /// The factors of expert k; none unless it is an adapter.
  const expert_factors& factors(index_t k) const { return factors_[static_cast<std::size_t>(k)]; }
  const merge_policy& policy() const { return policy_; }
  /// The tensors of the merged network, in the order of the base.
  const std::vector<std::string>& names() const override { return names_; }
  /// Tensors that are copied from the base, bit for bit.
  const std::vector<std::string>& fixed() const override { return fixed_; }
  /// The reason for copying a tensor of fixed().
  std::string why_copied(const std::string& name) const override {
    if (!policy_.merged(name)) return "--include or --exclude";
    if (codes_[0].is_copied_scale(name)) return "the scale of codes that are copied";
    const auto& c = classes_.at(name);
    if (c.kind == model::parameter_kind::packed)
      return "not floating-point, and the same in every expert that has it";
    return "the rule '" + c.rule + "'";
  }
  /// Second names of tied tensors of the base, each with the name whose merged values it gets.
  const std::map<std::string, std::string>& tied() const override { return tied_; }
  /// Warnings about the files, a sentence each.
  const std::vector<std::string>& warnings() const override { return warnings_; }
  /// Unmerged tensors that only experts have, integers, fixed by a rule, or not used by PEFT: "NAME
  /// of 'TASK'".
  const std::vector<std::string>& ignored() const override { return ignored_; }
  /// True if a tensor of the base is stored as 8-bit floats and written in another type.
  bool decoded(const std::string& name) const { return codes_[0].has_scale(base_.at(name)); }
  /// A tensor of the base as it enters the merge: codes with scales are BF16.
  io::tensor_info info_of(const std::string& name) const {
    const auto& entry = base_.at(name);
    return {name, decoded(name) ? io::dtype::bf16 : entry.type, entry.shape};
  }
  const model::classification& class_of(const std::string& name) const override {
    return classes_.at(name);
  }
  /// The tensor and rows of a parameter.
  piece piece_of(const parameter_info& p) const {
    if (const auto* const part = parameters_.find(p.name)) return *part;
    return {p.name, 0, extents(base_.at(p.name), p.name).first};
  }
  /// Rows and columns of a parameter as stored.
  std::pair<index_t, index_t> stored_extents(const parameter_info& p) const {
    const piece part = piece_of(p);
    return {part.count, extents(base_.at(part.tensor), part.tensor).second};
  }
  /// True if an option, a user's rule or a known network's rule leaves a tensor untrimmed.
  bool left_alone(const std::string& name) const {
    if (policy_.left_out(name) || !policy_.merged(name)) return true;
    const auto found = classes_.find(tensor_of(name));
    if (found == classes_.end() || found->second.trim) return false;
    return found->second.source == model::rule_source::network ||
           found->second.source == model::rule_source::user;
  }
  /// The name of the tensor of a parameter or a piece.
  const std::string& tensor_of(const std::string& parameter) const override {
    return parameters_.tensor_of(parameter);
  }

  /// True if two tensors of the base both take part and are not tied.
  bool are_apart(const std::string& one, const std::string& other) const {
    const auto owner = [&](const std::string& name) {
      const auto found = tied_.find(name);
      return found == tied_.end() ? name : found->second;
    };
    return classes_.contains(one) && classes_.contains(other) && owner(one) != owner(other);
  }

  /// All names of a tensor: its own, and those tied to it, in the base or in an expert alone.
  std::vector<std::string> names_of(const std::string& tensor) const override {
    std::vector<std::string> list{tensor};
    for (const auto& [alias, owner] : owner_of_)
      if (owner == tensor) list.push_back(alias);
    return list;
  }
  /// Expert k's tensor for a tensor of the base, under any of its names. It has the base's shape
  /// or, for a resized table, another height; the base's rows replace missing ones. Null if the
  /// expert has none of a fitting shape.
  const io::tensor_entry* expert_entry(index_t k, const std::string& tensor) const {
    const auto& wanted = base_.at(tensor);
    for (const auto& name : names_of(tensor)) {
      const auto* entry = expert_file(k).find(name);
      if (entry != nullptr && (entry->shape == wanted.shape || fits_resized(wanted, *entry)))
        return entry;
    }
    return nullptr;
  }

  std::vector<std::string> absent() const override {
    std::vector<std::string> list;
    for_tensors(
        [&](const std::string& tensor, const io::tensor_entry* entry, const std::string& of) {
          if (entry == nullptr) list.push_back(tensor + of);
        });
    return list;
  }
  std::vector<std::string> resized() const override {
    std::vector<std::string> list;
    for_tensors(
        [&](const std::string& tensor, const io::tensor_entry* entry, const std::string& of) {
          if (entry != nullptr && entry->shape != base_.at(tensor).shape)
            list.push_back(tensor + of + " " + io::to_string(entry->shape));
        });
    return list;
  }

  /// Sorts the groups by rank(name) of their first members, keeping the order among equals.
  template <class Rank>
  void sort_groups(const Rank& rank) {
    auto& groups = parameters_.groups();
    std::stable_sort(groups.begin(), groups.end(),
                     [&](const parameter_group& a, const parameter_group& b) {
                       return rank(tensor_of(a.front().name)) < rank(tensor_of(b.front().name));
                     });
  }

  // The parameter_source of merge_stream.
  const std::vector<std::string>& tasks() const override { return tasks_; }
  const std::vector<parameter_group>& groups() const override { return parameters_.groups(); }
  host_const_view base(const parameter_info& p) {
    read_ahead();
    return as_read(rows_of(base_.at(tensor_of(p.name)), p, codes_[0]), p);
  }
  host_const_view expert(index_t k, const parameter_info& p) {
    const auto& codes = codes_[static_cast<std::size_t>(k) + 1];
    const piece part = piece_of(p);
    const auto& base_entry = base_.at(part.tensor);
    const auto* entry = expert_entry(k, part.tensor);
    if (entry == nullptr) return as_read(rows_of(base_entry, p, codes_[0]), p);
    if (factors(k).adds_to(*entry)) {
      const auto stored = rows_of(*entry, p, codes);
      host_matrix values(scalar_type::f64, stored.rows, stored.columns);
      context<host>().assign(stored, values);
      factors(k).add(*entry, part.first, values);
      return as_read(windows_.keep(std::move(values)), p);
    }
    if (entry->shape == base_entry.shape) return as_read(rows_of(*entry, p, codes), p);
    // For a table of another height: the common rows.
    const auto stored = rows_of(base_entry, p, codes_[0]);
    const index_t height = extents(*entry, part.tensor).first;
    const index_t common = std::clamp<index_t>(height - part.first, 0, part.count);
    const auto common_rows =
        window_of(*entry, part.tensor, std::min(part.first, height), common, codes);
    return as_read(windows_.patched(stored, common_rows), p);
  }
  void release(const parameter_group& group) {
    windows_.clear();
    for (const auto& p : group)
      for_bytes_of(
          p, [](const io::checkpoint& file, auto name, auto part) { file.release(name, part); });
    if (++released_ == groups().size()) released_ = ahead_ = 0;  // the next pass begins
  }

 private:
  /// Calls act(tensor, expert's entry, " of 'TASK'") for every expert and merged tensor.
  template <class Act>
  void for_tensors(const Act& act) const {
    for (index_t k = 0; k < std::ssize(tasks_); ++k)
      for (const auto& group : groups())
        for (const auto& p : group) {
          if (piece_of(p).first != 0) continue;  // its first piece counts for all
          const auto& tensor = tensor_of(p.name);
          act(tensor, expert_entry(k, tensor), " of '" + tasks_[static_cast<std::size_t>(k)] + "'");
        }
  }

  /// Rows and columns of a tensor as a matrix.
  std::pair<index_t, index_t> extents(const io::tensor_entry& entry,
                                      const std::string& tensor) const {
    return extents_of(entry.shape, classes_.at(tensor));
  }

  void rename_experts() {
    std::vector<std::size_t> used(policy_.renames.size());
    for (const auto& rule : policy_.renames)
      if (!rule.expert().empty() &&
          std::find(tasks_.begin(), tasks_.end(), rule.expert()) == tasks_.end())
        throw error("--rename '" + rule.text() + "': there is no --expert '" + rule.expert() + "'");
    if (policy_.renames.empty()) return;
    const auto in_base = [&](const std::string& name) { return base_.find(name) != nullptr; };
    for (std::size_t k = 0; k < experts_.size(); ++k) {
      std::vector<rename_rule> rules;
      std::vector<std::size_t> positions;
      for (std::size_t r = 0; r < policy_.renames.size(); ++r)
        if (const auto& expert = policy_.renames[r].expert();
            expert.empty() || expert == tasks_[k]) {
          rules.push_back(policy_.renames[r]);
          positions.push_back(r);
        }
      std::vector<std::size_t> counts(rules.size());
      experts_[k].rename(
          [&](const std::string& name) { return renamed(name, rules, in_base, counts); });
      for (std::size_t i = 0; i < counts.size(); ++i) used[positions[i]] += counts[i];
    }
    for (std::size_t r = 0; r < used.size(); ++r)
      if (used[r] == 0)
        throw error("--rename '" + policy_.renames[r].text() +
                    "': it changes no name of an expert that the base does not have");
  }

  void check_contradictions() {
    std::string list;
    for (std::size_t k = 0; k < experts_.size(); ++k) {
      if (factors_[k].adapter() != nullptr) continue;  // it has no such files
      for (const auto& sentence : contradictions_of(base_, experts_[k])) {
        if (policy_.contradictions_pass)
          warnings_.push_back("expert '" + tasks_[k] + "' contradicts the base: " + sentence);
        else
          list += "\n  expert '" + tasks_[k] + "' (" + paths_[k].string() + "): " + sentence;
      }
    }
    if (!list.empty())
      throw error(base_.path().string() + ": experts cannot come from this base:" + list +
                  "\n(--contradictions warn merges all the same)");
    for (const auto* file : all_files())
      warnings_.insert(warnings_.end(), file->warnings().begin(), file->warnings().end());
  }

  std::vector<const io::checkpoint*> all_files() const {
    std::vector<const io::checkpoint*> files{&base_};
    for (const auto& expert : experts_) files.push_back(&expert);
    return files;
  }

  void check_policy() const {
    std::vector<std::string> all;
    for (const auto* file : all_files()) {
      all.insert(all.end(), file->names().begin(), file->names().end());
      all.insert(all.end(), file->absent().begin(), file->absent().end());
    }
    for (const auto* patterns :
         {&policy_.include, &policy_.exclude, &policy_.drop, &policy_.task_heads, &policy_.resized})
      patterns->require_use(all);
  }

  void read_quantised() {
    for (const auto* file : all_files())
      codes_.emplace_back(*file, [this](std::string_view name) {
        return !policy_.left_out(name) && policy_.merged(name);
      });
  }

  /// True if all extents but the first agree and the policy allows another height.
  bool fits_resized(const io::tensor_entry& a, const io::tensor_entry& b) const {
    return policy_.resized.match(a.name) && !a.shape.empty() && a.shape.size() == b.shape.size() &&
           std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1);
  }

  /// Finds parameters under two names.
  void tie() {
    auto found = merged_ties(base_, experts_, names_, policy_, declared_ties(base_));
    owner_of_ = std::move(found.owner_of);
    tied_ = std::move(found.in_base);
    warnings_.insert(warnings_.end(), found.contradictions.begin(), found.contradictions.end());
    for (const auto& [alias, owner] : owner_of_)
      for (index_t k = 0; k < std::ssize(experts_); ++k)
        factors(k).require_untied(alias, owner, expert_path(k).string());
  }

  bool is_copied(const std::string& name) const {
    const auto kind = classes_.at(name).kind;
    return !policy_.merged(name) || codes_[0].is_copied_scale(name) ||
           kind == model::parameter_kind::fixed || kind == model::parameter_kind::packed;
  }

  void compare(index_t k, const model::name_rules& rules) {
    const auto& expert = expert_file(k);
    const auto& codes = codes_[static_cast<std::size_t>(k) + 1];
    const auto& task = tasks_[static_cast<std::size_t>(k)];
    expert_differences found;
    std::size_t merged = 0;
    for (const auto& name : names_) {
      const auto& c = classes_.at(name);
      // A rule or an option chose the base's tensor: the expert's is not compared.
      if (!policy_.merged(name) || codes_[0].is_copied_scale(name) ||
          c.kind == model::parameter_kind::fixed)
        continue;
      const io::tensor_entry* entry = nullptr;
      for (const auto& one : names_of(name))
        if (entry == nullptr) entry = expert.find(one);
      const auto& wanted = base_.at(name);
      if (c.kind == model::parameter_kind::packed) {
        if (entry != nullptr) compare_copied(wanted, *entry, name, found);
        expert.release(name);
        base_.release(name);
        continue;
      }
      if (entry == nullptr && tied_.contains(name)) continue;  // its owner is compared
      if (entry == nullptr) {
        if (!policy_.base_for_missing) found.missing.push_back(name);
      } else if (entry->shape != wanted.shape && !fits_resized(wanted, *entry)) {
        found.others.push_back("'" + name + "': expected " + io::to_string(wanted.shape) +
                               ", found " + io::to_string(entry->shape));
      } else if (!io::scalar_of(entry->type) && !codes.has_scale(*entry)) {
        found.others.push_back("'" + name + "': expected " + io::describe(wanted) + ", found " +
                               io::describe(*entry));
      } else {
        ++merged;
      }
    }
    for (const auto& name : expert.names()) {
      if (base_.find(name) != nullptr || policy_.left_out(name) || !policy_.merged(name) ||
          codes.is_scale(name) || codes.is_copied_scale(name) || owner_of_.contains(name))
        continue;
      const auto& entry = expert.at(name);
      const bool computed = io::scalar_of(entry.type) || codes.has_scale(entry);
      if (!computed ||
          rules.classify({name, entry.type, entry.shape}).kind == model::parameter_kind::fixed)
        ignored_.push_back(name + " of '" + task + "'");
      else
        found.extra.push_back(name);
    }
    found.require_none(expert_path(k).string() + ": expert '" + task + "'", task,
                       base_.path().string());
    if (merged == 0)
      throw error(expert_path(k).string() + ": expert '" + task +
                  "' takes part with no tensor: its names differ from the base's, or its tensors "
                  "are left out (see --rename, --drop, --include and --exclude)");
  }

  static void compare_copied(const io::tensor_entry& wanted, const io::tensor_entry& entry,
                             const std::string& name, expert_differences& found) {
    if (entry.type != wanted.type || entry.shape != wanted.shape)
      found.others.push_back("'" + name + "': expected " + io::describe(wanted) + ", found " +
                             io::describe(entry));
    else if (!detail::same_bytes(wanted, entry))
      found.copied.push_back("'" + name + "', " + io::describe(wanted));
  }

  void list_copied() {
    for (const auto& name : names_)
      if (is_copied(name)) {
        fixed_.push_back(name);
        tied_.erase(name);
      }
  }

  void make_groups(const model::name_rules& rules) {
    for (const auto& group : rules.groups(names_)) {
      for (const auto& name : group.names) {
        const auto& entry = base_.at(name);
        if (!is_copied(name) && !tied_.contains(name))
          parameters_.add({name, entry.type, entry.shape}, classes_.at(name), policy_.pieces);
      }
      parameters_.end_group();
    }
  }

  /// Rows of a tensor as stored.
  host_const_view window_of(const io::tensor_entry& entry, const std::string& tensor, index_t first,
                            index_t count, const quantised_weights& codes) {
    if (codes.has_scale(entry)) return windows_.keep(codes.decoded(entry, first, count));
    const auto [rows, columns] = extents(entry, tensor);
    const host_const_view whole = windows_.of(entry, rows, columns);
    return count == rows ? whole : whole.window(first, count, 0, columns);
  }
  host_const_view rows_of(const io::tensor_entry& entry, const parameter_info& p,
                          const quantised_weights& codes) {
    const piece part = piece_of(p);
    return window_of(entry, part.tensor, part.first, part.count, codes);
  }
  static host_const_view as_read(const host_const_view& stored, const parameter_info& p) {
    return p.transposed ? stored.transposed() : stored;
  }

  /// Calls act(file, name, bytes) for a parameter's bytes in the base and in each expert.
  template <class Act>
  void for_bytes_of(const parameter_info& p, const Act& act) const {
    const piece part = piece_of(p);
    const auto in = [&](const io::checkpoint& file, const io::tensor_entry* entry,
                        const std::string& name) {
      if (entry == nullptr) return;
      const auto height = extents(*entry, part.tensor).first;
      if (height == 0) return;
      const auto row = entry->bytes.size() / static_cast<std::size_t>(height);
      const auto first = static_cast<std::size_t>(std::min(part.first, height));
      const auto last = static_cast<std::size_t>(std::min(part.first + part.count, height));
      act(file, name, entry->bytes.subspan(first * row, (last - first) * row));
    };
    in(base_, &base_.at(part.tensor), part.tensor);
    for (index_t k = 0; k < std::ssize(experts_); ++k)
      for (const auto& name : names_of(part.tensor))
        if (const auto* entry = expert_entry(k, part.tensor);
            entry != nullptr && expert_file(k).find(name) == entry) {
          in(expert_file(k), entry, name);
          break;
        }
  }

  /// Prefetches the next group during the work on the current one.
  void read_ahead() {
    if (ahead_ > released_) return;
    ahead_ = released_ + 1;
    if (ahead_ >= groups().size()) return;
    for (const auto& p : groups()[ahead_])
      for_bytes_of(
          p, [](const io::checkpoint& file, auto name, auto part) { file.prefetch(name, part); });
  }

  merge_policy policy_;
  io::checkpoint base_;
  std::vector<std::string> tasks_;
  std::vector<std::filesystem::path> paths_;  // of the experts, as given
  std::vector<io::checkpoint> experts_;
  std::vector<expert_factors> factors_;
  std::vector<quantised_weights> codes_;  // of the base, then of the experts
  std::vector<std::string> names_, fixed_, warnings_, ignored_;
  std::unordered_map<std::string, model::classification> classes_;
  std::map<std::string, std::string> owner_of_;  // by alias, in the base or in an expert
  std::map<std::string, std::string> tied_;      // the aliases in the base
  parameter_pieces parameters_;
  windows windows_;
  std::size_t released_ = 0, ahead_ = 0;  // groups: the first unreleased one, the last prefetched
                                          // one
};

}  // namespace catmerge::harness

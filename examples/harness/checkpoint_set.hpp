// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/merge_policy.hpp>
#include <harness/task_file.hpp>
#include <harness/tensors.hpp>
#include <harness/tied.hpp>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A base and its experts, opened and compared: the source of a merge's parameters.
///
/// Large tables that are not trimmed come in pieces of some rows, each a parameter of its own
/// ("table[0:4096]"), so that no more of them is in memory than is being worked on.
class checkpoint_set {
 public:
  /// A whole tensor, or rows first ... first + count - 1 of it.
  struct piece {
    std::string tensor;
    index_t first = 0, count = 0;
  };

  /// Throws an error that lists what differs (the first ten and how many) where an expert does not
  /// have the base's tensors, in the same shapes, and the policy does not say what then; and for
  /// patterns of the policy that match nothing.
  checkpoint_set(const std::string& base, const std::vector<task_file>& experts,
                 const model::name_rules& rules, merge_policy policy = {})
      : policy_(std::move(policy)), base_(base) {
    for (const auto& expert : experts) {
      tasks_.push_back(expert.task);
      experts_.emplace_back(expert.path);
    }
    check_policy();
    for (const auto& name : base_.names())
      if (!policy_.left_out(name)) names_.push_back(name);
    if (names_.empty())
      throw error(base + ": --drop and --task-heads leave nothing of the base to merge");
    for (std::size_t k = 0; k < experts_.size(); ++k) compare(experts_[k], tasks_[k]);
    classify(rules);
    make_groups(rules);
  }

  const io::checkpoint& base_file() const { return base_; }
  const io::checkpoint& expert_file(index_t k) const {
    return experts_[static_cast<std::size_t>(k)];
  }
  const merge_policy& policy() const { return policy_; }
  /// The tensors of the merged network, in the order of the base.
  const std::vector<std::string>& names() const { return names_; }
  /// Those that are not merged but copied from the base, bit for bit.
  const std::vector<std::string>& fixed() const { return fixed_; }
  /// Those that are another one under a second name: they get its merged values.
  const std::map<std::string, std::string>& tied() const { return tied_; }
  const model::classification& class_of(const std::string& name) const { return classes_.at(name); }
  /// The part of a tensor that a parameter is.
  piece piece_of(const parameter_info& p) const {
    const auto found = pieces_.find(p.name);
    if (found != pieces_.end()) return found->second;
    return {p.name, 0, matrix_extents(base_.at(p.name).shape).first};
  }
  /// The name of the tensor that a parameter, or a piece of one, belongs to.
  const std::string& tensor_of(const std::string& parameter) const {
    const auto found = pieces_.find(parameter);
    return found == pieces_.end() ? parameter : found->second.tensor;
  }

  /// The names under which a tensor is written: its own, and those tied to it.
  std::vector<std::string> names_of(const std::string& tensor) const {
    std::vector<std::string> list{tensor};
    for (const auto& [alias, owner] : tied_)
      if (owner == tensor) list.push_back(alias);
    return list;
  }
  /// What expert k has for a tensor of the base, under any of its names: in the base's shape, or,
  /// of a resized table, in another height; the base stands in for the rest. Null if it has nothing
  /// (or, of what is left out of the merge, something else).
  const io::tensor_entry* expert_entry(index_t k, const std::string& tensor) const {
    const auto& wanted = base_.at(tensor);
    for (const auto& name : names_of(tensor)) {
      const auto* entry = expert_file(k).find(name);
      if (entry != nullptr && (entry->shape == wanted.shape || fits_resized(wanted, *entry)))
        return entry;
    }
    return nullptr;
  }

  /// Sorts the groups by rank(name) of their first members, keeping the order among equals.
  template <class Rank>
  void sort_groups(const Rank& rank) {
    std::stable_sort(groups_.begin(), groups_.end(),
                     [&](const parameter_group& a, const parameter_group& b) {
                       return rank(tensor_of(a.front().name)) < rank(tensor_of(b.front().name));
                     });
  }

  // What merge_stream asks of a parameter_source.
  const std::vector<std::string>& tasks() const { return tasks_; }
  const std::vector<parameter_group>& groups() const { return groups_; }
  host_const_view base(const parameter_info& p) {
    read_ahead();
    return rows_of(base_.at(tensor_of(p.name)), p, piece_of(p));
  }
  host_const_view expert(index_t k, const parameter_info& p) {
    const piece part = piece_of(p);
    const auto& base_entry = base_.at(part.tensor);
    const auto* entry = expert_entry(k, part.tensor);
    if (entry == nullptr) return rows_of(base_entry, p, part);
    if (entry->shape == base_entry.shape) return rows_of(*entry, p, part);
    // Rows as they are stored, whichever way the parameter is read.
    const host_const_view stored = windows_.of(base_entry), whole = windows_.of(*entry);
    const index_t common = std::clamp<index_t>(whole.rows - part.first, 0, part.count);
    const host_const_view patched =
        windows_.patched(stored.window(part.first, part.count, 0, stored.columns),
                         whole.window(std::min(part.first, whole.rows), common, 0, whole.columns));
    return p.transposed ? patched.transposed() : patched;
  }
  void release(const parameter_group& group) {
    windows_.clear();
    for (const auto& p : group)
      for_bytes_of(
          p, [](const io::checkpoint& file, auto name, auto part) { file.release(name, part); });
    if (++released_ == groups_.size()) released_ = ahead_ = 0;  // another pass begins
  }

 private:
  void check_policy() const {
    std::vector<std::string> all = base_.names();
    for (const auto& expert : experts_)
      all.insert(all.end(), expert.names().begin(), expert.names().end());
    for (const auto* patterns :
         {&policy_.include, &policy_.exclude, &policy_.drop, &policy_.task_heads, &policy_.resized})
      patterns->require_use(all);
  }

  /// Whether all but the first extent agree, and the policy allows for that.
  bool fits_resized(const io::tensor_entry& a, const io::tensor_entry& b) const {
    return policy_.resized.match(a.name) && !a.shape.empty() && a.shape.size() == b.shape.size() &&
           std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1);
  }

  void compare(const io::checkpoint& expert, const std::string& task) const {
    std::vector<std::string> differences;
    for (const auto& name : names_) {
      const auto& entry = base_.at(name);
      const auto* other = expert.find(name);
      if (other == nullptr) {
        if (!policy_.base_for_missing) differences.push_back("'" + name + "' is missing");
      } else if (other->shape != entry.shape && !fits_resized(entry, *other)) {
        differences.push_back("'" + name + "': expected " + io::to_string(entry.shape) +
                              ", found " + io::to_string(other->shape));
      } else if (io::scalar_of(entry.type).has_value() != io::scalar_of(other->type).has_value()) {
        differences.push_back("'" + name + "': expected " + io::describe(entry) + ", found " +
                              io::describe(*other));
      }
    }
    for (const auto& name : expert.names())
      if (base_.find(name) == nullptr && !policy_.left_out(name))
        differences.push_back("'" + name + "' is not in the base");
    if (differences.empty()) return;
    std::string list;
    for (std::size_t i = 0; i < std::min<std::size_t>(10, differences.size()); ++i)
      list += "\n  " + differences[i];
    if (differences.size() > 10) list += "\n  ...";
    throw error(expert.path().string() + ": expert '" + task + "' does not fit the base " +
                base_.path().string() + ": " + std::to_string(differences.size()) +
                (differences.size() == 1 ? " difference:" : " differences:") + list +
                "\n(--drop, --task-heads, --missing and --resized say what to do about such)");
  }

  void classify(const model::name_rules& rules) {
    std::vector<std::string> known, others;  // of what can be merged: those of known kinds first
    for (const auto& name : names_) {
      auto what = rules.classify(base_.at(name));
      if (what.kind == model::parameter_kind::packed) what.kind = model::parameter_kind::fixed;
      classes_.emplace(name, what);
      if (what.kind == model::parameter_kind::unknown)
        others.push_back(name);
      else if (what.kind != model::parameter_kind::fixed)
        known.push_back(name);
    }
    known.insert(known.end(), others.begin(), others.end());
    tied_ = find_ties(base_, experts_, known);
    for (const auto& [alias, owner] : tied_)
      if (policy_.merged(alias) != policy_.merged(owner))
        throw error(base_.path().string() + ": '" + alias + "' and '" + owner +
                    "' hold the same values everywhere: --include and --exclude must take both or "
                    "neither");
    for (const auto& name : names_) {
      auto& what = classes_.at(name);
      if (!policy_.merged(name)) what = {model::parameter_kind::fixed};
      if (what.kind == model::parameter_kind::fixed) {
        fixed_.push_back(name);
        tied_.erase(name);
      }
    }
  }

  void make_groups(const model::name_rules& rules) {
    for (const auto& group : rules.groups(names_)) {
      parameter_group infos;
      for (const auto& name : group.names) {
        const auto& c = classes_.at(name);
        if (c.kind == model::parameter_kind::fixed || tied_.contains(name)) continue;
        const bool transposed = c.layout == model::matrix_layout::in_out;
        const parameter_info whole{name, layer_of(c), c.parts, transposed};
        if (policy_.pieces && whole.kind == layer_kind::other && !transposed)
          add_pieces(whole);
        else
          infos.push_back(whole);
      }
      if (!infos.empty()) groups_.push_back(std::move(infos));
    }
  }

  /// Groups of one: pieces of at most 8 MiB of the base, or the whole where it is no larger. (With
  /// eight experts, 72 MiB of files at a time, which is what an attention's weights take, too.)
  void add_pieces(const parameter_info& whole) {
    constexpr std::size_t most = std::size_t{8} << 20;
    const auto& entry = base_.at(whole.name);
    const auto height = matrix_extents(entry.shape).first;
    if (entry.bytes.size() <= most || height < 2) {
      groups_.push_back({whole});
      return;
    }
    const auto row = entry.bytes.size() / static_cast<std::size_t>(height);
    const auto rows = static_cast<index_t>(std::max<std::size_t>(1, most / row));
    for (index_t first = 0; first < height; first += rows) {
      const index_t count = std::min(rows, height - first);
      parameter_info part = whole;
      part.name += "[" + std::to_string(first) + ":" + std::to_string(first + count) + "]";
      part.whole = whole.name;
      part.first_row = first;
      pieces_.emplace(part.name, piece{whole.name, first, count});
      groups_.push_back({part});
    }
  }

  host_const_view rows_of(const io::tensor_entry& entry, const parameter_info& p,
                          const piece& part) {
    const host_const_view whole = windows_.of(entry, p.transposed);
    if (part.count == whole.rows || p.transposed) return whole;
    return whole.window(part.first, part.count, 0, whole.columns);
  }

  /// Calls act(file, name, bytes) for what base and experts hold of a parameter.
  template <class Act>
  void for_bytes_of(const parameter_info& p, const Act& act) const {
    const piece part = piece_of(p);
    const auto in = [&](const io::checkpoint& file, const io::tensor_entry* entry) {
      if (entry == nullptr) return;
      const auto height = matrix_extents(entry->shape).first;
      if (height == 0) return;
      const auto row = entry->bytes.size() / static_cast<std::size_t>(height);
      const auto first = static_cast<std::size_t>(std::min(part.first, height));
      const auto last = static_cast<std::size_t>(std::min(part.first + part.count, height));
      act(file, entry->name, entry->bytes.subspan(first * row, (last - first) * row));
    };
    in(base_, &base_.at(part.tensor));
    for (index_t k = 0; k < std::ssize(experts_); ++k)
      in(expert_file(k), expert_entry(k, part.tensor));
  }

  /// The system reads the next group while this one is worked on.
  void read_ahead() {
    if (ahead_ > released_) return;
    ahead_ = released_ + 1;
    if (ahead_ >= groups_.size()) return;
    for (const auto& p : groups_[ahead_])
      for_bytes_of(
          p, [](const io::checkpoint& file, auto name, auto part) { file.prefetch(name, part); });
  }

  merge_policy policy_;
  io::checkpoint base_;
  std::vector<std::string> tasks_;
  std::vector<io::checkpoint> experts_;
  std::vector<std::string> names_, fixed_;
  std::unordered_map<std::string, model::classification> classes_;
  std::map<std::string, std::string> tied_;
  std::map<std::string, piece> pieces_;
  std::vector<parameter_group> groups_;
  windows windows_;
  std::size_t released_ = 0, ahead_ = 0;  // groups: the first at work, the last one asked for
};

}  // namespace catmerge::harness

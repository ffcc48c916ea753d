// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/layer_of.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/checkpoints/comparison.hpp>
#include <harness/checkpoints/contradictions.hpp>
#include <harness/checkpoints/merge_policy.hpp>
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
/// A parameter is a whole tensor, or a window of rows of one: large tables that are not trimmed
/// come in pieces ("table[0:4096]"), so that no more of them is in memory than is being worked on,
/// and of a stack of matrices or vectors each is a parameter of its own ("experts.w1[3]").
class checkpoint_set {
 public:
  /// A whole tensor, or rows first ... first + count - 1 of it, as extents_of has them.
  struct piece {
    std::string tensor;
    index_t first = 0, count = 0;
  };

  /// Throws an error that lists what differs (up to ten, and how many) where an expert does not
  /// have the base's tensors, in the same shapes, and the policy does not say what then; where it
  /// cannot belong to the base (contradictions.hpp); where what is copied differs; where it takes
  /// part with nothing; and for patterns of the policy that match nothing.
  checkpoint_set(io::checkpoint base, const std::vector<task_file>& experts,
                 const model::name_rules& rules, merge_policy policy = {})
      : policy_(std::move(policy)), base_(std::move(base)) {
    for (const auto& expert : experts) {
      tasks_.push_back(expert.task);
      experts_.emplace_back(expert.path);
    }
    rename_experts();
    check_contradictions();
    check_policy();
    read_quantised();
    for (const auto& name : base_.names())
      if (!policy_.left_out(name) && !codes_[0].hides(name)) names_.push_back(name);
    if (names_.empty())
      throw error(base_.path().string() + ": --drop and --task-heads leave nothing to merge");
    for (const auto& name : base_.absent())
      if (!policy_.left_out(name))
        throw error(base_.path().string() + ": tensor " + io::in_quotes(name) +
                    " is listed in the index, and no shard has it: --drop leaves it out");
    for (const auto& name : names_) classes_.emplace(name, rules.classify(info_of(name)));
    tie();
    for (index_t k = 0; k < std::ssize(experts_); ++k) compare(k, rules);
    list_copied();
    make_groups(rules);
  }
  /// The same for a base that is opened here.
  checkpoint_set(const std::string& base, const std::vector<task_file>& experts,
                 const model::name_rules& rules, merge_policy policy = {})
      : checkpoint_set(io::checkpoint(base), experts, rules, std::move(policy)) {}

  const io::checkpoint& base_file() const { return base_; }
  const io::checkpoint& expert_file(index_t k) const {
    return experts_[static_cast<std::size_t>(k)];
  }
  const merge_policy& policy() const { return policy_; }
  /// The tensors of the merged network, in the order of the base.
  const std::vector<std::string>& names() const { return names_; }
  /// Those that are not merged but copied from the base, bit for bit.
  const std::vector<std::string>& fixed() const { return fixed_; }
  /// Why one of fixed() is copied, in words.
  std::string why_copied(const std::string& name) const {
    if (!policy_.merged(name)) return "--include or --exclude";
    if (codes_[0].keeps(name)) return "the scale of codes that are copied";
    const auto& c = classes_.at(name);
    if (c.kind == model::parameter_kind::packed)
      return "not floating-point, and the same in every expert that has it";
    return "the rule '" + c.rule + "'";
  }
  /// Tensors of the base that are another one of it under a second name: they get its merged
  /// values.
  const std::map<std::string, std::string>& tied() const { return tied_; }
  /// Warnings about the files, a sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// Tensors of experts that the base does not have and that are not merged: integers, and what a
  /// rule calls fixed. Sentences' worth: "NAME of 'TASK'".
  const std::vector<std::string>& ignored() const { return ignored_; }
  /// Whether a tensor of the base is stored as 8-bit floats and written as other ones.
  bool decoded(const std::string& name) const { return codes_[0].reads(base_.at(name)); }
  /// A tensor of the base as it enters the merge: codes with scales are BF16.
  io::tensor_info info_of(const std::string& name) const {
    const auto& entry = base_.at(name);
    return {name, decoded(name) ? io::dtype::bf16 : entry.type, entry.shape};
  }
  const model::classification& class_of(const std::string& name) const { return classes_.at(name); }
  /// The part of a tensor that a parameter is.
  piece piece_of(const parameter_info& p) const {
    const auto found = pieces_.find(p.name);
    if (found != pieces_.end()) return found->second;
    return {p.name, 0, extents(base_.at(p.name), p.name).first};
  }
  /// Rows and columns of a parameter as they are stored.
  std::pair<index_t, index_t> stored_extents(const parameter_info& p) const {
    const piece part = piece_of(p);
    return {part.count, extents(base_.at(part.tensor), part.tensor).second};
  }
  /// Whether a tensor is not trimmed on purpose: by an option, by a rule of the user's, or by that
  /// of a known network.
  bool left_alone(const std::string& name) const {
    if (policy_.left_out(name) || !policy_.merged(name)) return true;
    const auto found = classes_.find(tensor_of(name));
    if (found == classes_.end() || found->second.trim) return false;
    return found->second.source == model::rule_source::network ||
           found->second.source == model::rule_source::user;
  }
  /// The name of the tensor that a parameter, or a piece of one, belongs to.
  const std::string& tensor_of(const std::string& parameter) const {
    const auto found = pieces_.find(parameter);
    return found == pieces_.end() ? parameter : found->second.tensor;
  }

  /// All names of a tensor: its own, and those tied to it, in the base or in an expert alone.
  std::vector<std::string> names_of(const std::string& tensor) const {
    std::vector<std::string> list{tensor};
    for (const auto& [alias, owner] : owner_of_)
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
    return as_read(rows_of(base_.at(tensor_of(p.name)), p, codes_[0]), p);
  }
  host_const_view expert(index_t k, const parameter_info& p) {
    const auto& codes = codes_[static_cast<std::size_t>(k) + 1];
    const piece part = piece_of(p);
    const auto& base_entry = base_.at(part.tensor);
    const auto* entry = expert_entry(k, part.tensor);
    if (entry == nullptr) return as_read(rows_of(base_entry, p, codes_[0]), p);
    if (entry->shape == base_entry.shape) return as_read(rows_of(*entry, p, codes), p);
    // Of a table of another height: the rows that both have.
    const auto stored = rows_of(base_entry, p, codes_[0]);
    const index_t height = extents(*entry, part.tensor).first;
    const index_t common = std::clamp<index_t>(height - part.first, 0, part.count);
    const auto own = window_of(*entry, part.tensor, std::min(part.first, height), common, codes);
    return as_read(windows_.patched(stored, own), p);
  }
  void release(const parameter_group& group) {
    windows_.clear();
    for (const auto& p : group)
      for_bytes_of(
          p, [](const io::checkpoint& file, auto name, auto part) { file.release(name, part); });
    if (++released_ == groups_.size()) released_ = ahead_ = 0;  // another pass begins
  }

 private:
  /// How a tensor is read as a matrix.
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
    const auto known = [&](const std::string& name) { return base_.find(name) != nullptr; };
    for (std::size_t k = 0; k < experts_.size(); ++k) {
      std::vector<rename_rule> rules;
      std::vector<std::size_t> which;
      for (std::size_t r = 0; r < policy_.renames.size(); ++r)
        if (const auto& whose = policy_.renames[r].expert(); whose.empty() || whose == tasks_[k]) {
          rules.push_back(policy_.renames[r]);
          which.push_back(r);
        }
      std::vector<std::size_t> mine(rules.size());
      experts_[k].rename(
          [&](const std::string& name) { return renamed(name, rules, known, mine); });
      for (std::size_t i = 0; i < mine.size(); ++i) used[which[i]] += mine[i];
    }
    for (std::size_t r = 0; r < used.size(); ++r)
      if (used[r] == 0)
        throw error("--rename '" + policy_.renames[r].text() +
                    "': it changes no name of an expert that the base does not have");
  }

  void check_contradictions() {
    std::string list;
    for (std::size_t k = 0; k < experts_.size(); ++k)
      for (const auto& sentence : contradictions_of(base_, experts_[k])) {
        if (policy_.contradictions_pass)
          warnings_.push_back("expert '" + tasks_[k] + "' contradicts the base: " + sentence);
        else
          list +=
              "\n  expert '" + tasks_[k] + "' (" + experts_[k].path().string() + "): " + sentence;
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

  /// Whether all but the first extent agree, and the policy allows for that.
  bool fits_resized(const io::tensor_entry& a, const io::tensor_entry& b) const {
    return policy_.resized.match(a.name) && !a.shape.empty() && a.shape.size() == b.shape.size() &&
           std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1);
  }

  /// Finds what is one parameter under two names; see tied.hpp.
  void tie() {
    std::vector<std::string> all = names_;
    for (const auto& expert : experts_)
      for (const auto& name : expert.names())
        if (base_.find(name) == nullptr && !policy_.left_out(name) &&
            model::tie_class_of(name) != model::tie_class::none &&
            std::find(all.begin() + std::ssize(names_), all.end(), name) == all.end())
          all.push_back(name);
    auto found = find_ties(base_, experts_, all, declared_ties(base_));
    owner_of_ = std::move(found.owner_of);
    warnings_.insert(warnings_.end(), found.contradictions.begin(), found.contradictions.end());
    for (const auto& [alias, owner] : owner_of_) {
      if (base_.find(alias) == nullptr) continue;
      if (policy_.merged(alias) != policy_.merged(owner))
        throw error(base_.path().string() + ": '" + alias + "' and '" + owner +
                    "' are tied: --include and --exclude must take both or neither");
      tied_.emplace(alias, owner);
    }
  }

  bool is_copied(const std::string& name) const {
    const auto kind = classes_.at(name).kind;
    return !policy_.merged(name) || codes_[0].keeps(name) || kind == model::parameter_kind::fixed ||
           kind == model::parameter_kind::packed;
  }

  void compare(index_t k, const model::name_rules& rules) {
    const auto& expert = expert_file(k);
    const auto& codes = codes_[static_cast<std::size_t>(k) + 1];
    const auto& task = tasks_[static_cast<std::size_t>(k)];
    expert_differences found;
    std::size_t taking_part = 0;
    for (const auto& name : names_) {
      const auto& c = classes_.at(name);
      // A rule or an option chose the base's tensor: the expert's is not compared.
      if (!policy_.merged(name) || codes_[0].keeps(name) || c.kind == model::parameter_kind::fixed)
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
      if (entry == nullptr && tied_.contains(name)) continue;  // its owner stands for it
      if (entry == nullptr) {
        if (!policy_.base_for_missing) found.missing.push_back(name);
      } else if (entry->shape != wanted.shape && !fits_resized(wanted, *entry)) {
        found.others.push_back("'" + name + "': expected " + io::to_string(wanted.shape) +
                               ", found " + io::to_string(entry->shape));
      } else if (!io::scalar_of(entry->type) && !codes.reads(*entry)) {
        found.others.push_back("'" + name + "': expected " + io::describe(wanted) + ", found " +
                               io::describe(*entry));
      } else {
        ++taking_part;
      }
    }
    for (const auto& name : expert.names()) {
      if (base_.find(name) != nullptr || policy_.left_out(name) || !policy_.merged(name) ||
          codes.hides(name) || codes.keeps(name) || owner_of_.contains(name))
        continue;
      const auto& entry = expert.at(name);
      const bool computed = io::scalar_of(entry.type) || codes.reads(entry);
      if (!computed ||
          rules.classify({name, entry.type, entry.shape}).kind == model::parameter_kind::fixed)
        ignored_.push_back(name + " of '" + task + "'");
      else
        found.extra.push_back(name);
    }
    found.require_none(expert.path().string() + ": expert '" + task + "'", task,
                       base_.path().string());
    if (taking_part == 0)
      throw error(expert.path().string() + ": expert '" + task +
                  "' takes part with no tensor: what it holds has other names than the base's, or "
                  "is left out (--rename, --drop, --include and --exclude say what is what)");
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
      parameter_group infos;
      for (const auto& name : group.names) {
        const auto& c = classes_.at(name);
        if (is_copied(name) || tied_.contains(name)) continue;
        const bool transposed = c.layout == model::matrix_layout::in_out &&
                                is_matrix_kind(c.kind) && (!c.stacked || comes_apart(c));
        const parameter_info whole{name, layer_of(c), c.parts, transposed};
        if (comes_apart(c))
          add_stack(whole);
        else if (policy_.pieces && whole.kind == layer_kind::other && !transposed)
          add_pieces(whole);
        else
          infos.push_back(whole);
      }
      if (!infos.empty()) groups_.push_back(std::move(infos));
    }
  }

  /// Groups of one: each matrix or vector of a stack.
  void add_stack(const parameter_info& whole) {
    const auto& entry = base_.at(whole.name);
    const index_t count = entry.shape.front();
    const index_t height = count == 0 ? 0 : extents(entry, whole.name).first / count;
    for (index_t e = 0; e < count; ++e) {
      parameter_info one = whole;
      one.name += "[" + std::to_string(e) + "]";
      pieces_.emplace(one.name, piece{whole.name, e * height, height});
      groups_.push_back({one});
    }
  }

  /// Groups of one: pieces of at most 8 MiB of the base, or the whole where it is no larger. (With
  /// eight experts, 72 MiB of files at a time, which is what an attention's weights take, too.)
  void add_pieces(const parameter_info& whole) {
    constexpr std::size_t most = std::size_t{8} << 20;
    const auto& entry = base_.at(whole.name);
    const auto height = extents(entry, whole.name).first;
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

  /// Rows of a tensor as they are stored.
  host_const_view window_of(const io::tensor_entry& entry, const std::string& tensor, index_t first,
                            index_t count, const quantised_weights& codes) {
    if (codes.reads(entry)) return windows_.keep(codes.decoded(entry, first, count));
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

  /// Calls act(file, name, bytes) for what base and experts hold of a parameter.
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
  std::vector<quantised_weights> codes_;  // of the base, then of the experts
  std::vector<std::string> names_, fixed_, warnings_, ignored_;
  std::unordered_map<std::string, model::classification> classes_;
  std::map<std::string, std::string> owner_of_;  // by alias, in the base or in an expert
  std::map<std::string, std::string> tied_;      // of those, what the base holds
  std::unordered_map<std::string, piece> pieces_;
  std::vector<parameter_group> groups_;
  windows windows_;
  std::size_t released_ = 0, ahead_ = 0;  // groups: the first at work, the last one asked for
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/ties.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// Tied tensors: one parameter under two names, such as an embedding and a decoder's weight.
namespace catmerge::harness {

/// The ties of a base and its experts.
struct tie_list {
  std::map<std::string, std::string> owner_of;  ///< by alias: the first name, with the same values
  std::map<std::string, std::string> in_base;   ///< those of aliases that the base has
  std::vector<std::string> contradictions;      ///< sentences on declared ties with different
                                                ///< values
};

namespace detail {

inline bool same_bytes(const io::tensor_entry& a, const io::tensor_entry& b) {
  return a.type == b.type && a.shape == b.shape &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin());
}

/// Evidence on two names: the files that hold both, and the equality of their values.
struct tie_evidence {
  std::string apart;       ///< the first file that holds both with different values, or empty
  bool together = false;   ///< a file holds both with the same values
  bool one = false;        ///< a file holds the first name alone
  bool other = false;      ///< a file holds the second name alone
  bool same_shape = true;  ///< in all files
};

template <class File>
tie_evidence evidence_of(const std::vector<const File*>& files, const std::string& one,
                         const std::string& other) {
  tie_evidence found;
  const io::tensor_entry* first = nullptr;
  for (const auto* file : files) {
    const auto *a = file->find(one), *b = file->find(other);
    for (const auto* entry : {a, b}) {
      if (entry == nullptr) continue;
      if (first == nullptr) first = entry;
      // (The heights may differ between files: a table may have been resized.)
      found.same_shape =
          found.same_shape && entry->shape.size() == first->shape.size() &&
          (entry->shape.size() < 2 ||
           std::equal(entry->shape.begin() + 1, entry->shape.end(), first->shape.begin() + 1));
    }
    if (a != nullptr && b == nullptr) found.one = true;
    if (a == nullptr && b != nullptr) found.other = true;
    if (a == nullptr || b == nullptr) continue;
    if (same_bytes(*a, *b))
      found.together = true;
    else if (found.apart.empty())
      found.apart = file->path().string();
    file->release(one);
    file->release(other);
  }
  return found;
}

}  // namespace detail

/// Finds tied names in the base and every expert: pairs that model::tie_class_of knows, unless
/// config.json says that output and table are not tied (`declared` is false), or a file holds both
/// with different values. A file may hold either name. The owner is a name of the base, and of a
/// table if there is one. `names`: the candidates. File: io::checkpoint, or another type with its
/// find, path and release.
template <class File>
tie_list find_ties(const File& base, const std::vector<File>& experts,
                   const std::vector<std::string>& names, std::optional<bool> declared) {
  std::vector<const File*> files{&base};
  for (const auto& expert : experts) files.push_back(&expert);
  // Owners come first: names of the base, tables before heads.
  std::vector<std::pair<std::string, model::tie_class>> candidates, owners;
  for (const auto& name : names)
    if (const auto what = model::tie_class_of(name); what != model::tie_class::none)
      candidates.emplace_back(name, what);
  const auto rank = [&](const auto& c) {
    const bool second =
        c.second == model::tie_class::token_head || c.second == model::tie_class::decoder_bias;
    return (base.find(c.first) == nullptr ? 2 : 0) + (second ? 1 : 0);
  };
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  tie_list ties;
  for (const auto& [name, what] : candidates) {
    for (const auto& [owner, owner_class] : owners) {
      if (!model::may_be_tied(what, owner_class) || ties.owner_of.contains(owner)) continue;
      const bool head =
          (what == model::tie_class::token_head) != (owner_class == model::tie_class::token_head);
      if (head && declared == false) continue;
      const auto evidence = detail::evidence_of(files, owner, name);
      if (!evidence.same_shape) continue;
      if (!evidence.apart.empty()) {
        const bool bias =
            what == model::tie_class::decoder_bias || owner_class == model::tie_class::decoder_bias;
        if ((head || bias) && declared == true)
          ties.contradictions.push_back("config.json ties '" + name + "' to '" + owner +
                                        "', and in " + evidence.apart +
                                        " they differ: each is merged by itself");
        continue;
      }
      // No file holds both: they are tied if every file has chosen one of the two.
      const bool alternate = evidence.one && evidence.other;
      if (!evidence.together && !alternate && !(head && declared == true)) continue;
      ties.owner_of.emplace(name, owner);
      break;
    }
    if (!ties.owner_of.contains(name)) owners.emplace_back(name, what);
  }
  for (const auto& [alias, owner] : ties.owner_of)
    if (base.find(alias) != nullptr) ties.in_base.emplace(alias, owner);
  return ties;
}

/// The ties of a merged network with the given names; experts may have other second names. Throws
/// catmerge::error if the policy merges one of two tied names alone.
template <class File>
tie_list merged_ties(const File& base, const std::vector<File>& experts,
                     const std::vector<std::string>& names, const merge_policy& policy,
                     std::optional<bool> declared) {
  std::vector<std::string> all = names;
  for (const auto& expert : experts)
    for (const auto& name : expert.names())
      if (model::tie_class_of(name) != model::tie_class::none && base.find(name) == nullptr &&
          !policy.left_out(name) &&
          std::find(all.begin() + std::ssize(names), all.end(), name) == all.end())
        all.push_back(name);
  auto ties = find_ties(base, experts, all, declared);
  for (const auto& [alias, owner] : ties.in_base)
    if (policy.merged(alias) != policy.merged(owner))
      throw error(base.path().string() + ": '" + alias + "' and '" + owner +
                  "' are tied: --include and --exclude must take both or neither");
  return ties;
}

}  // namespace catmerge::harness

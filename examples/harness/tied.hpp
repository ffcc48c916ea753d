// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <cstring>
#include <map>
#include <string>
#include <vector>

/// Tensors that are one parameter under two names, as an embedding that is a decoder's weight too.
namespace catmerge::harness {

namespace detail {

/// Whether all of a tensor's bytes repeat its first value: zeros and ones say nothing about ties.
inline bool is_constant(const io::tensor_entry& entry) {
  const std::size_t value = io::alignment_of(entry.type), size = entry.bytes.size();
  return size <= value ||
         std::memcmp(entry.bytes.data(), entry.bytes.data() + value, size - value) == 0;
}

/// Some bytes from all over a tensor: enough to tell most apart, with few pages read.
inline std::string probe(const io::tensor_entry& entry) {
  constexpr std::size_t places = 8, width = 64;
  std::string text = io::describe(entry);
  const std::size_t size = entry.bytes.size(), taken = std::min(width, size);
  for (std::size_t i = 0; i < places; ++i) {
    const std::size_t at = (size - taken) / (places - 1) * i;
    text.append(reinterpret_cast<const char*>(entry.bytes.data()) + at, taken);
  }
  return text;
}

inline bool same_bytes(const io::tensor_entry& a, const io::tensor_entry& b) {
  return a.type == b.type && a.shape == b.shape &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin());
}

/// Whether two tensors hold the same in every checkpoint that has both. (Of a tied pair, a file may
/// hold one name only.)
inline bool same_everywhere(const std::vector<const io::checkpoint*>& files, const std::string& one,
                            const std::string& other) {
  for (const auto* file : files) {
    const auto *a = file->find(one), *b = file->find(other);
    if (a == nullptr || b == nullptr) continue;
    const bool same = probe(*a) == probe(*b) && same_bytes(*a, *b);
    file->release(one);
    file->release(other);
    if (!same) return false;
  }
  return true;
}

}  // namespace detail

/// Which of `names` hold the same values as an earlier one, in the base and in every expert that
/// has both: by the later name, the earlier. What was tied when the networks were trained is, and
/// so is what cannot be told from that.
inline std::map<std::string, std::string> find_ties(const io::checkpoint& base,
                                                    const std::vector<io::checkpoint>& experts,
                                                    const std::vector<std::string>& names) {
  std::vector<const io::checkpoint*> files{&base};
  for (const auto& expert : experts) files.push_back(&expert);
  std::map<std::string, std::vector<std::string>> alike;  // by probe, in the base
  for (const auto& name : names) {
    if (!detail::is_constant(base.at(name))) alike[detail::probe(base.at(name))].push_back(name);
    base.release(name);
  }
  std::map<std::string, std::string> ties;
  for (const auto& [probe, group] : alike)
    for (std::size_t i = 1; i < group.size(); ++i)
      for (std::size_t j = 0; j < i && !ties.contains(group[i]); ++j)
        if (!ties.contains(group[j]) && detail::same_everywhere(files, group[j], group[i]))
          ties.emplace(group[i], group[j]);
  return ties;
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "features.hpp"
#include "network_set.hpp"

namespace catmerge::python {

/// Statistics and importances from mappings of Python, a mapping per task, as merge_stream takes
/// them. A mapping without a parameter has no statistics of it.
class network_knowledge {
 public:
  /// Lists without mappings stand for none. Needs the interpreter's lock.
  network_knowledge(const network_set& set, nb::list statistics, nb::list importance)
      : set_(set), statistics_(std::move(statistics)), importance_(std::move(importance)) {
    used_.resize(nb::len(statistics_));
  }

  std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) {
    const nb::gil_scoped_acquire lock;
    const auto place = static_cast<std::size_t>(k);
    if (place >= used_.size()) return std::nullopt;
    const auto found = value(statistics_, place, p.name);
    if (!found) return std::nullopt;
    used_[place].insert(p.name);
    const std::string what = "the statistics of '" + set_.tasks()[place] + "', '" + p.name + "'";
    open_.push_back(features_of(*found, what));
    if (!context<host>().all_finite(open_.back().view.data))
      throw error(what + " hold a value that is not finite");
    return open_.back().view;
  }

  std::optional<host_const_view> importance(index_t k, const parameter_info& p) {
    const nb::gil_scoped_acquire lock;
    const auto place = static_cast<std::size_t>(k);
    const auto& tensor = set_.tensor_of(p.name);
    if (place >= nb::len(importance_)) return std::nullopt;
    const auto found = value(importance_, place, tensor);
    if (!found) return std::nullopt;
    const std::string what = "the importance for '" + set_.tasks()[place] + "', '" + tensor + "'";
    weights_.push_back(array::of(*found, what));
    const array& a = weights_.back();
    const auto [rows, columns] = set_.extents(tensor);
    const auto [first, count] = set_.rows_of(p);
    host_const_view view;
    if (a.shape() != set_.info_of(tensor).shape)
      throw error(what + ": expected " + io::to_string(set_.info_of(tensor).shape) +
                  ", as the base's, found " + io::to_string(a.shape()));
    if (!a.as_matrix(rows, columns, view))
      throw error(what + ": its strides do not show it as a matrix: make it contiguous");
    view = view.window(first, count, 0, columns);
    return p.transposed ? view.transposed() : view;
  }

  void release(const parameter_group&) {
    open_.clear();
    weights_.clear();
  }

  /// Names of statistics that no parameter used, per task, without those of tensors that are left
  /// alone. Needs the interpreter's lock.
  std::vector<std::vector<std::string>> unused() const {
    std::vector<std::vector<std::string>> all;
    for (std::size_t k = 0; k < used_.size(); ++k) {
      all.emplace_back();
      for (nb::handle key : statistics_[k].attr("keys")())
        if (const auto name = nb::cast<std::string>(key); !used_[k].contains(name) && !alone(name))
          all.back().push_back(name);
    }
    return all;
  }

 private:
  static std::optional<nb::object> value(const nb::list& all, std::size_t k,
                                         const std::string& name) {
    const nb::object mapping = all[k];
    if (!nb::cast<bool>(mapping.attr("__contains__")(name))) return std::nullopt;
    return nb::object(mapping[name.c_str()]);
  }

  bool alone(const std::string& name) const {
    if (set_.policy().left_out(name) || !set_.policy().merged(name)) return true;
    const auto& names = set_.names();
    const auto& tensor = set_.tensor_of(name);
    if (std::find(names.begin(), names.end(), tensor) == names.end()) return false;
    const auto& c = set_.class_of(tensor);
    return !c.trim &&
           (c.source == model::rule_source::network || c.source == model::rule_source::user);
  }

  const network_set& set_;
  nb::list statistics_, importance_;
  std::vector<std::set<std::string>> used_;
  std::vector<features> open_;
  std::vector<array> weights_;
};

}  // namespace catmerge::python

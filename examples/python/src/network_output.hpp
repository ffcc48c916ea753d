// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "network_set.hpp"

namespace catmerge::python {

/// The sink of a merge into arrays of the base's family.
class network_output {
 public:
  /// type: of all merged tensors; none: each the base's own.
  network_output(network_set& set, std::optional<io::dtype> type) : set_(set), type_(type) {}

  void put(const parameter_info& p, const host_matrix& merged) {
    const std::string& name = set_.tensor_of(p.name);
    auto found = arrays_.find(name);
    if (found == arrays_.end()) {
      const auto type = type_ ? *io::scalar_of(*type_) : *io::scalar_of(set_.info_of(name).type);
      found = arrays_
                  .emplace(name, array::empty(set_.base_file().get(name).made_by(), type,
                                              set_.info_of(name).shape))
                  .first;
    }
    const host_const_view logical = merged;
    const host_const_view stored = p.transposed ? logical.transposed() : logical;
    const auto [rows, columns] = set_.extents(name);
    const auto [first, count] = set_.rows_of(p);
    const host_view all = whole(found->second, rows, columns);
    const host_view part = context<host>().slice(all, first, count, 0, columns);
    context<host> c;
    c.assign(stored, part);
    if (stored.type != part.type && !c.all_finite(part))
      throw error("'" + name + "': a merged value does not fit " + name_of(part.type) +
                  "; choose a wider out_dtype");
  }

  /// All tensors of the merged network by name, in the order of the base. Copied tensors are the
  /// base's own objects, tied ones are the same object. Needs the interpreter's lock.
  nb::dict finished() const {
    nb::dict result;
    for (const auto& name : set_.names()) {
      const auto tied = set_.tied().find(name);
      const auto found = arrays_.find(tied == set_.tied().end() ? name : tied->second);
      result[name.c_str()] =
          found == arrays_.end() ? set_.base_file().object(name) : found->second.object();
    }
    return result;
  }

 private:
  /// A new array as rows x columns: it is row-major.
  static host_view whole(const array& a, index_t rows, index_t columns) {
    void* const data = const_cast<void*>(a.data());
    const auto typed = [&](auto* elements) {
      return host_view(strided_view<std::remove_pointer_t<decltype(elements)>>{
          elements, rows, columns, columns, 1});
    };
    switch (a.type()) {
      case scalar_type::f64: return typed(static_cast<double*>(data));
      case scalar_type::f32: return typed(static_cast<float*>(data));
      case scalar_type::f16: return typed(static_cast<half*>(data));
      case scalar_type::bf16: break;
    }
    return typed(static_cast<bfloat16*>(data));
  }

  network_set& set_;
  std::optional<io::dtype> type_;
  std::map<std::string, array> arrays_;
};

}  // namespace catmerge::python

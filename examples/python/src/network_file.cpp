// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include "network_file.hpp"

namespace catmerge::python {

namespace {

/// The same elements, one after the other: the array itself or a copy. Needs the lock.
array contiguous(const array& a, const std::string& what) {
  if (a.is_contiguous()) return a;
  const nb::object object = a.object();
  if (a.made_by() == family::torch) return array::of(object.attr("contiguous")(), what);
  return array::of(nb::module_::import_("numpy").attr("ascontiguousarray")(object), what);
}

/// Keeps a Python object, and lets go of it from any thread.
std::shared_ptr<void> kept(nb::handle object) {
  return {nb::borrow(object).release().ptr(), [](void* p) {
            const nb::gil_scoped_acquire lock;
            Py_DECREF(static_cast<PyObject*>(p));
          }};
}

}  // namespace

network_file::network_file(nb::handle mapping, const std::string& words)
    : owner_(kept(mapping)), words_(words) {
  if (!nb::hasattr(mapping, "keys") || !nb::hasattr(mapping, "__getitem__"))
    throw error(words + ": expected a mapping of names to arrays, found " + words_of(mapping));
  const nb::object keys = mapping.attr("keys")();
  for (nb::handle key : keys) {
    std::string name;
    if (!nb::try_cast(key, name)) throw error(words + ": a name is no text, but " + words_of(key));
    names_.push_back(name);
  }
  for (const auto& name : names_) describe(name);
}

network_file network_file::with(const std::vector<std::pair<std::string, nb::object>>& tensors,
                                const std::string& words) const {
  network_file other = *this;
  other.words_ = words;
  other.is_original_ = false;
  for (const auto& [name, tensor] : tensors) {
    if (other.info(name) == nullptr) other.names_.push_back(name);
    other.changed_[name] = kept(tensor);
    other.describe(name);
  }
  return other;
}

void network_file::describe(const std::string& name) {
  auto [type, shape] = described(object(name), words_ + ", '" + name + "'");
  infos_[name] = {name, type, std::move(shape)};
}

const io::tensor_info* network_file::info(const std::string& name) const {
  const auto found = infos_.find(name);
  return found == infos_.end() ? nullptr : &found->second;
}

nb::object network_file::object(const std::string& name) const {
  if (const auto found = changed_.find(name); found != changed_.end())
    return nb::borrow(static_cast<PyObject*>(found->second.get()));
  const nb::handle mapping(static_cast<PyObject*>(owner_.get()));
  return mapping[name.c_str()];
}

const array& network_file::get(const std::string& name) {
  const auto found = open_.find(name);
  if (found != open_.end()) return found->second;
  const nb::gil_scoped_acquire lock;
  return open_.emplace(name, array::of(object(name), words_ + ", '" + name + "'")).first->second;
}

host_const_view network_file::matrix(const std::string& name, index_t rows, index_t columns) {
  const array& a = get(name);
  const auto& shape = infos_.at(name).shape;
  if (a.shape() != shape)
    throw error(words_ + ", '" + name + "': expected " + io::to_string(shape) +
                " as before, found " + io::to_string(a.shape()));
  host_const_view view;
  if (a.as_matrix(rows, columns, view)) return view;
  const nb::gil_scoped_acquire lock;
  array& copy = open_.at(name);
  copy = contiguous(copy, words_ + ", '" + name + "'");
  copy.as_matrix(rows, columns, view);
  return view;
}

void network_file::let_go(const std::string& name) {
  if (open_.erase(name) == 0 || !is_original_) return;
  const nb::gil_scoped_acquire lock;
  const nb::handle mapping(static_cast<PyObject*>(owner_.get()));
  if (nb::hasattr(mapping, "release")) mapping.attr("release")(name);
}

const io::tensor_entry* network_file::find(const std::string& name) const {
  const auto* const known = info(name);
  if (known == nullptr) return nullptr;
  const auto found = entries_.find(name);
  if (found != entries_.end()) return &found->second.described;
  entry e;
  static_cast<io::tensor_info&>(e.described) = *known;
  if (io::scalar_of(known->type)) {
    e.bytes = contiguous(array::of(object(name), words_ + ", '" + name + "'"), words_);
    e.described.bytes = {static_cast<const std::byte*>(e.bytes.data()),
                         static_cast<std::size_t>(e.bytes.size()) * io::size_of(known->type)};
  }
  return &entries_.emplace(name, std::move(e)).first->second.described;
}

}  // namespace catmerge::python

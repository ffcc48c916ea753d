// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <catmerge/io/dtype.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::python {

namespace nb = nanobind;

/// The library that an array comes from, and that its results are allocated by.
enum class family { numpy, torch };

/// An array of Python, used in place: its elements, and what keeps them alive. Copies refer to the
/// same elements. May be copied and destroyed without the interpreter's lock.
class array {
 public:
  array() = default;

  /// Takes a NumPy array, anything else with the buffer protocol, or a tensor that exports DLPack
  /// from the processor's memory (torch). Elements: float64, float32, float16, bfloat16; any
  /// strides, zero and negative ones included; read-only or not. Nothing is copied. `what` names
  /// the array in errors. Throws catmerge::error for anything else. Needs the interpreter's lock.
  static array of(nb::handle object, const std::string& what);

  /// A new array with elements of this type, row-major, with unspecified contents: NumPy's, with
  /// the ml_dtypes package for bfloat16, or torch's. Takes the interpreter's lock.
  static array empty(catmerge::python::family maker, scalar_type type, std::vector<index_t> shape);

  /// The object to return to Python. Needs the interpreter's lock.
  nb::object object() const { return nb::borrow(static_cast<PyObject*>(owner_.get())); }

  catmerge::python::family made_by() const { return family_; }
  scalar_type type() const { return type_; }
  const std::vector<index_t>& shape() const { return shape_; }
  index_t rank() const { return std::ssize(shape_); }

  /// The elements as a matrix, or a vector of d x 1. Throws catmerge::error for other ranks.
  host_const_view view() const;
  /// The same for an array that is written to. Throws catmerge::error if it is read-only.
  host_view writable_view() const;

  /// The elements as rows x columns, in row-major order of the shape: (d_out, rest) of a
  /// convolution. Precondition: as many elements. False if the strides do not allow it.
  bool as_matrix(index_t rows, index_t columns, host_const_view& view) const;

  /// True if the elements follow each other in row-major order without gaps.
  bool is_contiguous() const;
  const void* data() const { return data_; }
  index_t size() const;

 private:
  static array from_buffer(nb::handle object, const std::string& what, bool is_bfloat);
  static array from_dlpack(nb::handle object, const std::string& what);

  std::shared_ptr<void> owner_;     // the Python object
  std::shared_ptr<void> elements_;  // the export that keeps the memory
  catmerge::python::family family_ = catmerge::python::family::numpy;
  scalar_type type_ = scalar_type::f32;
  void* data_ = nullptr;
  std::vector<index_t> shape_, strides_;  // strides in elements
  bool read_only_ = false;
};

/// The storage type and the shape of any array, without access to its elements: "int64" too.
/// Throws catmerge::error for a type that no file of weights has. Needs the interpreter's lock.
std::pair<io::dtype, std::vector<index_t>> described(nb::handle object, const std::string& what);

/// "a NumPy array of int64", "a torch tensor on cuda:0", "a list", for errors.
std::string words_of(nb::handle object);

}  // namespace catmerge::python

namespace catmerge {

/// Arrays of Python are tensors like any other: this is all that the library needs to know of them.
/// Results are arrays of the same family.
template <>
struct tensor_traits<python::array> {
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_const_view view(const python::array& a) { return a.view(); }
  static host_view view(python::array& a) { return a.writable_view(); }
  static python::array make(const python::array& like, index_t rows, index_t columns) {
    std::vector<index_t> shape{rows};
    if (like.rank() != 1) shape.push_back(columns);
    return python::array::empty(like.made_by(), compute_type(like.type()), std::move(shape));
  }
};

}  // namespace catmerge

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include "array.hpp"

#include <array>
#include <string_view>

#include "dlpack.hpp"

namespace catmerge::python {

namespace {

constexpr const char* accepted =
    "accepted are arrays of float64, float32, float16 or bfloat16 in the processor's memory: "
    "NumPy's, torch's, or any that export the buffer protocol or DLPack";

[[noreturn]] void refuse(nb::handle object, const std::string& what, const std::string& hint = "") {
  throw error(what + ": found " + words_of(object) + (hint.empty() ? "" : " (" + hint + ")") +
              "; " + accepted);
}

/// Keeps a Python object, and lets go of it from any thread.
std::shared_ptr<void> kept(nb::object object) {
  return {object.release().ptr(), [](void* p) {
            const nb::gil_scoped_acquire lock;
            Py_DECREF(static_cast<PyObject*>(p));
          }};
}

std::string text_of(nb::handle object) {
  return nb::cast<std::string>(nb::str(object));
}

/// The name of an array's type of elements, "float32" or "torch.float32"; empty without one.
std::string dtype_name(nb::handle object) {
  const nb::object dtype = nb::getattr(object, "dtype", nb::none());
  return dtype.is_none() ? std::string() : text_of(dtype);
}

/// True for an object of a class of this package, or of one that derives from it.
bool comes_from(nb::handle object, std::string_view package) {
  for (nb::handle type : nb::getattr(object.type(), "__mro__")) {
    const auto module = text_of(nb::getattr(type, "__module__", nb::str("")));
    if (module == package || module.starts_with(std::string(package) + ".")) return true;
  }
  return false;
}

bool is_torch(nb::handle object) {
  return comes_from(object, "torch");
}

/// Clears the error of a failed call of the interpreter, and returns its text.
std::string taken_error() {
  nb::python_error problem;
  return problem.what();
}

}  // namespace

std::string words_of(nb::handle object) {
  const bool torch = is_torch(object);
  const std::string type = dtype_name(object);
  if (type.empty()) return "an object of type " + text_of(nb::getattr(object.type(), "__name__"));
  std::string words = torch ? "a torch tensor of " : "an array of ";
  if (!torch && comes_from(object, "numpy")) words = "a NumPy array of ";
  words += type.starts_with("torch.") ? type.substr(6) : type;
  if (torch) {
    if (const auto place = text_of(object.attr("device")); place != "cpu") words += " on " + place;
    if (const auto layout = text_of(object.attr("layout")); layout != "torch.strided")
      words += " with layout " + layout.substr(6);
  }
  return words;
}

array array::of(nb::handle object, const std::string& what) {
  if (nb::isinstance<nb::str>(object) || nb::isinstance<nb::bytes>(object)) refuse(object, what);
  const bool numpy = PyObject_CheckBuffer(object.ptr()) != 0;
  // NumPy has no bfloat16: its arrays of ml_dtypes' export no buffer, but their bits do.
  if (numpy && dtype_name(object) == "bfloat16") {
    array a = from_buffer(object.attr("view")("uint16"), what, true);
    a.owner_ = kept(nb::borrow(object));
    return a;
  }
  if (numpy) return from_buffer(object, what, false);
  if (!nb::hasattr(object, "__dlpack__")) refuse(object, what);
  return from_dlpack(object, what);
}

array array::from_buffer(nb::handle object, const std::string& what, bool is_bfloat) {
  auto export_ = std::shared_ptr<Py_buffer>(new Py_buffer{}, [](Py_buffer* b) {
    const nb::gil_scoped_acquire lock;
    PyBuffer_Release(b);
    delete b;
  });
  if (PyObject_GetBuffer(object.ptr(), export_.get(), PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    taken_error();
    refuse(object, what);
  }
  const Py_buffer& b = *export_;
  std::string_view format = b.format == nullptr ? "B" : b.format;
  if (!format.empty() && (format[0] == '@' || format[0] == '=' || format[0] == '<'))
    format.remove_prefix(1);
  array a;
  if (is_bfloat)
    a.type_ = scalar_type::bf16;
  else if (format == "d")
    a.type_ = scalar_type::f64;
  else if (format == "f")
    a.type_ = scalar_type::f32;
  else if (format == "e")
    a.type_ = scalar_type::f16;
  else
    refuse(object, what, !format.empty() && format[0] == '>' ? "bytes in the other order" : "");
  const auto size = static_cast<index_t>(size_of(a.type_));
  for (int axis = 0; axis < b.ndim; ++axis) {
    const bool one = b.shape[axis] <= 1;
    if (!one && b.strides[axis] % size != 0)
      refuse(object, what, "elements that are not whole strides apart");
    a.shape_.push_back(b.shape[axis]);
    a.strides_.push_back(one ? 1 : b.strides[axis] / size);
  }
  if (reinterpret_cast<std::uintptr_t>(b.buf) % static_cast<std::uintptr_t>(size) != 0)
    refuse(object, what, "elements at addresses that are not aligned");
  a.data_ = b.buf;
  a.read_only_ = b.readonly != 0;
  a.elements_ = std::move(export_);
  a.owner_ = kept(nb::borrow(object));
  return a;
}

array array::from_dlpack(nb::handle given, const std::string& what) {
  nb::object object = nb::borrow(given);
  const bool torch = is_torch(object);
  if (torch) {
    if (text_of(object.attr("layout")) != "torch.strided") refuse(object, what, "not strided");
    if (nb::cast<bool>(object.attr("requires_grad"))) object = object.attr("detach")();
  }
  nb::object capsule;
  try {
    if (nb::hasattr(object, "__dlpack_device__")) {
      const nb::object place = object.attr("__dlpack_device__")();
      const auto type = nb::cast<int>(nb::object(nb::int_(nb::object(place[0]))));
      if (type != dlpack::cpu && type != dlpack::cpu_pinned)
        refuse(given, what,
               "not in the processor's memory: copy it there first, for torch by .cpu()");
    }
    capsule = object.attr("__dlpack__")();
  } catch (const nb::python_error& problem) {
    refuse(given, what, problem.what());
  }
  auto* const managed =
      static_cast<dlpack::managed_tensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (managed == nullptr) refuse(given, what, taken_error());
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");  // it is this array's to delete
  array a;
  a.elements_ = std::shared_ptr<void>(managed, [](void* p) {
    const nb::gil_scoped_acquire lock;
    auto* const m = static_cast<dlpack::managed_tensor*>(p);
    if (m->deleter != nullptr) m->deleter(m);
  });
  const dlpack::tensor& t = managed->self;
  const auto is = [&](std::uint8_t code, int bits) {
    return t.type.code == code && t.type.bits == bits && t.type.lanes == 1;
  };
  if (is(dlpack::code_float, 64))
    a.type_ = scalar_type::f64;
  else if (is(dlpack::code_float, 32))
    a.type_ = scalar_type::f32;
  else if (is(dlpack::code_float, 16))
    a.type_ = scalar_type::f16;
  else if (is(dlpack::code_bfloat, 16))
    a.type_ = scalar_type::bf16;
  else
    refuse(given, what);
  if (t.place.type != dlpack::cpu && t.place.type != dlpack::cpu_pinned)
    refuse(given, what, "not in the processor's memory");
  a.shape_.assign(t.shape, t.shape + t.rank);
  if (t.strides != nullptr) {
    a.strides_.assign(t.strides, t.strides + t.rank);
  } else {
    a.strides_.assign(a.shape_.size(), 1);
    for (std::size_t axis = a.shape_.size(); axis-- > 1;)
      a.strides_[axis - 1] = a.strides_[axis] * a.shape_[axis];
  }
  a.data_ = static_cast<std::byte*>(t.data) + t.byte_offset;
  a.family_ = torch ? family::torch : family::numpy;
  a.owner_ = kept(std::move(object));
  return a;
}

array array::empty(catmerge::python::family maker, scalar_type type, std::vector<index_t> shape) {
  const nb::gil_scoped_acquire lock;
  nb::list extents;
  for (const index_t extent : shape) extents.append(extent);
  const nb::object size = nb::tuple(extents);
  if (maker == family::torch) {
    const nb::object torch = nb::module_::import_("torch");
    return of(torch.attr("empty")(size, nb::arg("dtype") = torch.attr(name_of(type))), "a result");
  }
  const nb::object dtype = type == scalar_type::bf16
                               ? nb::object(nb::module_::import_("ml_dtypes").attr("bfloat16"))
                               : nb::object(nb::str(name_of(type)));
  return of(nb::module_::import_("numpy").attr("empty")(size, dtype), "a result");
}

index_t array::size() const {
  index_t all = 1;
  for (const index_t extent : shape_) all *= extent;
  return all;
}

bool array::is_contiguous() const {
  index_t step = 1;
  for (std::size_t axis = shape_.size(); axis-- > 0;) {
    if (shape_[axis] == 0) return true;
    if (shape_[axis] != 1 && strides_[axis] != step) return false;
    step *= shape_[axis];
  }
  return true;
}

host_const_view array::view() const {
  if (rank() == 1) return {data_, type_, shape_[0], 1, strides_[0], 1};
  if (rank() == 2) return {data_, type_, shape_[0], shape_[1], strides_[0], strides_[1]};
  throw error("expected a matrix or a vector, found an array of " + std::to_string(rank()) +
              " axes: reshape it, a convolution's weight to (d_out, rest)");
}

host_view array::writable_view() const {
  if (read_only_) throw error("an array that is written to is read-only");
  const host_const_view v = view();
  const auto typed = [&]<class S>(S*) {
    return host_view(
        strided_view<S>{static_cast<S*>(data_), v.rows, v.columns, v.row_stride, v.column_stride});
  };
  switch (type_) {
    case scalar_type::f64: return typed(static_cast<double*>(nullptr));
    case scalar_type::f32: return typed(static_cast<float*>(nullptr));
    case scalar_type::f16: return typed(static_cast<half*>(nullptr));
    case scalar_type::bf16: break;
  }
  return typed(static_cast<bfloat16*>(nullptr));
}

bool array::as_matrix(index_t rows, index_t columns, host_const_view& view) const {
  if (rows == 0 || columns == 0) {
    view = {data_, type_, rows, columns, 1, 1};
    return true;
  }
  // Axes of one element tell nothing. Neighbours join if the outer one steps over the inner one.
  std::vector<std::pair<index_t, index_t>> axes;  // extent, stride
  for (std::size_t axis = 0; axis < shape_.size(); ++axis)
    if (shape_[axis] != 1) axes.emplace_back(shape_[axis], strides_[axis]);
  const auto step_of = [&](index_t count, index_t& step, std::size_t& next) {
    index_t joined = 1;
    step = 1;
    while (joined < count) {
      if (next >= axes.size()) return false;
      const auto [extent, stride] = axes[next++];
      if (joined > 1 && step != stride * extent) return false;
      joined *= extent;
      step = stride;
    }
    return joined == count;
  };
  std::size_t next = 0;
  index_t row_step = 1, column_step = 1;
  if (!step_of(rows, row_step, next) || !step_of(columns, column_step, next)) {
    // Extents that cut through an axis: only rows without gaps can be cut anywhere.
    if (!is_contiguous()) return false;
    row_step = columns;
    column_step = 1;
  }
  view = {data_, type_, rows, columns, row_step, column_step};
  return true;
}

std::pair<io::dtype, std::vector<index_t>> described(nb::handle object, const std::string& what) {
  using io::dtype;
  static constexpr std::array<std::pair<std::string_view, dtype>, 16> names = {
      {{"float64", dtype::f64},
       {"float32", dtype::f32},
       {"float16", dtype::f16},
       {"bfloat16", dtype::bf16},
       {"int64", dtype::i64},
       {"int32", dtype::i32},
       {"int16", dtype::i16},
       {"int8", dtype::i8},
       {"uint64", dtype::u64},
       {"uint32", dtype::u32},
       {"uint16", dtype::u16},
       {"uint8", dtype::u8},
       {"bool", dtype::boolean},
       {"complex64", dtype::c64},
       {"float8_e4m3fn", dtype::f8_e4m3},
       {"float8_e5m2", dtype::f8_e5m2}}};
  std::string name = dtype_name(object);
  if (name.starts_with("torch.")) name = name.substr(6);
  for (const auto& [known, type] : names) {
    if (known != name) continue;
    std::vector<index_t> shape;
    for (nb::handle extent : object.attr("shape")) shape.push_back(nb::cast<index_t>(extent));
    return {type, std::move(shape)};
  }
  refuse(object, what);
}

}  // namespace catmerge::python

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/statistics.hpp>
#include <harness/checkpoints/contradictions.hpp>
#include <harness/checkpoints/model_type.hpp>
#include <memory>

#include "bindings.hpp"
#include "features.hpp"

namespace catmerge::python {

namespace {

/// The bits of a tensor in a file as a read-only NumPy array, without a copy: integers for types
/// that NumPy lacks. It keeps the file open.
template <class File>
nb::object bits_of(const std::shared_ptr<File>& file, const io::tensor_entry& entry) {
  using code = nb::dlpack::dtype_code;
  const auto element = [&]() -> nb::dlpack::dtype {
    const auto bits = static_cast<std::uint8_t>(io::bits_of(entry.type));
    switch (entry.type) {
      case io::dtype::f64:
      case io::dtype::f32:
      case io::dtype::f16: return {static_cast<std::uint8_t>(code::Float), bits, 1};
      case io::dtype::i64:
      case io::dtype::i32:
      case io::dtype::i16:
      case io::dtype::i8: return {static_cast<std::uint8_t>(code::Int), bits, 1};
      case io::dtype::boolean: return {static_cast<std::uint8_t>(code::Bool), 8, 1};
      case io::dtype::c64: return {static_cast<std::uint8_t>(code::Complex), 64, 1};
      default: break;
    }
    if (bits < 8)
      throw error("'" + entry.name + "': " + io::describe(entry) + " has no array in NumPy");
    return {static_cast<std::uint8_t>(code::UInt), bits, 1};
  }();
  std::vector<std::size_t> shape;
  for (const index_t extent : entry.shape) shape.push_back(static_cast<std::size_t>(extent));
  const nb::capsule owner(new std::shared_ptr<File>(file),
                          [](void* p) noexcept { delete static_cast<std::shared_ptr<File>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, nb::ro>(entry.bytes.data(), shape.size(), shape.data(),
                                                 owner, nullptr, element));
}

/// "float32" of F32, as arrays call it.
std::string array_type(io::dtype type) {
  switch (type) {
    case io::dtype::f64: return "float64";
    case io::dtype::f32: return "float32";
    case io::dtype::f16: return "float16";
    case io::dtype::bf16: return "bfloat16";
    case io::dtype::f8_e4m3: return "float8_e4m3fn";
    case io::dtype::f8_e5m2: return "float8_e5m2";
    case io::dtype::i64: return "int64";
    case io::dtype::i32: return "int32";
    case io::dtype::i16: return "int16";
    case io::dtype::i8: return "int8";
    case io::dtype::u64: return "uint64";
    case io::dtype::u32: return "uint32";
    case io::dtype::u16: return "uint16";
    case io::dtype::u8: return "uint8";
    case io::dtype::boolean: return "bool";
    case io::dtype::c64: return "complex64";
    default: return std::string(io::name_of(type));
  }
}

struct stored_checkpoint {
  std::shared_ptr<io::checkpoint> file;
};

struct stored_statistics {
  std::shared_ptr<io::statistics_file> file;
};

}  // namespace

void bind_files(nb::module_& m) {
  nb::class_<stored_checkpoint>(m, "stored_checkpoint")
      .def("__init__",
           [](stored_checkpoint* self, const std::string& path) {
             new (self) stored_checkpoint{std::make_shared<io::checkpoint>(path)};
           })
      .def("names", [](const stored_checkpoint& c) { return c.file->names(); })
      .def("has", [](const stored_checkpoint& c,
                     const std::string& name) { return c.file->find(name) != nullptr; })
      .def("bits", [](const stored_checkpoint& c,
                      const std::string& name) { return bits_of(c.file, c.file->at(name)); })
      .def("type", [](const stored_checkpoint& c,
                      const std::string& name) { return array_type(c.file->at(name).type); })
      .def("release",
           [](const stored_checkpoint& c, const std::string& name) { c.file->release(name); })
      .def("warnings", [](const stored_checkpoint& c) { return c.file->warnings(); })
      .def("metadata", [](const stored_checkpoint& c) { return c.file->metadata(); })
      .def("model_type", [](const stored_checkpoint& c) { return harness::model_type_of(*c.file); })
      .def("tied", [](const stored_checkpoint& c) { return harness::declared_ties(*c.file); });
  nb::class_<stored_statistics>(m, "stored_statistics")
      .def("__init__",
           [](stored_statistics* self, const std::string& path) {
             new (self) stored_statistics{std::make_shared<io::statistics_file>(path)};
           })
      .def("names", [](const stored_statistics& s) { return s.file->names(); })
      .def("has", [](const stored_statistics& s,
                     const std::string& name) { return s.file->find(name) != nullptr; })
      .def("bits", [](const stored_statistics& s,
                      const std::string& name) { return bits_of(s.file, *s.file->at(name).data); })
      .def("type", [](const stored_statistics& s,
                      const std::string& name) { return array_type(s.file->at(name).data->type); })
      .def("form",
           [](const stored_statistics& s, const std::string& name) {
             return std::string(name_of(s.file->at(name).form));
           })
      .def("rows", [](const stored_statistics& s,
                      const std::string& name) { return s.file->at(name).row_count; })
      .def("release",
           [](const stored_statistics& s, const std::string& name) { s.file->release(name); });
}

}  // namespace catmerge::python

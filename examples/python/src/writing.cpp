// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <catmerge/io/safetensors_writer.hpp>
#include <cstddef>
#include <span>

#include "array.hpp"
#include "bindings.hpp"

namespace catmerge::python {

namespace {

/// Writes row-major arrays to a safetensors file, which replaces one of its name once it is whole.
void write_arrays(const std::string& path, const std::vector<std::string>& names, nb::list arrays,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<array> all;
  std::vector<io::tensor_info> infos;
  for (std::size_t i = 0; i < names.size(); ++i) {
    all.push_back(array::of(arrays[i], names[i]));
    if (!all.back().is_contiguous())
      throw error(names[i] + ": expected an array whose elements follow each other");
    infos.push_back({names[i], described(arrays[i], names[i]).first, all.back().shape()});
  }
  const nb::gil_scoped_release unlocked;
  io::safetensors_writer writer(path, infos, {metadata.begin(), metadata.end()},
                                io::existing::replace);
  for (std::size_t i = 0; i < names.size(); ++i)
    writer.write(names[i], {static_cast<const std::byte*>(all[i].data()),
                            static_cast<std::size_t>(all[i].size()) *
                                static_cast<std::size_t>(io::bits_of(infos[i].type)) / 8});
  writer.commit();
}

}  // namespace

void bind_writing(nb::module_& m) {
  m.def("write_arrays", &write_arrays, nb::arg("path"), nb::arg("names"), nb::arg("arrays"),
        nb::arg("metadata"));
}

}  // namespace catmerge::python

# Tensor libraries for this project's own programs, besides Eigen. An option that is ON finds its library and makes its
# target: catmerge_torch, catmerge_xtensor, catmerge_armadillo. Nothing here reaches a project that uses catmerge: an
# adapter is a header, and its user brings the library.
option(CATMERGE_TORCH "Build the examples and tests that use libtorch" OFF)
option(CATMERGE_XTENSOR "Build the examples and tests that use xtensor" OFF)
option(CATMERGE_ARMADILLO "Build the examples and tests that use Armadillo" OFF)

# catmerge_backend(NAME PACKAGE HEADERS FILE... [LIBRARIES LIBRARY...] [PREFIXES DIRECTORY...]): the target
# catmerge_NAME, from files in PREFIXES, in CMAKE_PREFIX_PATH or in the system's directories. PACKAGE is its name in
# Debian.
function(catmerge_backend name package)
  cmake_parse_arguments(PARSE_ARGV 2 backend "" "" "HEADERS;LIBRARIES;PREFIXES")
  add_library(catmerge_${name} INTERFACE)
  string(TOUPPER CATMERGE_${name} option)
  foreach(kind HEADERS LIBRARIES)
    foreach(file IN LISTS backend_${kind})
      string(MAKE_C_IDENTIFIER "${option}_${kind}_${file}" place)
      if(kind STREQUAL HEADERS)
        find_path(${place} ${file} HINTS ${backend_PREFIXES}
                  PATH_SUFFIXES include ${name}/csrc/api/include include/${name}/csrc/api/include)
        target_include_directories(catmerge_${name} SYSTEM INTERFACE ${${place}})
      else()
        find_library(${place} ${file} HINTS ${backend_PREFIXES} PATH_SUFFIXES lib)
        target_link_libraries(catmerge_${name} INTERFACE ${${place}})
      endif()
      mark_as_advanced(${place})
      if(NOT ${place})
        message(FATAL_ERROR "${option} is ON and ${file} was not found. Install ${package} (its name in Debian), or set "
                "CMAKE_PREFIX_PATH or ${place} to its directory, or ${option} to OFF.")
      endif()
    endforeach()
  endforeach()
endfunction()

if(CATMERGE_TORCH)
  # PyTorch's prefix (torch.utils.cmake_prefix_path) is a directory of CMake files; headers and libraries lie two levels
  # above. Its package is not loaded: that of a build for CUDA ends every configuration on a machine without CUDA's
  # compiler. Only the definition that selects the libraries' std::string is read from it.
  set(torch_prefixes "")
  set(torch_definitions "")
  string(REPLACE ":" ";" torch_places "$ENV{CMAKE_PREFIX_PATH}")
  set(torch_places ${CMAKE_PREFIX_PATH} ${torch_places})
  list(TRANSFORM torch_places APPEND /share/cmake OUTPUT_VARIABLE torch_packages)
  foreach(place IN LISTS torch_places torch_packages)
    if(EXISTS ${place}/Torch/TorchConfig.cmake)
      get_filename_component(torch_prefixes ${place}/../.. ABSOLUTE)
      file(STRINGS ${place}/Torch/TorchConfig.cmake flags REGEX "set\\(TORCH_CXX_FLAGS")
      string(REGEX MATCH "_GLIBCXX_USE_CXX11_ABI=[01]" torch_definitions "${flags}")
      break()
    endif()
  endforeach()
  # <torch/...> lies in a directory of its own, torch/csrc/api/include (PATH_SUFFIXES above).
  catmerge_backend(torch libtorch-dev HEADERS ATen/core/Tensor.h torch/all.h LIBRARIES torch_cpu c10
                   PREFIXES ${torch_prefixes})
  target_compile_definitions(catmerge_torch INTERFACE ${torch_definitions})
endif()
if(CATMERGE_XTENSOR)
  # The folder, because the headers in it moved in 0.26; and xtl, a package of its own that it includes.
  catmerge_backend(xtensor libxtensor-dev HEADERS xtensor xtl/xtl_config.hpp)
endif()
if(CATMERGE_ARMADILLO)
  catmerge_backend(armadillo libarmadillo-dev HEADERS armadillo LIBRARIES armadillo)
endif()

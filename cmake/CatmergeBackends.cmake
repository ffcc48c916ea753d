# Tensor libraries that this project's own programs can use besides Eigen. Each is looked for only when its option asks
# for it, and is then a target: catmerge_torch, catmerge_xtensor, catmerge_armadillo. Nothing here reaches a project
# that uses the library: an adapter is a header, and whoever includes one has its library.
option(CATMERGE_TORCH "Build the examples and tests that use libtorch" OFF)
option(CATMERGE_XTENSOR "Build the examples and tests that use xtensor" OFF)
option(CATMERGE_ARMADILLO "Build the examples and tests that use Armadillo" OFF)

# catmerge_backend(NAME PACKAGE HEADERS FILE... [LIBRARIES LIBRARY...]): the target catmerge_NAME, of what lies where the
# system keeps it or in CMAKE_PREFIX_PATH. PACKAGE is Debian's name of it.
function(catmerge_backend name package)
  cmake_parse_arguments(PARSE_ARGV 2 backend "" "" "HEADERS;LIBRARIES")
  add_library(catmerge_${name} INTERFACE)
  string(TOUPPER CATMERGE_${name} option)
  foreach(kind HEADERS LIBRARIES)
    foreach(file IN LISTS backend_${kind})
      string(MAKE_C_IDENTIFIER "${option}_${kind}_${file}" place)
      if(kind STREQUAL HEADERS)
        find_path(${place} ${file} PATH_SUFFIXES ${name}/csrc/api/include)
        target_include_directories(catmerge_${name} SYSTEM INTERFACE ${${place}})
      else()
        find_library(${place} ${file})
        target_link_libraries(catmerge_${name} INTERFACE ${${place}})
      endif()
      mark_as_advanced(${place})
      if(NOT ${place})
        message(FATAL_ERROR "${option} is ON and ${file} was not found. Install ${package} (Debian's name of it), or set "
                "CMAKE_PREFIX_PATH or ${place} to where it lies, or ${option} to OFF.")
      endif()
    endforeach()
  endforeach()
endfunction()

if(CATMERGE_TORCH)
  # <torch/...> lies in a directory of its own, torch/csrc/api/include (PATH_SUFFIXES above).
  catmerge_backend(torch libtorch-dev HEADERS ATen/core/Tensor.h torch/all.h LIBRARIES torch_cpu c10)
endif()
if(CATMERGE_XTENSOR)
  catmerge_backend(xtensor libxtensor-dev HEADERS xtensor/xtensor.hpp)
endif()
if(CATMERGE_ARMADILLO)
  catmerge_backend(armadillo libarmadillo-dev HEADERS armadillo LIBRARIES armadillo)
endif()

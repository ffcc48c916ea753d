# Writes the core, all headers under catmerge/catmerge.hpp, as one header, OUTPUT/catmerge_all.hpp. Also writes
# OUTPUT/catmerge/, a replacement for include/catmerge: headers of the core forward to the one header there, the others
# (adapters of other libraries, io/, model/) are copies. The same headers give the same bytes.
#
#     cmake -DROOT=CHECKOUT -DOUTPUT=DIRECTORY -P cmake/amalgamate.cmake
cmake_minimum_required(VERSION 3.16)
if(NOT ROOT OR NOT OUTPUT)
  message(FATAL_ERROR "usage: cmake -DROOT=CHECKOUT -DOUTPUT=DIRECTORY -P amalgamate.cmake")
endif()
get_filename_component(include "${ROOT}/include" REALPATH)
get_filename_component(output "${OUTPUT}" REALPATH BASE_DIR "${CMAKE_BINARY_DIR}")
if(output STREQUAL include)
  message(FATAL_ERROR "${OUTPUT} holds the sources, and would be overwritten")
endif()

# The first lines of every header.
set(licence "// catmerge: conflict-aware task merging for any tensor backend.\n// SPDX-License-Identifier: MIT\n")
set(opening "${licence}#pragma once\n")
string(LENGTH "${opening}" opening_length)

# take(HEADER): adds the headers that HEADER includes, then HEADER, to the global property `body`, each once; `taken`
# lists them. (Global properties, because a function that calls itself cannot change its caller's variables; and whole
# texts, never lists of lines, because of the semicolons.)
function(take header)
  get_property(taken GLOBAL PROPERTY taken)
  if(header IN_LIST taken)
    return()
  endif()
  # Before its includes, as #pragma once does.
  set_property(GLOBAL APPEND PROPERTY taken "${header}")

  file(READ "${include}/${header}" text)
  string(FIND "${text}" "${opening}" position)
  if(NOT position EQUAL 0)
    message(FATAL_ERROR "${header} does not begin with\n${opening}")
  endif()
  string(SUBSTRING "${text}" ${opening_length} -1 text)

  string(REGEX MATCHALL "\n#include <catmerge/[^>\n]+>" lines "${text}")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^\n#include <(.+)>$" "\\1" needed "${line}")
    take("${needed}")
  endforeach()
  string(FIND "${text}" "\n#include <catmerge/" position REVERSE)
  string(SUBSTRING "${text}" 0 ${position} before)
  if(lines AND before MATCHES "\n[ \t]*#[ \t]*if")
    message(FATAL_ERROR "${header}: an #include <catmerge/...> after an #if, which would become unconditional here")
  endif()

  # Other includes keep their place, so that one under an #if stays under it.
  string(REGEX REPLACE "\n#include <catmerge/[^\n]+" "" text "${text}")
  if(text MATCHES "\n[ \t]*#[ \t]*include[ \t]*(<catmerge/|\")")
    message(FATAL_ERROR "${header}: own headers have to be included by lines that begin #include <catmerge/")
  endif()

  # The umbrella header has no code of its own.
  string(REGEX REPLACE "//[^\n]*" "" code "${text}")
  string(STRIP "${code}" code)
  if(NOT code STREQUAL "")
    string(STRIP "${text}" text)
    # A comment and no #line: users of this file do not have the file that #line would name.
    set_property(GLOBAL APPEND_STRING PROPERTY body "\n// ======== ${header} ========\n\n${text}\n")
  endif()
endfunction()

take(catmerge/catmerge.hpp)
get_property(taken GLOBAL PROPERTY taken)
get_property(body GLOBAL PROPERTY body)

file(STRINGS "${include}/catmerge/version.hpp" version_lines REGEX "#define CATMERGE_VERSION_(MAJOR|MINOR|PATCH)")
string(REGEX REPLACE "[^0-9;]" "" version "${version_lines}")
string(REPLACE ";" "." version "${version}")
# The whole licence, because this file travels alone.
file(READ "${ROOT}/LICENSE" terms)
string(STRIP "${terms}" terms)
string(REPLACE "\n" "\n// " terms "// ${terms}")
string(REPLACE "// \n" "//\n" terms "${terms}")

file(WRITE "${output}/catmerge_all.hpp" "${licence}//
// Version ${version}: the core, all of <catmerge/catmerge.hpp>, in one header. C++20; needs Eigen 3.4 or newer and nothing
// else. Made by cmake/amalgamate.cmake out of the headers whose names stand below: change those, not this. Not to be
// included together with them.
//
${terms}
#pragma once
${body}")

file(GLOB_RECURSE headers RELATIVE "${include}" "${include}/catmerge/*.hpp")
file(GLOB_RECURSE old RELATIVE "${output}" "${output}/catmerge/*.hpp")
foreach(header IN LISTS old)
  if(NOT header IN_LIST headers)
    file(REMOVE "${output}/${header}")
  endif()
endforeach()
foreach(header IN LISTS headers)
  if(header IN_LIST taken)
    file(WRITE "${output}/${header}" "${licence}#pragma once\n\n#include <catmerge_all.hpp>\n")
  else()
    configure_file("${include}/${header}" "${output}/${header}" COPYONLY)
  endif()
endforeach()

# One project that uses catmerge, from nothing to its exit status, as on a user's machine. Everything happens in a new
# directory among the system's temporary ones, away from the build tree, and is removed at the end.
#
#     cmake -DCASE=... -DCHECKOUT=... -DVERSION=... -DGENERATOR=... -DCOMPILER=... [-DHINTS=...] [-DSYSTEM_INCLUDES=...]
#           -P run.cmake
#
# CASE: a directory beside this file, or `plain` (a compiler's command line, no CMake) or `amalgamated` (the one-header
# form, in two translation units). HINTS: arguments for cmake that say where the libraries lie.
cmake_minimum_required(VERSION 3.16)

# The surroundings' flags would hide what comes from us, and what doesn't.
foreach(variable CXXFLAGS CPPFLAGS LDFLAGS CMAKE_BUILD_TYPE CMAKE_PREFIX_PATH DESTDIR)
  unset(ENV{${variable}})
endforeach()

if(DEFINED ENV{TMPDIR})
  set(scratch "$ENV{TMPDIR}")
else()
  set(scratch /tmp)
endif()
string(RANDOM LENGTH 12 random)
string(APPEND scratch "/catmerge_consumer_${random}")
file(MAKE_DIRECTORY "${scratch}/elsewhere")

function(fail why)
  file(REMOVE_RECURSE "${scratch}")
  message(FATAL_ERROR "${why}")
endfunction()

# must(COMMAND...): runs it, in a directory that has nothing to do with catmerge.
function(must)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY "${scratch}/elsewhere" RESULT_VARIABLE status
                  OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(REPLACE ";" " " command "${ARGN}")
    fail("${command}\nended with ${status}:\n${output}")
  endif()
endfunction()

set(configure "${CMAKE_COMMAND}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" ${HINTS})
set(without_json -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)

# install_package(): the package under ${scratch}/moved, made on a machine without nlohmann-json, and moved after it
# was installed.
function(install_package)
  must(${configure} -S "${CHECKOUT}" -B "${scratch}/project" -DCATMERGE_TESTS=OFF -DCATMERGE_EXAMPLES=OFF
       -DCATMERGE_IO=ON ${without_json} "-DCMAKE_INSTALL_PREFIX=${scratch}/prefix")
  must("${CMAKE_COMMAND}" --build "${scratch}/project" --target install)
  file(RENAME "${scratch}/prefix" "${scratch}/moved")
  file(REMOVE_RECURSE "${scratch}/project")

  file(GLOB_RECURSE ours RELATIVE "${CHECKOUT}/include" "${CHECKOUT}/include/*.hpp")
  file(GLOB_RECURSE installed RELATIVE "${scratch}/moved/include" "${scratch}/moved/include/*")
  if(NOT installed STREQUAL ours)
    fail("installed: ${installed}\nexpected: ${ours}")
  endif()
  if(NOT EXISTS "${scratch}/moved/share/doc/catmerge/LICENSE")
    fail("the licence is not installed")
  endif()
  file(GLOB package "${scratch}/moved/share/cmake/catmerge/*.cmake")
  foreach(file IN LISTS package)
    file(READ "${file}" text)
    foreach(place "${scratch}" "${CHECKOUT}")
      string(FIND "${text}" "${place}" position)
      if(NOT position EQUAL -1)
        fail("${file} names ${place}")
      endif()
    endforeach()
  endforeach()
endfunction()

# refused(REQUEST REASON [ARGUMENT...]): find_package(catmerge REQUEST CONFIG REQUIRED) must fail and say why.
function(refused request reason)
  file(REMOVE_RECURSE "${scratch}/refused")
  execute_process(COMMAND "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/refused"
                          -B "${scratch}/refused" "-DCMAKE_PREFIX_PATH=${scratch}/moved" "-DREQUEST=${request}"
                          ${HINTS} ${ARGN}
                  RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE errors)
  # CMake breaks its lines where it likes.
  string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
  string(FIND "${errors}" "${reason}" position)
  if(status EQUAL 0 OR position EQUAL -1)
    fail("find_package(catmerge ${request}): status ${status}, expected '${reason}', found:\n${errors}")
  endif()
endfunction()

# build_and_run([ARGUMENT...]): the project CASE, by CMake.
function(build_and_run)
  must(${configure} -S "${CMAKE_CURRENT_LIST_DIR}/${CASE}" -B "${scratch}/build"
       -DCMAKE_EXPORT_COMPILE_COMMANDS=ON ${ARGN})
  file(READ "${scratch}/build/CMakeCache.txt" cache)
  if(NOT cache MATCHES "\nCMAKE_BUILD_TYPE:STRING=\n")
    fail("a build type was chosen for a project that has none")
  endif()

  # Directories of headers and what cxx_std_20 stands for; nothing else may be on the command line.
  file(READ "${scratch}/build/compile_commands.json" commands)
  string(REGEX MATCHALL "\"command\": \"[^\n]*\"" commands "${commands}")
  list(LENGTH commands count)
  if(NOT count EQUAL 1)
    fail("one file was to be compiled, found: ${commands}")
  endif()
  string(REGEX REPLACE "^\"command\": \"[^ ]+ (.*)\"$" "\\1" arguments "${commands}")
  string(REGEX REPLACE "(^| )(-I|-isystem )[^ ]+" "" arguments "${arguments}")
  string(REGEX REPLACE " *-std=gnu\\+\\+(2a|20)" "" arguments "${arguments}")
  string(REGEX REPLACE " *-o [^ ]+ -c [^ ]+main.cpp$" "" arguments "${arguments}")
  if(NOT arguments STREQUAL "")
    fail("the project is compiled with '${arguments}', from:\n${commands}")
  endif()

  must("${CMAKE_COMMAND}" --build "${scratch}/build")
  file(COPY "${scratch}/build/consumer" DESTINATION "${scratch}/elsewhere")
  must("${scratch}/elsewhere/consumer")
endfunction()

# nothing_installed(): a project that takes the checkout in does not install it along with itself.
function(nothing_installed)
  must("${CMAKE_COMMAND}" --install "${scratch}/build" --prefix "${scratch}/unwanted")
  if(EXISTS "${scratch}/unwanted")
    fail("the project installs catmerge")
  endif()
endfunction()

set(compile "${COMPILER}" -std=c++20)
set(foreign "")
foreach(directory IN LISTS SYSTEM_INCLUDES)
  list(APPEND foreign -isystem "${directory}")
endforeach()

if(CASE STREQUAL "find_package")
  install_package()
  build_and_run("-DCMAKE_PREFIX_PATH=${scratch}/moved" -DWANTED_VERSION=${VERSION} ${without_json})
  string(REGEX MATCH "^[0-9]+" major "${VERSION}")
  math(EXPR next "${major} + 1")
  refused("${next}" "compatible with requested version \"${next}\"")
  refused("${major}.999" "compatible with requested version \"${major}.999\"")
  refused("COMPONENTS;io;nonsense" "catmerge has no component 'nonsense', only 'io' and 'model'.")
  refused("COMPONENTS;model" "catmerge's component 'model' needs nlohmann_json 3.9 or newer, which was not found."
          ${without_json})
  # The next major version will not do for a project that wants this one.
  file(READ "${scratch}/moved/share/cmake/catmerge/catmergeConfigVersion.cmake" text)
  string(REPLACE "\"${VERSION}\"" "\"${next}.0.0\"" text "${text}")
  file(WRITE "${scratch}/moved/share/cmake/catmerge/catmergeConfigVersion.cmake" "${text}")
  refused("${VERSION}" "version: ${next}.0.0")
elseif(CASE STREQUAL "find_package_io")
  install_package()
  build_and_run("-DCMAKE_PREFIX_PATH=${scratch}/moved" -DWANTED_VERSION=${VERSION})
elseif(CASE STREQUAL "add_subdirectory")
  build_and_run("-DCATMERGE_CHECKOUT=${CHECKOUT}" ${without_json})
  nothing_installed()
elseif(CASE STREQUAL "fetch_content")
  build_and_run("-DCATMERGE_CHECKOUT=${CHECKOUT}")
  nothing_installed()
elseif(CASE STREQUAL "plain")
  must(${compile} -I "${CHECKOUT}/include" ${foreign} "${CMAKE_CURRENT_LIST_DIR}/add_subdirectory/main.cpp"
       -o "${scratch}/elsewhere/consumer")
  must("${scratch}/elsewhere/consumer")
elseif(CASE STREQUAL "amalgamated")
  foreach(directory first second)
    must("${CMAKE_COMMAND}" "-DROOT=${CHECKOUT}" "-DOUTPUT=${scratch}/${directory}"
         -P "${CHECKOUT}/cmake/amalgamate.cmake")
  endforeach()
  must("${CMAKE_COMMAND}" -E compare_files "${scratch}/first/catmerge_all.hpp" "${scratch}/second/catmerge_all.hpp")
  # The header alone, in another directory than the ones that forward to it.
  file(COPY "${scratch}/first/catmerge_all.hpp" DESTINATION "${scratch}/alone")
  # What is not inline there would be defined twice. (Included twice, too: the guard.)
  file(READ "${CMAKE_CURRENT_LIST_DIR}/add_subdirectory/main.cpp" text)
  string(REGEX REPLACE "#include <catmerge/[^\n]+\n" "" text "${text}")
  file(WRITE "${scratch}/main.cpp" "#include <catmerge_all.hpp>\n#include <catmerge_all.hpp>\n${text}")
  file(WRITE "${scratch}/other.cpp" "#include <catmerge_all.hpp>\n")
  must(${compile} -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I "${scratch}/alone" ${foreign}
       "${scratch}/main.cpp" "${scratch}/other.cpp" -o "${scratch}/elsewhere/consumer")
  must("${scratch}/elsewhere/consumer")
else()
  fail("unknown case '${CASE}'")
endif()
file(REMOVE_RECURSE "${scratch}")

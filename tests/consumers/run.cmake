# One project that uses catmerge, from nothing to its exit status, as on a user's machine. Everything happens in a new
# directory among the system's temporary ones, away from the build tree, and is removed at the end.
#
#     cmake -DCASE=... -DCHECKOUT=... -DVERSION=... -DGENERATOR=... -DCOMPILER=... -DCOMPILER_ID=... [-DHINTS=...]
#           [-DSYSTEM_INCLUDES=...] [-DPKG_CONFIG=...] [-DBUILD=...] -P run.cmake
#
# CASE: a directory beside this file, or `plain` (a compiler's command line, no CMake), `pkg_config` (and what that tells
# it), `amalgamated` (the one-header form, in two translation units), `eigen_versions` (stand-ins for other packages of
# Eigen), `program` (the command line program, installed from BUILD, where it is built) or `without_posix`. HINTS: arguments
# for cmake that say where the libraries lie.
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
  file(GLOB package "${scratch}/moved/share/cmake/catmerge/*.cmake" "${scratch}/moved/share/pkgconfig/*.pc")
  list(LENGTH package count)
  if(NOT count EQUAL 5)
    fail("the files of the packages: ${package}")
  endif()
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

# must_fail(REASON COMMAND...): the command must fail and say why.
function(must_fail reason)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE errors)
  # CMake breaks its lines where it likes.
  string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
  string(FIND "${errors}" "${reason}" position)
  if(status EQUAL 0 OR position EQUAL -1)
    fail("${ARGN}: status ${status}, expected '${reason}', found:\n${errors}")
  endif()
endfunction()

# refused(REQUEST REASON [ARGUMENT...]): find_package(catmerge REQUEST CONFIG REQUIRED) must fail and say why.
function(refused request reason)
  file(REMOVE_RECURSE "${scratch}/refused")
  string(REPLACE ";" "\\;" request "${request}")  # one argument, although it is a list
  must_fail("${reason}" "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/refused"
                 -B "${scratch}/refused" "-DCMAKE_PREFIX_PATH=${scratch}/moved" "-DREQUEST=${request}" ${HINTS} ${ARGN})
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
  string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" unused "${VERSION}")
  set(major "${CMAKE_MATCH_1}")
  set(minor "${CMAKE_MATCH_2}")
  math(EXPR next "${major} + 1")
  refused("${next}" "compatible with requested version \"${next}\"")
  # Before 1.0 a minor version may change names: an older one is not served either.
  if(minor GREATER 0)
    math(EXPR older "${minor} - 1")
    refused("${major}.${older}" "compatible with requested version \"${major}.${older}\"")
  endif()
  refused("${major}.999" "compatible with requested version \"${major}.999\"")
  refused("COMPONENTS;io;nonsense" "catmerge has no component 'nonsense', only 'io' and 'model'.")
  refused("COMPONENTS;model" "catmerge's component 'model' needs nlohmann_json 3.9 or newer, which was not found."
          ${without_json})
  # Installed and added as well, and a project's own target of that name.
  set(taken_names ${configure} -S "${CMAKE_CURRENT_LIST_DIR}/taken_names" "-DCMAKE_PREFIX_PATH=${scratch}/moved"
      "-DCATMERGE_CHECKOUT=${CHECKOUT}" -B)
  must_fail("taken in twice: as an installed package (version ${VERSION}, in ${scratch}/moved/share/cmake/catmerge) and as \
a part of the project (version ${VERSION}, in ${CHECKOUT})" ${taken_names} "${scratch}/both")
  must_fail("The project has a target called catmerge_io," ${taken_names} "${scratch}/own" -DOWN_TARGET=catmerge_io)
  # The next major version will not do for a project that wants this one.
  file(READ "${scratch}/moved/share/cmake/catmerge/catmergeConfigVersion.cmake" text)
  string(REPLACE "\"${VERSION}\"" "\"${next}.0.0\"" text "${text}")
  file(WRITE "${scratch}/moved/share/cmake/catmerge/catmergeConfigVersion.cmake" "${text}")
  refused("${VERSION}" "version: ${next}.0.0")
elseif(CASE STREQUAL "program")
  must("${CMAKE_COMMAND}" --install "${BUILD}" --component catmerge_program --prefix "${scratch}/prefix")
  file(RENAME "${scratch}/prefix" "${scratch}/moved")
  file(GLOB_RECURSE installed RELATIVE "${scratch}/moved" "${scratch}/moved/*")
  if(NOT installed STREQUAL "bin/catmerge")
    fail("the component of the program installs ${installed}")
  endif()
  execute_process(COMMAND "${scratch}/moved/bin/catmerge" --version OUTPUT_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT output STREQUAL "catmerge ${VERSION}\n")
    fail("catmerge --version ended with ${status}: ${output}")
  endif()
elseif(CASE STREQUAL "find_package_io")
  install_package()
  build_and_run("-DCMAKE_PREFIX_PATH=${scratch}/moved" -DWANTED_VERSION=${VERSION})
elseif(CASE STREQUAL "add_subdirectory")
  build_and_run("-DCATMERGE_CHECKOUT=${CHECKOUT}" ${without_json})
  nothing_installed()
elseif(CASE STREQUAL "fetch_content")
  build_and_run("-DCATMERGE_CHECKOUT=${CHECKOUT}")
  nothing_installed()
elseif(CASE STREQUAL "two_parts")
  # The same directory, and a copy of it.
  build_and_run("-DFIRST_CHECKOUT=${CHECKOUT}" "-DSECOND_CHECKOUT=${CHECKOUT}")
  file(COPY "${CHECKOUT}/CMakeLists.txt" "${CHECKOUT}/LICENSE" "${CHECKOUT}/cmake" "${CHECKOUT}/include"
       DESTINATION "${scratch}/copy")
  build_and_run("-DFIRST_CHECKOUT=${CHECKOUT}" "-DSECOND_CHECKOUT=${scratch}/copy")
  nothing_installed()
  # Whoever comes second can't have it installed any more.
  set(second "${CMAKE_COMMAND}" "${scratch}/build" "-DSECOND_CHECKOUT=${scratch}/copy")
  must_fail("CATMERGE_INSTALL is ON where catmerge is added the second time, and was OFF where ${CHECKOUT} was"
                 ${second} -DINSTALL_SECOND=ON)
  # A copy that differs by one byte of a header, and one of another version.
  file(APPEND "${scratch}/copy/include/catmerge/error.hpp" "\n")
  must_fail("catmerge is added twice, by copies that differ: version ${VERSION} in ${CHECKOUT} and version \
${VERSION} in ${scratch}/copy." ${second} -DINSTALL_SECOND=OFF)
  file(READ "${scratch}/copy/include/catmerge/version.hpp" text)
  string(REGEX REPLACE "(_MAJOR) [0-9]+" "\\1 99" text "${text}")
  file(WRITE "${scratch}/copy/include/catmerge/version.hpp" "${text}")
  must_fail("and version 99." ${second})
elseif(CASE STREQUAL "installs_itself")
  # Its own installation has nothing of catmerge, unless it says so; catmerge may come from elsewhere, or along.
  set(library "${scratch}/half_way")
  must(${configure} -S "${CMAKE_CURRENT_LIST_DIR}/installs_itself" -B "${library}" "-DCATMERGE_CHECKOUT=${CHECKOUT}")
  must("${CMAKE_COMMAND}" --build "${library}")
  must("${CMAKE_COMMAND}" --install "${library}" --prefix "${scratch}/moved")
  foreach(place include/catmerge share)
    if(EXISTS "${scratch}/moved/${place}")
      fail("the library installs ${place}")
    endif()
  endforeach()
  set(CASE installs_itself/user)
  must_fail("catmerge" ${configure} -S "${CMAKE_CURRENT_LIST_DIR}/${CASE}" -B "${scratch}/without"
                 "-DCMAKE_PREFIX_PATH=${scratch}/moved")
  must("${CMAKE_COMMAND}" --install "${library}" --component catmerge --prefix "${scratch}/elsewhere/catmerge")
  build_and_run("-DCMAKE_PREFIX_PATH=${scratch}/moved"
                "-Dcatmerge_DIR=${scratch}/elsewhere/catmerge/share/cmake/catmerge")
  file(REMOVE_RECURSE "${scratch}/moved" "${scratch}/elsewhere/catmerge" "${scratch}/build")
  must("${CMAKE_COMMAND}" "${library}" -DCATMERGE_INSTALL=ON)
  must("${CMAKE_COMMAND}" --build "${library}")
  must("${CMAKE_COMMAND}" --install "${library}" --prefix "${scratch}/prefix")
  file(RENAME "${scratch}/prefix" "${scratch}/moved")
  if(NOT EXISTS "${scratch}/moved/share/doc/catmerge/LICENSE")
    fail("the licence is not installed")
  endif()
  build_and_run("-DCMAKE_PREFIX_PATH=${scratch}/moved")
elseif(CASE STREQUAL "own_eigen")
  build_and_run("-DCATMERGE_CHECKOUT=${CHECKOUT}" "-DSYSTEM_INCLUDES=${SYSTEM_INCLUDES}"
                -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON ${without_json})
  must("${CMAKE_COMMAND}" --install "${scratch}/build" --prefix "${scratch}/moved")
elseif(CASE STREQUAL "eigen_versions")
  # Real packages: Eigen 5 refuses a request for 3.4; Eigen 3.3 accepts a request without a version.
  install_package()
  foreach(version 3.3.9 3.4.0 5.0.1)
    set(package "${scratch}/eigen/${version}")
    file(WRITE "${package}/Eigen3Config.cmake" "add_library(Eigen3::Eigen INTERFACE IMPORTED)\n")
    file(WRITE "${package}/Eigen3ConfigVersion.cmake" "set(PACKAGE_VERSION ${version})\n\
if(NOT PACKAGE_FIND_VERSION OR PACKAGE_FIND_VERSION_MAJOR EQUAL ${version})
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()\n")
    set(from_sources "${CMAKE_COMMAND}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -S "${CHECKOUT}"
        -B "${scratch}/sources_${version}" -DCATMERGE_TESTS=OFF -DCATMERGE_EXAMPLES=OFF "-DEigen3_DIR=${package}")
    set(from_package "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/refused"
        -B "${scratch}/package_${version}" "-DCMAKE_PREFIX_PATH=${scratch}/moved" -DREQUEST= "-DEigen3_DIR=${package}")
    if(version VERSION_LESS 3.4)
      set(reason "catmerge needs Eigen 3.4 or newer, and Eigen ${version} was found in ${package}.")
      must_fail("${reason}" ${from_sources})
      must_fail("${reason}" ${from_package})
    else()
      must(${from_sources})
      must(${from_package})
    endif()
  endforeach()
elseif(CASE STREQUAL "backends")
  foreach(file torch/include/ATen/core/Tensor.h torch/include/torch/csrc/api/include/torch/all.h torch/lib/libtorch_cpu.so
          torch/lib/libc10.so xtensor/include/xtensor/containers/xtensor.hpp xtensor/include/xtl/xtl_config.hpp)
    file(WRITE "${scratch}/${file}" "")
  endforeach()
  # (Which must not be loaded: that of a build for CUDA fails without CUDA's compiler.)
  file(WRITE "${scratch}/torch/share/cmake/Torch/TorchConfig.cmake" "message(FATAL_ERROR \"no CUDA\")\n\
  set(TORCH_CXX_FLAGS \"-D_GLIBCXX_USE_CXX11_ABI=0\")\n")
  file(MAKE_DIRECTORY "${scratch}/other")
  foreach(prefix torch torch/share/cmake)  # the second is what torch.utils.cmake_prefix_path says
    file(WRITE "${scratch}/prefixes.cmake"
         "set(CMAKE_PREFIX_PATH ${scratch}/other ${scratch}/xtensor ${scratch}/${prefix} CACHE STRING \"\")\n")
    must(${configure} -C "${scratch}/prefixes.cmake" -S "${CMAKE_CURRENT_LIST_DIR}/backends" -B "${scratch}/build/${prefix}"
         "-DCATMERGE_CHECKOUT=${CHECKOUT}" "-DPYTORCH=${scratch}/torch" "-DXTENSOR=${scratch}/xtensor")
  endforeach()
elseif(CASE STREQUAL "pkg_config")
  install_package()
  set(ENV{PKG_CONFIG_PATH} "${scratch}/moved/share/pkgconfig")
  foreach(question modversion cflags libs)
    execute_process(COMMAND "${PKG_CONFIG}" --${question} catmerge OUTPUT_VARIABLE ${question}
                    ERROR_VARIABLE errors RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT status EQUAL 0)
      fail("${PKG_CONFIG} --${question} catmerge ended with ${status}:\n${errors}")
    endif()
  endforeach()
  if(NOT modversion STREQUAL VERSION OR NOT libs STREQUAL "")
    fail("pkg-config says that version '${modversion}' needs the libraries '${libs}'")
  endif()
  separate_arguments(cflags UNIX_COMMAND "${cflags}")
  must(${compile} ${cflags} "${CMAKE_CURRENT_LIST_DIR}/add_subdirectory/main.cpp" -o "${scratch}/elsewhere/consumer")
  must("${scratch}/elsewhere/consumer")
elseif(CASE STREQUAL "strict")
  # The core's includes of other libraries.
  file(GLOB_RECURSE core RELATIVE "${CHECKOUT}/include" "${CHECKOUT}/include/catmerge/*.hpp")
  list(FILTER core EXCLUDE REGEX "^catmerge/(adapt|io|model)/")
  set(foreign_includes "")
  foreach(header IN LISTS core ITEMS catmerge/adapt/eigen.hpp catmerge/adapt/span.hpp)
    file(STRINGS "${CHECKOUT}/include/${header}" lines REGEX "^#include <")
    list(FILTER lines EXCLUDE REGEX "<catmerge/|<sys/")
    list(APPEND foreign_includes ${lines})
  endforeach()
  list(REMOVE_DUPLICATES foreign_includes)
  set(text "")
  foreach(line IN LISTS foreign_includes)
    string(REGEX REPLACE "^#include (<[^>]+>).*" "#if __has_include(\\1)\n#include \\1\n#endif\n" line "${line}")
    string(APPEND text "${line}")  # (some are for other systems)
  endforeach()
  file(WRITE "${scratch}/foreign.hpp" "${text}")

  string(REGEX MATCHALL "[0-9]+" numbers "${VERSION}")
  list(GET numbers 0 major)
  list(GET numbers 1 minor)
  list(GET numbers 2 patch)
  math(EXPR number "${major} * 1000000 + ${minor} * 1000 + ${patch}")
  set(warnings -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wdouble-promotion -Wshadow -Wold-style-cast
      -Wcast-align -Wcast-qual -Wundef -Woverloaded-virtual -Wnon-virtual-dtor -Wextra-semi -Wredundant-decls
      -Wzero-as-null-pointer-constant -Wmissing-declarations -Werror)
  if(COMPILER_ID STREQUAL "GNU")
    list(APPEND warnings -Wuseless-cast -Wlogical-op -Wduplicated-cond -Wduplicated-branches)
  endif()
  must(${compile} -fsyntax-only ${warnings} -DEXPECTED_VERSION=${number} -I "${CHECKOUT}/include" -I "${scratch}"
       ${foreign} "${CMAKE_CURRENT_LIST_DIR}/strict/main.cpp")
elseif(CASE STREQUAL "without_posix")
  # As far as the preprocessor goes: the core includes nothing of POSIX, and files say that they need it.
  set(preprocess ${compile} -U__linux__ -D_WIN32 -I "${CHECKOUT}/include" ${foreign} -x c++)
  foreach(header catmerge methods)
    execute_process(COMMAND ${preprocess} -M "${CHECKOUT}/include/catmerge/${header}.hpp" OUTPUT_VARIABLE output
                    ERROR_VARIABLE errors RESULT_VARIABLE status)
    if(NOT status EQUAL 0 OR NOT output MATCHES "Eigen/Core" OR output MATCHES "sys/mman|fcntl\\.h")
      fail("${header}.hpp without POSIX: status ${status}\n${errors}${output}")
    endif()
  endforeach()
  foreach(header mapped_file output_file atomic_path)
    must_fail("#error catmerge/io maps and writes files by POSIX" ${preprocess} -E -o "${scratch}/out"
                   "${CHECKOUT}/include/catmerge/io/${header}.hpp")
  endforeach()
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
  # A function that is not inline would be defined twice. (Included twice, too: the guard.)
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

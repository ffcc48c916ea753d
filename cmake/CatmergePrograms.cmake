# Compilation of this project's own programs (tests, examples, benchmarks). Nothing here reaches a project that uses the
# library: the flags are private to the targets of the function below.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES AND CATMERGE_IS_TOP_LEVEL)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug, RelWithDebInfo" FORCE)
endif()
find_package(Threads REQUIRED)

# catmerge_program(NAME SOURCE...): an executable with the project's warnings and sanitizers.
function(catmerge_program name)
  add_executable(${name} ${ARGN})
  catmerge_compile(${name})
endfunction()

# catmerge_compile(NAME): the same for a target that exists.
function(catmerge_compile name)
  target_link_libraries(${name} PRIVATE catmerge Threads::Threads)
  set_target_properties(${name} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
  # False alarms of GCC 12: its own AVX-512 intrinsics (GCC bug 105593), "literal" + std::string (bug 105651).
  target_compile_options(${name} PRIVATE
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  # One thread per product: all threads are the executor's (see tensor/executor.hpp).
  target_compile_definitions(${name} PRIVATE EIGEN_DONT_PARALLELIZE)
  if(CATMERGE_NATIVE)
    target_compile_options(${name} PRIVATE -march=native)
  endif()
  if(CATMERGE_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=${CATMERGE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${name} PRIVATE -fsanitize=${CATMERGE_SANITIZE})
  endif()
endfunction()

# Functions that make test programs.
find_package(doctest REQUIRED)

option(CATMERGE_TEST_EIGEN_DEFAULTS "Build the tests with Eigen's macros for row-major matrices and extents of int" OFF)

# One object with doctest's main, shared by every test program.
add_library(catmerge_doctest_main OBJECT support/doctest_main.cpp)
target_link_libraries(catmerge_doctest_main PUBLIC doctest::doctest)
set_target_properties(catmerge_doctest_main PROPERTIES CXX_STANDARD 20 CXX_EXTENSIONS OFF)

# catmerge_test(NAME SOURCE [LIBRARY...]): the program test_NAME, and the test NAME that runs it. Compiled for any
# processor and with little optimisation, which takes half the time. (The harness's tests run the optimised program of
# the user.)
function(catmerge_test name source)
  set(CATMERGE_NATIVE OFF)
  catmerge_program(test_${name} ${source})
  target_link_libraries(test_${name} PRIVATE catmerge_doctest_main doctest::doctest ${ARGN})
  target_include_directories(test_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(test_${name} PRIVATE CATMERGE_FIXTURES="${CMAKE_CURRENT_SOURCE_DIR}/fixtures")
  target_compile_options(test_${name} PRIVATE -O1)
  if(CATMERGE_TEST_EIGEN_DEFAULTS)
    target_compile_definitions(test_${name} PRIVATE EIGEN_DEFAULT_TO_ROW_MAJOR EIGEN_DEFAULT_DENSE_INDEX_TYPE=int)
    target_compile_options(test_${name} PRIVATE -Wno-conversion)
  endif()
  add_test(NAME ${name} COMMAND test_${name})
endfunction()

# catmerge_backend_test(NAME [LIBRARY...]): the test backend_NAME. Not optimised: compiling each kind of tensor anew
# takes most of the time.
function(catmerge_backend_test name)
  catmerge_test(backend_${name} backends/${name}_test.cpp ${ARGN})
  target_compile_options(test_backend_${name} PRIVATE -O0)
  target_compile_definitions(test_backend_${name} PRIVATE DOCTEST_CONFIG_SUPER_FAST_ASSERTS)
endfunction()

# catmerge_runs_the_program(NAME): lets the test NAME run `catmerge`, at the path CATMERGE_PROGRAM.
function(catmerge_runs_the_program name)
  target_compile_definitions(test_${name} PRIVATE CATMERGE_PROGRAM="$<TARGET_FILE:catmerge_cli>")
  add_dependencies(test_${name} catmerge_cli)
  set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endfunction()

# catmerge_fuzz_program(NAME SOURCE...): a program without doctest, for the parsers in fuzz/.
function(catmerge_fuzz_program name)
  set(CATMERGE_NATIVE OFF)
  catmerge_program(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE catmerge::io)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/examples)
  target_compile_options(${name} PRIVATE -O1)
endfunction()

# The harness's networks, compiled once for all their tests.
add_library(catmerge_test_networks OBJECT ${PROJECT_SOURCE_DIR}/examples/harness/networks/open_network.cpp)
target_link_libraries(catmerge_test_networks PRIVATE catmerge::io)
target_include_directories(catmerge_test_networks PUBLIC ${PROJECT_SOURCE_DIR}/examples)
target_compile_definitions(catmerge_test_networks PRIVATE EIGEN_DONT_PARALLELIZE)
target_compile_options(catmerge_test_networks PRIVATE -O1)
set_target_properties(catmerge_test_networks PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
if(CATMERGE_SANITIZE)
  target_compile_options(catmerge_test_networks PRIVATE -fsanitize=${CATMERGE_SANITIZE} -fno-omit-frame-pointer)
endif()

# Every header has the requirements on the compiler (error.hpp), and says them in one sentence.
#   cmake -DCOMPILER=... -DINCLUDE=checkout/include -DSYSTEM_INCLUDES=c -P language.cmake

cmake_minimum_required(VERSION 3.16)

# Every header begins with it: it includes it, or another header, before anything of its own.
file(GLOB_RECURSE headers RELATIVE ${INCLUDE} ${INCLUDE}/catmerge/*.hpp)
list(REMOVE_ITEM headers catmerge/version.hpp catmerge/error.hpp)
foreach(header ${headers})
  file(READ ${INCLUDE}/${header} text)
  string(FIND "${text}" "\n#include <catmerge/" include)
  string(FIND "${text}" "\nnamespace " own)
  if(include EQUAL -1 OR (own GREATER -1 AND own LESS include))
    message(SEND_ERROR "${header}: has to include <catmerge/error.hpp>, or a header that does, first")
  endif()
endforeach()

set(command ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -I${INCLUDE} -fsyntax-only -x c++)
foreach(directory ${SYSTEM_INCLUDES})
  list(APPEND command -isystem ${directory})
endforeach()

# says(HEADER SENTENCE MOST FLAG...): the header gives the sentence, once, and at most MOST errors.
function(says header sentence most)
  execute_process(COMMAND ${command} ${ARGN} ${INCLUDE}/catmerge/${header} RESULT_VARIABLE fails ERROR_VARIABLE errors)
  string(REGEX MATCHALL "error: (#error )?\"${sentence}" said "${errors}")
  string(REGEX MATCHALL "error:" all "${errors}")
  list(LENGTH said said)
  list(LENGTH all count)
  if(NOT fails OR NOT said EQUAL 1 OR count GREATER most)
    message(SEND_ERROR "${header} with ${ARGN}: expected one error, ${sentence}; found:\n${errors}")
  endif()
endfunction()

# (The second error is that of the header that ends the compilation.)
foreach(header catmerge.hpp error.hpp io/npy_header.hpp model/glob.hpp)
  says(${header} "catmerge needs C\\+\\+20: compile with -std=c\\+\\+20" 2 -std=c++17)
endforeach()
says(methods.hpp "catmerge needs C\\+\\+20: compile with -std=c\\+\\+20" 2 -std=c++14)
foreach(flags -ffast-math -ffinite-math-only -Ofast "-O2;-ffast-math;-fsigned-zeros")
  says(tensor/scalar.hpp "catmerge looks for NaN: compile without -ffast-math, -ffinite-math-only" 1 -std=c++20 ${flags})
endforeach()
foreach(flags -std=c++20 "-std=c++20;-fno-math-errno;-fno-trapping-math")
  execute_process(COMMAND ${command} ${flags} ${INCLUDE}/catmerge/tensor/scalar.hpp RESULT_VARIABLE fails
    ERROR_QUIET)
  if(fails)
    message(SEND_ERROR "tensor/scalar.hpp does not compile with ${flags}")
  endif()
endforeach()

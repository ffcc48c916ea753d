# The target catmerge_amalgamated: the core as one header, catmerge_all.hpp, and beside it a replacement for include/
# (see amalgamate.cmake). Not a part of "all".
set(catmerge_amalgamated_include ${PROJECT_BINARY_DIR}/include_amalgamated)
file(GLOB_RECURSE catmerge_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/catmerge/*.hpp)
add_custom_command(OUTPUT ${catmerge_amalgamated_include}/catmerge_all.hpp
  COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -DOUTPUT=${catmerge_amalgamated_include}
          -P ${PROJECT_SOURCE_DIR}/cmake/amalgamate.cmake
  DEPENDS ${catmerge_headers} ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/cmake/amalgamate.cmake
  COMMENT "Writing the core as one header" VERBATIM)
add_custom_target(catmerge_amalgamated DEPENDS ${catmerge_amalgamated_include}/catmerge_all.hpp)

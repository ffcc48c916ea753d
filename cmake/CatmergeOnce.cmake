# Lets one project add this library several times. Sets CATMERGE_ADDED_BEFORE if an earlier directory made the targets.
# Copies that differ are an error, because one program must not see two of them.

# catmerge_offer_io(): catmerge::io, the public target for files and parameter names.
macro(catmerge_offer_io)
  if(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json 3.9 REQUIRED NO_MODULE)
  endif()
  target_link_libraries(catmerge_io INTERFACE $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
  add_library(catmerge::io ALIAS catmerge_io)
endmacro()

# One number for all headers of a checkout, names and bytes.
function(catmerge_headers_digest include digest)
  file(GLOB_RECURSE headers RELATIVE ${include} ${include}/catmerge/*.hpp)
  set(all "")
  foreach(header IN LISTS headers)
    file(MD5 ${include}/${header} one)
    string(APPEND all "${header} ${one}\n")
  endforeach()
  string(MD5 all "${all}")
  set(${digest} ${all} PARENT_SCOPE)
endfunction()

set(CATMERGE_ADDED_BEFORE OFF)
get_property(catmerge_earlier GLOBAL PROPERTY CATMERGE_SOURCE_DIRECTORY)
if(catmerge_earlier)
  if(NOT catmerge_earlier STREQUAL PROJECT_SOURCE_DIR)
    get_property(catmerge_earlier_version GLOBAL PROPERTY CATMERGE_VERSION)
    catmerge_headers_digest(${catmerge_earlier}/include catmerge_earlier_headers)
    catmerge_headers_digest(${PROJECT_SOURCE_DIR}/include catmerge_own_headers)
    if(NOT catmerge_earlier_headers STREQUAL catmerge_own_headers)
      message(FATAL_ERROR "catmerge is added twice, by copies that differ: version ${catmerge_earlier_version} in "
              "${catmerge_earlier} and version ${PROJECT_VERSION} in ${PROJECT_SOURCE_DIR}. Let both parts of the "
              "project add the same directory, or the second use the targets of the first.")
    endif()
  endif()
  if(CATMERGE_INSTALL)
    get_property(catmerge_earlier_install GLOBAL PROPERTY CATMERGE_INSTALL)
    if(NOT catmerge_earlier_install)
      message(FATAL_ERROR "CATMERGE_INSTALL is ON where catmerge is added the second time, and was OFF where "
              "${catmerge_earlier} was added first, which decides: set it before that, for the whole project.")
    endif()
  endif()
  set(CATMERGE_ADDED_BEFORE ON)
  # The first may not have asked for files.
  if(CATMERGE_IO AND NOT TARGET catmerge::io)
    catmerge_offer_io()
  endif()
else()
  foreach(target catmerge::catmerge catmerge::io catmerge catmerge_io)
    if(TARGET ${target})
      get_target_property(catmerge_imported ${target} IMPORTED)
      if(catmerge_imported)
        message(FATAL_ERROR "catmerge is taken in twice: as an installed package (version ${catmerge_VERSION}, in "
                "${catmerge_DIR}) and as a part of the project (version ${PROJECT_VERSION}, in ${PROJECT_SOURCE_DIR}). "
                "Do without one of them.")
      endif()
      message(FATAL_ERROR "The project has a target called ${target}, which is what one of this library's "
              "(${PROJECT_SOURCE_DIR}) is called: give it another name, or install catmerge and use find_package.")
    endif()
  endforeach()
  set_property(GLOBAL PROPERTY CATMERGE_SOURCE_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_property(GLOBAL PROPERTY CATMERGE_VERSION ${PROJECT_VERSION})
  set_property(GLOBAL PROPERTY CATMERGE_INSTALL ${CATMERGE_INSTALL})
endif()

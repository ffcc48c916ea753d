# What `cmake --install` puts under the prefix: all headers, the licence, the package that find_package(catmerge CONFIG)
# finds, and the one that pkg-config finds. What is installed depends on nothing that this machine has or lacks, so that
# a package of it can be made anywhere: Eigen and nlohmann-json are looked for where the library is used.
#
# Where CATMERGE_INSTALL is OFF, which it is in a project that takes this one in, that project's installation has none of
# it. The rules exist all the same: only so can a library that links catmerge::catmerge install its own targets
# (install(EXPORT) wants to know which package each of them is in). And the component alone is installed by
# `cmake --install BUILD --component catmerge`.
include(CMakePackageConfigHelpers)
set(catmerge_rule COMPONENT catmerge)
if(NOT CATMERGE_INSTALL)
  list(APPEND catmerge_rule EXCLUDE_FROM_ALL)
endif()

# The directories of GNUInstallDirs. It adds to the cache, so another project's cache gets it from that project alone; what
# it would say stands here. (CMAKE_INSTALL_DOCDIR is named after the project.)
if(CATMERGE_IS_TOP_LEVEL)
  include(GNUInstallDirs)
endif()
set(catmerge_include_directory include)
set(catmerge_data_directory share)
if(CMAKE_INSTALL_INCLUDEDIR)
  set(catmerge_include_directory ${CMAKE_INSTALL_INCLUDEDIR})
endif()
if(CMAKE_INSTALL_DATADIR)
  set(catmerge_data_directory ${CMAKE_INSTALL_DATADIR})
endif()
set(catmerge_doc_directory ${catmerge_data_directory}/doc/catmerge)
if(CATMERGE_IS_TOP_LEVEL)
  set(catmerge_doc_directory ${CMAKE_INSTALL_DOCDIR})
endif()

# No compiled code, so not under a directory that is named after a processor.
set(catmerge_package_directory ${catmerge_data_directory}/cmake/catmerge)
set(catmerge_pkgconfig_directory ${catmerge_data_directory}/pkgconfig)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/catmerge DESTINATION ${catmerge_include_directory} ${catmerge_rule}
        FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${catmerge_doc_directory} ${catmerge_rule})

# Two sets of targets, because the second is loaded only when it is asked for (see catmergeConfig.cmake.in).
set_target_properties(catmerge_io PROPERTIES EXPORT_NAME io)
install(TARGETS catmerge EXPORT catmergeTargets INCLUDES DESTINATION ${catmerge_include_directory})
install(TARGETS catmerge_io EXPORT catmergeIoTargets)
foreach(set catmergeTargets catmergeIoTargets)
  install(EXPORT ${set} NAMESPACE catmerge:: DESTINATION ${catmerge_package_directory} ${catmerge_rule})
endforeach()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/catmergeConfig.cmake.in
  ${PROJECT_BINARY_DIR}/package/catmergeConfig.cmake INSTALL_DESTINATION ${catmerge_package_directory}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/catmergeConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/package/catmergeConfig.cmake
              ${PROJECT_BINARY_DIR}/package/catmergeConfigVersion.cmake
        DESTINATION ${catmerge_package_directory} ${catmerge_rule})

# Relative to where the file lies, so that the prefix may be moved (unless the headers' place is absolute).
if(IS_ABSOLUTE ${catmerge_include_directory} OR IS_ABSOLUTE ${catmerge_pkgconfig_directory})
  get_filename_component(catmerge_pc_include ${catmerge_include_directory} ABSOLUTE BASE_DIR ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH catmerge_pc_include /${catmerge_pkgconfig_directory} /${catmerge_include_directory})
  string(PREPEND catmerge_pc_include "\${pcfiledir}/")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/catmerge.pc.in ${PROJECT_BINARY_DIR}/package/catmerge.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/catmerge.pc DESTINATION ${catmerge_pkgconfig_directory} ${catmerge_rule})

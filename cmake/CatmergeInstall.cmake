# Rules of `cmake --install`: all headers, the licence, the package for find_package(catmerge CONFIG), and the one for
# pkg-config. Installed files depend on nothing of this machine, so that a package can be made anywhere: Eigen and
# nlohmann-json are found by the project that uses the library.
#
# CATMERGE_INSTALL is OFF in a project that adds this one: that project's installation leaves these files out. The rules
# exist all the same, because a library that links catmerge::catmerge can only then install its own targets
# (install(EXPORT) asks for the package of each target). `cmake --install BUILD --component catmerge` installs them
# alone.
include(CMakePackageConfigHelpers)
set(catmerge_rule COMPONENT catmerge)
if(NOT CATMERGE_INSTALL)
  list(APPEND catmerge_rule EXCLUDE_FROM_ALL)
endif()

# The directories of GNUInstallDirs. It adds to the cache, so in another project only that project includes it; the
# defaults below are its own. (CMAKE_INSTALL_DOCDIR is named after the project.)
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

# Not in a directory named after a processor: there is no compiled code.
set(catmerge_package_directory ${catmerge_data_directory}/cmake/catmerge)
set(catmerge_pkgconfig_directory ${catmerge_data_directory}/pkgconfig)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/catmerge DESTINATION ${catmerge_include_directory} ${catmerge_rule}
        FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${catmerge_doc_directory} ${catmerge_rule})

# Two sets of targets: the second is loaded only on request (see catmergeConfig.cmake.in).
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
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/package/catmergeConfig.cmake
              ${PROJECT_BINARY_DIR}/package/catmergeConfigVersion.cmake
        DESTINATION ${catmerge_package_directory} ${catmerge_rule})

# Relative to the file's directory, so that the prefix may be moved (unless the headers' directory is absolute).
if(IS_ABSOLUTE ${catmerge_include_directory} OR IS_ABSOLUTE ${catmerge_pkgconfig_directory})
  get_filename_component(catmerge_pc_include ${catmerge_include_directory} ABSOLUTE BASE_DIR ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH catmerge_pc_include /${catmerge_pkgconfig_directory} /${catmerge_include_directory})
  string(PREPEND catmerge_pc_include "\${pcfiledir}/")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/catmerge.pc.in ${PROJECT_BINARY_DIR}/package/catmerge.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/catmerge.pc DESTINATION ${catmerge_pkgconfig_directory} ${catmerge_rule})

# What `cmake --install` puts under the prefix: all headers, the licence, and the package that
# find_package(catmerge CONFIG) finds. What is installed depends on nothing that this machine has or lacks, so that
# a package of it can be made anywhere: Eigen and nlohmann-json are looked for where the library is used.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# No compiled code, so not under a directory that is named after a processor.
set(catmerge_package_directory ${CMAKE_INSTALL_DATADIR}/cmake/catmerge)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/catmerge DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# Two sets of targets, because the second is loaded only when it is asked for (see catmergeConfig.cmake.in).
set_target_properties(catmerge_io PROPERTIES EXPORT_NAME io)
install(TARGETS catmerge EXPORT catmergeTargets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS catmerge_io EXPORT catmergeIoTargets)
install(EXPORT catmergeTargets NAMESPACE catmerge:: DESTINATION ${catmerge_package_directory})
install(EXPORT catmergeIoTargets NAMESPACE catmerge:: DESTINATION ${catmerge_package_directory})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/catmergeConfig.cmake.in
  ${PROJECT_BINARY_DIR}/package/catmergeConfig.cmake INSTALL_DESTINATION ${catmerge_package_directory}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/catmergeConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/package/catmergeConfig.cmake
              ${PROJECT_BINARY_DIR}/package/catmergeConfigVersion.cmake
        DESTINATION ${catmerge_package_directory})

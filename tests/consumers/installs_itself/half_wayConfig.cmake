include(CMakeFindDependencyMacro)
find_dependency(catmerge CONFIG COMPONENTS io)
include("${CMAKE_CURRENT_LIST_DIR}/half_wayTargets.cmake")

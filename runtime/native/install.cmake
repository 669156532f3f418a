# What is installed, and where: into the wheel of the Python package, or as a library of its own by `cmake --install`.
if(V2E_CODECS_PREFIX)
  install(DIRECTORY "${V2E_CODECS_PREFIX}/licenses" DESTINATION valley2_edge/runtime)
endif()
if(SKBUILD)
  # A wheel holds no links, so that its library has no version in its name.
  install(TARGETS valley2
    RUNTIME DESTINATION valley2_edge/runtime
    LIBRARY DESTINATION valley2_edge/runtime
    ARCHIVE DESTINATION valley2_edge/runtime)
  install(FILES include/valley2.h include/valley2_parts.h include/valley2_model_parts.h DESTINATION valley2_edge/include)
  # The Python package calls the library by the declarations of its headers.
  find_package(Python REQUIRED COMPONENTS Interpreter)
  set(V2E_BINDING "${CMAKE_CURRENT_BINARY_DIR}/_header.py")
  add_custom_command(OUTPUT "${V2E_BINDING}"
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/binding/make_binding.py"
      "${CMAKE_CURRENT_SOURCE_DIR}/include/valley2.h" "${CMAKE_CURRENT_SOURCE_DIR}/include/valley2_parts.h"
      "${CMAKE_CURRENT_SOURCE_DIR}/include/valley2_model_parts.h"
      "${V2E_BINDING}"
    DEPENDS binding/make_binding.py include/valley2.h include/valley2_parts.h include/valley2_model_parts.h
    VERBATIM)
  add_custom_target(valley2_binding ALL DEPENDS "${V2E_BINDING}")
  install(FILES "${V2E_BINDING}" DESTINATION valley2_edge/runtime/core)
  return()
endif()

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set_target_properties(valley2 PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
install(TARGETS valley2 EXPORT valley2-targets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
# valley2_parts.h is for this project's own tools and is left out.
install(FILES include/valley2.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(V2E_PACKAGE_DIRECTORY ${CMAKE_INSTALL_LIBDIR}/cmake/valley2)
install(EXPORT valley2-targets NAMESPACE valley2:: FILE valley2-config.cmake DESTINATION ${V2E_PACKAGE_DIRECTORY})
write_basic_package_version_file(valley2-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/valley2-config-version.cmake" DESTINATION ${V2E_PACKAGE_DIRECTORY})

configure_file(valley2.pc.in valley2.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/valley2.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

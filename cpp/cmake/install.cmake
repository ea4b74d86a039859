# What is installed: headers, libraries, and what CMake and pkg-config find them by. In a wheel, all of
# it lies inside the Python package.
include(CMakePackageConfigHelpers)
if(SKBUILD AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_INSTALL_INCLUDEDIR datasparse/include)
  set(CMAKE_INSTALL_LIBDIR datasparse/lib)
  # No links in a wheel: one file, by the name that linkers look for, and then programs.
  set_property(TARGET datasparse_shared PROPERTY VERSION)
  set_property(TARGET datasparse_shared PROPERTY SOVERSION)
else()
  include(GNUInstallDirs)
endif()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/datasparse)

install(DIRECTORY include/datasparse ${CMAKE_CURRENT_BINARY_DIR}/include/datasparse
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# Two exports, so that a package may hold one of the libraries only.
foreach(kind static shared)
  target_include_directories(datasparse_${kind} INTERFACE
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  install(TARGETS datasparse_${kind} EXPORT datasparse-${kind}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT datasparse-${kind} NAMESPACE datasparse:: DESTINATION ${package_dir})
endforeach()

# The runtime libraries, by name: what the static library needs of a consumer's linker, which may belong
# to another compiler, with another OpenMP or none.
if(DATASPARSE_OPENMP)
  set(runtime ${OpenMP_CXX_LIB_NAMES})
else()
  set(runtime pthread)
endif()
foreach(name IN LISTS runtime)
  target_link_libraries(datasparse_static INTERFACE $<INSTALL_INTERFACE:${name}>)
endforeach()

configure_package_config_file(cmake/datasparse-config.cmake.in datasparse-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(datasparse-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/datasparse-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/datasparse-config-version.cmake
  DESTINATION ${package_dir})

if(SKBUILD OR NOT PROJECT_IS_TOP_LEVEL)
  return()
endif()
list(TRANSFORM runtime PREPEND -l OUTPUT_VARIABLE pkgconfig_runtime)
list(JOIN pkgconfig_runtime " " pkgconfig_runtime)
if(APPLE)
  set(pkgconfig_cxx -lc++)
else()
  set(pkgconfig_cxx "-lstdc++ -lm")
endif()
file(RELATIVE_PATH pkgconfig_prefix
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/datasparse.pc.in datasparse.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/datasparse.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

add_custom_target(uninstall
  COMMAND ${CMAKE_COMMAND} -DMANIFEST=${PROJECT_BINARY_DIR}/install_manifest.txt
    -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/uninstall.cmake
  COMMENT "Removing what was installed from here")

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_VENDOR "The datasparse developers")
set(CPACK_PACKAGE_CONTACT "The datasparse developers")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
include(CPack)

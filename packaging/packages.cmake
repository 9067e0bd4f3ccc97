# The Debian packages: ./dev package
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME shmstate)
set(CPACK_PACKAGE_VENDOR shmstate)
set(CPACK_PACKAGE_CONTACT "shmstate maintainers <maintainers@users.noreply.github.com>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR OFF)
set(CPACK_DEBIAN_DEBUGINFO_PACKAGE ON) # which strips the others, so that they match
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_COMPONENTS_ALL runtime-writer runtime-reader development programs)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_PACKAGE_SOURCE shmstate)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY >=)
set(CPACK_DEBIAN_PACKAGE_HOMEPAGE https://github.com/shmstate/shmstate)

set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "") # the first line of each description
set(about "It lets many processes write keys at high frequency, and any number of
others read the latest state of everything at the speed of a local hash
map. Nobody on the data path takes a lock, makes a system call, or waits
for anybody else.")

set(CPACK_DEBIAN_RUNTIME-WRITER_PACKAGE_NAME libshmstate0)
set(CPACK_COMPONENT_RUNTIME-WRITER_DESCRIPTION "shared-memory state service: library of writers\n${about}\n\nThis package has the library that writers link.")
set(CPACK_DEBIAN_RUNTIME-READER_PACKAGE_NAME libshmstate-reader0)
set(CPACK_COMPONENT_RUNTIME-READER_DESCRIPTION "shared-memory state service: library of readers\n${about}\n\nThis package has the library that readers link.")
foreach(component RUNTIME-WRITER RUNTIME-READER)
  set(CPACK_DEBIAN_${component}_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_SOURCE_DIR}/debian/triggers)
endforeach()

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libshmstate-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION
  "shared-memory state service: development files\n${about}\n\nThis package has headers, static libraries, a CMake package and\npkg-config files.")

set(CPACK_DEBIAN_PROGRAMS_PACKAGE_NAME shmstate)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_DEPENDS "systemd (>= 250), passwd")
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_SOURCE_DIR}/debian/postinst
  ${CMAKE_CURRENT_SOURCE_DIR}/debian/prerm ${CMAKE_CURRENT_SOURCE_DIR}/debian/postrm)
set(CPACK_COMPONENT_PROGRAMS_DESCRIPTION
  "shared-memory state service: programs and units\n${about}\n\nThis package has the merger, the writer-agent and the command line, and\nunits of systemd for them.")

configure_file(cpack.cmake.in cpack.cmake @ONLY)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_BINARY_DIR}/cpack.cmake)
include(CPack)

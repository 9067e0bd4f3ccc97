# Run by cpack over what is installed for the packages, before they are made: what Debian wants of each of them.
set(packages
  runtime-writer libshmstate0 runtime-reader libshmstate-reader0 development libshmstate-dev programs shmstate)
set(PROJECT_VERSION ${CPACK_PACKAGE_VERSION})

function(compress file)
  execute_process(COMMAND gzip -9n ${file} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(add_documents directory SHMSTATE_PACKAGE)
  set(documents ${directory}/usr/share/doc/${SHMSTATE_PACKAGE})
  file(MAKE_DIRECTORY ${documents})
  configure_file(${CMAKE_CURRENT_LIST_DIR}/debian/changelog.in ${documents}/changelog.Debian @ONLY)
  file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/../CHANGELOG.md ${documents}/changelog)
  compress(${documents}/changelog.Debian)
  compress(${documents}/changelog)
  file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/debian/copyright ${documents}/copyright)
  file(MAKE_DIRECTORY ${directory}/usr/share/lintian/overrides)
  file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/debian/${SHMSTATE_PACKAGE}.lintian-overrides
    ${directory}/usr/share/lintian/overrides/${SHMSTATE_PACKAGE})
endfunction()

# In the source tree the documents lie in directories of their own; here they lie side by side.
function(adapt_links documents)
  file(GLOB pages ${documents}/*.md)
  foreach(page ${pages})
    file(READ ${page} text)
    string(REPLACE "](docs/README.md)" "](index.md)" text "${text}")
    string(REGEX REPLACE "\\]\\((docs|\\.\\.)/" "](" text "${text}")
    string(REPLACE "](CHANGELOG.md)" "](changelog.gz)" text "${text}")
    string(REPLACE "](examples/README.md)" "](../libshmstate-dev/examples/README.md)" text "${text}")
    file(WRITE ${page} "${text}")
  endforeach()
endfunction()

while(packages)
  list(POP_FRONT packages component package)
  add_documents(${CPACK_TEMPORARY_DIRECTORY}/${component} ${package})
endwhile()

adapt_links(${CPACK_TEMPORARY_DIRECTORY}/programs/usr/share/doc/shmstate)

file(GLOB_RECURSE pages ${CPACK_TEMPORARY_DIRECTORY}/programs/usr/share/man/*.1
  ${CPACK_TEMPORARY_DIRECTORY}/development/usr/share/man/*.3 ${CPACK_TEMPORARY_DIRECTORY}/development/usr/share/man/*.5)
foreach(page ${pages})
  compress(${page})
endforeach()
file(GLOB_RECURSE archives ${CPACK_TEMPORARY_DIRECTORY}/development/*.a)
execute_process(COMMAND ${SHMSTATE_STRIP} --strip-debug --remove-section=.comment --enable-deterministic-archives
  ${archives} COMMAND_ERROR_IS_FATAL ANY)

# Holds each kernel object to the one symbol that it may export: a weak one, compiled for a newer
# instruction set, could become the copy that the linker keeps for everyone.
#   cmake -DNM=nm -DOBJECTS=scalar.cpp.o,avx2.cpp.o -P kernel_symbols.cmake
if(NOT OBJECTS)
  message(FATAL_ERROR "No kernel objects")
endif()
string(REPLACE "," ";" OBJECTS "${OBJECTS}")

foreach(object IN LISTS OBJECTS)
  get_filename_component(isa "${object}" NAME_WE)
  string(LENGTH "${isa}_kernels" length)
  set(expected "_ZN10datasparse${length}${isa}_kernelsEv")

  execute_process(COMMAND "${NM}" --defined-only --extern-only --format=posix "${object}"
                  OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${NM} failed for ${object}")
  endif()
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  list(TRANSFORM symbols REPLACE " .*" "")
  list(FILTER symbols EXCLUDE REGEX "^_ZT[IS]") # types, of which clang's sanitizer keeps a list: no code
  if(symbols STREQUAL expected)
    message(STATUS "${isa}: ${expected}")
  else()
    message(SEND_ERROR "${object} must export ${expected} alone, and exports: ${symbols}")
  endif()
endforeach()

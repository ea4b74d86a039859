# Compiles the engine anew into a program, with the limits of small_limits.hpp. Whichever of its files were
# missing here would come from the library, with its own limits, and not fit.
function(compile_engine_with_small_limits program)
  foreach(source select/engine select/mask_engine select/regrowth_engine select/shard_parts tiles/moves)
    target_sources(${program} PRIVATE ${PROJECT_SOURCE_DIR}/cpp/src/${source}.cpp)
  endforeach()
  target_compile_definitions(${program} PRIVATE "DATASPARSE_LIMITS=\"small_limits.hpp\"")
endfunction()

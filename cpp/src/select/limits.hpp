/// Sizes from which on the mask engine goes another way, and of its parts.
///
/// The masks depend on none of them. The stress test builds the engine a second time with small
/// ones, so that a few hundred elements take every way that gigabytes take.
#pragma once

#include <cstdint>

#if defined(DATASPARSE_LIMITS)
#include DATASPARSE_LIMITS
#else
namespace datasparse {

// Of a tile, and of the parts that it is taken in:
constexpr std::int64_t tile_blocks_max = 16384;
constexpr std::int64_t tile_elements = 65536;  // so that a tile of wide blocks stays in the cache
constexpr std::int64_t tile_blocks_min = 16;   // so that vectors of sums are full, however wide
constexpr std::int64_t chunk_blocks_max = 512;
/// Blocks of a band. To begin a shorter one costs a pass as much as to compare its blocks.
constexpr std::int64_t short_band = 128;

constexpr std::int64_t small_block_max = 4096;  // elements, of which a lane has room for
constexpr std::int64_t in_memory_max = 32768;   // blocks whose keys are all kept
constexpr std::int64_t hinted_min = 4096;       // blocks from which on a cut leaves a hint
constexpr std::int64_t candidates_min = 4096;   // for which there is always room
constexpr std::int64_t past_cache_from = std::int64_t{1} << 22;  // elements

/// Elements from which on a second thread is worth waking. On an idle machine 32 Ki would do; but
/// where every core is busy, a region waits for a time slice of the scheduler, milliseconds at each
/// of the few regions of a step, and half the work that it saves here is less than one.
constexpr std::int64_t parallel_from = std::int64_t{1} << 18;

}  // namespace datasparse
#endif

namespace datasparse {

static_assert(tile_blocks_max <= 65536, "places in a tile are 16 bits wide");
static_assert(chunk_blocks_max <= small_block_max, "a lane has room for a chunk's elements");
static_assert(small_block_max <= tile_elements / 16, "what is not packed is a large block");
static_assert(in_memory_max >= 64, "a sample has at least one run of sixteen blocks");
static_assert(hinted_min <= in_memory_max, "there is room for few candidates where all are kept");

}  // namespace datasparse

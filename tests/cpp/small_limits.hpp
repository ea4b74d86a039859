/// The engine's limits made small, for the stress test: see limits.hpp.
#pragma once

#include <cstdint>

namespace datasparse {

constexpr std::int64_t tile_blocks_max = 64;
constexpr std::int64_t tile_elements = 512;
constexpr std::int64_t tile_blocks_min = 4;
constexpr std::int64_t chunk_blocks_max = 24;
constexpr std::int64_t short_band = 8;
constexpr std::int64_t small_block_max = 32;
constexpr std::int64_t in_memory_max = 128;
constexpr std::int64_t hinted_min = 64;
constexpr std::int64_t candidates_min = 16;
constexpr std::int64_t past_cache_from = 1024;
constexpr std::int64_t parallel_from = 256;

}  // namespace datasparse

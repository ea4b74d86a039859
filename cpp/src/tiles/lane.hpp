/// The memory of one thread of the mask engine.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <new>

#include "base/buffer.hpp"
#include "base/square_sum.hpp"
#include "kernels/kernels.hpp"
#include "select/cut_range.hpp"
#include "select/limits.hpp"
#include "tiles/grid.hpp"
#include "tiles/small_blocks.hpp"

namespace datasparse {

constexpr std::int64_t group_tiles_max = 4;                         // that a thread takes at a time
constexpr std::int64_t group_candidates_max = 2 * tile_blocks_max;  // that a thread gathers

/// Blocks to sample of n at first, in runs. With s samples the cut's place is known to about
/// n / sqrt(s) blocks, which become candidates: this many cost about as much as those.
/// bench/adversary.py imitates it.
constexpr std::int64_t run_length = 16;
inline std::int64_t runs_of_sample(std::int64_t n) noexcept {
  return static_cast<std::int64_t>(1.25 * std::pow(static_cast<double>(n), 2.0 / 3.0)) / run_length;
}

/// Candidates that are kept of n blocks: twice as many as where blocks that are near each other are
/// not alike. With more, the bracket counts as missed. Never less for more blocks: the room for the
/// largest matrix must do for all.
inline std::int64_t candidates_max(std::int64_t n) noexcept {
  if (n < hinted_min) return candidates_min;                   // their keys are all kept
  return 6 * run_length * runs_of_sample(n) + candidates_min;  // n / sqrt(s) is about s
}

/// The largest matrix that is computed from some lane on.
struct Room {
  std::int64_t blocks = 1, tiles = 1, packed = 0;
  std::int64_t in_memory = 0;  // blocks of one whose keys are all kept
  std::int64_t viewed = 0;     // elements of one whose mask is permuted
  std::int64_t past = 0;       // elements of one whose mask before counts

  void include(const Room& other) noexcept {
    blocks = std::max(blocks, other.blocks);
    tiles = std::max(tiles, other.tiles);
    packed = std::max(packed, other.packed);
    in_memory = std::max(in_memory, other.in_memory);
    viewed = std::max(viewed, other.viewed);
    past = std::max(past, other.past);
  }
};

/// What one pass over a tile found out.
struct TileCounts {
  std::int64_t candidates;  // where the tile's begin
  std::int32_t inside, at_lo, at_hi;
  std::int64_t ties_before;  // of those that equal the threshold, in the tiles before
};

/// What a pass over some blocks found out.
struct PassCounts {
  std::int64_t below, at_lo, inside, at_hi;  // the bracket

  void add(const PassCounts& more) noexcept {
    below += more.below;
    at_lo += more.at_lo;
    inside += more.inside;
    at_hi += more.at_hi;
  }
};

/// Where passes leave what they find.
template <class Key>
struct Findings {
  TileCounts* tiles;                // of the matrix
  Key* gathered;                    // a sample, and when that has told the bracket, the candidates
  Key* spare;                       // for a selection among them
  std::uint16_t* places;            // of the candidates, each in its tile; before, counts of runs
  std::int64_t room;                // for so many candidates
  std::atomic<std::int64_t>* used;  // by all tensors that share it; nullptr for one by itself
};

/// Scratch memory that a thread keeps from one step to the next, since fresh memory costs as much
/// as a step: what would be more is given back.
constexpr std::int64_t kept_bytes_max = std::int64_t{64} << 20;

/// Memory of one thread.
template <class Key>
struct Lane {
  /// Aligned to a cache line: a vector that crosses the border of two costs as much as two.
  template <class T, std::int64_t n>
  struct alignas(64) Array : std::array<T, static_cast<std::size_t>(n)> {};

  // Of a chunk:
  Array<typename KeyTraits<Key>::Score, small_block_max> sums;  // where there is no patch
  Array<Key, chunk_blocks_max> keys;
  Array<std::uint8_t, tile_blocks_max> keep;
  Array<std::uint8_t, small_block_max> bytes;
  Array<Key, small_block_max> element_keys;
  Array<Key, 2 * small_block_max> block_keys;
  // Of a tile:
  Array<std::uint8_t, tile_blocks_max> free;  // of a chunk too: see eligible.hpp
  Array<std::uint8_t, tile_blocks_max> tile_keep;
  Array<std::uint16_t, tile_blocks_max + places_slack> wrong;  // candidates
  Array<std::int64_t, std::int64_t{1} << radix_bits> counts;
  SquareSum<Key> squares;
  Buffer<std::byte> packed;
  // Of a group of tiles:
  PassCounts group{};
  int group_size = 0;
  Array<std::int64_t, std::max<std::int64_t>(group_tiles_max, Grid::stacked_max)> group_tiles;
  Array<Key, group_candidates_max> group_candidates;
  Array<std::uint16_t, group_candidates_max + places_slack> group_places;
  // Of small blocks that are gathered. Among the arrays above, which are written while data are
  // read, they moved these apart so that a step over single elements took half as long again.
  Array<Key, SmallBlocks::room> small_keys;
  Array<std::uint8_t, SmallBlocks::room> small_bytes;

  // Of the matrix whose first lane this is:
  Buffer<Key> all_keys, spare;
  Buffer<std::uint8_t> all_keep;
  Buffer<std::uint8_t> viewed;  // its mask in the order of its layout
  Buffer<std::uint8_t> past;    // and the one before: see past.hpp
  Buffer<TileCounts> tiles;     // the rest is for Findings
  Buffer<Key> gathered, gathered_spare;
  Buffer<std::uint16_t> places;

  static void* operator new(std::size_t bytes, std::align_val_t) { return allocate_scratch(bytes); }
  static void operator delete(void* memory, std::size_t bytes, std::align_val_t) noexcept {
    free_scratch(memory, bytes);
  }

  void require(const Room& room) {
    packed.require(room.packed);
    all_keys.require(room.in_memory);
    spare.require(room.in_memory);
    all_keep.require(room.in_memory);
    viewed.require(room.viewed);
    past.require(room.past);
    if (room.blocks < hinted_min) return;
    tiles.require(room.tiles);
    gathered.require(candidates_max(room.blocks));
    gathered_spare.require(candidates_max(room.blocks));
    places.require(candidates_max(room.blocks));
  }

  /// What it holds for the tensors that were large.
  std::int64_t bytes_held() const noexcept {
    return packed.bytes() + tiles.bytes() + gathered.bytes() + gathered_spare.bytes() +
           places.bytes() + viewed.bytes() + past.bytes();
  }
};

}  // namespace datasparse

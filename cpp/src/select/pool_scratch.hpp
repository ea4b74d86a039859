/// Scratch memory of pools, which are computed one after the other.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/buffer.hpp"
#include "select/limits.hpp"
#include "select/pool_keys.hpp"
#include "tiles/lane.hpp"

namespace datasparse {

/// Where passes over a pool's tensors leave what they find, those of one type of keys: Findings.
template <class Key>
struct PoolFindings {
  Buffer<TileCounts> tiles;
  Buffer<Key> gathered, spare;
  Buffer<std::uint16_t> places;
  std::atomic<std::int64_t> used{0};

  void require(std::int64_t blocks, std::int64_t tile_count) {
    tiles.require(tile_count);
    gathered.require(candidates_max(blocks));
    places.require(candidates_max(blocks));
    spare.require(spare_room(blocks));
  }
  static std::int64_t spare_room(std::int64_t blocks) noexcept {
    return run_length * runs_of_sample(blocks) + candidates_min;
  }
  std::int64_t bytes() const noexcept {
    return tiles.bytes() + gathered.bytes() + spare.bytes() + places.bytes();
  }
  void release() noexcept {
    tiles = {};
    gathered = {};
    spare = {};
    places = {};
  }
};

struct PoolScratch {
  PoolFindings<std::uint32_t> narrow;
  PoolFindings<std::uint64_t> wide;
  PoolKeys<std::uint32_t> narrow_keys;  // a sample, or candidates, in the common order
  PoolKeys<std::uint64_t> wide_keys;
  Buffer<std::uint16_t> runs;
  Buffer<std::int64_t> counts;

  std::int64_t bytes() const noexcept {
    return narrow.bytes() + wide.bytes() + narrow_keys.bytes() + wide_keys.bytes() + runs.bytes() +
           counts.bytes();
  }
  void release() noexcept {
    narrow.release();
    wide.release();
    narrow_keys.release();
    wide_keys.release();
    runs = {};
    counts = {};
  }
};

}  // namespace datasparse

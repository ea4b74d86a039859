/// The algorithm of the mask engine: ARCHITECTURE.md tells it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.hpp"
#include "base/keys.hpp"
#include "base/parallel.hpp"
#include "datasparse/block_mask.hpp"
#include "kernels/kernels.hpp"
#include "select/cut_hint.hpp"
#include "select/cut_range.hpp"
#include "select/limits.hpp"
#include "select/sampling.hpp"
#include "select/selection.hpp"
#include "tiles/eligible.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/mask_writing.hpp"
#include "tiles/matrix.hpp"
#include "tiles/patch.hpp"
#include "tiles/scorer.hpp"
#include "tiles/task.hpp"

namespace datasparse {

/// Scratch memory and the algorithm for data whose scores are of one type.
template <class Key>
class Engine {
 public:
  /// Room for matrices of at most `shared` on any lane, and of `largest` and `large_blocks` blocks
  /// of more than small_block_max elements from the first lane on.
  void allocate(const Kernels& table, int threads, const Room& shared, const Room& largest,
                std::int64_t large_blocks) {
    table_ = &table;
    select_ = &selection_of<Key>(table);
    while (lanes_.size() < static_cast<std::size_t>(threads)) {
      lanes_.push_back(std::unique_ptr<Lane<Key>>(new Lane<Key>));  // arrays left as they are
    }
    for (int i = 0; i < threads; ++i) {
      Room room = i == 0 ? largest : shared;
      room.packed = std::max(shared.packed, largest.packed);
      lanes_[static_cast<std::size_t>(i)]->require(room);
    }
    block_keep_.require(large_blocks);
  }

  std::int64_t bytes_held() const noexcept {
    std::int64_t bytes = block_keep_.bytes();
    for (const auto& lane : lanes_) bytes += lane->bytes_held();
    return bytes;
  }

  /// What norm() has added up, on the first lane.
  SquareSum<Key>& squares() const noexcept { return lanes_.front()->squares; }
  /// Room for the masks of one matrix on a lane: see Room.
  std::uint8_t* viewed(int lane) const noexcept {
    return lanes_[static_cast<std::size_t>(lane)]->viewed.get();
  }
  std::uint8_t* past(int lane) const noexcept {
    return lanes_[static_cast<std::size_t>(lane)]->past.get();
  }

  Task<Key> task_of(const Grid& grid, const Pruning& pruning, const Target& target, int first_lane,
                    int threads, const Findings<Key>& found) const noexcept {
    return {*table_,       *select_,
            grid,          {*table_, grid.matrix, pruning.norm},
            pruning.quota, pruning.choice,
            target.mask,   target.read_again,
            target.past,   false,
            target.hint,   target.last,
            found,         lanes_.data() + first_lane,
            threads};
  }

  /// Writes the whole mask, on `threads` threads from lane `first_lane` on. Calls that share no
  /// lane may run at the same time, but for matrices with large blocks: those need the engine for
  /// themselves.
  void prune(const Pruning& pruning, const Target& target, int first_lane, int threads) noexcept;

  /// Marks elements within all blocks, as mark_within_blocks() does; blocks are small.
  void mark_within(const Pruning& pruning, const Target& target, int first_lane,
                   int threads) const noexcept;

  // --- for several matrices with one cut: see pool_engine.hpp ------------------------------------

  /// Writes the mask as if pruning stopped at the bracket's guess, if there is a mask to write;
  /// counts; and collects the candidates.
  PassCounts pass(const Task<Key>& task, const Bracket<Key>& bracket) const noexcept;

  /// Turns the mask of a pass into the right one, where the cut is known, and how many keys equal
  /// its threshold.
  void put_right(const Task<Key>& task, const Bracket<Key>& bracket, Cut<Key> cut,
                 std::int64_t among) noexcept;

  /// How many blocks the mask before has pruned.
  std::int64_t count_past(const Task<Key>& task) const noexcept;

  /// The L2 norm of the scores of all blocks.
  double norm(const Task<Key>& task) const noexcept;

  /// below[i] = how many keys are less than keys[i], for at most 2^radix_bits of them.
  [[gnu::cold]] void count_below(const Task<Key>& task, const Key* keys, std::int64_t n,
                                 std::int64_t* below) const noexcept;

  /// Calls work(lane, keys, n, first) for all blocks, in parallel: with the keys of n that follow
  /// each other, from the `first` one on.
  template <class Work>
  void for_each_keys(const Task<Key>& task, const Work& work) const noexcept {
    for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
      for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
        work(lane, keys, chunk.size(), task.grid.begin(chunk));
      });
    });
  }

 private:
  /// Calls work(tile, patch, lane) for all tiles, in parallel; the patch holds the matrix where its
  /// elements follow each other, else nothing. A thread takes a group of tiles at a time, and then
  /// calls finish(lane).
  template <class Work, class Finish>
  void for_each_unpacked(const Task<Key>& task, const Work& work,
                         const Finish& finish) const noexcept {
    const Grid& grid = task.grid;
    const Patch whole = Patch::of(grid.matrix);
    // Neighbours, so that each thread reads on where it was.
    const std::int64_t group =
        std::clamp<std::int64_t>(grid.tiles() / (8 * task.threads), 1, group_tiles_max);
    parallel_for(Grid::divide_up(grid.tiles(), group), task.threads,
                 [&](std::int64_t i, int worker) {
                   Lane<Key>& lane = task.lane(worker);
                   const std::int64_t end = std::min(grid.tiles(), (i + 1) * group);
                   for (std::int64_t tile = i * group; tile < end; ++tile) {
                     work(tile, whole, lane);
                   }
                   finish(lane);
                 });
  }

  template <class Work>
  void for_each_unpacked(const Task<Key>& task, const Work& work) const noexcept {
    for_each_unpacked(task, work, [](Lane<Key>&) {});
  }

  /// The same with patches that hold the tile's elements, but of blocks too large to be packed.
  template <class Work, class Finish>
  void for_each_tile(const Task<Key>& task, const Work& work, const Finish& finish) const noexcept {
    const Grid& grid = task.grid;
    if (grid.matrix.is_unit() || grid.packed_elements() == 0) {
      return for_each_unpacked(task, work, finish);
    }
    const std::int64_t down = Grid::divide_up(grid.bands, grid.tile_bands);
    const std::int64_t stacked = grid.stacked();
    parallel_for(Grid::divide_up(down, stacked) * grid.across, task.threads,
                 [&](std::int64_t i, int worker) {
                   Lane<Key>& lane = task.lane(worker);
                   const std::int64_t first = i / grid.across * stacked;
                   const std::int64_t end = std::min(down, first + stacked);
                   Grid::Part part = grid.tile(first * grid.across + i % grid.across);
                   part.bands = std::min(end * grid.tile_bands, grid.bands) - part.band;
                   const Patch patch =
                       pack(task.table, lane.packed.get(), grid, grid.elements(part));
                   for (std::int64_t tile = first; tile < end; ++tile) {
                     work(tile * grid.across + i % grid.across, patch, lane);
                   }
                   finish(lane);
                 });
  }

  template <class Work>
  void for_each_tile(const Task<Key>& task, const Work& work) const noexcept {
    for_each_tile(task, work, [](Lane<Key>&) {});
  }

  /// Calls work(chunk, keys) for a tile's chunks in turn, with the keys of its blocks.
  template <class Work>
  void for_each_scored_chunk(const Task<Key>& task, std::int64_t tile, const Patch& patch,
                             Lane<Key>& lane, const Work& work) const noexcept {
    Grid::for_each_chunk(task.grid.tile(tile), [&](const Grid::Part& chunk) {
      score_blocks(task, lane.keys.data(), chunk, patch, lane);
      work(chunk, lane.keys.data());
    });
  }

  // --- ways to find the cut --------------------------------------------------------------------

  /// Writes the mask chunk by chunk, where it is known of each block whether it is kept:
  /// `all_keep`, or the same of all where that is nullptr. Blocks that stay pruned are pruned all
  /// the same.
  void write_all(const Task<Key>& task, const std::uint8_t* all_keep, int of_all) noexcept;

  /// Finds out what is to be chosen: see past.hpp. Where nothing was pruned, all is as ever.
  void begin_with_past(Task<Key>& task) const noexcept;

  /// Scores once, and keeps all keys.
  void prune_in_memory(const Task<Key>& task) noexcept;

  /// Brackets the cut by counting keys, radix_bits at a time, until it is one of so few that they
  /// can be collected, or one of many that are equal. Scores anew for each round: slower, but as
  /// fast for any input. Rare, hence small.
  [[gnu::cold]] void prune_by_counting(const Task<Key>& task) noexcept;

  /// What range_of_cut() asks for, in the first lane's counts.
  std::int64_t* count_buckets(const Task<Key>& task, const KeyRange<Key>& range, int bits) noexcept;

  /// Fills in ties_before from what a tile adds.
  template <class Ties>
  void count_ties_before(const Task<Key>& task, const Ties& ties_of) noexcept;

  /// Brackets the cut by a sample. One pass then writes the mask as if the cut were where it lies
  /// most likely, counts, and collects the candidates in the bracket; the exact cut is selected
  /// among those, and their places are corrected. False where the bracket missed the cut, or held
  /// too many candidates: the mask is written then, but wrong.
  bool prune_by_sample(const Task<Key>& task) noexcept;

  /// The same, with a bracket around where the cut lies by the hint of the last time.
  bool prune_by_hint(const Task<Key>& task) noexcept;

  /// What a cut tells the caller, and the next step. No hint where many keys are equal.
  static void renew_hint(const Task<Key>& task, const Cut<Key>& cut) noexcept;

  /// Writes the provisional mask of a tile, and adds to what its group has found.
  void pass_tile(const Task<Key>& task, const Bracket<Key>& bracket, std::int64_t tile,
                 const Patch& patch, Lane<Key>& lane) const noexcept;

  /// The pass over a tile without keys in memory. `below` counts all it prunes, and candidates are
  /// appended to those of the group.
  PassCounts pass_at_once(const Task<Key>& task, const Bracket<Key>& bracket, Key from,
                          std::int64_t tile, const Patch& patch, Lane<Key>& lane) const noexcept;

  /// Whether a quarter of the blocks in the tiles before equalled an end of the bracket: too many
  /// for pass_among_some(), which takes them for candidates first.
  static bool has_many_ties(const Lane<Key>& lane) noexcept {
    return 4 * (lane.group.at_lo + lane.group.at_hi) > lane.group_size * tile_blocks_max;
  }

  /// pass_at_once() where some blocks may not be chosen.
  PassCounts pass_among_some(const Task<Key>& task, const Bracket<Key>& bracket, Key from,
                             std::int64_t tile, const Patch& patch, Lane<Key>& lane) const noexcept;

  /// pass_at_once() by way of keys in memory.
  PassCounts pass_in_chunks(const Task<Key>& task, const Bracket<Key>& bracket, Key from,
                            std::int64_t tile, const Patch& patch, Lane<Key>& lane) const noexcept;

  /// Selects the cut among the candidates; false where the bracket missed.
  bool correct(const Task<Key>& task, const Bracket<Key>& bracket,
               const PassCounts& counts) noexcept;

  Patch pack_tile(const Task<Key>& task, std::int64_t index, Lane<Key>& lane) const noexcept;

  const TileCounts& tile_counts(const Task<Key>& task, std::int64_t tile) const noexcept {
    return task.found.tiles[tile];
  }

  /// Where the decisions on a chunk's blocks go, a byte per block: with single elements, right into
  /// the mask; those on large blocks are kept.
  std::uint8_t* keep_of(const Task<Key>& task, const Grid::Part& chunk,
                        Lane<Key>& lane) const noexcept;

  /// Writes a tile anew; `cut.ties` counts from the first tile.
  void write_by_cut(const Task<Key>& task, std::int64_t tile, const Patch& patch,
                    const Cut<Key>& cut, Lane<Key>& lane) const noexcept;

  /// Puts right those candidates of a tile that the pass took for others; ties count from the first
  /// tile.
  void correct_candidates(const Task<Key>& task, std::int64_t index, const Patch& patch, Key from,
                          const Cut<Key>& cut, Lane<Key>& lane) const noexcept;

  /// What is zeroed in blocks that do not fit into a lane: each is a selection of its own.
  void write_within_large_blocks(const Task<Key>& task, Norm norm) noexcept;

  const Kernels* table_ = nullptr;
  const SelectionKernels<Key>* select_ = nullptr;
  std::vector<std::unique_ptr<Lane<Key>>> lanes_;
  Buffer<std::uint8_t> block_keep_;  // by block, for large blocks only
};

// Compiled once, in engine.cpp.
extern template class Engine<std::uint32_t>;
extern template class Engine<std::uint64_t>;

}  // namespace datasparse

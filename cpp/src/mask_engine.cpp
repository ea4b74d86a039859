#include "mask_engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "grid.hpp"
#include "kernels/kernels.hpp"
#include "matrix.hpp"
#include "parallel.hpp"
#include "selection.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t small_block_max = 4096;
constexpr std::int64_t in_memory_max = 32768;  // blocks whose keys are all kept
constexpr int radix_bits = 11;

template <class Key>
const SelectionKernels<Key>& selection_of(const Kernels& table) noexcept {
  if constexpr (sizeof(Key) == sizeof(std::uint32_t)) {
    return table.select32;
  } else {
    return table.select64;
  }
}

/// Blocks to sample of n, in runs of up to `run_max`. With s samples the cut's place is known to
/// about n / sqrt(s) blocks: the share that costs a sample, and then as many candidates.
constexpr std::int64_t run_max = 16;
std::int64_t sample_size(std::int64_t n) noexcept {
  const auto size = static_cast<std::int64_t>(32 * std::sqrt(static_cast<double>(n)));
  return std::min(size, n / 16) / run_max * run_max;
}

/// Candidates that are kept of n blocks; with more, the bracket counts as missed. Natural data need
/// under 1%.
std::int64_t candidates_max(std::int64_t n) noexcept { return n / 40 + 16384; }

/// The largest matrix that is computed from some lane on.
struct Room {
  std::int64_t blocks = 1, tiles = 1;

  void include(const Room& other) noexcept {
    blocks = std::max(blocks, other.blocks);
    tiles = std::max(tiles, other.tiles);
  }
};

/// What one pass over a tile found out.
struct TileCounts {
  std::int64_t candidates;  // where the tile's begin
  std::int32_t inside, at_lo, at_hi;
  std::int64_t ties_before;  // of those that equal the threshold, in the tiles before
};

/// Memory of one thread.
template <class Key>
struct Lane {
  std::unique_ptr<typename KeyTraits<Key>::Score[]> sums;
  std::unique_ptr<Key[]> keys, spare;
  std::unique_ptr<std::uint8_t[]> keep;
  std::unique_ptr<std::uint16_t[]> inside;
  std::unique_ptr<std::int64_t[]> counts;

  // Of the matrix whose first lane this is:
  std::unique_ptr<TileCounts[]> tiles;
  std::unique_ptr<Key[]> sample, candidates;
  std::unique_ptr<std::uint16_t[]> places;  // of the candidates, each in its tile

  void allocate(const Room& room) {
    const std::int64_t tile = std::max(tile_blocks_max, small_block_max);
    const std::int64_t in_memory = std::max(tile, std::min(room.blocks, in_memory_max));
    make(sums, in_memory);
    make(keys, in_memory);
    make(spare, std::max(in_memory, 2 * small_block_max));
    make(keep, in_memory);
    make(inside, tile_blocks_max);
    make(counts, std::int64_t{1} << radix_bits);
    if (room.blocks <= in_memory_max) return;
    make(tiles, room.tiles);
    make(sample, sample_size(room.blocks));
    make(candidates, candidates_max(room.blocks));
    make(places, candidates_max(room.blocks));
  }

 private:
  /// Not value-initialised: every byte is written before it is read.
  template <class T>
  static void make(std::unique_ptr<T[]>& memory, std::int64_t size) {
    memory.reset(new T[static_cast<std::size_t>(size)]);
  }
};

/// What to prune from a matrix once a BlockSpec is in numbers.
struct Quota {
  std::int64_t blocks;  // how many
  std::int64_t zeros;   // in each of them
};

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
    lanes_.resize(static_cast<std::size_t>(threads));
    for (auto& lane : lanes_) lane.allocate(&lane == &lanes_.front() ? largest : shared);
    block_keep_.reset(new std::uint8_t[static_cast<std::size_t>(large_blocks)]);
  }

  /// Writes the whole mask, on `threads` threads from lane `first_lane` on. Calls that share no
  /// lane may run at the same time, but for matrices with large blocks: those need the engine for
  /// themselves.
  void prune(const Matrix& matrix, Norm norm, std::int64_t block_height, std::int64_t block_width,
             Quota quota, MaskWindow mask, int first_lane, int threads) noexcept {
    const Grid grid(matrix, block_height, block_width);
    if (quota.blocks == 0 || quota.zeros == 0) {
      mask.fill(matrix.rows(), matrix.columns(), 1);
      return;
    }
    const Task task{grid, norm, quota, mask, first_lane, threads};
    if (quota.blocks == grid.blocks()) {
      prune_all(task);
    } else if (grid.blocks() <= in_memory_max) {
      prune_in_memory(task);
    } else if (task.large() || !prune_by_sample(task)) {
      prune_by_counting(task);
    }
    if (task.large()) write_within_large_blocks(task);
  }

 private:
  struct Task {
    const Grid& grid;
    Norm norm;
    Quota quota;
    MaskWindow mask;
    int first_lane, threads;

    std::int64_t block_size() const noexcept { return grid.height * grid.width; }
    bool whole() const noexcept { return quota.zeros == block_size(); }
    bool large() const noexcept { return !whole() && block_size() > small_block_max; }
    MaskWindow window(const Grid::Strip& strip) const noexcept {
      return {mask.at(strip.row, strip.column), mask.pitch};
    }
  };

  Lane<Key>& lane_at(int index) noexcept { return lanes_[static_cast<std::size_t>(index)]; }

  /// Calls work(tile, lane) for all tiles, in parallel.
  template <class Work>
  void for_each_tile(const Task& task, const Work& work) noexcept {
    parallel_for(task.grid.tiles(), task.threads, [&](std::int64_t tile, int worker) {
      work(tile, lane_at(task.first_lane + worker));
    });
  }

  Kernels::Accumulate accumulate(const Task& task) const noexcept {
    return table_
        ->accumulate[static_cast<int>(task.grid.matrix.dtype())][static_cast<int>(task.norm)];
  }

  /// The keys of blocks [begin, begin + n), by way of as many sums.
  void score(const Task& task, std::int64_t begin, std::int64_t n,
             typename KeyTraits<Key>::Score* all_sums, Key* all_keys) const noexcept {
    using Score = typename KeyTraits<Key>::Score;
    const Grid& grid = task.grid;
    const auto add = accumulate(task);
    std::fill_n(all_sums, n, Score{0});
    grid.for_each_strip(begin, n, [&](const Grid::Strip& strip) {
      Score* const sums = all_sums + strip.first;
      for (std::int64_t r = 0; r < strip.rows; ++r) {
        grid.matrix.for_each_run(strip.row + r, strip.column, strip.columns,
                                 [&](const std::byte* data, std::ptrdiff_t stride,
                                     std::int64_t count, std::int64_t offset) {
                                   add(sums + offset / grid.width, data, stride, count,
                                       offset % grid.width, grid.width);
                                 });
      }
      Key* const keys = all_keys + strip.first;
      const std::int64_t full = strip.columns / grid.width;
      const std::int64_t rest = strip.columns % grid.width;
      select_->make_keys(keys, sums, full, strip.rows * grid.width);
      if (rest > 0) select_->make_keys(keys + full, sums + full, 1, strip.rows * rest);
    });
  }

  void score_tile(const Task& task, std::int64_t tile, Lane<Key>& lane) const noexcept {
    score(task, task.grid.tile_begin(tile), task.grid.tile_size(tile), lane.sums.get(),
          lane.keys.get());
  }

  // --- three ways to find the cut --------------------------------------------------------------

  void prune_all(const Task& task) noexcept {
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      std::uint8_t* const keep = keep_of(task, tile, lane);
      std::memset(keep, 0, static_cast<std::size_t>(task.grid.tile_size(tile)));
      write(task, tile, keep, lane);
    });
  }

  /// Scores once, and keeps all keys.
  void prune_in_memory(const Task& task) noexcept {
    const std::int64_t n = task.grid.blocks();
    Lane<Key>& first = lane_at(task.first_lane);
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      const std::int64_t begin = task.grid.tile_begin(tile);
      score(task, begin, task.grid.tile_size(tile), lane.sums.get(), first.keys.get() + begin);
    });
    const Cut<Key> cut =
        cut_of(*select_, first.keys.get(), n, task.quota.blocks, first.spare.get(), n);
    std::uint8_t* const keep = task.large() ? block_keep_.get() : first.keep.get();
    select_->threshold(keep, first.keys.get(), n, cut.threshold, cut.ties);
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      write(task, tile, keep + task.grid.tile_begin(tile), lane);
    });
  }

  /// Finds the cut by counting keys, radix_bits at a time, and scores anew for each round: slower,
  /// but as fast for any input.
  void prune_by_counting(const Task& task) noexcept {
    Key prefix = 0;
    std::int64_t left = task.quota.blocks;    // blocks to prune among those with this prefix
    std::int64_t among = task.grid.blocks();  // how many have it
    for (int low = KeyTraits<Key>::bits; low > 0;) {
      const int bits = std::min(radix_bits, low);
      low -= bits;
      const std::int64_t* const counts = count_buckets(task, prefix, low, bits);
      Key bucket = 0;
      for (; left > counts[bucket]; ++bucket) left -= counts[bucket];
      among = counts[bucket];
      prefix = (prefix << bits) | bucket;
    }
    TileCounts* const tiles = lane_at(task.first_lane).tiles.get();
    if (left < among) {
      for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
        score_tile(task, tile, lane);
        tiles[tile].at_lo = static_cast<std::int32_t>(
            select_->count_equal(lane.keys.get(), task.grid.tile_size(tile), prefix));
      });
      count_ties_before(task, [](const TileCounts& tile) { return tile.at_lo; });
    } else {
      count_ties_before(task, [](const TileCounts&) { return 0; });
    }
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      write_by_cut(task, tile, {prefix, left}, lane);
    });
  }

  /// The number of keys with that prefix in each bucket of the next bits, in the first lane's
  /// counts.
  std::int64_t* count_buckets(const Task& task, Key prefix, int shift, int bits) noexcept {
    const std::int64_t buckets = std::int64_t{1} << bits;
    const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
    for (int w = 0; w < used; ++w) {
      std::fill_n(lane_at(task.first_lane + w).counts.get(), buckets, 0);
    }
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      score_tile(task, tile, lane);
      select_->histogram(lane.counts.get(), lane.keys.get(), task.grid.tile_size(tile), prefix,
                         shift, bits);
    });
    std::int64_t* const total = lane_at(task.first_lane).counts.get();
    for (int w = 1; w < used; ++w) {
      const std::int64_t* const more = lane_at(task.first_lane + w).counts.get();
      std::transform(total, total + buckets, more, total, std::plus<>());
    }
    return total;
  }

  /// Fills in ties_before from what a tile adds.
  template <class Ties>
  void count_ties_before(const Task& task, const Ties& ties_of) noexcept {
    TileCounts* const tiles = lane_at(task.first_lane).tiles.get();
    std::int64_t before = 0;
    for (std::int64_t tile = 0; tile < task.grid.tiles(); ++tile) {
      tiles[tile].ties_before = before;
      before += ties_of(tiles[tile]);
    }
  }

  /// Keys between which the cut lies, in all likelihood.
  struct Bracket {
    Key lo, hi;
  };

  /// Brackets the cut by a sample. One pass then writes the mask as if all of the bracket were
  /// kept, counts, and collects the candidates inside; the exact cut is selected among those, and
  /// their places are corrected. False where the bracket missed the cut: part of the mask is
  /// written then, but wrong.
  bool prune_by_sample(const Task& task) noexcept {
    const Bracket bracket = sample_bracket(task);
    const PassCounts counts = pass(task, bracket);
    return correct(task, bracket, counts);
  }

  Bracket sample_bracket(const Task& task) noexcept {
    const std::int64_t n = task.grid.blocks();
    const std::int64_t run = std::clamp<std::int64_t>(run_max / task.grid.width, 1, run_max);
    const std::int64_t runs = sample_size(n) / run;
    const std::int64_t size = runs * run;
    Lane<Key>& first = lane_at(task.first_lane);
    Key* const sample = first.sample.get();

    // One run of neighbours from each of as many equal parts, at a place that looks random.
    constexpr std::int64_t group = 64;
    parallel_for((runs + group - 1) / group, task.threads, [&](std::int64_t i, int worker) {
      Lane<Key>& lane = lane_at(task.first_lane + worker);
      const std::int64_t part = n / runs;
      for (std::int64_t r = i * group; r < std::min(runs, (i + 1) * group); ++r) {
        const auto jitter = static_cast<std::int64_t>(
            (static_cast<std::uint64_t>(r) * 0x9E3779B97F4A7C15ULL >> 32) %
            static_cast<std::uint64_t>(part - run + 1));
        score(task, r * part + jitter, run, lane.sums.get(), sample + r * run);
      }
    });

    const auto select = [&](std::int64_t rank) {
      return cut_of(*select_, sample, size, rank, first.candidates.get(), size).threshold;
    };
    const double rank =
        static_cast<double>(task.quota.blocks) / static_cast<double>(n) * static_cast<double>(size);
    const auto middle = std::clamp<std::int64_t>(static_cast<std::int64_t>(rank), 1, size);
    const double margin = 3.5 * deviation(sample, run, runs, select(middle)) + 4;
    const auto low = static_cast<std::int64_t>(std::floor(rank - margin));
    const auto high = static_cast<std::int64_t>(std::ceil(rank + margin));
    return {low < 1 ? Key{0} : select(low), high > size ? KeyTraits<Key>::nan : select(high)};
  }

  /// The standard deviation of the sample's number of keys below the cut. Neighbours are alike, so
  /// it is estimated from the differences of successive runs.
  double deviation(const Key* sample, std::int64_t run, std::int64_t runs, Key cut) const noexcept {
    double squares = 0;
    std::int64_t last = 0;
    for (std::int64_t r = 0; r < runs; ++r) {
      const std::int64_t below = select_->count_below(sample + r * run, run, cut);
      const auto difference = static_cast<double>(r == 0 ? 0 : below - last);
      squares += difference * difference;
      last = below;
    }
    return std::sqrt(squares / 2);
  }

  struct PassCounts {
    std::int64_t below, at_lo, inside, at_hi;
    bool all_candidates;  // none was lost
  };

  PassCounts pass(const Task& task, const Bracket& bracket) noexcept {
    Lane<Key>& first = lane_at(task.first_lane);
    const std::int64_t room = candidates_max(task.grid.blocks());
    std::atomic<std::int64_t> below{0}, at_lo{0}, candidates{0}, at_hi{0};
    for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
      std::uint8_t* const keep = keep_of(task, tile, lane);
      score_tile(task, tile, lane);
      const BracketCounts found =
          select_->bracket(keep, lane.inside.get(), lane.keys.get(), task.grid.tile_size(tile),
                           bracket.lo, bracket.hi);
      below.fetch_add(found.below, std::memory_order_relaxed);
      at_lo.fetch_add(found.at_lo, std::memory_order_relaxed);
      at_hi.fetch_add(found.at_hi, std::memory_order_relaxed);
      const std::int64_t begin = candidates.fetch_add(found.inside, std::memory_order_relaxed);
      first.tiles[static_cast<std::size_t>(tile)] = {begin, static_cast<std::int32_t>(found.inside),
                                                     static_cast<std::int32_t>(found.at_lo),
                                                     static_cast<std::int32_t>(found.at_hi), 0};
      if (begin + found.inside <= room) {
        for (std::int64_t i = 0; i < found.inside; ++i) {
          first.candidates[static_cast<std::size_t>(begin + i)] = lane.keys[lane.inside[i]];
          first.places[static_cast<std::size_t>(begin + i)] = lane.inside[i];
        }
      }
      write(task, tile, keep, lane);
    });
    return {below, at_lo, candidates, at_hi, candidates <= room};
  }

  /// Turns the mask of a pass into the right one.
  bool correct(const Task& task, const Bracket& bracket, const PassCounts& counts) noexcept {
    std::int64_t k = task.quota.blocks - counts.below;
    if (k < 1) return false;
    if (k <= counts.at_lo) {  // the pass has pruned all of these
      count_ties_before(task, [](const TileCounts& tile) { return tile.at_lo; });
      for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
        const TileCounts& found = tile_counts(task, tile);
        if (found.at_lo == 0 || found.ties_before + found.at_lo <= k) return;
        write_by_cut(task, tile, {bracket.lo, k}, lane);
      });
      return true;
    }
    k -= counts.at_lo;
    if (!counts.all_candidates) return false;
    Lane<Key>& first = lane_at(task.first_lane);
    if (k > counts.inside) {  // the pass has kept all of those at hi, and all candidates
      k -= counts.inside;
      if (k > counts.at_hi) return false;
      count_ties_before(task, [](const TileCounts& tile) { return tile.at_hi; });
      for_each_tile(task, [&](std::int64_t tile, Lane<Key>& lane) {
        const TileCounts& found = tile_counts(task, tile);
        if (found.at_hi > 0 && found.ties_before < k) {
          write_by_cut(task, tile, {bracket.hi, k}, lane);
        } else {
          prune_candidates(task, tile, {bracket.hi, 0}, lane);
        }
      });
      return true;
    }
    const Cut<Key> cut = cut_of(*select_, first.candidates.get(), counts.inside, k,
                                first.sample.get(), sample_size(task.grid.blocks()));
    count_ties_before(task, [&](const TileCounts& tile) {
      return select_->count_equal(first.candidates.get() + tile.candidates, tile.inside,
                                  cut.threshold);
    });
    for_each_tile(
        task, [&](std::int64_t tile, Lane<Key>& lane) { prune_candidates(task, tile, cut, lane); });
    return true;
  }

  // --- writing the mask ------------------------------------------------------------------------

  const TileCounts& tile_counts(const Task& task, std::int64_t tile) const noexcept {
    return lanes_[static_cast<std::size_t>(task.first_lane)].tiles[static_cast<std::size_t>(tile)];
  }

  /// Where the decisions on a tile's blocks go: a byte per block, kept for large blocks only.
  std::uint8_t* keep_of(const Task& task, std::int64_t tile, Lane<Key>& lane) const noexcept {
    return task.large() ? block_keep_.get() + task.grid.tile_begin(tile) : lane.keep.get();
  }

  /// Writes a tile anew; `cut.ties` counts from the first tile.
  void write_by_cut(const Task& task, std::int64_t tile, const Cut<Key>& cut,
                    Lane<Key>& lane) const noexcept {
    std::uint8_t* const keep = keep_of(task, tile, lane);
    score_tile(task, tile, lane);
    select_->threshold(keep, lane.keys.get(), task.grid.tile_size(tile), cut.threshold,
                       cut.ties - tile_counts(task, tile).ties_before);
    write(task, tile, keep, lane);
  }

  /// The mask of a tile, given which of its blocks to keep. Large blocks come later.
  void write(const Task& task, std::int64_t tile, const std::uint8_t* keep,
             Lane<Key>& lane) const noexcept {
    if (task.large()) return;
    task.grid.for_each_strip(task.grid.tile_begin(tile), task.grid.tile_size(tile),
                             [&](const Grid::Strip& strip) {
                               if (task.whole()) {
                                 write_blocks(task, strip, keep + strip.first);
                               } else {
                                 task.window(strip).fill(strip.rows, strip.columns, 1);
                                 for (std::int64_t block = 0; block < strip.blocks; ++block) {
                                   if (keep[strip.first + block] == 0)
                                     prune_block(task, strip, block, lane);
                                 }
                               }
                             });
  }

  /// Whole blocks: pruned ones become zeros, all others ones.
  static void write_blocks(const Task& task, const Grid::Strip& strip,
                           const std::uint8_t* keep) noexcept {
    const std::int64_t width = task.grid.width;
    const MaskWindow window = task.window(strip);
    std::uint8_t* const first_row = window.at(0, 0);
    if (width == 1) {
      std::memcpy(first_row, keep, static_cast<std::size_t>(strip.columns));
    } else {
      for (std::int64_t b = 0; b < strip.blocks; ++b) {
        const std::int64_t n = std::min(width, strip.columns - b * width);
        std::memset(first_row + b * width, keep[b], static_cast<std::size_t>(n));
      }
    }
    for (std::int64_t r = 1; r < strip.rows; ++r) {
      std::memcpy(window.at(r, 0), first_row, static_cast<std::size_t>(strip.columns));
    }
  }

  /// Prunes those candidates of a tile that lie before the cut, whose ties count from the first
  /// tile. All were kept.
  void prune_candidates(const Task& task, std::int64_t tile, const Cut<Key>& cut,
                        Lane<Key>& lane) const noexcept {
    const Lane<Key>& first = lanes_[static_cast<std::size_t>(task.first_lane)];
    const TileCounts& found = tile_counts(task, tile);
    const Key* const keys = first.candidates.get() + found.candidates;
    const std::uint16_t* const places = first.places.get() + found.candidates;
    std::int64_t ties = cut.ties - found.ties_before;
    std::int32_t i = 0;
    task.grid.for_each_strip(
        task.grid.tile_begin(tile), task.grid.tile_size(tile), [&](const Grid::Strip& strip) {
          for (; i < found.inside && places[i] < strip.first + strip.blocks; ++i) {
            if (keys[i] < cut.threshold || (keys[i] == cut.threshold && ties-- > 0)) {
              prune_block(task, strip, places[i] - strip.first, lane);
            }
          }
        });
  }

  /// Prunes a block whose mask holds ones. Clobbers the lane's sums and spare keys.
  void prune_block(const Task& task, const Grid::Strip& strip, std::int64_t block,
                   Lane<Key>& lane) const noexcept {
    const std::int64_t column = block * task.grid.width;
    const std::int64_t columns = std::min(task.grid.width, strip.columns - column);
    const MaskWindow strip_window = task.window(strip);
    const MaskWindow window{strip_window.at(0, column), strip_window.pitch};
    if (task.whole()) {
      window.fill(strip.rows, columns, 0);
    } else {
      const Matrix& matrix = task.grid.matrix;
      zero_least(task, matrix.part(strip.row, strip.column + column, strip.rows, columns), window,
                 lane);
    }
  }

  /// Zeroes the quota's least elements of one block of at most small_block_max elements.
  void zero_least(const Task& task, const Matrix& block, MaskWindow mask,
                  Lane<Key>& lane) const noexcept {
    const std::int64_t n = block.rows() * block.columns();
    const auto add = accumulate(task);
    auto* const all_sums = lane.sums.get();
    std::fill_n(all_sums, n, typename KeyTraits<Key>::Score{0});
    for (std::int64_t r = 0; r < block.rows(); ++r) {
      auto* const sums = all_sums + r * block.columns();
      block.for_each_run(
          r, 0, block.columns(),
          [&](const std::byte* data, std::ptrdiff_t stride, std::int64_t count,
              std::int64_t offset) { add(sums + offset, data, stride, count, 0, 1); });
    }
    Key* const keys = lane.spare.get();
    select_->make_keys(keys, all_sums, n, 1);
    const std::int64_t zeros = std::min(task.quota.zeros, n);
    auto [threshold, ties] = cut_of(*select_, keys, n, zeros, keys + n, n);
    for (std::int64_t r = 0, i = 0; r < block.rows(); ++r) {
      for (std::int64_t c = 0; c < block.columns(); ++c, ++i) {
        if (keys[i] < threshold || (keys[i] == threshold && ties-- > 0)) *mask.at(r, c) = 0;
      }
    }
  }

  /// The same for blocks that do not fit into a lane: each is a selection of its own.
  void write_within_large_blocks(const Task& task) noexcept {
    const Grid& grid = task.grid;
    for (std::int64_t block = 0; block < grid.blocks(); ++block) {
      const std::int64_t row = block / grid.per_band * grid.height;
      const std::int64_t column = block % grid.per_band * grid.width;
      const std::int64_t rows = std::min(grid.height, grid.matrix.rows() - row);
      const std::int64_t columns = std::min(grid.width, grid.matrix.columns() - column);
      const bool keep = block_keep_[static_cast<std::size_t>(block)] != 0;
      const Quota quota{keep ? 0 : std::min(task.quota.zeros, rows * columns), 1};
      prune(grid.matrix.part(row, column, rows, columns), task.norm, 1, 1, quota,
            {task.mask.at(row, column), task.mask.pitch}, task.first_lane, task.threads);
    }
  }

  const Kernels* table_ = nullptr;
  const SelectionKernels<Key>* select_ = nullptr;
  std::vector<Lane<Key>> lanes_;
  std::unique_ptr<std::uint8_t[]> block_keep_;  // by block, for large blocks only
};

/// level × blocks in double, rounded half to even, whatever the rounding mode.
std::int64_t share_of(double level, std::int64_t blocks) noexcept {
  const double exact = level * static_cast<double>(blocks);
  const double below = std::floor(exact);
  auto count = static_cast<std::int64_t>(below);
  const double rest = exact - below;
  if (rest > 0.5 || (rest == 0.5 && count % 2 != 0)) ++count;
  return std::min(count, blocks);
}

/// A job in the numbers of the engine.
struct Plan {
  Matrix matrix;
  Norm norm;
  std::int64_t height, width;
  Quota quota;
  std::uint8_t* mask;

  explicit Plan(const MaskJob& job) noexcept
      : matrix(job.data),
        norm(job.spec.norm),
        height(std::min(job.spec.block_height, matrix.rows())),
        width(std::min(job.spec.block_width, matrix.columns())),
        mask(job.mask) {
    // Narrow matrices make short strips; where nothing depends on the rows, see them as one.
    if (height == 1 && matrix.columns() % width == 0 && matrix.is_one_row()) {
      matrix = matrix.as_one_row();
    }
    quota = {share_of(job.spec.sparsity_level, grid().blocks()),
             std::min(*job.spec.zeros_per_block, height * width)};
  }

  std::int64_t elements() const noexcept { return matrix.rows() * matrix.columns(); }
  Grid grid() const noexcept { return Grid(matrix, height, width); }
  bool has_large_blocks() const noexcept { return height * width > small_block_max; }
  /// The selections within large blocks included.
  Room room() const noexcept {
    Room room{grid().blocks(), grid().tiles()};
    const Grid within(matrix.part(0, 0, height, width), 1, 1);
    if (has_large_blocks()) room.include({within.blocks(), within.tiles()});
    return room;
  }
};

/// Jobs whose scores are of one type.
template <class Key>
class Batch {
 public:
  void add(const MaskJob& job) {
    const Plan plan(job);
    // A large one gets all threads for itself.
    const bool alone = plan.elements() >= parallel_from || plan.has_large_blocks();
    (alone ? large_ : small_).push_back(plan);
    elements_ += plan.elements();
    if (!alone) shared_.include(plan.room());
    largest_.include(plan.room());
    if (plan.has_large_blocks()) large_blocks_ = std::max(large_blocks_, plan.grid().blocks());
  }

  void allocate(const Kernels& table, int threads) {
    threads_ = elements_ < parallel_from ? 1 : threads;
    if (elements_ > 0) engine_.allocate(table, threads_, shared_, largest_, large_blocks_);
  }

  void run() noexcept {
    parallel_for(static_cast<std::int64_t>(small_.size()), threads_,
                 [this](std::int64_t i, int worker) {
                   prune(small_[static_cast<std::size_t>(i)], worker, 1);
                 });
    for (const Plan& plan : large_) prune(plan, 0, plan.elements() < parallel_from ? 1 : threads_);
  }

 private:
  void prune(const Plan& plan, int lane, int lanes) noexcept {
    engine_.prune(plan.matrix, plan.norm, plan.height, plan.width, plan.quota,
                  {plan.mask, plan.matrix.columns()}, lane, lanes);
  }

  std::vector<Plan> small_, large_;
  Room shared_, largest_;
  std::int64_t elements_ = 0, large_blocks_ = 0;
  int threads_ = 1;
  Engine<Key> engine_;
};

}  // namespace

void compute_masks(const std::vector<MaskJob>& jobs) {
  const DefaultFloatEnvironment environment;
  Batch<std::uint32_t> narrow;
  Batch<std::uint64_t> wide;
  for (const auto& job : jobs) {
    if (job.data.size() == 0) continue;
    if (job.data.dtype() == DType::float64) {
      wide.add(job);
    } else {
      narrow.add(job);
    }
  }
  const Kernels& table = kernels();
  const int threads = available_threads();
  narrow.allocate(table, threads);
  wide.allocate(table, threads);
  narrow.run();
  wide.run();
}

}  // namespace datasparse

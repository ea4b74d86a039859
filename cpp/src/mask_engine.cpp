#include "mask_engine.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "buffer.hpp"
#include "grid.hpp"
#include "kernels/kernels.hpp"
#include "limits.hpp"
#include "matrix.hpp"
#include "parallel.hpp"
#include "patch.hpp"
#include "scorer.hpp"
#include "selection.hpp"

namespace datasparse {
namespace {

constexpr int radix_bits = 13;               // of most data, few enough keys share so many
constexpr std::int64_t group_tiles_max = 4;  // that a thread takes at a time
constexpr std::int64_t group_candidates_max = 2 * tile_blocks_max;  // that a thread gathers

/// Blocks to sample of n at first, in runs. With s samples the cut's place is known to about
/// n / sqrt(s) blocks, which become candidates: this many cost about as much as those.
constexpr std::int64_t run_length = 16;
std::int64_t runs_of_sample(std::int64_t n) noexcept {
  return static_cast<std::int64_t>(1.25 * std::pow(static_cast<double>(n), 2.0 / 3.0)) / run_length;
}
/// How many times as many the second sample has, of which only keys near the cut are kept.
constexpr std::int64_t second_sample = 6;

/// Candidates that are kept of n blocks: twice as many as where blocks that are near each other are
/// not alike. With more, the bracket counts as missed. Never less for more blocks: the room for the
/// largest matrix must do for all.
std::int64_t candidates_max(std::int64_t n) noexcept {
  return 6 * run_length * runs_of_sample(n) + candidates_min;  // n / sqrt(s) is about s
}

constexpr double deviations = 3.5;  // from the middle of a bracket to its ends

/// The largest matrix that is computed from some lane on.
struct Room {
  std::int64_t blocks = 1, tiles = 1, packed = 0;
  std::int64_t in_memory = 0;  // blocks of one whose keys are all kept

  void include(const Room& other) noexcept {
    blocks = std::max(blocks, other.blocks);
    tiles = std::max(tiles, other.tiles);
    packed = std::max(packed, other.packed);
    in_memory = std::max(in_memory, other.in_memory);
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
  Array<std::uint8_t, tile_blocks_max> tile_keep;
  Array<std::uint16_t, tile_blocks_max + places_slack> wrong;  // candidates
  Array<std::int64_t, std::int64_t{1} << radix_bits> counts;
  Buffer<std::byte> packed;
  // Of a group of tiles:
  PassCounts group{};
  int group_size = 0;
  Array<std::int64_t, std::max<std::int64_t>(group_tiles_max, Grid::stacked_max)> group_tiles;
  Array<Key, group_candidates_max> group_candidates;
  Array<std::uint16_t, group_candidates_max + places_slack> group_places;

  // Of the matrix whose first lane this is:
  Buffer<Key> all_keys, spare;
  Buffer<std::uint8_t> all_keep;
  Buffer<TileCounts> tiles;
  Buffer<Key> gathered;          // a sample, and when that has told the bracket, the candidates
  Buffer<Key> gathered_spare;    // for a selection among them
  Buffer<std::uint16_t> places;  // of the candidates, each in its tile; before, counts of runs

  static void* operator new(std::size_t bytes, std::align_val_t) { return allocate_scratch(bytes); }
  static void operator delete(void* memory, std::size_t bytes, std::align_val_t) noexcept {
    free_scratch(memory, bytes);
  }

  void require(const Room& room) {
    packed.require(room.packed);
    all_keys.require(room.in_memory);
    spare.require(room.in_memory);
    all_keep.require(room.in_memory);
    if (room.blocks < hinted_min) return;
    tiles.require(room.tiles);
    gathered.require(candidates_max(room.blocks));
    gathered_spare.require(candidates_max(room.blocks));
    places.require(candidates_max(room.blocks));
  }

  /// What it holds for the tensors that were large.
  std::int64_t bytes_held() const noexcept {
    return packed.bytes() + tiles.bytes() + gathered.bytes() + gathered_spare.bytes() +
           places.bytes();
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
    while (lanes_.size() < static_cast<std::size_t>(threads)) {
      lanes_.push_back(std::unique_ptr<Lane<Key>>(new Lane<Key>));  // arrays left as they are
    }
    for (int i = 0; i < threads; ++i) {
      Room room = i == 0 ? largest : shared;
      room.packed = std::max(shared.packed, largest.packed);
      lane_at(i).require(room);
    }
    block_keep_.require(large_blocks);
  }

  std::int64_t bytes_held() const noexcept {
    std::int64_t bytes = block_keep_.bytes();
    for (const auto& lane : lanes_) bytes += lane->bytes_held();
    return bytes;
  }

  /// Writes the whole mask, on `threads` threads from lane `first_lane` on. Calls that share no
  /// lane may run at the same time, but for matrices with large blocks: those need the engine for
  /// themselves.
  void prune(const Matrix& matrix, Norm norm, std::int64_t block_height, std::int64_t block_width,
             Quota quota, MaskWindow mask, CutHint* hint, int first_lane, int threads) noexcept {
    const Grid grid(matrix, block_height, block_width);
    if (quota.blocks == 0 || quota.zeros == 0) {
      mask.fill(matrix.rows(), matrix.columns(), 1);
      return;
    }
    const Task task{grid, {*table_, grid.matrix, norm}, quota, mask, hint, first_lane, threads};
    if (quota.blocks == grid.blocks()) {
      prune_all(task);
    } else if (!prune_by_hint(task)) {
      if (grid.blocks() <= in_memory_max) {
        prune_in_memory(task);
      } else if (!prune_by_sample(task)) {
        prune_by_counting(task);
      }
    }
    if (task.large()) write_within_large_blocks(task, norm);
  }

 private:
  struct Task {
    const Grid& grid;
    Scorer<Key> scorer;
    Quota quota;
    MaskWindow mask;
    CutHint* hint;  // or nullptr
    int first_lane, threads;

    std::int64_t block_size() const noexcept { return grid.height * grid.width; }
    bool whole() const noexcept { return quota.zeros == block_size(); }
    bool large() const noexcept { return !whole() && block_size() > small_block_max; }
    /// A mask that would not stay in a cache need not go through it.
    Store store() const noexcept {
      const bool large = grid.matrix.rows() * grid.matrix.columns() >= past_cache_from;
      return large ? Store::past_cache : Store::ordinary;
    }
    /// Whether what is decided on the blocks is the mask itself.
    bool direct() const noexcept {
      return block_size() == 1 && mask.pitch == grid.matrix.columns();
    }
    MaskWindow window(const Grid::Rectangle& elements) const noexcept {
      return {mask.at(elements.row, elements.column), mask.pitch};
    }
  };

  Lane<Key>& lane_at(int index) const noexcept { return *lanes_[static_cast<std::size_t>(index)]; }

  /// Calls work(tile, patch, lane) for all tiles, in parallel; the patch holds the tile's elements.
  /// A thread takes a group of tiles at a time, and then calls finish(lane).
  template <class Work, class Finish>
  void for_each_tile(const Task& task, const Work& work, const Finish& finish) const noexcept {
    const Grid& grid = task.grid;
    if (const Patch whole = Patch::of(grid.matrix); whole || grid.packed_elements() == 0) {
      // Neighbours, so that each thread reads on where it was.
      const std::int64_t group =
          std::clamp<std::int64_t>(grid.tiles() / (8 * task.threads), 1, group_tiles_max);
      parallel_for(Grid::divide_up(grid.tiles(), group), task.threads,
                   [&](std::int64_t i, int worker) {
                     Lane<Key>& lane = lane_at(task.first_lane + worker);
                     const std::int64_t end = std::min(grid.tiles(), (i + 1) * group);
                     for (std::int64_t tile = i * group; tile < end; ++tile) {
                       work(tile, whole, lane);
                     }
                     finish(lane);
                   });
      return;
    }
    const std::int64_t down = Grid::divide_up(grid.bands, grid.tile_bands);
    const std::int64_t stacked = grid.stacked();
    parallel_for(Grid::divide_up(down, stacked) * grid.across, task.threads,
                 [&](std::int64_t i, int worker) {
                   Lane<Key>& lane = lane_at(task.first_lane + worker);
                   const std::int64_t first = i / grid.across * stacked;
                   const std::int64_t end = std::min(down, first + stacked);
                   Grid::Part part = grid.tile(first * grid.across + i % grid.across);
                   part.bands = std::min(end * grid.tile_bands, grid.bands) - part.band;
                   const Patch patch = pack(*table_, lane.packed.get(), grid, grid.elements(part));
                   for (std::int64_t tile = first; tile < end; ++tile) {
                     work(tile * grid.across + i % grid.across, patch, lane);
                   }
                   finish(lane);
                 });
  }

  template <class Work>
  void for_each_tile(const Task& task, const Work& work) const noexcept {
    for_each_tile(task, work, [](Lane<Key>&) {});
  }

  /// Calls work(chunk, keys) for a tile's chunks in turn, with the keys of its blocks.
  template <class Work>
  void for_each_scored_chunk(const Task& task, std::int64_t tile, const Patch& patch,
                             Lane<Key>& lane, const Work& work) const noexcept {
    Grid::for_each_chunk(task.grid.tile(tile), [&](const Grid::Part& chunk) {
      task.scorer.blocks(lane.keys.data(), task.grid, chunk, patch, lane.sums.data());
      work(chunk, lane.keys.data());
    });
  }

  // --- ways to find the cut --------------------------------------------------------------------

  void prune_all(const Task& task) noexcept {
    for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
      Grid::for_each_chunk(task.grid.tile(tile), [&](const Grid::Part& chunk) {
        std::uint8_t* const keep = keep_of(task, chunk, lane);
        std::memset(keep, 0, static_cast<std::size_t>(chunk.size()));
        write(task, chunk, patch, keep, lane);
      });
    });
  }

  /// Scores once, and keeps all keys.
  void prune_in_memory(const Task& task) noexcept {
    const Grid& grid = task.grid;
    const std::int64_t n = grid.blocks();
    Lane<Key>& first = lane_at(task.first_lane);
    Key* const keys = first.all_keys.get();
    for_each_tile(task, [&](std::int64_t index, const Patch& patch, Lane<Key>& lane) {
      const Grid::Part tile = grid.tile(index);
      task.scorer.blocks(keys + grid.begin(tile), grid, tile, patch, lane.sums.data());
    });
    const Cut<Key> cut = cut_of(*select_, keys, n, task.quota.blocks, first.spare.get(), n);
    renew_hint(task, cut);
    std::uint8_t* const keep = task.large()    ? block_keep_.get()
                               : task.direct() ? task.mask.bytes
                                               : first.all_keep.get();
    select_->threshold(keep, keys, n, cut.threshold, cut.ties);
    if (task.direct()) return;
    for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
      Grid::for_each_chunk(grid.tile(tile), [&](const Grid::Part& chunk) {
        write(task, chunk, patch, keep + grid.begin(chunk), lane);
      });
    });
  }

  /// Brackets the cut by counting keys, radix_bits at a time, until it is one of so few that they
  /// can be collected, or one of many that are equal. Scores anew for each round: slower, but as
  /// fast for any input.
  void prune_by_counting(const Task& task) noexcept {
    Key prefix = 0;
    int low = KeyTraits<Key>::bits;           // bits that are not known yet
    std::int64_t left = task.quota.blocks;    // blocks to prune among those with this prefix
    std::int64_t among = task.grid.blocks();  // how many have it
    while (low > 0 && among > candidates_max(task.grid.blocks())) {
      const int bits = std::min(radix_bits, low);
      low -= bits;
      const std::int64_t* const counts = count_buckets(task, prefix, low, bits);
      Key bucket = 0;
      for (; left > counts[bucket]; ++bucket) left -= counts[bucket];
      among = counts[bucket];
      prefix = (prefix << bits) | bucket;
    }
    const double share = static_cast<double>(left) / static_cast<double>(among);
    const Key lo = prefix << low;
    const Key hi = lo + ((Key{1} << low) - 1);
    const Bracket bracket{lo,
                          hi,
                          low == 0,
                          false,
                          lo + static_cast<Key>(share * static_cast<double>(hi - lo)),
                          static_cast<std::int64_t>(share * static_cast<double>(task.grid.tiles())),
                          static_cast<double>(among)};
    correct(task, bracket, pass(task, bracket));
  }

  /// The number of keys with that prefix in each bucket of the next bits, in the first lane's
  /// counts.
  std::int64_t* count_buckets(const Task& task, Key prefix, int shift, int bits) noexcept {
    const std::int64_t buckets = std::int64_t{1} << bits;
    const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
    for (int w = 0; w < used; ++w) {
      std::fill_n(lane_at(task.first_lane + w).counts.data(), buckets, 0);
    }
    for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
      for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
        select_->histogram(lane.counts.data(), keys, chunk.size(), prefix, shift, bits);
      });
    });
    std::int64_t* const total = lane_at(task.first_lane).counts.data();
    for (int w = 1; w < used; ++w) {
      const std::int64_t* const more = lane_at(task.first_lane + w).counts.data();
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

  /// What a sample says of the cut.
  struct Bracket {
    Key lo, hi;                   // it lies in between, or at one of these, in all likelihood
    bool ties_at_lo, ties_at_hi;  // so many keys equal this end that they are counted, not kept
    Key guess;                    // where it lies most likely
    std::int64_t pruned_tiles;    // how many tiles lose their keys that equal the guess
    double candidates;            // how many to expect

    bool counts_ties() const noexcept { return ties_at_lo || ties_at_hi; }
    Key first() const noexcept { return ties_at_lo ? lo + 1 : lo; }  // of the candidates
    Key width() const noexcept { return (ties_at_hi ? hi : hi + 1) - first(); }
    /// What the pass over a tile keeps: all keys from this one on.
    Key from(std::int64_t tile) const noexcept {
      const bool ties = (ties_at_lo && guess == lo) || (ties_at_hi && guess == hi);
      return ties && tile >= pruned_tiles ? guess : guess + 1;
    }
  };

  /// Brackets the cut by a sample. One pass then writes the mask as if the cut were where it lies
  /// most likely, counts, and collects the candidates in the bracket; the exact cut is selected
  /// among those, and their places are corrected. False where the bracket missed the cut, or held
  /// too many candidates: the mask is written then, but wrong.
  bool prune_by_sample(const Task& task) noexcept {
    const double enough = 0.8 * static_cast<double>(candidates_max(task.grid.blocks()));
    const Sample sample = first_sample(task);
    const Spread spread = spread_of(task, sample);
    Bracket bracket = bracket_of(task, sample, spread);
    if (bracket.candidates > enough) {
      const Key from = select_near(task, sample, -2 * spread.margin_below());
      const Key to = select_near(task, sample, 2 * spread.margin_up_to());
      const auto [more, spread_of_more] = take_second_sample(task, spread.key, from, to);
      bracket = bracket_of(task, more, spread_of_more);
      if (bracket.candidates > enough) return false;
    }
    return correct(task, bracket, pass(task, bracket));  // a sample that misled once is no guide
  }

  /// The same, with a bracket around where the cut lies by the hint of the last time.
  bool prune_by_hint(const Task& task) noexcept {
    const std::int64_t blocks = task.grid.blocks();
    if (task.hint == nullptr || task.hint->blocks != blocks) return false;
    CutHint& hint = *task.hint;
    if (hint.rest > 0) return false;
    constexpr std::int64_t short_band = 128;  // which a pass begins as often as it compares
    if (blocks <= in_memory_max && task.grid.per_band < short_band) return false;
    // To each side: a thousandth of the blocks, enough of them to tell how dense they are; some
    // more where the level has moved, since that is not the same everywhere; and what the last hint
    // would have needed.
    const auto all = static_cast<double>(blocks);
    const double moved = std::abs(static_cast<double>(task.quota.blocks - hint.pruned));
    const double margin = 0.001 * all + 100 + 0.1 * moved + 1.5 * hint.error;
    if (margin > 0.01 * all + 200) return false;  // a sample does as well
    const double guess = hint.key_at(task.quota.blocks);
    const double reach = margin / hint.density + 1;
    // Keys are hardly as dense all over a wider range: near zero they span many powers of two.
    constexpr auto quarter_octave = Key{1} << (KeyTraits<Key>::fraction_bits - 2);
    if (reach > static_cast<double>(quarter_octave)) return false;
    const auto last = static_cast<double>(KeyTraits<Key>::nan - 1);
    if (guess - reach < 0 || guess + reach > last) return false;
    const Bracket bracket{static_cast<Key>(guess - reach),
                          static_cast<Key>(guess + reach),
                          false,
                          false,
                          static_cast<Key>(guess),
                          0,
                          2 * margin};
    const PassCounts counts = pass(task, bracket);
    if (correct(task, bracket, counts)) return true;
    constexpr int steps = 8;
    hint.rest = steps;
    return false;
  }

  /// What a cut tells the next step. Nothing where many keys are equal.
  static void renew_hint(const Task& task, const Cut<Key>& cut) noexcept {
    const std::int64_t blocks = task.grid.blocks();
    if (task.hint == nullptr || blocks < hinted_min) return;
    const CutHint old = std::exchange(*task.hint, {});
    constexpr std::int64_t many = 16;
    if (!(cut.density > 0) || cut.ties > many) return;
    const auto key = static_cast<double>(cut.threshold);
    CutHint hint{blocks, task.quota.blocks, key, cut.density, 0, std::max(old.rest - 1, 0)};
    if (old.blocks == blocks) {
      hint.error = std::abs(key - old.key_at(hint.pruned)) * hint.density;
    }
    *task.hint = hint;
  }

  /// A sample of runs of neighbours. Keys are kept in `gathered` of the first lane.
  struct Sample {
    std::int64_t runs;
    std::int64_t below;  // keys that are less than all that are kept
    std::int64_t kept;   // as far as there is room; all but those below, and some above

    std::int64_t size() const noexcept { return runs * run_length; }
    /// Whether the keys of these ranks are kept, or are beyond the sample, with all between.
    bool holds(double low, double high) const noexcept {
      return (below == 0 || std::floor(low) > static_cast<double>(below)) &&
             (below + kept == size() || std::ceil(high) <= static_cast<double>(below + kept));
    }
  };

  /// How much the number of a sample's keys varies, by its standard deviation.
  struct Spread {
    Key key;
    double below, up_to;  // of the keys below `key`, and of those up to it

    double margin_below() const noexcept { return deviations * below + 4; }
    double margin_up_to() const noexcept { return deviations * up_to + 4; }
  };

  static constexpr double repeated = 3;  // hardly any two of so few numbers are equal by chance

  /// Calls done(lane, run, keys, n) for some runs at a time, the first of which is `run`, with the
  /// keys of their n blocks, which target(lane, run) has given the place for.
  template <class Target, class Done>
  void sample(const Task& task, std::int64_t runs, const Target& target,
              const Done& done) const noexcept {
    // One run of neighbours from each of as many equal parts, at places that the golden ratio
    // spreads evenly; whole cache lines, where the matrix begins with one.
    const std::int64_t part = task.grid.blocks() / runs;
    const auto place = [&](std::int64_t run) {
      const auto choices = static_cast<std::uint64_t>(part - run_length + 1);
      constexpr std::uint64_t golden = 0x9E3779B97F4A7C15U;                          // 2^64 / phi
      const std::uint64_t share = (static_cast<std::uint64_t>(run) * golden) >> 32;  // of 2^32
      return (run * part + static_cast<std::int64_t>((share * choices) >> 32)) / run_length *
             run_length;
    };
    const Patch patch = Patch::of(task.grid.matrix);
    constexpr std::int64_t batch =
        chunk_blocks_max / run_length;  // whose memory is waited for together
    parallel_for(Grid::divide_up(runs, batch), task.threads, [&](std::int64_t i, int worker) {
      Lane<Key>& lane = lane_at(task.first_lane + worker);
      const std::int64_t first = i * batch, end = std::min(runs, first + batch);
      for (std::int64_t run = first; run < end; ++run) {
        task.scorer.prefetch(task.grid, task.grid.run(place(run), run_length), patch);
      }
      Key* const keys = target(lane, first);
      for (std::int64_t run = first; run < end; ++run) {
        for (std::int64_t n = 0; n < run_length;) {
          const Grid::Part found = task.grid.run(place(run) + n, run_length - n);
          task.scorer.blocks(keys + (run - first) * run_length + n, task.grid, found, patch,
                             lane.sums.data());
          n += found.width;
        }
      }
      done(lane, first, keys, (end - first) * run_length);
    });
  }

  /// All keys of runs_of_sample() runs.
  Sample first_sample(const Task& task) const noexcept {
    const std::int64_t n = task.grid.blocks();
    const std::int64_t runs = std::min(runs_of_sample(n), n / 2 / run_length);
    Key* const keys = lane_at(task.first_lane).gathered.get();
    sample(
        task, runs, [&](Lane<Key>&, std::int64_t run) { return keys + run * run_length; },
        [](Lane<Key>&, std::int64_t, const Key*, std::int64_t) {});
    return {runs, 0, runs * run_length};
  }

  /// What the first sample says of itself.
  Spread spread_of(const Task& task, const Sample& sample) const noexcept {
    const Lane<Key>& first = lane_at(task.first_lane);
    const Key* const keys = first.gathered.get();
    std::uint16_t* const counts = first.places.get();
    const auto deviation_below = [&](Key key) {
      for (std::int64_t run = 0; run < sample.runs; ++run) {
        counts[run] = static_cast<std::uint16_t>(
            select_->count_below(keys + run * run_length, run_length, key));
      }
      return deviation(counts, sample.runs);
    };
    const Key key = select_near(task, sample, 0);
    const double below = deviation_below(key);
    // How many lie below a key that many equal varies otherwise than how many lie up to it.
    const auto equal = static_cast<double>(select_->count_equal(keys, sample.kept, key));
    return {key, below, equal < repeated ? below : deviation_below(key + 1)};
  }

  /// A sample of several times as many runs, of whose keys those in [from, to] are kept; and how
  /// much the number of those below `key` and up to it varies.
  std::pair<Sample, Spread> take_second_sample(const Task& task, Key key, Key from,
                                               Key to) const noexcept {
    const std::int64_t n = task.grid.blocks(), room = candidates_max(n);
    const std::int64_t runs = std::min(second_sample * runs_of_sample(n), n / 2 / run_length);
    const Lane<Key>& first = lane_at(task.first_lane);
    std::uint16_t* const below_key = first.places.get();
    std::uint16_t* const up_to_key = below_key + runs;
    std::atomic<std::int64_t> below{0}, kept{0};
    sample(
        task, runs, [](Lane<Key>& lane, std::int64_t) { return lane.keys.data(); },
        [&](Lane<Key>& lane, std::int64_t run, const Key* keys, std::int64_t count) {
          for (std::int64_t i = 0; i < count; i += run_length, ++run) {
            const auto less = [&](Key than) {
              return static_cast<std::uint16_t>(select_->count_below(keys + i, run_length, than));
            };
            below_key[run] = less(key);
            up_to_key[run] = less(key + 1);
          }
          Key* const near = lane.element_keys.data();
          const SplitCounts found = select_->split(near, count, keys, count, from, to + 1);
          below.fetch_add(found.below);
          const std::int64_t begin = kept.fetch_add(found.inside);
          if (begin + found.inside <= room) {
            std::copy_n(near, found.inside, first.gathered.get() + begin);
          }
        });
    // Where there was no room for all of them, none counts: then no rank is held.
    return {{runs, below, kept <= room ? kept.load() : 0},
            {key, deviation(below_key, runs), deviation(up_to_key, runs)}};
  }

  /// Where the cut lies among the keys of a sample.
  static double rank_of_cut(const Task& task, const Sample& sample) noexcept {
    return static_cast<double>(task.quota.blocks) / static_cast<double>(task.grid.blocks()) *
           static_cast<double>(sample.size());
  }

  /// The key of a sample that is so far from the cut, in ranks. 0 and `nan` stand for what is
  /// beyond the sample, and for what is not kept of it.
  Key select_near(const Task& task, const Sample& sample, double distance) const noexcept {
    const double rank = rank_of_cut(task, sample) + distance;
    const auto whole = static_cast<std::int64_t>(distance < 0 ? std::floor(rank) : std::ceil(rank));
    const std::int64_t k = whole - sample.below;
    if (k < 1) return 0;
    if (k > sample.kept) return KeyTraits<Key>::nan;
    const Lane<Key>& first = lane_at(task.first_lane);
    return cut_of(*select_, first.gathered.get(), sample.kept, k, first.gathered_spare.get(),
                  candidates_max(task.grid.blocks()))
        .threshold;
  }

  Bracket bracket_of(const Task& task, const Sample& sample, const Spread& spread) const noexcept {
    const double rank = rank_of_cut(task, sample);
    if (!sample.holds(rank - spread.margin_below(), rank + spread.margin_up_to())) {
      constexpr double too_many = std::numeric_limits<double>::infinity();
      return {0, KeyTraits<Key>::nan, false, false, 0, 0, too_many};
    }
    const Key guess = select_near(task, sample, 0);
    const Key lo = select_near(task, sample, -spread.margin_below());
    const Key hi = select_near(task, sample, spread.margin_up_to());
    const Key* const keys = lane_at(task.first_lane).gathered.get();
    const auto count_below = [&](Key key) {
      return static_cast<double>(sample.below + select_->count_below(keys, sample.kept, key));
    };
    const auto count = [&](Key key) {
      return static_cast<double>(select_->count_equal(keys, sample.kept, key));
    };
    const double share = std::clamp((rank - count_below(guess)) / count(guess), 0.0, 1.0);
    const auto pruned_tiles =
        static_cast<std::int64_t>(share * static_cast<double>(task.grid.tiles()));
    Bracket bracket{lo,
                    hi,
                    lo == hi || count(lo) >= repeated,
                    lo < hi && count(hi) >= repeated,
                    guess,
                    pruned_tiles,
                    0};
    const Key end = static_cast<Key>(bracket.first() + bracket.width());
    bracket.candidates = (count_below(end) - count_below(bracket.first())) /
                         static_cast<double>(sample.size()) *
                         static_cast<double>(task.grid.blocks());
    return bracket;
  }

  /// The standard deviation of the sum of `counts`, of the keys of each run below some key.
  /// Neighbours are alike, so it is estimated from the differences of runs: of successive ones,
  /// which are near each other, and of those whose places in their parts are nearly the same,
  /// golden_lag apart. Where either varies little, so does the sum, since the places are spread
  /// evenly in both ways.
  static double deviation(const std::uint16_t* counts, std::int64_t runs) noexcept {
    const auto squares = [&](std::int64_t lag) {
      if (runs <= lag) return 0.0;
      std::int64_t sum = 0;
      for (std::int64_t run = lag; run < runs; ++run) {
        const std::int64_t difference = counts[run] - counts[run - lag];
        sum += difference * difference;
      }
      return static_cast<double>(sum) * static_cast<double>(runs) / static_cast<double>(runs - lag);
    };
    constexpr std::int64_t golden_lag = 144;  // a Fibonacci number: 144 / phi is nearly whole
    double least = squares(1);
    if (runs >= 4 * golden_lag) least = std::min(least, squares(golden_lag));
    return std::sqrt(least / 2);
  }

  PassCounts pass(const Task& task, const Bracket& bracket) const noexcept {
    const Lane<Key>& first = lane_at(task.first_lane);
    const std::int64_t room = candidates_max(task.grid.blocks());
    std::atomic<std::int64_t> below{0}, at_lo{0}, inside{0}, at_hi{0};
    // Not for each tile: an atomic addition waits for all that was written past the cache.
    const auto hand_in = [&](Lane<Key>& lane) {
      const PassCounts& group = lane.group;
      below.fetch_add(group.below);
      at_lo.fetch_add(group.at_lo);
      at_hi.fetch_add(group.at_hi);
      const std::int64_t begin = inside.fetch_add(group.inside);
      for (int i = 0; i < lane.group_size; ++i) {
        first.tiles[lane.group_tiles[static_cast<std::size_t>(i)]].candidates += begin;
      }
      if (begin + group.inside <= room) {
        std::copy_n(lane.group_candidates.data(), group.inside, first.gathered.get() + begin);
        std::copy_n(lane.group_places.data(), group.inside, first.places.get() + begin);
      }
      lane.group = {};
      lane.group_size = 0;
    };
    for_each_tile(
        task,
        [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
          if (lane.group.inside + tile_blocks_max > group_candidates_max) hand_in(lane);
          pass_tile(task, bracket, tile, patch, lane);
        },
        hand_in);
    return {below, at_lo, inside, at_hi};
  }

  /// Writes the provisional mask of a tile, and adds to what its group has found.
  void pass_tile(const Task& task, const Bracket& bracket, std::int64_t tile, const Patch& patch,
                 Lane<Key>& lane) const noexcept {
    const Key from = bracket.from(tile);
    const Key* const candidates = lane.group_candidates.data() + lane.group.inside;
    const bool at_once = patch && (!bracket.counts_ties() || task.scorer.can_count_ends());
    PassCounts found = at_once ? pass_at_once(task, bracket, from, tile, patch, lane)
                               : pass_in_chunks(task, bracket, from, tile, patch, lane);
    // Of what is pruned now, some is not below the bracket.
    found.below -= select_->count_below(candidates, found.inside, from);
    if (bracket.lo < from) found.below -= found.at_lo;
    if (bracket.hi < from) found.below -= found.at_hi;

    lane_at(task.first_lane).tiles[tile] = {
        lane.group.inside, static_cast<std::int32_t>(found.inside),
        static_cast<std::int32_t>(found.at_lo), static_cast<std::int32_t>(found.at_hi), 0};
    lane.group_tiles[static_cast<std::size_t>(lane.group_size++)] = tile;
    lane.group.add(found);
  }

  /// The pass over a tile without keys in memory. `below` counts all it prunes, and candidates are
  /// appended to those of the group.
  PassCounts pass_at_once(const Task& task, const Bracket& bracket, Key from, std::int64_t tile,
                          const Patch& patch, Lane<Key>& lane) const noexcept {
    PassCounts found{};
    const bool count_ends = bracket.counts_ties();
    const bool write_mask = task.whole() && task.scorer.can_bracket_masks() && !count_ends;
    Grid::for_each_band(task.grid.tile(tile), [&](const Grid::Part& band, std::int64_t first) {
      std::uint8_t* const keep = keep_of(task, band, lane);
      const MaskWindow window = task.window(task.grid.elements(band));
      const typename Scorer<Key>::Target target{write_mask ? window.bytes : keep, window.pitch,
                                                write_mask, count_ends, task.store()};
      const std::int64_t before = lane.group.inside + found.inside;
      const auto [counts, before_first, behind] = task.scorer.bracket(
          target, lane.group_candidates.data() + before, lane.group_places.data() + before,
          task.grid, band, first, patch, from, bracket.first(), bracket.width());
      found.below += band.width - counts.kept;
      found.inside += counts.inside;
      if (bracket.ties_at_lo) found.at_lo += before_first;
      if (bracket.ties_at_hi) found.at_hi += behind;
      if (!write_mask) write(task, band, patch, keep, lane);
    });
    return found;
  }

  /// The same by way of keys in memory.
  PassCounts pass_in_chunks(const Task& task, const Bracket& bracket, Key from, std::int64_t tile,
                            const Patch& patch, Lane<Key>& lane) const noexcept {
    PassCounts found{};
    std::int64_t blocks = 0;
    for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
      const std::int64_t n = chunk.size();
      const std::int64_t before = lane.group.inside + found.inside;
      Key* const candidates = lane.group_candidates.data() + before;
      std::uint16_t* const places = lane.group_places.data() + before;
      std::uint8_t* const keep = keep_of(task, chunk, lane);
      const BracketCounts counts =
          select_->bracket(keep, places, keys, n, from, bracket.first(), bracket.width());
      for (std::int64_t i = 0; i < counts.inside; ++i) {
        candidates[i] = keys[places[i]];
        places[i] = static_cast<std::uint16_t>(blocks + places[i]);
      }
      found.below += n - counts.kept;
      found.inside += counts.inside;
      if (bracket.ties_at_lo) found.at_lo += select_->count_equal(keys, n, bracket.lo);
      if (bracket.ties_at_hi) found.at_hi += select_->count_equal(keys, n, bracket.hi);
      write(task, chunk, patch, keep, lane);
      blocks += n;
    });
    return found;
  }

  /// Turns the mask of a pass into the right one.
  bool correct(const Task& task, const Bracket& bracket, const PassCounts& counts) noexcept {
    Lane<Key>& first = lane_at(task.first_lane);
    Cut<Key> cut{bracket.lo, task.quota.blocks - counts.below};
    std::int64_t among = counts.at_lo;  // keys that equal the threshold
    if (cut.ties < 1 || counts.inside > candidates_max(task.grid.blocks())) return false;
    if (cut.ties > counts.at_lo + counts.inside) {
      cut = {bracket.hi, cut.ties - counts.at_lo - counts.inside};
      among = counts.at_hi;
      if (cut.ties > among) return false;
    } else if (cut.ties > counts.at_lo) {
      cut = cut_of(*select_, first.gathered.get(), counts.inside, cut.ties - counts.at_lo,
                   first.gathered_spare.get(), run_length * runs_of_sample(task.grid.blocks()));
      among = select_->count_equal(first.gathered.get(), counts.inside, cut.threshold);
    }
    if (bracket.counts_ties()) {
      cut.density = 0;
    } else {
      cut.density = static_cast<double>(counts.inside) / static_cast<double>(bracket.width());
    }
    renew_hint(task, cut);
    if (cut.ties == among) cut = {cut.threshold + 1, 0};  // all of them: no need to count
    if (cut.ties > 0) {
      count_ties_before(task, [&](const TileCounts& tile) -> std::int64_t {
        if (bracket.ties_at_lo && cut.threshold == bracket.lo) return tile.at_lo;
        if (bracket.ties_at_hi && cut.threshold == bracket.hi) return tile.at_hi;
        return select_->count_equal(first.gathered.get() + tile.candidates, tile.inside,
                                    cut.threshold);
      });
    }
    for_each_tile(task, [&](std::int64_t index, const Patch& patch, Lane<Key>& lane) {
      const TileCounts& found = tile_counts(task, index);
      const Key from = bracket.from(index);
      const auto wrong = [&](Key key, std::int64_t ties) {
        const std::int64_t pruned =
            key < cut.threshold   ? ties
            : key > cut.threshold ? 0
                                  : std::clamp<std::int64_t>(cut.ties - found.ties_before, 0, ties);
        return pruned != (key < from ? ties : 0);
      };
      if (wrong(bracket.lo, found.at_lo) || wrong(bracket.hi, found.at_hi)) {
        write_by_cut(task, index, patch, cut, lane);
      } else {
        correct_candidates(task, index, patch, from, cut, lane);
      }
    });
    return true;
  }

  // --- writing the mask ------------------------------------------------------------------------

  const TileCounts& tile_counts(const Task& task, std::int64_t tile) const noexcept {
    return lane_at(task.first_lane).tiles[tile];
  }

  /// Where the decisions on a chunk's blocks go, a byte per block: with single elements, right into
  /// the mask; those on large blocks are kept.
  std::uint8_t* keep_of(const Task& task, const Grid::Part& chunk, Lane<Key>& lane) const noexcept {
    if (task.large()) return block_keep_.get() + task.grid.begin(chunk);
    if (task.direct()) return task.mask.bytes + task.grid.begin(chunk);
    return lane.keep.data();
  }

  /// Writes a tile anew; `cut.ties` counts from the first tile.
  void write_by_cut(const Task& task, std::int64_t tile, const Patch& patch, const Cut<Key>& cut,
                    Lane<Key>& lane) const noexcept {
    std::int64_t ties = cut.ties - tile_counts(task, tile).ties_before;
    for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
      std::uint8_t* const keep = keep_of(task, chunk, lane);
      select_->threshold(keep, keys, chunk.size(), cut.threshold, ties);
      if (ties > 0) ties -= select_->count_equal(keys, chunk.size(), cut.threshold);
      write(task, chunk, patch, keep, lane);
    });
  }

  /// The mask of a chunk, given which of its blocks to keep. Large blocks come later.
  void write(const Task& task, const Grid::Part& chunk, const Patch& patch,
             const std::uint8_t* keep, Lane<Key>& lane) const noexcept {
    if (task.large() || task.direct()) return;
    Grid::for_each_band(chunk, [&](const Grid::Part& band, std::int64_t first) {
      if (task.whole()) {
        write_blocks(task, band, keep + first);
      } else {
        write_within_blocks(task, band, patch, keep + first, lane);
      }
    });
  }

  /// Whole blocks: pruned ones become zeros, all others ones.
  void write_blocks(const Task& task, const Grid::Part& band,
                    const std::uint8_t* keep) const noexcept {
    const std::int64_t width = task.grid.width;
    const Grid::Rectangle elements = task.grid.elements(band);
    const MaskWindow window = task.window(elements);
    const std::int64_t rest = band.width * width - elements.columns;
    const std::int64_t full = rest > 0 ? band.width - 1 : band.width;
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      table_->repeat(window.at(r, 0), keep, full, width);
      if (rest > 0) {
        std::memset(window.at(r, full * width), keep[full], static_cast<std::size_t>(width - rest));
      }
    }
  }

  /// Blocks that lose some of their elements only, as many at a time as keys stay in the cache.
  void write_within_blocks(const Task& task, const Grid::Part& band, const Patch& patch,
                           const std::uint8_t* keep, Lane<Key>& lane) const noexcept {
    if (zero_least_at_once(task, band, patch, keep)) return;
    const std::int64_t together = std::max<std::int64_t>(1, chunk_blocks_max / task.block_size());
    for (std::int64_t b = 0; b < band.width; b += together) {
      const Grid::Part some{band.band, 1, band.block + b, std::min(together, band.width - b)};
      const Grid::Rectangle elements = task.grid.elements(some);
      task.scorer.elements(lane.element_keys.data(), elements, patch, lane.sums.data());
      zero_least(task, elements, keep + b, lane);
    }
  }

  /// The same without keys in memory, where all blocks are pruned; false where there is no kernel.
  bool zero_least_at_once(const Task& task, const Grid::Part& band, const Patch& patch,
                          const std::uint8_t* keep) const noexcept {
    const std::int64_t width = task.grid.width;
    const bool is_narrow = width == 2 || width == 4 || width == 8;
    if (!task.scorer.can_zero_least() || !patch || !is_narrow) return false;
    const Grid::Rectangle elements = task.grid.elements(band);
    if (elements.rows > 1 || elements.columns % width != 0 || task.quota.zeros >= width) {
      return false;
    }
    if (std::memchr(keep, 1, static_cast<std::size_t>(band.width)) != nullptr) return false;
    task.scorer.zero_least(task.window(elements).bytes, elements, patch, width, task.quota.zeros,
                           task.store());
    return true;
  }

  /// The mask of blocks side by side, whose element keys are in the lane.
  void zero_least(const Task& task, const Grid::Rectangle& elements, const std::uint8_t* keep,
                  Lane<Key>& lane) const noexcept {
    const std::int64_t width = task.grid.width;
    const MaskWindow window = task.window(elements);
    std::int64_t done = 0;
    const bool a_power = width == 2 || width == 4 || width == 8 || width == 16;
    if (elements.rows == 1 && a_power && task.quota.zeros < width) {
      const std::int64_t blocks = elements.columns / width;
      done = blocks * width;
      std::uint8_t* const mask = window.at(0, 0);
      select_->zero_least(mask, lane.element_keys.data(), blocks, width, task.quota.zeros);
      if (std::memchr(keep, 1, static_cast<std::size_t>(blocks)) != nullptr) {
        std::uint8_t* const kept = lane.bytes.data();
        table_->repeat(kept, keep, blocks, width);
        std::transform(mask, mask + done, kept, mask, std::bit_or<>());
      }
    }
    for (; done < elements.columns; done += width) {
      const std::int64_t columns = std::min(width, elements.columns - done);
      const MaskWindow block{window.at(0, done), window.pitch};
      if (keep[done / width] != 0) {
        block.fill(elements.rows, columns, 1);
      } else {
        zero_least_of_block(task, lane.element_keys.data() + done, elements, columns, block, lane);
      }
    }
  }

  /// One block; its element keys are among those of all elements.
  void zero_least_of_block(const Task& task, const Key* all, const Grid::Rectangle& elements,
                           std::int64_t columns, MaskWindow block, Lane<Key>& lane) const noexcept {
    const std::int64_t rows = elements.rows;
    const std::int64_t n = rows * columns;
    const std::int64_t zeros = std::min(task.quota.zeros, n);
    Key* const keys = lane.block_keys.data();
    std::uint8_t* const keep = lane.bytes.data();
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(all + r * elements.columns, columns, keys + r * columns);
    }
    constexpr std::int64_t few = 16;
    if (n <= few && zeros < few) {
      std::fill(keys + n, keys + few, KeyTraits<Key>::nan + 1);  // above all others
      select_->zero_least(keep, keys, 1, few, zeros);
    } else {
      const Cut<Key> cut = cut_of(*select_, keys, n, zeros, keys + n, n);
      select_->threshold(keep, keys, n, cut.threshold, cut.ties);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(keep + r * columns, columns, block.at(r, 0));
    }
  }

  /// Puts right those candidates of a tile that the pass took for others; ties count from the first
  /// tile.
  void correct_candidates(const Task& task, std::int64_t index, const Patch& patch, Key from,
                          const Cut<Key>& cut, Lane<Key>& lane) const noexcept {
    const Lane<Key>& first = lane_at(task.first_lane);
    const TileCounts& found = tile_counts(task, index);
    const Key* const keys = first.gathered.get() + found.candidates;
    const std::uint16_t* const places = first.places.get() + found.candidates;
    const Grid::Part tile = task.grid.tile(index);
    // Only those between what the pass assumed and the cut can be wrong.
    const Key low = std::min(from, cut.threshold);
    const Key high = std::max(from, cut.ties > 0 ? cut.threshold + 1 : cut.threshold);
    const BracketCounts wrong = select_->bracket(lane.tile_keep.data(), lane.wrong.data(), keys,
                                                 found.inside, 0, low, high - low);
    std::int64_t ties = cut.ties - found.ties_before;
    for (std::int64_t i = 0; i < wrong.inside; ++i) {
      const std::size_t candidate = lane.wrong[static_cast<std::size_t>(i)];
      const Key key = keys[candidate];
      const bool keep = key > cut.threshold || (key == cut.threshold && ties-- <= 0);
      if (keep == (key >= from)) continue;
      const std::int64_t place = places[candidate];
      if (task.direct()) {
        task.mask.bytes[task.grid.begin(tile) + place] = keep ? 1 : 0;
      } else if (task.large()) {
        block_keep_[task.grid.begin(tile) + place] = keep ? 1 : 0;
      } else {
        rewrite_block(task, {tile.band + place / tile.width, 1, tile.block + place % tile.width, 1},
                      patch, keep, lane);
      }
    }
  }

  void rewrite_block(const Task& task, const Grid::Part& block, const Patch& patch, bool keep,
                     Lane<Key>& lane) const noexcept {
    if (keep || task.whole()) {
      const Grid::Rectangle elements = task.grid.elements(block);
      task.window(elements).fill(elements.rows, elements.columns, keep ? 1 : 0);
    } else {
      const std::uint8_t none = 0;
      write_within_blocks(task, block, patch, &none, lane);
    }
  }

  /// The same for blocks that do not fit into a lane: each is a selection of its own.
  void write_within_large_blocks(const Task& task, Norm norm) noexcept {
    const Grid& grid = task.grid;
    for (std::int64_t block = 0; block < grid.blocks(); ++block) {
      const std::int64_t row = block / grid.per_band * grid.height;
      const std::int64_t column = block % grid.per_band * grid.width;
      const std::int64_t rows = std::min(grid.height, grid.matrix.rows() - row);
      const std::int64_t columns = std::min(grid.width, grid.matrix.columns() - column);
      const bool keep = block_keep_[block] != 0;
      const Quota quota{keep ? 0 : std::min(task.quota.zeros, rows * columns), 1};
      prune(grid.matrix.part(row, column, rows, columns), norm, 1, 1, quota,
            {task.mask.at(row, column), task.mask.pitch}, nullptr, task.first_lane, task.threads);
    }
  }

  const Kernels* table_ = nullptr;
  const SelectionKernels<Key>* select_ = nullptr;
  std::vector<std::unique_ptr<Lane<Key>>> lanes_;
  Buffer<std::uint8_t> block_keep_;  // by block, for large blocks only
};

/// A job in the numbers of the engine.
struct Plan {
  Matrix matrix;
  Norm norm;
  std::int64_t height, width;
  Quota quota;
  std::uint8_t* mask;
  CutHint* hint;

  explicit Plan(const MaskJob& job) noexcept
      : matrix(job.data),
        norm(job.spec.norm),
        height(std::min(job.spec.block_height, matrix.rows())),
        width(std::min(job.spec.block_width, matrix.columns())),
        mask(job.mask),
        hint(job.hint) {
    // Narrow matrices make short strips; where nothing depends on the rows, see them as one.
    if (height == 1 && matrix.columns() % width == 0 && matrix.is_one_row()) {
      matrix = matrix.as_one_row();
    }
    quota = {pruned_blocks(job.spec.sparsity_level, grid().blocks()),
             std::min(*job.spec.zeros_per_block, height * width)};
  }

  std::int64_t elements() const noexcept { return matrix.rows() * matrix.columns(); }
  Grid grid() const noexcept { return Grid(matrix, height, width); }
  bool has_large_blocks() const noexcept { return height * width > small_block_max; }
  /// The selections within large blocks included.
  Room room() const noexcept {
    Room room = room_of(grid());
    if (has_large_blocks()) {
      // Those at the edge are narrower: tiles may hold more of their rows, and their keys may all
      // be kept where those of whole ones are not.
      for (const std::int64_t columns : {width, matrix.columns() % width}) {
        if (columns == 0) continue;
        Room within = room_of(Grid(matrix.part(0, 0, height, columns), 1, 1));
        within.in_memory = std::min(within.blocks, in_memory_max);
        room.include(within);
      }
    }
    return room;
  }
  static Room room_of(const Grid& grid) noexcept {
    const std::int64_t blocks = grid.blocks();
    return {blocks, grid.tiles(), grid.packed_bytes(), blocks <= in_memory_max ? blocks : 0};
  }
};

/// Scratch memory that a thread keeps from one step to the next, since fresh memory costs as much
/// as a step: what would be more is given back.
constexpr std::int64_t kept_bytes_max = std::int64_t{64} << 20;

/// Jobs whose scores are of one type.
template <class Key>
class Batch {
 public:
  /// Forgets the jobs of the last batch.
  void clear() noexcept {
    small_.clear();
    large_.clear();
    shared_ = largest_ = Room();
    elements_ = large_blocks_ = 0;
    if (engine_.bytes_held() > kept_bytes_max) engine_ = Engine<Key>();
  }

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
                  {plan.mask, plan.matrix.columns()}, plan.hint, lane, lanes);
  }

  std::vector<Plan> small_, large_;
  Room shared_, largest_;
  std::int64_t elements_ = 0, large_blocks_ = 0;
  int threads_ = 1;
  Engine<Key> engine_;
};

}  // namespace

std::int64_t pruned_blocks(double level, std::int64_t blocks) noexcept {
  const double exact = level * static_cast<double>(blocks);
  const double below = std::floor(exact);
  auto count = static_cast<std::int64_t>(below);
  const double rest = exact - below;
  if (rest > 0.5 || (rest == 0.5 && count % 2 != 0)) ++count;
  return std::min(count, blocks);
}

void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table) {
  const DefaultFloatEnvironment environment;
  thread_local Batch<std::uint32_t> narrow;
  thread_local Batch<std::uint64_t> wide;
  narrow.clear();
  wide.clear();
  for (const auto& job : jobs) {
    if (job.data.size() == 0) continue;
    if (job.data.dtype() == DType::float64) {
      wide.add(job);
    } else {
      narrow.add(job);
    }
  }
  const int threads = available_threads();
  narrow.allocate(table, threads);
  wide.allocate(table, threads);
  narrow.run();
  wide.run();
  narrow.clear();
  wide.clear();
}

}  // namespace datasparse

/// Brackets the key at which pruning stops, by a sample of the blocks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/parallel.hpp"
#include "select/limits.hpp"
#include "select/selection.hpp"
#include "tiles/eligible.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/patch.hpp"
#include "tiles/scorer.hpp"
#include "tiles/task.hpp"

namespace datasparse {

/// How many times as many runs the second sample has, of which only keys near the cut are kept.
constexpr std::int64_t second_sample = 6;

constexpr double deviations = 3.5;  // from the middle of a bracket to its ends
constexpr double repeated = 3;      // hardly any two of so few numbers are equal by chance

/// Where the cut lies, by a sample or another guess.
template <class Key>
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
template <class Key>
struct Spread {
  Key key;
  double below, up_to;  // of the keys below `key`, and of those up to it

  double margin_below() const noexcept { return deviations * below + 4; }
  double margin_up_to() const noexcept { return deviations * up_to + 4; }
};

/// The block that a run begins with. One run of neighbours from each of as many equal parts, at
/// places that the golden ratio spreads evenly. bench/adversary.py knows the places.
inline std::int64_t place_of_run(std::int64_t run, std::int64_t part) noexcept {
  const auto choices = static_cast<std::uint64_t>(part - run_length + 1);
  constexpr std::uint64_t golden = 0x9E3779B97F4A7C15U;                          // 2^64 / phi
  const std::uint64_t share = (static_cast<std::uint64_t>(run) * golden) >> 32;  // of 2^32
  return run * part + static_cast<std::int64_t>((share * choices) >> 32);
}

/// Calls done(lane, run, keys, n) for some runs at a time, the first of which is `run`, with the
/// keys of their n blocks, which target(lane, run) has given the place for. Runs are
/// whole cache lines, where the matrix begins with one.
template <class Key, class Target, class Done>
void score_sample(const Task<Key>& task, std::int64_t runs, const Target& target,
                  const Done& done) noexcept {
  const std::int64_t part = task.grid.blocks() / runs;
  const auto place = [part](std::int64_t run) {
    return place_of_run(run, part) / run_length * run_length;
  };
  const Patch patch = Patch::of(task.grid.matrix);
  constexpr std::int64_t batch =
      chunk_blocks_max / run_length;  // whose memory is waited for together
  parallel_for(Grid::divide_up(runs, batch), task.threads, [&](std::int64_t i, int worker) {
    Lane<Key>& lane = task.lane(worker);
    const std::int64_t first = i * batch, end = std::min(runs, first + batch);
    for (std::int64_t run = first; run < end; ++run) {
      prefetch_run(task, task.grid.run(place(run), run_length), patch);
    }
    Key* const keys = target(lane, first);
    for (std::int64_t run = first; run < end; ++run) {
      for (std::int64_t n = 0; n < run_length;) {
        const Grid::Part found = task.grid.run(place(run) + n, run_length - n);
        score_blocks(task, keys + (run - first) * run_length + n, found, patch, lane);
        n += found.width;
      }
    }
    done(lane, first, keys, (end - first) * run_length);
  });
}

/// All keys of runs_of_sample() runs.
template <class Key>
Sample first_sample(const Task<Key>& task) noexcept {
  const std::int64_t n = task.grid.blocks();
  const std::int64_t runs = std::min(runs_of_sample(n), n / 2 / run_length);
  Key* const keys = task.found.gathered;
  score_sample(
      task, runs, [&](Lane<Key>&, std::int64_t run) { return keys + run * run_length; },
      [](Lane<Key>&, std::int64_t, const Key*, std::int64_t) {});
  return {runs, 0, runs * run_length};
}

/// Where the cut lies among the keys of a sample.
template <class Key>
double rank_of_cut(const Task<Key>& task, const Sample& sample) noexcept {
  return static_cast<double>(task.quota.blocks) / static_cast<double>(task.grid.blocks()) *
         static_cast<double>(sample.size());
}

/// The key of a sample that is so far from the cut, in ranks. 0 and `nan` stand for what is
/// beyond the sample, and for what is not kept of it.
template <class Key>
Key select_near(const Task<Key>& task, const Sample& sample, double distance) noexcept {
  const double rank = rank_of_cut(task, sample) + distance;
  const auto whole = static_cast<std::int64_t>(distance < 0 ? std::floor(rank) : std::ceil(rank));
  const std::int64_t k = whole - sample.below;
  if (k < 1) return 0;
  if (k > sample.kept) return KeyTraits<Key>::nan;
  const Cut<Key> cut =
      cut_of(task.select, task.found.gathered, sample.kept, k, task.found.spare, task.found.room);
  return std::min(cut.threshold, KeyTraits<Key>::nan);  // what may not be chosen is above
}

/// The standard deviation of the sum of `counts`, of the keys of each run below some key.
/// Neighbours are alike, so it is estimated from the differences of runs: of successive ones,
/// which are near each other, and of those whose places in their parts are nearly the same,
/// golden_lag apart. Where either varies little, so does the sum, since the places are spread
/// evenly in both ways.
inline double deviation(const std::uint16_t* counts, std::int64_t runs) noexcept {
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

/// What the first sample says of itself.
template <class Key>
Spread<Key> spread_of(const Task<Key>& task, const Sample& sample) noexcept {
  const Key* const keys = task.found.gathered;
  std::uint16_t* const counts = task.found.places;
  const auto deviation_below = [&](Key key) {
    for (std::int64_t run = 0; run < sample.runs; ++run) {
      counts[run] = static_cast<std::uint16_t>(
          task.select.count_below(keys + run * run_length, run_length, key));
    }
    return deviation(counts, sample.runs);
  };
  const Key key = select_near(task, sample, 0);
  const double below = deviation_below(key);
  // How many lie below a key that many equal varies otherwise than how many lie up to it.
  const auto equal = static_cast<double>(task.select.count_equal(keys, sample.kept, key));
  return {key, below, equal < repeated ? below : deviation_below(key + 1)};
}

/// A sample of several times as many runs, of whose keys those in [from, to] are kept; and how
/// much the number of those below `key` and up to it varies.
template <class Key>
std::pair<Sample, Spread<Key>> take_second_sample(const Task<Key>& task, Key key, Key from,
                                                  Key to) noexcept {
  const std::int64_t n = task.grid.blocks(), room = task.found.room;
  const std::int64_t runs = std::min(second_sample * runs_of_sample(n), n / 2 / run_length);
  std::uint16_t* const below_key = task.found.places;
  std::uint16_t* const up_to_key = below_key + runs;
  std::atomic<std::int64_t> below{0}, kept{0};
  score_sample(
      task, runs, [](Lane<Key>& lane, std::int64_t) { return lane.keys.data(); },
      [&](Lane<Key>& lane, std::int64_t run, const Key* keys, std::int64_t count) {
        for (std::int64_t i = 0; i < count; i += run_length, ++run) {
          const auto less = [&](Key than) {
            return static_cast<std::uint16_t>(task.select.count_below(keys + i, run_length, than));
          };
          below_key[run] = less(key);
          up_to_key[run] = less(key + 1);
        }
        Key* const near = lane.element_keys.data();
        const SplitCounts found = task.select.split(near, count, keys, count, from, to + 1);
        below.fetch_add(found.below);
        const std::int64_t begin = kept.fetch_add(found.inside);
        if (begin + found.inside <= room) {
          std::copy_n(near, found.inside, task.found.gathered + begin);
        }
      });
  // Where there was no room for all of them, none counts: then no rank is held.
  return {{runs, below, kept <= room ? kept.load() : 0},
          {key, deviation(below_key, runs), deviation(up_to_key, runs)}};
}

template <class Key>
Bracket<Key> bracket_of(const Task<Key>& task, const Sample& sample,
                        const Spread<Key>& spread) noexcept {
  const double rank = rank_of_cut(task, sample);
  if (!sample.holds(rank - spread.margin_below(), rank + spread.margin_up_to())) {
    constexpr double too_many = std::numeric_limits<double>::infinity();
    return {0, KeyTraits<Key>::nan, false, false, 0, 0, too_many};
  }
  const Key guess = select_near(task, sample, 0);
  const Key lo = select_near(task, sample, -spread.margin_below());
  const Key hi = select_near(task, sample, spread.margin_up_to());
  const Key* const keys = task.found.gathered;
  const auto count_below = [&](Key key) {
    return static_cast<double>(sample.below + task.select.count_below(keys, sample.kept, key));
  };
  const auto count = [&](Key key) {
    return static_cast<double>(task.select.count_equal(keys, sample.kept, key));
  };
  const double ties = std::max(count(guess), 1.0);
  const double share = std::clamp((rank - count_below(guess)) / ties, 0.0, 1.0);
  const auto pruned_tiles =
      static_cast<std::int64_t>(share * static_cast<double>(task.grid.tiles()));
  Bracket<Key> bracket{
      lo,           hi, lo == hi || count(lo) >= repeated, lo < hi && count(hi) >= repeated, guess,
      pruned_tiles, 0};
  const Key end = static_cast<Key>(bracket.first() + bracket.width());
  bracket.candidates = (count_below(end) - count_below(bracket.first())) /
                       static_cast<double>(sample.size()) * static_cast<double>(task.grid.blocks());
  return bracket;
}

}  // namespace datasparse

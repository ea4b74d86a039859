#include "select/engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "base/bytes.hpp"
#include "base/parallel.hpp"
#include "select/cut_hint.hpp"
#include "select/cut_range.hpp"
#include "select/selection.hpp"
#include "tiles/eligible.hpp"
#include "tiles/mask_writing.hpp"
#include "tiles/past.hpp"

namespace datasparse {

template <class Key>
void Engine<Key>::prune(const Pruning& pruning, const Target& target, int first_lane,
                        int threads) noexcept {
  const auto& [matrix, norm, height, width, quota, choice] = pruning;
  const Grid grid(matrix, height, width);
  if ((quota.blocks == 0 || quota.zeros == 0) && !choice.is_made()) {
    target.mask.fill(matrix.rows(), matrix.columns(), 1);
    return;
  }
  const Lane<Key>& lane = *lanes_[static_cast<std::size_t>(first_lane)];
  Task<Key> task = task_of(grid, pruning, target, first_lane, threads,
                           {lane.tiles.get(), lane.gathered.get(), lane.gathered_spare.get(),
                            lane.places.get(), candidates_max(grid.blocks()), nullptr});
  if (task.has_past()) begin_with_past(task);
  if (quota.blocks == (choice.is_made() ? choice.eligible : grid.blocks())) {
    write_all(task, nullptr, 0);
  } else if (task.quota.blocks == 0) {
    write_all(task, nullptr, 1);  // but for those that were pruned before
  } else if (!prune_by_hint(task)) {
    if (grid.blocks() <= in_memory_max) {
      prune_in_memory(task);
    } else if (!prune_by_sample(task)) {
      prune_by_counting(task);
    }
  }
  if (task.large()) write_within_large_blocks(task, norm);
}

template <class Key>
void Engine<Key>::mark_within(const Pruning& pruning, const Target& target, int first_lane,
                              int threads) const noexcept {
  const Grid grid(pruning.matrix, pruning.height, pruning.width);
  const Task<Key> task = task_of(grid, pruning, target, first_lane, threads, {});
  for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
    Grid::for_each_band(grid.tile(tile), [&](const Grid::Part& band, std::int64_t) {
      mark_within_band(task, band, patch, lane);
    });
  });
}

template <class Key>
PassCounts Engine<Key>::pass(const Task<Key>& task, const Bracket<Key>& bracket) const noexcept {
  std::atomic<std::int64_t> below{0}, at_lo{0}, inside{0}, at_hi{0};
  // Not for each tile: an atomic addition waits for all that was written past the cache.
  const auto hand_in = [&](Lane<Key>& lane) {
    const PassCounts& group = lane.group;
    below.fetch_add(group.below);
    at_lo.fetch_add(group.at_lo);
    at_hi.fetch_add(group.at_hi);
    std::int64_t begin = inside.fetch_add(group.inside);
    if (task.found.used != nullptr) begin = task.found.used->fetch_add(group.inside);
    for (int i = 0; i < lane.group_size; ++i) {
      task.found.tiles[lane.group_tiles[static_cast<std::size_t>(i)]].candidates += begin;
    }
    if (begin + group.inside <= task.found.room) {
      std::copy_n(lane.group_candidates.data(), group.inside, task.found.gathered + begin);
      std::copy_n(lane.group_places.data(), group.inside, task.found.places + begin);
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

template <class Key>
void Engine<Key>::put_right(const Task<Key>& task, const Bracket<Key>& bracket, Cut<Key> cut,
                            std::int64_t among) noexcept {
  if (cut.ties > 0 && cut.ties == among)
    cut = {cut.threshold + 1, 0};  // all of them: no need to count
  if (cut.ties > 0) {
    count_ties_before(task, [&](const TileCounts& tile) -> std::int64_t {
      if (bracket.ties_at_lo && cut.threshold == bracket.lo) return tile.at_lo;
      if (bracket.ties_at_hi && cut.threshold == bracket.hi) return tile.at_hi;
      return task.select.count_equal(task.found.gathered + tile.candidates, tile.inside,
                                     cut.threshold);
    });
  }
  // Hardly any tile is wrong as a whole: none but those is packed again.
  for_each_unpacked(task, [&](std::int64_t index, const Patch& whole, Lane<Key>& lane) {
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
      write_by_cut(task, index, whole ? whole : pack_tile(task, index, lane), cut, lane);
    } else {
      correct_candidates(task, index, whole, from, cut, lane);
    }
  });
}

template <class Key>
std::int64_t Engine<Key>::count_past(const Task<Key>& task) const noexcept {
  std::atomic<std::int64_t> pruned{0};
  for_each_unpacked(task, [&](std::int64_t tile, const Patch&, Lane<Key>& lane) {
    std::int64_t here = 0;
    Grid::for_each_chunk(task.grid.tile(tile), [&](const Grid::Part& chunk) {
      here += task.table.count_zeros(free_blocks(task, chunk, lane), chunk.size());
    });
    pruned.fetch_add(here);
  });
  return pruned;
}

template <class Key>
double Engine<Key>::norm(const Task<Key>& task) const noexcept {
  const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
  for (int w = 0; w < used; ++w) task.lane(w).squares.clear();
  for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
    for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
      lane.squares.add(keys, chunk.size());
    });
  });
  SquareSum<Key>& sum = task.lane(0).squares;
  for (int w = 1; w < used; ++w) sum.add(task.lane(w).squares);
  return std::sqrt(sum.rounded());
}

template <class Key>
void Engine<Key>::count_below(const Task<Key>& task, const Key* keys, std::int64_t n,
                              std::int64_t* below) const noexcept {
  const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
  for (int w = 0; w < used; ++w) std::fill_n(task.lane(w).counts.data(), n, 0);
  for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
    for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* of) {
      for (std::int64_t i = 0; i < n; ++i) {
        lane.counts[static_cast<std::size_t>(i)] +=
            task.select.count_below(of, chunk.size(), keys[i]);
      }
    });
  });
  std::fill_n(below, n, 0);
  for (int w = 0; w < used; ++w) {
    std::transform(below, below + n, task.lane(w).counts.data(), below, std::plus<>());
  }
}

template <class Key>
void Engine<Key>::write_all(const Task<Key>& task, const std::uint8_t* all_keep,
                            int of_all) noexcept {
  const auto write = [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
    Grid::for_each_chunk(task.grid.tile(tile), [&](const Grid::Part& chunk) {
      std::uint8_t* const keep = keep_of(task, chunk, lane);
      const auto n = static_cast<std::size_t>(chunk.size());
      if (all_keep == nullptr) {
        std::memset(keep, of_all, n);
      } else {
        std::memmove(keep, all_keep + task.grid.begin(chunk), n);  // to where it is, or elsewhere
      }
      prune_again(task, chunk, keep, lane);
      write_chunk(task, chunk, patch, keep, lane);
    });
  };
  if (task.whole() || task.large()) {
    for_each_unpacked(task, write);  // which elements a block has does not count
  } else {
    for_each_tile(task, write);
  }
}

template <class Key>
void Engine<Key>::begin_with_past(Task<Key>& task) const noexcept {
  const std::int64_t pruned = count_past(task);
  if (pruned == 0) {
    task.past = {};
    return;
  }
  task.hint = nullptr;  // it is about all blocks
  task.returning = task.quota.blocks < pruned;
  if (!task.returning) task.quota.blocks -= pruned;
}

template <class Key>
void Engine<Key>::prune_in_memory(const Task<Key>& task) noexcept {
  const Grid& grid = task.grid;
  const std::int64_t n = grid.blocks();
  Lane<Key>& first = task.lane(0);
  Key* const keys = first.all_keys.get();
  for_each_tile(task, [&](std::int64_t index, const Patch& patch, Lane<Key>& lane) {
    const Grid::Part tile = grid.tile(index);
    score_blocks(task, keys + grid.begin(tile), tile, patch, lane);
  });
  const Cut<Key> cut = cut_of(task.select, keys, n, task.quota.blocks, first.spare.get(), n);
  renew_hint(task, cut);
  std::uint8_t* const keep = task.large()    ? block_keep_.get()
                             : task.direct() ? task.mask.bytes
                                             : first.all_keep.get();
  task.select.threshold(keep, keys, n, cut.threshold, cut.ties);
  if (task.direct() && !task.has_past()) return;
  write_all(task, keep, 0);
}

template <class Key>
void Engine<Key>::prune_by_counting(const Task<Key>& task) noexcept {
  const CutRange<Key> cut = range_of_cut<Key>(
      task.grid.blocks(), task.quota.blocks, task.found.room,
      [&](const KeyRange<Key>& range, int bits) { return count_buckets(task, range, bits); },
      KeyRange<Key>::of(task.scorer.norm()));
  const double share =
      static_cast<double>(cut.left) / static_cast<double>(std::max(cut.among, cut.left));
  const Key lo = cut.keys.lo();
  const Key hi = std::min(cut.keys.hi(), KeyTraits<Key>::nan);
  const Bracket<Key> bracket{
      lo,
      hi,
      cut.keys.low == 0,
      false,
      lo + static_cast<Key>(share * static_cast<double>(hi - lo)),
      static_cast<std::int64_t>(share * static_cast<double>(task.grid.tiles())),
      static_cast<double>(cut.among)};
  correct(task, bracket, pass(task, bracket));
}

template <class Key>
std::int64_t* Engine<Key>::count_buckets(const Task<Key>& task, const KeyRange<Key>& range,
                                         int bits) noexcept {
  const std::int64_t buckets = std::int64_t{1} << bits;
  const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
  for (int w = 0; w < used; ++w) {
    std::fill_n(task.lane(w).counts.data(), buckets, 0);
  }
  for_each_tile(task, [&](std::int64_t tile, const Patch& patch, Lane<Key>& lane) {
    for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
      task.select.histogram(lane.counts.data(), keys, chunk.size(), range.prefix, range.low - bits,
                            bits);
    });
  });
  std::int64_t* const total = task.lane(0).counts.data();
  for (int w = 1; w < used; ++w) {
    const std::int64_t* const more = task.lane(w).counts.data();
    std::transform(total, total + buckets, more, total, std::plus<>());
  }
  return total;
}

template <class Key>
template <class Ties>
void Engine<Key>::count_ties_before(const Task<Key>& task, const Ties& ties_of) noexcept {
  TileCounts* const tiles = task.found.tiles;
  std::int64_t before = 0;
  for (std::int64_t tile = 0; tile < task.grid.tiles(); ++tile) {
    tiles[tile].ties_before = before;
    before += ties_of(tiles[tile]);
  }
}

template <class Key>
bool Engine<Key>::prune_by_sample(const Task<Key>& task) noexcept {
  const double enough = 0.8 * static_cast<double>(task.found.room);
  const Sample sample = first_sample(task);
  const Spread<Key> spread = spread_of(task, sample);
  Bracket<Key> bracket = bracket_of(task, sample, spread);
  if (bracket.candidates > enough) {
    const Key from = select_near(task, sample, -2 * spread.margin_below());
    const Key to = select_near(task, sample, 2 * spread.margin_up_to());
    const auto [more, spread_of_more] = take_second_sample(task, spread.key, from, to);
    bracket = bracket_of(task, more, spread_of_more);
    if (bracket.candidates > enough) return false;
  }
  return correct(task, bracket, pass(task, bracket));  // a sample that misled once is no guide
}

template <class Key>
bool Engine<Key>::prune_by_hint(const Task<Key>& task) noexcept {
  const std::int64_t blocks = task.grid.blocks();
  if (task.hint == nullptr || task.hint->blocks != blocks) return false;
  if (blocks < hinted_min) return false;  // a pool left it: alone, it has no room for a pass
  CutHint& hint = *task.hint;
  if (hint.rest > 0) return false;
  if (blocks <= in_memory_max && task.grid.per_band < short_band) return false;
  const auto all = static_cast<double>(blocks);
  const double moved = std::abs(static_cast<double>(task.quota.blocks - hint.pruned));
  const double margin = margin_of_hint(all, moved, hint.error);
  if (!beats_sample(margin, all)) return false;
  const double guess = hint.score_at(task.quota.blocks);
  const double reach = margin / hint.density;
  if (!may_reach(task.scorer.norm(), guess, reach)) return false;
  const auto key = [](double score) {
    return key_of<Key>(static_cast<typename KeyTraits<Key>::Score>(score));
  };
  const Bracket<Key> bracket{key(guess - reach), key(guess + reach), false, false, key(guess), 0,
                             2 * margin};
  const PassCounts counts = pass(task, bracket);
  if (correct(task, bracket, counts)) return true;
  hint.rest = rest_after_miss;
  return false;
}

template <class Key>
void Engine<Key>::renew_hint(const Task<Key>& task, const Cut<Key>& cut) noexcept {
  if (task.last != nullptr) *task.last = cut.threshold;
  const std::int64_t blocks = task.grid.blocks();
  if (task.hint == nullptr || blocks < hinted_min) return;
  const CutHint old = std::exchange(*task.hint, {});
  constexpr std::int64_t many = 16;
  if (!(cut.density > 0) || cut.ties > many) return;
  const double score = number_of(cut.threshold);
  CutHint hint{blocks, task.quota.blocks, score, cut.density, 0, std::max(old.rest - 1, 0)};
  if (old.blocks == blocks) {
    hint.error = std::abs(score - old.score_at(hint.pruned)) * hint.density;
  }
  *task.hint = hint;
}

template <class Key>
void Engine<Key>::pass_tile(const Task<Key>& task, const Bracket<Key>& bracket, std::int64_t tile,
                            const Patch& patch, Lane<Key>& lane) const noexcept {
  const Key from = bracket.from(tile);
  const Key* const candidates = lane.group_candidates.data() + lane.group.inside;
  const bool some = task.chooses_among_some(), counts_ties = bracket.counts_ties();
  const bool can_compare = patch && task.scorer.can_bracket() && !task.choice.by_chance;
  const bool at_once = some ? task.grid.tile_width >= short_band && !has_many_ties(lane)
                            : !counts_ties || task.scorer.can_count_ends();
  PassCounts found = !can_compare || !at_once
                         ? pass_in_chunks(task, bracket, from, tile, patch, lane)
                     : some ? pass_among_some(task, bracket, from, tile, patch, lane)
                            : pass_at_once(task, bracket, from, tile, patch, lane);
  // Of what is pruned now, some is not below the bracket.
  found.below -= task.select.count_below(candidates, found.inside, from);
  if (bracket.lo < from) found.below -= found.at_lo;
  if (bracket.hi < from) found.below -= found.at_hi;

  task.found.tiles[tile] = {lane.group.inside, static_cast<std::int32_t>(found.inside),
                            static_cast<std::int32_t>(found.at_lo),
                            static_cast<std::int32_t>(found.at_hi), 0};
  lane.group_tiles[static_cast<std::size_t>(lane.group_size++)] = tile;
  lane.group.add(found);
}

template <class Key>
PassCounts Engine<Key>::pass_at_once(const Task<Key>& task, const Bracket<Key>& bracket, Key from,
                                     std::int64_t tile, const Patch& patch,
                                     Lane<Key>& lane) const noexcept {
  PassCounts found{};
  const bool count_ends = bracket.counts_ties();
  const bool write_mask =
      task.writes() && task.whole() && task.scorer.can_bracket_masks() && !count_ends;
  const auto visit = [&](const Grid::Part& band, std::int64_t first) {
    std::uint8_t* const keep = keep_of(task, band, lane);
    const MaskWindow window =
        write_mask ? task.window(task.grid.elements(band)) : MaskWindow{keep, 0};
    const typename Scorer<Key>::Target target{window.bytes, window.pitch, write_mask, count_ends,
                                              task.store()};
    const std::int64_t before = lane.group.inside + found.inside;
    const auto [counts, before_first, behind] = task.scorer.bracket(
        target, lane.group_candidates.data() + before, lane.group_places.data() + before, task.grid,
        band, first, patch, from, bracket.first(), bracket.width());
    found.below += band.width - counts.kept;
    found.inside += counts.inside;
    if (bracket.ties_at_lo) found.at_lo += before_first;
    if (bracket.ties_at_hi) found.at_hi += behind;
    if (!write_mask) write_chunk(task, band, patch, keep, lane);
  };
  const Grid::Part part = task.grid.tile(tile);
  const std::int64_t columns = task.grid.matrix.columns();
  const bool without_gaps = patch.pitch == columns * task.grid.matrix.item_size() &&
                            task.mask.pitch == columns && task.grid.has_runs_of_rows();
  if ((write_mask || task.direct()) && without_gaps) {
    visit({part.band, 1, part.block, part.size()}, 0);
  } else {
    Grid::for_each_band(part, visit);
  }
  return found;
}

/// Takes the keys that equal `end` from n candidates, and their places. Returns how many are left.
template <class Key>
std::int64_t take_ties(Key* keys, std::uint16_t* places, std::int64_t n, Key end) noexcept {
  std::int64_t left = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    keys[left] = keys[i];
    places[left] = places[i];
    left += keys[i] != end ? 1 : 0;
  }
  return left;
}

template <class Key>
PassCounts Engine<Key>::pass_among_some(const Task<Key>& task, const Bracket<Key>& bracket,
                                        Key from, std::int64_t tile, const Patch& patch,
                                        Lane<Key>& lane) const noexcept {
  PassCounts found{};
  const Grid::Part part = task.grid.tile(tile);
  const std::uint8_t* const eligible = eligible_blocks(task, part, lane);
  std::uint8_t* const keep = keep_of(task, part, lane);
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    const typename Scorer<Key>::Target target{keep + first,    0, false, false, Store::ordinary,
                                              eligible + first};
    const std::int64_t before = lane.group.inside + found.inside;
    Key* const keys = lane.group_candidates.data() + before;
    std::uint16_t* const places = lane.group_places.data() + before;
    // Both ends are candidates at first: of those that equal them, some may not be chosen.
    std::int64_t inside = task.scorer
                              .bracket(target, keys, places, task.grid, band, first, patch, from,
                                       bracket.lo, bracket.hi - bracket.lo + 1)
                              .counts.inside;
    const auto count_ties = [&](bool counts, Key end, std::int64_t& ties) {
      if (!counts) return;
      const std::int64_t left = take_ties(keys, places, inside, end);
      ties += inside - left;
      inside = left;
    };
    count_ties(bracket.ties_at_lo, bracket.lo, found.at_lo);
    count_ties(bracket.ties_at_hi, bracket.hi, found.at_hi);
    found.inside += inside;
  });
  or_not_bytes(keep, eligible, part.size());
  found.below = task.table.count_zeros(keep, part.size());
  if (task.prunes_others()) and_bytes(keep, eligible, part.size());
  write_chunk(task, part, patch, keep, lane);
  return found;
}

template <class Key>
PassCounts Engine<Key>::pass_in_chunks(const Task<Key>& task, const Bracket<Key>& bracket, Key from,
                                       std::int64_t tile, const Patch& patch,
                                       Lane<Key>& lane) const noexcept {
  PassCounts found{};
  std::int64_t blocks = 0;
  for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
    const std::int64_t n = chunk.size();
    const std::int64_t before = lane.group.inside + found.inside;
    Key* const candidates = lane.group_candidates.data() + before;
    std::uint16_t* const places = lane.group_places.data() + before;
    std::uint8_t* const keep = keep_of(task, chunk, lane);
    const BracketCounts counts =
        task.select.bracket(keep, places, keys, n, from, bracket.first(), bracket.width());
    for (std::int64_t i = 0; i < counts.inside; ++i) {
      candidates[i] = keys[places[i]];
      places[i] = static_cast<std::uint16_t>(blocks + places[i]);
    }
    found.below += n - counts.kept;
    found.inside += counts.inside;
    if (bracket.ties_at_lo) found.at_lo += task.select.count_equal(keys, n, bracket.lo);
    if (bracket.ties_at_hi) found.at_hi += task.select.count_equal(keys, n, bracket.hi);
    prune_again(task, chunk, keep, lane);
    write_chunk(task, chunk, patch, keep, lane);
    blocks += n;
  });
  return found;
}

template <class Key>
bool Engine<Key>::correct(const Task<Key>& task, const Bracket<Key>& bracket,
                          const PassCounts& counts) noexcept {
  const Findings<Key>& found = task.found;
  Cut<Key> cut{bracket.lo, task.quota.blocks - counts.below};
  std::int64_t among = counts.at_lo;  // keys that equal the threshold
  if (cut.ties < 1 || counts.inside > found.room) return false;
  if (cut.ties > counts.at_lo + counts.inside) {
    cut = {bracket.hi, cut.ties - counts.at_lo - counts.inside};
    among = counts.at_hi;
    if (cut.ties > among) return false;
  } else if (cut.ties > counts.at_lo) {
    cut = cut_of(task.select, found.gathered, counts.inside, cut.ties - counts.at_lo, found.spare,
                 run_length * runs_of_sample(task.grid.blocks()));
    among = task.select.count_equal(found.gathered, counts.inside, cut.threshold);
  }
  if (bracket.counts_ties()) {
    cut.density = 0;
  } else {
    cut.density = density_of(counts.inside, bracket.lo, bracket.hi + 1);
  }
  renew_hint(task, cut);
  put_right(task, bracket, cut, among);
  return true;
}

template <class Key>
Patch Engine<Key>::pack_tile(const Task<Key>& task, std::int64_t index,
                             Lane<Key>& lane) const noexcept {
  if (task.grid.packed_elements() == 0) return {};
  const Grid::Rectangle elements = task.grid.elements(task.grid.tile(index));
  return pack(task.table, lane.packed.get(), task.grid, elements);
}

template <class Key>
std::uint8_t* Engine<Key>::keep_of(const Task<Key>& task, const Grid::Part& chunk,
                                   Lane<Key>& lane) const noexcept {
  if (!task.writes()) return lane.keep.data();
  if (task.large()) return block_keep_.get() + task.grid.begin(chunk);
  if (task.direct()) return task.mask.bytes + task.grid.begin(chunk);
  return lane.keep.data();
}

template <class Key>
void Engine<Key>::write_by_cut(const Task<Key>& task, std::int64_t tile, const Patch& patch,
                               const Cut<Key>& cut, Lane<Key>& lane) const noexcept {
  std::int64_t ties = cut.ties - tile_counts(task, tile).ties_before;
  for_each_scored_chunk(task, tile, patch, lane, [&](const Grid::Part& chunk, const Key* keys) {
    std::uint8_t* const keep = keep_of(task, chunk, lane);
    task.select.threshold(keep, keys, chunk.size(), cut.threshold, ties);
    if (ties > 0) ties -= task.select.count_equal(keys, chunk.size(), cut.threshold);
    prune_again(task, chunk, keep, lane);
    write_chunk(task, chunk, patch, keep, lane);
  });
}

template <class Key>
void Engine<Key>::correct_candidates(const Task<Key>& task, std::int64_t index, const Patch& patch,
                                     Key from, const Cut<Key>& cut,
                                     Lane<Key>& lane) const noexcept {
  const TileCounts& found = tile_counts(task, index);
  const Key* const keys = task.found.gathered + found.candidates;
  const std::uint16_t* const places = task.found.places + found.candidates;
  const Grid::Part tile = task.grid.tile(index);
  // Only those between what the pass assumed and the cut can be wrong.
  const Key low = std::min(from, cut.threshold);
  const Key high = std::max(from, cut.ties > 0 ? cut.threshold + 1 : cut.threshold);
  const BracketCounts wrong = task.select.bracket(lane.tile_keep.data(), lane.wrong.data(), keys,
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

template <class Key>
void Engine<Key>::write_within_large_blocks(const Task<Key>& task, Norm norm) noexcept {
  const Grid& grid = task.grid;
  for (std::int64_t block = 0; block < grid.blocks(); ++block) {
    const std::int64_t row = block / grid.per_band * grid.height;
    const std::int64_t column = block % grid.per_band * grid.width;
    const std::int64_t rows = std::min(grid.height, grid.matrix.rows() - row);
    const std::int64_t columns = std::min(grid.width, grid.matrix.columns() - column);
    const bool keep = block_keep_[block] != 0;
    const Quota quota{keep ? 0 : std::min(task.quota.zeros, rows * columns), 1};
    Target target{{task.mask.at(row, column), task.mask.pitch}, task.read_again};
    if (task.has_past()) target.past = {task.past.at(row, column), task.past.pitch};
    prune({grid.matrix.part(row, column, rows, columns), norm, 1, 1, quota}, target, 0,
          task.threads);
  }
}

template class Engine<std::uint32_t>;
template class Engine<std::uint64_t>;

}  // namespace datasparse

/// How many blocks of the parts of one process come before the places of a selection.
///
/// Parts whose counts are added up anyway, by the same weight, are counted into the same bins: one
/// for each place, and one for what lies behind the last. A part is looked through only where what
/// is known of it does not tell; then all keys between the first place and the last one are kept,
/// if they are few.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "base/parallel.hpp"
#include "select/shard_engines.hpp"
#include "select/shard_item.hpp"

namespace datasparse {

class ShardCounting {
 public:
  ShardCounting(ShardItems& items, const ShardEngines& engines)
      : items_(items), engines_(engines) {}

  /// Adds the counts of a question to its numbers.
  void answer(const ShardSelection& selection, const ShardSelection::Question& question,
              std::int64_t* numbers) {
    bins_.clear();  // also of a question whose data could not be loaded
    std::map<std::pair<std::size_t, std::int64_t>, std::size_t> sums;  // by row and weight
    std::vector<Sum> added;
    std::vector<Asked> asked;
    std::shared_ptr<const AnyBorders> borders;
    KeyScale scale;
    const std::size_t bins = question.places.size() + 1;
    // Where each part has borders of its own, thousands take more memory than a small tensor.
    const std::size_t most_borders =
        std::max(borders_at_once, 4 * static_cast<std::size_t>(engines_.threads()) * bins);
    std::size_t held = 0;  // borders
    for (std::size_t m = 0; m < question.groups->size(); ++m) {
      ShardItem& item = *items_[(*question.groups)[m]];
      item.rank_by(question.order);
      add_cut(selection, question, m, item, numbers);
      if (!item.counts()) continue;
      const auto sum = sums.emplace(selection.row_of(question, m), added.size()).first->second;
      if (sum == added.size()) added.push_back({m, 0, 0});
      added[sum].blocks += item.blocks();
      added[sum].before += item.order.is_returning ? 0 : item.past;
      if (item.order.is_returning && item.past == 0) continue;  // nothing here comes back
      const KeyScale own = item.scale_of_places();
      const bool is_same =
          borders != nullptr && own == scale && (borders->index() == 1) == item.is_wide();
      if (!is_same) {
        borders = make_borders(item.is_wide(), question.places, own);
        scale = own;
        held += bins;
      }
      asked.push_back({&item, borders, (*question.first)[m], sum});
      if (held < most_borders) continue;
      count_all(asked, added.size(), bins);
      borders.reset();
      held = 0;
    }
    count_all(asked, added.size(), bins);
    add_up(selection, question, added, numbers);
  }

  /// Finds out how many blocks each part loses, and at which key of its own that stops.
  void find(const ShardSelection& selection) {
    bins_.clear();
    std::vector<Asked> asked;
    std::vector<std::vector<ShardPlace>> stops(items_.size());
    for (std::size_t i = 0; i < items_.size(); ++i) {
      ShardItem& item = *items_[i];
      item.rank_by(selection.order(i));
      stops[i] = {selection.stop(i)};
      item.cut.prune(stops[i][0], item.order, item.scale_of_places());
      item.pruned = item.order.is_returning ? 0 : item.past;
      if (!item.has_blocks || (item.order.is_returning && item.past == 0)) continue;
      asked.push_back(
          {&item, make_borders(item.is_wide(), stops[i], item.scale_of_places()), 0, i});
      std::visit([&](const auto& some) { item.stopped = some.key(0); }, *asked.back().borders);
    }
    constexpr std::size_t before_and_behind = 2;
    count_all(asked, items_.size(), before_and_behind);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      items_[i]->pruned += taken(i, 0, before_and_behind);
    }
  }

 private:
  using AnyBorders = std::variant<Borders<std::uint32_t>, Borders<std::uint64_t>>;
  /// What is counted into the same bins.
  struct Sum {
    std::size_t member;           // one of them
    std::int64_t blocks, before;  // of all; and those that come before every place
  };
  struct Asked {
    ShardItem* item;
    std::shared_ptr<const AnyBorders> borders;
    std::int64_t begin;  // the position of the group's first block
    std::size_t sum;
  };
  /// Bins of one sum: so many for each thread.
  struct Bins {
    std::int64_t* first;
    std::size_t size;

    std::int64_t* of(int thread) const noexcept {
      return first + size * static_cast<std::size_t>(thread);
    }
  };
  static constexpr std::size_t borders_at_once = 32768;

  static std::shared_ptr<const AnyBorders> make_borders(bool is_wide,
                                                        const std::vector<ShardPlace>& places,
                                                        const KeyScale& scale) {
    if (is_wide) {
      return std::make_shared<AnyBorders>(std::in_place_index<1>, places, scale);
    }
    return std::make_shared<AnyBorders>(std::in_place_index<0>, places, scale);
  }
  template <class Key>
  static BordersOf<Key> borders_of(const Asked& one) noexcept {
    return {std::get<Borders<Key>>(*one.borders), one.item->here, one.begin};
  }

  /// Cut blocks are few: they are counted one by one.
  static void add_cut(const ShardSelection& selection, const ShardSelection::Question& question,
                      std::size_t member, const ShardItem& item, std::int64_t* numbers) {
    if (item.cut.counted() == 0) return;
    std::vector<std::int64_t> counts;
    for (ShardPlace place : question.places) {
      place.position -= (*question.first)[member];
      counts.push_back(item.cut.count_before(place, item.order, item.scale_of_places()));
    }
    counts.push_back(item.cut.counted());
    selection.add(question, member, counts.data(), numbers);
  }

  void add_up(const ShardSelection& selection, const ShardSelection::Question& question,
              const std::vector<Sum>& added, std::int64_t* numbers) {
    const std::size_t places = question.places.size();
    std::vector<std::int64_t> counts(places + 1);
    for (std::size_t s = 0; s < added.size(); ++s) {
      std::int64_t count = added[s].before;
      for (std::size_t p = 0; p < places; ++p) counts[p] = count += taken(s, p, places + 1);
      counts[places] = added[s].blocks;
      selection.add(question, added[s].member, counts.data(), numbers);
    }
  }

  Bins bins_of(std::size_t sum, std::size_t size) noexcept {
    return {bins_.data() + sum * size * static_cast<std::size_t>(engines_.threads()), size};
  }
  /// What all threads have counted into a bin.
  std::int64_t taken(std::size_t sum, std::size_t bin, std::size_t size) noexcept {
    const Bins bins = bins_of(sum, size);
    std::int64_t count = 0;
    for (int t = 0; t < engines_.threads(); ++t) count += bins.of(t)[bin];
    return count;
  }

  /// Adds what is asked for to the bins of so many sums. Has the memory first that this takes.
  void count_all(std::vector<Asked>& asked, std::size_t sums, std::size_t size) {
    const auto threads = static_cast<std::size_t>(engines_.threads());
    bins_.resize(sums * size * threads);
    for (auto& [item, borders, begin, sum] : asked) {
      const std::int64_t room = item->room;
      std::visit([room](auto& found) { found.make_room(room); }, item->found);
      if (item->is_loaded()) item->counted.make_room();
    }
    std::vector<const Asked*> small;
    for (const Asked& one : asked) {
      if (one.item->is_loaded()) {
        count_loaded(one, bins_of(one.sum, size));
      } else if (one.item->mask->takes_all_threads()) {
        count(one, bins_of(one.sum, size), 0, engines_.threads());
      } else {
        small.push_back(&one);
      }
    }
    parallel_for(static_cast<std::int64_t>(small.size()), engines_.threads(),
                 [&](std::int64_t i, int worker) {
                   const Asked& one = *small[static_cast<std::size_t>(i)];
                   count(one, bins_of(one.sum, size), worker, 1);
                 });
    asked.clear();
  }
  void count(const Asked& one, const Bins& bins, int lane, int lanes) noexcept {
    if (one.item->is_wide()) {
      count_of<std::uint64_t>(one, bins, lane, lanes);
    } else {
      count_of<std::uint32_t>(one, bins, lane, lanes);
    }
  }
  template <class Key>
  void count_of(const Asked& one, const Bins& bins, int lane, int lanes) noexcept {
    const BordersOf<Key> borders = borders_of<Key>(one);
    const auto& found = std::get<Candidates<Key>>(one.item->found);
    if (found.knows(borders)) return found.count(borders, bins.of(lane));
    look_through(*one.item, borders, bins, lane, lanes);
  }

  /// The same of data that are loaded for it, unless what was counted before says it.
  void count_loaded(const Asked& one, const Bins& bins) {
    if (one.item->is_wide()) {
      count_loaded_of<std::uint64_t>(one, bins);
    } else {
      count_loaded_of<std::uint32_t>(one, bins);
    }
  }
  template <class Key>
  void count_loaded_of(const Asked& one, const Bins& bins) {
    ShardItem& item = *one.item;
    const BordersOf<Key> borders = borders_of<Key>(one);
    const auto& found = std::get<Candidates<Key>>(item.found);
    if (found.knows(borders)) return found.count(borders, bins.of(0));
    if (item.counted.knows(borders)) return item.counted.count(borders, bins.of(0));
    std::optional<Pin> pin;
    item.load(pin);
    std::vector<std::int64_t> own(bins.size * static_cast<std::size_t>(engines_.threads()));
    const Bins own_bins{own.data(), bins.size};
    look_through(item, borders, own_bins, 0, engines_.lanes_of(item));
    for (int t = 1; t < engines_.threads(); ++t) add(own_bins.of(t), own_bins.of(0), bins.size);
    if (!found.knows(borders)) item.counted.add(borders, own_bins.of(0));
    add(own_bins.of(0), bins.of(0), bins.size);
  }
  static void add(const std::int64_t* from, std::int64_t* to, std::size_t n) noexcept {
    std::transform(from, from + n, to, to, std::plus<>());
  }

  /// A pass over the data. Counts; and where there is room, keeps all keys from the first border to
  /// the last one.
  template <class Key>
  void look_through(ShardItem& item, const BordersOf<Key>& borders, const Bins& bins, int lane,
                    int lanes) noexcept {
    const Key first = borders.first(), width = borders.end() - first;
    auto& found = std::get<Candidates<Key>>(item.found);
    found.forget();
    std::atomic<std::int64_t> below{0}, used{0};
    engines_.with_task_of<Key>(
        item, lane, lanes, [&](const Engine<Key>& engine, const Task<Key>& task) {
          engine.for_each_keys(
              task, [&](Lane<Key>& scratch, const Key* keys, std::int64_t n, std::int64_t begin) {
                const BracketCounts split = task.select.bracket(
                    scratch.tile_keep.data(), scratch.wrong.data(), keys, n, first, first, width);
                below.fetch_add(n - split.kept, std::memory_order_relaxed);
                if (split.inside == 0) return;
                int worker = 0;
                while (&task.lane(worker) != &scratch) ++worker;
                std::int64_t* const own = bins.of(lane + worker);
                const std::uint16_t* const places = scratch.wrong.data();
                borders.count(keys, places, split.inside, begin, own);
                const std::int64_t at = used.fetch_add(split.inside, std::memory_order_relaxed);
                if (at + split.inside > item.room) return;
                for (std::int64_t i = 0; i < split.inside; ++i) {
                  found.some[at + i] = {keys[places[i]], begin + places[i]};
                }
              });
        });
    bins.of(lane)[0] += below;
    if (used > item.room) return;
    found.size = used;
    found.first = first;
    found.end = borders.end();
    found.below = below;
  }

  ShardItems& items_;
  const ShardEngines& engines_;
  std::vector<std::int64_t> bins_;  // by sum, then by thread
};

}  // namespace datasparse

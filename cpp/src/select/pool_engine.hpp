/// The masks of tensors that share one threshold: pool.hpp says what is pruned, and ARCHITECTURE.md
/// how that is found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/parallel.hpp"
#include "datasparse/pool.hpp"
#include "select/cut_hint.hpp"
#include "select/engine.hpp"
#include "select/key_scale.hpp"
#include "select/mask_plan.hpp"
#include "select/pool_sample.hpp"
#include "select/pool_scratch.hpp"

namespace datasparse {

/// The engines that a pool's tensors are computed by.
struct PoolEngines {
  const Kernels& table;
  Engine<std::uint32_t>& narrow;
  Engine<std::uint64_t>& wide;
  int threads;
};

class Pool {
 public:
  using Counts = PoolPlan::Counts;

  /// Of data that have elements, in the order of their groups. The plans are changed, and must live
  /// as long as this does.
  Pool(PoolPlan plan, const std::vector<MaskPlan*>& masks) : plan_(std::move(plan)) {
    bool any_narrow = false, any_norm = false;
    items_.reserve(masks.size());
    for (auto* const planned : masks) {
      const MaskPlan& mask = *planned;
      Item item{planned};
      item.has_past = mask.job.spec.monotone;
      item.is_wide = mask.job.data.dtype() == DType::float64;
      (item.is_wide ? any_wide_ : any_narrow) = true;
      any_norm = any_norm || mask.job.spec.normalize;
      any_value_ = any_value_ || mask.job.spec.norm == Norm::none;
      is_choice_ = mask.pruning.choice.is_made();  // in all of them, or in none
      item.is_apart = !is_choice_ && (mask.is_permuted || mask.has_large_blocks());
      item.takes_part = plan_.members[items_.size()].weight > 0;
      std::int64_t& tiles = item.is_wide ? wide_tiles_ : narrow_tiles_;
      item.first_tile = std::exchange(tiles, tiles + mask.grid().tiles());
      item.first_block = std::exchange(blocks_, blocks_ + mask.grid().blocks());
      (mask.takes_all_threads() ? large_ : small_).push_back(items_.size());
      items_.push_back(item);
    }
    const bool as_doubles = any_norm || (any_wide_ && any_narrow);
    for (auto& item : items_) item.scale.as_double = as_doubles;
    is_common_wide_ = as_doubles || any_wide_;
    end_ = KeyScale::end(is_common_wide_);
    below_.resize(items_.size());
    pruned_.resize(items_.size());
    search_.emplace(plan_, end_);
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  void allocate(PoolScratch& scratch) {
    scratch_ = &scratch;
    if (narrow_tiles_ > 0) scratch.narrow.require(blocks_, narrow_tiles_);
    if (wide_tiles_ > 0) scratch.wide.require(blocks_, wide_tiles_);
    const int kinds = (narrow_tiles_ > 0 ? 1 : 0) + (wide_tiles_ > 0 ? 1 : 0);
    if (is_common_wide_) {
      scratch.wide_keys.require(kinds * room(), items_.size());  // a sample is less
    } else {
      scratch.narrow_keys.require(room(), items_.size());
    }
    scratch.runs.require(runs_of_pool(blocks_));
    scratch.counts.require(asked_at_once * static_cast<std::int64_t>(items_.size()));
  }

  /// What run() chooses next, of groups of regrowth: so much, of so many blocks of each.
  void choose(std::int64_t budget, const Counts& eligible) noexcept {
    plan_.budget = budget;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      items_[i].mask->pruning.choice.eligible = eligible[i];
    }
  }
  /// How many blocks each has lost, or has marked, in run().
  const Counts& pruned() const noexcept { return pruned_; }

  /// Writes all masks.
  void run(const PoolEngines& engines) noexcept {
    engines_ = &engines;
    Counts& most = below_;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      most[i] = is_choice_ ? items_[i].choice().eligible : plan_.members[i].most;
    }
    if (plan_.budget == 0 || plan_.budget == plan_.cost(most)) {
      for (std::size_t i = 0; i < items_.size(); ++i) pruned_[i] = plan_.budget == 0 ? 0 : most[i];
      has_pass_ = false;
    } else {
      find_cut();
    }
    for_each([this](Item& item, int lane, int lanes) { write(item, lane, lanes); });
  }

 private:
  static constexpr int asked_at_once = 15;  // keys in a pass over the data that only counts

  struct Item {
    MaskPlan* mask;
    KeyScale scale{};
    bool is_wide = false;
    bool is_apart = false;  // its mask is computed by itself, once it is known how much it loses
    bool takes_part = true;
    std::int64_t bound = -1;  // what it most likely loses, wherever the cut is; or -1
    bool is_done = false;     // its mask, by that
    std::int64_t first_tile = 0, first_block = 0;
    bool has_past = false;  // the mask before has pruned some, or that is not known yet
    std::int64_t past = 0;  // blocks that it has pruned
    // Of the last pass; the bracket is one of its own keys.
    std::uint64_t lo = 0, hi = 0, guess = 0;
    bool ties_at_lo = false, ties_at_hi = false;
    std::int64_t pruned_tiles = 0;
    PassCounts counts{};

    template <class Key>
    Bracket<Key> bracket() const noexcept {
      return {static_cast<Key>(lo),    static_cast<Key>(hi), ties_at_lo, ties_at_hi,
              static_cast<Key>(guess), pruned_tiles,         0};
    }
    /// Whether no two of its keys are one in the common order.
    bool is_exact() const noexcept { return !is_wide || scale.norm == 1; }
    const Choice& choice() const noexcept { return mask->pruning.choice; }
  };

  // --- the tensors -----------------------------------------------------------------------------

  std::size_t index(const Item& item) const noexcept {
    return static_cast<std::size_t>(&item - items_.data());
  }

  /// Calls work(item, lane, lanes) for all tensors: small ones in parallel, large ones with all
  /// threads.
  template <class Work>
  void for_each(const Work& work) noexcept {
    parallel_for(static_cast<std::int64_t>(small_.size()), engines_->threads,
                 [&](std::int64_t i, int worker) {
                   work(items_[small_[static_cast<std::size_t>(i)]], worker, 1);
                 });
    for (const std::size_t i : large_) work(items_[i], 0, engines_->threads);
  }

  /// Calls work(engine, findings), of the tensor's type of keys.
  template <class Work>
  void with_engine(const Item& item, const Work& work) const noexcept {
    if (item.is_wide) {
      work(engines_->wide, scratch_->wide);
    } else {
      work(engines_->narrow, scratch_->narrow);
    }
  }

  /// Calls work(keys, select) for those of the common order.
  template <class Work>
  auto with_keys(const Work& work) const {
    const Kernels& table = engines_->table;
    return is_common_wide_ ? work(scratch_->wide_keys, table.select64)
                           : work(scratch_->narrow_keys, table.select32);
  }

  /// Calls work(engine, task). Asked for, a monotone mask knows the one before.
  template <class Work>
  void with_task(const Item& item, int lane, int lanes, bool with_past, const Work& work) noexcept {
    with_engine(item, [&](auto& engine, auto& all) {
      const MaskPlan& mask = *item.mask;
      const MaskJobView& job = mask.job;
      const Grid grid = mask.grid();
      const std::int64_t pitch = mask.pruning.matrix.columns();
      Target target{{item.is_apart ? nullptr : job.mask, pitch}, job.kept_zeros != nullptr};
      if (with_past && !is_choice_)
        target.past = {past_of(engine, engines_->table, mask, lane, lanes), pitch};
      auto task = engine.task_of(grid, mask.pruning, target, lane, lanes,
                                 {all.tiles.get() + item.first_tile, all.gathered.get(),
                                  all.spare.get(), all.places.get(), room(), &all.used});
      task.returning = is_returning_;
      work(engine, task);
    });
  }

  // --- the cut ---------------------------------------------------------------------------------

  std::int64_t room() const noexcept { return candidates_max(blocks_); }

  void find_cut() noexcept {
    normalize();
    count_past();
    const PoolBracket everything{0, end_ - 1, 0};
    PoolBracket bracket = everything;
    bool is_bracketed = blocks_ <= candidates_min;
    bool by_hints = false;
    if (!is_bracketed) {
      is_bracketed = by_hints = bracket_by_hints(bracket);
      if (!is_bracketed) is_bracketed = bracket_by_sample(bracket);
    }
    if (is_bracketed && search_by_pass(bracket)) return search_->finish(pruned_);
    if (by_hints) {
      rest_ = rest_after_miss;
      forget_bounds();
      if (bracket_by_sample(bracket) && search_by_pass(bracket)) return search_->finish(pruned_);
    }
    has_pass_ = false;
    forget_bounds();
    count_until(room() / 2);
    if (!search_->done()) search_by_pass({search_->first(), search_->last(), search_->first()});
    search_->finish(pruned_);
  }

  void normalize() noexcept {
    for_each([this](Item& item, int lane, int lanes) {
      if (!item.mask->job.spec.normalize || !item.takes_part || item.choice().by_chance) return;
      with_task(item, lane, lanes, false, [&](const auto& engine, auto task) {
        task.choice = {};  // of all blocks
        const double norm = engine.norm(task);
        item.scale.norm = norm > 0 ? norm : 1;  // a norm of 0 leaves the scores
      });
    });
  }

  /// What monotone masks have pruned comes first. Where that is more than the pool prunes, some of
  /// it comes back, and no other block is pruned.
  void count_past() noexcept {
    for_each([this](Item& item, int lane, int lanes) {
      if (is_choice_) item.past = item.choice().eligible;  // and nothing else
      if (!item.mask->job.spec.monotone || !item.takes_part) return;
      with_task(item, lane, lanes, true, [&](const auto& engine, const auto& task) {
        item.past = task.has_past() ? engine.count_past(task) : 0;
      });
      item.has_past = item.past > 0;
      item.is_apart = item.is_apart || item.has_past;
    });
    for (std::size_t i = 0; i < items_.size(); ++i) below_[i] = items_[i].past;
    is_returning_ = is_choice_ || plan_.cost(below_) > plan_.budget;
    for (auto& item : items_) item.takes_part &= !is_returning_ || item.past > 0;
    begin_search();
  }

  /// What the search was told of tensors at a bound is no count, and holds for one bracket only.
  void forget_bounds() noexcept {
    bool any = false;
    for (auto& item : items_) any |= std::exchange(item.is_done, false);
    if (any) begin_search();
  }

  void begin_search() noexcept {
    Counts& up_to = pruned_;  // which is not known yet
    for (std::size_t i = 0; i < items_.size(); ++i) {
      below_[i] = is_returning_ ? 0 : items_[i].past;
      up_to[i] = is_returning_ ? items_[i].past : plan_.members[i].blocks;
    }
    search_->begin(end_, below_, up_to);
  }

  /// One pass over all tensors, and the search among what it finds. False where the bracket has
  /// missed the cut, or held too much.
  bool search_by_pass(const PoolBracket& bracket) noexcept {
    prune_to_bounds(bracket);
    pass(bracket);
    has_pass_ = true;
    if (scratch_->narrow.used > room() || scratch_->wide.used > room()) return false;
    tell(bracket.lo);
    tell(bracket.hi + 1);
    if (search_->first() < bracket.lo || search_->last() > bracket.hi) return false;
    if (bracket.ties_at_lo) tell(bracket.lo + 1);
    if (bracket.ties_at_hi) tell(bracket.hi);
    if (plan_.is_plain() && !items_.front().scale.as_double) {
      select_at_once();
    } else {
      search_at_once();
    }
    while (!search_->done()) tell(search_->middle());
    return true;
  }

  /// What is at a bound wherever the cut lies in the bracket has a cut of its own, and a mask.
  void prune_to_bounds(const PoolBracket& bracket) noexcept {
    for_each([&](Item& item, int lane, int lanes) {
      const PoolMember& member = plan_.members[index(item)];
      item.is_done = false;
      if (!item.takes_part || item.bound <= 0 || item.bound == member.blocks || item.past > 0) {
        return;
      }
      item.mask->pruning.quota.blocks = item.bound;
      std::uint64_t last = 0;
      with_engine(item, [&](auto& engine, const auto& found) {
        using Key = std::decay_t<decltype(found.gathered[0])>;
        prune_alone(engine, engines_->table, *item.mask, lane, lanes, false, &last);
        last = item.scale.of(static_cast<Key>(last));
      });
      item.is_done = item.bound == member.most ? last < bracket.lo : last > bracket.hi;
    });
  }

  void pass(const PoolBracket& bracket) noexcept {
    scratch_->narrow.used = 0;
    scratch_->wide.used = 0;
    for_each([&](Item& item, int lane, int lanes) {
      if (!item.takes_part || item.is_done) return;
      with_task(item, lane, lanes, item.past > 0, [&](auto& engine, const auto& task) {
        using Key = std::decay_t<decltype(task.found.gathered[0])>;
        place<Key>(item, bracket);
        item.counts = engine.pass(task, item.bracket<Key>());
      });
    });
  }

  /// The bracket in the keys of one tensor.
  template <class Key>
  void place(Item& item, const PoolBracket& bracket) const noexcept {
    const KeyScale& scale = item.scale;
    const Key lo = scale.least_at<Key>(bracket.lo);
    const Key behind = scale.least_at<Key>(bracket.hi + 1);
    const Key hi = behind - 1;
    const bool is_empty = lo == behind;  // then all keys below are pruned, and the others kept
    item.lo = lo;
    item.hi = hi;
    item.guess = is_empty ? hi : std::clamp(scale.least_at<Key>(bracket.guess), lo, hi);
    const bool may_tie = !is_empty && item.is_exact();
    item.ties_at_lo = bracket.ties_at_lo && may_tie && scale.of(lo) == bracket.lo;
    item.ties_at_hi = bracket.ties_at_hi && may_tie && scale.of(hi) == bracket.hi &&
                      !(item.ties_at_lo && hi == lo);
    const double blocks = static_cast<double>(item.mask->grid().blocks());
    const double share = (bracket.share_of_ties * static_cast<double>(blocks_) -
                          static_cast<double>(item.first_block)) /
                         blocks;
    item.pruned_tiles = static_cast<std::int64_t>(std::clamp(share, 0.0, 1.0) *
                                                  static_cast<double>(item.mask->grid().tiles()));
  }

  void tell(std::uint64_t key) noexcept {
    for (const auto& item : items_) {
      std::int64_t& below = below_[index(item)];
      below = item.is_done ? item.bound : is_returning_ ? 0 : item.past;
      if (!item.takes_part || item.is_done) continue;
      with_engine(item,
                  [&](const auto&, const auto& found) { below += below_of(item, found, key); });
    }
    search_->tell(key, below_);
  }

  /// How many keys of a tensor lie below one in the bracket, or behind it.
  template <class Key>
  std::int64_t below_of(const Item& item, const PoolFindings<Key>& found,
                        std::uint64_t common) const noexcept {
    const Key key = item.scale.least_at<Key>(common);
    const PassCounts& counts = item.counts;
    std::int64_t below = counts.below;
    if (item.ties_at_lo && key > item.lo) below += counts.at_lo;
    if (item.ties_at_hi && key > item.hi) below += counts.at_hi;
    if (counts.inside == 0 || key <= item.lo) return below;
    if (key > item.hi) return below + counts.inside;
    const TileCounts* const tiles = found.tiles.get() + item.first_tile;
    const auto& select = selection_of<Key>(engines_->table);
    for (std::int64_t tile = 0; tile < item.mask->grid().tiles(); ++tile) {
      below += select.count_below(found.gathered.get() + tiles[tile].candidates, tiles[tile].inside,
                                  key);
    }
    return below;
  }

  /// Where every block costs the same, and all keys are of one type, one selection among the
  /// candidates of all tells the cut.
  void select_at_once() noexcept {
    std::int64_t weight = 1, inside = 0;
    for (const auto& member : plan_.members) weight = std::max(weight, member.weight);
    std::int64_t left = plan_.budget / weight;
    for (const auto& item : items_) {
      left -= item.counts.below + item.counts.at_lo + (is_returning_ ? 0 : item.past);
      inside += item.counts.inside;
    }
    const std::int64_t k = left + 1;  // the first block that is not paid for
    if (k < 1 || k > inside) return;
    const auto select = [&](const auto& kernels, const auto& found) -> std::uint64_t {
      return cut_of(kernels, found.gathered.get(), inside, k, found.spare.get(),
                    found.spare_room(blocks_))
          .threshold;
    };
    const std::uint64_t key = any_wide_ ? select(engines_->table.select64, scratch_->wide)
                                        : select(engines_->table.select32, scratch_->narrow);
    tell(key);
    tell(key + 1);
  }

  /// Else a search among them, in the common order.
  void search_at_once() noexcept {
    if (search_->done()) return;
    const std::uint64_t key = with_keys([&](auto& keys, const auto& select) {
      using Common = std::decay_t<decltype(*keys.get())>;
      const auto first = static_cast<Common>(search_->first());
      const auto end = static_cast<Common>(search_->last() + 1);
      keys.clear(items_.size());
      for (const auto& item : items_) {
        keys.set_below(index(item), search_->below()[index(item)]);
        if (!item.takes_part || item.is_done || item.counts.inside == 0) continue;
        with_engine(item, [&](const auto&, const auto& found) { append(item, found, keys); });
      }
      const auto budget = static_cast<double>(plan_.budget);
      return std::uint64_t{keys.stop(select, plan_, budget, first, end, false)};
    });
    tell(key);
    tell(key + 1);
  }

  /// The candidates of one tensor that the cut may be among.
  template <class Key, class Common>
  void append(const Item& item, const PoolFindings<Key>& found,
              PoolKeys<Common>& keys) const noexcept {
    const Key first = item.scale.least_at<Key>(search_->first());
    const Key end = item.scale.least_at<Key>(search_->last() + 1);
    const TileCounts* const tiles = found.tiles.get() + item.first_tile;
    for (std::int64_t tile = 0; tile < item.mask->grid().tiles(); ++tile) {
      const Key* const of_tile = found.gathered.get() + tiles[tile].candidates;
      Common* const to = keys.add(index(item), tiles[tile].inside);
      std::int64_t n = 0;
      for (std::int64_t i = 0; i < tiles[tile].inside; ++i) {
        if (of_tile[i] < first || of_tile[i] >= end) continue;
        to[n++] = static_cast<Common>(item.scale.of(of_tile[i]));
      }
      keys.add(index(item), n - tiles[tile].inside);
    }
  }

  /// Counts in passes over the data, until no more keys are left than that.
  [[gnu::cold]] void count_until(std::int64_t few) noexcept {
    const auto left = [&] {
      std::int64_t sum = 0;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        if (items_[i].takes_part) sum += search_->up_to()[i] - search_->below()[i];
      }
      return sum;
    };
    while (!search_->done() && left() > few) {
      const std::uint64_t first = search_->first(), span = search_->last() - first + 1;
      const std::uint64_t parts = std::min<std::uint64_t>(span, asked_at_once + 1);
      const auto asked = static_cast<std::size_t>(parts - 1);
      const auto key = [&](std::size_t i) { return first + (i + 1) * (span / parts); };
      for_each([&](Item& item, int lane, int lanes) {
        if (!item.takes_part) return;
        with_task(item, lane, lanes, item.past > 0, [&](const auto& engine, const auto& task) {
          using Key = std::decay_t<decltype(task.found.gathered[0])>;
          Key keys[asked_at_once];
          for (std::size_t i = 0; i < asked; ++i) keys[i] = item.scale.least_at<Key>(key(i));
          engine.count_below(task, keys, static_cast<std::int64_t>(asked), counts_of(item));
        });
      });
      for (std::size_t i = 0; i < asked; ++i) {
        for (const auto& item : items_) {
          below_[index(item)] =
              (is_returning_ ? 0 : item.past) + (item.takes_part ? counts_of(item)[i] : 0);
        }
        search_->tell(key(i), below_);
      }
    }
  }
  std::int64_t* counts_of(const Item& item) const noexcept {
    return scratch_->counts.get() + asked_at_once * static_cast<std::int64_t>(index(item));
  }

  // --- brackets --------------------------------------------------------------------------------

  bool bracket_by_sample(PoolBracket& bracket) noexcept {
    return with_keys([&](auto& keys, const auto& select) {
      take_sample(keys);
      using Common = std::decay_t<decltype(*keys.get())>;
      const PoolSample<Common> sample(keys, scratch_->runs.get(), select, plan_,
                                      static_cast<Common>(end_));
      if (!sample.bracket(room(), bracket)) return false;
      for (auto& item : items_) item.bound = sample.bound(index(item), bracket);
      return true;
    });
  }

  /// Runs from all tensors one behind the other, as from one.
  template <class Common>
  void take_sample(PoolKeys<Common>& keys) noexcept {
    const std::int64_t runs = runs_of_pool(blocks_);
    const std::int64_t part = blocks_ / runs;
    keys.clear(items_.size());
    const auto item_at = [this](std::int64_t block) {
      return static_cast<std::size_t>(
          std::upper_bound(items_.begin(), items_.end(), block,
                           [](std::int64_t b, const Item& item) { return b < item.first_block; }) -
          items_.begin() - 1);
    };
    for (std::int64_t run = 0; run < runs; ++run) {
      keys.add(item_at(place_of_run(run, part)), run_length);
    }
    constexpr std::int64_t batch = chunk_blocks_max / run_length;
    parallel_for(Grid::divide_up(runs, batch), engines_->threads, [&](std::int64_t i, int worker) {
      const std::int64_t end = std::min(runs, (i + 1) * batch);
      for (std::int64_t run = i * batch; run < end;) {
        const Item& item = items_[item_at(place_of_run(run, part))];
        const std::int64_t behind = item.first_block + item.mask->grid().blocks();
        std::int64_t last = run + 1;
        while (last < end && place_of_run(last, part) < behind) ++last;
        with_task(item, worker, 1, false, [&](const auto&, const auto& task) {
          score_runs(item, task, run, last, part, keys.get());
        });
        run = last;
      }
    });
  }

  /// Runs [first, last), all of one tensor.
  template <class Key, class Common>
  void score_runs(const Item& item, const Task<Key>& task, std::int64_t first, std::int64_t last,
                  std::int64_t part, Common* sample) const noexcept {
    Lane<Key>& lane = task.lane(0);
    const Patch patch = Patch::of(task.grid.matrix);
    const std::int64_t blocks = task.grid.blocks();
    const std::int64_t n = std::min(run_length, blocks);
    const auto begin = [&](std::int64_t run) {
      const std::int64_t place = place_of_run(run, part) - item.first_block;
      return std::min(place / run_length * run_length, blocks - n);
    };
    for (std::int64_t run = first; run < last; ++run) {
      prefetch_run(task, task.grid.run(begin(run), n), patch);
    }
    for (std::int64_t run = first; run < last; ++run) {
      Key keys[run_length];
      for (std::int64_t done = 0; done < n;) {
        const Grid::Part found = task.grid.run(begin(run) + done, n - done);
        score_blocks(task, keys + done, found, patch, lane);
        done += found.width;
      }
      Common* const to = sample + run * run_length;
      for (std::int64_t i = 0; i < run_length; ++i) {
        to[i] = static_cast<Common>(item.scale.of(keys[i % n]));
      }
    }
  }

  /// Where the pool stops by the hints of the last time, if every tensor has one.
  struct Guess {
    double score = 0, density = 0;  // divided by the norm; of blocks
    double moved = 0, error = 0;    // in blocks
  };
  bool guess_by_hints(Guess& guess) noexcept {
    double weights = 0, cost = 0, slope = 0, moment = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      Item& item = items_[i];
      const PoolMember& member = plan_.members[i];
      if (!item.takes_part) continue;
      const CutHint* const hint = item.mask->job.hint;
      if (hint == nullptr || hint->blocks != member.blocks || !(hint->density > 0)) return false;
      const auto weight = static_cast<double>(member.weight);
      weights += weight * static_cast<double>(member.blocks);
      cost += weight * static_cast<double>(hint->pruned);
      guess.error += hint->error;
      rest_ = std::max(rest_, hint->rest);
      const bool is_bound = hint->pruned >= member.most || hint->pruned <= member.least;
      item.bound = is_bound ? std::clamp(hint->pruned, member.least, member.most) : -1;
      if (is_bound) continue;
      const double density = hint->density * item.scale.norm * weight;
      slope += density;
      moment += density * hint->score / item.scale.norm;
    }
    if (!(slope > 0)) return false;
    const double unit = weights / static_cast<double>(blocks_);
    const auto budget = static_cast<double>(plan_.budget);
    guess.score = (budget - cost + moment) / slope;
    guess.density = slope / unit;
    guess.moved = std::abs(budget - cost) / unit;
    return true;
  }

  bool bracket_by_hints(PoolBracket& bracket) noexcept {
    rest_ = 0;
    is_guessed_ = guess_by_hints(guess_ = {});
    if (!is_guessed_ || std::exchange(rest_, std::max(rest_ - 1, 0)) > 0) return false;
    const auto all = static_cast<double>(blocks_);
    const double margin = margin_of_hint(all, guess_.moved, guess_.error);
    if (!beats_sample(margin, all)) return false;
    const double reach = margin / guess_.density;
    if (!may_reach(any_value_ ? Norm::none : Norm::L1, guess_.score, reach)) return false;
    const auto key = [this](double score) -> std::uint64_t {
      if (is_common_wide_) return key_of<std::uint64_t>(score);
      return key_of<std::uint32_t>(static_cast<float>(score));
    };
    bracket = {key(guess_.score - reach), key(guess_.score + reach), key(guess_.score)};
    return true;
  }

  // --- masks -----------------------------------------------------------------------------------

  void write(Item& item, int lane, int lanes) noexcept {
    const std::size_t i = index(item);
    if (has_pass_ && item.is_done) return;
    item.mask->pruning.quota.blocks = pruned_[i];
    with_engine(item, [&](auto& engine, const auto& found) {
      using Key = std::decay_t<decltype(found.gathered[0])>;
      Cut<Key> cut{};
      std::int64_t equal = 0;
      if (!item.is_apart && has_pass_ && item.takes_part && cut_of_item(item, cut, equal)) {
        with_task(item, lane, lanes, false, [&](auto& same, const auto& task) {
          if constexpr (std::is_same_v<decltype(task), const Task<Key>&>) {
            same.put_right(task, item.bracket<Key>(), cut, equal);
          }
        });
        renew_hint(item, cut.threshold);
        const MaskJobView& job = item.mask->job;
        if (job.kept_zeros == nullptr) return;
        zero_kept(engines_->table, job.mask, job.kept_zeros, item.mask->elements(), lanes);
      } else {
        prune_alone(engine, engines_->table, *item.mask, lane, lanes, item.has_past);
      }
    });
  }

  /// The cut in the keys of one tensor, and how many equal its threshold; false where it is not
  /// that of the pool, or not known.
  template <class Key>
  bool cut_of_item(const Item& item, Cut<Key>& cut, std::int64_t& equal) const noexcept {
    const std::size_t i = index(item);
    const std::int64_t below = search_->below()[i];
    equal = search_->up_to()[i] - below;
    const std::int64_t ties = pruned_[i] - below;
    if (ties < 0 || ties > equal) return false;
    cut = {item.scale.template least_at<Key>(search_->first()), ties};
    if (ties == equal) {
      cut = {item.scale.template least_at<Key>(search_->first() + 1), 0};
      return true;
    }
    return ties == 0 || item.is_exact();
  }

  template <class Key>
  void renew_hint(const Item& item, Key key) const noexcept {
    CutHint* const hint = item.mask->job.hint;
    if (hint == nullptr) return;
    *hint = {};
    if (item.ties_at_lo || item.ties_at_hi || blocks_ <= candidates_min) return;
    const std::int64_t blocks = item.mask->grid().blocks();
    constexpr double hardly_any =
        std::numeric_limits<double>::min();  // more than none: it is known
    const double density =
        density_of(item.counts.inside, static_cast<Key>(item.lo), static_cast<Key>(item.hi + 1));
    double error = 0;
    if (is_guessed_) {
      const double stop = is_common_wide_ ? number_of(search_->first())
                                          : number_of(static_cast<std::uint32_t>(search_->first()));
      const double off = std::abs(stop - guess_.score);
      error = off * guess_.density * static_cast<double>(blocks) / static_cast<double>(blocks_);
    }
    *hint = {blocks,         pruned_[index(item)],
             number_of(key), std::max(hardly_any, density),  // in this order, as it may be NaN
             error,          rest_};
  }

  PoolPlan plan_;
  std::vector<Item> items_;
  std::vector<std::size_t> small_, large_;
  Counts below_, pruned_;
  bool is_choice_ = false;  // a step of regrowth chooses, and no mask is written
  std::optional<PoolSearch> search_;
  std::uint64_t end_ = 0;  // all keys in the common order are less
  std::int64_t blocks_ = 0, narrow_tiles_ = 0, wide_tiles_ = 0;
  bool any_wide_ = false, any_value_ = false;
  bool is_common_wide_ = false;  // the order that all have in common is one of 64 bits
  bool is_returning_ =
      false;               // some of what monotone masks have pruned, and nothing else is pruned
  bool has_pass_ = false;  // whose masks are to be put right
  bool is_guessed_ = false;
  Guess guess_;
  int rest_ = 0;  // CutHint::rest
  PoolScratch* scratch_ = nullptr;
  const PoolEngines* engines_ = nullptr;
};

}  // namespace datasparse

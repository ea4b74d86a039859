#include "select/regrowth_engine.hpp"

// The bytes of a mask hold marks meanwhile (choice.hpp). So one engine makes both choices, in
// place: of the active blocks the lowest are marked as dropped; of all that are not active now, all
// but the lowest as grown. At the end marks become a mask again, and what is new is zeroed. A pool
// makes the same choices over all of its groups. Within N:M blocks, elements are ranked block by
// block.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/buffer.hpp"
#include "base/bytes.hpp"
#include "base/float_environment.hpp"
#include "base/layout.hpp"
#include "base/parallel.hpp"
#include "datasparse/error.hpp"
#include "datasparse/pool.hpp"
#include "datasparse/regrowth.hpp"
#include "kernels/kernels.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"
#include "select/engine.hpp"
#include "select/mask_plan.hpp"
#include "select/pool_engine.hpp"
#include "tiles/moves.hpp"
#include "tiles/permutation.hpp"

namespace datasparse {
namespace {

using MoveJob = JobOf<RegrowthSpec>;

/// What is chosen from: the marks of a mask, and what ranks them.
struct Ranking {
  MaskJob job;
  MaskPlan plan;

  /// `layout`: the order of the marks.
  Ranking(const MaskJob& of, const Axes& layout, const Choice& choice) : job(of), plan(job.view()) {
    plan.is_permuted = false;  // marks are in the order of the layout already
    Pruning& pruning = plan.pruning;
    pruning.choice = choice;
    pruning.matrix = Matrix(job.data, layout).for_blocks(pruning.height, pruning.width);
  }
  Ranking(const Ranking&) = delete;
  Ranking& operator=(const Ranking&) = delete;

  bool is_wide() const noexcept { return job.data.dtype() == DType::float64; }
};

/// One mask that moves, or is drawn.
struct Moved {
  const MoveJob* job = nullptr;
  std::uint8_t* marks = nullptr;       // the mask itself, unless it is permuted
  std::uint8_t* kept_marks = nullptr;  // room for as many, if it is, and zeros are kept
  bool is_within = false;              // N:M: single elements are dropped, and grow within blocks
  bool is_permuted = false;
  Matrix weights{ArrayView()};  // in the order of the marks
  std::optional<Ranking> drop, fill, grow;

  MoveCounts counts;        // before the step: of blocks, or of elements where is_within
  std::int64_t target = 0;  // blocks that are pruned at the end
  std::int64_t dropped = 0;
  bool may_exceed = true;  // N:M: whether a block may have more active elements than it shall

  const MaskMove& move() const noexcept { return *job->move; }
  std::int64_t elements() const noexcept { return job->data.size(); }
  std::int64_t blocks() const noexcept { return drop->plan.grid().blocks(); }
  std::int64_t pruned() const noexcept { return blocks() - counts.active; }
  /// Those that may grow, once some are dropped.
  std::int64_t inactive() const noexcept { return pruned() + dropped - counts.dead; }
};

/// floor(share × count), of an exact product of doubles.
std::int64_t share_of(double share, std::int64_t count) noexcept {
  return static_cast<std::int64_t>(std::floor(share * static_cast<double>(count)));
}

/// Groups that are chosen from together: a step has one pool for what is dropped, and one for what
/// grows.
struct MovedPool {
  std::vector<Moved*> groups;
  MovePool plan;
  bool draws = false;
  std::unique_ptr<Pool> drop, grow;
  Pool::Counts eligible;

  std::int64_t weigh(std::int64_t (*of)(const Moved&)) const noexcept {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < groups.size(); ++i) sum += plan.weights[i] * of(*groups[i]);
    return sum;
  }
  /// How much is dropped by drop_fraction: one product where all have the same.
  std::int64_t by_fraction() const noexcept {
    double sum = 0;
    bool is_one = true;
    const double first = groups[0]->job->spec.drop_fraction;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const double own = groups[i]->job->spec.drop_fraction;
      sum += own * static_cast<double>(plan.weights[i] * groups[i]->counts.active);
      is_one = is_one && own == first;
    }
    if (!is_one) return static_cast<std::int64_t>(std::floor(sum));
    return share_of(first, weigh([](const Moved& one) { return one.counts.active; }));
  }
};

/// What stays with the thread from one step to the next.
struct MoveScratch {
  Engine<std::uint32_t> narrow;
  Engine<std::uint64_t> wide;
  PoolScratch pools;
  Buffer<std::uint8_t> viewed, viewed_kept;  // marks and zeros that are kept, in other orders

  void trim() noexcept {
    if (narrow.bytes_held() > kept_bytes_max) narrow = {};
    if (wide.bytes_held() > kept_bytes_max) wide = {};
    if (pools.bytes() > kept_bytes_max) pools.release();
    if (viewed.bytes() + viewed_kept.bytes() > kept_bytes_max) {
      viewed = {};
      viewed_kept = {};
    }
  }
};

class Regrowth {
 public:
  explicit Regrowth(const Kernels& table) : table_(table) {}

  /// Of a job whose data have elements.
  void add(const MoveJob& job) {
    moved_.emplace_back();
    moved_.back().job = &job;
  }

  void allocate(MoveScratch& scratch) {
    scratch_ = &scratch;
    std::int64_t elements = 0;
    bool any_pool = false;
    for (const auto& one : moved_) {
      elements += one.elements();
      any_pool = any_pool || !one.job->spec.pool.empty();
    }
    threads_ = elements < parallel_from && !any_pool ? 1 : available_threads();
    std::int64_t viewed = 0;
    bool any_kept = false;
    for (auto& one : moved_) {
      const MoveJob& job = *one.job;
      const bool matters = layout_matters(job.spec, job.data.shape(), job.layout);
      one.is_permuted = matters && !keeps_order(job.data.shape(), job.layout);
      if (!one.is_permuted) continue;
      viewed += one.elements();
      any_kept = any_kept || job.kept_zeros != nullptr;
    }
    scratch.viewed.require(viewed);
    if (any_kept) scratch.viewed_kept.require(viewed);
    std::int64_t used = 0;
    for (auto& one : moved_) {
      one.marks = one.is_permuted ? scratch.viewed.get() + used : one.job->mask;
      const bool has_kept = one.is_permuted && one.job->kept_zeros != nullptr;
      one.kept_marks = has_kept ? scratch.viewed_kept.get() + used : nullptr;
      if (one.is_permuted) used += one.elements();
      all_.push_back(&one);
      rank(one);
    }
    const auto make_room = [&](auto& engine, const Rooms& rooms) {
      if (rooms.any) engine.allocate(table_, threads_, rooms.shared, rooms.largest, 0);
    };
    make_room(scratch.narrow, narrow_);
    make_room(scratch.wide, wide_);
    find_pools();
  }

  void run() noexcept {
    for_each(all_, [this](Moved& one, int, int lanes) { begin(one, lanes); });
    drop();
    for_each(all_, [this](Moved& one, int lane, int lanes) { choose_within(one, lane, lanes); });
    grow();
    for_each(all_, [this](Moved& one, int, int lanes) { finish(one, lanes); });
  }

 private:
  struct Rooms {
    Room shared, largest;
    bool any = false;

    void include(const MaskPlan& plan) noexcept {
      any = true;
      if (!plan.takes_all_threads()) shared.include(plan.room());
      largest.include(plan.room());
    }
  };

  // --- before anything changes -----------------------------------------------------------------

  /// What ranks the blocks of a mask, in each of the choices.
  void rank(Moved& one) {
    const MoveJob& job = *one.job;
    const MaskMove& move = one.move();
    BlockSpec spec = job.spec;
    spec.monotone = false;
    // What lies outside the matrix of the layout is cut off, also where that of memory is ranked.
    const Pattern pattern = Pattern::of(spec, MatrixShape::of(job.data.shape(), job.layout));
    spec.block_height = pattern.height;
    spec.block_width = pattern.width;
    spec.zeros_per_block = pattern.zeros;
    one.is_within = job.spec.is_within();
    BlockSpec elements = spec;
    elements.block_height = elements.block_width = 1;
    elements.zeros_per_block = 1;

    const bool matters = layout_matters(job.spec, job.data.shape(), job.layout);
    const Axes layout = matters ? job.layout : Axes{};
    const auto rank_by = [&](std::optional<Ranking>& to, const ArrayView& data,
                             const BlockSpec& what, Choice::Among among) {
      to.emplace(MaskJob{data, what, one.marks, nullptr, layout}, layout,
                 Choice{among, false, 0, 0});
    };
    // No element is ever looked at: what counts is the shape, in the order of the marks.
    const auto draw = [&](std::optional<Ranking>& to, BlockSpec what, Choice::Among among) {
      what.norm = Norm::L1;
      const Axes shape = viewed_shape(job.data.shape(), layout);
      to.emplace(MaskJob{ArrayView(one.marks, DType::float16, shape), what, one.marks}, Axes{},
                 Choice{among, true, move.stream, 0});
    };
    constexpr auto active = Choice::Among::active, inactive = Choice::Among::inactive;
    const BlockSpec& dropped = one.is_within ? elements : spec;
    if (move.draws) {
      draw(one.drop, dropped, active);
      if (one.is_within) draw(one.fill, spec, active);
    } else {
      rank_by(one.drop, job.data, dropped, active);
      if (one.is_within) rank_by(one.fill, job.data, spec, active);
      if (move.growth == Growth::by_chance) {
        draw(one.grow, spec, inactive);
      } else {
        rank_by(one.grow, move.gradient, spec, inactive);
      }
      one.weights = Matrix(move.weights, layout);
      if (one.weights.is_one_row()) one.weights = one.weights.as_one_row();
    }
    one.target = one.is_within ? 0 : one.drop->plan.pruning.quota.blocks;
    for (const auto* ranking : {&one.drop, &one.fill, &one.grow}) {
      if (*ranking) ((*ranking)->is_wide() ? wide_ : narrow_).include((*ranking)->plan);
    }
  }

  void find_pools() {
    // Those that are drawn are drawn from together, and those that move, move together.
    for (const bool draws : {true, false}) {
      std::vector<const MoveJob*> jobs;
      std::vector<Moved*> some;
      for (auto& one : moved_) {
        if (one.job->spec.pool.empty() || one.move().draws != draws) continue;
        jobs.push_back(one.job);
        some.push_back(&one);
      }
      for (auto& plan : MovePool::of(jobs)) {
        MovedPool pool;
        for (const std::size_t i : plan.jobs) pool.groups.push_back(some[i]);
        pool.plan = std::move(plan);
        pool.draws = draws;
        pools_.push_back(std::move(pool));
        allocate(pools_.back());
      }
    }
    for (auto& one : moved_) {
      if (one.job->spec.pool.empty()) alone_.push_back(&one);
    }
  }

  void allocate(MovedPool& pool) {
    const auto make = [&](std::optional<Ranking> Moved::* of) {
      std::vector<MaskPlan*> masks;
      for (auto* one : pool.groups) masks.push_back(&(one->*of)->plan);
      PoolPlan plan;
      for (std::size_t i = 0; i < masks.size(); ++i) {
        const std::int64_t blocks = masks[i]->grid().blocks();
        plan.members.push_back({blocks, pool.plan.weights[i], 0, blocks});
      }
      auto made = std::make_unique<Pool>(std::move(plan), masks);
      made->allocate(scratch_->pools);
      return made;
    };
    const bool drops = !(pool.plan.is_within && pool.draws);
    if (drops) pool.drop = make(&Moved::drop);
    if (!pool.plan.is_within && !pool.draws) pool.grow = make(&Moved::grow);
    pool.eligible.resize(pool.groups.size());
  }

  // --- and when it does ------------------------------------------------------------------------

  /// Small ones in parallel, large ones with all threads.
  template <class Work>
  void for_each(const std::vector<Moved*>& some, const Work& work) const noexcept {
    parallel_for(static_cast<std::int64_t>(some.size()), threads_, [&](std::int64_t i, int worker) {
      Moved& one = *some[static_cast<std::size_t>(i)];
      if (!is_large(one)) work(one, worker, 1);
    });
    for (auto* one : some) {
      if (is_large(*one)) work(*one, 0, threads_);
    }
  }
  static bool is_large(const Moved& one) noexcept { return one.drop->plan.takes_all_threads(); }

  /// Calls work(engine, target), of the ranking's type of keys.
  template <class Work>
  void with_engine(const Ranking& ranking, const Work& work) const noexcept {
    const Target target{{ranking.job.mask, ranking.plan.pruning.matrix.columns()}};
    if (ranking.is_wide()) {
      work(scratch_->wide, target);
    } else {
      work(scratch_->narrow, target);
    }
  }

  /// Marks what comes of so many of the blocks that may be chosen.
  void choose(Ranking& ranking, std::int64_t eligible, std::int64_t lowest, int lane,
              int lanes) const noexcept {
    ranking.plan.pruning.choice.eligible = eligible;
    ranking.plan.pruning.quota.blocks = lowest;
    with_engine(ranking, [&](auto& engine, const Target& target) {
      engine.prune(ranking.plan.pruning, target, lane, lanes);
    });
  }
  void choose_within(const Ranking& ranking, int lane, int lanes) const noexcept {
    with_engine(ranking, [&](auto& engine, const Target& target) {
      engine.mark_within(ranking.plan.pruning, target, lane, lanes);
    });
  }

  void begin(Moved& one, int lanes) const noexcept {
    const MoveJob& job = *one.job;
    const std::uint8_t* kept_zeros = job.kept_zeros;
    if (one.is_permuted) {
      view_marks(one, lanes);
      kept_zeros = nullptr;  // they are in another order, too
    }
    const Pruning& pruning = one.drop->plan.pruning;
    const bool has_blocks = pruning.height * pruning.width > 1;
    const bool draws = one.move().draws, any_kept_zeros = job.kept_zeros != nullptr;
    const auto begin_with_blocks = [&] {
      return begin_blocks(table_, one.drop->plan.grid(), one.marks, draws, any_kept_zeros, lanes);
    };
    if (has_blocks && !any_kept_zeros) {
      one.counts = begin_with_blocks();
      return;
    }
    std::atomic<std::int64_t> active{0}, dead{0};
    // Hardly ever, once a mask is N:M: so it is worth a look at bytes that are in the cache.
    const bool looks = one.is_within && !draws && has_blocks_in_pieces(one.fill->plan.pruning);
    std::atomic<bool> exceeds{!looks};
    kept::for_each_piece(table_, kept_zeros, one.elements(), lanes,
                         [&](std::int64_t begin, std::int64_t n, const std::uint8_t* kept) {
                           if (one.kept_marks != nullptr) kept = one.kept_marks + begin;
                           if (!any_kept_zeros) kept = nullptr;
                           const MoveCounts here =
                               begin_elements(table_, one.marks + begin, kept, n, draws);
                           active.fetch_add(here.active);
                           dead.fetch_add(here.dead);
                           if (looks && exceeds_within(*one.fill, begin, n)) exceeds.store(true);
                         });
    one.may_exceed = exceeds;
    one.counts = has_blocks ? begin_with_blocks() : MoveCounts{active, dead};
  }

  /// Whether no block lies in two pieces.
  static bool has_blocks_in_pieces(const Pruning& pruning) noexcept {
    return pruning.height == 1 && kept::piece % pruning.width == 0 &&
           pruning.matrix.columns() % pruning.width == 0;
  }
  static bool exceeds_within(const Ranking& fill, std::int64_t begin, std::int64_t n) noexcept {
    const Pruning& pruning = fill.plan.pruning;
    return moving::exceed(fill.job.mask + begin, n, pruning.width,
                          pruning.width - pruning.quota.zeros);
  }

  /// The bytes of a mask in the order of its layout, with the zeros that are kept.
  void view_marks(const Moved& one, int lanes) const noexcept {
    const MoveJob& job = *one.job;
    const std::int64_t size = one.elements();
    if (!one.move().draws) add_to_ever(table_, one.move().ever_active, job.mask, size, lanes);
    const Permutation order(job.data.shape(), job.layout);
    kept::for_each_piece(table_, nullptr, size, lanes,
                         [&](std::int64_t begin, std::int64_t n, const std::uint8_t*) {
                           normalise_bytes(job.mask + begin, n);
                         });
    order.to_view(table_, one.marks, job.mask, lanes);
    if (job.kept_zeros == nullptr) return;
    // The mask is free meanwhile, and is written again at the end.
    kept::for_each_piece(table_, job.kept_zeros, size, lanes,
                         [&](std::int64_t begin, std::int64_t n, const std::uint8_t* kept) {
                           std::copy_n(kept, n, job.mask + begin);
                         });
    order.to_view(table_, one.kept_marks, job.mask, lanes);
  }

  void drop() noexcept {
    for_each(alone_, [this](Moved& one, int lane, int lanes) {
      const auto& [active, dead] = one.counts;
      const auto& spec = one.job->spec;
      if (one.is_within && one.move().draws) return;
      const std::int64_t by_fraction = one.move().draws ? 0 : share_of(spec.drop_fraction, active);
      one.dropped = std::max(by_fraction, one.target - one.pruned());
      if (one.is_within) one.dropped = by_fraction;
      one.dropped = std::clamp<std::int64_t>(one.dropped, 0, active);
      if (one.dropped > 0) choose(*one.drop, active, one.dropped, lane, lanes);
    });
    for (auto& pool : pools_) {
      if (pool.drop == nullptr) continue;
      for (std::size_t i = 0; i < pool.groups.size(); ++i) {
        pool.eligible[i] = pool.groups[i]->counts.active;
      }
      const std::int64_t active = pool.weigh([](const Moved& one) { return one.counts.active; });
      const std::int64_t pruned = pool.weigh([](const Moved& one) { return one.pruned(); });
      std::int64_t budget = pool.draws ? 0 : pool.by_fraction();
      if (!pool.plan.is_within) budget = std::max(budget, pool.plan.pruned - pruned);
      pool.drop->choose(std::clamp<std::int64_t>(budget, 0, active), pool.eligible);
      pool.drop->run(engines());
      for (std::size_t i = 0; i < pool.groups.size(); ++i) {
        pool.groups[i]->dropped = pool.drop->pruned()[i];
      }
    }
  }

  void grow() noexcept {
    for_each(alone_, [this](Moved& one, int lane, int lanes) {
      if (one.move().draws || one.is_within) return;
      const std::int64_t stay = std::max<std::int64_t>(one.target - one.counts.dead, 0);
      choose(*one.grow, one.inactive(), stay, lane, lanes);
    });
    for (auto& pool : pools_) {
      if (pool.grow == nullptr) continue;
      for (std::size_t i = 0; i < pool.groups.size(); ++i) {
        pool.eligible[i] = pool.groups[i]->inactive();
      }
      const std::int64_t dead = pool.weigh([](const Moved& one) { return one.counts.dead; });
      const std::int64_t inactive = pool.weigh([](const Moved& one) { return one.inactive(); });
      const std::int64_t budget = std::max<std::int64_t>(pool.plan.pruned - dead, 0);
      pool.grow->choose(std::min(budget, inactive), pool.eligible);
      pool.grow->run(engines());
    }
  }

  /// N:M: blocks that have too much lose it, and then those grow that have too little.
  void choose_within(Moved& one, int lane, int lanes) const noexcept {
    if (!one.is_within) return;
    if (one.may_exceed) choose_within(*one.fill, lane, lanes);
    if (!one.move().draws) choose_within(*one.grow, lane, lanes);
  }

  void finish(Moved& one, int lanes) const noexcept {
    const MaskMove& move = one.move();
    const std::int64_t size = one.elements();
    finish_moves(table_, one.marks, move.draws ? nullptr : &one.weights,
                 one.is_permuted ? nullptr : move.ever_active, size, move.draws, lanes);
    if (!one.is_permuted) return;
    const Permutation order(one.job->data.shape(), one.job->layout);
    order.from_view(table_, one.job->mask, one.marks, lanes);
    add_to_ever(table_, move.ever_active, one.job->mask, size, lanes);
  }

  PoolEngines engines() const noexcept {
    return {table_, scratch_->narrow, scratch_->wide, threads_};
  }

  const Kernels& table_;
  int threads_ = 1;
  std::deque<Moved> moved_;
  std::vector<MovedPool> pools_;
  std::vector<Moved*> all_, alone_;
  Rooms narrow_, wide_;
  MoveScratch* scratch_ = nullptr;
};

}  // namespace

std::vector<MovePool> MovePool::of(const std::vector<const JobOf<RegrowthSpec>*>& jobs) {
  std::vector<PoolGroup> groups;
  for (const auto* job : jobs) {
    groups.push_back({&job->spec, viewed_shape(job->data.shape(), job->layout)});
  }
  std::vector<MovePool> pools;
  for (const auto& [name, places, zeros] : pools_of(groups)) {
    std::vector<PoolGroup> own;
    MovePool pool{places, {}, 0, jobs[places[0]]->spec.is_within()};
    for (const std::size_t i : places) {
      own.push_back(groups[i]);
      if (jobs[i]->spec.is_within() == pool.is_within) continue;
      throw ValueError("pool '" + name + "' must be of groups that all have zeros_per_block " +
                       "less than a block, or of groups none of which has");
    }
    const PoolPlan plan = PoolPlan::of(name, own);
    pool.pruned = plan.budget;
    for (const auto& member : plan.members) {
      pool.weights.push_back(pool.is_within ? 1 : member.weight);
    }
    pools.push_back(std::move(pool));
  }
  return pools;
}

void compute_masks(const std::vector<JobOf<RegrowthSpec>>& jobs) { move_masks(jobs, kernels()); }

void move_masks(const std::vector<JobOf<RegrowthSpec>>& jobs, const Kernels& table) {
  const DefaultFloatEnvironment environment;
  thread_local MoveScratch scratch;
  Regrowth regrowth(table);
  for (const auto& job : jobs) {
    if (job.move == nullptr) {
      throw StateError("masks that move are computed by a step, all together");
    }
    if (job.data.size() > 0) regrowth.add(job);
  }
  regrowth.allocate(scratch);
  regrowth.run();
  scratch.trim();
}

}  // namespace datasparse

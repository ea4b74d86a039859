#include "datasparse/shard_parts.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/buffer.hpp"
#include "base/parallel.hpp"
#include "datasparse/error.hpp"
#include "kernels/kernels.hpp"
#include "mask/mask_bits.hpp"
#include "select/engine.hpp"
#include "select/key_scale.hpp"
#include "select/mask_plan.hpp"
#include "select/shard_borders.hpp"
#include "select/shard_cut.hpp"

namespace datasparse {
namespace {

/// Where the blocks of a part are among those of the whole tensor, both numbered row by row.
struct BlockRectangle {
  std::int64_t per_row = 1;  // of the whole
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;

  /// How many blocks of the part come before a block of the whole.
  std::int64_t before(std::int64_t index) const noexcept {
    const std::int64_t down = index / per_row - row;
    if (down < 0) return 0;
    if (down >= rows) return rows * columns;
    return down * columns + std::clamp<std::int64_t>(index % per_row - column, 0, columns);
  }
};

struct Item {
  ShardJob job;
  std::optional<MaskPlan> mask;  // of data that have elements
  BlockRectangle here;
  bool has_blocks;  // that something may be pruned of
  KeyScale scale{};
  std::int64_t past = 0;           // blocks that the mask before has pruned
  ShardOrder order;                // of the blocks, as they are asked for
  std::int64_t room = 0;           // for candidates
  Counted counted;                 // of data that are loaded
  std::int64_t pruned = 0;         // at last
  std::uint64_t stopped = 0;       // at this key of its own
  CutBlocks cut;                   // which are no part of the job's data and mask
  std::uint8_t* whole_mask;        // which has the rows of these, too
  std::vector<std::uint8_t> kept;  // a byte for each of its elements; or none
  PackedBits kept_between;         // those of the job
  Buffer<std::uint8_t> own_past;   // of a permuted mask, which asking for its past would change
  std::variant<Candidates<std::uint32_t>, Candidates<std::uint64_t>> found;

  explicit Item(const ShardJob& of) : job(of), has_blocks(false), whole_mask(of.mask.mask) {
    if (job.mask.data.dtype() == DType::float64) found.emplace<1>();
  }
  Item(const Item&) = delete;
  Item& operator=(const Item&) = delete;

  /// Has the data to look through.
  void look_at(const ArrayView& data) {
    job.mask.data = data;
    mask.emplace(job.mask);
    const MatrixShape whole{job.shard.rows, job.shard.columns};
    mask->has_single_elements = Pattern::of(job.mask.spec, whole).size() == 1;
    // Whether the layout matters was asked of the whole tensor.
    if (job.mask.layout.size() == 0) return;
    mask->pruning.matrix = Matrix(data, job.mask.layout);
    mask->is_permuted = !keeps_order(data.shape(), job.mask.layout);
  }
  /// Forgets what was found in another order.
  void rank_by(const ShardOrder& other) noexcept {
    if (order.is_returning != other.is_returning) {
      std::visit([](auto& some) { some.forget(); }, found);
      counted.clear();
    }
    order = other;
  }
  KeyScale scale_of_places() const noexcept { return order.by_own_keys ? KeyScale() : scale; }
  bool is_wide() const noexcept { return found.index() == 1; }
  bool is_loaded() const noexcept { return job.source != nullptr; }
};

std::string to_text(std::int64_t a, std::int64_t b) {
  return "(" + std::to_string(a) + ", " + std::to_string(b) + ")";
}

/// ValueError unless the part fits the whole, and cuts no block.
void check(const Shard& shard, const MatrixShape& part, const Pattern& block,
           const std::vector<std::int64_t>& cuts) {
  const auto fits = [](std::int64_t begin, std::int64_t n, std::int64_t all) {
    return begin >= 0 && n >= 0 && begin <= all - n;
  };
  if (!fits(shard.row, part.rows, shard.rows) || !fits(shard.column, part.columns, shard.columns)) {
    throw ValueError(
        "shard must lie within a matrix of shape " + to_text(shard.rows, shard.columns) + ", got " +
        to_text(part.rows, part.columns) + " from " + to_text(shard.row, shard.column) + " on");
  }
  const auto is_edge = [](std::int64_t at, std::int64_t all, std::int64_t length) {
    return at == all || at % length == 0;
  };
  const auto is_row = [&](std::int64_t row) {
    return is_edge(row, shard.rows, block.height) ||
           std::find(cuts.begin(), cuts.end(), row) != cuts.end();
  };
  if (part.rows == 0 || part.columns == 0) return;
  if (!is_row(shard.row) || !is_row(shard.row + part.rows) ||
      !is_edge(shard.column, shard.columns, block.width) ||
      !is_edge(shard.column + part.columns, shard.columns, block.width)) {
    throw ValueError("shard must not cut blocks of " + to_text(block.height, block.width) +
                     ", got rows " + std::to_string(shard.row) + " to " +
                     std::to_string(shard.row + part.rows) + " and columns " +
                     std::to_string(shard.column) + " to " +
                     std::to_string(shard.column + part.columns) + " of " +
                     to_text(shard.rows, shard.columns) + "; cut at multiples of the block");
  }
}

void require_as_said(const ArrayView& loaded, const ArrayView& said) {
  if (loaded.shape() == said.shape() && loaded.dtype() == said.dtype() &&
      loaded.strides() == said.strides()) {
    return;
  }
  throw ValueError("loaded data must be in C order, and have the shape " + to_string(said.shape()) +
                   " and the dtype that was said, got shape " + to_string(loaded.shape()));
}

}  // namespace

class ShardParts::Impl {
 public:
  Impl(const std::vector<ShardJob>& jobs, const std::vector<ShardSearch>& searches)
      : threads_(available_threads()), searches_(searches) {
    std::int64_t blocks = 0, bytes = 0;
    items_.reserve(jobs.size());
    for (const auto& job : jobs) {
      items_.push_back(std::make_unique<Item>(job));
      add(*items_.back());
      if (items_.back()->has_blocks) blocks += items_.back()->mask->grid().blocks();
      bytes += job.mask.data.size() * static_cast<std::int64_t>(item_size(job.mask.data.dtype()));
    }
    constexpr std::int64_t in_any_case = std::int64_t{3} << 18;
    for (auto& item : items_) {
      if (!item->has_blocks) continue;
      constexpr auto one = static_cast<std::int64_t>(sizeof(Candidate<std::uint64_t>));
      item->room = 16 + static_cast<std::int64_t>(static_cast<double>(bytes / 100 + in_any_case) /
                                                  static_cast<double>(one) *
                                                  static_cast<double>(item->mask->grid().blocks()) /
                                                  static_cast<double>(blocks));
      item->room = std::min(item->room, item->mask->grid().blocks());
    }
    for (const auto& search : searches_) {
      bool any_wide = false, any_narrow = false, any_norm = false;
      for (const std::size_t group : search.groups) {
        (items_.at(group)->is_wide() ? any_wide : any_narrow) = true;
        any_norm = any_norm || items_[group]->job.mask.spec.normalize;
      }
      for (const std::size_t group : search.groups) {
        items_[group]->scale.as_double = any_norm || (any_wide && any_narrow);
      }
    }
    allocate_for<std::uint32_t>();
    allocate_for<std::uint64_t>();
  }

  std::vector<std::int64_t> prelude() {
    if (carried_ < rounds_of_cuts()) return carry();
    std::vector<std::int64_t> numbers;
    if (has_begun_) return numbers;
    for (auto& item : items_) {
      const BlockSpec& spec = item->job.mask.spec;
      std::optional<Pin> pin;
      if (item->is_loaded() && spec.normalize && item->has_blocks) look_at_loaded(*item, pin);
      if (spec.monotone && item->has_blocks) {
        with_task(*item, 0, lanes_of(*item), [&](const auto& engine, const auto& task) {
          item->past = task.has_past() ? engine.count_past(task) : 0;
        });
      }
      if (spec.monotone) {
        numbers.push_back((item->job.shard.counts ? item->past : 0) + item->cut.counted_past());
      }
      if (!spec.normalize) continue;
      if (item->is_wide()) {
        add_squares<std::uint64_t>(*item, numbers);
      } else {
        add_squares<std::uint32_t>(*item, numbers);
      }
    }
    return numbers;
  }

  void begin(const std::vector<std::int64_t>& sums) {
    if (carried_ < rounds_of_cuts()) return take_carried(sums);
    has_begun_ = true;
    std::vector<std::int64_t> past(items_.size());
    std::size_t at = 0;
    const auto norm_of = [&](auto key) {
      using Sum = SquareSum<decltype(key)>;
      typename Sum::Limbs limbs;
      std::uint64_t carry = 0;
      for (auto& limb : limbs) {
        carry += static_cast<std::uint64_t>(sums.at(at++));
        limb = static_cast<std::uint32_t>(carry);
        carry >>= 32;
      }
      const double norm = std::sqrt(Sum::rounded(limbs));
      return norm > 0 ? norm : 1;  // a norm of 0 leaves the scores
    };
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const BlockSpec& spec = items_[i]->job.mask.spec;
      if (spec.monotone) past[i] = sums.at(at++);
      if (!spec.normalize) continue;
      items_[i]->scale.norm =
          items_[i]->is_wide() ? norm_of(std::uint64_t{}) : norm_of(std::uint32_t{});
    }
    for (auto& search : searches_) {
      search.past.clear();
      search.is_finer.clear();
      for (const std::size_t group : search.groups) {
        search.past.push_back(past[group]);
        search.is_finer.push_back(items_[group]->is_wide() && items_[group]->scale.norm != 1);
      }
    }
  }
  ShardSelection selection(std::int64_t most) const { return ShardSelection(searches_, most); }

  std::vector<std::int64_t> count(const ShardSelection& selection) {
    std::vector<std::int64_t> numbers(selection.size());
    std::mutex adding;
    for (const auto& question : selection.questions()) {
      const std::size_t places = question.places.size();
      std::vector<std::vector<std::int64_t>> of_worker(static_cast<std::size_t>(threads_));
      for (auto& counts : of_worker) counts.resize(places + 1);
      for (const std::size_t group : *question.groups) items_[group]->rank_by(question.order);
      std::vector<Asked> asked;
      const auto answer_all = [&] {
        for_each_of(asked, [&](Asked& one, int lane, int lanes) {
          auto& counts = of_worker[static_cast<std::size_t>(lane)];
          answer(one, lane, lanes, counts.data());
          counts[places] = one.item->mask->grid().blocks();
          const std::lock_guard<std::mutex> lock(adding);
          selection.add(question, one.member, counts.data(), numbers.data());
        });
        asked.clear();
      };
      // Some at a time: thousands of places take more memory than a small tensor.
      const std::size_t at_once =
          std::max<std::size_t>(4 * of_worker.size(), places_at_once / (places + 1));
      for (std::size_t m = 0; m < question.groups->size(); ++m) {
        Item& item = *items_[(*question.groups)[m]];
        if (!item.has_blocks || !item.job.shard.counts) continue;
        asked.push_back({&item, m, borders_of(item, question.places, (*question.first)[m])});
        if (asked.size() == at_once) answer_all();
      }
      answer_all();
      for (std::size_t m = 0; m < question.groups->size(); ++m) {
        const Item& item = *items_[(*question.groups)[m]];
        if (item.cut.counted() == 0) continue;
        std::vector<std::int64_t> counts;
        for (ShardPlace place : question.places) {
          place.position -= (*question.first)[m];
          counts.push_back(item.cut.count_before(place, item.order, item.scale_of_places()));
        }
        counts.push_back(item.cut.counted());
        selection.add(question, m, counts.data(), numbers.data());
      }
    }
    return numbers;
  }

  void find(const ShardSelection& selection) {
    std::vector<Asked> asked;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      Item& item = *items_[i];
      item.rank_by(selection.order(i));
      if (item.has_blocks) asked.push_back({&item, 0, borders_of(item, {selection.stop(i)}, 0)});
      item.cut.prune(selection.stop(i), item.order, item.scale_of_places());
    }
    for_each_of(asked, [&](Asked& one, int lane, int lanes) {
      answer(one, lane, lanes, &one.item->pruned);
      one.item->stopped =
          std::visit([](const auto& borders) { return static_cast<std::uint64_t>(borders[0].key); },
                     one.borders);
    });
  }

  void write(const std::vector<std::size_t>& some) noexcept {
    const auto is_large = [](const Item& item) {
      return item.has_blocks && item.mask->takes_all_threads();
    };
    for (const std::size_t i : some) {
      if (is_large(*items_[i])) write_one(*items_[i], 0, threads_);
    }
    parallel_for(static_cast<std::int64_t>(some.size()), threads_, [&](std::int64_t i, int worker) {
      Item& item = *items_[some[static_cast<std::size_t>(i)]];
      if (!is_large(item)) write_one(item, worker, 1);
    });
  }

  std::size_t size() const noexcept { return items_.size(); }
  std::int64_t pruned(std::size_t job) const noexcept { return items_[job]->pruned; }

 private:
  static constexpr std::size_t places_at_once = 32768;
  using AnyBorders = std::variant<Borders<std::uint32_t>, Borders<std::uint64_t>>;
  struct Asked {
    Item* item;
    std::size_t member;
    AnyBorders borders;

    std::size_t size() const noexcept {
      return std::visit([](const auto& some) { return some.size(); }, borders);
    }
  };

  // --- before the first question ---------------------------------------------------------------

  std::int64_t rounds_of_cuts() const noexcept {
    std::int64_t most = 0;
    for (const auto& item : items_) most = std::max(most, item->cut.rounds());
    return most;
  }
  /// The sums of cut blocks, those with the next pieces; and first, what their masks have pruned.
  std::vector<std::int64_t> carry() {
    std::vector<std::int64_t> numbers;
    for (auto& item : items_) {
      const MaskJob& job = item->job.mask;
      const std::size_t slots = item->cut.slots(), begin = numbers.size();
      const bool tells_past = job.spec.monotone && carried_ == 0;
      numbers.resize(begin + slots * (tells_past ? 2 : 1));
      if (!item->job.shard.counts) continue;
      item->cut.add(table_, job.spec.norm, carried_, numbers.data() + begin);
      if (!tells_past) continue;
      item->cut.count_past(item->whole_mask, item->kept.empty() ? nullptr : item->kept.data(),
                           numbers.data() + begin + slots);
    }
    return numbers;
  }
  void take_carried(const std::vector<std::int64_t>& sums) {
    const std::int64_t* next = sums.data();
    for (auto& item : items_) {
      item->cut.take(carried_, next);
      next += item->cut.slots();
      if (!item->job.mask.spec.monotone || carried_ > 0) continue;
      item->cut.take_past(next);
      next += item->cut.slots();
    }
    if (++carried_ < rounds_of_cuts()) return;
    for (auto& item : items_) {
      if (item->is_wide()) {
        item->cut.make_keys(table_.select64, item->job.shard.counts);
      } else {
        item->cut.make_keys(table_.select32, item->job.shard.counts);
      }
    }
  }
  template <class Key>
  void add_squares(Item& item, std::vector<std::int64_t>& numbers) {
    SquareSum<Key>* sum = &engine<Key>().squares();
    sum->clear();
    if (item.has_blocks && item.job.shard.counts) {
      with_task_of<Key>(item, 0, lanes_of(item), [&](const auto& own, auto task) {
        task.past = {};  // of all blocks
        own.norm(task);
      });
    }
    for (const auto& block : item.cut.blocks()) {
      const auto key = static_cast<Key>(block.key);
      if (block.is_counted) sum->add(&key, 1);
    }
    for (const std::uint32_t limb : sum->exact()) numbers.push_back(limb);
  }

  void add(Item& item) {
    const MaskJob& job = item.job.mask;
    MatrixShape part = MatrixShape::of(job.data.shape(), job.layout);
    const Pattern block = Pattern::of(job.spec, {item.job.shard.rows, item.job.shard.columns});
    check(item.job.shard, part, block, item.job.cuts);
    if (item.is_loaded() && job.spec.monotone) {
      throw ValueError("data that are loaded must have no monotone mask");
    }

    take_cut_blocks(item, part, block);
    part = MatrixShape::of(job.data.shape(), job.layout);
    item.has_blocks = part.rows > 0 && part.columns > 0;
    if (!item.has_blocks) return;
    const auto up = [](std::int64_t n, std::int64_t by) { return Grid::divide_up(n, by); };
    item.here = {up(item.job.shard.columns, block.width), item.job.shard.row / block.height,
                 item.job.shard.column / block.width, up(part.rows, block.height),
                 up(part.columns, block.width)};
    item.look_at(job.data);
    if (item.mask->is_permuted && job.spec.monotone) {
      item.own_past.require(job.data.size());
      std::memcpy(item.own_past.get(), job.mask, static_cast<std::size_t>(job.data.size()));
    }
  }

  static void look_at_loaded(Item& item, std::optional<Pin>& pin) {
    pin.emplace(*item.job.source);
    require_as_said(pin->view(), item.job.mask.data);
    item.look_at(pin->view());
  }

  /// Leaves what lies between cut blocks as the job.
  void take_cut_blocks(Item& item, const MatrixShape& part, const Pattern& block) {
    Shard& shard = item.job.shard;
    const MatrixShape whole{shard.rows, shard.columns};
    auto bands = cut_bands(whole, block.height, item.job.cuts);
    if (bands.empty()) return;
    MaskJob& job = item.job.mask;
    const bool in_order = job.layout.size() == 0 || keeps_order(job.data.shape(), job.layout);
    if (block.zeros != block.size() || !in_order || item.is_loaded()) {
      throw ValueError(
          "blocks that are cut between rows must be pruned as a whole, in the order "
          "of memory, got blocks of " +
          to_text(block.height, block.width) + " that lose " + std::to_string(block.zeros) +
          " elements; cut at multiples of the block");
    }
    item.cut = CutBlocks(std::move(bands), Matrix(job.data, job.layout), whole, block, shard.row,
                         shard.column / block.width);
    if (part.rows == 0 || part.columns == 0) return;
    const auto edge = [&](std::int64_t band) { return std::min(band * block.height, shard.rows); };
    const std::int64_t end = shard.row + part.rows;
    const std::int64_t first = edge(Grid::divide_up(shard.row, block.height));
    const std::int64_t last = std::max(first, end == shard.rows ? end : edge(end / block.height));
    const std::int64_t begin = (first - shard.row) * part.columns;
    const std::int64_t n = (last - first) * part.columns;
    if (job.kept_zeros != nullptr) {
      item.kept.resize(static_cast<std::size_t>(job.data.size()));
      unpack_bits(item.kept.data(), job.kept_zeros, job.data.size());
      item.kept_between.resize(packed_size(n));
      pack_bits(item.kept_between.data(), item.kept.data() + begin, n);
      job.kept_zeros = item.kept_between.data();
    }
    Axes shape;
    for (const std::int64_t length : job.data.shape()) {
      shape.push_back(shape.size() == 0 ? last - first : length);
    }
    auto* const data = static_cast<std::byte*>(job.data.data());
    job.data = ArrayView(data + (first - shard.row) * job.data.strides()[0], job.data.dtype(),
                         shape, job.data.strides(), true);
    job.mask += begin;
    shard.row = first;
  }

  // --- engines -----------------------------------------------------------------------------------

  struct Engines {
    Engine<std::uint32_t> narrow;
    Engine<std::uint64_t> wide;
  };
  /// A thread keeps its scratch memory from one step to the next, as with masks of whole tensors.
  static std::shared_ptr<Engines> engines_of_thread() {
    thread_local std::shared_ptr<Engines> kept;
    constexpr std::int64_t kept_bytes_max = std::int64_t{64} << 20;
    const bool is_free = kept != nullptr && kept.use_count() == 1;
    if (!is_free || kept->narrow.bytes_held() + kept->wide.bytes_held() > kept_bytes_max) {
      kept = std::make_shared<Engines>();
    }
    return kept;
  }
  template <class Key>
  Engine<Key>& engine() const noexcept {
    if constexpr (sizeof(Key) == 8) {
      return engines_->wide;
    } else {
      return engines_->narrow;
    }
  }
  template <class Key>
  void allocate_for() {
    Room shared, largest;
    std::int64_t large_blocks = 0;
    bool any = false;
    for (const auto& item : items_) {
      if (item->is_wide() != (sizeof(Key) == 8)) continue;
      any = true;
      if (!item->has_blocks) continue;
      if (!item->mask->takes_all_threads()) shared.include(item->mask->room());
      largest.include(item->mask->room());
      if (item->mask->has_large_blocks()) {
        large_blocks = std::max(large_blocks, item->mask->grid().blocks());
      }
    }
    if (any) engine<Key>().allocate(table_, threads_, shared, largest, large_blocks);
  }

  int lanes_of(const Item& item) const noexcept {
    return item.has_blocks && item.mask->takes_all_threads() ? threads_ : 1;
  }
  /// Calls work(one, lane, lanes) for all of them: small ones in parallel, large ones with all
  /// threads. Has the memory first that this takes.
  template <class Work>
  void for_each_of(std::vector<Asked>& asked, const Work& work) {
    std::vector<Asked*> small;
    std::size_t bins = 0;
    for (auto& one : asked) {
      std::visit(
          [&](auto& found) {
            if (one.item->room > 0) found.some.require(one.item->room);
          },
          one.item->found);
      if (one.item->is_loaded()) one.item->counted.make_room();
      bins = std::max(bins, one.size() + 1);
    }
    bins_.resize(bins * static_cast<std::size_t>(threads_));
    for (auto& one : asked) {
      Item& item = *one.item;
      if (item.is_loaded() && !is_known(one)) {
        std::optional<Pin> pin;
        look_at_loaded(item, pin);
        work(one, 0, lanes_of(item));
      } else if (item.mask->takes_all_threads()) {
        work(one, 0, threads_);
      } else {
        small.push_back(&one);
      }
    }
    parallel_for(
        static_cast<std::int64_t>(small.size()), threads_,
        [&](std::int64_t i, int worker) { work(*small[static_cast<std::size_t>(i)], worker, 1); });
  }

  /// Calls work(engine, task), of the part's type of keys.
  template <class Work>
  void with_task(Item& item, int lane, int lanes, const Work& work) noexcept {
    if (item.is_wide()) {
      with_task_of<std::uint64_t>(item, lane, lanes, work);
    } else {
      with_task_of<std::uint32_t>(item, lane, lanes, work);
    }
  }
  template <class Key, class Work>
  void with_task_of(Item& item, int lane, int lanes, const Work& work) noexcept {
    Engine<Key>& own = engine<Key>();
    const Grid grid = item.mask->grid();
    const std::int64_t pitch = item.mask->pruning.matrix.columns();
    Target target{{nullptr, pitch}};
    if (item.job.mask.spec.monotone) {
      MaskPlan plan = *item.mask;
      MaskJob job = item.job.mask;
      if (item.own_past.bytes() > 0) job.mask = item.own_past.get();
      plan.job = &job;
      target.past = {past_of(own, table_, plan, lane, lanes), pitch};
    }
    auto task = own.task_of(grid, item.mask->pruning, target, lane, lanes, {});
    task.returning = item.order.is_returning;
    work(own, task);
  }

  // --- counting ----------------------------------------------------------------------------------

  AnyBorders borders_of(const Item& item, const std::vector<ShardPlace>& places,
                        std::int64_t first) const {
    if (item.is_wide()) return borders_of_type<std::uint64_t>(item, places, first);
    return borders_of_type<std::uint32_t>(item, places, first);
  }
  template <class Key>
  AnyBorders borders_of_type(const Item& item, const std::vector<ShardPlace>& places,
                             std::int64_t first) const {
    const KeyScale scale = item.scale_of_places();
    std::vector<Border<Key>> borders;
    borders.reserve(places.size());
    for (const auto& place : places) {
      const std::int64_t index = std::max<std::int64_t>(place.position - first, 0);
      const std::int64_t block = item.here.before(index);
      const Key key = scale.least_at<Key>(place.key);
      const Key ties = block > 0 ? scale.least_at<Key>(place.key + 1) : key;
      if (block < item.here.rows * item.here.columns) {
        borders.push_back({key, ties, block});
      } else {
        borders.push_back({ties, ties, 0});  // behind all that have the key
      }
    }
    return Borders<Key>(std::move(borders));
  }

  /// Whether an answer takes no look at the data.
  static bool is_known(const Asked& one) noexcept {
    const auto is_known_to = [&](const auto& found, const auto& borders) {
      return found.knows(borders) || one.item->counted.knows(borders);
    };
    if (one.item->is_wide()) {
      return is_known_to(std::get<1>(one.item->found), std::get<1>(one.borders));
    }
    return is_known_to(std::get<0>(one.item->found), std::get<0>(one.borders));
  }

  /// counts[i]: how many blocks come before border i.
  void answer(Asked& one, int lane, int lanes, std::int64_t* counts) noexcept {
    Item& item = *one.item;
    if (item.order.is_returning && item.past == 0) {
      std::fill_n(counts, one.size(), 0);  // nothing here comes back
      return;
    }
    if (item.is_wide()) {
      answer_of(item, std::get<1>(one.borders), std::get<1>(item.found), lane, lanes, counts);
    } else {
      answer_of(item, std::get<0>(one.borders), std::get<0>(item.found), lane, lanes, counts);
    }
    if (item.order.is_returning) return;
    for (std::size_t i = 0; i < one.size(); ++i) counts[i] += item.past;
  }

  template <class Key>
  void answer_of(Item& item, const Borders<Key>& borders, Candidates<Key>& found, int lane,
                 int lanes, std::int64_t* counts) noexcept {
    if (!found.knows(borders)) {
      if (item.counted.knows(borders)) {
        for (std::size_t i = 0; i < borders.size(); ++i) {
          counts[i] = item.counted.count_of(borders[i]);
        }
        return;
      }
      if (look_through(item, borders, found, lane, lanes, counts)) {
        for (std::size_t i = 0; i < borders.size(); ++i) item.counted.add(borders[i], counts[i]);
        return;
      }
    }
    for (std::size_t i = 0; i < borders.size(); ++i) counts[i] = found.before(borders[i]);
  }

  /// A pass over the data. Counts, and returns true; or, where there is room, keeps all keys from
  /// the first border to the last one.
  template <class Key>
  bool look_through(Item& item, const Borders<Key>& borders, Candidates<Key>& found, int lane,
                    int lanes, std::int64_t* counts) noexcept {
    const Key first = borders.first(), width = borders.end() - first;
    found.forget();
    std::atomic<std::int64_t> below{0}, used{0};
    const std::size_t bins = borders.size() + 1;
    std::int64_t* const of_lanes = bins_.data() + bins_.size() /
                                                      static_cast<std::size_t>(threads_) *
                                                      static_cast<std::size_t>(lane);
    std::fill_n(of_lanes, bins * static_cast<std::size_t>(lanes), 0);
    with_task_of<Key>(item, lane, lanes, [&](const Engine<Key>& own, const Task<Key>& task) {
      own.for_each_keys(
          task, [&](Lane<Key>& scratch, const Key* keys, std::int64_t n, std::int64_t begin) {
            int worker = 0;
            while (&task.lane(worker) != &scratch) ++worker;
            std::int64_t* const own_bins = of_lanes + bins * static_cast<std::size_t>(worker);
            const BracketCounts split = task.select.bracket(
                scratch.tile_keep.data(), scratch.wrong.data(), keys, n, first, first, width);
            below.fetch_add(n - split.kept, std::memory_order_relaxed);
            if (split.inside == 0) return;
            const std::int64_t at = used.fetch_add(split.inside, std::memory_order_relaxed);
            const bool is_kept = at + split.inside <= item.room;
            for (std::int64_t i = 0; i < split.inside; ++i) {
              const std::size_t place = scratch.wrong[static_cast<std::size_t>(i)];
              const Key key = keys[place];
              const std::int64_t block = begin + static_cast<std::int64_t>(place);
              if (is_kept) {
                found.some[at + i] = {key, block};
              }
              ++own_bins[borders.above(key, block)];
            }
          });
    });
    if (used <= item.room) {
      found.size = used;
      std::sort(found.some.get(), found.some.get() + found.size, [](const auto& a, const auto& b) {
        return a.key != b.key ? a.key < b.key : a.block < b.block;
      });
      found.first = first;
      found.end = borders.end();
      found.below = below;
      return false;
    }
    std::int64_t sum = below;
    for (std::size_t i = 0; i < borders.size(); ++i) {
      for (int w = 0; w < lanes; ++w) sum += of_lanes[bins * static_cast<std::size_t>(w) + i];
      counts[i] = sum;
    }
    return true;
  }

  // --- masks -------------------------------------------------------------------------------------

  void write_one(Item& item, int lane, int lanes) noexcept {
    if (item.cut.any()) {
      item.cut.write(item.whole_mask, item.kept.empty() ? nullptr : item.kept.data());
    }
    if (!item.has_blocks || item.is_loaded()) return;
    item.mask->pruning.quota.blocks = item.pruned;
    MaskJob job = item.job.mask;
    MaskPlan plan = *item.mask;
    plan.job = &job;
    CutHint hint;
    if (item.is_wide()) {
      write_of<std::uint64_t>(item, plan, job, hint, lane, lanes);
    } else {
      write_of<std::uint32_t>(item, plan, job, hint, lane, lanes);
    }
  }
  template <class Key>
  void write_of(const Item& item, const MaskPlan& plan, MaskJob& job, CutHint& hint, int lane,
                int lanes) noexcept {
    const auto& found = std::get<Candidates<Key>>(item.found);
    if (found.size > 0 && plan.grid().blocks() >= hinted_min) {  // lanes have room for no others
      hint = {plan.grid().blocks(), item.pruned, number_of(static_cast<Key>(item.stopped)),
              density_of(found.size, found.first, found.end)};
      job.hint = &hint;
    }
    prune_alone(engine<Key>(), table_, plan, lane, lanes, job.spec.monotone);
  }

  const Kernels& table_ = kernels();
  const int threads_;
  std::vector<ShardSearch> searches_;
  std::vector<std::unique_ptr<Item>> items_;
  std::int64_t carried_ = 0;  // rounds that cut blocks have taken
  bool has_begun_ = false;
  std::vector<std::int64_t> bins_;  // a number of them for each thread
  const std::shared_ptr<Engines> engines_ = engines_of_thread();
};

ShardParts::ShardParts(const std::vector<ShardJob>& jobs, const std::vector<ShardSearch>& searches)
    : impl_(std::make_unique<Impl>(jobs, searches)) {}
ShardParts::~ShardParts() = default;

std::vector<std::int64_t> ShardParts::prelude() {
  const DefaultFloatEnvironment environment;
  return impl_->prelude();
}
void ShardParts::begin(const std::vector<std::int64_t>& sums) { impl_->begin(sums); }
ShardSelection ShardParts::selection(std::int64_t most) const { return impl_->selection(most); }
std::vector<std::int64_t> ShardParts::count(const ShardSelection& selection) {
  const DefaultFloatEnvironment environment;
  return impl_->count(selection);
}
void ShardParts::find(const ShardSelection& selection) {
  const DefaultFloatEnvironment environment;
  impl_->find(selection);
}
std::int64_t ShardParts::pruned(std::size_t job) const noexcept { return impl_->pruned(job); }
void ShardParts::write(const std::vector<std::size_t>& some) noexcept {
  const DefaultFloatEnvironment environment;
  impl_->write(some);
}
void ShardParts::write() noexcept {
  std::vector<std::size_t> all(impl_->size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  write(all);
}

}  // namespace datasparse

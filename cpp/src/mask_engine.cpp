#include "mask_engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "kernels/kernels.hpp"
#include "matrix.hpp"
#include "parallel.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t tile_blocks_max = 4096;
constexpr std::int64_t tile_elements = 65536;  // so that a tile of wide blocks stays in the cache
constexpr std::int64_t small_block_max = 4096;
constexpr int radix_bits = 11;

template <class Key>
const SelectionKernels<Key>& selection_of(const Kernels& table) noexcept {
  if constexpr (sizeof(Key) == sizeof(std::uint32_t)) {
    return table.select32;
  } else {
    return table.select64;
  }
}

/// The score at which pruning stops: keys below it go, and the first `ties` of those that equal it.
template <class Key>
struct Cut {
  Key threshold;
  std::int64_t ties;
};

/// The k lowest of n keys in a buffer, 1 <= k <= n. Reorders them.
template <class Key>
Cut<Key> cut_of(Key* keys, std::int64_t n, std::int64_t k) noexcept {
  std::nth_element(keys, keys + (k - 1), keys + n);
  const Key threshold = keys[k - 1];
  return {threshold,
          k - std::count_if(keys, keys + k, [threshold](Key key) { return key < threshold; })};
}

/// Memory of one thread.
template <class Key>
struct Lane {
  std::unique_ptr<typename KeyTraits<Key>::Score[]> sums;
  std::unique_ptr<Key[]> keys, spare;
  std::unique_ptr<std::uint8_t[]> keep;
  std::unique_ptr<std::int64_t[]> counts;
  std::unique_ptr<std::int64_t[]> ties;  // by tile, of the matrix whose first lane this is

  void allocate(std::int64_t tiles) {
    constexpr auto room = static_cast<std::size_t>(std::max(tile_blocks_max, small_block_max));
    // Not value-initialised: every byte is written before it is read.
    sums.reset(new typename KeyTraits<Key>::Score[room]);
    keys.reset(new Key[room]);
    spare.reset(new Key[room]);
    keep.reset(new std::uint8_t[room]);
    counts.reset(new std::int64_t[std::size_t{1} << radix_bits]);
    ties.reset(new std::int64_t[static_cast<std::size_t>(tiles)]);
  }
};

/// The grid of blocks over a matrix that is at least one block in size, and its tiles.
struct Grid {
  Matrix matrix;
  std::int64_t height, width;    // of a block
  std::int64_t bands, per_band;  // rows of blocks, and blocks in each
  std::int64_t per_tile;

  Grid(const Matrix& m, std::int64_t block_height, std::int64_t block_width) noexcept
      : matrix(m), height(block_height), width(block_width) {
    const auto divide_up = [](std::int64_t a, std::int64_t b) {
      return a / b + (a % b != 0 ? 1 : 0);
    };
    bands = divide_up(m.rows(), height);
    per_band = divide_up(m.columns(), width);
    const auto by_elements = tile_elements / (height * width);
    per_tile = std::clamp<std::int64_t>(by_elements, 1, tile_blocks_max);
  }

  std::int64_t blocks() const noexcept { return bands * per_band; }
  std::int64_t tiles() const noexcept { return (blocks() + per_tile - 1) / per_tile; }
  std::int64_t tile_size(std::int64_t tile) const noexcept {
    return std::min(per_tile, blocks() - tile * per_tile);
  }

  /// Blocks of one band that lie side by side.
  struct Strip {
    std::int64_t row, rows;        // elements
    std::int64_t column, columns;  // elements
    std::int64_t first, blocks;    // first counts from the tile's beginning
  };

  /// Calls visit(Strip) for the strips that make up a tile, in order.
  template <class Visit>
  void for_each_strip(std::int64_t tile, const Visit& visit) const {
    const std::int64_t begin = tile * per_tile;
    const std::int64_t n = tile_size(tile);
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t band = (begin + done) / per_band;
      const std::int64_t block = (begin + done) % per_band;
      const std::int64_t count = std::min(n - done, per_band - block);
      const std::int64_t row = band * height;
      const std::int64_t column = block * width;
      visit(Strip{row, std::min(height, matrix.rows() - row), column,
                  std::min(count * width, matrix.columns() - column), done, count});
      done += count;
    }
  }
};

/// Where a mask is written: `pitch` bytes from one row to the next.
struct MaskWindow {
  std::uint8_t* bytes;
  std::int64_t pitch;

  std::uint8_t* at(std::int64_t row, std::int64_t column) const noexcept {
    return bytes + row * pitch + column;
  }
  void fill(std::int64_t rows, std::int64_t columns, std::uint8_t value) const noexcept {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memset(at(r, 0), value, static_cast<std::size_t>(columns));
    }
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
  /// Room for matrices of at most `shared_tiles` tiles on any lane, and of `tiles` tiles and
  /// `large_blocks` blocks of more than small_block_max elements from the first lane on.
  void allocate(const Kernels& table, int threads, std::int64_t shared_tiles, std::int64_t tiles,
                std::int64_t large_blocks) {
    table_ = &table;
    select_ = &selection_of<Key>(table);
    lanes_.resize(static_cast<std::size_t>(threads));
    for (auto& lane : lanes_) lane.allocate(&lane == &lanes_.front() ? tiles : shared_tiles);
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
    const Task task{grid, norm, mask, first_lane, threads};
    const bool all = quota.blocks == grid.blocks();
    const Cut<Key> cut = all ? Cut<Key>{} : find_cut(task, quota.blocks);

    const std::int64_t block_size = block_height * block_width;
    const bool whole = quota.zeros == block_size;
    const bool large = !whole && block_size > small_block_max;
    parallel_for(grid.tiles(), threads, [&](std::int64_t tile, int worker) {
      Lane<Key>& lane = lane_at(first_lane + worker);
      std::uint8_t* const keep = large ? block_keep_.get() + tile * grid.per_tile : lane.keep.get();
      if (all) {
        std::memset(keep, 0, static_cast<std::size_t>(grid.tile_size(tile)));
      } else {
        if (grid.tiles() > 1) score(task, tile, lane);  // a single tile still holds its keys
        select_->threshold(keep, lane.keys.get(), grid.tile_size(tile), cut.threshold,
                           ties_at(task, tile, cut));
      }
      if (large) return;
      if (whole) {
        write_blocks(task, tile, keep);
      } else {
        write_within_blocks(task, tile, keep, quota.zeros, lane);
      }
    });
    if (large) write_within_large_blocks(task, quota.zeros);
  }

 private:
  struct Task {
    const Grid& grid;
    Norm norm;
    MaskWindow mask;
    int first_lane, threads;
  };

  Lane<Key>& lane_at(int index) noexcept { return lanes_[static_cast<std::size_t>(index)]; }

  Kernels::Accumulate accumulate(const Task& task) const noexcept {
    return table_
        ->accumulate[static_cast<int>(task.grid.matrix.dtype())][static_cast<int>(task.norm)];
  }

  /// The keys of a tile's blocks, into lane.keys.
  void score(const Task& task, std::int64_t tile, Lane<Key>& lane) const noexcept {
    using Score = typename KeyTraits<Key>::Score;
    const Grid& grid = task.grid;
    const auto add = accumulate(task);
    std::fill_n(lane.sums.get(), grid.tile_size(tile), Score{0});
    grid.for_each_strip(tile, [&](const Grid::Strip& strip) {
      Score* const sums = lane.sums.get() + strip.first;
      for (std::int64_t r = 0; r < strip.rows; ++r) {
        grid.matrix.for_each_run(
            strip.row + r, strip.column, strip.columns,
            [&](const std::byte* data, std::ptrdiff_t stride, std::int64_t n, std::int64_t offset) {
              add(sums + offset / grid.width, data, stride, n, offset % grid.width, grid.width);
            });
      }
      Key* const keys = lane.keys.get() + strip.first;
      const std::int64_t full = strip.columns / grid.width;
      const std::int64_t rest = strip.columns % grid.width;
      select_->make_keys(keys, sums, full, strip.rows * grid.width);
      if (rest > 0) select_->make_keys(keys + full, sums + full, 1, strip.rows * rest);
    });
  }

  /// The cut that prunes the k lowest blocks, 1 <= k < blocks. Where it goes through ties, the
  /// first lane's `ties` then hold how many come before each tile.
  Cut<Key> find_cut(const Task& task, std::int64_t k) noexcept {
    const std::int64_t n = task.grid.blocks();
    if (task.grid.tiles() == 1) {
      Lane<Key>& lane = lane_at(task.first_lane);
      score(task, 0, lane);
      std::copy_n(lane.keys.get(), n, lane.spare.get());
      return cut_of(lane.spare.get(), n, k);
    }
    Key prefix = 0;
    std::int64_t left = k;   // blocks to prune among those with this prefix
    std::int64_t among = n;  // how many have it
    for (int low = KeyTraits<Key>::bits; low > 0;) {
      const int bits = std::min(radix_bits, low);
      low -= bits;
      const std::int64_t* const counts = count_buckets(task, prefix, low, bits);
      Key bucket = 0;
      for (; left > counts[bucket]; ++bucket) left -= counts[bucket];
      among = counts[bucket];
      prefix = (prefix << bits) | bucket;
    }
    if (left == among) return {prefix, std::numeric_limits<std::int64_t>::max()};
    count_ties(task, prefix);
    return {prefix, left};
  }

  /// The number of keys with that prefix in each bucket of the next bits, in the first lane's
  /// counts.
  std::int64_t* count_buckets(const Task& task, Key prefix, int shift, int bits) noexcept {
    const std::int64_t buckets = std::int64_t{1} << bits;
    const int used = static_cast<int>(std::min<std::int64_t>(task.threads, task.grid.tiles()));
    for (int w = 0; w < used; ++w)
      std::fill_n(lane_at(task.first_lane + w).counts.get(), buckets, 0);
    parallel_for(task.grid.tiles(), used, [&](std::int64_t tile, int worker) {
      Lane<Key>& lane = lane_at(task.first_lane + worker);
      score(task, tile, lane);
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

  void count_ties(const Task& task, Key threshold) noexcept {
    std::int64_t* const ties = lane_at(task.first_lane).ties.get();
    parallel_for(task.grid.tiles(), task.threads, [&](std::int64_t tile, int worker) {
      Lane<Key>& lane = lane_at(task.first_lane + worker);
      score(task, tile, lane);
      ties[tile] = select_->count_equal(lane.keys.get(), task.grid.tile_size(tile), threshold);
    });
    std::int64_t before = 0;
    for (std::int64_t tile = 0; tile < task.grid.tiles(); ++tile) {
      before += std::exchange(ties[tile], before);
    }
  }

  /// How many ties are still to be pruned from this tile on.
  std::int64_t ties_at(const Task& task, std::int64_t tile, const Cut<Key>& cut) const noexcept {
    const bool all = cut.ties == std::numeric_limits<std::int64_t>::max();
    if (task.grid.tiles() == 1 || all) return cut.ties;
    return cut.ties -
           lanes_[static_cast<std::size_t>(task.first_lane)].ties[static_cast<std::size_t>(tile)];
  }

  /// Pruned blocks become zeros, all others ones.
  static void write_blocks(const Task& task, std::int64_t tile, const std::uint8_t* keep) noexcept {
    const std::int64_t width = task.grid.width;
    task.grid.for_each_strip(tile, [&](const Grid::Strip& strip) {
      std::uint8_t* const first_row = task.mask.at(strip.row, strip.column);
      if (width == 1) {
        std::memcpy(first_row, keep + strip.first, static_cast<std::size_t>(strip.columns));
      } else {
        for (std::int64_t b = 0; b < strip.blocks; ++b) {
          const std::int64_t n = std::min(width, strip.columns - b * width);
          std::memset(first_row + b * width, keep[strip.first + b], static_cast<std::size_t>(n));
        }
      }
      for (std::int64_t r = 1; r < strip.rows; ++r) {
        std::memcpy(task.mask.at(strip.row + r, strip.column), first_row,
                    static_cast<std::size_t>(strip.columns));
      }
    });
  }

  /// In pruned blocks the `zeros` least elements become zeros, everything else ones.
  void write_within_blocks(const Task& task, std::int64_t tile, const std::uint8_t* keep,
                           std::int64_t zeros, Lane<Key>& lane) const noexcept {
    const std::int64_t width = task.grid.width;
    task.grid.for_each_strip(tile, [&](const Grid::Strip& strip) {
      const MaskWindow window{task.mask.at(strip.row, strip.column), task.mask.pitch};
      window.fill(strip.rows, strip.columns, 1);
      for (std::int64_t b = 0; b < strip.blocks; ++b) {
        if (keep[strip.first + b] != 0) continue;
        const std::int64_t column = b * width;
        const std::int64_t n = std::min(width, strip.columns - column);
        const Matrix block = task.grid.matrix.part(strip.row, strip.column + column, strip.rows, n);
        zero_least(task, block, zeros, {window.at(0, column), window.pitch}, lane);
      }
    });
  }

  /// Zeroes the `zeros` least elements of one block of at most small_block_max elements; its mask
  /// holds ones. Clobbers the lane's keys, not its keep.
  void zero_least(const Task& task, const Matrix& block, std::int64_t zeros, MaskWindow mask,
                  Lane<Key>& lane) const noexcept {
    const std::int64_t n = block.rows() * block.columns();
    const auto add = accumulate(task);
    std::fill_n(lane.sums.get(), n, typename KeyTraits<Key>::Score{0});
    for (std::int64_t r = 0; r < block.rows(); ++r) {
      auto* const sums = lane.sums.get() + r * block.columns();
      block.for_each_run(
          r, 0, block.columns(),
          [&](const std::byte* data, std::ptrdiff_t stride, std::int64_t count,
              std::int64_t offset) { add(sums + offset, data, stride, count, 0, 1); });
    }
    Key* const keys = lane.keys.get();
    select_->make_keys(keys, lane.sums.get(), n, 1);
    std::copy_n(keys, n, lane.spare.get());
    auto [threshold, ties] = cut_of(lane.spare.get(), n, std::min(zeros, n));
    for (std::int64_t r = 0, i = 0; r < block.rows(); ++r) {
      for (std::int64_t c = 0; c < block.columns(); ++c, ++i) {
        if (keys[i] < threshold || (keys[i] == threshold && ties-- > 0)) *mask.at(r, c) = 0;
      }
    }
  }

  /// The same for blocks that do not fit into a lane: each is a selection of its own.
  void write_within_large_blocks(const Task& task, std::int64_t zeros) noexcept {
    const Grid& grid = task.grid;
    for (std::int64_t block = 0; block < grid.blocks(); ++block) {
      const std::int64_t row = block / grid.per_band * grid.height;
      const std::int64_t column = block % grid.per_band * grid.width;
      const std::int64_t rows = std::min(grid.height, grid.matrix.rows() - row);
      const std::int64_t columns = std::min(grid.width, grid.matrix.columns() - column);
      const bool keep = block_keep_[static_cast<std::size_t>(block)] != 0;
      const Quota quota{keep ? 0 : std::min(zeros, rows * columns), 1};
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
  /// Room needed in Lane::ties, the selections within large blocks included.
  std::int64_t tiles() const noexcept {
    const Grid within(matrix.part(0, 0, height, width), 1, 1);
    return std::max(grid().tiles(), has_large_blocks() ? within.tiles() : 1);
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
    if (!alone) shared_tiles_ = std::max(shared_tiles_, plan.tiles());
    tiles_ = std::max(tiles_, plan.tiles());
    if (plan.has_large_blocks()) large_blocks_ = std::max(large_blocks_, plan.grid().blocks());
  }

  void allocate(const Kernels& table, int threads) {
    threads_ = elements_ < parallel_from ? 1 : threads;
    if (elements_ > 0) engine_.allocate(table, threads_, shared_tiles_, tiles_, large_blocks_);
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
  std::int64_t elements_ = 0, shared_tiles_ = 1, tiles_ = 1, large_blocks_ = 0;
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

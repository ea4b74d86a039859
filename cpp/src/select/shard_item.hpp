/// One part of a tensor, from the job to what is known of its blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/buffer.hpp"
#include "datasparse/error.hpp"
#include "datasparse/shard_parts.hpp"
#include "mask/mask_bits.hpp"
#include "mask/pattern.hpp"
#include "select/key_scale.hpp"
#include "select/mask_plan.hpp"
#include "select/shard_borders.hpp"
#include "select/shard_cut.hpp"

namespace datasparse {

/// A job, the part that is left of it between cut blocks, and what was found of both.
struct ShardItem {
  ShardJob job;
  std::optional<MaskPlan> mask;  // of data that have elements
  BlockRectangle here;
  bool has_blocks = false;  // that something may be pruned of
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

  /// ValueError for a part that does not fit the whole, or that cuts a block.
  explicit ShardItem(const ShardJob& of) : job(of), whole_mask(of.mask.mask) {
    if (job.mask.data.dtype() == DType::float64) found.emplace<1>();
    if (is_loaded() && job.mask.spec.monotone) {
      throw ValueError("data that are loaded must have no monotone mask");
    }
    const Pattern block = Pattern::of(job.mask.spec, whole());
    check(block);
    take_cut_blocks(block);
    const MatrixShape part = MatrixShape::of(job.mask.data.shape(), job.mask.layout);
    has_blocks = part.rows > 0 && part.columns > 0;
    if (!has_blocks) return;
    const auto up = [](std::int64_t n, std::int64_t by) { return Grid::divide_up(n, by); };
    here = {up(job.shard.columns, block.width), job.shard.row / block.height,
            job.shard.column / block.width, up(part.rows, block.height),
            up(part.columns, block.width)};
    look_at(job.mask.data);
    if (mask->is_permuted && job.mask.spec.monotone) {
      own_past.require(job.mask.data.size());
      std::memcpy(own_past.get(), job.mask.mask, static_cast<std::size_t>(job.mask.data.size()));
    }
  }
  ShardItem(const ShardItem&) = delete;
  ShardItem& operator=(const ShardItem&) = delete;

  bool is_wide() const noexcept { return found.index() == 1; }
  bool is_loaded() const noexcept { return job.source != nullptr; }
  bool counts() const noexcept { return has_blocks && job.shard.counts; }
  std::int64_t blocks() const noexcept { return has_blocks ? mask->grid().blocks() : 0; }
  KeyScale scale_of_places() const noexcept { return order.by_own_keys ? KeyScale() : scale; }

  /// Loads the data, and has them to look through for as long as the pin is there. ValueError for
  /// data of another kind than was said.
  void load(std::optional<Pin>& pin) {
    pin.emplace(*job.source);
    const ArrayView &loaded = pin->view(), &said = job.mask.data;
    if (loaded.shape() != said.shape() || loaded.dtype() != said.dtype() ||
        loaded.strides() != said.strides()) {
      throw ValueError("loaded data must be in C order, and have the shape " +
                       to_string(said.shape()) + " and the dtype that was said, got shape " +
                       to_string(loaded.shape()));
    }
    look_at(loaded);
  }
  /// Forgets what was found in another order.
  void rank_by(const ShardOrder& other) noexcept {
    if (order.is_returning != other.is_returning) {
      std::visit([](auto& some) { some.forget(); }, found);
      counted.clear();
    }
    order = other;
  }

 private:
  MatrixShape whole() const noexcept { return {job.shard.rows, job.shard.columns}; }

  void look_at(const ArrayView& data) {
    job.mask.data = data;
    mask.emplace(job.mask.view());
    mask->has_single_elements = Pattern::of(job.mask.spec, whole()).size() == 1;
    // Whether the layout matters was asked of the whole tensor.
    if (job.mask.layout.size() == 0) return;
    mask->pruning.matrix = Matrix(data, job.mask.layout);
    mask->is_permuted = !keeps_order(data.shape(), job.mask.layout);
  }

  static std::string text(std::int64_t a, std::int64_t b) {
    return "(" + std::to_string(a) + ", " + std::to_string(b) + ")";
  }

  /// ValueError unless the part fits the whole, and cuts no block.
  void check(const Pattern& block) const {
    const Shard& shard = job.shard;
    const MatrixShape part = MatrixShape::of(job.mask.data.shape(), job.mask.layout);
    const auto fits = [](std::int64_t begin, std::int64_t n, std::int64_t all) {
      return begin >= 0 && n >= 0 && begin <= all - n;
    };
    if (!fits(shard.row, part.rows, shard.rows) ||
        !fits(shard.column, part.columns, shard.columns)) {
      throw ValueError("shard must lie within a matrix of shape " +
                       text(shard.rows, shard.columns) + ", got " + text(part.rows, part.columns) +
                       " from " + text(shard.row, shard.column) + " on");
    }
    const auto is_edge = [](std::int64_t at, std::int64_t all, std::int64_t length) {
      return at == all || at % length == 0;
    };
    const auto is_row = [&](std::int64_t row) {
      return is_edge(row, shard.rows, block.height) ||
             std::find(job.cuts.begin(), job.cuts.end(), row) != job.cuts.end();
    };
    if (part.rows == 0 || part.columns == 0) return;
    if (!is_row(shard.row) || !is_row(shard.row + part.rows) ||
        !is_edge(shard.column, shard.columns, block.width) ||
        !is_edge(shard.column + part.columns, shard.columns, block.width)) {
      throw ValueError("shard must not cut blocks of " + text(block.height, block.width) +
                       ", got rows " + std::to_string(shard.row) + " to " +
                       std::to_string(shard.row + part.rows) + " and columns " +
                       std::to_string(shard.column) + " to " +
                       std::to_string(shard.column + part.columns) + " of " +
                       text(shard.rows, shard.columns) + "; cut at multiples of the block");
    }
  }

  /// Leaves what lies between cut blocks as the job.
  void take_cut_blocks(const Pattern& block) {
    Shard& shard = job.shard;
    auto bands = cut_bands(whole(), block.height, job.cuts);
    if (bands.empty()) return;
    auto& own = job.mask;
    const MatrixShape part = MatrixShape::of(own.data.shape(), own.layout);
    const bool in_order = own.layout.size() == 0 || keeps_order(own.data.shape(), own.layout);
    if (block.zeros != block.size() || !in_order || is_loaded()) {
      throw ValueError(
          "blocks that are cut between rows must be pruned as a whole, in the order "
          "of memory, got blocks of " +
          text(block.height, block.width) + " that lose " + std::to_string(block.zeros) +
          " elements; cut at multiples of the block");
    }
    cut = CutBlocks(std::move(bands), Matrix(own.data, own.layout), whole(), block, shard.row,
                    shard.column / block.width);
    if (part.rows == 0 || part.columns == 0) return;
    const auto edge = [&](std::int64_t band) { return std::min(band * block.height, shard.rows); };
    const std::int64_t end = shard.row + part.rows;
    const std::int64_t first = edge(Grid::divide_up(shard.row, block.height));
    const std::int64_t last = std::max(first, end == shard.rows ? end : edge(end / block.height));
    const std::int64_t begin = (first - shard.row) * part.columns;
    const std::int64_t n = (last - first) * part.columns;
    if (own.kept_zeros != nullptr) {
      kept.resize(static_cast<std::size_t>(own.data.size()));
      unpack_bits(kept.data(), own.kept_zeros, own.data.size());
      kept_between.resize(packed_size(n));
      pack_bits(kept_between.data(), kept.data() + begin, n);
      own.kept_zeros = kept_between.data();
    }
    Axes shape;
    for (const std::int64_t length : own.data.shape()) {
      shape.push_back(shape.size() == 0 ? last - first : length);
    }
    auto* const data = static_cast<std::byte*>(own.data.data());
    own.data = ArrayView(data + (first - shard.row) * own.data.strides()[0], own.data.dtype(),
                         shape, own.data.strides(), true);
    own.mask += begin;
    shard.row = first;
  }
};

}  // namespace datasparse

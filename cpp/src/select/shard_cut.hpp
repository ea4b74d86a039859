/// Blocks that parts of a tensor cut between rows. Their sums are carried from one part to the
/// next, so that each element is added in the order in which one machine adds them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "datasparse/shard_selection.hpp"
#include "kernels/kernels.hpp"
#include "mask/pattern.hpp"
#include "select/key_scale.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {

/// A row of blocks that is cut, and the rows at which its pieces begin, and the last one ends.
struct CutBand {
  std::int64_t band;
  std::vector<std::int64_t> borders;

  std::int64_t pieces() const noexcept { return static_cast<std::int64_t>(borders.size()) - 1; }
};

/// Those of a tensor whose parts begin at some rows: the same for all who have a part.
inline std::vector<CutBand> cut_bands(const MatrixShape& whole, std::int64_t height,
                                      const std::vector<std::int64_t>& cuts) {
  std::vector<CutBand> bands;
  for (const std::int64_t row : cuts) {
    if (row <= 0 || row >= whole.rows || row % height == 0) continue;
    const std::int64_t band = row / height;
    if (bands.empty() || bands.back().band != band) {
      bands.push_back({band, {band * height, std::min((band + 1) * height, whole.rows)}});
    }
    auto& borders = bands.back().borders;
    if (borders[borders.size() - 2] != row) borders.insert(borders.end() - 1, row);
  }
  return bands;
}

/// The cut blocks of one tensor, as one part sees them. The whole pattern is pruned in each.
class CutBlocks {
 public:
  CutBlocks() = default;
  /// `matrix`: the part; its first row and block of a row among those of the whole.
  CutBlocks(std::vector<CutBand> bands, const Matrix& matrix, const MatrixShape& whole,
            const Pattern& block, std::int64_t first_row, std::int64_t first_block)
      : bands_(std::move(bands)),
        matrix_(matrix),
        whole_(whole),
        block_(block),
        per_row_((whole.columns + block.width - 1) / block.width),
        first_block_(first_block),
        blocks_((matrix.columns() + block.width - 1) / block.width) {
    const std::int64_t end = first_row + matrix.rows();
    for (std::size_t k = 0; k < bands_.size(); ++k) {
      const auto& borders = bands_[k].borders;
      rounds_ = std::max(rounds_, bands_[k].pieces());
      for (std::int64_t t = 0; t < bands_[k].pieces(); ++t) {
        const auto at = static_cast<std::size_t>(t);
        if (borders[at] < first_row || borders[at + 1] > end || blocks_ == 0) continue;
        pieces_.push_back({k, t, borders[at] - first_row, borders[at + 1] - borders[at],
                           t + 1 == bands_[k].pieces()});
      }
    }
    running_.resize(slots());
    pruned_before_.resize(slots());
  }

  struct Piece {
    std::size_t band;                // which of the cut ones
    std::int64_t number, row, rows;  // `row`: of the part
    bool is_last;
  };
  /// A block of a piece.
  struct Block {
    std::uint64_t key;   // its own one
    std::int64_t index;  // in the whole tensor
    bool is_counted;     // here, and nowhere else
    bool was_pruned;     // by the mask before
    bool is_pruned;      // at last
    std::size_t piece;
  };

  bool any() const noexcept { return !bands_.empty(); }
  /// How many numbers tell something of each cut block.
  std::size_t slots() const noexcept { return bands_.size() * static_cast<std::size_t>(per_row_); }
  std::int64_t rounds() const noexcept { return rounds_; }
  const std::vector<Piece>& pieces() const noexcept { return pieces_; }
  std::vector<Block>& blocks() noexcept { return all_; }
  const std::vector<Block>& blocks() const noexcept { return all_; }

  /// Adds the pieces of that number to the sums of those before, as bits.
  void add(const Kernels& table, Norm norm, std::int64_t number, std::int64_t* numbers) {
    for (const Piece& piece : pieces_) {
      if (piece.number != number) continue;
      if (matrix_.dtype() == DType::float64) {
        add_piece<double, std::uint64_t>(table, norm, piece, numbers);
      } else {
        add_piece<float, std::uint32_t>(table, norm, piece, numbers);
      }
    }
  }
  /// Takes what all have made of the pieces of one number.
  void take(std::int64_t number, const std::int64_t* numbers) {
    for (std::size_t k = 0; k < bands_.size(); ++k) {
      if (bands_[k].pieces() <= number) continue;
      const std::size_t first = k * static_cast<std::size_t>(per_row_);
      for (std::size_t i = first; i < first + static_cast<std::size_t>(per_row_); ++i) {
        running_[i] = static_cast<std::uint64_t>(numbers[i]);
      }
    }
  }
  /// How many elements of each block the mask before has pruned, of those that this part has.
  void count_past(const std::uint8_t* mask, const std::uint8_t* kept, std::int64_t* numbers) const {
    for (const Piece& piece : pieces_) {
      for_each_cell(piece, [&](std::int64_t cell, std::size_t slot) {
        if (mask[cell] == 0 && (kept == nullptr || kept[cell] == 0)) ++numbers[slot];
      });
    }
  }
  void take_past(const std::int64_t* numbers) {
    std::copy_n(numbers, slots(), pruned_before_.begin());
  }

  /// How many of the blocks that are counted here come before a place.
  std::int64_t count_before(const ShardPlace& place, const ShardOrder& order,
                            const KeyScale& scale) const noexcept {
    return std::count_if(all_.begin(), all_.end(), [&](const Block& block) {
      return block.is_counted && is_before(block, place, order, scale);
    });
  }
  std::int64_t counted() const noexcept {
    return std::count_if(all_.begin(), all_.end(), [](const Block& b) { return b.is_counted; });
  }
  std::int64_t counted_past() const noexcept {
    return std::count_if(all_.begin(), all_.end(),
                         [](const Block& b) { return b.is_counted && b.was_pruned; });
  }
  /// Prunes what comes before a place.
  void prune(const ShardPlace& place, const ShardOrder& order, const KeyScale& scale) noexcept {
    for (Block& block : all_) block.is_pruned = is_before(block, place, order, scale);
  }

  /// Makes the blocks of the pieces here, once all sums are there.
  template <class Key>
  void make_keys(const SelectionKernels<Key>& select, bool counts) {
    using Score = typename KeyTraits<Key>::Score;
    all_.clear();
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      const Piece& piece = pieces_[p];
      const std::int64_t rows =
          bands_[piece.band].borders.back() - bands_[piece.band].borders.front();
      for (std::int64_t b = 0; b < blocks_; ++b) {
        const std::int64_t column = (first_block_ + b) * block_.width;
        const std::int64_t columns = std::min(block_.width, whole_.columns - column);
        const std::size_t slot = slot_of(piece, b);
        Score sum;
        const Key bits = static_cast<Key>(running_[slot]);
        std::memcpy(&sum, &bits, sizeof(sum));
        Key key;
        select.make_keys(&key, &sum, 1, rows * columns);
        all_.push_back({key, bands_[piece.band].band * per_row_ + first_block_ + b,
                        counts && piece.is_last, pruned_before_[slot] > 0, false, p});
      }
    }
  }

  /// Writes the pieces' bytes of a mask.
  void write(std::uint8_t* mask, const std::uint8_t* kept) const noexcept {
    std::size_t first = 0;
    for (const Piece& piece : pieces_) {
      for_each_cell(piece, [&](std::int64_t cell, std::size_t slot) {
        const std::size_t b = slot - slot_of(piece, 0);
        const bool zero = all_[first + b].is_pruned || (kept != nullptr && kept[cell] != 0);
        mask[cell] = zero ? 0 : 1;
      });
      first += static_cast<std::size_t>(blocks_);
    }
  }

 private:
  /// What the mask before has pruned comes first; where some of it comes back, nothing else counts.
  bool is_before(const Block& block, const ShardPlace& place, const ShardOrder& order,
                 const KeyScale& scale) const noexcept {
    if (block.was_pruned != order.is_returning) return block.was_pruned;
    const std::uint64_t key = matrix_.dtype() == DType::float64
                                  ? scale.of(block.key)
                                  : scale.of(static_cast<std::uint32_t>(block.key));
    return ShardPlace{key, block.index} < place;
  }

  std::size_t slot_of(const Piece& piece, std::int64_t block) const noexcept {
    return piece.band * static_cast<std::size_t>(per_row_) +
           static_cast<std::size_t>(first_block_ + block);
  }
  /// Calls visit(cell, slot) for the elements of a piece, numbered as the part's rows lie.
  template <class Visit>
  void for_each_cell(const Piece& piece, const Visit& visit) const {
    for (std::int64_t r = piece.row; r < piece.row + piece.rows; ++r) {
      for (std::int64_t c = 0; c < matrix_.columns(); ++c) {
        visit(r * matrix_.columns() + c, slot_of(piece, c / block_.width));
      }
    }
  }

  template <class Score, class Key>
  void add_piece(const Kernels& table, Norm norm, const Piece& piece, std::int64_t* numbers) {
    std::vector<Score> sums(static_cast<std::size_t>(blocks_));
    const std::size_t first = slot_of(piece, 0);
    for (std::size_t b = 0; b < sums.size(); ++b) {
      const Key bits = piece.number == 0 ? Key{0} : static_cast<Key>(running_[first + b]);
      std::memcpy(&sums[b], &bits, sizeof(bits));
    }
    const auto accumulate =
        table.accumulate[static_cast<int>(matrix_.dtype())][static_cast<int>(norm)];
    for (std::int64_t r = piece.row; r < piece.row + piece.rows; ++r) {
      matrix_.for_each_run(
          r, 0, matrix_.columns(),
          [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t n, std::int64_t offset) {
            accumulate(sums.data() + offset / block_.width, run, stride, n, offset % block_.width,
                       block_.width);
          });
    }
    for (std::size_t b = 0; b < sums.size(); ++b) {
      Key bits;
      std::memcpy(&bits, &sums[b], sizeof(bits));
      numbers[first + b] = static_cast<std::int64_t>(std::uint64_t{bits});
    }
  }

  std::vector<CutBand> bands_;
  Matrix matrix_{ArrayView()};
  MatrixShape whole_{};
  Pattern block_{};
  std::int64_t per_row_ = 0, first_block_ = 0, blocks_ = 0, rounds_ = 0;
  std::vector<Piece> pieces_;
  std::vector<std::uint64_t> running_;  // by slot: the sums so far, as bits
  std::vector<std::int64_t> pruned_before_;
  std::vector<Block> all_;
};

}  // namespace datasparse

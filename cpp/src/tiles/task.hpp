/// What the mask engine is asked for.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/kernels.hpp"
#include "select/cut_hint.hpp"
#include "select/limits.hpp"
#include "select/selection.hpp"
#include "tiles/choice.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/matrix.hpp"
#include "tiles/scorer.hpp"

namespace datasparse {

struct Quota {
  std::int64_t blocks;  // how many are pruned
  std::int64_t zeros;   // in each of them
};

/// What to prune from a matrix, in numbers.
struct Pruning {
  Matrix matrix;
  Norm norm;
  std::int64_t height = 1, width = 1;  // of a block
  Quota quota{};
  Choice choice{};  // of regrowth
};

/// Where a mask goes, and what else there is to know about it.
struct Target {
  MaskWindow mask;
  bool read_again = false;        // soon: then it stays in the cache
  MaskWindow past{};              // in the same order: see past.hpp; or no bytes
  CutHint* hint = nullptr;        // or none
  std::uint64_t* last = nullptr;  // or where the key goes that is pruned last, if some are not
};

/// One matrix to be pruned. Key: see scorer.hpp.
template <class Key>
struct Task {
  const Kernels& table;
  const SelectionKernels<Key>& select;
  const Grid& grid;
  Scorer<Key> scorer;
  Quota quota;
  Choice choice;
  MaskWindow mask;
  bool read_again;
  MaskWindow past;
  bool returning;       // only what was pruned is: some of it comes back
  CutHint* hint;        // or nullptr
  std::uint64_t* last;  // or nullptr
  Findings<Key> found;
  const std::unique_ptr<Lane<Key>>* lanes;  // one for each thread
  int threads;

  Lane<Key>& lane(int thread) const noexcept { return *lanes[thread]; }
  std::int64_t block_size() const noexcept { return grid.height * grid.width; }
  bool whole() const noexcept { return quota.zeros == block_size(); }
  bool large() const noexcept { return !whole() && block_size() > small_block_max; }
  /// A mask that would not stay in a cache need not go through it.
  Store store() const noexcept {
    const bool large = grid.matrix.rows() * grid.matrix.columns() >= past_cache_from;
    return large && !read_again ? Store::past_cache : Store::ordinary;
  }
  /// Whether there is a mask to be written: else a pass just counts.
  bool writes() const noexcept { return mask.bytes != nullptr; }
  /// Whether it counts what the mask before has pruned.
  bool has_past() const noexcept { return past.bytes != nullptr; }
  /// Whether some blocks may not be chosen: see eligible.hpp.
  bool chooses_among_some() const noexcept { return has_past() || choice.is_made(); }
  /// Whether these stay pruned.
  bool prunes_others() const noexcept { return has_past() && !returning; }
  /// Whether what is decided on the blocks is the mask itself.
  bool direct() const noexcept {
    return block_size() == 1 && mask.pitch == grid.matrix.columns() && !choice.is_made();
  }
  MaskWindow window(const Grid::Rectangle& elements) const noexcept {
    return {mask.at(elements.row, elements.column), mask.pitch};
  }
};

}  // namespace datasparse

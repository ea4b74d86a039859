/// Parts of tensors in the memory of this process: they answer what a ShardSelection asks, and get
/// their masks by what it has found.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/data_source.hpp"
#include "datasparse/mask_rule.hpp"
#include "datasparse/shard_selection.hpp"

namespace datasparse {

/// A rectangle of a matrix that lies here: the matrix of the whole tensor, by its layout. It begins
/// at the edge of a block, and ends at one, or with the matrix, but for ShardJob::cuts.
struct Shard {
  std::int64_t rows, columns;        ///< of the whole matrix
  std::int64_t row = 0, column = 0;  ///< of the rectangle's first element
  /// False for a copy of what is counted elsewhere. It gets its mask all the same.
  bool counts = true;
};

/// The mask of a part. `mask.data` is the part, and `mask.spec` has the block in numbers, within
/// the whole matrix; its level and pool are of no account: searches have those.
struct ShardJob {
  JobOf<BlockSpec> mask;
  Shard shard;
  /// Rows of the whole matrix at which parts begin within a block: the same for all who have parts,
  /// ascending. The whole of a cut block is pruned or nothing, and the layout is that of memory.
  std::vector<std::int64_t> cuts = {};
  /// Where the data are loaded from, each time that they are looked through, one part at a time, if
  /// memory does not hold all of them; `mask.data` then has their shape and dtype, in C order, and
  /// its pointer is of no account. nullptr: they are there. Such a part is told how much it loses,
  /// by pruned(), and has no mask to be written.
  std::shared_ptr<DataSource> source = nullptr;
};

/// The parts that one process has of the groups of some searches.
///
///     ShardParts parts(jobs, searches);       // a job for each group, in order
///     for (auto numbers = parts.prelude(); !numbers.empty(); numbers = parts.prelude()) {
///       sum(numbers);                         // over all who have parts
///       parts.begin(numbers);
///     }
///     ShardSelection selection = parts.selection();
///     while (!selection.done()) {
///       numbers = parts.count(selection);
///       sum(numbers);
///       selection.tell(numbers);
///     }
///     parts.find(selection);                  // the last thing that can fail
///     parts.write();
///
/// The masks are those of block_mask() and of pools on whole tensors, to the bit. No mask is
/// changed before write(). Data, masks and layouts must stay as they are until then.
///
/// Cost: one or two passes over the data where hints are right, two to four where there are none,
/// and one more to write the masks. Memory while it counts: 1% of the data and 0.75 MiB for keys
/// that are kept, some 20 bytes for each of up to 32,768 places, and 8 for each place of a question
/// and thread, besides the scratch memory of block_mask(). From one thread; uses those of
/// get_num_threads().
class DATASPARSE_API ShardParts {
 public:
  /// ValueError for a shard that its data do not fit, or that cuts a block, and for a search of a
  /// group that has no job.
  ShardParts(const std::vector<ShardJob>& jobs, const std::vector<ShardSearch>& searches);
  ~ShardParts();
  ShardParts(const ShardParts&) = delete;
  ShardParts& operator=(const ShardParts&) = delete;

  /// What must be known of all parts before the first question: the sums of blocks that are cut,
  /// from one part to the next; how many blocks monotone masks have pruned; the squares of scores
  /// that are divided by their norm. To be asked until there is nothing, mostly at once.
  std::vector<std::int64_t> prelude();
  /// Takes the sums of that. ValueError for more or fewer of them, which changes nothing.
  void begin(const std::vector<std::int64_t>& sums);
  /// The selection that answers are for: of the searches, and of what begin() was told.
  ShardSelection selection(std::int64_t most = 8192) const;
  /// The numbers for all questions of a round. ValueError for a selection of other groups.
  std::vector<std::int64_t> count(const ShardSelection& selection);
  /// Finds out how many of its lowest blocks each part loses. selection.done() must hold.
  void find(const ShardSelection& selection);
  /// How many of its lowest blocks a part loses.
  std::int64_t pruned(std::size_t job) const noexcept;
  /// Writes the masks of these jobs, by their places.
  void write(const std::vector<std::size_t>& some) noexcept;
  /// Writes all of them.
  void write() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace datasparse

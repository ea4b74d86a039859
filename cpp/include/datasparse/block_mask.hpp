/// The stateless operation at the heart of the library: scores in, mask out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/field.hpp"
#include "datasparse/param.hpp"

namespace datasparse {

/// How a block is scored: by the mean of |x| (L1), of x·x (L2), or of x itself (none) over its
/// elements. None is for scores whose sign counts, such as movement scores.
enum class Norm : std::uint8_t { L1, L2, none };

/// What to prune: how much, in what pattern, and by what score. A value type; check() makes it safe
/// to use.
struct DATASPARSE_API BlockSpec {
  double sparsity_level = 0.5;                  ///< share of the blocks that are pruned, in [0, 1]
  std::int64_t block_height = 1;                ///< 1 to 2^60, or -1 for the whole first axis
  std::int64_t block_width = 4;                 ///< likewise, or -1 for all other axes together
  std::optional<std::int64_t> zeros_per_block;  ///< in [0, height × width]; none: the whole block
  Norm norm = Norm::L1;
  /// What a group's mask prunes already ranks below everything else: it stays pruned while the
  /// level rises, and when the level falls, the highest come back. For DataNormSparsifier;
  /// block_mask() knows no mask before.
  bool monotone = false;
  std::int64_t min_kept = 0;  ///< blocks that are kept whatever the level, 0 or more
  /// Groups with the same name here share one threshold: pool.hpp. Empty: each by itself. For
  /// DataNormSparsifier.
  std::string pool = {};
  double min_level = 0;  ///< share of the blocks that are pruned at least, in [0, max_level]
  double max_level = 1;  ///< and at the most, in [0, 1]
  /// Whether a pool divides the scores of the group by their L2 norm.
  bool normalize = false;

  /// The config keys.
  static const Fields<BlockSpec>& fields();
  /// The spec that a config map describes; keys that are absent keep their defaults above.
  /// TypeError or ValueError, naming `group`, for a value of the wrong kind or out of range, and
  /// for keys that are not among fields().
  static BlockSpec from_config(const ParamMap& config, const std::string& group = "");
  /// Sets the member that a config key stands for; false for any other key, which is then ignored.
  /// TypeError or ValueError, naming `group`, for a value of the wrong kind.
  bool set(const std::string& key, const ParamValue& value, const std::string& group = "");
  /// The inverse of from_config. All from `monotone` on are left out where they are the defaults:
  /// configs of older versions do not have them.
  ParamMap to_config() const;

  /// The spec for data of that shape: −1 axes and an absent zeros_per_block are filled in.
  /// ValueError from check(), or where zeros_per_block exceeds the block.
  BlockSpec resolved(const Axes& shape, const std::string& group = "") const;

  /// ValueError unless every field is in its range.
  void check(const std::string& group = "") const;
};

/// How many elements a mask zeroes. The two differ where blocks are partial, at the edges, and so
/// have fewer elements to zero: then it depends on the data which blocks are pruned. For a group of
/// a sparsifier they differ, too, where zeros stay: these may be among those that the rule prunes.
struct ZeroCount {
  std::int64_t least = 0, most = 0;

  friend bool operator==(const ZeroCount& a, const ZeroCount& b) {
    return a.least == b.least && a.most == b.most;
  }
};

/// The zeros of many masks.
struct ZeroCounts {
  std::vector<ZeroCount> groups;

  struct Pool {
    std::string name;
    std::vector<std::size_t> groups;  ///< their places among all
    ZeroCount zeros;                  ///< of all of them together
  };
  std::vector<Pool> pools;
};

/// How many zeros block_mask() puts into the mask of data of that shape. ValueError from
/// BlockSpec::check and resolved. O(1).
DATASPARSE_API ZeroCount count_zeros(const Axes& shape, const BlockSpec& spec);

/// Writes the mask of `data`: 1 keeps, 0 prunes, one byte per element, in C order of data's shape.
///
/// The data are seen as a matrix: rows are the first axis, columns all others; one axis of N is
/// 1 × N, none is 1 × 1. The matrix is cut into blocks from the origin, partial at the edges. Every
/// block is scored by the mean of |x|, x·x or x over the elements that exist, summed row-major one
/// after another in float32 (float64 for float64 data). The sparsity_level × blocks lowest ones,
/// rounded half to even, but never more than leave min_kept, are pruned: NaN ranks above
/// everything, −0 is +0, ties go to the lower block index. In a pruned block the zeros_per_block
/// elements of least |x|, x·x or x are zeroed, NaN last, ties in row-major order.
///
/// The mask is a pure function of data and spec: identical bits for every thread count, instruction
/// set, run and machine, whatever the process has set for denormals and rounding.
///
/// @param data  any dtype, shape and strides; read only. Must not overlap `mask`.
/// @param mask  data.size() bytes.
/// Errors: ValueError from BlockSpec::check and resolved; bad_alloc; nothing is written then.
/// Cost: O(n) in time; scratch memory of about 1 MiB a thread, and 10% of the data at the most. The
/// calling thread keeps up to 64 MiB of it for the next call. N:M down the columns of data of two
/// axes may take a byte per element more: where all blocks lose some of their elements, and are
/// longer than 16, or fewer than 16 side by side. Thread-safe for different masks; uses the threads
/// of get_num_threads(). Formula: PyTorch's DataNormSparsifier (torch.ao.pruning), with ties, NaN
/// and shapes defined.
DATASPARSE_API void block_mask(const ArrayView& data, const BlockSpec& spec, std::uint8_t* mask);

}  // namespace datasparse

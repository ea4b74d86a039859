/// Where tensors lie, and what works on them there.
#pragma once

#include <cstdint>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/mask.hpp"
#include "datasparse/mask_rule.hpp"

namespace datasparse {

/// The memory of a kind of device, and the work that is done in it. A DataSource names the one of
/// its tensor. All that a DataNormSparsifier does with data asks it, since the pointer of a view
/// may be no address of this process. Masks are bytes in the memory of this process.
///
/// One object per kind of memory, which outlives every source. Calls come from any thread, those
/// for one sparsifier one after the other.
class DATASPARSE_API Device {
 public:
  virtual ~Device() = default;

  /// Computes all masks by the rule of block_mask(), to the bit, or throws.
  virtual void compute(const std::vector<JobOf<BlockSpec>>& jobs) = 0;
  /// Writes +0 where the mask is 0, which has a byte for each element. The view may be written to.
  virtual void zero(const ArrayView& data, const std::uint8_t* mask) = 0;
  /// A set bit for each element that is 0 or -0, packed as Mask::pack() packs.
  virtual PackedBits zeros_in(const ArrayView& data) = 0;
  /// How many elements are 0 or -0 where the mask is 0.
  virtual std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) = 0;
};

/// The memory of this process. Where its calls throw, nothing was written.
DATASPARSE_API Device& cpu() noexcept;

}  // namespace datasparse

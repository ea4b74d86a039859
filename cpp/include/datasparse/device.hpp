/// Where tensors and their masks lie, and what works on them there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/mask.hpp"
#include "datasparse/mask_rule.hpp"

namespace datasparse {

struct RegrowthSpec;

/// The memory of a kind of device, and the work that is done in it. A DataSource names the one of
/// its tensor. All that a DataNormSparsifier does with data and masks asks it, since the pointer of
/// a view may be no address of this process: the source and its device alone know what it means.
///
/// One object per kind of memory, which outlives every source and mask. Calls come from any thread,
/// those for one sparsifier one after the other. Whatever throws has changed nothing. A device may
/// go on working after a call has returned, as long as its calls seem to come one after the other.
class DATASPARSE_API Device {
 public:
  /// What a mask is to become, in whatever form the device likes best.
  using Content = std::shared_ptr<DeviceMask>;

  virtual ~Device();

  /// "cpu", "cuda:0": for messages.
  virtual std::string name() const = 0;

  // --- devices that compute together ----------------------------------------------------------

  /// The one that computes for this device. Where it is the same one for several, their jobs go
  /// into one call of compute(), in the order of groups: then processes that have parts of the same
  /// tensors make the same calls, in the same order.
  virtual Device& together() { return *this; }
  /// Goes on once all processes that compute together have come here, with the same hashes of first
  /// masks, which each of them draws by itself. Throws where one has given up, or has others.
  virtual void meet(const std::vector<std::uint64_t>& drawn);
  /// Called in a handler of an exception that ends a step: tells the other processes, unless the
  /// exception comes from what they do together, and they know.
  virtual void give_up() noexcept {}

  // --- data -----------------------------------------------------------------------------------

  /// The masks of all jobs by the rule of block_mask(), to the bit; what the masks are now is only
  /// read. The CPU writes into the masks of its jobs instead, and returns nothing: its engine fails
  /// before the first byte, or not at all, and so needs no second mask.
  virtual std::vector<Content> compute(const std::vector<JobOf<BlockSpec>>& jobs) = 0;
  /// Whether compute() takes jobs whose data and masks are elsewhere, as JobOf::device says, where
  /// they share a pool with some that are here: their contents are for the device of the mask.
  virtual bool spans_devices() const { return false; }
  /// Where all of a job lies in memory of this process: makes it one of the CPU's, whose engine
  /// writes into the mask. `kept_zeros` are then in `kept`. Else false, and the job is as it was.
  virtual bool lend(JobOf<BlockSpec>& job, PackedBits& kept);

  /// What a mask that moves is to become.
  struct Moved {
    Content mask, ever_active;
    Content grown;  ///< marks with 1 what is to become +0
  };
  /// The masks of all jobs by the rule of RegrowthSparsifier, to the bit, of jobs that do not draw;
  /// what there is now is only read. By default, a TypeError that says it moves none.
  virtual std::vector<Moved> move(const std::vector<JobOf<RegrowthSpec>>& jobs);
  struct Growing {
    ArrayView weights;
    Content grown;
  };
  /// Writes +0 over what move() has marked, once nothing may fail any more.
  virtual void zero_grown(const std::vector<Growing>& some) noexcept;

  struct Zeroing {
    ArrayView data;    ///< may be written to
    const Mask* mask;  ///< of this device, and of the same shape
  };
  /// Writes +0 wherever the mask is 0.
  virtual void zero(const std::vector<Zeroing>& some) = 0;
  /// A set bit for each element that is 0 or -0, packed as Mask::pack() packs. A device waits once.
  virtual std::vector<PackedBits> zeros_in(const std::vector<ArrayView>& some) = 0;

  // --- masks of this device -------------------------------------------------------------------

  /// All ones.
  virtual Mask make_mask(const Axes& shape) = 0;
  /// What Mask::pack() returns, of each. A device waits once.
  virtual std::vector<PackedBits> pack(const std::vector<Mask>& masks) = 0;

  /// What a mask is now.
  virtual Content copy(const Mask& mask) = 0;
  /// What Mask::unpack() makes of a mask of that shape. The bits must stay until put().
  virtual Content unpack(const Axes& shape, const std::uint8_t* bits) = 0;
  struct Change {
    Mask mask;
    Content content;
  };
  /// Gives masks the contents that this device has made for their shape.
  virtual void put(const std::vector<Change>& changes) noexcept = 0;
  /// Prunes what a content marks with 1.
  virtual void prune(const Mask& mask, const DeviceMask& marks) = 0;
};

/// A job of the rule in numbers, for devices.
struct DATASPARSE_API BlockPlan {
  Axes order;  ///< of the axes that make the matrix; none where that of memory does as well
  std::int64_t height, width;  ///< of a block, within the matrix
  std::int64_t zeros;          ///< of a pruned block, unless it is partial and has fewer elements
  std::int64_t pruned;         ///< blocks that are pruned, but for those of a pool

  /// `spec` need not be resolved.
  static BlockPlan of(const BlockSpec& spec, const Axes& shape, const Axes& layout);
};

}  // namespace datasparse

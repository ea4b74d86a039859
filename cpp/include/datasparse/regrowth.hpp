/// Sparsifiers whose masks move: some of what is active is dropped, and as much grows elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/block_mask.hpp"
#include "datasparse/spec_sparsifier.hpp"

namespace datasparse {

/// BlockSpec, and how masks move.
///
/// A block is active if its elements are kept. Blocks are single elements, unless somebody says
/// otherwise. With zeros_per_block less than a block, which is N:M sparsity, sparsity_level is 1.
struct DATASPARSE_API RegrowthSpec : BlockSpec {
  double drop_fraction = 0.3;  ///< share of the active blocks that a step drops, in [0, 1]
  std::int64_t seed = 0;       ///< of all that is drawn, at least 0

  static constexpr bool draws_masks = true;

  RegrowthSpec() noexcept { block_width = 1; }

  /// The config keys: sparsity_level, drop_fraction, seed, and the others of BlockSpec.
  static const Fields<RegrowthSpec>& fields();
  /// ValueError unless every field is in its range, and for what masks that move do not know. That
  /// is monotone, bounds of levels, and min_kept in a pool. Of N:M it is another level than 1, no
  /// zeros at all, and blocks of more than 4096 elements.
  void check(const std::string& group = "") const;
  /// BlockSpec::resolved().
  RegrowthSpec resolved(const Axes& shape, const std::string& group = "") const;
  /// N:M: single elements are dropped, and grow within blocks. Of a resolved one.
  bool is_within() const { return *zeros_per_block < block_height * block_width; }
};

/// Where blocks grow.
enum class Growth : std::uint8_t {
  none,         ///< nowhere: masks are drawn, and never move
  by_chance,    ///< anywhere
  by_gradient,  ///< where the gradient scores most
};

/// What a job of regrowth has besides: see JobOf. Views are of the memory where the job's data are.
struct MaskMove {
  Growth growth = Growth::none;
  bool draws = false;        ///< a first mask, whatever the mask is now; no other memory is used
  std::uint64_t stream = 0;  ///< of what is drawn, for this group and step: base/random.hpp
  ArrayView gradient{};      ///< of the data's shape; by_gradient only
  ArrayView weights{};       ///< of the data's shape, writable: where new ones become +0
  /// A bit for each element, packed as pack_bits() packs. On a device, of first masks alone: there,
  /// a mask has the bits.
  std::uint8_t* ever_active = nullptr;
  const Mask* ever_there = nullptr;  ///< on a device: what was ever active is 1
};

/// Jobs that are chosen from together.
struct DATASPARSE_API MovePool {
  std::vector<std::size_t> jobs;  ///< places, in the order of the groups
  /// Of what is dropped and grows, by job: a block, or a single element of N:M.
  std::vector<std::int64_t> weights;
  std::int64_t pruned = 0;  ///< the sum of the weights of the blocks that are pruned at the end
  bool is_within = false;   ///< of all of them: RegrowthSpec::is_within()

  /// Those of jobs that all draw, or all move. ValueError for one of N:M groups and others.
  static std::vector<MovePool> of(const std::vector<const JobOf<RegrowthSpec>*>& jobs);
};

/// Computes all masks, and writes +0 over what grew; or throws and has changed nothing. ValueError
/// for a pool of N:M groups and others; StateError for a job without a move; bad_alloc.
/// Cost: O(n); reads the data, and the gradients, about once. Extra memory: about 2% of the data;
/// and a byte per element of groups whose layout changes what blocks are.
DATASPARSE_API void compute_masks(const std::vector<JobOf<RegrowthSpec>>& jobs);

extern template class DATASPARSE_API SpecSparsifier<RegrowthSpec>;

/// The base of sparsifiers whose masks move.
///
/// The first step of a group draws its mask: of all blocks, as many as sparsity_level prunes, each
/// with the same chance, by seed and name. A mask that add_data() was given or reuses, or that was
/// loaded, is not drawn. In a pool, those that are drawn in the same step are drawn from together.
/// With N:M, zeros_per_block elements of each block are drawn. Not at all does a mask move that
/// Growth::none leaves as it is.
///
/// Any later step moves it:
/// 1. Of A active blocks, the k = floor(drop_fraction * A), a product in double, whose scores are
///    lowest are dropped; more, where fewer than A - k are to be active.
/// 2. Of all blocks that are not active now, those just dropped among them, so many grow that as
///    many are active as sparsity_level says: those whose gradient scores most, or drawn ones.
/// 3. What grew and was not active before the step begins at +0, in the owner's memory. What was
///    dropped and grew again keeps its values. No other value is touched.
/// Scores and their order are those of block_mask(): ties are dropped in the order of blocks, and
/// grow in the opposite one; NaN is above everything, so NaN weights go last, and NaN gradients
/// grow first. The gradient is scored by the same norm.
///
/// N:M: of A active elements of the tensor, k = floor(drop_fraction * A) are dropped; then each
/// block grows as many as it has too few. A block that has more active elements than it may loses
/// its lowest.
/// Pools: A, k and both choices are over all groups of the pool, in the order (key, order of
/// groups, index). Where blocks weigh differently, all counts are of weights: pool.hpp. Kept zeros:
/// never grow. A block of nothing but those counts as pruned, and any other one goes by its other
/// elements. A block whose mask is mixed, as a given one may be, counts as pruned.
///
/// What grew: all that the mask keeps now and did not before the step.
///
/// Parameters must be writable: ValueError before anything changes, as for a gradient that is
/// missing. Data may be on any device: TypeError for one that cannot move masks, Device::move(). A
/// first mask is drawn in CPU memory, and copied there.
class DATASPARSE_API RegrowthSparsifier : public SpecSparsifier<RegrowthSpec> {
 public:
  /// Where blocks grow.
  Growth growth() const noexcept { return growth_; }

  /// Draws, at once, all masks that the next step would draw; others stay. step() moves all of them
  /// then. All or nothing, as step().
  void draw();
  /// Whether the group has a mask, and so none is to be drawn.
  bool is_drawn(const std::string& name) const;
  /// How many of the group's elements were active after some step: the ITOP rate (Liu 2021) is that
  /// over their number. 0 before the first mask.
  std::int64_t ever_active(const std::string& name) const;

  /// What a step of Growth::by_gradient ranks growth by: the gradient of a group's data, of their
  /// shape, of any dtype and strides. nullptr, as by default, means there is none, which is a
  /// ValueError of the step. The rest is as with get_scores().
  virtual std::shared_ptr<DataSource> get_gradients(const std::string& name, const ArrayView& data,
                                                    const ParamMap& config);
  /// StateError: masks move in a step, all together.
  void update_mask(const std::string& name, const ArrayView& data, const ParamMap& config) override;

 protected:
  RegrowthSparsifier(Growth growth, const RegrowthSpec& defaults, const ParamMap& own)
      : SpecSparsifier(defaults, own), growth_(growth) {}

  ForeignHooks foreign_hooks() const override;
  /// ForeignHooks::get_gradients of any of these.
  static std::shared_ptr<DataSource> own_gradients(BaseDataSparsifier& self,
                                                   const std::string& name, const ArrayView& data,
                                                   const ParamMap& config);

 private:
  Growth growth_;
};

template <class Signature>
constexpr bool is_of_spec_sparsifier<Signature RegrowthSparsifier::*> = true;

/// RigL (Evci et al. 2020, "Rigging the Lottery"): drops by magnitude, grows by gradient.
class DATASPARSE_API RigL : public RegrowthSparsifier {
 public:
  explicit RigL(const RegrowthSpec& defaults = {}, const ParamMap& own = {})
      : RegrowthSparsifier(Growth::by_gradient, defaults, own) {}
};

/// SET (Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse
/// connectivity"): drops by magnitude, grows by chance.
class DATASPARSE_API SET : public RegrowthSparsifier {
 public:
  explicit SET(const RegrowthSpec& defaults = {}, const ParamMap& own = {})
      : RegrowthSparsifier(Growth::by_chance, defaults, own) {}
};

/// A random mask that never moves: what the others are compared with. drop_fraction means nothing.
class DATASPARSE_API Static : public RegrowthSparsifier {
 public:
  explicit Static(const RegrowthSpec& defaults = {}, const ParamMap& own = {})
      : RegrowthSparsifier(Growth::none, defaults, own) {}
};

}  // namespace datasparse

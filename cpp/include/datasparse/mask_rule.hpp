/// What the configs of a sparsifier's groups mean: how they are checked and shown, how many zeros
/// they make, and the masks of many groups at once.
#pragma once

#include <any>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/param.hpp"

namespace datasparse {

struct CutHint;
struct MaskMove;
class Device;
class DeviceMask;
class Mask;

/// One mask to be computed: the same record from the sparsifier to the engine. It has copies, and
/// JobView references.
template <class Spec, class View = ArrayView, class Layout = Axes>
struct JobOf {
  View data;  ///< what is ranked
  Spec spec;  ///< by what rule
  /// data.size() bytes, in C order of the data's own shape; nullptr where the mask is on a device.
  /// What is there counts where the rule is monotone.
  std::uint8_t* mask;
  CutHint* hint = nullptr;  ///< Mask::hint() of the same mask: read and renewed; or none
  /// The order in which the data's axes make the matrix: GroupOptions::layout. The mask keeps the
  /// data's own order.
  Layout layout{};
  /// Elements that are pruned whatever the rule says: a set bit for each, packed as Mask::pack()
  /// packs; or nullptr.
  const std::uint8_t* kept_zeros = nullptr;
  Device* device = nullptr;  ///< where the data are: DataSource::device(); or nullptr, the CPU
  /// Where the mask that is there is saved before it is changed, as pack_bits() packs; or nullptr.
  /// For jobs on the CPU alone.
  std::uint8_t* before = nullptr;
  const MaskMove* move = nullptr;  ///< what regrowth has besides: regrowth.hpp; or nullptr
  const Mask* own = nullptr;       ///< the mask itself; or nullptr, for a job on the CPU alone
  /// On a device, in the place of `kept_zeros`, a content that marks them; or nullptr.
  const DeviceMask* kept_there = nullptr;

  /// The same with another spec: in copies, or in references to what others keep.
  template <class Other>
  JobOf<Other> with(const Other& other) const {
    return {data, other, mask, hint, layout, kept_zeros, device, before, move, own, kept_there};
  }
  template <class Other>
  JobOf<const Other&, const ArrayView&, const Axes&> view_with(const Other& other) const {
    return {data, other, mask, hint, layout, kept_zeros, device, before, move, own, kept_there};
  }
  auto view() const { return view_with(spec); }
};

/// A job of what others keep. It has 88 bytes, where copies take 384: of many small groups, these
/// would leave the cache.
template <class Spec>
using JobView = JobOf<const Spec&, const ArrayView&, const Axes&>;

/// A job whose spec is what MaskRule::compile() has made.
using RuleJob = JobView<std::any>;

/// A group's config, and the shape of its data in the order of its layout.
struct RuleGroup {
  const std::any* compiled;  ///< MaskRule::compile() of it
  Axes shape;
};

/// The rule of a sparsifier class. It is no part of any object: a base class refers to one.
/// SpecRule is the one for whatever has config keys as Fields.
class DATASPARSE_API MaskRule {
 public:
  virtual ~MaskRule() = default;

  /// What the others need of a config: made once, when it is written. TypeError or ValueError,
  /// naming the group, for a config that lacks a key or has a wrong value; keys of subclasses are
  /// left to these. `shape` is that of the data in the order of the group's layout, and nullptr for
  /// defaults, which are made for nothing but the check.
  virtual std::any compile(const std::string& name, const ParamMap& config,
                           const Axes* shape) const = 0;
  /// Throws what compile() would throw if one value changed, neither the old nor the new one being
  /// None. False where that takes a look at the whole config, and for text: put_value() may not
  /// need memory.
  virtual bool check_value(const std::any& compiled, const std::string& name,
                           const std::string& key, const ParamValue& value) const = 0;
  /// Makes of `compiled` what compile() would make of the config with that value, which
  /// check_value() has accepted.
  virtual void put_value(std::any& compiled, const std::string& key,
                         const ParamValue& value) const noexcept = 0;
  /// A value as it is shown, and given to update_mask(): automatic ones are filled in.
  virtual ParamValue shown(const std::any& compiled, const std::string& key,
                           const ParamValue& written) const = 0;
  /// Which groups depend on each other: those that share a name here are computed, and checked,
  /// together. Empty: each by itself.
  virtual std::string_view pool(const std::any&) const { return {}; }
  /// Whether the first mask of a group is drawn, unless somebody gave one.
  virtual bool draws_masks() const { return false; }
  /// How many elements a step of these groups zeroes, but for kept zeros. ValueError where their
  /// configs are impossible together. A shape is that which compile() got.
  virtual ZeroCounts count_zeros(const std::vector<RuleGroup>& groups) const = 0;
  /// Throws what count_zeros() throws: for every value that a scheduler writes to such groups.
  virtual void require_possible(const std::vector<RuleGroup>&) const {}
  /// Computes all masks, or throws and has changed none. Saves those whose jobs have a place for
  /// what was `before`.
  virtual void compute(const std::vector<RuleJob>& jobs) const = 0;
};

}  // namespace datasparse

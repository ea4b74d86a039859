/// The sparsifier that prunes the blocks of least norm.
#pragma once

#include <any>
#include <optional>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/block_mask.hpp"
#include "datasparse/data_sparsifier.hpp"

namespace datasparse {

/// Masks the share `sparsity_level` of the blocks of each tensor, those of least L1 or L2 norm: see
/// block_mask() for the exact rule. The fields of BlockSpec are the config keys; each group may
/// have its own. A config holds `monotone` and `min_kept` only where somebody gave them.
///
/// With `monotone`, the mask before a step counts: a block is pruned if any of its elements is, but
/// for zeros that a group keeps. Those that are pruned rank below all others, and among each of the
/// two kinds the rule is as ever; so is the number of blocks that are pruned. Of the
/// zeros_per_block elements of a pruned block likewise: those that are pruned go first. Costs about
/// three times the time, and a byte of memory per element.
///
/// A subclass that overrides update_mask() may call this one first and then edit get_mask(name).
/// A subclass with keys of its own overrides check_config(), checks them, and passes the rest on.
class DATASPARSE_API DataNormSparsifier : public BaseDataSparsifier {
 public:
  /// `own` are the defaults of a subclass's own keys.
  explicit DataNormSparsifier(const BlockSpec& defaults = {}, const ParamMap& own = {});

  /// Computes the mask at once, from data of the mask's shape: the group's own, or any scores.
  void update_mask(const std::string& name, const ArrayView& data, const ParamMap& config) override;
  void check_config(const std::string& name, const ParamMap& config) const override;

 protected:
  /// A BlockSpec, resolved for the shape.
  std::any compile_config(const std::string& name, const ParamMap& config,
                          const Axes* shape) const override;
  /// False for a subclass, which might have a say: one that has overridden neither check_config()
  /// nor compile_config() may return check_spec_value() instead, for speed.
  bool check_value(const std::any& compiled, const std::string& name, const std::string& key,
                   const ParamValue& value) const override;
  static bool check_spec_value(const std::any& compiled, const std::string& name,
                               const std::string& key, const ParamValue& value);
  void put_value(std::any& compiled, const std::string& key,
                 const ParamValue& value) const noexcept override;
  std::optional<ZeroCount> zeros_of(const std::any& compiled, const Axes& shape) const override;
  ParamValue effective_value(const std::string& key, const ParamValue& written,
                             const std::any& compiled) const override;
  /// So that many small groups share the threads.
  void update_masks(const std::vector<Update>& updates) override;
  bool is_overridden() const override;
};

}  // namespace datasparse

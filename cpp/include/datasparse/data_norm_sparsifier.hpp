/// The sparsifier that prunes the blocks of least norm.
#pragma once

#include "datasparse/api.h"
#include "datasparse/block_mask.hpp"
#include "datasparse/spec_sparsifier.hpp"

namespace datasparse {

extern template class DATASPARSE_API SpecSparsifier<BlockSpec>;

/// Masks the share `sparsity_level` of the blocks of each tensor, those of least norm or value: see
/// block_mask() for the exact rule. The fields of BlockSpec are the config keys; each group may
/// have its own. A config holds `monotone` and `min_kept` only where somebody gave them.
///
/// With `monotone`, the mask before a step counts: a block is pruned if any of its elements is, but
/// for zeros that a group keeps (one that is a block by itself counts). Those that are pruned rank
/// below all others, and among each of the two kinds the rule is as ever; so is the number of
/// blocks that are pruned. Of the zeros_per_block elements of a pruned block likewise: those that
/// are pruned go first. Costs about three times the time, and a byte of memory per element.
///
/// A subclass that overrides get_scores() ranks by these, by their norm, in the place of the data.
/// One that overrides update_mask() may call this one first and then edit get_mask(name). One with
/// keys of its own overrides check_config(), checks them, and passes the rest on. Which of the
/// three it overrides, foreign_hooks() may say, for speed and for plans: {false, false, own_scores}
/// where it is get_scores() alone. Else groups are computed one by one.
class DATASPARSE_API DataNormSparsifier : public SpecSparsifier<BlockSpec> {
 public:
  using SpecSparsifier::SpecSparsifier;

 protected:
  ForeignHooks foreign_hooks() const override;
};

}  // namespace datasparse

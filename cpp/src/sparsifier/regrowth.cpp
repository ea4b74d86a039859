#include "datasparse/regrowth.hpp"

#include <string>
#include <typeinfo>

#include "datasparse/error.hpp"
#include "select/limits.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

template class SpecSparsifier<RegrowthSpec>;

const Fields<RegrowthSpec>& RegrowthSpec::fields() {
  static const Fields<RegrowthSpec> all = [] {
    auto fields = inherited_fields<RegrowthSpec, BlockSpec>();
    // Behind the level.
    fields.insert(fields.begin() + 1, {share_field<&RegrowthSpec::drop_fraction>("drop_fraction"),
                                       count_field<&RegrowthSpec::seed>("seed")});
    return fields;
  }();
  return all;
}

void RegrowthSpec::check(const std::string& group) const {
  check_fields(*this, group);
  BlockSpec::check(group);
  if (monotone) refuse_value("monotone", group, "be False where masks move", true);
  if (min_level > 0) refuse_value("min_level", group, "be 0 where masks move", min_level);
  if (max_level < 1) refuse_value("max_level", group, "be 1 where masks move", max_level);
  if (min_kept > 0 && !pool.empty()) {
    refuse_value("min_kept", group, "be 0 in a pool where masks move", min_kept);
  }
  if (!zeros_per_block || block_height < 0 || block_width < 0) return;
  const std::int64_t size = block_height * block_width;
  if (*zeros_per_block == size) return;
  if (*zeros_per_block == 0) {
    refuse_value("zeros_per_block", group, "be at least 1 where masks move", *zeros_per_block);
  }
  if (size > small_block_max) {
    refuse_value("zeros_per_block", group,
                 "be all of a block of more than " + std::to_string(small_block_max) +
                     " elements where masks move",
                 *zeros_per_block);
  }
  if (sparsity_level != 1) {
    refuse_value("sparsity_level", group,
                 "be 1 where zeros_per_block, " + std::to_string(*zeros_per_block) +
                     ", is less than the block and masks move",
                 sparsity_level);
  }
}

RegrowthSpec RegrowthSpec::resolved(const Axes& shape, const std::string& group) const {
  check(group);
  RegrowthSpec result = *this;
  static_cast<BlockSpec&>(result) = BlockSpec::resolved(shape, group);
  result.check(group);
  return result;
}

std::shared_ptr<DataSource> RegrowthSparsifier::get_gradients(const std::string&, const ArrayView&,
                                                              const ParamMap&) {
  return nullptr;
}

void RegrowthSparsifier::update_mask(const std::string& name, const ArrayView&, const ParamMap&) {
  throw StateError("update_mask() of '" + name +
                   "' is impossible: masks that move do so in step(), all together; override "
                   "get_scores() or get_gradients(), which step() ranks by");
}

std::shared_ptr<DataSource> RegrowthSparsifier::own_gradients(BaseDataSparsifier& self,
                                                              const std::string& name,
                                                              const ArrayView& data,
                                                              const ParamMap& config) {
  return static_cast<RegrowthSparsifier&>(self).get_gradients(name, data, config);
}

BaseDataSparsifier::ForeignHooks RegrowthSparsifier::foreign_hooks() const {
  const auto& type = typeid(*this);
  const bool derived = type != typeid(RigL) && type != typeid(SET) && type != typeid(Static);
  return {false, derived, derived ? own_scores : nullptr, growth_, own_gradients};
}

void RegrowthSparsifier::draw() { draw_masks(); }

bool RegrowthSparsifier::is_drawn(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).is_drawn();
}

std::int64_t RegrowthSparsifier::ever_active(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).count_ever_active();
}

}  // namespace datasparse

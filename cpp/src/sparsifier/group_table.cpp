// What is read of groups: some of each, of all of them, and figures of their masks.

#include "datasparse/group_table.hpp"

#include <algorithm>
#include <vector>

#include "mask/pattern.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {
namespace {

/// The lengths of the blocks that a config asks for. A class may use the key for something else:
/// then there are none.
std::optional<std::pair<std::int64_t, std::int64_t>> block_in(const ParamMap& config,
                                                              const Axes& viewed) {
  const auto* const value = config.find("sparse_block_shape");
  const auto* const lengths = value == nullptr ? nullptr : value->get_if<ParamValue::Ints>();
  if (lengths == nullptr || lengths->size() != 2) return std::nullopt;
  const std::int64_t height = lengths->front(), width = lengths->back();
  if (!is_length(height) || !is_length(width)) return std::nullopt;
  const MatrixShape matrix = MatrixShape::of(viewed);
  return std::pair(filled_in(height, matrix.rows), filled_in(width, matrix.columns));
}

}  // namespace

GroupRow GroupTable::row(const std::string& name) const {
  const Entry entry(sparsifier_);
  const auto& impl = *sparsifier_.impl_;
  const auto& group = impl.at(name);
  return {group.source,   impl.mask_of(group), group.layout, {group.kept, group.kept_bits()},
          !group.updates, group.kept_there};
}

std::vector<std::string> GroupTable::active(const std::vector<std::string>& names) const {
  const Entry entry(sparsifier_);
  std::vector<std::string> result;
  result.reserve(names.size());
  for (const auto& name : names) {
    const auto* const group = sparsifier_.impl_->find(name);
    if (group != nullptr && !group->squashed()) result.push_back(name);
  }
  return result;
}

bool GroupTable::awaits_data(const std::string& name) const {
  const Entry entry(sparsifier_);
  const auto* const group = sparsifier_.impl_->find(name);
  return sparsifier_.impl_->waiting.count(name) != 0 || (group != nullptr && group->awaits_data);
}

std::vector<std::pair<std::string, ParamMap>> GroupTable::configs() const {
  const Entry entry(sparsifier_);
  const auto& impl = *sparsifier_.impl_;
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl.groups) result.emplace_back(group->name, impl.shown(group->config));
  return result;
}

std::vector<std::pair<std::string, ParamMap>> GroupTable::states() const {
  const Entry entry(sparsifier_);
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : sparsifier_.impl_->groups)
    result.emplace_back(group->name, group->state);
  return result;
}

std::optional<ParamValue> GroupTable::try_value(const std::string& name, const std::string& key,
                                                std::size_t likely) const {
  const Entry entry(sparsifier_, std::try_to_lock);
  if (!entry.entered()) return std::nullopt;
  const auto& config = sparsifier_.impl_->at(name, likely).config;
  return sparsifier_.impl_->shown(config, key, config.written.at(key));
}

std::int64_t GroupTable::moves() const {
  const Entry entry(sparsifier_);
  return sparsifier_.impl_->moves;
}

bool GroupTable::in_override() const noexcept { return sparsifier_.impl_->is_held(); }

bool GroupTable::in_update_mask() const noexcept {
  return in_override() && sparsifier_.impl_->is_inside(BaseDataSparsifier::Impl::update_mask_call);
}

/// Those that need no data.
GroupFigures GroupTable::figures_of(BaseDataSparsifier::Group& group, const Mask& mask) const {
  using Status = GroupFigures::Status;
  const Axes& shape = mask.shape();
  GroupFigures figures;
  figures.name = group.name;
  figures.status = group.awaits_data  ? Status::awaits_data
                   : group.squashed() ? Status::squashed
                                      : Status::active;
  figures.shape = shape;
  figures.zeros = mask.zeros();
  figures.config = sparsifier_.impl_->shown(group.config);
  figures.block = block_in(group.config.written, group.viewed_shape());
  figures.dead = mask.size() > 0 && figures.zeros == mask.size();
  if (shape.size() > 1) {
    const auto& layout = group.layout;
    const std::int64_t rows = layout.size() == 0 ? 0 : layout[0];
    const std::int64_t channels = layout.size() == 0 ? 1 : layout[layout.size() - 1];
    figures.dead_rows = count_dead(mask.data(), shape, static_cast<int>(rows));
    figures.dead_channels = count_dead(mask.data(), shape, static_cast<int>(channels));
  }
  figures.frozen = !group.updates;
  if (group.is_drawn()) figures.ever_active = group.count_ever_active();
  return figures;
}

/// The masks of all groups, in the memory of this process: of those on a device, a copy.
std::vector<Mask> GroupTable::masks_here() const {
  sparsifier_.impl_->bring_ever_here();
  std::vector<Mask> masks;
  for (const auto& group : sparsifier_.impl_->groups) masks.push_back(group->mask);
  std::vector<Mask> there;
  for (const auto& mask : masks) {
    if (mask.there() != nullptr) there.push_back(mask);
  }
  const auto bits = pack_all(there);
  auto next = bits.begin();
  for (auto& mask : masks) {
    if (mask.there() == nullptr) continue;
    mask = Mask(mask.shape());
    mask.unpack(next++->data());
  }
  return masks;
}

std::vector<GroupFigures> GroupTable::figures() const {
  using Pins = BaseDataSparsifier::Pins;
  const Entry entry(sparsifier_);
  const auto& impl = *sparsifier_.impl_;
  std::vector<GroupFigures> result;
  const auto masks = masks_here();
  for (std::size_t i = 0; i < masks.size(); ++i) {
    result.push_back(figures_of(*impl.groups[i], masks[i]));
  }
  {
    const Pins pins(sparsifier_, impl.unsquashed(), Pins::Of::data_of_any_shape);
    struct Place {
      std::size_t group;
      ArrayView view;
    };
    ByDevice<Place> places;
    auto view = pins.views().begin();
    for (std::size_t i = 0; i < result.size(); ++i) {
      const auto& group = *impl.groups[i];
      if (group.squashed()) continue;
      result[i].dtype = view->dtype();
      if (view->shape() == group.mask.shape()) {
        items_of(group.mask.device(), places).push_back({i, *view});
      }
      ++view;
    }
    for (const auto& [device, some] : places) {
      if (device == &cpu()) {
        for (const auto& [i, here] : some) {
          result[i].zeros_in_data = count_pruned_zeros(here, masks[i].data());
        }
        continue;
      }
      std::vector<ArrayView> views;
      for (const auto& place : some) views.push_back(place.view);
      const auto zeros = device->zeros_in(views);
      for (std::size_t i = 0; i < some.size(); ++i) {
        const PackedBits kept = masks[some[i].group].pack();
        std::int64_t count = 0;
        for (std::size_t byte = 0; byte < kept.size(); ++byte) {
          const auto pruned = static_cast<std::uint8_t>(zeros[i][byte] & ~kept[byte]);
          count += count_bits(&pruned, 1);
        }
        result[some[i].group].zeros_in_data = count;
      }
    }
  }
  for (const auto& [name, saved] : impl.waiting) {
    const Axes viewed = viewed_shape(saved.shape, saved.layout);
    const auto group = BaseDataSparsifier::Group::restored(
        saved, {saved.config, impl.compiled(name, saved.config, &viewed)});
    group->awaits_data = true;
    result.push_back(figures_of(*group, group->mask));
  }
  std::sort(result.begin() + static_cast<std::ptrdiff_t>(impl.groups.size()), result.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

}  // namespace datasparse

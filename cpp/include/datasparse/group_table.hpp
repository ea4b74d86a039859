/// What groups are at one moment: for bindings and reports.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/data_sparsifier.hpp"

namespace datasparse {

/// A group in figures, counted from its mask.
struct GroupFigures {
  enum class Status { active, squashed, awaits_data };

  std::string name;
  Status status = Status::active;
  Axes shape;
  std::optional<DType> dtype;  ///< none where the group holds no data
  std::int64_t zeros = 0;
  ParamMap config;  ///< with automatic values filled in
  /// The height and the width in `config`, where it has a sparse_block_shape, with whole axes
  /// filled in.
  std::optional<std::pair<std::int64_t, std::int64_t>> block = {};
  /// How many elements the mask prunes that are zero in the data; none where there are no data of
  /// the mask's shape.
  std::optional<std::int64_t> zeros_in_data = {};
  bool dead = false;  ///< whether there are elements, and the mask keeps none of them
  /// How many rows of outputs and how many input channels the mask keeps no element of: entries of
  /// the first and of the last axis of the layout, or of the first and of the second one in the
  /// order of memory. None for fewer than two axes.
  std::optional<std::int64_t> dead_rows = {}, dead_channels = {};
  bool frozen = false;  ///< whether step() leaves the mask as it is
  /// How many elements were active at some time; none where masks do not move: regrowth.hpp.
  std::optional<std::int64_t> ever_active = {};
};

/// A group as it is kept.
struct GroupRow {
  std::shared_ptr<DataSource> source;  ///< none where the group was squashed
  Mask mask;
  Axes layout;  ///< GroupOptions::layout; none for the order of memory
  /// JobOf::kept_zeros, for an update_mask() that is called for one group. What an override leaves
  /// out is pruned behind it.
  std::shared_ptr<const std::uint8_t> kept_zeros;
  bool frozen;  ///< whether step() leaves the mask as it is: GroupOptions::update was false
  /// JobOf::kept_there.
  std::shared_ptr<const DeviceMask> kept_there = nullptr;
};

/// Reads a sparsifier's groups. Made where it is used, as in `GroupTable(sparsifier).configs()`;
/// what a call returns is of one moment, for which it takes the sparsifier's lock.
class DATASPARSE_API GroupTable {
 public:
  explicit GroupTable(const BaseDataSparsifier& sparsifier) noexcept : sparsifier_(sparsifier) {}

  GroupRow row(const std::string& name) const;
  /// Those of these names, in their order, whose groups hold data: neither removed nor squashed.
  std::vector<std::string> active(const std::vector<std::string>& names) const;
  /// Whether a loaded state waits for add_data() to bring data of that name.
  bool awaits_data(const std::string& name) const;
  /// BaseDataSparsifier::config() of all groups.
  std::vector<std::pair<std::string, ParamMap>> configs() const;
  /// BaseDataSparsifier::state() of all groups.
  std::vector<std::pair<std::string, ParamMap>> states() const;
  /// BaseDataSparsifier::config_value(), or nothing where it would have to wait for another thread.
  /// `likely` is where the group stood among the names(): a guess, which saves a look-up.
  std::optional<ParamValue> try_value(const std::string& name, const std::string& key,
                                      std::size_t likely = 0) const;
  /// The groups as they are now, and behind them those whose state waits for add_data(). Pins every
  /// source, and reads every mask twice and all data once.
  std::vector<GroupFigures> figures() const;

  /// How often masks have followed their data to another device: handles from before the last time
  /// may be out of date.
  std::int64_t moves() const;

  /// Whether the calling thread holds the lock, as in an override, where nothing may be changed.
  bool in_override() const noexcept;
  /// Whether it is in update_mask(), where masks may be changed.
  bool in_update_mask() const noexcept;

 private:
  using Entry = BaseDataSparsifier::Entry;
  GroupFigures figures_of(BaseDataSparsifier::Group& group, const Mask& mask) const;
  std::vector<Mask> masks_here() const;

  const BaseDataSparsifier& sparsifier_;
};

}  // namespace datasparse

/// The base of every data sparsifier: named tensors, their masks, and the step that recomputes
/// them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/data_source.hpp"
#include "datasparse/kept_array.hpp"
#include "datasparse/mask.hpp"
#include "datasparse/mask_rule.hpp"
#include "datasparse/param.hpp"
#include "datasparse/plain_data.hpp"

namespace datasparse {

enum class Growth : std::uint8_t;

/// What is saved of one group: everything but the user's data.
struct GroupState {
  std::string name;
  ParamMap config;  ///< as it was written: an automatic zeros_per_block is None
  Axes shape;
  PackedBits mask_bits;  ///< Mask::pack()
  bool squashed = false;
  ParamMap state;
  Axes layout = {};            ///< GroupOptions::layout; none: the order of memory
  PackedBits kept_zeros = {};  ///< a bit for each element that stays zero, packed alike; or none
  bool updates = true;         ///< whether step() renews the mask
  KeptArrays arrays = {};      ///< GroupArrays
};

/// What is saved of a sparsifier.
struct SparsifierState {
  /// Those before are read too. Version 1 has groups without layout, kept zeros and frozen masks.
  static constexpr std::int64_t current_version = 2;

  std::int64_t version = current_version;
  std::int64_t step_count = 0;
  bool enable_mask_update = true;
  ParamMap defaults;
  std::vector<GroupState> groups;
  std::string score = {};  ///< score_name() of the sparsifier
};

/// What add_data() can be told of a group besides its config. What is not said stays as it is where
/// the name is replaced or has a loaded state, and else is as described.
struct GroupOptions {
  /// The order in which the axes of the data make the matrix that blocks are cut from: the first
  /// one its rows, the others its columns, the last innermost. Each axis once; none at all, as by
  /// default, is the order that they have. Masks, and data that overrides get, keep that order.
  /// Where the order of columns is no matter to what the blocks are, as with single elements, sums
  /// are added and ties broken in the order of memory.
  std::optional<Axes> layout = {};
  /// Whether the elements that are 0 or -0 at this moment stay pruned: at once, and in every step,
  /// whatever the rule or an override computes. False, the default, forgets them.
  std::optional<bool> keep_zeros = {};
  /// Whether step() renews the mask, as it does by default, or leaves it as it is.
  std::optional<bool> update = {};
};

/// Keeps a mask for every named tensor. Subclass it and override update_mask().
///
/// A group is a name with a tensor, a config (plain values), a mask and a `state` map for the
/// subclass's own use. The sparsifier copies no data: it holds a DataSource, and asks it at every
/// step where the memory is now.
///
/// Errors: everything is checked when it arrives; a call that throws has changed nothing. An
/// unknown name is an UnknownNameError, a call that the moment forbids a StateError. Thread-safe:
/// one lock serialises all calls. From inside an override, the same thread may read, and may change
/// masks; step(), add_data() and everything else that changes groups is a StateError. An override
/// that reads another sparsifier waits for that one's lock: two whose overrides read each other
/// must not be stepped by two threads at once.
class DATASPARSE_API BaseDataSparsifier {
 public:
  /// `defaults` is the config of every group that says nothing else. Where there is a `rule`, which
  /// is not owned, it says what configs mean; else any config will do.
  explicit BaseDataSparsifier(ParamMap defaults = {}, const MaskRule* rule = nullptr);
  BaseDataSparsifier(const BaseDataSparsifier&) = delete;
  BaseDataSparsifier& operator=(const BaseDataSparsifier&) = delete;
  virtual ~BaseDataSparsifier();

  // --- groups ---------------------------------------------------------------------------------

  /// Adds a tensor under any non-empty name; `config` beats the defaults.
  ///
  /// A name that is already there is replaced. It keeps its config where `config` does not say
  /// otherwise, and with `reuse_mask` its mask (the shapes must agree), its state and its arrays. A
  /// squashed name starts afresh. A name for which load_state() left a state takes it over, as if
  /// it were there. Zeros that were kept are forgotten where the shape is another one, and a layout
  /// where the number of axes is.
  /// @param mask  data.size() bytes in C order, each 0 or 1, copied; beats reuse_mask.
  /// @return  whether the mask was given or reused; else it is all ones, but for kept zeros.
  /// Errors: ValueError for a layout that is none of the data's. keep_zeros reads the data once.
  bool add_data(const std::string& name, std::shared_ptr<DataSource> data,
                const ParamMap& config = {}, bool reuse_mask = true,
                const std::uint8_t* mask = nullptr, const GroupOptions& options = {});
  /// The same for memory that stays where it is until the group is removed.
  bool add_data(const std::string& name, const ArrayView& data, const ParamMap& config = {}) {
    return add_data(name, make_source(data), config);
  }
  /// Forgets the group: data, mask, config, state and arrays.
  void remove_data(const std::string& name);

  /// All names in the order in which they were added, squashed ones included.
  std::vector<std::string> names() const;
  /// Whether there is such a group, squashed or not.
  bool contains(const std::string& name) const;
  /// Whether squash_mask() has released the group's tensor.
  bool squashed(const std::string& name) const;
  /// The group's source. ValueError where it was squashed.
  std::shared_ptr<DataSource> get_data(const std::string& name) const;
  /// The group's own mask, not a copy: what is written there is the mask. It lies where the data
  /// are now: where they have moved since, it is brought along. While another thread's
  /// step() runs it is half written; read it from one thread, or from save_state().
  Mask get_mask(const std::string& name) const;

  // --- config ---------------------------------------------------------------------------------

  /// The config with automatic values filled in.
  ParamMap config(const std::string& name) const;
  /// One value of it; nothing else is copied.
  ParamValue config_value(const std::string& name, const std::string& key) const;
  /// Writes all of `changes`, or nothing if check_config() refuses the result.
  void update_config(const std::string& name, const ParamMap& changes);

  /// The config of groups to come, as it was written.
  ParamMap defaults() const;
  /// Groups that are there keep their configs. Throws what check_config() throws.
  void replace_defaults(const ParamMap& defaults);

  /// The subclass's own values for a group, saved with its mask.
  ParamMap state(const std::string& name) const;
  /// Replaces the whole map.
  void replace_state(const std::string& name, const ParamMap& state);

  // --- masks ----------------------------------------------------------------------------------

  /// Recomputes the masks of all groups that are neither squashed nor frozen. One transaction: all
  /// sources are pinned first; if anything throws, an override among it, every mask is as before.
  ///
  /// Sends a warning, once for each group, where a mask is left that keeps no element, unless
  /// sparsity_level is 1 in its config. The step is complete by then: a handler that throws makes
  /// step() throw, and undoes nothing.
  void step();
  /// While false, step() counts but changes no mask.
  bool enable_mask_update() const;
  void set_enable_mask_update(bool enable);
  /// How often step() has succeeded.
  std::int64_t step_count() const;

  /// Zeroes the masked elements in the owner's memory; the masks stay. Read-only or
  /// self-overlapping memory is a ValueError, before anything is written.
  void apply_mask(const std::vector<std::string>& names);
  void apply_mask();
  /// Zeroes the elements that stay zero (GroupOptions::keep_zeros), and no others: before a step,
  /// so that what an optimizer has made of them meanwhile does not rank as weights. O(1) where
  /// there are none.
  void apply_kept_zeros();
  /// apply_mask(), and the tensors are released: step() skips them, their names and masks remain.
  void squash_mask(const std::vector<std::string>& names);
  void squash_mask();

  // --- saving ---------------------------------------------------------------------------------

  /// With `sources`, fills in the sources of all groups by name, null for squashed ones, of the
  /// same moment.
  SparsifierState save_state(
      std::unordered_map<std::string, std::shared_ptr<DataSource>>* sources = nullptr) const;
  /// Restores masks, configs and states by name; attached data stay attached. A state for a name
  /// without data waits for add_data(). With `strict`, the names must be those attached, unless
  /// none is. ValueError, naming the entry, for anything that does not fit; nothing has changed
  /// then.
  void load_state(const SparsifierState& state, bool strict = true);

  // --- to override ----------------------------------------------------------------------------

  /// Computes the mask of one group: change get_mask(name) in place. Called by step() for every
  /// group in turn, with the pinned data and the group's config.
  virtual void update_mask(const std::string& name, const ArrayView& data,
                           const ParamMap& config) = 0;
  /// Throws unless `config` is a config that update_mask() can work with. Called with the whole
  /// config before any of it is written; `name` is empty for the defaults. Accepts all by default.
  virtual void check_config(const std::string& name, const ParamMap& config) const;
  /// Whether a config key takes integers only, so that a DataScheduler must round to one. It asks
  /// once a step, without the sparsifier's lock. None does by default.
  virtual bool is_integer_param(const std::string&) const { return false; }

 protected:
  /// What a subclass keeps besides groups, configs and states: saved in a checkpoint. Called with
  /// the sparsifier's lock held, as an override is.
  virtual Attributes attributes() const { return {}; }
  /// Checks attributes that a checkpoint holds, and returns what puts them into place, which must
  /// not throw. It is called once everything else in the checkpoint has been checked, or not at
  /// all. By default, a ValueError where there are any.
  virtual std::function<void()> prepare_attributes(const Attributes& saved);

  /// What groups are ranked by in the place of their norms, if that is a part of the sparsifier:
  /// saved, and a state of another one is refused. None, as text: "".
  virtual std::string score_name() const { return {}; }

  /// check_config() on the defaults: a constructor cannot call it, because the override is not
  /// there.
  void check_defaults() const;

  /// Scores of a group's data, for SpecSparsifier::get_scores().
  using GetScores = std::shared_ptr<DataSource> (*)(BaseDataSparsifier& sparsifier,
                                                    const std::string& name, const ArrayView& data,
                                                    const ParamMap& config);

  /// Which hooks run code of a subclass, which may throw, and look at groups while others are still
  /// to come.
  struct ForeignHooks {
    /// If so, or where there is no rule, a step saves the masks, one bit per element, and calls
    /// update_mask() for one group after another; else the rule computes all of them together.
    bool update_mask = true;
    /// If not, a value that a scheduler writes is checked by the rule alone.
    bool check_config = true;
    /// What a step asks for scores, group after group, before the rule ranks by them; nullptr where
    /// data are ranked themselves. Beside update_mask, that one gets the scores as its data.
    GetScores get_scores = nullptr;
    /// Masks that move, in the place of being ranked anew: where blocks grow. regrowth.hpp.
    std::optional<Growth> growth = {};
    /// What they grow by, asked for as scores are.
    GetScores get_gradients = nullptr;
  };
  /// Asked before a step, and before configs are checked, any number of them: a binding looks here
  /// what a script has overridden.
  virtual ForeignHooks foreign_hooks() const { return {}; }

  /// Has `access` called with all work that pins, unpins or marks many sources in a row. A binding
  /// whose owner guards the tensors by a lock takes it there once. For a constructor.
  using Access = std::function<void(const std::function<void()>& work)>;
  void access_data_by(Access access);

  /// Fills an empty sparsifier from what another one saved, and the sources of its groups by name:
  /// how a binding copies and unpickles. Neither pins a source nor asks check_config(): what they
  /// refer to may itself be half restored.
  void restore(const SparsifierState& state,
               std::unordered_map<std::string, std::shared_ptr<DataSource>> sources);
  /// Holds the lock as an override does, so that update_mask() can be called from outside a step.
  void run_as_update(const std::function<void()>& work);

 private:
  struct Config;
  struct KeptZeros;
  struct Group;
  struct Change;
  struct Loading;
  struct Impl;
  class Entry;
  class Checker;
  class Pins;
  class Scores;
  class Before;
  friend class GroupArrays;
  friend class GroupParams;
  friend class GroupTable;
  friend class HeldStill;
  friend class RegrowthSparsifier;
  friend class ScoreSums;

  bool update(const std::vector<Group*>& groups);
  void update_together(const std::vector<Group*>& groups, const std::vector<ArrayView>& data);
  void update_by_scores(const std::vector<Group*>& groups, const std::vector<ArrayView>& data,
                        GetScores get_scores);
  void update_in_turn(const std::vector<Group*>& groups, const std::vector<ArrayView>& data,
                      GetScores get_scores);
  void move_masks(const std::vector<Group*>& groups, const std::vector<ArrayView>& data,
                  const ForeignHooks& foreign, bool only_draws);
  void draw_masks();
  void zero(const std::vector<Group*>& groups, const std::string& call, bool kept = false);
  std::vector<std::shared_ptr<DataSource>> squash(const std::vector<Group*>& groups);

  Loading prepare_load(const SparsifierState& state, bool strict) const;
  void commit(Loading& loading) noexcept;

  std::unique_ptr<Impl> impl_;
};

}  // namespace datasparse

/// Sparsifiers whose configs are the fields of a struct.
#pragma once

#include <algorithm>
#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "datasparse/data_sparsifier.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "datasparse/field.hpp"
#include "datasparse/group_table.hpp"
#include "datasparse/mask_rule.hpp"
#include "datasparse/pool.hpp"

namespace datasparse {

/// Whether a Spec says that its sparsifier draws masks: by a member of that name.
template <class Spec, class = void>
constexpr bool draws_masks_of = false;
template <class Spec>
constexpr bool draws_masks_of<Spec, std::enable_if_t<Spec::draws_masks>> = true;

/// The half of a computation that cannot fail.
using Put = std::function<void()>;
/// Computes what jobs on a device are to become, or throws and has changed nothing. Their masks
/// change when what it returns is called; the jobs must live until then.
DATASPARSE_API Put compute_on(Device& device, const std::vector<JobOf<BlockSpec>>& jobs);
DATASPARSE_API Put compute_on(Device& device, const std::vector<JobOf<RegrowthSpec>>& jobs);
/// Computes masks of data in CPU memory, or throws and has changed none.
DATASPARSE_API void compute_on_cpu(const std::vector<JobView<BlockSpec>>& jobs);

/// The rule of a Spec, a value type with
///
///     static const Fields<Spec>& fields();               // its config keys: field.hpp
///     void check(const std::string& group) const;        // ValueError unless it can be used
///     Spec resolved(const Axes& shape, const std::string& group) const;  // automatic values
///                                                        // filled in, for data of that shape
///
/// and, in its namespace, the functions
///
///     ZeroCount count_zeros(const Axes& shape, const Spec& spec);  // of a mask
///     void compute_masks(const std::vector<JobOf<Spec>>& jobs);    // all, or it throws and has
///                                                                  // changed none
///
/// A job has a layout. Who ranks by a score of his own hands it on, with the scores in the place of
/// the data: `cpu().compute()` of such jobs sees to blocks, layouts, and masks before.
template <class Spec>
class SpecRule final : public MaskRule {
 public:
  /// Whether it prunes as many zeros as its blocks say, and knows pools.
  static constexpr bool has_blocks = std::is_base_of_v<BlockSpec, Spec>;

  static const SpecRule& instance() {
    static const SpecRule rule;
    return rule;
  }

  std::any compile(const std::string& name, const ParamMap& config,
                   const Axes* shape) const override {
    const Spec spec = spec_of<Spec>(config, name, OtherKeys::ignore);
    for (const auto& field : Spec::fields()) {
      if (field.traits.is_optional || config.contains(std::string(field.key))) continue;
      throw ValueError(label(std::string(field.key), name) + " is missing");
    }
    return shape != nullptr ? spec.resolved(*shape, name) : spec;
  }

  bool check_value(const std::any& compiled, const std::string& name, const std::string& key,
                   const ParamValue& value) const override {
    const auto* const field = find_field<Spec>(key);
    const bool is_text = value.get_if<std::string>() != nullptr;
    if (field == nullptr || field->traits.is_of_shape || is_text) return false;
    Spec spec = spec_in(compiled);
    field->set(spec, key, value, name);
    field->check(spec, field->key, name);
    if (!field->traits.is_alone) spec.check(name);
    return true;
  }

  void put_value(std::any& compiled, const std::string& key,
                 const ParamValue& value) const noexcept override {
    find_field<Spec>(key)->set(std::any_cast<Spec&>(compiled), key, value, {});
  }

  ParamValue shown(const std::any& compiled, const std::string& key,
                   const ParamValue& written) const override {
    const auto* const field = find_field<Spec>(key);
    return field == nullptr || field->traits.is_of_shape ? written
                                                         : field->get(spec_in(compiled), key);
  }

  ZeroCounts count_zeros(const std::vector<RuleGroup>& groups) const override {
    using datasparse::count_zeros;
    if constexpr (has_blocks) {
      return count_zeros(as_pool_groups(groups));
    } else {
      ZeroCounts counts;
      for (const auto& group : groups) {
        counts.groups.push_back(count_zeros(group.shape, spec_in(*group.compiled)));
      }
      return counts;
    }
  }

  void require_possible(const std::vector<RuleGroup>& groups) const override {
    if constexpr (has_blocks) {
      datasparse::require_possible(as_pool_groups(groups));
    }
  }

  std::string_view pool(const std::any& compiled) const override {
    return pool_of(spec_in(compiled));
  }

  bool draws_masks() const override { return draws_masks_of<Spec>; }

  void compute(const std::vector<RuleJob>& jobs) const override {
    const auto is_on_cpu = [](const auto& job) { return is_cpu(job.device); };
    const bool all_on_cpu = std::all_of(jobs.begin(), jobs.end(), is_on_cpu);
    if constexpr (std::is_same_v<Spec, BlockSpec>) {
      if (all_on_cpu) return compute_on_cpu(views_of(jobs));
    }
    std::vector<JobOf<Spec>> here;
    here.reserve(jobs.size());
    for (const auto& job : jobs) here.push_back(job.with(spec_in(job.spec)));
    Turns elsewhere;               // mostly none
    std::vector<PackedBits> lent;  // what devices have made for jobs that are here
    if (!all_on_cpu) deal(jobs, here, elsewhere, lent);
    compute(here, elsewhere);
  }

  static std::string_view pool_of(const Spec& spec) {
    if constexpr (has_blocks) {
      return spec.pool;
    } else {
      return {};
    }
  }

  static void compute_one(const JobOf<Spec>& job) {
    std::vector<JobOf<Spec>> here;
    Turns elsewhere;
    (job.device == &cpu() ? here : turn_of(*job.device, elsewhere)).push_back(job);
    compute(here, elsewhere);
  }

 private:
  /// Jobs by the devices that compute them, in the order in which these come first: where other
  /// processes take part, all of them keep to it.
  using Turns = std::vector<std::pair<Device*, std::vector<JobOf<Spec>>>>;

  static std::vector<JobOf<Spec>>& turn_of(Device& device, Turns& turns) {
    Device* const computes = &device.together();
    for (auto& [known, jobs] : turns) {
      if (known == computes) return jobs;
    }
    return turns.emplace_back(computes, std::vector<JobOf<Spec>>()).second;
  }

  static bool is_cpu(const Device* device) noexcept {
    return device == nullptr || device == &cpu();
  }

  static std::vector<JobView<Spec>> views_of(const std::vector<RuleJob>& jobs) {
    std::vector<JobView<Spec>> views;
    views.reserve(jobs.size());
    for (const auto& job : jobs) views.push_back(job.view_with(spec_in(job.spec)));
    return views;
  }

  /// Leaves the jobs `here` that are on the CPU, or that their devices lend; the others get their
  /// turns. A pool is computed as a whole.
  static void deal(const std::vector<RuleJob>& jobs, std::vector<JobOf<Spec>>& here,
                   Turns& elsewhere, std::vector<PackedBits>& lent) {
    std::vector<JobOf<Spec>> own = std::move(here);
    here.clear();
    std::vector<bool> is_here;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      is_here.push_back(is_cpu(jobs[i].device));
      if constexpr (std::is_same_v<Spec, BlockSpec>) {
        PackedBits kept;
        if (!is_here[i]) is_here[i] = jobs[i].device->lend(own[i], kept);
        if (!kept.empty()) lent.push_back(std::move(kept));
      }
    }
    const auto pooled = pools_on_devices(jobs, is_here);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const auto found = pooled.find(pool_of(own[i].spec));
      if (found != pooled.end()) {
        turn_of(*found->second, elsewhere).push_back(jobs[i].with(spec_in(jobs[i].spec)));
      } else {
        (is_here[i] ? here : turn_of(*jobs[i].device, elsewhere)).push_back(std::move(own[i]));
      }
    }
  }

  /// Devices come first: nothing fails any more once the CPU has written its masks.
  static void compute(std::vector<JobOf<Spec>>& here, const Turns& elsewhere) {
    if constexpr (std::is_same_v<Spec, BlockSpec> || std::is_same_v<Spec, RegrowthSpec>) {
      std::vector<Put> puts;
      for (const auto& [device, some] : elsewhere) puts.push_back(compute_on(*device, some));
      // Where a process computes with several others, those of one turn may fail in the next.
      for (const auto& turn : elsewhere) {
        if (elsewhere.size() > 1) turn.first->meet({});
      }
      compute_here(here);
      for (const auto& put : puts) put();
    } else {
      if (!elsewhere.empty()) {
        throw TypeError("this sparsifier takes data in CPU memory alone, got some on " +
                        elsewhere.begin()->first->name());
      }
      compute_here(here);
    }
  }

  static void compute_here(std::vector<JobOf<Spec>>& jobs) {
    if constexpr (std::is_same_v<Spec, BlockSpec>) {
      cpu().compute(jobs);
    } else {
      for (auto& job : jobs) {  // what the engine does by itself
        if (job.before != nullptr) pack_bits(job.before, job.mask, job.data.size());
        job.before = nullptr;
      }
      compute_masks(jobs);
      for (const auto& job : jobs) {
        if (job.kept_zeros != nullptr) prune_bits(job.mask, job.kept_zeros, job.data.size());
      }
    }
  }

  static std::vector<PoolGroup> as_pool_groups(const std::vector<RuleGroup>& groups) {
    std::vector<PoolGroup> result;
    result.reserve(groups.size());
    for (const auto& group : groups) result.push_back({&spec_in(*group.compiled), group.shape});
    return result;
  }

  /// The pools that are computed on a device, each with that one. Of several devices it is the
  /// first one that computes together with others, else the first that is not the CPU. TypeError
  /// where that cannot. Left out are pools that are on the CPU, or that a device lends as a whole.
  static std::map<std::string_view, Device*> pools_on_devices(const std::vector<RuleJob>& jobs,
                                                              const std::vector<bool>& is_here) {
    const auto shares = [](Device* device) {
      return !is_cpu(device) && &device->together() != device;
    };
    std::map<std::string_view, Device*> first, pools;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      Device* other = jobs[i].device;
      const std::string_view pool = pool_of(spec_in(jobs[i].spec));
      if (pool.empty()) continue;
      Device*& found = first.try_emplace(pool, other).first->second;
      if (found == other) {
        if (!is_here[i]) pools.try_emplace(pool, found);
        continue;
      }
      if (is_cpu(found) || (!shares(found) && shares(other))) std::swap(found, other);
      pools[pool] = found;
      if (std::is_same_v<Spec, BlockSpec> && found->spans_devices()) continue;
      if (shares(found) && shares(other)) continue;
      throw TypeError("what pool '" + std::string(pool) + "' ranks must be on one device, got " +
                      (is_cpu(other) ? "some in CPU memory" : "some on " + other->name()) +
                      " beside " + found->name());
    }
    return pools;
  }

  static const Spec& spec_in(const std::any& compiled) {
    return std::any_cast<const Spec&>(compiled);
  }
};

/// A sparsifier whose config keys are the fields of a Spec: see SpecRule.
template <class Spec>
class SpecSparsifier : public BaseDataSparsifier {
 public:
  /// `own` are the defaults of a subclass's own keys. ValueError unless the spec can be used.
  explicit SpecSparsifier(const Spec& defaults = {}, const ParamMap& own = {});

  /// Computes the mask at once, from data of the mask's shape: the group's own, or any scores.
  void update_mask(const std::string& name, const ArrayView& data, const ParamMap& config) override;
  /// What a step ranks in the place of a group's data: scores of their shape, of any dtype and
  /// strides. nullptr, as by default, stands for the data themselves. Zeros that stay, apply_mask()
  /// and all figures go on being about the data.
  ///
  /// A step asks for the scores of all groups, then ranks: the memory must stay as it is until the
  /// source is let go of, at the end of the step at the latest. Above 512 KiB of them, groups are
  /// ranked in several batches, and those of one pool together. Called with the pinned data and the
  /// group's config. The same thread may read the sparsifier from here, and replace states; all
  /// else is a StateError. If it throws, all masks and states are as before, but for what it wrote
  /// itself through a Mask that was taken before the step.
  virtual std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView& data,
                                                 const ParamMap& config);
  /// TypeError for keys that are not the Spec's. A subclass with keys of its own checks them, and
  /// passes the rest on.
  void check_config(const std::string& name, const ParamMap& config) const override;
  /// A subclass with keys of its own passes the rest on.
  bool is_integer_param(const std::string& key) const override;

 protected:
  /// That nothing is known of the class.
  ForeignHooks foreign_hooks() const override;
  /// ForeignHooks::get_scores of a class that overrides get_scores().
  static std::shared_ptr<DataSource> own_scores(BaseDataSparsifier& self, const std::string& name,
                                                const ArrayView& data, const ParamMap& config);

 private:
  static ParamMap joined(const Spec& defaults, const ParamMap& own);
};

/// Whether a pointer to a member function points to one of some SpecSparsifier's.
template <class Function>
constexpr bool is_of_spec_sparsifier = false;
template <class Spec, class Signature>
constexpr bool is_of_spec_sparsifier<Signature SpecSparsifier<Spec>::*> = true;

// Not within the class, where they would be inline, and compiled by every program.

template <class Spec>
SpecSparsifier<Spec>::SpecSparsifier(const Spec& defaults, const ParamMap& own)
    : BaseDataSparsifier(joined(defaults, own), &SpecRule<Spec>::instance()) {}

template <class Spec>
ParamMap SpecSparsifier<Spec>::joined(const Spec& defaults, const ParamMap& own) {
  defaults.check({});
  ParamMap map = config_of(defaults);
  map.update(own);
  return map;
}

template <class Spec>
void SpecSparsifier<Spec>::update_mask(const std::string& name, const ArrayView& data,
                                       const ParamMap& config) {
  const GroupRow row = GroupTable(*this).row(name);
  if (data.shape() != row.mask.shape()) {
    throw ValueError("data of '" + name + "' must have the shape of its mask, " +
                     to_string(row.mask.shape()) + ", got " + to_string(data.shape()));
  }
  const Spec spec = spec_of<Spec>(config, name, OtherKeys::ignore)
                        .resolved(viewed_shape(data.shape(), row.layout), name);
  if (const auto pool = SpecRule<Spec>::pool_of(spec); !pool.empty()) {
    throw ValueError("update_mask() of '" + name + "' computes one mask by itself, but the group " +
                     "shares pool '" + std::string(pool) +
                     "': take it out of the pool, or rank by get_scores()");
  }
  SpecRule<Spec>::compute_one({data, spec, row.mask.data(), row.mask.hint(), row.layout,
                               row.kept_zeros.get(), &row.mask.device(), nullptr, nullptr,
                               &row.mask, row.kept_there.get()});
}

template <class Spec>
std::shared_ptr<DataSource> SpecSparsifier<Spec>::get_scores(const std::string&, const ArrayView&,
                                                             const ParamMap&) {
  return nullptr;
}

template <class Spec>
std::shared_ptr<DataSource> SpecSparsifier<Spec>::own_scores(BaseDataSparsifier& self,
                                                             const std::string& name,
                                                             const ArrayView& data,
                                                             const ParamMap& config) {
  return static_cast<SpecSparsifier&>(self).get_scores(name, data, config);
}

template <class Spec>
BaseDataSparsifier::ForeignHooks SpecSparsifier<Spec>::foreign_hooks() const {
  return {true, true, own_scores};
}

template <class Spec>
void SpecSparsifier<Spec>::check_config(const std::string& name, const ParamMap& config) const {
  spec_of<Spec>(config, name, OtherKeys::refuse);
}

template <class Spec>
bool SpecSparsifier<Spec>::is_integer_param(const std::string& key) const {
  const auto* const field = find_field<Spec>(key);
  return field != nullptr && field->traits.is_integer;
}

}  // namespace datasparse

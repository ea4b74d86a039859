#include "datasparse/checkpoint.hpp"

#include <algorithm>
#include <memory>
#include <unordered_map>

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/files.hpp"
#include "schedule/data_scheduler_impl.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

/// A sparsifier and schedulers of it, locked together for the length of a scope: nobody steps or
/// changes one of them.
class HeldStill {
 public:
  HeldStill(const BaseDataSparsifier& sparsifier,
            const std::vector<const BaseDataScheduler*>& schedulers, const char* call)
      : stepping_(hold(sparsifier, schedulers, call)), entry_(sparsifier, call) {}

  static Checkpoint take(const BaseDataSparsifier& sparsifier,
                         const std::vector<const BaseDataScheduler*>& schedulers) {
    const HeldStill held(sparsifier, schedulers, "saving a checkpoint");
    Checkpoint checkpoint;
    checkpoint.sparsifier = sparsifier.save_state();
    checkpoint.attributes = sparsifier.attributes();
    for (const auto* scheduler : schedulers) {
      checkpoint.schedulers.push_back({scheduler->save_state(), scheduler->attributes()});
    }
    return checkpoint;
  }

  static void restore(const Checkpoint& checkpoint, BaseDataSparsifier& sparsifier,
                      const std::vector<BaseDataScheduler*>& schedulers, bool strict) {
    require_as_many(schedulers.size(), checkpoint.schedulers.size(), strict);
    // What is replaced is destroyed last, outside the locks: it may wait for others.
    BaseDataSparsifier::Loading loading;
    std::vector<BaseDataScheduler::Loading> states;
    std::vector<std::function<void()>> attributes;
    const HeldStill held(sparsifier, {schedulers.begin(), schedulers.end()},
                         "loading a checkpoint");

    loading = sparsifier.prepare_load(checkpoint.sparsifier, strict);
    attributes.push_back(sparsifier.prepare_attributes(checkpoint.attributes));
    const ValuesCheck fits(sparsifier, checkpoint.sparsifier);
    for (std::size_t i = 0; i < schedulers.size(); ++i) {
      const auto& saved = checkpoint.schedulers[i];
      try {
        states.push_back(schedulers[i]->prepare_load(saved.state));
        fits(saved.state.schedule_param, saved.state.base_param);
        fits(saved.state.schedule_param, saved.state.last_param);
        attributes.push_back(schedulers[i]->prepare_attributes(saved.attributes));
      } catch (...) {
        rethrow_of(i);
      }
    }
    // The last that may fail, as it changes the schedulers.
    set_own_states(schedulers, checkpoint);

    sparsifier.commit(loading);
    for (std::size_t i = 0; i < schedulers.size(); ++i) schedulers[i]->commit(states[i]);
    for (const auto& put_into_place : attributes) put_into_place();
  }

 private:
  using Steppings = std::vector<std::unique_ptr<BaseDataScheduler::Stepping>>;

  /// Locks the schedulers in the order of their addresses, so that two threads that hold the same
  /// ones do not wait for each other.
  static Steppings hold(const BaseDataSparsifier& sparsifier,
                        std::vector<const BaseDataScheduler*> schedulers, const char* call) {
    std::sort(schedulers.begin(), schedulers.end(), std::less<>());
    if (std::adjacent_find(schedulers.begin(), schedulers.end()) != schedulers.end()) {
      throw ValueError("schedulers must be different ones, got one twice");
    }
    Steppings held;
    for (const auto* scheduler : schedulers) {
      if (scheduler == nullptr) throw ValueError("schedulers must not be null");
      if (scheduler->data_sparsifier().get() != &sparsifier) {
        throw ValueError("schedulers must drive the sparsifier that is given, got one of '" +
                         scheduler->schedule_param() + "' that drives another");
      }
      held.push_back(std::make_unique<BaseDataScheduler::Stepping>(*scheduler, call));
    }
    return held;
  }

  static void require_as_many(std::size_t given, std::size_t saved, bool strict) {
    if (given == saved || (given < saved && !strict)) return;
    throw ValueError("schedulers must be as many as the checkpoint holds, " +
                     std::to_string(saved) + ", got " + std::to_string(given) +
                     (given < saved ? "; pass strict=False to load the first ones" : ""));
  }

  /// All, or none of them.
  static void set_own_states(const std::vector<BaseDataScheduler*>& schedulers,
                             const Checkpoint& checkpoint) {
    std::vector<ParamMap> before;
    before.reserve(schedulers.size());
    for (const auto* scheduler : schedulers) before.push_back(scheduler->own_state());
    std::size_t done = 0;
    try {
      for (; done < schedulers.size(); ++done) {
        schedulers[done]->set_own_state(checkpoint.schedulers[done].state.own);
      }
    } catch (...) {
      const std::size_t refused = done;
      while (done-- > 0) schedulers[done]->set_own_state(before[done]);
      rethrow_of(refused);
    }
  }

  /// To be called while handling an exception: what a file's values lead to names the scheduler.
  [[noreturn]] static void rethrow_of(std::size_t scheduler) {
    try {
      throw;
    } catch (const ValueError& error) {
      throw ValueError("scheduler " + std::to_string(scheduler) + ": " + error.what());
    } catch (const TypeError& error) {
      throw ValueError("scheduler " + std::to_string(scheduler) + ": " + error.what());
    }
  }

  /// Whether a scheduler's saved values could be written over the saved configs.
  class ValuesCheck {
   public:
    ValuesCheck(const BaseDataSparsifier& sparsifier, const SparsifierState& state)
        : checked_(sparsifier) {
      for (const auto& group : state.groups) groups_.emplace(group.name, &group);
    }

    void operator()(const std::string& key, const ParamMap& values) const {
      for (const auto& [name, value] : values) {
        const auto group = groups_.find(name);
        if (group == groups_.end()) continue;
        if (holds_nan(value)) {
          throw ValueError(label(key, name) + " must not be NaN, got " + to_string(value));
        }
        ParamMap config = group->second->config;
        config.set(key, value);
        const Axes viewed = viewed_shape(group->second->shape, group->second->layout);
        checked_(name, std::move(config), &viewed);
      }
    }

   private:
    BaseDataSparsifier::Checker checked_;
    std::unordered_map<std::string, const GroupState*> groups_;
  };

  Steppings stepping_;
  BaseDataSparsifier::Entry entry_;
};

Checkpoint take_checkpoint(const BaseDataSparsifier& sparsifier,
                           const std::vector<const BaseDataScheduler*>& schedulers) {
  return HeldStill::take(sparsifier, schedulers);
}

void restore_checkpoint(const Checkpoint& checkpoint, BaseDataSparsifier& sparsifier,
                        const std::vector<BaseDataScheduler*>& schedulers, bool strict) {
  try {
    HeldStill::restore(checkpoint, sparsifier, schedulers, strict);
  } catch (const TypeError& error) {
    throw ValueError(error.what());  // the kinds of values are the checkpoint's, not the caller's
  }
}

void write_checkpoint(const std::string& path, const Checkpoint& checkpoint) {
  const std::string header = encode_header(checkpoint);
  std::vector<std::pair<const void*, std::size_t>> pieces{{header.data(), header.size()}};
  for (const auto& group : checkpoint.sparsifier.groups) {
    pieces.emplace_back(group.mask_bits.data(), group.mask_bits.size());
    if (!group.kept_zeros.empty()) {
      pieces.emplace_back(group.kept_zeros.data(), group.kept_zeros.size());
    }
    for (const auto& item : group.arrays) {
      pieces.emplace_back(item.second.data(), item.second.byte_count());
    }
  }
  replace_file(path, pieces);
}

Checkpoint read_checkpoint(const std::string& path) {
  const InputFile file(path);
  try {
    return decode_checkpoint(
        file.size(),
        [&file](std::uint64_t offset, void* to, std::size_t size) { file.read(offset, to, size); });
  } catch (const ValueError& error) {
    throw ValueError("cannot load '" + path + "': " + error.what());
  }
}

void save_checkpoint(const std::string& path, const BaseDataSparsifier& sparsifier,
                     const std::vector<const BaseDataScheduler*>& schedulers) {
  write_checkpoint(path, take_checkpoint(sparsifier, schedulers));
}

void load_checkpoint(const std::string& path, BaseDataSparsifier& sparsifier,
                     const std::vector<BaseDataScheduler*>& schedulers, bool strict) {
  const Checkpoint checkpoint = read_checkpoint(path);
  try {
    restore_checkpoint(checkpoint, sparsifier, schedulers, strict);
  } catch (const ValueError& error) {
    throw ValueError("cannot load '" + path + "': " + error.what());
  }
}

}  // namespace datasparse

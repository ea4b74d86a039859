/// The configs of all groups at once: what a scheduler reads and writes.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/data_sparsifier.hpp"

namespace datasparse {

/// A sparsifier's config keys over all groups: `GroupParams(sparsifier).get("sparsity_level")`.
/// Each call takes the sparsifier's lock once; errors and threads are as of the sparsifier's own.
class DATASPARSE_API GroupParams {
 public:
  explicit GroupParams(BaseDataSparsifier& sparsifier) noexcept : sparsifier_(sparsifier) {}

  /// Every key that a group or the defaults have, for "did you mean".
  std::vector<std::string> known() const;
  /// `key` of every group that has it, by group name. A map `into` that holds these names already
  /// is not built anew.
  ParamMap get(const std::string& key, ParamMap into = {}) const;
  /// Writes `key` for every group named in `values`, all or none, and returns what get(key, into)
  /// returns from then on. Where `into` holds the names already, and no check_config() of a
  /// subclass is called, a group costs about 0.1 µs, and no more memory.
  ParamMap set(const std::string& key, const ParamMap& values, ParamMap into = {});
  /// Throws what set() would throw, and writes nothing.
  void check(const std::string& key, const ParamMap& values) const;
  /// The text of the ValueError that set() would throw, or an empty one. A check_config() of a
  /// subclass is not called: where there is one, the text is empty.
  std::string refusal(const std::string& key, const ParamMap& values) const;
  /// How many elements a step would zero in each group named in `values`, in their order, if `key`
  /// had these values, and in their pools; in a frozen one, how many are zero. Empty where only
  /// running update_mask() would tell. Throws what set() would throw; writes nothing, and reads
  /// nothing but the masks of frozen groups.
  ZeroCounts count_zeros(const std::string& key, const ParamMap& values) const;
  /// Replaces whole configs, on top of the defaults; all of them or none.
  void replace(const std::vector<std::pair<std::string, ParamMap>>& configs);
  /// Takes a key out of a group's config, if check_config() accepts the rest.
  void erase(const std::string& name, const std::string& key);
  /// Replaces a group's state by what change() makes of it. No other thread writes in between.
  void change_state(const std::string& name, const std::function<void(ParamMap&)>& change);
  /// The same of the defaults, if check_config() accepts them.
  void change_defaults(const std::function<void(ParamMap&)>& change);

 private:
  using Entry = BaseDataSparsifier::Entry;
  using Config = BaseDataSparsifier::Config;
  using Change = BaseDataSparsifier::Change;
  using Checker = BaseDataSparsifier::Checker;
  std::vector<Change> changes(const Checker& checked, const std::string& key,
                              const ParamMap& values) const;
  template <class Work>
  auto during(std::vector<Change>& changes, const std::string& key, bool kept,
              const Work& work) const;

  BaseDataSparsifier& sparsifier_;
};

}  // namespace datasparse

/// Arrays that groups keep: what a score sums up, what a method remembers of each element.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "datasparse/data_sparsifier.hpp"
#include "datasparse/kept_array.hpp"

namespace datasparse {

/// A sparsifier's arrays, by group and key: `GroupArrays(sparsifier).set("w", "sums", array)`.
///
/// They stay beside a group's `state`: they are saved, copied, loaded and dropped with it, and its
/// data never matter to them. They may be written from inside an override, too; a step that throws
/// brings back those that were there before. Each call takes the sparsifier's lock once. Errors:
/// UnknownNameError for a name that is no group's; ValueError for a key that has other signs than
/// letters, digits and '_'. Nothing has changed then.
class DATASPARSE_API GroupArrays {
 public:
  explicit GroupArrays(BaseDataSparsifier& sparsifier) noexcept : sparsifier_(sparsifier) {}

  /// Puts an array under a key, in the place of the one that is there. Copies no element.
  void set(const std::string& name, const std::string& key, KeptArray array);
  /// The array as it is now, without a copy; it stays so, whatever is written later. Nothing where
  /// there is none.
  std::optional<KeptArray> get(const std::string& name, const std::string& key) const;
  /// Calls `work` with the array itself, to be changed in place: without a copy, unless somebody
  /// holds what get(), a saved state or a step under way has of it. False where there is none. What
  /// `work` throws leaves what it has written. It must not call the sparsifier.
  bool edit(const std::string& name, const std::string& key,
            const std::function<void(KeptArray&)>& work);
  /// Whether there was one.
  bool erase(const std::string& name, const std::string& key);
  /// Takes arrays of these keys from all groups.
  void erase_all(const std::vector<std::string>& keys);

  /// The keys of a group's arrays, sorted.
  std::vector<std::string> keys(const std::string& name) const;
  /// What the arrays of these keys take of memory, in all groups; of all keys, where none is named.
  std::int64_t bytes(const std::vector<std::string>& keys = {}) const;

 private:
  using Entry = BaseDataSparsifier::Entry;

  BaseDataSparsifier& sparsifier_;
};

}  // namespace datasparse

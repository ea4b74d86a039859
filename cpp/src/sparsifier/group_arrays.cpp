// Arrays of groups: written, read, dropped.

#include "datasparse/group_arrays.hpp"

#include <algorithm>
#include <utility>

#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

void GroupArrays::set(const std::string& name, const std::string& key, KeptArray array) {
  require_array_key(key, "arrays of '" + name + "'");
  const Entry entry(sparsifier_);
  auto& group = sparsifier_.impl_->at(name);
  std::swap(group.arrays[key], array);  // the one before goes outside the lock
  if (key == group.ever_active_key) group.forget_ever_there();
}

std::optional<KeptArray> GroupArrays::get(const std::string& name, const std::string& key) const {
  const Entry entry(sparsifier_);
  auto& group = sparsifier_.impl_->at(name);
  if (key == group.ever_active_key) group.bring_ever_here();
  const auto& arrays = group.arrays;
  const auto found = arrays.find(key);
  return found == arrays.end() ? std::nullopt : std::optional(found->second);
}

bool GroupArrays::edit(const std::string& name, const std::string& key,
                       const std::function<void(KeptArray&)>& work) {
  const Entry entry(sparsifier_);
  auto& group = sparsifier_.impl_->at(name);
  if (key == group.ever_active_key) group.keep_ever_here();
  const auto found = group.arrays.find(key);
  if (found == group.arrays.end()) return false;
  work(found->second);
  return true;
}

bool GroupArrays::erase(const std::string& name, const std::string& key) {
  const Entry entry(sparsifier_);
  auto& group = sparsifier_.impl_->at(name);
  if (key == group.ever_active_key) group.forget_ever_there();
  return group.arrays.erase(key) != 0;
}

void GroupArrays::erase_all(const std::vector<std::string>& keys) {
  const Entry entry(sparsifier_);
  for (const auto& group : sparsifier_.impl_->groups) {
    for (const auto& key : keys) {
      if (key == group->ever_active_key) group->forget_ever_there();
      group->arrays.erase(key);
    }
  }
}

std::vector<std::string> GroupArrays::keys(const std::string& name) const {
  const Entry entry(sparsifier_);
  std::vector<std::string> result;
  for (const auto& item : sparsifier_.impl_->at(name).arrays) result.push_back(item.first);
  return result;
}

std::int64_t GroupArrays::bytes(const std::vector<std::string>& keys) const {
  const Entry entry(sparsifier_);
  std::size_t total = 0;
  for (const auto& group : sparsifier_.impl_->groups) {
    for (const auto& [key, array] : group->arrays) {
      const bool counts = keys.empty() || std::find(keys.begin(), keys.end(), key) != keys.end();
      if (counts) total += array.byte_count();
    }
  }
  return static_cast<std::int64_t>(total);
}

}  // namespace datasparse

/// Tensors in parts that nobody sees together, and what a walk over all of their blocks prunes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "datasparse/shard_selection.hpp"
#include "support.hpp"

namespace datasparse {

using ShardKeys = std::vector<std::uint64_t>;  // of a group's blocks, row-major

/// Blocks of a group that lie together, by (key, index).
struct ShardPart {
  std::vector<std::pair<std::uint64_t, std::int64_t>> blocks;

  void sort() { std::sort(blocks.begin(), blocks.end()); }
  /// How many come before a place of the group's own.
  std::int64_t below(std::uint64_t key, std::int64_t position) const {
    const auto end = std::lower_bound(blocks.begin(), blocks.end(), std::make_pair(key, position));
    return end - blocks.begin();
  }
};

/// How a group is divided among those who take part.
enum class Split { runs, strided, random };

inline std::vector<ShardPart> split_into(const ShardKeys& keys, std::size_t parts, Split split,
                                         Random& random) {
  std::vector<ShardPart> result(parts);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    std::size_t part = i * parts / keys.size();
    if (split == Split::strided) part = i % parts;
    if (split == Split::random) {
      part = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(parts)));
    }
    result[part].blocks.emplace_back(keys[i], static_cast<std::int64_t>(i));
  }
  for (ShardPart& part : result) part.sort();
  return result;
}

/// Groups by number, each in parts: those of one number of all groups are one rank's.
struct ShardedGroups {
  std::vector<std::vector<ShardPart>> groups;

  /// What all ranks have counted, summed up.
  std::vector<std::int64_t> answer(const ShardSelection& selection) const {
    std::vector<std::int64_t> numbers(selection.size());
    for (const auto& question : selection.questions()) {
      std::vector<std::int64_t> counts(question.places.size() + 1);
      for (std::size_t m = 0; m < question.groups->size(); ++m) {
        for (const ShardPart& part : groups[(*question.groups)[m]]) {
          for (std::size_t i = 0; i < question.places.size(); ++i) {
            const ShardPlace& place = question.places[i];
            counts[i] = part.below(place.key, place.position - (*question.first)[m]);
          }
          counts.back() = static_cast<std::int64_t>(part.blocks.size());
          selection.add(question, m, counts.data(), numbers.data());
        }
      }
    }
    return numbers;
  }
};

/// How many blocks of each group a walk over all of them prunes: as PoolPlan's comment says. It
/// prunes the lowest ones of each, by (key, index).
inline std::vector<std::int64_t> walked(const PoolPlan& plan, const std::vector<ShardKeys>& keys) {
  struct Block {
    std::uint64_t key;
    std::size_t member;
  };
  std::vector<Block> order;
  std::int64_t left = plan.budget;
  for (std::size_t m = 0; m < keys.size(); ++m) {
    for (const std::uint64_t key : keys[m]) order.push_back({key, m});
    left -= plan.members[m].least * plan.members[m].weight;
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Block& a, const Block& b) { return a.key < b.key; });
  std::vector<std::int64_t> pruned(keys.size(), 0);
  for (const Block& block : order) {
    const PoolMember& member = plan.members[block.member];
    std::int64_t& count = pruned[block.member];
    if (member.weight == 0 || count >= member.most) continue;
    const std::int64_t price = count < member.least ? 0 : member.weight;
    if (price > left) break;
    left -= price;
    ++count;
  }
  // What is set aside is spent, whether the walk came so far or not.
  for (std::size_t m = 0; m < keys.size(); ++m) {
    if (plan.members[m].weight > 0) pruned[m] = std::max(pruned[m], plan.members[m].least);
  }
  return pruned;
}

}  // namespace datasparse

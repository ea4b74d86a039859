/// Tensors in parts that nobody sees together, and what a walk over all of their blocks prunes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/keys.hpp"
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

/// Asks and tells until it is done.
inline void run(ShardSelection& selection, const ShardedGroups& groups) {
  constexpr std::int64_t many = 200;
  while (!selection.done()) {
    ASSERT_LT(selection.rounds(), many) << "does not end";
    selection.tell(groups.answer(selection));
  }
}

/// What keys are made of.
struct KeyKind {
  enum Scores { even, few, equal, mostly_zero, nan, of_any_size, infinite, steps, count };
  Scores scores;
  bool is_wide, has_sign;
  int key_step;
  double scale;
};

inline std::uint64_t random_key(Random& random, const KeyKind& kind) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  // What is pruned before all others, and what may not be chosen.
  const std::uint64_t others = kind.is_wide ? KeyTraits<std::uint64_t>::nan + 1
                                            : std::uint64_t{KeyTraits<std::uint32_t>::nan} + 1;
  if (kind.scores == KeyKind::infinite && random.one_in(5)) return random.one_in(2) ? 0 : others;
  double score = 0;
  switch (kind.scores) {
    case KeyKind::even: score = random.unit() * 2 - 1; break;
    case KeyKind::few: score = static_cast<double>(random.between(-2, 2)); break;
    case KeyKind::equal: score = -1; break;
    case KeyKind::mostly_zero: score = random.one_in(5) ? random.unit() : -0.; break;
    case KeyKind::nan: score = nan; break;
    case KeyKind::of_any_size:
      score = std::ldexp(random.unit() - 0.5, static_cast<int>(random.between(-120, 120)));
      break;
    case KeyKind::infinite:
      score = random.one_in(3) ? nan : random.one_in(2) ? -infinity : random.unit();
      break;
    default: score = std::floor(random.unit() * 40) / 40;
  }
  score *= kind.scale;
  if (!kind.has_sign) score = std::abs(score);
  const std::uint64_t key = kind.is_wide ? key_of<std::uint64_t>(score)
                                         : key_of<std::uint32_t>(static_cast<float>(score));
  return std::isnan(score) ? key : key >> kind.key_step << kind.key_step;
}

/// Some searches at once, of groups whose keys are hard to tell apart, or easy.
struct ShardCase {
  std::vector<ShardSearch> searches;
  std::vector<std::vector<ShardKeys>> keys;  // by search and member
  ShardedGroups groups;
  std::int64_t most = 0;

  void add_member(Random& random, const KeyKind& kind, std::int64_t blocks, std::int64_t weight,
                  bool is_bounded, std::size_t parts) {
    ShardKeys own;
    for (std::int64_t i = 0; i < blocks; ++i) own.push_back(random_key(random, kind));
    PoolMember member{blocks, weight, 0, blocks};
    if (is_bounded && random.one_in(2)) member.most = random.between(0, blocks);
    if (is_bounded && random.one_in(2)) member.least = random.between(0, member.most);
    if (weight == 0) member.least = member.most = 0;
    searches.back().groups.push_back(groups.groups.size());
    searches.back().plan.members.push_back(member);
    groups.groups.push_back(split_into(own, parts, static_cast<Split>(random.below(3)), random));
    keys.back().push_back(std::move(own));
  }

  void add_search(Random& random, std::size_t parts, std::int64_t blocks_most) {
    KeyKind kind{};
    const auto draw_scores = [&] {
      kind.scores = static_cast<KeyKind::Scores>(random.below(KeyKind::count));
    };
    draw_scores();
    kind.is_wide = random.one_in(3);
    kind.has_sign = random.one_in(3);
    if (random.one_in(3)) kind.key_step = kind.is_wide ? 29 : random.one_in(2) ? 16 : 13;
    kind.scale = random.one_in(4) ? std::ldexp(1, static_cast<int>(random.between(-40, 20))) : 1;
    ShardSearch& search = searches.emplace_back();
    keys.emplace_back();
    search.is_wide = kind.is_wide;
    search.has_sign = kind.has_sign;
    search.key_step = kind.key_step;
    const bool weighs = random.one_in(3), is_bounded = random.one_in(3), differ = random.one_in(5);
    for (auto left = random.one_in(2) ? 1 : random.between(1, 8); left > 0; --left) {
      if (differ) draw_scores();
      add_member(random, kind, random.one_in(10) ? 0 : random.between(1, blocks_most),
                 weighs ? random.between(0, 5) : 1, is_bounded, parts);
    }
    std::int64_t at_least = 0, at_most = 0;
    for (const auto& [blocks, weight, least, most_of_it] : search.plan.members) {
      at_least += weight * least;
      at_most += weight * most_of_it;
    }
    search.plan.budget = random.one_in(8)   ? at_least
                         : random.one_in(8) ? at_most
                                            : random.between(at_least, at_most);
  }

  /// The group of which other blocks are pruned than by the walk.
  std::string fault(const ShardSelection& selection) const {
    for (std::size_t s = 0; s < searches.size(); ++s) {
      const auto pruned = walked(searches[s].plan, keys[s]);
      for (std::size_t m = 0; m < pruned.size(); ++m) {
        const std::size_t group = searches[s].groups[m];
        const ShardPlace stop = selection.stop(group);
        std::int64_t found = 0;
        for (const ShardPart& part : groups.groups[group]) {
          found += part.below(stop.key, stop.position);
        }
        if (found == pruned[m]) continue;
        return "search " + std::to_string(s) + ", group " + std::to_string(group) + ": " +
               std::to_string(found) + " pruned, not " + std::to_string(pruned[m]);
      }
    }
    return "";
  }
};

inline ShardCase random_shard_case(Random& random) {
  ShardCase one;
  one.most = random.one_in(16) ? 8192 : random.between(16, 400);
  const auto parts = static_cast<std::size_t>(random.between(1, 6));
  for (auto left = random.one_in(3) ? 1 : random.between(1, 6); left > 0; --left) {
    one.add_search(random, parts, random.one_in(4) ? 300 : 40);
  }
  return one;
}

/// Anything that fits into it.
inline ShardHint random_hint(Random& random) {
  const auto number = [&] {
    switch (random.below(5)) {
      case 0: return std::numeric_limits<double>::quiet_NaN();
      case 1: return std::numeric_limits<double>::infinity();
      case 2: return -random.unit();
      case 3: return std::ldexp(random.unit(), static_cast<int>(random.between(-300, 300)));
      default: return random.unit() * 1000;
    }
  };
  const auto integer = [&] {
    return random.one_in(2) ? static_cast<std::int64_t>(random.bits()) : random.below(100);
  };
  const std::uint64_t likely = 0x80000000U + random.bits() % 0x40000000U;
  return {random.one_in(2) ? random.bits() : likely, integer(), integer(), number(), number()};
}

/// Random searches without hints, with those of the same data, and with such as mislead. Returns
/// how many rounds each took, on the average and at the most.
inline std::pair<double, std::int64_t> expect_walks(Random& random, int cases) {
  std::int64_t most = 0, all = 0, runs = 0;
  for (int i = 0; i < cases; ++i) {
    ShardCase one = random_shard_case(random);
    for (int step = 0; step < 3; ++step) {
      ShardSelection selection(one.searches, one.most);
      run(selection, one.groups);
      if (testing::Test::HasFatalFailure()) return {};
      const std::string fault = one.fault(selection);
      EXPECT_EQ(fault, "") << "case " << i << ", step " << step;
      if (!fault.empty()) return {};
      most = std::max(most, selection.rounds());
      all += selection.rounds();
      ++runs;
      for (std::size_t s = 0; s < one.searches.size(); ++s) {
        one.searches[s].hints = selection.hints(s);
        if (step == 0) continue;
        one.searches[s].hints.resize(1 + one.searches[s].groups.size());
        for (ShardHint& hint : one.searches[s].hints) {
          if (random.one_in(2)) hint = random_hint(random);
        }
      }
    }
  }
  return {static_cast<double>(all) / static_cast<double>(runs), most};
}

}  // namespace datasparse

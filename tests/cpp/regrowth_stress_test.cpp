// Masks that move against sorted lists, on what is hard on the engine. Built twice, as
// stress_test.cpp is.

#include <cmath>
#include <iostream>
#include <tuple>

#include "select/regrowth_engine.hpp"
#include "stress.hpp"

namespace datasparse {
namespace {

/// random.hpp once more.
std::uint64_t stirred(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

struct Moving {
  std::int64_t rows, columns;
  RegrowthSpec spec;
  Growth growth;
  std::uint64_t stream;
  std::vector<float> weights, gradients;
  Bytes mask, kept;

  std::int64_t height() const { return spec.block_height; }
  std::int64_t width() const { return spec.block_width; }
  std::int64_t across() const { return (columns + width() - 1) / width(); }
  std::int64_t blocks() const { return (rows + height() - 1) / height() * across(); }

  /// The places of a block's elements.
  std::vector<std::size_t> elements(std::int64_t block) const {
    std::vector<std::size_t> places;
    const std::int64_t top = block / across() * height(), left = block % across() * width();
    for (std::int64_t r = top; r < std::min(rows, top + height()); ++r) {
      for (std::int64_t c = left; c < std::min(columns, left + width()); ++c) {
        places.push_back(static_cast<std::size_t>(r * columns + c));
      }
    }
    return places;
  }

  /// Orders blocks as they are chosen: NaN behind all, equal ones by their index.
  std::tuple<bool, double, std::int64_t> rank(const std::vector<float>& of,
                                              std::int64_t block) const {
    const auto places = elements(block);
    float sum = 0;
    for (const auto place : places) sum += std::abs(of[place]);
    const float mean = sum / static_cast<float>(places.size());
    return {std::isnan(mean), std::isnan(mean) ? 0 : static_cast<double>(mean), block};
  }
  std::tuple<bool, double, std::int64_t> drawn(std::int64_t block) const {
    constexpr std::uint64_t odd = 0x9E3779B97F4A7C15U;
    const std::uint64_t number = stirred(stream + static_cast<std::uint64_t>(block) * odd) >> 34;
    return {false, static_cast<double>(number), block};
  }

  /// Changes masks and weights.
  void step() {
    enum State { pruned, dead, active, dropped, grown };
    std::vector<State> states;
    std::int64_t actives = 0, deads = 0;
    for (std::int64_t block = 0; block < blocks(); ++block) {
      bool all_kept = true, is_active = true;
      for (const auto place : elements(block)) {
        all_kept = all_kept && kept[place] != 0;
        is_active = is_active && (mask[place] != 0 || kept[place] != 0);
      }
      states.push_back(all_kept ? dead : is_active ? active : pruned);
      actives += states.back() == active ? 1 : 0;
      deads += all_kept ? 1 : 0;
    }
    const auto before = states;
    using Ranks = std::vector<std::tuple<bool, double, std::int64_t>>;
    const auto target =
        static_cast<std::int64_t>(std::nearbyint(spec.sparsity_level * double(blocks())));
    const auto fraction =
        static_cast<std::int64_t>(std::floor(spec.drop_fraction * double(actives)));
    Ranks ranks;
    for (std::int64_t block = 0; block < blocks(); ++block) {
      if (states[static_cast<std::size_t>(block)] == active) ranks.push_back(rank(weights, block));
    }
    std::sort(ranks.begin(), ranks.end());
    const std::int64_t drops = std::max(fraction, target - (blocks() - actives));
    for (std::int64_t i = 0; i < std::min(drops, actives); ++i) {
      states[static_cast<std::size_t>(std::get<2>(ranks[static_cast<std::size_t>(i)]))] = dropped;
    }
    ranks.clear();
    for (std::int64_t block = 0; block < blocks(); ++block) {
      const State state = states[static_cast<std::size_t>(block)];
      if (state == active || state == dead) continue;
      ranks.push_back(growth == Growth::by_chance ? drawn(block) : rank(gradients, block));
    }
    std::sort(ranks.begin(), ranks.end());
    for (auto i = static_cast<std::size_t>(std::max<std::int64_t>(target - deads, 0));
         i < ranks.size(); ++i) {
      states[static_cast<std::size_t>(std::get<2>(ranks[i]))] = grown;
    }
    for (std::int64_t block = 0; block < blocks(); ++block) {
      const auto b = static_cast<std::size_t>(block);
      const bool keeps = states[b] == active || states[b] == grown;
      for (const auto place : elements(block)) {
        mask[place] = keeps && kept[place] == 0 ? 1 : 0;
        if (states[b] == grown && before[b] != active && kept[place] == 0) weights[place] = 0;
      }
    }
  }
};

Moving random_moving(Random& random, std::int64_t elements_max) {
  Moving one{};
  one.columns = random.between(1, random.one_in(2) ? 40 : elements_max / 4);
  one.rows = random.between(1, std::max<std::int64_t>(1, elements_max / one.columns));
  if (random.one_in(2)) {
    one.spec.block_height = random.between(1, 4);
    one.spec.block_width = random.between(1, 5);
  }
  one.spec.block_height = std::min(one.spec.block_height, one.rows);
  one.spec.block_width = std::min(one.spec.block_width, one.columns);
  one.spec.sparsity_level = random.unit();
  one.spec.drop_fraction = random.one_in(5) ? 1 : random.unit();
  one.growth = random.one_in(2) ? Growth::by_chance : Growth::by_gradient;
  one.stream = random.bits();
  const auto size = static_cast<std::size_t>(one.rows * one.columns);
  const std::int64_t kind = random.below(4);
  const auto value = [&]() -> float {
    if (random.one_in(50)) return std::nanf("");
    if (kind == 0) return 1;
    const auto number = static_cast<float>(random.unit());
    return kind == 1 ? std::round(number * 8) : number - 0.5F;
  };
  const bool any_kept = random.one_in(3);
  const double level = random.unit();
  for (std::size_t i = 0; i < size; ++i) {
    one.weights.push_back(value());
    one.gradients.push_back(value());
    one.kept.push_back(any_kept && random.one_in(2) ? 1 : 0);
    one.mask.push_back(one.kept[i] == 0 && random.unit() > level ? 1 : 0);
  }
  return one;
}

TEST(RegrowthStress, RandomStepsAgreeWithSortedLists) {
  const int count = limits_are_small ? cases(300, 20000) : cases(20, 1000);
  Random random(limits_are_small ? 700 : 701);
  for (int done = 0; done < count; ++done) {
    Moving one = random_moving(random, limits_are_small ? 16 * in_memory_max : 300000);
    const Axes shape{one.rows, one.columns};
    const auto size = one.rows * one.columns;
    for (int step = 0; step < 3; ++step) {
      Moving expected = one;
      expected.step();
      Bytes bits(packed_size(size)), ever(packed_size(size));
      pack_bits(bits.data(), one.kept.data(), size);
      const bool any_kept = std::count(one.kept.begin(), one.kept.end(), 0) < size;
      MaskMove move{one.growth,
                    false,
                    one.stream,
                    ArrayView(one.gradients.data(), shape),
                    ArrayView(one.weights.data(), shape),
                    ever.data()};
      const RegrowthSpec spec = one.spec.resolved(shape);
      const ArrayView data(one.weights.data(), shape);
      JobOf<RegrowthSpec> job{data, spec, one.mask.data()};
      job.kept_zeros = any_kept ? bits.data() : nullptr;
      job.move = &move;
      const Threads threads(static_cast<int>(random.between(1, 4)));
      move_masks({job}, *random.pick(all_tables()));
      ASSERT_EQ(one.mask, expected.mask) << "step " << step << " of case " << done;
      for (std::size_t i = 0; i < one.weights.size(); ++i) {
        const bool same = std::memcmp(&one.weights[i], &expected.weights[i], sizeof(float)) == 0;
        ASSERT_TRUE(same) << "weight " << i << ", step " << step << " of case " << done;
      }
      one.stream = random.bits();
      one.spec.sparsity_level = random.one_in(2) ? one.spec.sparsity_level : random.unit();
    }
  }
  std::cout << count << " masks" << std::endl;
}

}  // namespace
}  // namespace datasparse

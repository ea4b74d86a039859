#include "select/shard_places.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace datasparse {
namespace {

/// Numbers above zero by their bits, which are nearly in proportion to the logarithm.
double bits_of(double number) noexcept {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &number, sizeof(bits));
  return static_cast<double>(bits);
}
double of_bits(double given) noexcept {
  const auto bits = static_cast<std::uint64_t>(given);
  double number = 0;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

/// Collects places inside a range.
class Places {
 public:
  explicit Places(const ShardRange& range) : range_(range) {}

  void add(const ShardPlace& place) {
    if (range_.holds(place)) places_.push_back(place);
  }
  /// One that is inside of what is known.
  void add_known(const ShardPlace& place) { places_.push_back(place); }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(places_.size()); }
  /// `apart`: how far the next one is. Where it is more than a step, positions tell nothing more.
  void add(double coordinate, double apart) { add(range_.at(coordinate, apart >= 0.5)); }
  /// So many, with neither end.
  void evenly(double low, double high, std::int64_t count) {
    const double apart = (high - low) / static_cast<double>(count + 1);
    for (std::int64_t i = 1; i <= count; ++i) add(low + apart * static_cast<double>(i), apart);
  }
  /// So many between two coordinates, ever farther apart: in proportion to `scale`, and to the
  /// distance from the first.
  void outwards(double from, double scale, double to, std::int64_t count) {
    const double sign = to < from ? -1 : 1;
    if (!std::isfinite(scale + std::abs(to - from))) return;
    const double first = bits_of(scale), last = bits_of(scale + std::abs(to - from));
    double distance = 0;
    for (std::int64_t i = 1; i <= count; ++i) {
      const double share = static_cast<double>(i) / static_cast<double>(count + 1);
      const double next = of_bits(first + (last - first) * share) - scale;
      add(from + sign * next, next - distance);
      distance = next;
    }
  }
  /// Leaves so many, of all over the range.
  void thin(std::int64_t count) {
    std::sort(places_.begin(), places_.end());
    places_.erase(std::unique(places_.begin(), places_.end()), places_.end());
    const std::size_t all = places_.size(), left = static_cast<std::size_t>(count);
    if (all <= left) return;
    for (std::size_t i = 0; i < left; ++i) places_[i] = places_[(2 * i + 1) * all / (2 * left)];
    places_.resize(left);
  }
  std::vector<ShardPlace> taken(std::int64_t count) {
    thin(count);
    return std::move(places_);
  }

 private:
  const ShardRange& range_;
  std::vector<ShardPlace> places_;
};

double cost_of(const ShardRange& range) noexcept {
  return static_cast<double>(range.cost_end - range.cost_first);
}

/// How much denser blocks lie at the end of the range than at its first place, over the density in
/// the middle: by what lies beside it. In one octave only, where keys are in proportion to values.
double slope_of(const ShardRange& range) noexcept {
  constexpr double few = 16;  // blocks, which say nothing
  const int bits = range.fraction_bits();
  if (range.first.key >> bits != (range.end.key - 1) >> bits) return 0;
  const double low = range.value_of(range.first.key), high = range.value_of(range.end.key);
  const double width = high - low;
  if (!(width > 0) || !std::isfinite(width) || cost_of(range) < few * range.weight) return 0;
  struct Beside {
    double distance, slope;  // from the middle of the range, over its width
  };
  const auto beside = [&](double other, std::int64_t known) -> Beside {
    const auto cost = static_cast<double>(known);
    if (!(other > 0) || !std::isfinite(other) || cost < few * range.weight) return {0, 0};
    const double distance = (1 + other / width) / 2;
    return {distance, (cost / other * width / cost_of(range) - 1) / distance};
  };
  const Beside below =
      beside(low - range.value_of(range.before.key), range.cost_first - range.cost_before);
  const Beside above =
      beside(range.value_of(range.behind.key) - high, range.cost_behind - range.cost_end);
  double slope = above.slope - below.slope;  // of one; the other is 0
  if (below.distance > 0 && above.distance > 0) {
    slope = (above.slope * below.distance - below.slope * above.distance) /
            (below.distance + above.distance);
  }
  return std::clamp(slope, -1.8, 1.8);
}

/// Where a budget ends, if blocks lie in the range as densely as its surroundings suggest.
struct Expected {
  double center, spread;  // coordinates
};
Expected expected_in(const ShardRange& range, std::int64_t budget) noexcept {
  const double all = cost_of(range);
  const double share = static_cast<double>(budget - range.cost_first) / all;
  const double slope = slope_of(range);
  const double linear = 1 - slope / 2;
  const double u = 2 * share / (linear + std::sqrt(linear * linear + 2 * slope * share));
  // So many blocks of so many are as if drawn; and the density is no straight line.
  const double drawn = std::sqrt((share * (1 - share) + range.weight / all) * range.weight / all);
  const double density = std::max(1 + slope * (u - 0.5), 0.1);
  const double bent = std::abs(slope) / 32;
  const double low = range.coordinate(range.first), high = range.coordinate(range.end);
  return {low + (high - low) * u, (high - low) * (3 * drawn / density + bent)};
}

void around(const ShardRange& range, ShardGuess& guess, const Expected& expected,
            std::int64_t count, Places& places) {
  const double low = range.coordinate(range.first), high = range.coordinate(range.end);
  const double from = std::max(low, expected.center - expected.spread);
  const double to = std::min(high, expected.center + expected.spread);
  guess.is_even = guess.is_wrong || !(to - from < 0.7 * (high - low));
  if (guess.is_even) return places.evenly(low, high, count);
  guess.from = range.at(from, false);
  guess.to = range.at(to, false);
  // A third brackets, but not more than helps.
  const std::int64_t outer = std::min<std::int64_t>(count / 3, 96);
  places.evenly(from, to, count - outer);
  const std::int64_t below = from > low ? (to < high ? outer / 2 : outer) : 0;
  places.outwards(from, expected.spread, low, below);
  places.outwards(to, expected.spread, high, outer - below);
}

/// By how a search ended before. What lies on its place is asked again: it holds where nothing has
/// changed.
void by_hint(const ShardRange& range, ShardGuess& guess, std::int64_t budget, const ShardHint& hint,
             std::int64_t count, Places& places) {
  const std::uint64_t step = std::uint64_t{1} << range.key_step;
  const double apart = hint.keys_per_block / static_cast<double>(step);
  const double shift = static_cast<double>(budget) - static_cast<double>(hint.pruned);
  const double moved = std::abs(shift);
  const double error = hint.error >= 0 && std::isfinite(hint.error) ? hint.error : 0;
  const ShardPlace old{hint.key, std::clamp<std::int64_t>(hint.position, 0, range.blocks - 1)};
  const double center = range.coordinate(old) + apart * shift;
  const double margin = apart * (0.001 * static_cast<double>(range.cost_end) + 100 * range.weight +
                                 0.1 * moved + 3 * error);
  const double near = apart * std::max(range.weight / 2, error / 4);
  guess.is_hinted = true;
  guess.hinted = moved == 0 ? old : range.at(center, apart >= 2);
  guess.from = range.at(center - margin, true);
  guess.to = range.at(center + margin, true);
  places.add(old);
  places.add(guess.hinted);
  places.add(ShardPlace{hint.key, 0});
  places.add(ShardPlace{hint.key + step, 0});
  const std::int64_t side = (count - 4) / 2;
  places.outwards(center, near, center - margin, side);
  places.outwards(center, near, center + margin, side);
}

bool is_usable(const ShardHint& hint, const ShardRange& range) noexcept {
  return hint.keys_per_block > 0 && std::isfinite(hint.keys_per_block) &&
         hint.key < range.end.key && range.end.key - hint.key > std::uint64_t{1} << range.key_step;
}

/// Octaves in which weights and their scores have their cuts, by as many places each; and those
/// around by a quarter as many.
void by_octaves(const ShardRange& range, std::int64_t count, Places& places) {
  constexpr int first = -30, likely_first = -16, likely_end = 4, end = 10;
  constexpr int likely = likely_end - likely_first, others = end - first - likely;
  const int bits = range.fraction_bits(), step = range.key_step;
  const std::int64_t octave = std::int64_t{1} << bits;
  const std::int64_t one = (range.is_wide ? std::int64_t{1023} : std::int64_t{127}) << bits;
  const std::int64_t half = range.has_sign ? 2 : 1;
  const std::int64_t parts = std::max<std::int64_t>(count / half / (likely + others / 4), 1);
  for (int e = first; e < end; ++e) {
    const bool is_likely = likely_first <= e && e < likely_end;
    if (!is_likely && parts < 4 && e % 4 != 0) continue;
    const std::int64_t own = is_likely ? parts : std::max<std::int64_t>(parts / 4, 1);
    for (std::int64_t i = 0; i < own; ++i) {
      const std::int64_t bits_there = one + octave * e + octave / own * i;
      const auto magnitude = static_cast<std::uint64_t>(bits_there >> step << step);
      places.add(ShardPlace{range.zero() + magnitude, 0});
      if (range.has_sign) places.add(ShardPlace{range.zero() - magnitude, 0});
    }
  }
}

/// Of what nothing is known.
void anywhere(const ShardRange& range, std::int64_t count, Places& places) {
  by_octaves(range, count, places);
  places.thin(count);
  const std::int64_t left = count - places.size();
  if (left <= count / 2) return;
  places.evenly(range.coordinate(range.first), range.coordinate(range.end), left);
}

}  // namespace

void ShardGuess::tell(const ShardRange& range, std::int64_t cost_before) noexcept {
  ++rounds;
  is_hinted = false;
  const std::int64_t cost = range.cost_end - range.cost_first;
  if (is_even) {
    is_wrong = cost > cost_before / 2;
  } else {
    is_wrong = range.first < from || to < range.end;
  }
  // Blocks of one key, or of a few, are not spread over the range.
  const std::int64_t beside =
      range.cost_first - range.cost_before + range.cost_behind - range.cost_end;
  is_wrong = is_wrong || (static_cast<double>(cost) > 8 * range.weight && cost / 8 > beside);
}

std::vector<ShardPlace> places_in(const ShardRange& known, ShardGuess& guess, std::int64_t budget,
                                  const ShardHint& hint, std::int64_t count) {
  // Magnitudes are hardly ever below zero's.
  const ShardPlace zero{known.zero(), 0};
  const bool skips = !known.has_sign && known.holds(zero);
  ShardRange range = known;
  if (skips) range.first = zero;
  Places places(range);
  guess.is_even = guess.is_hinted = false;
  const bool is_first = guess.rounds == 0;
  const std::uint64_t keys = range.end.key - range.first.key;
  const std::uint64_t step = std::uint64_t{1} << range.key_step;
  if (range.is_one_place()) {
    guess.is_even = true;
  } else if (is_first && is_usable(hint, range)) {
    by_hint(range, guess, budget, hint, count, places);
  } else if (keys >> range.fraction_bits() >= 4) {
    guess.is_even = true;
    anywhere(range, count - (is_first ? 1 : 5), places);
    // Zeros repeat most: of weights that were pruned before, and of gradients. Then infinity, NaN.
    places.add(ShardPlace{zero.key + step, 0});
    for (std::uint64_t i = 0; i < 3 && !is_first; ++i) {
      places.add(ShardPlace{range.nan() - 1 + i, 0});
    }
  } else {
    // NaN is no multiple of the step, and so within that of infinity.
    const bool is_one_step = range.key_step > 0 && keys <= step;
    around(range, guess, expected_in(range, budget), count - (is_one_step ? 4 : 2), places);
    places.add(range.middle());
    if (is_one_step) places.add(ShardPlace{range.first.key + 1, 0});
    if (is_one_step) places.add(ShardPlace{range.nan(), 0});
  }
  if (skips && !is_first) places.add_known(zero);
  if (places.size() == 0) places.add_known(known.middle());
  return places.taken(count);
}

}  // namespace datasparse

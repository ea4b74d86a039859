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
  bool empty() const noexcept { return places_.empty(); }
  /// `apart`: how far the next one is. Where it is more than a step, positions tell nothing more.
  void add(double coordinate, double apart) {
    if (coordinate >= 0) add(range_.at(coordinate, apart >= 0.5));
  }
  /// So many, with neither end.
  void evenly(double low, double high, std::int64_t count) {
    const double apart = (high - low) / static_cast<double>(count + 1);
    for (std::int64_t i = 1; i <= count; ++i) add(low + apart * static_cast<double>(i), apart);
  }
  /// So many on one side of a place, each farther away than the last one by the same factor.
  void outwards(double center, double near, double far, std::int64_t count) {
    if (count <= 0) return;
    const double sign = far < center ? -1 : 1;
    const double from = bits_of(near), to = bits_of(std::max(near, std::abs(far - center)));
    double last = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const double share = static_cast<double>(i) / static_cast<double>(count);
      const double distance = of_bits(from + (to - from) * share);
      add(center + sign * distance, distance - last);
      last = distance;
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
/// the middle: by its neighbours. Keys of one octave only: there they are in proportion to values.
double slope_of(const ShardRange& range) noexcept {
  constexpr double few = 16;  // blocks, which say nothing
  const int bits = range.fraction_bits();
  if (range.first.key >> bits != (range.end.key - 1) >> bits) return 0;
  const double low = range.value_of(range.first.key), high = range.value_of(range.end.key);
  const double width = high - low, density = cost_of(range) / width;
  if (!(width > 0) || !std::isfinite(width) || !(density * width >= few * range.weight)) return 0;
  double sum = 0, distances = 0, one_sided = 0;
  const auto add = [&](double other_width, std::int64_t cost, double sign, double* distance) {
    const auto blocks = static_cast<double>(cost);
    if (!(other_width > 0) || !std::isfinite(other_width)) return 0.;
    if (!(blocks >= few * range.weight)) return 0.;
    *distance = (1 + other_width / width) / 2;
    return sign * (blocks / other_width / density - 1) / *distance;
  };
  double below_distance = 0, above_distance = 0;
  const double below = add(low - range.value_of(range.before.key),
                           range.cost_first - range.cost_before, -1, &below_distance);
  const double above = add(range.value_of(range.behind.key) - high,
                           range.cost_behind - range.cost_end, 1, &above_distance);
  distances = below_distance + above_distance;
  if (distances == 0) return 0;
  sum = below * above_distance + above * below_distance;
  one_sided = below + above;  // the other one is 0
  const bool both = below_distance > 0 && above_distance > 0;
  return std::clamp(both ? sum / distances : one_sided, -1.8, 1.8);
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
  guess.is_even = guess.is_wrong || count < 4 || !(to - from < 0.7 * (high - low));
  if (guess.is_even) return places.evenly(low, high, count);
  guess.from = range.at(from, false);
  guess.to = range.at(to, false);
  // A third brackets, but not more than helps.
  const std::int64_t outer = std::min<std::int64_t>(count / 3, 96);
  places.evenly(from, to, count - outer);
  const std::int64_t below = from > low ? (to < high ? outer / 2 : outer) : 0;
  places.outwards(expected.center, expected.center - from, low, below);
  places.outwards(expected.center, to - expected.center, high, outer - below);
}

/// By how a search ended before. What lies on its place is asked again: it holds where nothing has
/// changed.
void by_hint(const ShardRange& range, ShardGuess& guess, std::int64_t budget, const ShardHint& hint,
             std::int64_t count, Places& places) {
  const double step = static_cast<double>(std::uint64_t{1} << range.key_step);
  const double apart = hint.keys_per_block / step;
  const double shift = static_cast<double>(budget) - static_cast<double>(hint.pruned);
  const double moved = std::abs(shift);
  const ShardPlace old{hint.key, std::clamp<std::int64_t>(hint.position, 0, range.blocks - 1)};
  const double center = range.coordinate(old) + apart * shift;
  const double error = hint.error >= 0 && std::isfinite(hint.error) ? hint.error : 0;
  const double margin =
      0.001 * static_cast<double>(range.cost_end) + 100 * range.weight + 0.1 * moved + 3 * error;
  const double near = std::max(range.weight / 2, error / 4);
  guess.is_hinted = true;
  guess.hinted = moved == 0 ? old : range.at(std::max(center, 0.), apart >= 2);
  guess.from = range.at(std::max(center - apart * margin, 0.), true);
  guess.to = range.at(std::max(center + apart * margin, 0.), true);
  places.add(guess.hinted);
  if (count < 6) return;
  places.add(old);
  places.add(ShardPlace{hint.key, 0});
  places.add(ShardPlace{hint.key + (std::uint64_t{1} << range.key_step), 0});
  const std::int64_t side = (count - 4) / 2;
  places.outwards(center, apart * near, center - apart * margin, side);
  places.outwards(center, apart * near, center + apart * margin, side);
}

bool is_hint(const ShardRange& range, const ShardHint& hint) noexcept {
  return hint.keys_per_block > 0 && std::isfinite(hint.keys_per_block) &&
         hint.key < range.end.key && range.end.key - hint.key > std::uint64_t{1} << range.key_step;
}

/// Octaves in which trained weights have their cuts, by as many places each; and, a quarter as
/// many each, those around.
void by_octaves(const ShardRange& range, std::int64_t count, Places& places) {
  constexpr int likely_first = -16, likely_end = 4, first = -30, end = 10;
  constexpr std::int64_t shares =
      likely_end - likely_first + (end - first - likely_end + likely_first) / 4;
  const int bits = range.fraction_bits();
  const std::uint64_t octave = std::uint64_t{1} << bits;
  const std::uint64_t one =
      range.is_wide ? std::uint64_t{1023} << bits : std::uint64_t{127} << bits;
  const std::uint64_t zero = range.zero();
  const auto add = [&](std::uint64_t magnitude) {
    places.add(ShardPlace{zero + magnitude, 0});
    if (range.has_sign) places.add(ShardPlace{zero - magnitude, 0});
  };
  const auto per_octave = static_cast<std::uint64_t>(
      std::max<std::int64_t>((count - 1) / shares / (range.has_sign ? 2 : 1), 1));
  for (int e = first; e < end; ++e) {
    const bool is_likely = e >= likely_first && e < likely_end;
    const std::uint64_t parts = is_likely ? per_octave : per_octave / 4;
    const std::uint64_t from = e < 0 ? one - octave * static_cast<std::uint64_t>(-e)
                                     : one + octave * static_cast<std::uint64_t>(e);
    if (parts == 0 && e % 4 != 0) continue;
    for (std::uint64_t i = 0; i < std::max<std::uint64_t>(parts, 1); ++i) {
      const std::uint64_t step = std::uint64_t{1} << range.key_step;
      add((from + octave / std::max<std::uint64_t>(parts, 1) * i) & ~(step - 1));
    }
  }
}

}  // namespace

void ShardGuess::tell(const ShardRange& range, std::int64_t cost_before) noexcept {
  ++rounds;
  is_hinted = false;
  if (is_even) {
    is_wrong = range.cost_end - range.cost_first > cost_before / 2;
  } else {
    is_wrong = range.first < from || to < range.end;
  }
}

std::vector<ShardPlace> places_in(const ShardRange& known, ShardGuess& guess, std::int64_t budget,
                                  const ShardHint& hint, std::int64_t count) {
  // Magnitudes below zero are hardly any; zeros repeat most: of weights that were pruned before,
  // and of gradients.
  const ShardPlace zero{known.zero(), 0};
  ShardRange range = known;
  const bool skips = !known.has_sign && known.holds(zero);
  if (skips) range.first = zero;
  const std::uint64_t step = std::uint64_t{1} << range.key_step;
  const bool is_first = guess.rounds == 0;
  const bool is_wide_open = (range.end.key - range.first.key) >> range.fraction_bits() >= 4;
  Places places(range);
  guess.is_even = guess.is_hinted = false;
  if (count < 4 && (guess.rounds % 2 == 1 || range.is_one_place())) {
    guess.is_even = true;
    places.add_known(known.middle());
  } else if (is_first && is_hint(range, hint)) {
    by_hint(range, guess, budget, hint, count, places);
  } else if (is_wide_open) {
    guess.is_even = true;
    by_octaves(range, count, places);
    places.thin(std::max<std::int64_t>(count - 2, 1));
    if (count > 2) places.add(ShardPlace{zero.key + step, 0});
    if (!is_first) places.add(ShardPlace{range.nan(), 0});
  } else if (!range.is_one_place()) {
    const bool is_one_step = range.key_step > 0 && range.end.key - range.first.key <= step;
    around(range, guess, expected_in(range, budget), count - (is_one_step ? 2 : 1), places);
    places.add(range.middle());
    if (is_one_step) places.add(ShardPlace{range.first.key + 1, 0});
  }
  if (skips && !is_first) places.add_known(zero);
  if (places.empty()) places.add_known(known.middle());
  return places.taken(count);
}

}  // namespace datasparse

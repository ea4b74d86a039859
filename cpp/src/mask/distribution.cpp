#include "datasparse/distribution.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/float_environment.hpp"
#include "datasparse/error.hpp"
#include "datasparse/field.hpp"
#include "datasparse/glob.hpp"
#include "mask/pruned_share.hpp"

namespace datasparse::distributions {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Below it, every level is exact. Let q be zeros / elements in double, and z the zeros. q ×
// elements differs from z by at most z × 2^-53, and as much again where that product is rounded:
// together by less than 1/2, so that z is what it is rounded to.
constexpr std::int64_t max_elements = std::int64_t{1} << 51;

struct Layer {
  std::int64_t elements;
  double lengths;  // their sum
  bool is_dense = false;
  std::uint64_t weight = 0;  // its share of what is kept, by the sum of all weights
  std::int64_t zeros = 0;

  /// Whether it has a part in the zeros.
  bool is_free() const noexcept { return !is_dense && elements > 0; }
  /// Its density, but for a factor that all layers have in common.
  double relative_density() const noexcept { return lengths / static_cast<double>(elements); }
};

using Layers = std::vector<Layer>;

std::vector<std::string> names_of(const Shapes& shapes) {
  std::vector<std::string> names;
  names.reserve(shapes.size());
  for (const auto& item : shapes) names.push_back(item.first);
  return names;
}

void refuse_repeated(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    throw ValueError("shapes must hold every name once, got '" + *twice + "' twice");
  }
}

Layers layers_of(const Shapes& shapes) {
  Layers layers;
  layers.reserve(shapes.size());
  std::int64_t left = max_elements;
  for (const auto& [name, shape] : shapes) {
    require_possible(shape, label("the shape", name));
    const std::int64_t elements = element_count(shape);
    if (elements > left) {
      throw ValueError("shapes must have at most 2^51 elements together, got more with '" + name +
                       "' of " + to_string(shape));
    }
    left -= elements;
    double lengths = 0;
    for (const auto length : shape) lengths += static_cast<double>(length);
    // A scalar is a vector of one element.
    layers.push_back({elements, std::max(lengths, 1.0)});
  }
  return layers;
}

/// Sets is_dense. UnknownNameError where a pattern matches nothing.
void mark_dense(Layers& layers, const std::vector<std::string>& names,
                const std::vector<std::string>& patterns) {
  for (const auto& pattern : patterns) {
    const auto itself = std::find(names.begin(), names.end(), pattern);
    bool is_known = itself != names.end();
    if (is_known) layers[static_cast<std::size_t>(itself - names.begin())].is_dense = true;
    for (std::size_t i = 0; i < layers.size() && itself == names.end(); ++i) {
      if (!matches(pattern, names[i])) continue;
      layers[i].is_dense = is_known = true;
    }
    if (!is_known) {
      throw UnknownNameError("dense must name layers, and none is named or matched by '" + pattern +
                             "'" + did_you_mean(pattern, names));
    }
  }
}

/// x^power for x in [0, 1] and any power from 0 on, by squares and square roots. std::pow may
/// differ in the last bit from one C library to the next.
double power_of(double x, double power) {
  double result = 1, root = x;
  for (double rest = power - std::floor(power); rest > 0; rest -= std::floor(rest)) {
    root = std::sqrt(root);
    rest *= 2;
    if (rest >= 1) result *= root;
  }
  for (double whole = std::floor(power); whole > 0; whole = std::floor(whole / 2)) {
    if (std::fmod(whole, 2) != 0) result *= x;
    x *= x;
  }
  return result;
}

/// Sets the weights of the layers that are not dense, and returns their sum: elements × density, as
/// integers, so that shares are compared and divided exactly. They are multiplied by a power of two
/// and cut off, which changes nothing for powers 0 and 1; for others, each cut costs less than
/// 1/256 of an element.
std::uint64_t weigh(Layers& layers, double power) {
  double greatest = 0, sum = 0;
  for (auto& layer : layers) {
    if (layer.is_free()) greatest = std::max(greatest, layer.relative_density());
  }
  const auto weight_of = [&](const Layer& layer) {
    if (power == 1) return layer.lengths;
    // Relative to the greatest, so that not all of them vanish.
    return static_cast<double>(layer.elements) *
           power_of(layer.relative_density() / greatest, power);
  };
  for (const auto& layer : layers) {
    if (layer.is_free()) sum += weight_of(layer);
  }
  std::uint64_t total = 0;
  for (auto& layer : layers) {
    if (!layer.is_free()) continue;
    layer.weight = static_cast<std::uint64_t>(std::ldexp(weight_of(layer), 59 - std::ilogb(sum)));
    total += layer.weight;
  }
  return total;
}

/// Sets the zeros of each layer, all in all that many.
void distribute(Layers& layers, std::int64_t zeros, double power) {
  std::int64_t kept = -zeros;
  for (const auto& layer : layers) kept += layer.elements;
  const auto keep_all = [&kept](Layer& layer) {
    layer.is_dense = true;
    kept -= layer.elements;
  };
  for (auto& layer : layers) {
    if (layer.is_dense) keep_all(layer);
  }

  // Layers that are given more than they have. What the others get only grows by that, so it makes
  // no difference whether those of the greatest density come first, or all of them at once.
  std::uint64_t total = 0;
  for (bool changed = true; changed;) {
    changed = false;
    total = weigh(layers, power);
    const std::int64_t shared = kept;
    for (auto& layer : layers) {
      if (!layer.is_free() || Wide(shared) * layer.weight <= Wide(layer.elements) * total) continue;
      keep_all(layer);
      changed = true;
    }
  }

  struct Remainder {
    std::uint64_t rest;
    Layer* layer;
  };
  std::vector<Remainder> remainders;
  std::int64_t left = zeros;
  for (auto& layer : layers) {
    if (!layer.is_free()) continue;
    const Wide share = Wide(layer.elements) * total - Wide(kept) * layer.weight;
    layer.zeros = static_cast<std::int64_t>(share / total);
    left -= layer.zeros;
    remainders.push_back({static_cast<std::uint64_t>(share % total), &layer});
  }
  std::stable_sort(remainders.begin(), remainders.end(),
                   [](const auto& a, const auto& b) { return a.rest > b.rest; });
  for (std::size_t i = 0; left > 0; ++i, --left) ++remainders[i].layer->zeros;
}

}  // namespace

ParamMap uniform(const Shapes& shapes, double level) { return erk(shapes, level, 0); }

ParamMap erk(const Shapes& shapes, double level, double power,
             const std::vector<std::string>& dense) {
  if (!(level >= 0 && level <= 1)) refuse_value("level", "", "be in [0, 1]", level);
  if (!(power >= 0 && std::isfinite(power))) {
    refuse_value("power", "", "be a finite number of at least 0", power);
  }
  const DefaultFloatEnvironment environment;
  const auto names = names_of(shapes);
  refuse_repeated(names);
  Layers layers = layers_of(shapes);
  mark_dense(layers, names, dense);

  std::int64_t elements = 0, may_be_zero = 0;
  for (const auto& layer : layers) {
    elements += layer.elements;
    if (!layer.is_dense) may_be_zero += layer.elements;
  }
  const auto zeros = PrunedShare{level, 0}.pruned_of(elements);
  const auto share_of = [](std::int64_t part, std::int64_t whole) {
    return part == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  if (zeros > may_be_zero) {
    refuse_value("level", "",
                 "be in [0.0, " + to_string(ParamValue(share_of(may_be_zero, elements))) +
                     "], since all but " + std::to_string(may_be_zero) + " of the " +
                     std::to_string(elements) + " elements are dense",
                 level);
  }
  distribute(layers, zeros, power);

  ParamMap levels;
  levels.reserve(shapes.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    levels.set(names[i], share_of(layers[i].zeros, layers[i].elements));
  }
  return levels;
}

}  // namespace datasparse::distributions

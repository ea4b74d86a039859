#include "support.hpp"

#include <algorithm>

namespace datasparse {

std::uint64_t compose(DType dtype, bool negative, std::uint64_t exponent, std::uint64_t fraction) {
  const auto [exponent_bits, fraction_bits] = reference::format_of(dtype);
  const auto low = [](std::uint64_t x, int bits) { return x & ((std::uint64_t{1} << bits) - 1); };
  return (std::uint64_t{negative} << (exponent_bits + fraction_bits)) |
         (low(exponent, exponent_bits) << fraction_bits) | low(fraction, fraction_bits);
}

std::uint64_t random_number(Random& random, DType dtype) {
  const auto bias = (std::int64_t{1} << (reference::format_of(dtype).exponent_bits - 1)) - 1;
  return compose(dtype, random.one_in(2), static_cast<std::uint64_t>(bias + random.between(-3, 3)),
                 random.bits());
}

std::uint64_t random_special(Random& random, DType dtype) {
  const bool negative = random.one_in(2);
  const std::uint64_t all_ones = ~std::uint64_t{0};
  switch (random.below(8)) {
    case 0: return compose(dtype, negative, 0, 0);
    case 1: return compose(dtype, negative, 0, 1);  // the least denormal
    case 2: return compose(dtype, negative, 0, random.bits());
    case 3: return compose(dtype, negative, 1, 0);                    // the least normal number
    case 4: return compose(dtype, negative, all_ones - 1, all_ones);  // the greatest number
    case 5: return compose(dtype, negative, all_ones, 0);             // Inf
    case 6: return compose(dtype, negative, all_ones, random.bits() | 1);  // NaN
    default: return random_number(random, dtype);
  }
}

void fill(Tensor& tensor, Values kind, Random& random) {
  const auto any = [&] {
    return random.one_in(4) ? random_special(random, tensor.dtype())
                            : random_number(random, tensor.dtype());
  };
  const std::vector<std::uint64_t> pool{any(), any(), any()};
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    std::uint64_t bits = 0;
    switch (kind) {
      case Values::any_bits: bits = random.bits(); break;
      case Values::numbers: bits = random_number(random, tensor.dtype()); break;
      case Values::few: bits = random.pick(pool); break;
      case Values::equal: bits = pool[0]; break;
      case Values::special: bits = random_special(random, tensor.dtype()); break;
      case Values::mostly_zero:
        bits = random.one_in(10) ? random_number(random, tensor.dtype()) : 0;
        break;
      case Values::count: break;
    }
    tensor.set_bits(i, bits);
  }
}

Axes random_strides(Random& random, DType dtype, const Axes& shape, bool broadcast) {
  std::vector<int> order;
  for (int axis = 0; axis < shape.size(); ++axis) {
    order.insert(order.begin() + random.below(axis + 1), axis);
  }
  std::vector<std::int64_t> strides(order.size());
  auto step = static_cast<std::int64_t>(item_size(dtype)) + (random.one_in(6) ? 1 : 0);
  for (const int axis : order) {
    step *= random.one_in(3) ? 2 : 1;
    step += random.one_in(8) ? 1 : 0;
    strides[static_cast<std::size_t>(axis)] = random.one_in(4) ? -step : step;
    if (broadcast && random.one_in(8)) strides[static_cast<std::size_t>(axis)] = 0;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  return Axes(strides);
}

Axes random_permutation(Random& random, int axes) {
  std::vector<std::int64_t> order;
  for (int axis = 0; axis < axes; ++axis) {
    order.insert(order.begin() + random.below(axis + 1), axis);
  }
  return Axes(order);
}

Bytes packed_bits(const std::vector<bool>& bits) {
  Bytes packed((bits.size() + 7) / 8);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (bits[i]) packed[i / 8] |= static_cast<std::uint8_t>(1 << (i % 8));
  }
  return packed;
}

reference::Rules rules_of(const BlockSpec& spec) {
  const auto norm = static_cast<reference::Norm>(spec.norm);  // in the same order
  return {spec.sparsity_level, spec.block_height, spec.block_width, spec.zeros_per_block, norm,
          spec.min_kept,       spec.monotone};
}

Bytes mask_of(const ArrayView& data, const BlockSpec& spec, std::size_t misalignment) {
  constexpr std::size_t guard = 64;
  constexpr std::uint8_t untouched = 0xA5;
  const auto n = static_cast<std::size_t>(data.size());
  Bytes buffer(guard + misalignment + n + guard, untouched);
  const auto begin = buffer.begin() + static_cast<std::ptrdiff_t>(guard + misalignment);
  const auto end = begin + static_cast<std::ptrdiff_t>(n);
  block_mask(data, spec, buffer.data() + guard + misalignment);
  const auto is_untouched = [](std::uint8_t byte) { return byte == untouched; };
  EXPECT_TRUE(std::all_of(buffer.begin(), begin, is_untouched)) << "wrote before the mask";
  EXPECT_TRUE(std::all_of(end, buffer.end(), is_untouched)) << "wrote past the mask";
  return Bytes(begin, end);
}

std::string difference(const Bytes& actual, const Bytes& expected) {
  if (actual.size() != expected.size()) return "masks differ in size";
  const auto [a, b] = std::mismatch(actual.begin(), actual.end(), expected.begin());
  if (a == actual.end()) return "";
  return "element " + std::to_string(a - actual.begin()) + " is " + std::to_string(*a) +
         ", expected " + std::to_string(*b);
}

std::string describe(const ArrayView& view, const BlockSpec& spec) {
  return std::string(name_of(view.dtype())) + " " + to_string(view.shape()) + " strides " +
         to_string(view.strides()) + " level " + to_string(ParamValue(spec.sparsity_level)) +
         " block (" + std::to_string(spec.block_height) + ", " + std::to_string(spec.block_width) +
         ") zeros " +
         (spec.zeros_per_block ? std::to_string(*spec.zeros_per_block) : std::string("all")) +
         (spec.norm == Norm::L1   ? " L1"
          : spec.norm == Norm::L2 ? " L2"
                                  : " no norm") +
         (spec.monotone ? " monotone" : "") + " min_kept " + std::to_string(spec.min_kept);
}

BlockSpec spec(double level, std::int64_t height, std::int64_t width,
               std::optional<std::int64_t> zeros, Norm norm) {
  BlockSpec result;
  result.sparsity_level = level;
  result.block_height = height;
  result.block_width = width;
  result.zeros_per_block = zeros;
  result.norm = norm;
  return result;
}

bool operator==(const PackedBits& a, const Bytes& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}
Bytes bytes_of(const PackedBits& bits) { return Bytes(bits.begin(), bits.end()); }
Bytes bytes_of(const Mask& mask) { return Bytes(mask.data(), mask.data() + mask.size()); }

bool operator==(const GroupState& a, const GroupState& b) {
  return a.name == b.name && a.config == b.config && a.shape == b.shape &&
         a.mask_bits == b.mask_bits && a.squashed == b.squashed && a.state == b.state &&
         a.layout == b.layout && a.kept_zeros == b.kept_zeros && a.updates == b.updates &&
         a.arrays == b.arrays;
}
bool operator==(const SparsifierState& a, const SparsifierState& b) {
  return a.version == b.version && a.step_count == b.step_count &&
         a.enable_mask_update == b.enable_mask_update && a.defaults == b.defaults &&
         a.groups == b.groups && a.score == b.score;
}
void PrintTo(const SparsifierState& state, std::ostream* out) {
  *out << "step " << state.step_count << " enabled " << state.enable_mask_update << " defaults ";
  PrintTo(state.defaults, out);
  for (const auto& group : state.groups) {
    *out << "\n  '" << group.name << "' " << to_string(group.shape)
         << (group.squashed ? " squashed" : "") << " config ";
    PrintTo(group.config, out);
    *out << " state ";
    PrintTo(group.state, out);
    *out << " mask " << ::testing::PrintToString(group.mask_bits) << " layout "
         << to_string(group.layout) << " kept zeros " << ::testing::PrintToString(group.kept_zeros)
         << (group.updates ? "" : " frozen");
  }
}

}  // namespace datasparse

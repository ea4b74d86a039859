/// Pools that are hard on the mask engine, and what is right for them.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "stress.hpp"

namespace datasparse {

/// Makes the masks of some cases those of one pool. False where its bounds leave no room.
inline bool expect_pool(std::vector<Case>& some) {
  std::vector<reference::PoolGroup> groups;
  for (auto& one : some) {
    const BlockSpec& spec = one.spec;
    reference::PoolGroup group{
        {}, spec.sparsity_level, 0, spec.min_level, spec.max_level, spec.min_kept, spec.normalize};
    reference::mask(one.tensor.view(), rules_of(spec), one.layout, one.past, &group.blocks);
    const Axes viewed = viewed_shape(one.tensor.view().shape(), one.layout);
    const auto [rows, columns] = reference::matrix_of(viewed);
    const std::int64_t height = spec.block_height == -1 ? rows : std::min(spec.block_height, rows);
    const std::int64_t width =
        spec.block_width == -1 ? columns : std::min(spec.block_width, columns);
    group.zeros = std::min(spec.zeros_per_block.value_or(height * width), height * width);
    groups.push_back(group);
  }
  const auto pruned = reference::walk(groups);
  if (!pruned) return false;
  for (std::size_t i = 0; i < some.size(); ++i) {
    auto rules = rules_of(some[i].spec);
    rules.pruned = (*pruned)[i];
    some[i].expected = reference::mask(some[i].tensor.view(), rules, some[i].layout, some[i].past);
  }
  return true;
}

/// The same numbers as float32, or numbers near them, with the same strides.
inline Tensor narrowed(Tensor& tensor) {
  const ArrayView view = tensor.view();
  Tensor result(DType::float32, view.shape(), view.strides());
  const std::vector<double> values = reference::values_of(view);
  for (std::int64_t i = 0; i < view.size(); ++i) {
    result.set_bits(i, bits_of(DType::float32, values[static_cast<std::size_t>(i)]));
  }
  return result;
}

/// Several tensors, whose levels, bounds, blocks and types of keys are the same or not.
inline std::vector<Case> random_pool(Random& random, std::int64_t elements_max) {
  std::vector<Case> some;
  const std::int64_t groups = random.one_in(3) ? random.between(1, 3) : random.between(2, 40);
  const bool one_level = random.one_in(2), one_pattern = random.one_in(2);
  const bool bounded = random.one_in(3), normalized = random.one_in(4);
  const bool one_type = random.one_in(2), plain = random.one_in(3);
  const std::int64_t elements = random.one_in(4) ? elements_max : elements_max / groups;
  const double level = hard_level(random, elements);
  for (std::int64_t i = 0; i < groups; ++i) {
    Case one = random_case(random, std::max<std::int64_t>(1, random.between(1, elements)));
    if (one_level) one.spec.sparsity_level = level;
    if (one_type && one.tensor.dtype() == DType::float64) one.tensor = narrowed(one.tensor);
    if (one_pattern) {
      one.spec.block_height = 1;
      one.spec.block_width = some.empty() ? (random.one_in(2) ? 1 : 4) : some[0].spec.block_width;
      one.spec.zeros_per_block.reset();
    }
    if (plain) {
      one.spec.min_kept = 0;
      one.spec.monotone = false;
      one.past = {};
    }
    if (bounded && random.one_in(2)) one.spec.max_level = random.unit();
    if (bounded && random.one_in(2)) one.spec.min_level = random.unit() * one.spec.max_level;
    if (normalized) one.spec.normalize = !random.one_in(4);
    one.spec.pool = "all";
    some.push_back(std::move(one));
  }
  return some;
}

/// For a failure.
inline std::string described(std::vector<Case>& pool) {
  std::string all;
  for (auto& one : pool) {
    const BlockSpec& spec = one.spec;
    all += "\n  " + describe(one.tensor.view(), spec) + " bounds " +
           std::to_string(spec.min_level) + " " + std::to_string(spec.max_level) +
           (spec.normalize ? " normalized" : "") +
           (one.stays_zero.empty() ? "" : " with zeros that stay") + ", " +
           std::to_string(std::count(one.expected.begin(), one.expected.end(), 0)) + " zeros" +
           (one.buffer.empty() || one.fault().empty() ? "" : ", wrong: " + one.fault());
  }
  return all;
}

}  // namespace datasparse

/// What a scheduler will do, before it does it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "datasparse/block_mask.hpp"
#include "datasparse/param.hpp"

namespace datasparse {

/// The values of one parameter, step by step and group by group.
struct Plan {
  std::string param;
  std::vector<std::string> groups;
  std::vector<std::int64_t> elements;  ///< of each group
  std::int64_t first = 0;              ///< the step of the first row
  std::int64_t steps = 0;              ///< rows

  /// The value of a group in a row, at [row × groups.size() + group].
  std::vector<ParamValue> values;
  /// The zeros of its mask, at the same place, or nothing at all: see count_zeros().
  std::vector<ZeroCount> zeros;

  /// The pools, with the places of their groups among `groups`, and the zeros of each together in
  /// a row, at [row × pools.size() + pool]; nothing where `zeros` is empty.
  struct Pool {
    std::string name;
    std::vector<std::size_t> groups;
  };
  std::vector<Pool> pools = {};
  std::vector<ZeroCount> pool_zeros = {};
};

}  // namespace datasparse

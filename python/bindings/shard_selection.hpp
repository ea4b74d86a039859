/// Searches over shards, as Python gives them.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <vector>

#include "datasparse/shard_selection.hpp"

/// Counts and sums, one after the other in memory.
using Numbers = pybind11::array_t<std::int64_t, pybind11::array::c_style>;

/// Of dicts, as the class ShardSelection takes them.
std::vector<datasparse::ShardSearch> to_searches(const pybind11::iterable& given);

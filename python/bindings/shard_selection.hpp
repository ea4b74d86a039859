/// Searches over shards, as Python gives them.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "datasparse/shard_selection.hpp"

/// Of dicts, as the class ShardSelection takes them.
std::vector<datasparse::ShardSearch> to_searches(const pybind11::iterable& given);

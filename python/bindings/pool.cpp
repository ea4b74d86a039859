#include "datasparse/pool.hpp"

#include <pybind11/stl.h>

#include <vector>

#include "arrays.hpp"
#include "datasparse/device.hpp"
#include "params.hpp"

namespace py = pybind11;
using datasparse::Axes;
using datasparse::BlockPlan;
using datasparse::BlockSpec;
using datasparse::PoolGroup;
using datasparse::PoolPlan;

namespace {

py::tuple pool_plan(const py::iterable& groups) {
  std::vector<BlockSpec> specs;
  std::vector<PoolGroup> all;
  py::list blocks;
  for (const auto group : groups) {
    const auto given = py::reinterpret_borrow<py::tuple>(group);
    const Axes shape = axes_of(given[0]);
    const Axes layout = given[1].is_none() ? Axes() : axes_of(given[1]);
    const auto config = py::reinterpret_borrow<py::dict>(given[2]);
    all.push_back({nullptr, viewed_shape(shape, layout)});
    specs.push_back(
        BlockSpec::from_config(to_param_map(config, "")).resolved(all.back().shape, ""));
    const auto plan = BlockPlan::of(specs.back(), shape, layout);
    blocks.append(py::make_tuple(to_tuple(plan.order), plan.height, plan.width, plan.zeros));
  }
  for (std::size_t i = 0; i < all.size(); ++i) all[i].spec = &specs[i];
  const auto zeros = datasparse::count_zeros(all);
  py::list counts, pools;
  for (const auto& [least, most] : zeros.groups) counts.append(py::make_tuple(least, most));
  for (const auto& pool : zeros.pools) {
    std::vector<PoolGroup> own;
    for (const std::size_t i : pool.groups) own.push_back(all[i]);
    const auto plan = PoolPlan::of(pool.name, own);
    py::list members;
    for (const auto& one : plan.members) {
      members.append(py::make_tuple(one.blocks, one.weight, one.least, one.most));
    }
    pools.append(py::make_tuple(pool.name, py::tuple(py::cast(pool.groups)), members, plan.budget,
                                py::make_tuple(pool.zeros.least, pool.zeros.most)));
  }
  return py::make_tuple(blocks, counts, pools);
}

}  // namespace

void register_pools(py::module_& module) {
  module.def("_pool_plan", &pool_plan, py::arg("groups"),
             R"(What is pruned of groups, pools among them, whatever their data are.

groups: a (shape, layout, config) for each, in order.

Returns three lists: an (order of axes or (), height, width, zeros of a pruned block) for each group; the (fewest, most)
zeros of each; and for each pool its (name, places of its groups, a (blocks, weight, least, most) for each of them, what
may be spent, (fewest, most) zeros of all together). ValueError for a config that does not fit, and for a budget
that max_level does not leave.)");
}

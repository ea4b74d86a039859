// What a step asks devices for, and what it puts there at the end.

#include <cstdint>
#include <utility>
#include <vector>

#include "checkpoint/xxh64.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "datasparse/regrowth.hpp"
#include "datasparse/spec_sparsifier.hpp"
#include "device/by_device.hpp"

namespace datasparse {
namespace {

/// Draws first masks in CPU memory: they hang on no tensor. A mask's bits are what was ever active.
void draw(const std::vector<JobOf<RegrowthSpec>>& jobs) {
  std::vector<Mask> masks;
  std::vector<JobOf<RegrowthSpec>> here;
  for (const auto& job : jobs) {
    masks.emplace_back(job.data.shape());
    here.push_back(job);
    here.back().mask = masks.back().data();
  }
  compute_masks(here);
}

std::vector<std::uint64_t> hashes_of(const std::vector<JobOf<RegrowthSpec>>& drawn) {
  std::vector<std::uint64_t> hashes;
  for (const auto& job : drawn) {
    hashes.push_back(xxh64(job.move->ever_active, packed_size(job.data.size())));
  }
  return hashes;
}

}  // namespace

std::vector<Device::Moved> Device::move(const std::vector<JobOf<RegrowthSpec>>&) {
  throw TypeError(
      "data must be where masks can move, which is CPU memory or a device of torch, got " + name());
}

bool Device::lend(JobOf<BlockSpec>&, PackedBits&) { return false; }

void Device::meet(const std::vector<std::uint64_t>&) {}

void Device::zero_grown(const std::vector<Growing>&) noexcept {}

Put compute_on(Device& device, const std::vector<JobOf<BlockSpec>>& jobs) {
  auto made = device.compute(jobs);
  ByDevice<Device::Change> changes;  // of several where a pool spans them
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    items_of(*jobs[i].device, changes).push_back({*jobs[i].own, std::move(made[i])});
  }
  return [changes] {
    for (const auto& [own, some] : changes) own->put(some);
  };
}

Put compute_on(Device& device, const std::vector<JobOf<RegrowthSpec>>& jobs) {
  std::vector<JobOf<RegrowthSpec>> drawn, moved;
  for (const auto& job : jobs) {
    if (job.data.size() > 0) (job.move->draws ? drawn : moved).push_back(job);
  }
  std::vector<Device::Change> changes;
  draw(drawn);
  for (const auto& job : drawn) {
    // Of the mask, not of the one that computes for it: that may do so for several.
    const auto content = job.own->device().unpack(job.data.shape(), job.move->ever_active);
    changes.push_back({*job.own, content});
    changes.push_back({*job.move->ever_there, content});
  }
  if (!drawn.empty()) device.meet(hashes_of(drawn));
  std::vector<Device::Growing> growing;
  if (!moved.empty()) {
    auto made = device.move(moved);
    for (std::size_t i = 0; i < moved.size(); ++i) {
      const MaskMove& move = *moved[i].move;
      changes.push_back({*moved[i].own, std::move(made[i].mask)});
      changes.push_back({*move.ever_there, std::move(made[i].ever_active)});
      growing.push_back({move.weights, std::move(made[i].grown)});
    }
  }
  return [&device, changes, growing] {
    if (!changes.empty()) device.put(changes);
    if (!growing.empty()) device.zero_grown(growing);
  };
}

}  // namespace datasparse

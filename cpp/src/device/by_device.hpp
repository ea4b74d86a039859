/// What is asked of several devices, dealt out.
#pragma once

#include <utility>
#include <vector>

#include "datasparse/device.hpp"

namespace datasparse {

/// Items by their devices, in the order in which these come first, and not of addresses. Where a
/// device works together with other processes, all of them have to keep to one order.
template <class Item>
using ByDevice = std::vector<std::pair<Device*, std::vector<Item>>>;

/// The items of one device, none at first.
template <class Item>
std::vector<Item>& items_of(Device& device, ByDevice<Item>& all) {
  for (auto& [known, items] : all) {
    if (known == &device) return items;
  }
  return all.emplace_back(&device, std::vector<Item>()).second;
}

}  // namespace datasparse

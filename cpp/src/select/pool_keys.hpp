/// Keys of a pool's tensors in memory, and where the pool stops among them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/buffer.hpp"
#include "datasparse/pool.hpp"
#include "kernels/kernels.hpp"
#include "select/selection.hpp"

namespace datasparse {

/// In the common order; those of one member follow each other, members ascend. Either all keys in
/// some range, or a sample. Key: wide enough for them.
template <class Key>
class PoolKeys {
 public:
  void require(std::int64_t room, std::size_t members) {
    keys_.require(room);
    spare_.require(room);
    for (auto* counts : {&begins_, &sizes_, &below_range_, &below_, &stored_, &counts_}) {
      if (counts->size() < members) counts->resize(members);
    }
    if (scale_.size() < members) scale_.resize(members);
  }
  void release() noexcept {
    keys_ = {};
    spare_ = {};
  }

  void clear(std::size_t members) noexcept {
    members_ = members;
    size_ = 0;
    std::fill_n(sizes_.begin(), members, 0);
    std::fill_n(below_range_.begin(), members, 0);
  }
  /// The place for n more keys, of a member.
  Key* add(std::size_t member, std::int64_t n) noexcept {
    if (sizes_[member] == 0) begins_[member] = size_;
    sizes_[member] += n;
    size_ += n;
    return keys_.get() + size_ - n;
  }
  /// Where they are all keys in a range: how many of a member lie below it.
  void set_below(std::size_t member, std::int64_t below) noexcept { below_range_[member] = below; }

  std::int64_t bytes() const noexcept { return keys_.bytes() + spare_.bytes(); }
  const Key* get() const noexcept { return keys_.get(); }
  Key* get() noexcept { return keys_.get(); }
  std::int64_t size() const noexcept { return size_; }
  /// Of one member.
  std::int64_t size(std::size_t member) const noexcept { return sizes_[member]; }
  const Key* of(std::size_t member) const noexcept { return keys_.get() + begins_[member]; }

  /// The k-th lowest of all, 1 <= k <= size().
  Key select(const SelectionKernels<Key>& select, std::int64_t k) noexcept {
    return cut_of(select, keys_.get(), size_, k, spare_.get(), size_ / 8).threshold;
  }
  /// The greatest key in [first, end) below which no more lies than `budget` pays for, or `first`.
  /// Of a sample, each member's keys stand for all its blocks.
  Key stop(const SelectionKernels<Key>& select, const PoolPlan& plan, double budget, Key first,
           Key end, bool is_sample) noexcept {
    for (std::size_t m = 0; m < members_; ++m) {
      const auto blocks = static_cast<double>(plan.members[m].blocks);
      scale_[m] = !is_sample ? 1 : sizes_[m] == 0 ? 0 : blocks / static_cast<double>(sizes_[m]);
    }
    // Keys that are out of the range are left behind, once they are the greater part.
    std::copy_n(sizes_.begin(), members_, stored_.begin());
    std::copy_n(below_range_.begin(), members_, below_.begin());
    const Key* keys = keys_.get();
    std::int64_t stored = size_, left_behind = 0;
    while (end - first > 1) {
      const Key middle = first + (end - first) / 2;
      const std::int64_t below = count_below(select, keys, middle);
      const bool is_paid = cost(plan, left_behind + below) <= budget;
      (is_paid ? first : end) = middle;
      if (2 * (is_paid ? stored - below : below) > stored) continue;
      const SplitCounts found = leave_behind(select, keys, first, end);
      left_behind += found.below;
      stored = found.inside;
      keys = spare_.get();
    }
    return first;
  }

 private:
  /// How many of the stored keys are less; those of each member to counts_.
  std::int64_t count_below(const SelectionKernels<Key>& select, const Key* keys, Key key) noexcept {
    std::int64_t all = 0;
    for (std::size_t m = 0; m < members_; ++m) {
      counts_[m] = stored_[m] == 0 ? 0 : select.count_below(keys, stored_[m], key);
      keys += stored_[m];
      all += counts_[m];
    }
    return all;
  }

  /// What it costs to prune those, and all that lie below.
  double cost(const PoolPlan& plan, std::int64_t below_of_sample) const noexcept {
    const double share = static_cast<double>(below_of_sample) /
                         static_cast<double>(std::max<std::int64_t>(size_, 1));
    double sum = 0;
    for (std::size_t m = 0; m < members_; ++m) {
      const auto& [blocks, weight, least, most] = plan.members[m];
      // A member without a sample is as all are.
      const double pruned = scale_[m] > 0 ? scale_[m] * static_cast<double>(below_[m] + counts_[m])
                                          : share * static_cast<double>(blocks);
      sum += static_cast<double>(weight) *
             std::clamp(pruned, static_cast<double>(least), static_cast<double>(most));
    }
    return sum;
  }

  /// Copies the stored keys in the range to the spare memory, or within it.
  SplitCounts leave_behind(const SelectionKernels<Key>& select, const Key* keys, Key first,
                           Key end) noexcept {
    Key* to = spare_.get();
    SplitCounts all{};
    for (std::size_t m = 0; m < members_; ++m) {
      const std::int64_t n = stored_[m];
      if (n == 0) continue;
      const SplitCounts found = select.split(to, n, keys, n, first, end);
      keys += n;
      to += found.inside;
      stored_[m] = found.inside;
      below_[m] += found.below;
      all.below += found.below;
      all.inside += found.inside;
    }
    return all;
  }

  Buffer<Key> keys_, spare_;
  std::size_t members_ = 0;
  std::int64_t size_ = 0;
  std::vector<std::int64_t> begins_, sizes_, below_range_;
  std::vector<std::int64_t> below_, stored_, counts_;  // of a search, by member
  std::vector<double> scale_;
};

}  // namespace datasparse

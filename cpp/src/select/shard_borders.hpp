/// Places among the keys of one part, and what is known of how many keys come before them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "base/buffer.hpp"

namespace datasparse {

/// A place in the keys of one part: what it counts are the keys below `key`, and those below `ties`
/// whose block comes before `block`.
template <class Key>
struct Border {
  Key key, ties;
  std::int64_t block;

  bool is_above(Key k, std::int64_t b) const noexcept { return k < key || (k < ties && b < block); }
};

/// Which of some borders lie above a key, without a search for each.
template <class Key>
class Borders {
 public:
  explicit Borders(std::vector<Border<Key>> all) : all_(std::move(all)) {
    first_ = all_.front().key;
    end_ = std::max(all_.back().key, all_.back().block > 0 ? all_.back().ties : Key{0});
    end_ = std::max(end_, first_);
    for (const auto& border : all_) {
      keys_.push_back(border.key);
      has_ties_ = has_ties_ || border.block > 0;
    }
    const Key width = end_ - first_;
    const auto cells = static_cast<Key>(std::max<std::size_t>(64, 2 * all_.size()));
    while ((width >> shift_) >= cells) ++shift_;
    starts_.resize(static_cast<std::size_t>(width >> shift_) + 1);
    std::size_t border = 0;
    for (std::size_t cell = 0; cell < starts_.size(); ++cell) {
      // Borders below the cell are below all its keys, but for ties, which are looked at again.
      const Key low = first_ + (static_cast<Key>(cell) << shift_);
      while (border < all_.size() && std::max(all_[border].key, reach(all_[border])) <= low) {
        ++border;
      }
      starts_[cell] = border;
    }
  }
  std::size_t size() const noexcept { return all_.size(); }
  /// All keys that some borders are above, and others not, lie in [first, end).
  Key first() const noexcept { return first_; }
  Key end() const noexcept { return end_; }
  const Border<Key>& operator[](std::size_t i) const noexcept { return all_[i]; }

  /// The first border above a key in [first, end) at a block; size() for none.
  std::size_t above(Key key, std::int64_t block) const noexcept {
    const std::size_t cell = static_cast<std::size_t>((key - first_) >> shift_);
    std::size_t from = starts_[cell];
    if (!has_ties_) {
      // As a rule there are one or two in a cell.
      while (from < keys_.size() && keys_[from] <= key) ++from;
      return from;
    }
    std::size_t to = cell + 1 < starts_.size() ? std::min(starts_[cell + 1] + 1, size()) : size();
    if (to > 0 && !all_[to - 1].is_above(key, block)) to = size();  // one of many ties
    while (from < to) {
      const std::size_t middle = from + (to - from) / 2;
      if (all_[middle].is_above(key, block)) {
        to = middle;
      } else {
        from = middle + 1;
      }
    }
    return from;
  }

 private:
  static Key reach(const Border<Key>& border) noexcept {
    return border.block > 0 ? border.ties : border.key;
  }

  std::vector<Border<Key>> all_;  // ascending
  std::vector<Key> keys_;         // theirs
  bool has_ties_ = false;         // of some, blocks count
  Key first_, end_;
  int shift_ = 0;
  std::vector<std::size_t> starts_;  // by cell: no border before it is above a key of the cell
};

/// The key of a block.
template <class Key>
struct Candidate {
  Key key;
  std::int64_t block;
};

/// Keys of a part in a range, in order.
template <class Key>
struct Candidates {
  Buffer<Candidate<Key>> some;
  std::int64_t size = 0;
  Key first = 0, end = 0;  // all keys of [first, end) are there; nothing where the two are equal
  std::int64_t below = 0;  // how many keys are less than the first

  /// What is left is that no key is below the least one.
  void forget() noexcept {
    size = below = 0;
    first = end = 0;
  }
  bool knows(const Borders<Key>& borders) const noexcept {
    return first <= borders.first() && borders.end() <= end;
  }
  /// How many keys of the part come before a border in the range.
  std::int64_t before(const Border<Key>& border) const noexcept {
    const auto* const last = some.get() + size;
    const auto from = [&](const Candidate<Key>* begin, Key key) {
      return std::partition_point(begin, last, [&](const auto& one) { return one.key < key; });
    };
    const auto* const ties = from(some.get(), border.key);
    const std::int64_t all = below + (ties - some.get());
    if (border.block == 0) return all;
    // Where several keys are one in the common order, their blocks are in no order together.
    return all + std::count_if(ties, from(ties, border.ties),
                               [&](const auto& one) { return one.block < border.block; });
  }
};

/// What was counted of one part, where its keys are too many to be kept: among ties, most places of
/// the next round come before all its blocks, or behind them. So a part is not loaded again for
/// what it has said.
class Counted {
 public:
  void make_room() { all_.reserve(most); }
  void clear() noexcept { all_.clear(); }
  template <class Key>
  bool knows(const Borders<Key>& borders) const noexcept {
    for (std::size_t i = 0; i < borders.size(); ++i) {
      if (i > 0 && entry_of(borders[i]) == entry_of(borders[i - 1])) continue;
      if (!is_at(place_of(entry_of(borders[i])), entry_of(borders[i]))) return false;
    }
    return true;
  }
  /// The count of one that it knows.
  template <class Key>
  std::int64_t count_of(const Border<Key>& border) const noexcept {
    return all_[place_of(entry_of(border))].count;
  }
  /// Allocates nothing: what there is no room for is not known.
  template <class Key>
  void add(const Border<Key>& border, std::int64_t count) noexcept {
    Entry entry = entry_of(border);
    entry.count = count;
    const std::size_t place = place_of(entry);
    if (all_.size() == all_.capacity() || is_at(place, entry)) return;
    all_.insert(all_.begin() + static_cast<std::ptrdiff_t>(place), entry);
  }

 private:
  static constexpr std::size_t most = 1024;
  struct Entry {
    std::uint64_t key, ties;
    std::int64_t block, count;

    bool operator==(const Entry& other) const noexcept {
      return key == other.key && ties == other.ties && block == other.block;
    }
    bool operator<(const Entry& other) const noexcept {
      return std::tie(key, ties, block) < std::tie(other.key, other.ties, other.block);
    }
  };
  template <class Key>
  static Entry entry_of(const Border<Key>& border) noexcept {
    return {border.key, border.ties, border.block, 0};
  }
  std::size_t place_of(const Entry& entry) const noexcept {
    return static_cast<std::size_t>(std::lower_bound(all_.begin(), all_.end(), entry) -
                                    all_.begin());
  }
  bool is_at(std::size_t place, const Entry& entry) const noexcept {
    return place < all_.size() && all_[place] == entry;
  }

  std::vector<Entry> all_;  // ascending
};

}  // namespace datasparse

/// Places among the keys of one part, and what is known of how many keys come before them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

#include "base/buffer.hpp"
#include "datasparse/shard_selection.hpp"
#include "select/key_scale.hpp"

namespace datasparse {

/// Where the blocks of a part are among those of the whole tensor, both numbered row by row.
struct BlockRectangle {
  std::int64_t per_row = 1;  // of the whole
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;

  /// How many blocks of the part come before a block of the whole.
  std::int64_t before(std::int64_t index) const noexcept {
    const std::int64_t down = index / per_row - row;
    if (down < 0) return 0;
    if (down >= rows) return rows * columns;
    return down * columns + std::clamp<std::int64_t>(index % per_row - column, 0, columns);
  }
};

/// A place in the keys of one part: what it counts are the keys below `key`, and those below `ties`
/// whose block comes before `block`.
template <class Key>
struct Border {
  Key key, ties;
  std::int64_t block;
};

/// The places of a question in keys of one type and scale: all parts that have these share them.
template <class Key>
class Borders {
 public:
  Borders(const std::vector<ShardPlace>& places, const KeyScale& scale) : places_(&places) {
    keys_.reserve(places.size());
    reach_.reserve(places.size());
    for (const auto& [key, position] : places) {
      keys_.push_back(scale.least_at<Key>(key));
      reach_.push_back(position > 0 ? scale.least_at<Key>(key + 1) : keys_.back());
      has_ties_ = has_ties_ || position > 0;
    }
    divide(size() / 64);
  }

  std::size_t size() const noexcept { return keys_.size(); }
  Key first() const noexcept { return keys_.front(); }
  Key end() const noexcept { return reach_.back(); }
  Key key(std::size_t i) const noexcept { return keys_[i]; }
  /// Behind all keys whose blocks count.
  Key ties(std::size_t i) const noexcept { return reach_[i]; }
  std::int64_t position(std::size_t i) const noexcept { return (*places_)[i].position; }
  bool has_ties() const noexcept { return has_ties_; }

  /// The first border whose ties are above a key in [first, end): there is one.
  std::size_t reaching(Key key) const noexcept {
    return reaching(key, starts_.data(), reach_.data());
  }
  /// ++bins[reaching(keys[p])] for so many places p.
  void count(const Key* keys, const std::uint16_t* places, std::int64_t n,
             std::int64_t* bins) const noexcept {
    const std::uint32_t* const starts = starts_.data();
    const Key* const reach = reach_.data();
    for (std::int64_t i = 0; i < n; ++i) ++bins[reaching(keys[places[i]], starts, reach)];
  }
  /// The first border above a key, whatever its block; from i on.
  std::size_t beyond(Key key, std::size_t i) const noexcept {
    return static_cast<std::size_t>(std::upper_bound(keys_.begin() + at(i), keys_.end(), key) -
                                    keys_.begin());
  }

 private:
  static std::ptrdiff_t at(std::size_t i) noexcept { return static_cast<std::ptrdiff_t>(i); }
  std::size_t reaching(Key key, const std::uint32_t* starts, const Key* reach) const noexcept {
    const Key within = key - low_;
    if (within >= width_) return search(key);
    std::size_t i = starts[static_cast<std::size_t>(within >> shift_)];
    // As a rule there are one or two in a cell. No branch could be foreseen.
    i += reach[i] <= key ? 1 : 0;
    i += reach[i] <= key ? 1 : 0;
    return reach[i] > key ? i : search(key);
  }
  std::size_t search(Key key) const noexcept {
    return static_cast<std::size_t>(std::upper_bound(reach_.begin(), reach_.end(), key) -
                                    reach_.begin());
  }
  /// Makes cells of the range, but for so many borders at each end: a few lie far from the others.
  void divide(std::size_t apart) {
    low_ = keys_[apart];
    width_ = reach_[size() - 1 - apart] - low_;
    const auto cells = static_cast<Key>(std::max<std::size_t>(64, 2 * size()));
    while ((width_ >> shift_) >= cells) ++shift_;
    starts_.resize(static_cast<std::size_t>(width_ >> shift_) + 1);
    std::size_t border = 0;
    for (std::size_t cell = 0; cell < starts_.size(); ++cell) {
      const Key low = low_ + (static_cast<Key>(cell) << shift_);
      while (border < size() && reach_[border] <= low) ++border;
      starts_[cell] = static_cast<std::uint32_t>(border);
    }
  }

  const std::vector<ShardPlace>* places_;
  std::vector<Key> keys_, reach_;  // ascending
  bool has_ties_ = false;          // of some border
  Key low_ = 0, width_ = 0;        // what is divided into cells
  int shift_ = 0;
  std::vector<std::uint32_t> starts_;  // by cell: no border before it is above a key of the cell
};

/// The same as one part sees them, whose group begins at a position.
template <class Key>
class BordersOf {
 public:
  BordersOf(const Borders<Key>& all, const BlockRectangle& here, std::int64_t begin) noexcept
      : all_(&all), here_(&here), begin_(begin) {
    const Border<Key> last = (*this)[size() - 1];
    first_ = (*this)[0].key;
    end_ = std::max(first_, last.ties);
  }

  std::size_t size() const noexcept { return all_->size(); }
  /// All keys that some borders are above, and others not, lie in [first, end).
  Key first() const noexcept { return first_; }
  Key end() const noexcept { return end_; }
  Border<Key> operator[](std::size_t i) const noexcept {
    const Key key = all_->key(i), ties = all_->ties(i);
    const std::int64_t before = block(i);
    if (before == 0) return {key, key, 0};
    if (before == here_->rows * here_->columns) return {ties, ties, 0};  // behind all with the key
    return {key, ties, before};
  }
  /// The first border above a key in [first, end) at a block; size() for none.
  std::size_t above(Key key, std::int64_t of_block) const noexcept {
    const std::size_t from = all_->reaching(key);
    if (!all_->has_ties() || key < all_->key(from)) return from;
    return above_tie(key, of_block, from);
  }
  /// ++bins[above(keys[p], begin + p)] for so many places p.
  void count(const Key* keys, const std::uint16_t* places, std::int64_t n, std::int64_t begin,
             std::int64_t* bins) const noexcept {
    if (all_->has_ties()) {
      for (std::int64_t i = 0; i < n; ++i) ++bins[above(keys[places[i]], begin + places[i])];
    } else {
      all_->count(keys, places, n, bins);
    }
  }

 private:
  /// Among borders in the ties of one key, blocks decide.
  std::size_t above_tie(Key key, std::int64_t of_block, std::size_t from) const noexcept {
    std::size_t to = all_->beyond(key, from);
    while (from < to) {
      const std::size_t middle = from + (to - from) / 2;
      if (of_block < block(middle)) {
        to = middle;
      } else {
        from = middle + 1;
      }
    }
    return from;
  }
  std::int64_t block(std::size_t i) const noexcept {
    return here_->before(std::max<std::int64_t>(all_->position(i) - begin_, 0));
  }

  const Borders<Key>* all_;
  const BlockRectangle* here_;
  std::int64_t begin_;
  Key first_, end_;
};

/// The key of a block.
template <class Key>
struct Candidate {
  Key key;
  std::int64_t block;
};

/// Keys of a part in a range.
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
  void make_room(std::int64_t room) {
    if (room > 0) some.require(room);
  }
  bool knows(const BordersOf<Key>& borders) const noexcept {
    return first <= borders.first() && borders.end() <= end;
  }
  /// Adds to bins[i] how many keys of the part lie before the i-th border and behind the one
  /// before.
  void count(const BordersOf<Key>& borders, std::int64_t* bins) const noexcept {
    bins[0] += below;
    for (std::int64_t i = 0; i < size; ++i) {
      const auto& [key, block] = some[i];
      if (key < borders.first()) {
        ++bins[0];
      } else if (key < borders.end()) {
        ++bins[borders.above(key, block)];
      }
    }
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
  bool knows(const BordersOf<Key>& borders) const noexcept {
    for (std::size_t i = 0; i < borders.size(); ++i) {
      const Entry entry = entry_of(borders[i]);
      if (i > 0 && entry == entry_of(borders[i - 1])) continue;
      if (!is_at(place_of(entry), entry)) return false;
    }
    return true;
  }
  /// What Candidates::count() adds, of borders that it knows.
  template <class Key>
  void count(const BordersOf<Key>& borders, std::int64_t* bins) const noexcept {
    std::int64_t before = 0;
    for (std::size_t i = 0; i < borders.size(); ++i) {
      const std::int64_t own = all_[place_of(entry_of(borders[i]))].count;
      bins[i] += own - before;
      before = own;
    }
  }
  /// Takes what such bins were. Allocates nothing: what there is no room for is not known.
  template <class Key>
  void add(const BordersOf<Key>& borders, const std::int64_t* bins) noexcept {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < borders.size(); ++i) {
      count += bins[i];
      Entry entry = entry_of(borders[i]);
      entry.count = count;
      const std::size_t place = place_of(entry);
      if (all_.size() == all_.capacity() || is_at(place, entry)) continue;
      all_.insert(all_.begin() + static_cast<std::ptrdiff_t>(place), entry);
    }
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

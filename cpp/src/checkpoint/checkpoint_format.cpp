#include "checkpoint/checkpoint_format.hpp"

#include <algorithm>
#include <cstdio>
#include <future>
#include <unordered_map>

#include "base/layout.hpp"
#include "checkpoint/json.hpp"
#include "checkpoint/xxh64.hpp"
#include "datasparse/error.hpp"

namespace datasparse {
namespace {

constexpr std::size_t prefix_size = 8;                  // the length of the header, little-endian
constexpr std::uint64_t max_header_size = 100'000'000;  // that of the safetensors library
constexpr const char* metadata_key = "__metadata__";    // no mask has that name
constexpr const char* format = "datasparse checkpoint";
constexpr std::int64_t version = 2;  // written; the ones before are read
// A state's own version is not in the file. Who raises one of these raises the file's too, and has
// decode_checkpoint() say which the older files stand for.
static_assert(SparsifierState::current_version == 2 && SchedulerState::current_version == 2);

std::string mask_name(const std::string& group) { return "mask." + group; }
std::string zeros_name(const std::string& group) { return "zeros." + group; }

std::string checksum(std::uint64_t xxh64) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(xxh64));
  return text;
}

std::string checksum(const void* data, std::size_t size) { return checksum(xxh64(data, size)); }

// --- writing ----------------------------------------------------------------------------------

PlainData to_plain(const ParamValue& value) {
  return std::visit(
      [](const auto& held) -> PlainData {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::monostate>) {
          return {};
        } else if constexpr (std::is_same_v<Held, ParamValue::Ints>) {
          return PlainData::Tuple{std::vector<PlainData>(held.begin(), held.end())};
        } else if constexpr (std::is_same_v<Held, ParamValue::Floats>) {
          // Not a tuple, so that it is told from Ints where it is empty.
          return PlainData::List{std::vector<PlainData>(held.begin(), held.end())};
        } else {
          return held;
        }
      },
      value.variant());
}

PlainData to_plain(const ParamMap& map) {
  PlainData::Dict dict;
  for (const auto& [key, value] : map) dict.items.emplace_back(key, to_plain(value));
  return dict;
}

PlainData to_plain(const Attributes& attributes) {
  PlainData::Dict dict;
  for (const auto& [name, value] : attributes) dict.items.emplace_back(name, value);
  return dict;
}

PlainData to_plain(const Axes& axes) {
  return PlainData::List{std::vector<PlainData>(axes.begin(), axes.end())};
}

PlainData to_plain_sum(const PackedBits& bits) {
  return bits.empty() ? PlainData() : checksum(bits.data(), bits.size());
}

PlainData::Dict to_plain(const GroupState& group) {
  const auto& bits = group.mask_bits;
  return {{{"name", group.name},
           {"shape", to_plain(group.shape)},
           {"xxh64", checksum(bits.data(), bits.size())},
           {"squashed", group.squashed},
           {"config", to_plain(group.config)},
           {"state", to_plain(group.state)},
           {"layout", group.layout.size() == 0 ? PlainData() : to_plain(group.layout)},
           {"kept_zeros", to_plain_sum(group.kept_zeros)},
           {"update", group.updates}}};
}

PlainData to_plain(const Checkpoint& checkpoint) {
  PlainData::List groups, schedulers;
  for (const auto& group : checkpoint.sparsifier.groups) {
    groups.items.emplace_back(to_plain(group));
  }
  for (const auto& [state, attributes] : checkpoint.schedulers) {
    schedulers.items.emplace_back(PlainData::Dict{{{"schedule_param", state.schedule_param},
                                                   {"last_epoch", state.last_epoch},
                                                   {"base_param", to_plain(state.base_param)},
                                                   {"last_param", to_plain(state.last_param)},
                                                   {"own", to_plain(state.own)},
                                                   {"counts_renewals", state.counts_renewals},
                                                   {"attributes", to_plain(attributes)}}});
  }
  return PlainData::Dict{{{"step_count", checkpoint.sparsifier.step_count},
                          {"enable_mask_update", checkpoint.sparsifier.enable_mask_update},
                          {"defaults", to_plain(checkpoint.sparsifier.defaults)},
                          {"attributes", to_plain(checkpoint.attributes)},
                          {"groups", std::move(groups)},
                          {"schedulers", std::move(schedulers)}}};
}

// --- reading ----------------------------------------------------------------------------------

/// The value as a T; ValueError, naming the place, where it is something else.
template <class T>
const T& as(const PlainData& value, const std::string& where) {
  if (const T* held = value.get_if<T>()) return *held;
  throw ValueError(where + " must be " + PlainData(T()).kind() + ", got " + value.kind());
}

template <class Numbers>
Numbers to_numbers(const std::vector<PlainData>& items, const std::string& where) {
  Numbers numbers;
  for (const auto& item : items) numbers.push_back(as<typename Numbers::value_type>(item, where));
  return numbers;
}

/// The inverse of to_plain(ParamValue).
ParamValue to_param(const PlainData& value, const std::string& where) {
  return std::visit(
      [&](const auto& held) -> ParamValue {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, PlainData::Tuple>) {
          return to_numbers<ParamValue::Ints>(held.items, where);
        } else if constexpr (std::is_same_v<Held, PlainData::List>) {
          return to_numbers<ParamValue::Floats>(held.items, where);
        } else if constexpr (std::is_constructible_v<ParamValue::Variant, Held>) {
          return held;
        } else {
          throw ValueError(where + " must be a config value, got " + value.kind());
        }
      },
      value.variant());
}

/// A dict of the file, whose entries name themselves when they do not fit.
class Entries {
 public:
  Entries(const PlainData& value, std::string where)
      : dict_(as<PlainData::Dict>(value, where)), where_(std::move(where)) {}

  std::string path(const std::string& key) const { return where_ + "['" + key + "']"; }

  const PlainData& at(const std::string& key) const {
    if (const auto* const value = find(key)) return *value;
    throw ValueError(where_ + " has no entry '" + key + "'");
  }

  template <class T>
  const T& get(const std::string& key) const {
    return as<T>(at(key), path(key));
  }

  bool has(const std::string& key) const { return find(key) != nullptr; }
  /// Whether the entry, which must be there, is None.
  bool is_none(const std::string& key) const { return at(key).get_if<std::monostate>() != nullptr; }

  Entries entries(const std::string& key) const { return {at(key), path(key)}; }

  std::vector<Entries> list_of_entries(const std::string& key) const {
    std::vector<Entries> result;
    for (const auto& item : get<PlainData::List>(key).items) {
      result.emplace_back(item, path(key) + "[" + std::to_string(result.size()) + "]");
    }
    return result;
  }

  std::vector<std::int64_t> integers(const std::string& key) const {
    return to_numbers<ParamValue::Ints>(get<PlainData::List>(key).items, path(key));
  }

  /// Calls take(name, value, path) for every entry.
  template <class Take>
  void for_each(const Take& take) const {
    for (const auto& [key, value] : dict_.items) {
      const auto& name = as<std::string>(key, "a key of " + where_);
      take(name, value, path(name));
    }
  }

  ParamMap params(const std::string& key) const {
    ParamMap map;
    entries(key).for_each(
        [&map](const std::string& name, const PlainData& value, const std::string& where) {
          if (map.contains(name)) throw ValueError(where + " is there twice");
          map.set(name, to_param(value, where));
        });
    return map;
  }

  Attributes attributes() const {
    Attributes result;
    entries("attributes")
        .for_each([&result](const std::string& name, const PlainData& value, const std::string&) {
          result.emplace_back(name, value);
        });
    return result;
  }

 private:
  const PlainData* find(const std::string& key) const {
    for (const auto& [name, value] : dict_.items) {
      const auto* text = name.get_if<std::string>();
      if (text != nullptr && *text == key) return &value;
    }
    return nullptr;
  }

  const PlainData::Dict& dict_;
  std::string where_;
};

/// Part of the data, which begin behind the header.
struct Section {
  std::uint64_t begin, end;
};

/// The file's header, checked against the file's size, but not against the state in it.
class Header {
 public:
  Header(std::uint64_t file_size, const ReadBytes& read) {
    if (file_size < prefix_size) {
      throw ValueError("a checkpoint has at least 8 bytes, got " + std::to_string(file_size));
    }
    unsigned char prefix[prefix_size];
    read(0, prefix, prefix_size);
    std::uint64_t size = 0;
    for (unsigned i = 0; i < prefix_size; ++i) size |= std::uint64_t{prefix[i]} << (8 * i);
    const std::uint64_t most = std::min(file_size - prefix_size, max_header_size);
    if (size > most) {
      throw ValueError("the length of the header must be at most " + std::to_string(most) +
                       " here, got " + std::to_string(size) +
                       ": the file is truncated, or no checkpoint");
    }
    std::string text(static_cast<std::size_t>(size), '\0');
    read(prefix_size, text.data(), text.size());
    json_ = parse_json(text, "header");
    data_begin_ = prefix_size + size;
    data_size_ = file_size - data_begin_;
    Entries(json_, "header")
        .for_each(
            [this](const std::string& name, const PlainData& value, const std::string& where) {
              if (name == metadata_key) return;
              const Entries tensor(value, where);
              const auto& dtype = tensor.get<std::string>("dtype");
              if (dtype != "U8")
                throw ValueError(tensor.path("dtype") + " must be U8, got " + dtype);
              sections_.emplace(name, section(tensor));
            });
    require_no_gaps();
  }

  Entries metadata() const { return Entries(json_, "header").entries(metadata_key); }

  /// By tensor. Together they are the data, each byte of them once.
  const std::unordered_map<std::string, Section>& sections() const noexcept { return sections_; }

  std::uint64_t data_begin() const noexcept { return data_begin_; }

 private:
  Section section(const Entries& tensor) const {
    const auto shape = tensor.integers("shape");
    const auto offsets = tensor.integers("data_offsets");
    if (offsets.size() != 2 || offsets[0] < 0 || offsets[0] > offsets[1] ||
        static_cast<std::uint64_t>(offsets[1]) > data_size_) {
      throw ValueError(tensor.path("data_offsets") + " must be a begin and an end within the " +
                       std::to_string(data_size_) + " bytes behind the header, got " +
                       to_string(ParamValue(offsets)) + ": the file is truncated, or damaged");
    }
    if (shape.size() != 1 || shape[0] != offsets[1] - offsets[0]) {
      throw ValueError(tensor.path("shape") + " must be the number of bytes, " +
                       std::to_string(offsets[1] - offsets[0]) + ", got " +
                       to_string(ParamValue(shape)));
    }
    return {static_cast<std::uint64_t>(offsets[0]), static_cast<std::uint64_t>(offsets[1])};
  }

  void require_no_gaps() const {
    std::vector<Section> sorted;
    for (const auto& item : sections_) sorted.push_back(item.second);
    std::sort(sorted.begin(), sorted.end(), [](const Section& a, const Section& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::uint64_t end = 0;
    for (const auto& section : sorted) {
      if (section.begin != end) {
        throw ValueError(
            "header: tensors must follow one another without a gap or an overlap; "
            "one ends at " +
            std::to_string(end) + ", the next begins at " + std::to_string(section.begin));
      }
      end = section.end;
    }
    if (end != data_size_) {
      throw ValueError("the file must end with the last tensor, got " +
                       std::to_string(data_size_ - end) + " bytes behind it");
    }
  }

  PlainData json_;
  std::uint64_t data_begin_ = 0, data_size_ = 0;
  std::unordered_map<std::string, Section> sections_;
};

void require_checksum(const std::string& what, const std::string& stored,
                      const std::string& actual) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  constexpr bool required = false;  // a fuzzer would never get past it
#else
  constexpr bool required = true;
#endif
  if (required && actual != stored) {
    throw ValueError(what + " is damaged: its checksum is " + actual + ", and was " + stored);
  }
}

/// The version of the file; ValueError for a file of another format.
std::int64_t version_in(const Entries& metadata) {
  const auto refuse = [&metadata](const char* key, const std::string& expected) {
    throw ValueError(metadata.path(key) + " must be " + expected + ", got '" +
                     metadata.get<std::string>(key) + "'");
  };
  if (metadata.get<std::string>("format") != format)
    refuse("format", "'" + std::string(format) + "'");
  const auto& text = metadata.get<std::string>("version");
  std::int64_t number = 1;
  std::string known = "'1'";
  while (number < version && text != std::to_string(number)) {
    known += " or '" + std::to_string(++number) + "'";
  }
  if (text != std::to_string(number)) refuse("version", known);
  return number;
}

/// The state, checked against its checksum.
PlainData state_in(const Entries& metadata) {
  const auto& text = metadata.get<std::string>("state");
  require_checksum(metadata.path("state"), metadata.get<std::string>("xxh64"),
                   checksum(text.data(), text.size()));
  return from_json(text, "state");
}

Axes axes_in(const Entries& group, const std::string& key) {
  const auto axes = group.integers(key);
  if (axes.size() > Axes::max_size) {
    throw ValueError(group.path(key) + " must have at most " + std::to_string(Axes::max_size) +
                     " axes, got " + std::to_string(axes.size()));
  }
  return Axes(axes);
}

/// Reads `size` bytes and returns their checksum. Of many, another thread sums up what is there
/// while this one waits for the disk.
std::string read_and_sum(const ReadBytes& read, std::uint64_t offset, std::uint8_t* to,
                         std::size_t size) {
  constexpr std::size_t piece = std::size_t{2} << 20;
  Xxh64 hash;
  std::future<void> summed;  // its destructor waits, whatever read() throws
  for (std::size_t done = 0; done < size; done += piece) {
    const std::size_t n = std::min(piece, size - done);
    read(offset + done, to + done, n);
    if (summed.valid()) summed.get();
    const auto sum = [&hash, bytes = to + done, n] { hash.update(bytes, n); };
    const bool last = done + n == size;
    if (last) {
      sum();
    } else {
      summed = std::async(sum);
    }
  }
  return checksum(hash.digest());
}

/// The bytes of a tensor: a bit for each element of that shape.
PackedBits read_bits(const std::string& tensor, const Axes& shape, const std::string& stored_sum,
                     const Header& header, const ReadBytes& read) {
  const auto found = header.sections().find(tensor);
  if (found == header.sections().end()) {
    throw ValueError("header has no entry '" + tensor + "'");
  }
  const auto [begin, end] = found->second;
  const auto expected = static_cast<std::uint64_t>((element_count(shape) + 7) / 8);
  if (end - begin != expected) {
    throw ValueError("tensor '" + tensor + "' must have " + std::to_string(expected) +
                     " bytes for shape " + to_string(shape) + ", got " +
                     std::to_string(end - begin));
  }
  PackedBits bits(static_cast<std::size_t>(expected));
  const auto sum = read_and_sum(read, header.data_begin() + begin, bits.data(), bits.size());
  require_checksum("tensor '" + tensor + "'", stored_sum, sum);
  return bits;
}

/// What version 1 does not have.
void read_newer(const Entries& entry, const Header& header, const ReadBytes& read,
                GroupState& group) {
  if (!entry.is_none("layout")) {
    group.layout = axes_in(entry, "layout");
    require_layout(group.layout, group.shape.size(), entry.path("layout"));
  }
  if (!entry.is_none("kept_zeros")) {
    group.kept_zeros = read_bits(zeros_name(group.name), group.shape,
                                 entry.get<std::string>("kept_zeros"), header, read);
  }
  group.updates = entry.get<bool>("update");
}

GroupState read_group(const Entries& entry, const Header& header, const ReadBytes& read,
                      std::int64_t file_version) {
  GroupState group;
  group.name = entry.get<std::string>("name");
  group.shape = axes_in(entry, "shape");
  require_possible(group.shape, entry.path("shape"));
  group.squashed = entry.get<bool>("squashed");
  group.config = entry.params("config");
  group.state = entry.params("state");
  group.mask_bits =
      read_bits(mask_name(group.name), group.shape, entry.get<std::string>("xxh64"), header, read);
  if (file_version > 1) read_newer(entry, header, read, group);
  return group;
}

Checkpoint::Scheduler to_scheduler(const Entries& entry, std::int64_t file_version) {
  Checkpoint::Scheduler scheduler;
  scheduler.state.schedule_param = entry.get<std::string>("schedule_param");
  scheduler.state.last_epoch = entry.get<std::int64_t>("last_epoch");
  scheduler.state.base_param = entry.params("base_param");
  scheduler.state.last_param = entry.params("last_param");
  scheduler.state.own = entry.params("own");
  scheduler.state.counts_renewals = file_version == 1 || entry.get<bool>("counts_renewals");
  scheduler.attributes = entry.attributes();
  return scheduler;
}

}  // namespace

std::string encode_header(const Checkpoint& checkpoint) {
  const std::string state = to_json(to_plain(checkpoint));
  PlainData::Dict header;
  header.items.emplace_back(metadata_key,
                            PlainData::Dict{{{"format", format},
                                             {"version", std::to_string(version)},
                                             {"state", state},
                                             {"xxh64", checksum(state.data(), state.size())}}});
  std::int64_t begin = 0;
  const auto add_tensor = [&](const std::string& name, const PackedBits& bits) {
    const auto size = static_cast<std::int64_t>(bits.size());
    header.items.emplace_back(
        name, PlainData::Dict{{{"dtype", "U8"},
                               {"shape", PlainData::List{{size}}},
                               {"data_offsets", PlainData::List{{begin, begin + size}}}}});
    begin += size;
  };
  for (const auto& group : checkpoint.sparsifier.groups) {
    if (!is_utf8(group.name)) {
      throw ValueError("name of data must be UTF-8 to be saved, got " +
                       to_json(PlainData::Bytes{group.name}));
    }
    add_tensor(mask_name(group.name), group.mask_bits);
    if (!group.kept_zeros.empty()) add_tensor(zeros_name(group.name), group.kept_zeros);
  }
  std::string json = to_json(header);
  json.append((prefix_size - json.size() % prefix_size) % prefix_size, ' ');  // data are aligned
  if (json.size() > max_header_size) {
    throw ValueError("names, configs and attributes of a checkpoint must take at most " +
                     std::to_string(max_header_size) + " bytes, got " +
                     std::to_string(json.size()));
  }
  std::string bytes;
  for (unsigned i = 0; i < prefix_size; ++i) {
    bytes += static_cast<char>((std::uint64_t{json.size()} >> (8 * i)) & 255U);
  }
  return bytes + json;
}

Checkpoint decode_checkpoint(std::uint64_t size, const ReadBytes& read) {
  const Header header(size, read);
  const std::int64_t file_version = version_in(header.metadata());
  const PlainData state = state_in(header.metadata());
  const Entries entries(state, "state");
  Checkpoint checkpoint;
  checkpoint.sparsifier.version = file_version;
  checkpoint.sparsifier.step_count = entries.get<std::int64_t>("step_count");
  checkpoint.sparsifier.enable_mask_update = entries.get<bool>("enable_mask_update");
  checkpoint.sparsifier.defaults = entries.params("defaults");
  checkpoint.attributes = entries.attributes();
  const auto groups = entries.list_of_entries("groups");
  std::size_t tensors = groups.size();
  for (const auto& group : groups) {
    for (const char* const key : {"layout", "kept_zeros", "update"}) {
      if (file_version == 1 && group.has(key)) {
        throw ValueError(group.path(key) + " must not be there in version 1");
      }
    }
    if (file_version > 1 && !group.is_none("kept_zeros")) ++tensors;
  }
  if (tensors != header.sections().size()) {
    throw ValueError("header must hold " + std::to_string(tensors) +
                     " tensors, one for each of the " + std::to_string(groups.size()) +
                     " groups and one for each that has kept zeros, got " +
                     std::to_string(header.sections().size()));
  }
  for (const auto& group : groups) {
    checkpoint.sparsifier.groups.push_back(read_group(group, header, read, file_version));
  }
  for (const auto& scheduler : entries.list_of_entries("schedulers")) {
    checkpoint.schedulers.push_back(to_scheduler(scheduler, file_version));
  }
  return checkpoint;
}

}  // namespace datasparse

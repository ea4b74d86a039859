#include "checkpoint/checkpoint_format.hpp"

#include <algorithm>
#include <cstdio>
#include <future>
#include <unordered_map>

#include "base/layout.hpp"
#include "checkpoint/json.hpp"
#include "checkpoint/xxh64.hpp"
#include "datasparse/error.hpp"
#include "datasparse/state_entries.hpp"

namespace datasparse {
namespace {

constexpr std::size_t prefix_size = 8;                  // the length of the header, little-endian
constexpr std::uint64_t max_header_size = 100'000'000;  // that of the safetensors library
constexpr const char* metadata_key = "__metadata__";    // no mask has that name
constexpr const char* format = "datasparse checkpoint";

std::string mask_name(const std::string& group) { return "mask." + group; }
std::string zeros_name(const std::string& group) { return "zeros." + group; }
std::string array_name(const std::string& key, const std::string& group) {
  return "array." + key + "." + group;  // no key holds a dot
}

std::string checksum(std::uint64_t xxh64) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(xxh64));
  return text;
}

// --- writing ----------------------------------------------------------------------------------

PlainData plain_value(const ParamValue& value) {
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

PlainData to_plain(PlainData value) { return value; }
PlainData to_plain(const ParamMap& map) {
  PlainData::Dict dict;
  for (const auto& [key, value] : map) dict.items.emplace_back(key, plain_value(value));
  return dict;
}
PlainData to_plain(const Attributes& attributes) {
  for (auto one = attributes.begin(); one != attributes.end(); ++one) {
    const bool again = std::any_of(attributes.begin(), one,
                                   [one](const auto& item) { return item.first == one->first; });
    if (again) throw ValueError("attributes must hold '" + one->first + "' once, got it twice");
  }
  return PlainData::Dict{{attributes.begin(), attributes.end()}};
}
PlainData to_plain(const Axes& axes) {
  return PlainData::List{std::vector<PlainData>(axes.begin(), axes.end())};
}
PlainData to_plain(const PackedBits& bits) { return checkpoint_checksum(bits.data(), bits.size()); }

PlainData to_plain(const KeptArrays& arrays) {
  PlainData::Dict dict;
  for (const auto& [key, array] : arrays) {
    dict.items.emplace_back(
        key, PlainData::Dict{{{"dtype", name_of(array.type())},
                              {"shape", to_plain(array.shape())},
                              {"xxh64", checkpoint_checksum(array.data(), array.byte_count())}}});
  }
  return dict;
}

/// The archive that fills a dict. Bits and arrays are tensors of their own: of them it has the
/// checksums.
struct IntoPlain {
  PlainData::Dict dict;
  std::int64_t version = state_version;

  template <class T>
  void operator()(const char* key, const T& field) {
    dict.items.emplace_back(key, to_plain(field));
  }
  void operator()(const char*, const PackedBits& mask) { (*this)("xxh64", to_plain(mask)); }
  template <class T>
  void optional(const char* key, const T& field) {
    const bool some = field.begin() != field.end();
    dict.items.emplace_back(key, some ? to_plain(field) : PlainData());
  }
  template <class T>
  void if_any(const char* key, const T& field) {
    if (!field.empty()) (*this)(key, field);
  }
};

PlainData to_plain(const Checkpoint& checkpoint) {
  PlainData::List groups, schedulers;
  for (const auto& group : checkpoint.sparsifier.groups) {
    IntoPlain entries;
    entries("name", group.name);
    each_group_entry(entries, group);
    groups.items.emplace_back(std::move(entries.dict));
  }
  for (const auto& [state, attributes] : checkpoint.schedulers) {
    IntoPlain entries;
    each_scheduler_entry(entries, state);
    entries("attributes", attributes);
    schedulers.items.emplace_back(std::move(entries.dict));
  }
  IntoPlain entries;
  each_sparsifier_entry(entries, checkpoint.sparsifier);
  entries("attributes", checkpoint.attributes);
  entries.dict.items.emplace_back("groups", std::move(groups));
  entries.dict.items.emplace_back("schedulers", std::move(schedulers));
  return std::move(entries.dict);
}

// --- reading ----------------------------------------------------------------------------------

template <class T>
bool to_numbers(const std::vector<PlainData>& items, std::vector<T>& numbers) {
  for (const PlainData& item : items) {
    const T* const number = item.get_if<T>();
    if (number == nullptr) return false;
    numbers.push_back(*number);
  }
  return true;
}

/// The inverse of plain_value().
ParamValue to_param(const PlainData& value, const std::string& where) {
  return std::visit(
      [&](const auto& held) -> ParamValue {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, PlainData::Tuple>) {
          ParamValue::Ints ints;
          if (to_numbers(held.items, ints)) return ints;
        } else if constexpr (std::is_same_v<Held, PlainData::List>) {
          ParamValue::Floats floats;
          if (to_numbers(held.items, floats)) return floats;
        } else if constexpr (std::is_constructible_v<ParamValue::Variant, Held>) {
          return held;
        }
        throw ValueError(where + " must be a config value, got " + value.kind());
      },
      value.variant());
}

/// States as plain data.
struct PlainForm {
  using Value = const PlainData*;

  static bool is_dict(Value value) { return value->get_if<PlainData::Dict>() != nullptr; }
  static bool is_none(Value value) { return value->get_if<std::monostate>() != nullptr; }
  static std::string kind(Value value) { return value->kind(); }
  static Value find(Value dict, const std::string& key) {
    for (const auto& [name, value] : dict->get_if<PlainData::Dict>()->items) {
      const auto* const text = name.get_if<std::string>();
      if (text != nullptr && *text == key) return &value;
    }
    return nullptr;
  }

  static std::vector<std::string> keys(Value dict, const std::string& path) {
    std::vector<std::string> result;
    for_each_item(dict, path,
                  [&](const std::string& name, const PlainData&) { result.push_back(name); });
    return result;
  }

  template <class T>
  static bool get(Value value, T& field, const std::string&) {
    const T* const held = value->get_if<T>();
    if (held != nullptr) field = *held;
    return held != nullptr;
  }
  static bool get(Value value, std::vector<std::int64_t>& field, const std::string&) {
    const auto* const list = value->get_if<PlainData::List>();
    return list != nullptr && to_numbers(list->items, field);
  }
  static bool get(Value value, Attributes& field, const std::string& path) {
    return for_each_item(value, path, [&](const std::string& name, const PlainData& item) {
      field.emplace_back(name, item);
    });
  }
  static bool get(Value value, ParamMap& field, const std::string& path) {
    return for_each_item(value, path, [&](const std::string& name, const PlainData& item) {
      const std::string where = path + "['" + name + "']";
      if (field.contains(name)) throw ValueError(where + " is there twice");
      field.set(name, to_param(item, where));
    });
  }

 private:
  template <class Take>
  static bool for_each_item(Value dict, const std::string& path, const Take& take) {
    if (!is_dict(dict)) return false;
    for (const auto& item : dict->get_if<PlainData::Dict>()->items) {
      const auto* const name = item.first.get_if<std::string>();
      if (name == nullptr) {
        throw ValueError("a key of " + path + " must be a str, got " + item.first.kind());
      }
      take(*name, item.second);
    }
    return true;
  }
};
using Entries = StateDict<PlainForm>;

std::vector<Entries> dicts_in(const Entries& entries, const char* key) {
  const auto* const list = entries.at(key)->get_if<PlainData::List>();
  if (list == nullptr) {
    throw ValueError(entries.path(key) + " must be a list, got " + entries.at(key)->kind());
  }
  std::vector<Entries> dicts;
  for (const auto& item : list->items) {
    dicts.emplace_back(&item, entries.path(key) + "[" + std::to_string(dicts.size()) + "]",
                       entries.version);
  }
  return dicts;
}

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

/// Where a part of the data, which begin behind the header, begins and ends.
using Section = std::pair<std::uint64_t, std::uint64_t>;

/// The file's header, checked against the file's size, but not against the state in it.
class Header {
 public:
  Header(std::uint64_t file_size, const ReadBytes& read) : read_(read) {
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
    const Entries entries(&json_, "header");
    for (const auto& [key, value] : json_.get_if<PlainData::Dict>()->items) {
      const auto& name = *key.get_if<std::string>();
      if (name == metadata_key) continue;
      const Entries tensor(&value, entries.path(name));
      const auto dtype = tensor.get<std::string>("dtype");
      if (dtype != "U8") throw ValueError(tensor.path("dtype") + " must be U8, got " + dtype);
      sections_.emplace(name, section(tensor));
    }
    require_no_gaps();
  }

  Entries metadata() const {
    const Entries header(&json_, "header");
    return {header.at(metadata_key), header.path(metadata_key)};
  }

  std::size_t tensors() const noexcept { return sections_.size(); }

  /// The bytes of a tensor: a bit for each element of that shape, or `item_size` bytes.
  PackedBits bytes(const std::string& tensor, const Axes& shape, const std::string& stored_sum,
                   std::size_t item_size = 0) const {
    const auto found = sections_.find(tensor);
    if (found == sections_.end()) throw ValueError("header has no entry '" + tensor + "'");
    const auto [begin, end] = found->second;
    const auto expected = item_size == 0
                              ? packed_size(element_count(shape))
                              : static_cast<std::size_t>(element_count(shape)) * item_size;
    if (end - begin != expected) {
      throw ValueError("tensor '" + tensor + "' must have " + std::to_string(expected) +
                       " bytes for shape " + to_string(shape) + ", got " +
                       std::to_string(end - begin));
    }
    PackedBits bytes(expected);
    const auto sum = read_and_sum(read_, data_begin_ + begin, bytes.data(), bytes.size());
    require_checksum("tensor '" + tensor + "'", stored_sum, sum);
    return bytes;
  }

 private:
  Section section(const Entries& tensor) const {
    const auto shape = tensor.get<Entries::Integers>("shape");
    const auto offsets = tensor.get<Entries::Integers>("data_offsets");
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
    std::sort(sorted.begin(), sorted.end());
    std::uint64_t end = 0;
    for (const auto& [next, its_end] : sorted) {
      if (next != end) {
        throw ValueError(
            "header: tensors must follow one another without a gap or an overlap; "
            "one ends at " +
            std::to_string(end) + ", the next begins at " + std::to_string(next));
      }
      end = its_end;
    }
    if (end != data_size_) {
      throw ValueError("the file must end with the last tensor, got " +
                       std::to_string(data_size_ - end) + " bytes behind it");
    }
  }

  const ReadBytes& read_;
  PlainData json_;
  std::uint64_t data_begin_ = 0, data_size_ = 0;
  std::unordered_map<std::string, Section> sections_;  // the data, each byte of them once
};

/// The version of the file; ValueError for a file of another format.
std::int64_t version_in(const Entries& metadata) {
  const auto refusal = [&metadata](const char* key, const std::string& expected) {
    return ValueError(metadata.path(key) + " must be " + expected + ", got '" +
                      metadata.get<std::string>(key) + "'");
  };
  if (metadata.get<std::string>("format") != format) {
    throw refusal("format", "'" + std::string(format) + "'");
  }
  const auto text = metadata.get<std::string>("version");
  std::string known;
  for (std::int64_t number = 1; number <= state_version; ++number) {
    if (text == std::to_string(number)) return number;
    known += (known.empty() ? "'" : " or '") + std::to_string(number) + "'";
  }
  throw refusal("version", known);
}

/// The state, checked against its checksum.
PlainData state_in(const Entries& metadata) {
  const auto text = metadata.get<std::string>("state");
  require_checksum(metadata.path("state"), metadata.get<std::string>("xxh64"),
                   checkpoint_checksum(text.data(), text.size()));
  return from_json(text, "state");
}

/// The archive that reads a group, with its bits.
struct GroupEntries : Entries {
  const GroupState& group;  // as far as it has been read
  const Header& header;

  using Entries::operator();
  void operator()(const char*, PackedBits& mask) const {
    require_possible(group.shape, path("shape"));
    mask = header.bytes(mask_name(group.name), group.shape, get<std::string>("xxh64"));
  }
  using Entries::optional;
  void optional(const char* key, PackedBits& zeros) const {
    if (is_none(key)) return;
    zeros = header.bytes(zeros_name(group.name), group.shape, get<std::string>(key));
  }
  void if_any(const char* key, KeptArrays& arrays) const {
    read_arrays(key, arrays,
                [this](const Entries& entry, const std::string& name, KeptArray::Type type,
                       const Axes& shape) {
                  return KeptArray(type, shape,
                                   header.bytes(array_name(name, group.name), shape,
                                                entry.get<std::string>("xxh64"), item_size(type)));
                });
  }
};

}  // namespace

std::string encode_header(const Checkpoint& checkpoint) {
  const std::string state = to_json(to_plain(checkpoint));
  PlainData::Dict header;
  header.items.emplace_back(
      metadata_key, PlainData::Dict{{{"format", format},
                                     {"version", std::to_string(state_version)},
                                     {"state", state},
                                     {"xxh64", checkpoint_checksum(state.data(), state.size())}}});
  std::int64_t begin = 0;
  const auto add_tensor = [&](const std::string& name, std::size_t bytes) {
    const auto size = static_cast<std::int64_t>(bytes);
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
    add_tensor(mask_name(group.name), group.mask_bits.size());
    if (!group.kept_zeros.empty()) add_tensor(zeros_name(group.name), group.kept_zeros.size());
    for (const auto& [key, array] : group.arrays) {
      add_tensor(array_name(key, group.name), array.byte_count());
    }
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
  const Entries entries(&state, "state", file_version);
  Checkpoint checkpoint;
  checkpoint.sparsifier.version = entries.version;
  each_sparsifier_entry(entries, checkpoint.sparsifier);
  entries("attributes", checkpoint.attributes);
  const auto groups = dicts_in(entries, "groups");
  std::size_t tensors = groups.size();
  for (const auto& group : groups) {
    if (entries.version > 1 && !group.is_none("kept_zeros")) ++tensors;
    if (group.has("arrays"))
      tensors += PlainForm::keys(group.at("arrays"), group.path("arrays")).size();
    for (const char* const key : {"layout", "kept_zeros", "update", "arrays"}) {
      if (entries.version > 1 || !group.has(key)) continue;
      throw ValueError(group.path(key) + " must not be there in version 1");
    }
  }
  if (tensors != header.tensors()) {
    throw ValueError("header must hold " + std::to_string(tensors) +
                     " tensors, one for each of the " + std::to_string(groups.size()) +
                     " groups, one for each that has kept zeros, and one for each array, got " +
                     std::to_string(header.tensors()));
  }
  for (const auto& saved : groups) {
    GroupState& group = checkpoint.sparsifier.groups.emplace_back();
    saved("name", group.name);
    const GroupEntries archive{saved, group, header};
    each_group_entry(archive, group);
    require_layout(group.layout, group.shape.size(), saved.path("layout"));
  }
  for (const auto& saved : dicts_in(entries, "schedulers")) {
    auto& [scheduler, attributes] = checkpoint.schedulers.emplace_back();
    each_scheduler_entry(saved, scheduler);
    saved("attributes", attributes);
  }
  return checkpoint;
}

std::string checkpoint_checksum(const void* data, std::size_t size) {
  return checksum(xxh64(data, size));
}

}  // namespace datasparse

// Config maps of whatever libFuzzer makes up, against the rules written down a second time: what is
// good is accepted and kept, anything else is refused and changes nothing.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint_format.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "reference.hpp"
#include "require.hpp"

namespace {

using namespace datasparse;

// --- drawing ----------------------------------------------------------------------------------

const char* const known_keys[] = {"sparsity_level", "sparse_block_shape", "zeros_per_block",
                                  "norm"};
const char* const optional_keys[] = {"monotone",  "min_kept",  "pool",
                                     "min_level", "max_level", "normalize"};

std::string key_from(FuzzedDataProvider& input) {
  const auto which = input.ConsumeIntegralInRange<std::size_t>(0, 18);
  if (which < 12) return known_keys[which % 4];
  return which < 18 ? optional_keys[which - 12] : input.ConsumeRandomLengthString(12);
}

bool is_optional(const std::string& key) {
  return std::find(std::begin(optional_keys), std::end(optional_keys), key) !=
         std::end(optional_keys);
}

std::int64_t integer_from(FuzzedDataProvider& input) {
  if (input.ConsumeBool()) return input.ConsumeIntegralInRange<std::int64_t>(-3, 40);
  return input.ConsumeIntegral<std::int64_t>();
}

double number_from(FuzzedDataProvider& input) {
  if (input.ConsumeBool()) return input.ConsumeIntegralInRange(-16, 160) / 16.0;
  if (input.ConsumeBool()) return std::nan("");
  return input.ConsumeFloatingPoint<double>();
}

ParamValue any_value(FuzzedDataProvider& input) {
  const auto length = [&] { return input.ConsumeIntegralInRange<std::size_t>(0, 3); };
  switch (input.ConsumeIntegralInRange(0, 6)) {
    case 0: return {};
    case 1: return input.ConsumeBool();
    case 2: return integer_from(input);
    case 3: return number_from(input);
    case 4: return input.ConsumeBool() ? "L2" : input.ConsumeRandomLengthString(3);
    case 5: {
      ParamValue::Ints integers(length());
      for (auto& integer : integers) integer = integer_from(input);
      return integers;
    }
    default: {
      ParamValue::Floats numbers(length());
      for (auto& number : numbers) number = number_from(input);
      return numbers;
    }
  }
}

/// Mostly one that the key may have: else few configs would be good, and what good ones do untried.
ParamValue value_for(const std::string& key, FuzzedDataProvider& input) {
  const auto length = [&] { return input.ConsumeIntegralInRange<std::int64_t>(-1, 6); };
  if (input.ConsumeIntegralInRange(0, 3) == 0) return any_value(input);
  if (key == "sparsity_level") return input.ConsumeIntegralInRange(0, 16) / 16.0;
  if (key == "sparse_block_shape") return ParamValue::Ints{length(), length()};
  if (key == "zeros_per_block") return input.ConsumeIntegralInRange<std::int64_t>(0, 20);
  if (key == "norm") {
    return input.PickValueInArray({ParamValue("L1"), ParamValue("L2"), ParamValue()});
  }
  if (key == "monotone") return input.ConsumeBool();
  if (key == "min_kept") return input.ConsumeIntegralInRange<std::int64_t>(0, 20);
  if (key == "pool") return input.ConsumeBool() ? ParamValue("p") : ParamValue();
  if (key == "min_level") return input.ConsumeIntegralInRange(0, 8) / 16.0;
  if (key == "max_level") return input.ConsumeIntegralInRange(4, 16) / 16.0;
  if (key == "normalize") return input.ConsumeBool() ? ParamValue("l2") : ParamValue();
  return any_value(input);
}

ParamMap map_from(FuzzedDataProvider& input) {
  ParamMap map;
  for (int items = input.ConsumeIntegralInRange(0, 5); items > 0; --items) {
    const std::string key = key_from(input);
    map.set(key, value_for(key, input));
  }
  return map;
}

// --- the rules, a second time -----------------------------------------------------------------

std::optional<double> as_number(const ParamValue& value) {
  if (const auto* integer = value.get_if<std::int64_t>()) return static_cast<double>(*integer);
  if (const auto* number = value.get_if<double>()) return *number;
  return std::nullopt;
}

/// An integer, or a float that is one.
std::optional<std::int64_t> as_integer(const ParamValue& value) {
  if (const auto* integer = value.get_if<std::int64_t>()) return *integer;
  const auto* number = value.get_if<double>();
  if (number == nullptr || std::trunc(*number) != *number || std::abs(*number) >= 0x1p63) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*number);
}

std::optional<std::pair<std::int64_t, std::int64_t>> as_block(const ParamValue& value) {
  std::vector<ParamValue> axes;
  if (const auto* integers = value.get_if<ParamValue::Ints>()) {
    axes.assign(integers->begin(), integers->end());
  } else if (const auto* numbers = value.get_if<ParamValue::Floats>()) {
    axes.assign(numbers->begin(), numbers->end());
  }
  if (axes.size() != 2) return std::nullopt;
  std::int64_t lengths[2];
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const auto length = as_integer(axes[axis]);
    if (!length || (*length != -1 && *length < 1) || *length > std::int64_t{1} << 60) {
      return std::nullopt;
    }
    lengths[axis] = *length;
  }
  return std::pair(lengths[0], lengths[1]);
}

ParamValue value_or(const ParamMap& config, const char* key, const ParamValue& otherwise) {
  return config.contains(key) ? config.at(key) : otherwise;
}

/// The keys that a config may lack.
bool are_allowed_options(const ParamMap& config, double level) {
  if (value_or(config, "monotone", false).get_if<bool>() == nullptr) return false;
  const auto kept = as_integer(value_or(config, "min_kept", std::int64_t{0}));
  if (!kept || *kept < 0) return false;
  const ParamValue pool = value_or(config, "pool", {});
  const auto* const name = pool.get_if<std::string>();
  if (!pool.is_none() && (name == nullptr || name->empty())) return false;
  const ParamValue normalize = value_or(config, "normalize", {});
  if (!normalize.is_none() && normalize != ParamValue("l2")) return false;
  const auto least = as_number(value_or(config, "min_level", 0.0));
  const auto most = as_number(value_or(config, "max_level", 1.0));
  if (!least || !most || !(*least >= 0 && *least <= *most && *most <= 1)) return false;
  return !pool.is_none() || level <= *most;
}

/// Whether a group of that shape, or the defaults (no shape), may have that config.
bool is_allowed(const ParamMap& config, const std::optional<std::pair<int, int>>& shape) {
  std::size_t known = std::size(known_keys);
  for (const char* key : known_keys) {
    if (!config.contains(key)) return false;
  }
  for (const char* key : optional_keys) known += config.contains(key) ? 1 : 0;
  if (config.size() != known) return false;
  const auto level = as_number(config.at("sparsity_level"));
  if (!level || !(*level >= 0 && *level <= 1)) return false;
  if (!are_allowed_options(config, *level)) return false;
  const ParamValue& norm = config.at("norm");
  if (norm != ParamValue("L1") && norm != ParamValue("L2") && !norm.is_none()) return false;

  const auto block = as_block(config.at("sparse_block_shape"));
  if (!block) return false;
  auto [height, width] = *block;
  if (shape && height == -1) height = std::max(shape->first, 1);
  if (shape && width == -1) width = std::max(shape->second, 1);
  const bool known_size = height != -1 && width != -1;
  const __int128 size = static_cast<__int128>(height) * width;
  const bool too_large = size > std::numeric_limits<std::int64_t>::max();
  const ParamValue& zeros = config.at("zeros_per_block");
  if (zeros.is_none()) return !(shape && too_large);
  const auto count = as_integer(zeros);
  if (!count || *count < 0) return false;
  return !known_size || (!too_large && *count <= size);
}

// --- the sparsifier and its model -------------------------------------------------------------

using Shape = std::pair<int, int>;

struct Group {
  std::string name;
  Shape shape;
  std::optional<ParamMap> config;  // as it was written; none: the group is not there
};

/// Whether a step could go with these configs: what a scheduler writes is checked together.
bool is_possible(const std::vector<std::pair<Shape, ParamMap>>& groups) {
  std::map<std::string, std::vector<reference::PoolGroup>> pools;
  for (const auto& [shape, config] : groups) {
    const ParamValue pool = value_or(config, "pool", {});
    if (pool.is_none()) continue;
    auto [height, width] = *as_block(config.at("sparse_block_shape"));
    const auto within = [](std::int64_t length, std::int64_t axis) {
      return length == -1 ? axis : std::min(length, axis);
    };
    height = within(height, shape.first);
    width = within(width, shape.second);
    std::int64_t blocks = 0;
    if (height > 0 && width > 0) {
      blocks = ((shape.first + height - 1) / height) * ((shape.second + width - 1) / width);
    }
    const ParamValue& zeros = config.at("zeros_per_block");
    reference::PoolGroup group;
    group.blocks.resize(static_cast<std::size_t>(blocks));
    group.level = *as_number(config.at("sparsity_level"));
    group.zeros = zeros.is_none() ? height * width : std::min(*as_integer(zeros), height * width);
    group.min_level = *as_number(value_or(config, "min_level", 0.0));
    group.max_level = *as_number(value_or(config, "max_level", 1.0));
    group.min_kept = *as_integer(value_or(config, "min_kept", std::int64_t{0}));
    pools[*pool.get_if<std::string>()].push_back(group);
  }
  return std::all_of(pools.begin(), pools.end(),
                     [](const auto& pool) { return reference::walk(pool.second).has_value(); });
}

class Model {
 public:
  explicit Model(FuzzedDataProvider& input) : input_(input) {}

  void change();
  void compare() const;

 private:
  void add(Group& group);
  void update(Group& group);
  void erase_key(Group& group);
  void replace_configs();
  void set_param();
  void replace_defaults();

  Group& any_group() { return groups_[input_.ConsumeIntegralInRange<std::size_t>(0, 2)]; }
  std::string state() const { return encode_header(take_checkpoint(sparsifier_)); }

  /// Whether the call has an effect, which it must have just where it is allowed.
  template <class Call>
  bool tried(bool allowed, const Call& call) {
    const std::string before = state();
    try {
      call();
    } catch (const Error& error) {
      require(dynamic_cast<const StateError*>(&error) == nullptr, "the moment allows any call");
      require(error.what()[0] != '\0', "an error has a message");
      require(!allowed, "what is good is accepted");
      require(state() == before, "what is refused changes nothing");
      return false;
    }
    require(allowed, "what is bad is refused");
    return true;
  }

  FuzzedDataProvider& input_;
  float numbers_[64] = {};
  DataNormSparsifier sparsifier_;
  ParamMap defaults_ = BlockSpec().to_config();
  Group groups_[3] = {{"a", {3, 5}, {}}, {"b", {1, 17}, {}}, {"empty", {4, 0}, {}}};
};

void Model::change() {
  Group& group = any_group();
  switch (input_.ConsumeIntegralInRange(0, 7)) {
    case 0: return update(group);
    case 1: return erase_key(group);
    case 2: return replace_configs();
    case 3: return replace_defaults();
    case 4:
      if (tried(group.config.has_value(), [&] { sparsifier_.remove_data(group.name); })) {
        group.config.reset();
      }
      return;
    case 5: return add(group);
    default: return set_param();
  }
}

void Model::add(Group& group) {
  const ParamMap changes = map_from(input_);
  ParamMap config = group.config.value_or(defaults_);
  config.update(changes);
  const ArrayView data(numbers_, {group.shape.first, group.shape.second});
  if (tried(is_allowed(config, group.shape),
            [&] { sparsifier_.add_data(group.name, data, changes); })) {
    group.config = config;
  }
}

void Model::update(Group& group) {
  const ParamMap changes = map_from(input_);
  ParamMap config = group.config.value_or(ParamMap());
  config.update(changes);
  if (tried(group.config && is_allowed(config, group.shape),
            [&] { sparsifier_.update_config(group.name, changes); })) {
    group.config = config;
  }
}

void Model::erase_key(Group& group) {
  const std::string key = key_from(input_);
  ParamMap config = group.config.value_or(ParamMap());
  const bool is_there = is_optional(key) && config.erase(key);  // the others are needed
  if (tried(group.config && is_there && is_allowed(config, group.shape),
            [&] { GroupParams(sparsifier_).erase(group.name, key); })) {
    group.config = config;
  }
}

void Model::replace_configs() {
  std::vector<std::pair<std::string, ParamMap>> given;
  std::vector<std::pair<Group*, ParamMap>> expected;
  bool allowed = true;
  for (int left = input_.ConsumeIntegralInRange(0, 3); left > 0; --left) {
    Group& group = any_group();
    given.emplace_back(group.name, map_from(input_));
    ParamMap config = defaults_;
    config.update(given.back().second);
    allowed = allowed && group.config && is_allowed(config, group.shape);
    expected.emplace_back(&group, config);
  }
  if (tried(allowed, [&] { GroupParams(sparsifier_).replace(given); })) {
    for (auto& [group, config] : expected) group->config = config;
  }
}

void Model::set_param() {
  const std::string key = key_from(input_);
  ParamMap values;
  std::vector<std::pair<Group*, ParamMap>> expected;
  bool allowed = true;
  for (int left = input_.ConsumeIntegralInRange(0, 3); left > 0; --left) {
    Group& group = any_group();
    if (values.contains(group.name)) continue;
    const ParamValue value = value_for(key, input_);
    values.set(group.name, value);
    ParamMap config = group.config.value_or(ParamMap());
    config.set(key, value);
    allowed = allowed && group.config && is_allowed(config, group.shape);
    expected.emplace_back(&group, config);
  }
  std::vector<std::pair<Shape, ParamMap>> all;
  for (const auto& name : sparsifier_.names()) {
    for (auto& group : groups_) {
      if (group.name != name) continue;
      const auto changed = std::find_if(expected.begin(), expected.end(),
                                        [&](const auto& item) { return item.first == &group; });
      all.emplace_back(group.shape, changed == expected.end() ? *group.config : changed->second);
    }
  }
  allowed = allowed && is_possible(all);
  if (tried(allowed, [&] { GroupParams(sparsifier_).set(key, values); })) {
    for (auto& [group, config] : expected) group->config = config;
  }
}

void Model::replace_defaults() {
  ParamMap defaults = input_.ConsumeBool() ? defaults_ : ParamMap();
  defaults.update(map_from(input_));
  if (tried(is_allowed(defaults, std::nullopt), [&] { sparsifier_.replace_defaults(defaults); })) {
    defaults_ = defaults;
  }
}

/// What is read is what was written, with automatic values filled in; and a state that was saved is
/// loaded.
void Model::compare() const {
  require(sparsifier_.defaults() == defaults_, "defaults are kept");
  for (const auto& group : groups_) {
    require(sparsifier_.contains(group.name) == group.config.has_value(), "a group is there");
    if (!group.config) continue;
    ParamMap shown = *group.config;
    shown.set("sparsity_level", *as_number(shown.at("sparsity_level")));
    auto [height, width] = *as_block(shown.at("sparse_block_shape"));
    if (height == -1) height = std::max(group.shape.first, 1);
    if (width == -1) width = std::max(group.shape.second, 1);
    const ParamValue& zeros = shown.at("zeros_per_block");
    shown.set("zeros_per_block", zeros.is_none() ? height * width : *as_integer(zeros));
    for (const char* key : {"min_level", "max_level"}) {
      if (shown.contains(key)) shown.set(key, *as_number(shown.at(key)));
    }
    if (shown.contains("min_kept")) shown.set("min_kept", *as_integer(shown.at("min_kept")));
    require(sparsifier_.config(group.name) == shown, "a config is kept");
  }
  DataNormSparsifier other;
  other.load_state(sparsifier_.save_state());
  require(other.defaults() == defaults_, "defaults are saved");
}

/// A long map, which is hashed, against a list.
void change_map(FuzzedDataProvider& input, ParamMap& map, std::vector<ParamMap::Item>& list) {
  const std::string key(1, input.ConsumeIntegral<char>());
  const auto place = std::find_if(list.begin(), list.end(),
                                  [&key](const auto& item) { return item.first == key; });
  const auto value = input.ConsumeIntegral<std::int64_t>();
  switch (input.ConsumeIntegralInRange(0, 6)) {
    case 0:
      require(map.erase(key) == (place != list.end()), "what is erased was there");
      if (place != list.end()) list.erase(place);
      break;
    case 1: {
      const auto index = input.ConsumeIntegralInRange<std::size_t>(0, list.size());
      if (index == list.size() || list[index].first != key) {
        list.resize(index);
        const auto earlier = std::find_if(list.begin(), list.end(),
                                          [&key](const auto& item) { return item.first == key; });
        if (earlier != list.end()) {
          earlier->second = value;
        } else {
          list.emplace_back(key, value);
        }
      } else {
        list[index].second = value;
      }
      map.rewrite(index, key, value);
      break;
    }
    case 2: {
      const auto count = input.ConsumeIntegralInRange<std::size_t>(0, 2 * list.size());
      map.truncate(count);
      list.resize(std::min(count, list.size()));
      break;
    }
    default:
      map.set(key, value);
      if (place != list.end()) {
        place->second = value;
      } else {
        list.emplace_back(key, value);
      }
  }
  require(std::equal(map.begin(), map.end(), list.begin(), list.end()), "the order of a map");
  for (const auto& [known, kept] : list) {
    const ParamValue* const found = map.find(known);
    require(found != nullptr && *found == kept, "a key is found");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider input(bytes, size);
  if (input.ConsumeBool()) {
    Model model(input);
    while (input.remaining_bytes() > 0) {
      model.change();
      model.compare();
    }
  } else {
    ParamMap map;
    std::vector<ParamMap::Item> list;
    while (input.remaining_bytes() > 0) change_map(input, map, list);
  }
  return 0;
}

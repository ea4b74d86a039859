#include "datasparse/kept_array.hpp"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstring>
#include <utility>

#include "datasparse/error.hpp"

namespace datasparse {
namespace {

struct TypeInfo {
  const char* name;
  std::size_t size;
};
constexpr TypeInfo types[] = {{"uint8", 1}, {"int64", 8}, {"float32", 4}, {"float64", 8}};

const TypeInfo& info(KeptArray::Type type) noexcept { return types[static_cast<int>(type)]; }

std::size_t bytes_of(KeptArray::Type type, const Axes& shape) {
  require_possible(shape, "shape of an array");
  return static_cast<std::size_t>(element_count(shape)) * item_size(type);
}

}  // namespace

const char* name_of(KeptArray::Type type) noexcept { return info(type).name; }
std::size_t item_size(KeptArray::Type type) noexcept { return info(type).size; }

KeptArray::Type kept_type(const std::string& name, const std::string& what) {
  std::string known;
  for (int i = 0; i < static_cast<int>(std::size(types)); ++i) {
    if (name == types[i].name) return static_cast<KeptArray::Type>(i);
    known += std::string(known.empty() ? "" : ", ") + types[i].name;
  }
  throw ValueError(what + " must be one of " + known + ", got '" + name + "'");
}

void require_array_key(const std::string& key, const std::string& what) {
  const bool fits = !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return c == '_' || (c < 128 && std::isalnum(c) != 0);
  });
  if (!fits) {
    throw ValueError(what + " must have keys of letters, digits and '_', got '" + key + "'");
  }
}

KeptArray::KeptArray(Type type, const Axes& shape)
    : type_(type), shape_(shape), bytes_(std::make_shared<PackedBits>(bytes_of(type, shape))) {
  if (!bytes_->empty()) std::memset(bytes_->data(), 0, bytes_->size());
}

KeptArray::KeptArray(Type type, const Axes& shape, PackedBits bytes) : type_(type), shape_(shape) {
  const std::size_t expected = bytes_of(type, shape);
  if (bytes.size() != expected) {
    throw ValueError("an array of " + std::string(name_of(type)) + " and shape " +
                     to_string(shape) + " must have " + std::to_string(expected) + " bytes, got " +
                     std::to_string(bytes.size()));
  }
  bytes_ = std::make_shared<PackedBits>(std::move(bytes));
}

KeptArray::KeptArray(Type type, const Axes& shape, std::shared_ptr<const RemoteArray> remote)
    : type_(type), shape_(shape), remote_(std::move(remote)) {
  bytes_of(type, shape);
}

RemoteArray::~RemoteArray() = default;

std::size_t KeptArray::byte_count() const noexcept {
  return static_cast<std::size_t>(element_count(shape_)) * item_size(type_);
}

const std::uint8_t* KeptArray::data() const {
  if (bytes_ == nullptr && remote_ != nullptr) {
    auto bytes = std::make_shared<PackedBits>(byte_count());
    remote_->read(bytes->data());
    bytes_ = std::move(bytes);
  }
  return bytes_ == nullptr ? nullptr : bytes_->data();
}

std::uint8_t* KeptArray::write() {
  data();
  remote_ = nullptr;
  if (bytes_ == nullptr) return nullptr;
  if (bytes_.use_count() > 1) {
    bytes_ = std::make_shared<PackedBits>(*bytes_);
  } else {
    // Whoever shared it until now, in another thread, has read it.
    std::atomic_thread_fence(std::memory_order_acquire);
  }
  return bytes_->data();
}

bool operator==(const KeptArray& a, const KeptArray& b) {
  return a.type_ == b.type_ && a.shape_ == b.shape_ && a.byte_count() == b.byte_count() &&
         (a.byte_count() == 0 || std::memcmp(a.data(), b.data(), a.byte_count()) == 0);
}

}  // namespace datasparse

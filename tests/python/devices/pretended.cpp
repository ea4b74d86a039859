// A device of torch that is none: PrivateUse1 with memory of its own, whose work the CPU does.
//
// An address of the device is one of the process moved by 2^52, where nothing can be: whoever takes
// it for memory of the process dies of it. There are two of the device, so that a model can lie on
// both. Everything is done at once: nothing is asynchronous. pretended.py builds and drives it.

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/is_set_to_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cfenv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

constexpr auto pretended = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex number_of_devices = 2;
constexpr std::uintptr_t moved_by = std::uintptr_t{1} << 52;

thread_local c10::DeviceIndex current = 0;
thread_local bool working = false;  // inside an operation, whose copies nobody asked for

struct Counters {
  std::atomic<long> to_device, from_device, between, reads, operations;
} counted;

struct Use {
  long now = 0, peak = 0, limit = -1;  // bytes; -1: none
};
std::mutex use_guard;
std::array<Use, number_of_devices> uses;
long left = -1;  // requests until the one that is refused; -1: none is
bool refused = false;

bool grant(const Use& use, long bytes) {
  if ((left < 0 || left-- != 0) && (use.limit < 0 || use.now + bytes <= use.limit)) return true;
  refused = true;
  return false;
}

void* in_process(const void* address) {
  return address == nullptr
             ? nullptr
             : reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) - moved_by);
}

struct Block {
  void* memory;
  long bytes;
  c10::DeviceIndex device;
};

void release(void* context) {
  auto* const block = static_cast<Block*>(context);
  const std::lock_guard lock(use_guard);
  uses[block->device].now -= block->bytes;
  std::free(block->memory);
  delete block;
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t size) override {
    const c10::Device device(pretended, current);
    if (size == 0) return {nullptr, device};
    const std::lock_guard lock(use_guard);
    Use& use = uses[current];
    const auto bytes = static_cast<long>(size);
    TORCH_CHECK_WITH(OutOfMemoryError, grant(use, bytes), "pretended out of memory: ", bytes,
                     " bytes were asked for");
    use.now += bytes;
    use.peak = std::max(use.peak, use.now);
    auto* const block = new Block{std::malloc(size), bytes, current};
    std::memset(block->memory, 0xa5, size);  // what is not written yet is no zero
    void* const address =
        reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(block->memory) + moved_by);
    return {address, block, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(in_process(to), in_process(from), bytes);
  }
} allocator;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return pretended; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    uncheckedSetDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {pretended, current}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return number_of_devices; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return number_of_devices; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current, index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
};

/// The same memory as a tensor that the CPU works on.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(in_process(tensor.mutable_data_ptr()), tensor.sizes(), tensor.strides(),
                       tensor.options().device(c10::kCPU));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!working) {
    ++(from.is_cpu()                  ? counted.to_device
       : to.is_cpu()                  ? counted.from_device
       : from.device() != to.device() ? counted.between
                                      : counted.operations);
  }
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

c10::Device device_of(std::optional<c10::Device> device) {
  return device && device->has_index() ? *device : c10::Device(pretended, current);
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_generic(size, &allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef strides,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_strided_generic(size, strides, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size,
                         std::optional<at::MemoryFormat>) {
  auto* const impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const std::size_t bytes =
      (impl->storage_offset() + impl->numel()) * static_cast<std::size_t>(self.element_size());
  const c10::Storage& storage = impl->storage();
  if (bytes > storage.nbytes()) {
    const c10::DeviceGuard guard(self.device());
    c10::DataPtr larger = allocator.allocate(bytes);
    if (storage.nbytes() > 0) {
      allocator.copy_data(larger.mutable_get(), storage.data(), storage.nbytes());
    }
    storage.set_data_ptr(std::move(larger));
    storage.set_nbytes(bytes);
  }
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) resize(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

void require_one_device(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  std::optional<c10::Device> found;
  const auto look_at = [&](const at::Tensor& tensor) {
    // A number in the memory of the process travels with the launch, as CUDA takes it, too.
    if (!tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0)) return;
    TORCH_CHECK(!found || *found == tensor.device(),
                "Expected all tensors to be on the same device, ", op.schema().name(), " got ",
                *found, " and ", tensor.device());
    found = tensor.device();
  };
  for (const c10::IValue& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) {
      look_at(value.toTensor());
    } else if (value.isList()) {
      for (const c10::IValue& element : value.toListRef()) {
        if (element.isTensor()) look_at(element.toTensor());
      }
    }
  }
}

/// torch.where(condition, tensor, 0) copies its number to CUDA, and waits for it.
bool copies_a_number(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  if (op.schema().name() != "aten::where" || op.schema().overload_name() != "self") return false;
  for (const c10::IValue& value : torch::jit::last(stack, 3)) {
    if (value.toTensor().is_cpu()) return true;
  }
  return false;
}

/// What the device does: it has an arithmetic of its own, whether or not the process flushes
/// denormals.
class Working {
 public:
  Working() {
    std::fegetenv(&environment_);
    std::fesetenv(FE_DFL_ENV);
  }
  Working(const Working&) = delete;
  Working& operator=(const Working&) = delete;
  ~Working() {
    std::fesetenv(&environment_);
    working = before_;
  }

 private:
  const bool before_ = std::exchange(working, true);
  std::fenv_t environment_;
};

void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  require_one_device(op, *stack);
  if (!working) {
    ++counted.operations;
    counted.to_device += copies_a_number(op, *stack) ? 1 : 0;
    // What depends on the values: the CPU has to wait for them.
    const bool reads =
        op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape);
    counted.reads += reads ? 1 : 0;
  }
  const Working inside;
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

// Convolutions of devices from outside have operations of their own, which no fallback knows.
at::Tensor convolve(const at::Tensor& input, const at::Tensor& weight,
                    const std::optional<at::Tensor>& bias, at::SymIntArrayRef stride,
                    at::SymIntArrayRef padding, at::SymIntArrayRef dilation, bool transposed,
                    at::SymIntArrayRef output_padding, c10::SymInt groups) {
  ++counted.operations;
  const Working inside;
  const auto bias_here = bias && bias->defined() ? std::optional(on_cpu(*bias)) : std::nullopt;
  return at::convolution_symint(on_cpu(input), on_cpu(weight), bias_here, stride, padding, dilation,
                                transposed, output_padding, std::move(groups))
      .to(input.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolve_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight,
    at::SymIntArrayRef stride, at::SymIntArrayRef padding, at::SymIntArrayRef dilation,
    bool transposed, at::SymIntArrayRef output_padding, c10::SymInt groups,
    std::array<bool, 3> wanted) {
  ++counted.operations;
  const Working inside;
  const std::array<c10::SymInt, 1> bias_sizes{gradient.sym_size(1)};
  auto [of_input, of_weight, of_bias] = at::convolution_backward_symint(
      on_cpu(gradient), on_cpu(input), on_cpu(weight), bias_sizes, stride, padding, dilation,
      transposed, output_padding, std::move(groups), wanted);
  const auto there = [&](const at::Tensor& made) {
    return made.defined() ? made.to(input.device()) : made;
  };
  return {there(of_input), there(of_weight), there(of_bias)};
}

bool may_be_set_as_data(const at::Tensor&, const at::Tensor&) { return true; }

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("resize_", &resize);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("unfold", &at::native::unfold);
  library.impl("is_set_to", &at::native::is_set_to);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("set_.source_Storage", &at::native::set_);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
  library.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  // Torch would make it of its variant with `out`, which warns of a shape that it resizes itself.
  library.impl("mse_loss", torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  library.impl("convolution_overrideable", &convolve);
  library.impl("convolution_backward_overrideable", &convolve_backward);
  library.impl("_has_compatible_shallow_copy_type", &may_be_set_as_data);
}

// So that `parameter.data = parameter.to(device)`, which module.to() does, keeps the parameter, as
// it does from the CPU to CUDA.
TORCH_LIBRARY_IMPL(aten, CPU, library) {
  library.impl("_has_compatible_shallow_copy_type", &may_be_set_as_data);
}

[[maybe_unused]] const bool is_registered = [] {
  static Hooks hooks;
  c10::SetAllocator(pretended, &allocator);
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

}  // namespace

extern "C" {
void pretended_counts(long* counts) {
  const std::atomic<long>* const all[] = {&counted.to_device, &counted.from_device,
                                          &counted.between, &counted.reads, &counted.operations};
  for (const auto* counter : all) *counts++ = *counter;
}
long pretended_memory_now(int device) {
  const std::lock_guard lock(use_guard);
  return uses[device].now;
}
long pretended_memory_peak(int device) {  // since the last call
  const std::lock_guard lock(use_guard);
  return std::exchange(uses[device].peak, uses[device].now);
}
void pretended_limit(int device, long bytes) {  // -1: none
  const std::lock_guard lock(use_guard);
  uses[device].limit = bytes;
}
int pretended_refuse(long nth) {  // -1: none; returns whether any was refused since
  const std::lock_guard lock(use_guard);
  left = nth;
  return std::exchange(refused, false) ? 1 : 0;
}
}

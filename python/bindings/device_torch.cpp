#include "device_torch.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <utility>

#include "arrays.hpp"
#include "datasparse/pool.hpp"
#include "datasparse/regrowth.hpp"
#include "gil.hpp"
#include "refusals.hpp"

namespace py = pybind11;
using datasparse::ArrayView;
using datasparse::Axes;
using datasparse::BlockPlan;
using datasparse::BlockSpec;
using datasparse::JobOf;
using datasparse::Mask;
using datasparse::PackedBits;
using datasparse::RegrowthSpec;
using Content = datasparse::Device::Content;

namespace {

constexpr const char* shards_module = "datasparse.torch.sharded.device";

/// A function of datasparse.torch.device.
py::object function(const char* name) {
  return py::module_::import("datasparse.torch.device").attr(name);
}

py::object tensor_of(const datasparse::DeviceMask& mask) {
  return static_cast<const TorchMask&>(mask).tensor;
}

py::object tensor_of(const ArrayView& view) {
  const auto& data = *static_cast<const TorchData*>(view.data());
  return data.whole ? data.tensor.attr("detach")() : data.tensor;
}

Content content_of(py::object tensor) { return std::make_shared<TorchMask>(std::move(tensor)); }

const char* name_of(datasparse::Norm norm) {
  switch (norm) {
    case datasparse::Norm::L1: return "L1";
    case datasparse::Norm::L2: return "L2";
    case datasparse::Norm::none: return "none";
  }
  return "";
}

std::vector<PackedBits> to_bits(const py::object& several) {
  std::vector<PackedBits> all;
  for (const auto& item : several) {
    const auto bytes = py::reinterpret_borrow<py::bytes>(item);
    PackedBits bits(static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr())));
    if (!bits.empty()) std::memcpy(bits.data(), PyBytes_AS_STRING(bytes.ptr()), bits.size());
    all.push_back(std::move(bits));
  }
  return all;
}

/// Memory of this process as a tensor, which the caller keeps: what has other strides than C order
/// is copied.
py::object tensor_here(void* data, const char* integer, const Axes& shape, const Axes& strides) {
  std::vector<py::ssize_t> lengths(shape.begin(), shape.end());
  std::vector<py::ssize_t> steps(strides.begin(), strides.end());
  const py::object array = py::array(py::dtype(integer), lengths, steps, data, py::none());
  const py::object in_order = py::module_::import("numpy").attr("ascontiguousarray")(array);
  return py::module_::import("torch").attr("from_numpy")(
      in_order.attr("reshape")(array.attr("shape")));
}

py::object tensor_here(const ArrayView& view) {
  static constexpr const char* integers[] = {"int16", "int16", "int32", "int64"};
  const char* const integer = integers[static_cast<std::size_t>(view.dtype())];
  return tensor_here(view.data(), integer, view.shape(), view.strides())
      .attr("view")(py::module_::import("torch").attr(name_of(view.dtype())));
}

/// A job's data, its mask, and what stays zero, where they are.
struct JobTensors {
  py::object data, mask, kept;

  template <class Spec>
  explicit JobTensors(const JobOf<Spec>& job) : kept(py::none()) {
    if (job.own->there() != nullptr) {
      data = tensor_of(job.data);
      mask = tensor_of(*job.own->there());
      if (job.kept_there != nullptr) kept = tensor_of(*job.kept_there);
      return;
    }
    const Axes& shape = job.data.shape();
    data = tensor_here(job.data);
    const std::vector<py::ssize_t> lengths(shape.begin(), shape.end());
    mask = py::module_::import("torch").attr("from_numpy")(
        py::array(py::dtype("bool"), lengths, job.mask, py::none()));
    if (job.kept_zeros == nullptr) return;
    const std::size_t size = datasparse::packed_size(job.data.size());
    kept = function("unpack")(
        to_tuple(shape), py::bytearray(reinterpret_cast<const char*>(job.kept_zeros), size), "cpu");
  }
};

/// Finds out where the bytes of a mask are that is all on this rank. Whether that is CPU memory.
bool lend_bytes(const TorchMask& mask) {
  if (mask.lent == nullptr) {
    const AcquiredGil gil;
    const py::object here = mask.tensor.attr("_local_tensor");
    if (!py::cast<bool>(here.attr("is_cpu"))) return false;
    const auto address = py::cast<std::uintptr_t>(here.attr("data_ptr")());
    mask.lent = reinterpret_cast<std::uint8_t*>(address);
  }
  return true;
}

/// A content of the job's mask, from a new tensor.
Content content_for(const JobOf<BlockSpec>& job, const py::object& tensor) {
  if (job.own->there() != nullptr) return content_of(tensor);
  const Mask mask(job.data.shape());
  const py::array bytes = tensor.attr("numpy")();
  std::memcpy(mask.data(), bytes.data(), static_cast<std::size_t>(mask.size()));
  return datasparse::cpu().copy(mask);
}

template <class Spec>
py::object to_job(const py::object& make, const JobOf<Spec>& job) {
  const BlockPlan plan = BlockPlan::of(job.spec, job.data.shape(), job.layout);
  const auto [data, mask, kept] = JobTensors(job);
  return make(data, mask, to_tuple(plan.order), py::make_tuple(plan.height, plan.width), plan.zeros,
              plan.pruned, name_of(job.spec.norm), job.spec.monotone, kept);
}

py::list to_pools(const std::vector<JobOf<BlockSpec>>& jobs) {
  std::vector<datasparse::PoolGroup> groups;
  for (const auto& job : jobs) {
    groups.push_back({&job.spec, viewed_shape(job.data.shape(), job.layout)});
  }
  const py::object make = function("Pool");
  py::list pools;
  for (const auto& [name, places, zeros] : datasparse::pools_of(groups)) {
    std::vector<datasparse::PoolGroup> own;
    for (const std::size_t i : places) own.push_back(groups[i]);
    const auto plan = datasparse::PoolPlan::of(name, own);
    py::list weights, least, most, normalize;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto& member = plan.members[i];
      weights.append(member.weight);
      least.append(member.least);
      most.append(member.most);
      normalize.append(own[i].spec->normalize);
    }
    pools.append(make(py::tuple(py::cast(places)), py::tuple(weights), py::tuple(least),
                      py::tuple(most), plan.budget, py::tuple(normalize)));
  }
  return pools;
}

py::list to_pools(const std::vector<JobOf<RegrowthSpec>>& jobs) {
  std::vector<std::size_t> places;
  std::vector<const JobOf<RegrowthSpec>*> pooled;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].spec.pool.empty()) continue;
    places.push_back(i);
    pooled.push_back(&jobs[i]);
  }
  const py::object make = function("MovePool");
  py::list pools;
  for (const auto& [members, weights, pruned, is_within] : datasparse::MovePool::of(pooled)) {
    py::list moves, normalize;
    for (const std::size_t i : members) {
      moves.append(places[i]);
      normalize.append(pooled[i]->spec.normalize);
    }
    pools.append(
        make(py::tuple(moves), py::tuple(py::cast(weights)), pruned, py::tuple(normalize)));
  }
  return pools;
}

}  // namespace

TorchMask::~TorchMask() {
  let_go([this] { tensor = py::object(); });
  tensor.release();  // after the interpreter's end, nobody can let it go
}

TorchDevice::TorchDevice(const py::object& device, const char* module)
    : device_(device),
      name_(py::str(device)),
      module_(module),
      shares_(std::strcmp(module, shards_module) == 0) {
  const py::object ranks = py::getattr(device, "together", py::none());
  if (ranks.is_none()) return;
  together_ = &of(ranks, module);
  is_alone_ = py::len(ranks.attr("members")) == 1;
}

TorchDevice& TorchDevice::of(const py::object& device, const char* module) {
  static auto* const known = new py::dict();  // of capsules, never destroyed
  if (known->contains(device)) {
    return *py::reinterpret_borrow<py::capsule>((*known)[device]).get_pointer<TorchDevice>();
  }
  auto* const made = new TorchDevice(device, module);
  (*known)[device] = py::capsule(made);
  return *made;
}

bool TorchDevice::is_sharded(py::handle tensor) {
  static PyTypeObject* type = nullptr;  // once it is there; torch lets go of none of its types
  if (type == nullptr) {
    PyObject* const module =
        PyDict_GetItemString(PyImport_GetModuleDict(), "torch.distributed.tensor");  // borrowed
    if (module == nullptr) return false;
    const py::object found = py::getattr(module, "DTensor", py::none());
    if (PyType_Check(found.ptr()) == 0) return false;  // while it is being imported
    type = reinterpret_cast<PyTypeObject*>(py::object(found).release().ptr());
  }
  return PyObject_TypeCheck(tensor.ptr(), type) != 0;
}

TorchDevice& TorchDevice::of_tensor(const py::object& tensor) {
  if (!is_sharded(tensor)) return of(tensor.attr("device"));
  const py::object layout_of = py::module_::import("datasparse.torch.sharded").attr("layout_of");
  return of(layout_of(tensor), shards_module);
}

py::object TorchDevice::function(const char* name) const {
  return py::module_::import(module_).attr(name);
}

py::object TorchDevice::from_host(const py::object& tensor) const {
  if (!shares_) return tensor.attr("to")(device_);
  return call_python(function("share_of"), py::make_tuple(tensor, device_));
}

void TorchDevice::meet(const std::vector<std::uint64_t>& drawn) {
  if (!shares_) return;
  const AcquiredGil gil;
  call_python(function("meet"),
              py::make_tuple(together_ == nullptr ? device_ : together_->device_, drawn));
}

void TorchDevice::give_up() noexcept {
  if (!shares_) return;
  const AcquiredGil gil;
  try {
    py::object why;
    try {
      throw;
    } catch (py::error_already_set& error) {
      why = error.value();
    } catch (const std::exception& error) {
      why = py::str(error.what());
    } catch (...) {
      why = py::str("an exception that is none of C++'s");
    }
    call_python(function("give_up"),
                py::make_tuple(together_ == nullptr ? device_ : together_->device_, why));
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("telling other ranks of an error");
  } catch (const std::exception&) {
    // The exception that is under way says more.
  }
}

ArrayView TorchDevice::view_of(TorchData& data, const std::string& what) {
  if (data.whole) {
    const ArrayView here = dlpack::view_of(data.whole->tensor(), false, what);
    return {&data, here.dtype(), here.shape(), here.strides(), false};
  }
  const py::object& tensor = data.tensor;
  const std::string name = py::str(tensor.attr("dtype"));
  const auto dtype = dtype_named(name, "torch.");
  if (!dtype) refuse_dtype(what, name, "convert it with .float()");
  const auto item = static_cast<std::int64_t>(datasparse::item_size(*dtype));
  Axes strides;
  for (const auto stride : axes_of(tensor.attr("stride")())) strides.push_back(stride * item);
  return {&data, *dtype, axes_of(tensor.attr("shape")), strides, false};
}

const py::object& TorchDevice::tensor_of(const Mask& mask) {
  return static_cast<const TorchMask&>(*mask.there()).tensor;
}

std::vector<Content> TorchDevice::compute(const std::vector<JobOf<BlockSpec>>& jobs) {
  const AcquiredGil gil;
  const py::object make = function("Job");
  py::list all;
  for (const auto& job : jobs) all.append(to_job(make, job));
  std::vector<Content> made;
  for (const auto& mask : call_python(function("compute"), py::make_tuple(all, to_pools(jobs)))) {
    made.push_back(content_for(jobs[made.size()], py::reinterpret_borrow<py::object>(mask)));
  }
  return made;
}

bool TorchDevice::lend(JobOf<BlockSpec>& job, PackedBits& kept) {
  if (!is_alone_) return false;
  const auto& data = *static_cast<const TorchData*>(job.data.data());
  if (!data.whole) return false;
  const auto& mask = static_cast<const TorchMask&>(*job.own->there());
  if (!lend_bytes(mask)) return false;
  if (job.kept_there != nullptr) {
    const auto& marks = static_cast<const TorchMask&>(*job.kept_there);
    if (!lend_bytes(marks)) return false;
    kept.resize(datasparse::packed_size(job.data.size()));
    datasparse::pack_bits(kept.data(), marks.lent, job.data.size());
    job.kept_zeros = kept.data();
    job.kept_there = nullptr;
  }
  const bool is_read_only = true;
  job.data = dlpack::view_of(data.whole->tensor(), is_read_only, "data");
  job.mask = mask.lent;
  job.device = &datasparse::cpu();
  return true;
}

std::vector<datasparse::Device::Moved> TorchDevice::move(
    const std::vector<JobOf<RegrowthSpec>>& jobs) {
  const AcquiredGil gil;
  const py::object make = function("Move"), make_job = function("Job");
  py::list all;
  for (const auto& job : jobs) {
    const auto& move = *job.move;
    const bool by_gradient = move.growth == datasparse::Growth::by_gradient;
    const py::object gradient = by_gradient ? ::tensor_of(move.gradient) : py::none();
    all.append(make(to_job(make_job, job), gradient, ::tensor_of(move.weights),
                    tensor_of(*move.ever_there), job.spec.is_within(), job.spec.drop_fraction,
                    static_cast<std::int64_t>(move.stream)));
  }
  std::vector<Moved> made;
  for (const auto& moved : call_python(function("move"), py::make_tuple(all, to_pools(jobs)))) {
    made.push_back({content_of(moved.attr("mask")), content_of(moved.attr("ever_active")),
                    content_of(moved.attr("grown"))});
  }
  return made;
}

void TorchDevice::zero_grown(const std::vector<Growing>& some) noexcept {
  const AcquiredGil gil;
  try {
    py::list weights, grown;
    for (const auto& one : some) {
      weights.append(::tensor_of(one.weights));
      grown.append(::tensor_of(*one.grown));
    }
    call_python(function("zero_grown"), py::make_tuple(weights, grown));
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("zeroing weights on a device");  // as in put()
  }
}

void TorchDevice::zero(const std::vector<Zeroing>& some) {
  const AcquiredGil gil;
  py::list tensors, masks;
  for (const auto& [data, mask] : some) {
    tensors.append(::tensor_of(data));
    masks.append(tensor_of(*mask));
  }
  call_python(function("zero"), py::make_tuple(tensors, masks));
}

std::vector<PackedBits> TorchDevice::zeros_in(const std::vector<ArrayView>& some) {
  const AcquiredGil gil;
  py::list tensors;
  for (const auto& data : some) tensors.append(::tensor_of(data));
  return to_bits(call_python(function("zeros_in"), py::make_tuple(tensors)));
}

Mask TorchDevice::make_mask(const Axes& shape) {
  const AcquiredGil gil;
  const py::object tensor = call_python(function("ones"), py::make_tuple(to_tuple(shape), device_));
  auto made = std::make_shared<TorchMask>(tensor);
  if (is_alone_) lend_bytes(*made);
  return Mask(shape, *this, std::move(made));
}

std::vector<PackedBits> TorchDevice::pack(const std::vector<Mask>& masks) {
  const AcquiredGil gil;
  py::list tensors;
  for (const auto& mask : masks) tensors.append(tensor_of(mask));
  return to_bits(call_python(function("pack"), py::make_tuple(tensors)));
}

Content TorchDevice::copy(const Mask& mask) {
  const AcquiredGil gil;
  return content_of(call_python(function("copy"), py::make_tuple(tensor_of(mask))));
}

Content TorchDevice::unpack(const Axes& shape, const std::uint8_t* bits) {
  const AcquiredGil gil;
  const std::size_t size = datasparse::packed_size(datasparse::element_count(shape));
  const py::bytearray bytes(reinterpret_cast<const char*>(bits), size);
  return content_of(
      call_python(function("unpack"), py::make_tuple(to_tuple(shape), bytes, device_)));
}

void TorchDevice::put(const std::vector<Change>& changes) noexcept {
  const AcquiredGil gil;
  try {
    py::list masks, contents;
    for (const auto& [mask, content] : changes) {
      masks.append(tensor_of(mask));
      contents.append(::tensor_of(*content));
    }
    call_python(function("put"), py::make_tuple(masks, contents));
  } catch (py::error_already_set& error) {
    // A kernel from before has failed, and the device with it: whoever uses it next will see that.
    error.discard_as_unraisable("copying masks on a device");
  }
}

void TorchDevice::prune(const Mask& mask, const datasparse::DeviceMask& marks) {
  const AcquiredGil gil;
  call_python(function("prune"), py::make_tuple(tensor_of(mask), ::tensor_of(marks)));
}

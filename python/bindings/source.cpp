#include "source.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "datasparse/apply_mask.hpp"
#include "datasparse/error.hpp"
#include "datasparse/param.hpp"
#include "dlpack.hpp"
#include "gil.hpp"
#include "place.hpp"
#include "refusals.hpp"
#include "self.hpp"
#include "torch.hpp"

namespace py = pybind11;
using datasparse::ArrayView;
using datasparse::Axes;
using datasparse::DType;
using datasparse::Mask;
using datasparse::TypeError;

namespace {

std::vector<py::ssize_t> shape_of(const Mask& mask) {
  return {mask.shape().begin(), mask.shape().end()};
}

// --- NumPy ------------------------------------------------------------------------------------

DType dtype_of(const py::dtype& dtype, const std::string& what) {
  const std::string got = py::str(static_cast<const py::object&>(dtype));
  if (dtype.kind() == 'f' && dtype.byteorder() != '=' && dtype.byteorder() != '|') {
    const bool foreign = !py::cast<bool>(dtype.attr("isnative"));
    if (foreign) {
      throw TypeError(what + " must have this machine's byte order, got " + got +
                      "; convert it with .astype(data.dtype.newbyteorder('='))");
    }
  }
  if (dtype.kind() == 'f' && dtype.itemsize() == 8) return DType::float64;
  if (dtype.kind() == 'f' && dtype.itemsize() == 4) return DType::float32;
  if (dtype.kind() == 'f' && dtype.itemsize() == 2) return DType::float16;
  if (got == "bfloat16") return DType::bfloat16;  // of ml_dtypes
  if (dtype.kind() == 'c') refuse_complex(what, got, "their np.abs()");
  const bool is_number = std::strchr("biufO", dtype.kind()) != nullptr;
  refuse_dtype(what, got, is_number ? "convert it with .astype(np.float32)" : "");
}

ArrayView view_of(const py::array& array, DType dtype) {
  Axes shape, strides;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    shape.push_back(array.shape(axis));
    strides.push_back(array.strides(axis));
  }
  return {const_cast<void*>(array.data()), dtype, shape, strides, !array.writeable()};
}

/// Zeroes what the mask prunes in a fresh copy.
void zero(const ArrayView& copy, const Mask& mask, const std::string& what) {
  if (copy.shape() != mask.shape()) {
    throw datasparse::ValueError(what + " must have the shape of the mask, " +
                                 to_string(mask.shape()) + ", got " + to_string(copy.shape()));
  }
  datasparse::apply_mask(copy, mask.data());
}

class NumpySource final : public PySource {
 public:
  NumpySource(py::object data, const std::string& name, SourceOwner* owner)
      : PySource(std::move(data), name, owner) {}

  ArrayView pin() override {
    if (!data_) throw datasparse::StateError(what_ + " are gone");
    const auto array = py::reinterpret_borrow<py::array>(data_);
    // Asking NumPy's dtype for its kind takes longer than all else: done once per dtype object.
    py::dtype dtype = array.dtype();
    if (!dtype.is(known_dtype_)) {
      kind_ = dtype_of(dtype, what_);
      known_dtype_ = std::move(dtype);
    }
    return view_of(array, kind_);
  }
  void unpin() noexcept override {}

  py::object masked_copy(const Mask& mask) const override {
    const py::array copy = data_.attr("copy")();
    zero(view_of(copy, dtype_of(copy.dtype(), what_)), mask, what_);
    return copy;
  }

 private:
  py::object known_dtype_;
  DType kind_ = DType::float32;
};

// --- anything with __dlpack__ -----------------------------------------------------------------

class DLPackSource : public PySource {
 public:
  DLPackSource(py::object data, const std::string& name, SourceOwner* owner)
      : PySource(std::move(data), name, owner) {}

  ArrayView pin() override {
    if (!data_) throw datasparse::StateError(what_ + " are gone");
    return pin_loan(borrow());
  }
  void unpin() noexcept override { loans_.pop_back(); }

  py::object masked_copy(const Mask& mask) const override {
    const py::array copy = py::module_::import("numpy").attr("from_dlpack")(data_).attr("copy")();
    zero(view_of(copy, dtype_of(copy.dtype(), what_)), mask, what_);
    return copy;
  }

 protected:
  ArrayView pin_loan(dlpack::Loan loan) {
    const ArrayView view = dlpack::view_of(loan.tensor(), loan.read_only(), what_);
    loans_.push_back(std::move(loan));
    return view;
  }

  virtual dlpack::Loan borrow() const {
    // Asked first: for memory on a device, __dlpack__() may want a stream, or fail in its own way.
    try {
      const auto device = py::tuple(data_.attr("__dlpack_device__")());
      dlpack::require_cpu(device[0].cast<std::int32_t>(), what_);
      return dlpack::Loan(data_, what_);
    } catch (py::error_already_set&) {
      refuse_without_memory(data_, what_);  // where it can say more, it throws its own error
      throw;
    }
  }

 private:
  std::vector<dlpack::Loan> loans_;  // one per pin
};

// --- torch ------------------------------------------------------------------------------------

/// A Python context for the length of a scope.
class Within {
 public:
  explicit Within(py::object context) : context_(std::move(context)) {
    context_.attr("__enter__")();
  }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;
  ~Within() {
    const py::error_scope pending;
    context_.attr("__exit__")(py::none(), py::none(), py::none());
  }

 private:
  py::object context_;
};

class TorchSource final : public DLPackSource {
 public:
  TorchSource(py::object data, const std::string& name, SourceOwner* owner, const Torch& torch)
      : DLPackSource(std::move(data), name, owner), torch_(torch), kind_(kind_of(data_, torch)) {}

  void check() const override {
    const py::object tensor = this->tensor();
    refuse_known_class(tensor, what_);
    check_place(tensor);
    const std::string dtype = py::str(tensor.attr("dtype"));
    static const std::set<std::string> known{"torch.float16", "torch.bfloat16", "torch.float32",
                                             "torch.float64"};
    if (known.count(dtype) == 0) {
      if (py::cast<bool>(tensor.attr("is_complex")())) refuse_complex(what_, dtype, "their .abs()");
      const bool quantized = py::cast<bool>(tensor.attr("is_quantized"));
      refuse_dtype(what_, dtype,
                   std::string("convert it with ") + (quantized ? ".dequantize()" : ".float()"));
    }
    if (py::cast<bool>(tensor.attr("is_neg")())) {
      throw TypeError(what_ +
                      " must be a plain tensor, got a negated view of another one; copy it "
                      "with .resolve_neg()");
    }
  }

  py::object array() const override { return tensor(); }
  py::object array_for_override() const override { return scores().attr("detach")(); }

  ArrayView pin_scores() override { return pin_loan(borrow(scores())); }

  ArrayView pin_to_zero(const Mask& mask) override {
    if (kind_ == Kind::place && data_) {
      zeroed_ = place_.where_it_was(data_);
      // What is no more than a parameter can be zeroed anywhere.
      if (!zeroed_) place_.allow_zeros(data_, mask_object(mask));
    }
    if (!zeroed_) zeroed_ = tensor();
    return pin_loan(borrow(zeroed_));
  }

  void unpin() noexcept override {
    zeroed_ = py::object();
    DLPackSource::unpin();
  }

  py::object masked_copy(const Mask& mask) const override {
    const py::object copy = tensor().attr("detach")().attr("clone")();
    const dlpack::Loan loan(copy, what_);
    zero(dlpack::view_of(loan.tensor(), loan.read_only(), what_), mask, what_);
    return copy;
  }

  /// Autograd must learn that the weights it has saved were overwritten.
  void mark_written() override {
    const py::object written = zeroed_ ? zeroed_ : tensor();
    static PyObject* const is_inference = PyUnicode_InternFromString("is_inference");
    const auto has_no_version =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(written.ptr(), is_inference));
    if (!has_no_version) throw py::error_already_set();
    if (!py::cast<bool>(has_no_version)) torch_.increment_version(written);
  }

  py::object call(const py::object& override, const py::tuple& args,
                  const py::dict& kwargs) const override {
    const Within no_grad(torch_.no_grad());
    return call_python(override, args, kwargs);
  }

  void adopt_mask() override {
    if (!mask_object_ || is_ours(mask_object_)) return;
    const py::object keep = mask_object_.attr("detach")().attr("ne")(0);
    restore_mask_object();
    const auto elements = py::cast<std::int64_t>(keep.attr("numel")());
    if (elements != mask_.size()) {
      throw datasparse::ValueError("mask.data for the " + what_ + " must have " +
                                   std::to_string(mask_.size()) + " elements, got " +
                                   std::to_string(elements));
    }
    mask_object_.attr("copy_")(keep.attr("reshape")(mask_object_.attr("shape")));
  }

  void restore_mask_object() override {
    if (mask_object_) mask_object_.attr("data") = make_mask_object(mask_);
  }

 protected:
  dlpack::Loan borrow() const override { return borrow(tensor()); }

  py::object make_mask_object(const Mask& mask) const override {
    // Within torch.inference_mode() it would be a tensor that may not be written to outside.
    const Within normal_mode(torch_.inference_mode(false));
    return torch_.from_numpy(numpy_mask(mask));
  }

 private:
  /// Where the tensor comes from: it is the data, a module's `weight`, or what a place is asked
  /// for.
  enum class Kind { tensor, module, place };

  static Kind kind_of(const py::object& data, const Torch& torch) {
    if (torch.is_tensor(data)) return Kind::tensor;
    return torch.is_embedding(data) ? Kind::module : Kind::place;
  }

  dlpack::Loan borrow(const py::object& now) const {
    try {
      // param.data is another tensor that keeps today's storage; param itself would take a loan
      // along to the next one when the user writes param.data = ... The same as param.detach(), but
      // autograd has no part in it, which saves a quarter of the time.
      static PyObject* const name = PyUnicode_InternFromString("data");
      const auto data = py::reinterpret_steal<py::object>(PyObject_GetAttr(now.ptr(), name));
      if (!data) throw py::error_already_set();
      // Subclasses may have their own table, or none.
      const bool is_plain =
          Py_TYPE(data.ptr()) == reinterpret_cast<PyTypeObject*>(torch_.tensor.ptr());
      if (!is_plain) refuse_known_class(now, what_);
      dlpack::Loan loan =
          is_plain ? dlpack::Loan(data, what_, torch_.exchange_table) : dlpack::Loan(data, what_);
      if (loan.tensor().data == nullptr) refuse_null(now, what_);
      return loan;
    } catch (py::error_already_set&) {
      check_place(now);  // where it can say more, it throws its own error
      refuse_without_memory(now, what_);
      throw;
    }
  }

  /// What is pruned, looked up each time: it may have been replaced.
  py::object tensor() const {
    if (!data_) throw datasparse::StateError(what_ + " are gone");
    if (kind_ == Kind::place) return found_at(Place::tensor_method);
    return kind_ == Kind::module ? py::object(data_.attr("weight")) : data_;
  }

  /// What is ranked: mostly the same.
  py::object scores() const {
    return kind_ == Kind::place && data_ ? found_at(Place::scores_method) : tensor();
  }

  py::object found_at(const char* method) const {
    if (py::object same = place_.where_it_was(data_)) return same;
    py::object found = place_.ask(data_, method);
    if (torch_.is_tensor(found)) return found;
    throw TypeError(what_ + " must be a torch tensor, got " + class_name(found) + " from " +
                    method + "()");
  }

  void check_place(const py::object& tensor) const {
    if (!py::object(tensor.attr("layout")).is(torch_.strided)) {
      refuse_without_memory(tensor, what_);
      throw TypeError(what_ + " must be a dense (strided) tensor, got layout " +
                      std::string(py::str(tensor.attr("layout"))) +
                      "; convert it with .to_dense()");
    }
    const std::string device = py::str(tensor.attr("device").attr("type"));
    if (device != "cpu") {
      throw TypeError(what_ + " must be a tensor in CPU memory, got one on device '" + device +
                      (device == "meta"
                           ? "'; materialise it first, with model.to_empty(device='cpu') say"
                           : "'; move it with .cpu(), or compute the mask of a copy"));
    }
  }

  /// Whether the mask tensor still is what make_mask_object() returns.
  bool is_ours(const py::object& tensor) const {
    const auto pointer = py::cast<std::uintptr_t>(tensor.attr("data_ptr")());
    return (mask_.size() == 0 || pointer == reinterpret_cast<std::uintptr_t>(mask_.data())) &&
           py::object(tensor.attr("dtype")).is(torch_.bool_dtype) &&
           py::tuple(tensor.attr("shape")).equal(py::tuple(py::cast(shape_of(mask_)))) &&
           py::cast<bool>(tensor.attr("is_contiguous")());
  }

  const Torch& torch_;
  Kind kind_;
  mutable Place place_;  // remembers where it found the tensor
  py::object zeroed_;    // what pin_to_zero() found, until unpin()
};

}  // namespace

// --- what all have in common ------------------------------------------------------------------

SourceOwner::~SourceOwner() {
  for (auto* source : sources_) source->owner_ = nullptr;
}

void SourceOwner::adopt_masks() const {
  // Adopting runs Python code, which may let go of sources: they are held, and the set is left
  // alone.
  std::vector<std::shared_ptr<PySource>> held;
  for (auto* source : sources_) {
    if (!source->mask_object_) continue;
    // One that another thread has let go of waits for the interpreter's lock to die.
    if (auto alive = source->weak_from_this().lock()) held.push_back(std::move(alive));
  }
  for (const auto& source : held) source->adopt_mask();
}

PySource::PySource(py::object data, std::string name, SourceOwner* owner)
    : data_(std::move(data)), what_(datasparse::label("data", name)), owner_(owner) {
  if (owner_ != nullptr) owner_->sources_.insert(this);
}

PySource::~PySource() {
  if (owner_ != nullptr) owner_->sources_.erase(this);
}

py::object PySource::call(const py::object& override, const py::tuple& args,
                          const py::dict& kwargs) const {
  return call_python(override, args, kwargs);
}

py::object PySource::mask_object(const Mask& mask) {
  if (!mask_object_) {
    mask_ = mask;
    mask_object_ = make_mask_object(mask);
  }
  return mask_object_;
}

py::object PySource::make_mask_object(const Mask& mask) const { return numpy_mask(mask); }

int PySource::traverse(visitproc visit, void* arg) const {
  Py_VISIT(data_.ptr());
  Py_VISIT(mask_object_.ptr());
  return 0;
}

void PySource::clear() {
  // Taken out first: what they release may come back here.
  const py::object data = std::move(data_);
  const py::object mask = std::move(mask_object_);
}

py::array numpy_mask(const Mask& mask) {
  const py::capsule owner(new Mask(mask), [](void* memory) { delete static_cast<Mask*>(memory); });
  return py::array(py::dtype::of<bool>(), shape_of(mask), mask.data(), owner);
}

std::shared_ptr<PySource> make_source(py::object data, const std::string& name,
                                      SourceOwner* owner) {
  auto source = make_unchecked_source(std::move(data), name, owner);
  source->check();
  return source;
}

namespace {

/// Sources are let go of without the interpreter's lock, and die with it.
std::shared_ptr<PySource> held(PySource* source) {
  return std::shared_ptr<PySource>(source, [](PySource* last) { let_go([last] { delete last; }); });
}

}  // namespace

std::shared_ptr<PySource> make_unchecked_source(py::object data, const std::string& name,
                                                SourceOwner* owner) {
  if (py::isinstance<py::array>(data)) {
    return held(new NumpySource(std::move(data), name, owner));
  }
  if (const auto* torch = Torch::if_imported()) {
    if (torch->is_tensor(data) || torch->is_embedding(data) || Place::is_one(data)) {
      return held(new TorchSource(std::move(data), name, owner, *torch));
    }
  }
  refuse_known_class(data, datasparse::label("data", name));
  if (py::hasattr(data, "__dlpack__")) return held(new DLPackSource(std::move(data), name, owner));
  throw TypeError(
      datasparse::label("data", name) +
      " must be a NumPy array, a torch tensor, nn.Parameter, nn.Embedding or nn.EmbeddingBag, or "
      "an object with __dlpack__, got " +
      class_name(data));
}

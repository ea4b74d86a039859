#include "refusals.hpp"

#include <cstring>

#include "datasparse/error.hpp"
#include "self.hpp"

namespace py = pybind11;

namespace {

/// A class of another library, by its name and the beginning of its module's.
struct KnownClass {
  const char* name;
  const char* module;
  const char* reason;  // what follows the name of the object's class
};

constexpr KnownClass known_classes[] = {
    {"Tracer", "jax",
     ", a traced array, which has no memory; call this outside of the functions that jax "
     "transforms "
     "(jit, grad, vmap), or from within them by jax.pure_callback()"},
    {"DTensor", "torch.distributed",
     ", whose memory is spread over ranks; pass its .to_local(), or leave out parameters that are "
     "sharded"},
    {"FakeTensor", "torch.",
     ", which has no memory; call this outside of FakeTensorMode, torch.compile() and "
     "torch.export()"},
    {"FunctionalTensor", "torch.",
     ", which has no memory; call this outside of torch.compile() and torch.export()"},
    {"UninitializedTensorMixin", "torch.nn",
     ", which has no shape yet; call the lazy module once before its parameters are added"},
    {"MaskedArray", "numpy", ", which is two arrays; pass its .filled(value), or its .data"},
    {"MaskedTensor", "torch.masked", ", which is two tensors; pass its .get_data()"},
};

[[noreturn]] void refuse_array(py::handle array, const std::string& what,
                               const std::string& reason) {
  throw datasparse::TypeError(what + " must be an array with memory of its own, got " +
                              class_name(array) + reason);
}

bool begins_with(const std::string& text, const char* part) { return text.rfind(part, 0) == 0; }

/// The name without its module: that of a class of C has both in one.
const char* short_name(const PyTypeObject* type) {
  const char* const dot = std::strrchr(type->tp_name, '.');
  return dot != nullptr ? dot + 1 : type->tp_name;
}

/// Whether torch.func holds the tensor wrapped; false where this torch does not say.
bool is_functorch_wrapped(py::handle tensor) {
  const py::dict modules = py::module_::import("sys").attr("modules");
  if (!modules.contains("torch")) return false;
  const py::object core = py::getattr(modules["torch"], "_C", py::none());
  const py::object functorch = py::getattr(core, "_functorch", py::none());
  const py::object ask = py::getattr(functorch, "is_functorch_wrapped_tensor", py::none());
  return !ask.is_none() && py::cast<bool>(ask(tensor));
}

}  // namespace

void refuse_known_class(py::handle array, const std::string& what) {
  const py::handle ancestors(Py_TYPE(array.ptr())->tp_mro);
  for (const auto ancestor : ancestors) {
    const char* const name = short_name(reinterpret_cast<PyTypeObject*>(ancestor.ptr()));
    for (const auto& known : known_classes) {
      if (std::strcmp(name, known.name) != 0) continue;
      const std::string module = py::str(py::getattr(ancestor, "__module__", py::str()));
      if (begins_with(module, known.module)) refuse_array(array, what, known.reason);
    }
  }
}

void refuse_without_memory(py::handle array, const std::string& what) {
  refuse_known_class(array, what);
  const std::string module = py::str(py::type::handle_of(array).attr("__module__"));
  if (begins_with(module, "jax") && py::hasattr(array, "is_deleted") &&
      py::cast<bool>(array.attr("is_deleted")())) {
    refuse_array(array, what,
                 " that was deleted, or donated to a function; add the array that came back");
  }
  const py::object nested = py::getattr(array, "is_nested", py::none());
  if (nested.is_none()) return;  // no tensor
  if (py::cast<bool>(nested)) {
    refuse_array(array, what,
                 ", nested, of several tensors; add those of its .unbind() one by one");
  }
  if (is_functorch_wrapped(array)) {
    refuse_array(
        array, what,
        " within a function that torch.func transforms (vmap, grad, jvp), which stands for "
        "others; call this outside of it");
  }
}

void refuse_null(py::handle tensor, const std::string& what) {
  refuse_without_memory(tensor, what);
  if (py::cast<std::int64_t>(tensor.attr("numel")()) == 0) return;
  refuse_array(tensor, what,
               " without any: it stands for other tensors, or its storage was freed, as that of "
               "parameters that are sharded");
}

void refuse_dtype(const std::string& what, const std::string& got, const std::string& advice) {
  throw datasparse::TypeError(what + " must be float16, bfloat16, float32 or float64, got " + got +
                              (advice.empty() ? "" : "; " + advice));
}

void refuse_complex(const std::string& what, const std::string& got,
                    const std::string& magnitudes) {
  refuse_dtype(what, got,
               "masks of complex data by magnitude are not supported: leave them out (`exclude` of "
               "datasparse.torch.attach()), or pass " +
                   magnitudes + " as scores to block_mask()");
}

#include "datasparse/checkpoint.hpp"

#include "datasparse/error.hpp"
#include "gil.hpp"
#include "self.hpp"
#include "sparsifier_trampoline.hpp"

namespace py = pybind11;
using datasparse::BaseDataScheduler;
using datasparse::BaseDataSparsifier;

namespace {

/// A path as open() takes it: str, bytes or os.PathLike.
std::string to_path(const py::object& path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(encoded);
}

/// The schedulers behind the objects, which the caller keeps alive.
template <class Scheduler>
std::vector<Scheduler*> to_schedulers(const py::args& objects) {
  std::vector<Scheduler*> schedulers;
  for (const auto object : objects) {
    if (!py::isinstance<BaseDataScheduler>(object)) {
      throw datasparse::TypeError("schedulers must be BaseDataSchedulers, got " +
                                  class_name(object));
    }
    schedulers.push_back(&*Self<BaseDataScheduler>(object));
    object.attr("data_sparsifier");  // throws where the collector has taken it
  }
  return schedulers;
}

/// An attachment of a model is what comes to mind first.
Self<BaseDataSparsifier> to_sparsifier(const py::object& object) {
  if (py::isinstance<BaseDataSparsifier>(object)) return Self<BaseDataSparsifier>(object);
  throw datasparse::TypeError("sparsifier must be a BaseDataSparsifier, got " + class_name(object) +
                              (py::hasattr(object, "sparsifier") ? "; pass its .sparsifier" : ""));
}

void save(const py::object& path, const py::object& saving, const py::args& schedulers) {
  const auto sparsifier = to_sparsifier(saving);
  const auto to = to_path(path);
  const auto saved = to_schedulers<const BaseDataScheduler>(schedulers);
  side_of(sparsifier).mask_objects.adopt();
  without_gil([&] { save_checkpoint(to, *sparsifier, saved); });
}

void load(const py::object& path, const py::object& loading, const py::args& schedulers,
          bool strict) {
  const auto sparsifier = to_sparsifier(loading);
  const auto from = to_path(path);
  const auto loaded = to_schedulers<BaseDataScheduler>(schedulers);
  const auto checkpoint = without_gil([&] { return datasparse::read_checkpoint(from); });
  try {
    around_load(sparsifier.handle(), checkpoint.sparsifier,
                [&] { restore_checkpoint(checkpoint, *sparsifier, loaded, strict); });
  } catch (const datasparse::ValueError& error) {
    throw datasparse::ValueError("cannot load '" + from + "': " + error.what());
  }
}

/// Of what memoryview() takes, in C order.
std::string checksum(const py::buffer& data) {
  const py::buffer_info bytes = data.request();
  const auto size = static_cast<std::size_t>(bytes.size * bytes.itemsize);
  return without_gil([&] { return datasparse::checkpoint_checksum(bytes.ptr, size); });
}

}  // namespace

void register_checkpoint(py::module_& module) {
  module.def("_checksum", &checksum, py::arg("data"));
  module.def("save", &save, py::arg("path"), py::arg("sparsifier"),
             R"(Save a sparsifier and schedulers that drive it, all of the same moment, in one file.

save(path, sparsifier, *schedulers)

Whoever opens the path, at any moment and after any crash, finds the file that was there or the whole
new one. Saved are masks (one bit per element), configs, counters, and attributes as in state_dict();
no user data. The file is a safetensors file; docs/checkpoints.md describes it.

ValueError for a scheduler of another sparsifier, TypeError for an attribute that is not plain data,
OSError where the file cannot be written: the path is as it was then. The GIL is released.

>>> import os, tempfile
>>> import numpy as np
>>> path = os.path.join(tempfile.mkdtemp(), "masks.safetensors")
>>> sparsifier = DataNormSparsifier([("w", np.arange(8.0))], sparse_block_shape=(1, 1))
>>> sparsifier.step()
>>> save(path, sparsifier)
>>> resumed = DataNormSparsifier([("w", np.zeros(8))])
>>> load(path, resumed)
>>> resumed.get_mask("w")
array([False, False, False, False,  True,  True,  True,  True]))");
  module.def(
      "load", &load, py::arg("path"), py::arg("sparsifier"), py::arg("strict") = true,
      R"(Restore what save() saved into objects made as those were, the schedulers in the same order.

load(path, sparsifier, *schedulers, strict=True)

Attached data stay attached, and are not touched. State for a name without data waits until add_data()
claims it. Configs are those of the file. With strict, the names must be those attached, unless none is,
and the number of schedulers that of the file.

ValueError, naming the entry, for a file that is damaged, is no checkpoint or does not fit; OSError where
it cannot be read. Nothing has changed then, in any of the objects. The GIL is released.)");
}

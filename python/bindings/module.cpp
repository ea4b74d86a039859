#include <pybind11/pybind11.h>

#include "datasparse/glob.hpp"
#include "gil.hpp"

// Each in the file of its name. A base comes before what derives from it.
void register_errors(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_config_maps(pybind11::module_& module);
void register_block_mask(pybind11::module_& module);
void register_data_sparsifier(pybind11::module_& module);
void register_scores(pybind11::module_& module);
void register_data_norm_sparsifier(pybind11::module_& module);
void register_regrowth(pybind11::module_& module);
void register_schedules(pybind11::module_& module);
void register_base_data_scheduler(pybind11::module_& module);
void register_data_scheduler(pybind11::module_& module);
void register_adaptive_data_scheduler(pybind11::module_& module);
void register_checkpoint(pybind11::module_& module);
void register_distributions(pybind11::module_& module);
void register_packed(pybind11::module_& module);
void register_pools(pybind11::module_& module);
void register_shard_parts(pybind11::module_& module);
void register_shard_selection(pybind11::module_& module);

namespace {

// pybind11's locks, the locks of sparsifiers and torch's exchange table belong to one interpreter.
constexpr const char* main_interpreter_only =
    "datasparse works in the main interpreter only, not in a subinterpreter; import it there, or "
    "start a process for what runs here";

bool is_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

}  // namespace

PYBIND11_MODULE(pybind11_core, module) {
  if (!is_main_interpreter()) throw pybind11::import_error(main_interpreter_only);
  module.doc() = "The C++ core of datasparse; import datasparse instead.";
  // Users meet the classes as datasparse.X: in messages, in repr, in pickles.
  const pybind11::object own_name = module.attr("__name__");
  module.attr("__name__") = "datasparse";
  register_errors(module);
  register_runtime(module);
  register_config_maps(module);
  register_block_mask(module);
  register_data_sparsifier(module);
  register_scores(module);
  register_data_norm_sparsifier(module);
  register_regrowth(module);
  register_schedules(module);
  register_base_data_scheduler(module);
  register_data_scheduler(module);
  register_adaptive_data_scheduler(module);
  register_checkpoint(module);
  register_distributions(module);
  register_packed(module);
  register_pools(module);
  register_shard_selection(module);
  register_shard_parts(module);
  module.def("_matches", &datasparse::matches, pybind11::arg("pattern"), pybind11::arg("name"));
  watch_interpreters_end();
  module.attr("__name__") = own_name;
}

/// What `import` calls. pybind11's own function waits for ever in a subinterpreter before
/// Python 3.12; from Python 3.13 on, this one is always called in the main interpreter, and the
/// above tells.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (is_main_interpreter()) return PyInit_pybind11_core();
  PyErr_SetString(PyExc_ImportError, main_interpreter_only);
  return nullptr;
}

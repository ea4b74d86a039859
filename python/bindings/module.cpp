#include "register.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of datasparse; import datasparse instead.";
  // Users meet the classes as datasparse.X: in messages, in repr, in pickles.
  const pybind11::object own_name = module.attr("__name__");
  module.attr("__name__") = "datasparse";
  register_errors(module);
  register_runtime(module);
  register_config_maps(module);
  register_block_mask(module);
  register_data_sparsifier(module);
  register_data_norm_sparsifier(module);
  register_schedules(module);
  register_base_data_scheduler(module);
  register_data_scheduler(module);
  register_adaptive_data_scheduler(module);
  register_checkpoint(module);
  module.attr("__name__") = own_name;
}

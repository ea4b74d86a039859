/// One function per file that binds something, called by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

void register_errors(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_config_maps(pybind11::module_& module);
void register_block_mask(pybind11::module_& module);
void register_data_sparsifier(pybind11::module_& module);
void register_data_norm_sparsifier(pybind11::module_& module);
void register_base_data_scheduler(pybind11::module_& module);
void register_data_scheduler(pybind11::module_& module);
void register_adaptive_data_scheduler(pybind11::module_& module);
void register_schedules(pybind11::module_& module);
void register_checkpoint(pybind11::module_& module);

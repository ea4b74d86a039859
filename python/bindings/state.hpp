/// State dicts: what a sparsifier or a scheduler saves, as plain Python data.
#pragma once

#include <pybind11/pybind11.h>

#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_sparsifier.hpp"

pybind11::dict to_state_dict(const datasparse::SparsifierState& state);
pybind11::dict to_state_dict(const datasparse::SchedulerState& state);

/// ValueError, naming the entry, where one is missing or of another type, or for another version.
datasparse::SparsifierState to_sparsifier_state(const pybind11::object& state_dict);
datasparse::SchedulerState to_scheduler_state(const pybind11::object& state_dict);
/// The attributes of a Python subclass that were saved beside the state.
pybind11::dict saved_attributes(const pybind11::object& state_dict);

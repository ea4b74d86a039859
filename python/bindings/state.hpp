/// State dicts: what a sparsifier or a scheduler saves, as plain Python data.
#pragma once

#include <pybind11/pybind11.h>

#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_sparsifier.hpp"

pybind11::tuple to_tuple(const datasparse::Axes& shape);
pybind11::dict to_state_dict(const datasparse::SparsifierState& state);
pybind11::dict to_state_dict(const datasparse::SchedulerState& state);

/// ValueError, naming the entry, where one is missing or of another type.
datasparse::SparsifierState to_sparsifier_state(const pybind11::object& state_dict);
datasparse::SchedulerState to_scheduler_state(const pybind11::object& state_dict);
pybind11::dict saved_attributes(const pybind11::object& state_dict);

/// The attributes of a Python subclass that were saved beside the state.
template <class State>
pybind11::dict saved_attributes(const pybind11::object& state_dict, const State& state) {
  if (state.version < 1 || state.version > State::current_version)
    return {};  // the core refuses it
  return saved_attributes(state_dict);
}

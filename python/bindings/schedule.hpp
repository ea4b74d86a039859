/// Schedules between Python and the core.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "datasparse/schedule.hpp"

/// TypeError, naming the argument, for what is no schedule.
datasparse::Schedule to_schedule(pybind11::handle value, const std::string& name);
pybind11::object to_python(const datasparse::Schedule& schedule);

/// Shows the collector the Python functions of which the schedule is the only owner.
int traverse(const datasparse::Schedule& schedule, visitproc visit, void* arg);
/// Lets go of them.
void clear(datasparse::Schedule& schedule) noexcept;

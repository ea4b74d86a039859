/// What is said of arrays that cannot be data: by what they are, and what to do in their place.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

/// TypeError, naming `what`, for an array of a class that is known to have no memory of its own: a
/// traced array of jax, a DTensor, a FakeTensor ... Classes are told by their names, so that
/// nothing is imported; a look at a class takes well below a microsecond.
void refuse_known_class(pybind11::handle array, const std::string& what);

/// refuse_known_class(), and a TypeError for whatever else is seen to stand for other arrays, or to
/// have lost its memory: asked where taking that has failed.
void refuse_without_memory(pybind11::handle array, const std::string& what);
/// The same for a tensor of torch that has lent a null pointer: only empty ones pass.
void refuse_null(pybind11::handle tensor, const std::string& what);

/// TypeError for a dtype of no use. `advice` says what to do, "" for nothing.
[[noreturn]] void refuse_dtype(const std::string& what, const std::string& got,
                               const std::string& advice);
/// The same for complex numbers, whose magnitudes the expression `magnitudes` takes.
[[noreturn]] void refuse_complex(const std::string& what, const std::string& got,
                                 const std::string& magnitudes);

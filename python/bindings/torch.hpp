/// What the bindings need of PyTorch, which they never import themselves.
#pragma once

#include <pybind11/pybind11.h>

#include "dlpack.hpp"

/// What `work` returns, called within a context of Python. Leaving it may raise: an interrupt by
/// the user, which Python notices where it likes.
template <class Work>
pybind11::object within(const pybind11::object& context, const Work& work) {
  const auto leave = [&] {
    context.attr("__exit__")(pybind11::none(), pybind11::none(), pybind11::none());
  };
  context.attr("__enter__")();
  pybind11::object result;
  try {
    result = work();
  } catch (...) {
    leave();
    throw;
  }
  leave();
  return result;
}

struct Torch {
  pybind11::object tensor;                      // torch.Tensor
  pybind11::object embedding;                   // (nn.Embedding, nn.EmbeddingBag)
  pybind11::object strided;                     // torch.strided
  pybind11::object from_numpy;                  // torch.from_numpy
  pybind11::object inference_mode;              // torch.inference_mode
  pybind11::object bool_dtype;                  // torch.bool
  pybind11::object no_grad;                     // torch.no_grad
  pybind11::object increment_version;           // torch.autograd.graph.increment_version
  const dlpack::ExchangeTable* exchange_table;  // of torch.Tensor; nullptr where it has none

  /// nullptr while the process has not imported torch; then nobody can hold a tensor.
  static const Torch* if_imported();

  bool is_tensor(pybind11::handle object) const { return pybind11::isinstance(object, tensor); }
  bool is_embedding(pybind11::handle object) const {
    return pybind11::isinstance(object, embedding);
  }
};

/// Whether an object is a tensor of torch, imported or not.
inline bool is_torch_tensor(pybind11::handle object) {
  const auto* const torch = Torch::if_imported();
  return torch != nullptr && torch->is_tensor(object);
}

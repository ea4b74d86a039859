#include "torch.hpp"

namespace py = pybind11;

const Torch* Torch::if_imported() {
  static const Torch* torch =
      nullptr;  // never destroyed: its objects must not outlive the interpreter
  if (torch != nullptr) return torch;
  const py::dict modules = py::module_::import("sys").attr("modules");
  // The last one of torch's modules that we use: before it is there, torch is still being imported.
  if (!modules.contains("torch.autograd.graph") || !modules.contains("torch.nn")) return nullptr;
  const py::object module = modules["torch"];
  const py::object nn = modules["torch.nn"];
  if (!py::hasattr(module, "no_grad") || !py::hasattr(nn, "EmbeddingBag")) return nullptr;
  torch = new Torch{module.attr("Tensor"),
                    py::make_tuple(nn.attr("Embedding"), nn.attr("EmbeddingBag")),
                    module.attr("strided"),
                    module.attr("from_numpy"),
                    module.attr("inference_mode"),
                    module.attr("bool"),
                    module.attr("no_grad"),
                    py::object(modules["torch.autograd.graph"]).attr("increment_version"),
                    dlpack::exchange_table_of(module.attr("Tensor"))};
  return torch;
}

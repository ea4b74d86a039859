#include "datasparse/shard_parts.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "params.hpp"
#include "refusals.hpp"
#include "self.hpp"
#include "shard_selection.hpp"
#include "source.hpp"
#include "torch.hpp"

namespace py = pybind11;
using datasparse::Axes;
using datasparse::PackedBits;
using datasparse::ShardJob;
using datasparse::ShardParts;
using datasparse::ShardSelection;

namespace {

/// A bool array in C order, of that shape.
py::array bytes_of(const py::object& given, const Axes& shape, const char* what) {
  const py::object object = is_torch_tensor(given) ? given.attr("numpy")() : given;
  if (py::isinstance<py::array>(object)) {
    auto array = py::reinterpret_borrow<py::array>(object);
    const bool is_in_order = (array.flags() & py::array::c_style) != 0;
    const bool fits = array.dtype().kind() == 'b' && axes_of(array.attr("shape")) == shape;
    if (is_in_order && fits) return array;
  }
  throw datasparse::TypeError(std::string(what) + " must be a bool array of shape " +
                              to_string(shape) + " in C order, got " +
                              std::string(py::repr(object)));
}

/// TypeError for memory on a device, where the pointer of a view means nothing to the core.
std::shared_ptr<PySource> source_here(const py::object& data, const std::string& what) {
  auto source = make_source(data, what, nullptr);
  const datasparse::Device& device = source->device();
  if (&device == &datasparse::cpu()) return source;
  throw datasparse::TypeError(what + " must lie in CPU memory, got a tensor on " + device.name() +
                              "; copy it to the CPU first");
}

/// Data that a function loads, and that are let go of after each look.
class LoadedSource final : public datasparse::DataSource {
 public:
  explicit LoadedSource(py::object load) : load_(std::move(load)) {}
  ~LoadedSource() override {
    let_go([this] {
      source_.reset();
      load_ = py::object();
    });
    load_.release();
  }

  datasparse::ArrayView pin() override {
    const AcquiredGil gil;
    source_ = source_here(call_python(load_), "loaded data");
    return source_->pin();
  }
  void unpin() noexcept override {
    const AcquiredGil gil;
    source_->unpin();
    source_.reset();
  }

 private:
  py::object load_;
  std::shared_ptr<PySource> source_;
};

/// The shape and dtype of what will be loaded, in C order.
datasparse::ArrayView view_to_load(const py::dict& given) {
  const std::string name = py::str(given["dtype"]);
  const auto dtype = dtype_named(name);
  if (!dtype) refuse_dtype("dtype", name, "");
  alignas(64) static std::byte nowhere[64];  // a view has a pointer, which nobody follows
  return datasparse::ArrayView(nowhere, *dtype, axes_of(given["shape"]));
}

/// Parts whose memory is pinned for as long as the object lives, and their masks.
class PyShardParts {
 public:
  PyShardParts(const py::iterable& jobs, const py::iterable& searches) {
    std::vector<ShardJob> all;
    for (const auto job : jobs)
      all.push_back(to_job(to_dict(job, "a job is a " + class_name(job))));
    parts_ = std::make_unique<ShardParts>(all, to_searches(searches));
  }

  py::array_t<std::int64_t> prelude() {
    const auto numbers = without_gil([&] { return parts_->prelude(); });
    asked_ = numbers.size();
    return as_array(numbers);
  }
  void begin(const Numbers& sums) {
    if (static_cast<std::size_t>(sums.size()) != asked_) {
      throw datasparse::ValueError("sums must be as many as the numbers of prelude(), " +
                                   std::to_string(asked_) + ", got " + std::to_string(sums.size()));
    }
    parts_->begin({sums.data(), sums.data() + sums.size()});
  }
  ShardSelection selection(std::int64_t most) const { return parts_->selection(most); }
  py::array_t<std::int64_t> count(const ShardSelection& selection) {
    for (const auto& question : selection.questions()) {
      for (const std::size_t group : *question.groups) {
        if (group < masks_.size()) continue;
        throw datasparse::ValueError("selection must be of groups less than " +
                                     std::to_string(masks_.size()) + ", got " +
                                     std::to_string(group));
      }
    }
    return as_array(without_gil([&] { return parts_->count(selection); }));
  }
  void find(const ShardSelection& selection) {
    without_gil([&] { parts_->find(selection); });
  }
  std::vector<std::int64_t> pruned() const {
    std::vector<std::int64_t> all;
    for (std::size_t i = 0; i < masks_.size(); ++i) all.push_back(parts_->pruned(i));
    return all;
  }
  void write(const std::vector<std::size_t>& some) {
    for (const std::size_t i : some) {
      if (i >= masks_.size()) {
        throw datasparse::ValueError("some must be places of jobs, less than " +
                                     std::to_string(masks_.size()) + ", got " + std::to_string(i));
      }
    }
    without_gil([&] { parts_->write(some); });
  }

 private:
  struct Pinned {
    std::shared_ptr<PySource> source;
    std::unique_ptr<datasparse::Pin> pin;
  };

  ShardJob to_job(const py::dict& given) {
    ShardJob job;
    if (given.contains("load")) {
      job.source = std::make_shared<LoadedSource>(given["load"]);
      job.mask.data = view_to_load(given);
      masks_.emplace_back();
    } else {
      const auto source = source_here(given["data"], "data");
      pinned_.push_back({source, std::make_unique<datasparse::Pin>(*source)});
      job.mask.data = pinned_.back().pin->view();
      py::array mask = bytes_of(given["mask"], job.mask.data.shape(), "mask");
      job.mask.mask = static_cast<std::uint8_t*>(mask.mutable_data());
      masks_.push_back(std::move(mask));
    }
    const datasparse::ArrayView& view = job.mask.data;
    job.mask.layout = axes_of(given["order"]);
    py::dict config;
    config["sparse_block_shape"] = given["block"];
    config["zeros_per_block"] = given["zeros"];
    config["norm"] = given["norm"];
    config["monotone"] = given["monotone"];
    config["normalize"] = given["normalize"];
    job.mask.spec = datasparse::BlockSpec::from_config(to_param_map(config, ""));
    if (const py::object kept = given["kept"]; !kept.is_none()) {
      const py::array bytes = bytes_of(kept, view.shape(), "kept");
      PackedBits bits(datasparse::packed_size(view.size()));
      datasparse::pack_bits(bits.data(), static_cast<const std::uint8_t*>(bytes.data()),
                            view.size());
      kept_.push_back(std::move(bits));
      job.mask.kept_zeros = kept_.back().data();
    }
    const auto shard = given["shard"].cast<py::tuple>();
    job.shard = {shard[0].cast<std::int64_t>(), shard[1].cast<std::int64_t>(),
                 shard[2].cast<std::int64_t>(), shard[3].cast<std::int64_t>(),
                 given["counts"].cast<bool>()};
    if (given.contains("cuts")) job.cuts = given["cuts"].cast<std::vector<std::int64_t>>();
    return job;
  }

  static py::array_t<std::int64_t> as_array(const std::vector<std::int64_t>& numbers) {
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
  }

  std::vector<Pinned> pinned_;
  std::vector<py::array> masks_;
  std::vector<PackedBits> kept_;
  std::unique_ptr<ShardParts> parts_;
  std::size_t asked_ = 0;  // how many numbers the last prelude() has given
};

}  // namespace

void register_shard_parts(py::module_& module) {
  py::class_<PyShardParts>(
      module, "ShardParts",
      R"(Parts of tensors in CPU memory, which answer what a ShardSelection asks.

jobs: one for each group, in order: a dict with
    data: the part that lies here, a NumPy array or torch tensor of any strides;
    mask: a bool array of its shape, in C order: what is there counts where `monotone`, and write() changes it;
    load, shape, dtype, in the place of these two: a function that loads the part in C order, each time that it is looked
        through, where memory does not hold all parts together; there is no mask to write then;
    order: the axes that make the matrix of the whole tensor, rows first; () for those of memory;
    block, zeros, norm, monotone, normalize: as in a config, the block in numbers;
    kept: a bool array of elements that are pruned in any case, or None;
    shard: (rows, columns) of the whole matrix, then the row and column at which the part begins, all in one tuple;
    counts: False for a copy of what is counted elsewhere;
    cuts, if at all: the rows at which parts of the tensor begin within a block, the same for all who have parts.
searches: as ShardSelection takes them.

Calls in order: prelude(), whose sum over all who have parts goes to begin(); count() for each round of a
ShardSelection; find(); write(). No mask changes before write(). ValueError for a part that does not fit its tensor,
or cuts a block.)")
      .def(py::init<const py::iterable&, const py::iterable&>(), py::arg("jobs"),
           py::arg("searches"))
      .def("prelude", &PyShardParts::prelude,
           "What must be known of all parts before the first question: int64, often empty.")
      .def("begin", &PyShardParts::begin, py::arg("sums"), "Take the sums of all preludes.")
      .def("selection", &PyShardParts::selection, py::arg("most") = 8192,
           "Return the ShardSelection that answers are for, once begin() has all sums.")
      .def("count", &PyShardParts::count, py::arg("selection"),
           "Return the numbers for all questions of a round: int64, selection.size of them.")
      .def(
          "find", &PyShardParts::find, py::arg("selection"),
          "Find out what each part loses, once the selection is done. The last call that may fail.")
      .def("pruned", &PyShardParts::pruned,
           "Return how many of its lowest blocks each part loses, as find() has found.")
      .def("write", &PyShardParts::write, py::arg("some"),
           "Write the masks of these jobs, by their places.");
}

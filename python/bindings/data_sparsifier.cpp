#include "datasparse/data_sparsifier.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "arrays.hpp"
#include "config_map.hpp"
#include "copying.hpp"
#include "datasparse/group_arrays.hpp"
#include "datasparse/group_table.hpp"
#include "gil.hpp"
#include "group_arrays.hpp"
#include "initialise.hpp"
#include "refusals.hpp"
#include "sparsifier_trampoline.hpp"
#include "state.hpp"
#include "torch.hpp"

namespace py = pybind11;
using datasparse::BaseDataSparsifier;
using datasparse::GroupArrays;
using datasparse::GroupTable;
using datasparse::ParamMap;

namespace {

using SelfSparsifier = Self<BaseDataSparsifier>;

/// A sparsifier in C++ needs an update_mask() only. Bound to Python, it must not be taken for one
/// that computes all masks together: they would stay as they are, without a word.
struct UpdateMaskAlone : BaseDataSparsifier {
  void update_mask(const std::string&, const datasparse::ArrayView&, const ParamMap&) override {}
};
static_assert(PySparsifier<UpdateMaskAlone>::updates_in_turn());
static_assert(!PySparsifier<datasparse::DataNormSparsifier>::updates_in_turn());

std::shared_ptr<PySource> source_of(const SelfSparsifier& self, const std::string& name) {
  return std::dynamic_pointer_cast<PySource>(without_gil([&] { return self->get_data(name); }));
}

/// Binds what only reads, and needs no lock but the sparsifier's; or a GroupTable's, made then.
template <class Of, class Result, class... Args>
auto unlocked(Result (Of::*read)(Args...) const) {
  return [read](const SelfSparsifier& self, const std::decay_t<Args>&... args) {
    const std::conditional_t<std::is_abstract_v<Of>, const Of&, Of> of(*self);
    return without_gil([&] { return (of.*read)(args...); });
  };
}

/// The names that `names` stands for: None for all, one, or several.
std::optional<std::vector<std::string>> to_names(const py::object& names) {
  if (names.is_none()) return std::nullopt;
  if (py::isinstance<py::str>(names)) return std::vector<std::string>{to_text(names)};
  if (!py::hasattr(names, "__iter__")) {
    throw datasparse::TypeError("names must be None, a str or several, got " +
                                std::string(py::repr(names)));
  }
  std::vector<std::string> result;
  for (const auto& name : names) {
    if (!py::isinstance<py::str>(name)) {
      throw datasparse::TypeError("names must be None, a str or several, got " +
                                  std::string(py::repr(name)));
    }
    result.push_back(to_text(name));
  }
  return result;
}

/// A user's mask as bytes in C order. Those that are bytes already are left for the core to check.
py::array to_bytes(const std::string& name, py::object mask, const datasparse::Axes& shape) {
  if (is_torch_tensor(mask)) {
    mask = mask.attr("detach")().attr("cpu")();
    if (py::cast<bool>(mask.attr("is_floating_point")())) mask = mask.attr("float")();
    mask = mask.attr("numpy")();
  }
  if (!py::isinstance<py::array>(mask) && py::hasattr(mask, "__array__")) {
    mask = py::module_::import("numpy").attr("asarray")(mask);
  }
  refuse_known_class(mask, datasparse::label("mask", name));
  if (!py::isinstance<py::array>(mask)) {
    throw datasparse::TypeError("mask of '" + name + "' must be an array or a tensor, got " +
                                class_name(mask));
  }
  const auto array = py::reinterpret_borrow<py::array>(mask);
  const datasparse::Axes given = axes_of(array.attr("shape"));
  if (given != shape) {
    throw datasparse::ValueError("mask of '" + name + "' must have the shape of its data, " +
                                 to_string(shape) + ", got " + to_string(given));
  }
  const auto numpy = py::module_::import("numpy");
  const auto in_c_order = numpy.attr("ascontiguousarray");
  const char kind = array.dtype().kind();
  if (kind == 'b' || (kind == 'u' && array.itemsize() == 1)) return in_c_order(array);
  const py::object valid = numpy.attr("isin")(array, py::make_tuple(0, 1));
  if (!py::cast<bool>(valid.attr("all")())) {
    const py::object wrong = array[py::object(~valid)].attr("flat")[py::int_(0)];
    throw datasparse::ValueError("mask of '" + name + "' must hold 0 and 1 only, got " +
                                 std::string(py::str(wrong)));
  }
  return in_c_order(array, py::arg("dtype") = py::dtype::of<bool>());
}

/// None, or a bool of Python or NumPy.
std::optional<bool> to_flag(const char* argument, const std::string& name, const py::object& flag) {
  if (flag.is_none()) return std::nullopt;
  if (!PyBool_Check(flag.ptr()) && !py::isinstance(flag, py::dtype::of<bool>().attr("type"))) {
    throw datasparse::TypeError(datasparse::label(argument, name) +
                                " must be None or a bool, got " + std::string(py::repr(flag)));
  }
  return py::cast<bool>(flag);
}

/// None, or a tuple or a list of integers.
std::optional<datasparse::Axes> to_layout(const std::string& name, const py::object& layout) {
  if (layout.is_none()) return std::nullopt;
  const auto refuse = [&] {
    return datasparse::TypeError(datasparse::label("layout", name) +
                                 " must be None or a tuple of int, got " +
                                 std::string(py::repr(layout)));
  };
  if (!PyTuple_Check(layout.ptr()) && !PyList_Check(layout.ptr())) throw refuse();
  std::vector<std::int64_t> axes;
  for (const auto item : layout) {
    if (PyBool_Check(item.ptr()) || PyIndex_Check(item.ptr()) == 0) throw refuse();
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
    if (!index) throw py::error_already_set();
    int overflow = 0;
    axes.push_back(PyLong_AsLongLongAndOverflow(index.ptr(), &overflow));
    if (overflow != 0) axes.back() = -1;  // no axis
  }
  if (axes.size() > datasparse::Axes::max_size) {
    throw datasparse::ValueError(datasparse::label("layout", name) +
                                 " must name each of the data's axes once, got " +
                                 std::string(py::repr(layout)));
  }
  return datasparse::Axes(axes);
}

py::object add_data(const SelfSparsifier& self, const Name& name, const py::object& data,
                    bool reuse_mask, const py::object& mask, const py::object& layout,
                    const py::object& keep_zeros, const py::object& update,
                    const py::kwargs& config) {
  auto& side = side_of(self);
  const auto source = make_source(data, datasparse::label("data", name), &side);
  const ParamMap params = to_param_map(config, name);
  const datasparse::GroupOptions options{to_layout(name, layout),
                                         to_flag("keep_zeros", name, keep_zeros),
                                         to_flag("update", name, update)};
  py::array bytes;
  if (!mask.is_none()) bytes = to_bytes(name, mask, datasparse::Pin(*source).view().shape());
  const auto* const given =
      mask.is_none() ? nullptr : static_cast<const std::uint8_t*>(bytes.data());

  const auto replaced = side.mask_objects.find(name);
  if (replaced != nullptr) replaced->adopt();
  const bool has_mask =
      without_gil([&] { return self->add_data(name, source, params, reuse_mask, given, options); });
  side.mask_objects.replace(name, replaced, nullptr);
  if (!has_mask) return source->array();
  return source->masked_copy(source_and_mask(*self, name).second);
}

void set_data(const SelfSparsifier& self, const Name& name, const py::object& data) {
  auto& side = side_of(self);
  const datasparse::Axes shape = source_and_mask(*self, name).second.shape();
  source_of(self, name);  // throws: squashed
  const auto source = make_source(data, datasparse::label("data", name), &side);
  const datasparse::Axes given = datasparse::Pin(*source).view().shape();
  if (given != shape) {
    throw datasparse::ValueError(datasparse::label("data", name) + " must keep their shape, " +
                                 to_string(shape) + ", got " + to_string(given) +
                                 ": add_data() takes others");
  }
  const auto replaced = side.mask_objects.find(name);
  if (replaced != nullptr) replaced->adopt();
  without_gil([&] { self->add_data(name, source); });
  side.mask_objects.replace(name, replaced, nullptr);
}

py::object get_mask(const SelfSparsifier& self, const Name& name) {
  auto& objects = side_of(self).mask_objects;
  // Other threads may replace the group at any moment. An object that was there before the mask was
  // looked up, and shows another one, is out of date.
  for (std::shared_ptr<const MaskObject> before;;) {
    const auto [source, mask] = source_and_mask(*self, name);
    auto known = objects.find(name);
    if (known != nullptr && known->shows(mask) &&
        (source == nullptr || source->torch() == known->torch())) {
      known->adopt();
      return known->object();
    }
    if (known == before) {
      const auto* const torch = source == nullptr ? nullptr : source->torch();
      known = std::make_shared<const MaskObject>(name, mask, torch);
      if (objects.replace(name, before, known)) {
        const bool is_there = without_gil([&] { return self->contains(name); });
        if (!is_there) objects.replace(name, known, nullptr);
        return known->object();
      }
    }
    before = std::move(known);
  }
}

py::object get_array(const SelfSparsifier& self, const Name& name, const Name& key) {
  auto array = without_gil([&] { return GroupArrays(*self).get(name, key); });
  if (!array) return py::none();
  const auto source = without_gil([&] { return GroupTable(*self).row(name).source; });
  datasparse::Device& device = source == nullptr ? datasparse::cpu() : source->device();
  if (&device == &datasparse::cpu() || array->shape().size() == 0) return to_numpy(*array);
  // The core keeps the bits of masks that move beside these, and has sent a copy of them.
  if (key == "ever_active") return to_tensor(*array, device);
  // Under the sparsifier's lock: another thread may put another array there.
  py::object tensor = py::none();
  without_gil([&] {
    GroupArrays(*self).edit(name, key, [&](datasparse::KeptArray& own) {
      const AcquiredGil gil;
      tensor = to_tensor(own, device);
    });
  });
  return tensor;
}

void set_array(const SelfSparsifier& self, const Name& name, const Name& key,
               const py::object& array) {
  if (array.is_none()) {
    without_gil([&] { return GroupArrays(*self).erase(name, key); });
    return;
  }
  auto kept = to_kept_array(array, "array '" + key + "' of '" + name + "'");
  without_gil([&] { GroupArrays(*self).set(name, key, std::move(kept)); });
}

py::object get_data(const SelfSparsifier& self, const Name& name, bool return_original) {
  if (return_original) return source_of(self, name)->array();
  const auto [source, mask] = source_and_mask(*self, name);
  if (source == nullptr) return source_of(self, name)->array();  // throws: squashed
  side_of(self).mask_objects.adopt(name);
  return source->masked_copy(mask);
}

void step(const SelfSparsifier& self) {
  auto& side = side_of(self);
  side.mask_objects.adopt();
  moving_masks(*self, [&] {
    self->step();
    if (side.recipe != nullptr) GroupArrays(*self).erase_all({scores_made_ahead});
  });
  side.gradients.clear();
}

void apply_mask(const SelfSparsifier& self, const py::object& names) {
  const auto chosen = to_names(names);
  side_of(self).mask_objects.adopt();
  moving_masks(*self, [&] { chosen ? self->apply_mask(*chosen) : self->apply_mask(); });
}

/// Makes the mask objects of those names that still have data: when these are squashed, a torch
/// user still reads a torch mask.
void make_mask_objects(const SelfSparsifier& self, const std::vector<std::string>& names) {
  for (const auto& name : without_gil([&] { return GroupTable(*self).active(names); }))
    get_mask(self, Name{name});
}

void squash_mask(const SelfSparsifier& self, const py::object& names) {
  const auto chosen = to_names(names);
  side_of(self).mask_objects.adopt();
  make_mask_objects(self, chosen ? *chosen : without_gil([&] { return self->names(); }));
  moving_masks(*self, [&] { chosen ? self->squash_mask(*chosen) : self->squash_mask(); });
}

py::object report(const SelfSparsifier& self) {
  const auto status_of = [](const datasparse::GroupFigures& group) {
    static constexpr const char* statuses[] = {"active", "squashed", "awaiting data"};
    const bool rests = group.frozen && group.status == datasparse::GroupFigures::Status::active;
    return rests ? "frozen" : statuses[static_cast<int>(group.status)];
  };
  side_of(self).mask_objects.adopt();
  std::vector<datasparse::GroupFigures> figures;
  moving_masks(*self, [&] { figures = GroupTable(*self).figures(); });
  const py::module_ module = py::module_::import("datasparse.report");
  const py::object report_of_group = module.attr("report_of_group");
  py::list groups;
  for (const auto& group : figures) {
    const py::object dtype = group.dtype ? py::object(py::str(name_of(*group.dtype))) : py::none();
    groups.append(report_of_group(
        py::arg("name") = group.name, py::arg("status") = status_of(group),
        py::arg("shape") = to_tuple(group.shape), py::arg("dtype") = dtype,
        py::arg("item_size") = group.dtype ? item_size(*group.dtype) : 0,
        py::arg("zeros") = group.zeros, py::arg("zeros_in_data") = group.zeros_in_data,
        py::arg("dead") = group.dead, py::arg("dead_rows") = group.dead_rows,
        py::arg("dead_channels") = group.dead_channels, py::arg("lengths") = group.block,
        py::arg("ever_active") = group.ever_active, py::arg("config") = to_python(group.config)));
  }
  return module.attr("Report")(groups);
}

py::dict state_dict(const SelfSparsifier& self) {
  side_of(self).mask_objects.adopt();
  py::dict state = to_state_dict(without_gil([&] { return self->save_state(); }));
  state["attributes"] = to_python(plain_attributes_of(self.handle()));
  return state;
}

void load_state_dict(const SelfSparsifier& self, const py::object& state_dict, bool strict) {
  const auto state = to_sparsifier_state(state_dict);
  const py::dict attributes = saved_attributes(state_dict);
  require_room_for(self.handle(), attributes);
  around_load(self.handle(), state, [&] { self->load_state(state, strict); });
  set_attributes(self.handle(), attributes);
}

/// What a copy or a pickle holds: the state, the data by name, the attributes of a subclass.
py::tuple full_state(const SelfSparsifier& self) {
  side_of(self).mask_objects.adopt();
  std::unordered_map<std::string, std::shared_ptr<datasparse::DataSource>> sources;
  const auto state = without_gil([&] { return self->save_state(&sources); });
  py::dict data;
  for (const auto& [name, source] : sources) {
    const auto held = std::dynamic_pointer_cast<PySource>(source);
    data[py::str(name)] = held != nullptr ? held->object() : py::none();
  }
  const auto recipe = side_of(self).recipe;
  return py::make_tuple(to_state_dict(state), data, attributes_of(self.handle()),
                        recipe == nullptr ? py::none() : recipe->object);
}

void set_full_state(const SelfSparsifier& self, const py::tuple& full_state) {
  auto& side = side_of(self);
  set_attributes(self.handle(), full_state[2]);
  if (full_state.size() > 3) {  // not so in 0.1.0
    side.take(py::reinterpret_borrow<py::object>(self.handle()), full_state[3]);
  }
  std::unordered_map<std::string, std::shared_ptr<datasparse::DataSource>> sources;
  for (const auto& item : py::dict(full_state[1])) {
    const std::string name = py::str(item.first);
    const auto data = py::reinterpret_borrow<py::object>(item.second);
    sources.emplace(
        name, data.is_none() ? nullptr
                             : make_unchecked_source(data, datasparse::label("data", name), &side));
  }
  const auto state = to_sparsifier_state(full_state[0]);
  without_gil([&] { std::invoke(&ForSubclasses::restore, *self, state, std::move(sources)); });
}

}  // namespace

std::pair<std::shared_ptr<PySource>, datasparse::Mask> source_and_mask(
    const BaseDataSparsifier& sparsifier, const std::string& name) {
  const auto row = without_gil([&] { return GroupTable(sparsifier).row(name); });
  auto source = std::dynamic_pointer_cast<PySource>(row.source);
  const bool is_beside = source == nullptr || &source->device() == &row.mask.device();
  if (is_beside || GroupTable(sparsifier).in_override()) return {std::move(source), row.mask};
  const auto* const side = dynamic_cast<const PySparsifierSide*>(&sparsifier);
  if (side != nullptr) side->mask_objects.adopt(name);
  datasparse::Mask mask;
  moving_masks(sparsifier, [&] { mask = sparsifier.get_mask(name); });
  return {std::move(source), mask};
}

void follow_moves(const BaseDataSparsifier& sparsifier) {
  auto* const side = dynamic_cast<PySparsifierSide*>(const_cast<BaseDataSparsifier*>(&sparsifier));
  const auto moves = without_gil([&] { return GroupTable(sparsifier).moves(); });
  if (side == nullptr || side->moves_seen == moves) return;
  side->moves_seen = moves;
  for (const auto& [name, object] : side->mask_objects.tensors()) {
    const auto mask = without_gil([&, of = name]() -> std::optional<datasparse::Mask> {
      try {
        return sparsifier.get_mask(of);
      } catch (const datasparse::UnknownNameError&) {
        return std::nullopt;  // it was removed, maybe by another thread just now
      }
    });
    if (!mask || object->shows(*mask) || !object->can_show(*mask)) continue;
    side->mask_objects.replace(name, object, std::make_shared<const MaskObject>(*object, *mask));
  }
}

void around_load(py::handle self, const datasparse::SparsifierState& state,
                 const std::function<void()>& load) {
  const SelfSparsifier sparsifier(self);
  side_of(sparsifier).mask_objects.adopt();
  std::vector<std::string> squashed;
  for (const auto& group : state.groups) {
    if (group.squashed) squashed.push_back(group.name);
  }
  make_mask_objects(sparsifier, squashed);
  without_gil(load);
}

void finish_init(const py::object& self, const py::object& data_list) {
  const SelfSparsifier sparsifier(self);
  without_gil([&] { std::invoke(&ForSubclasses::check_defaults, *sparsifier); });
  if (data_list.is_none()) return;
  py::set seen;
  const py::object pairs = py::hasattr(data_list, "items") ? data_list.attr("items")() : data_list;
  for (const auto& item : pairs) {
    const auto pair =
        py::isinstance<py::tuple>(item) ? py::reinterpret_borrow<py::tuple>(item) : py::tuple();
    if (pair.size() != 2) {
      throw datasparse::TypeError("data_list must hold (name, data) pairs, got " +
                                  std::string(py::repr(item)));
    }
    if (py::isinstance<py::str>(pair[0]) && seen.contains(pair[0])) {
      throw datasparse::ValueError("data_list must hold each name once, got " +
                                   std::string(py::repr(pair[0])) + " twice");
    }
    self.attr("add_data")(pair[0], pair[1]);
    seen.add(pair[0]);
  }
}

void register_data_sparsifier(py::module_& module) {
  module.def(
      "require_known_keys",
      [](const Name& name, const py::object& config, const std::vector<std::string>& known) {
        datasparse::require_known_keys(to_param_map(config, name), known, name);
      },
      py::arg("name"), py::arg("config"), py::arg("known"),
      R"(For a check_config() that accepts no keys but its own: TypeError for any other.

name, config: as check_config() gets them.
known: the keys, several str.

>>> require_known_keys("emb", {"treshold": 0.5}, ["threshold"])
Traceback (most recent call last):
TypeError: unknown config key 'treshold' of 'emb'; did you mean 'threshold'?)");

  using SparsifierTrampoline = PySparsifier<BaseDataSparsifier>;
  py::class_<BaseDataSparsifier, SparsifierTrampoline, py::smart_holder> cls(
      module, "BaseDataSparsifier",
      R"(Keeps a mask for every named tensor. Subclass it and override update_mask().

data_list: (name, data) pairs, or a mapping, to add at once.
defaults: the config of every group that add_data() gives nothing else; plain values only.

A step is a transaction: if anything raises, an override among it, every mask is as before. All calls
are thread-safe; from inside an override, reading is allowed and changing groups is a RuntimeError.)",
      collected<BaseDataSparsifier, SparsifierAccess>());

  def_construct_empty<BaseDataSparsifier>(cls);
  cls.def(py::init([](const py::dict& defaults) {
    return new SparsifierTrampoline(to_param_map(defaults, ""));
  }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_list, const py::kwargs& defaults) {
        refuse_second_init(self);
        construct(self, defaults);
        finish_init(self, data_list);
      },
      py::arg("data_list") = py::none());

  def_plainly(cls, "__setstate__", &set_full_state);

  cls.def("add_data", &add_data, py::arg("name"), py::arg("data"), py::arg("reuse_mask") = true,
          py::kw_only(), py::arg("mask") = py::none(), py::arg("layout") = py::none(),
          py::arg("keep_zeros") = py::none(), py::arg("update") = py::none(),
          R"(Add a tensor under any non-empty name; config beats the defaults. Nothing is copied.

data: NumPy array, torch tensor, nn.Parameter, nn.Embedding, nn.EmbeddingBag or an object with __dlpack__;
    float16, bfloat16, float32 or float64; any shape and strides. In CPU memory, but for torch's, which may be
    on any device, and move to another one.
reuse_mask: when the name is there already, keep its mask (the shapes must agree), its state and arrays,
    such as sums of scores. With False they start afresh; for new memory alone there is set_data(). The config
    is kept either way where this call does not say otherwise. A squashed name starts afresh.
mask: zeros and ones of data's shape, copied; beats reuse_mask.
layout: the order of data's axes in the matrix that blocks are cut from, as of data.transpose(layout): the
    first one is its rows, the others its columns, the last innermost. () is the order that they have. A
    convolution's (0, 2, 3, 1) puts blocks along the input channels. Masks, and data that overrides get,
    keep the order that data has.
keep_zeros: True keeps pruned what is 0 in data now, at once and in every step, whatever the rule or an
    override computes: there may be more zeros than the level asks for. False forgets such elements.
update: False freezes the mask: step() leaves it as it is, until a call with True.

For these three, None is what the group has already, or a loaded state, and else (), False and True. Where
the shape of a name changes, its kept zeros are forgotten; where the number of axes does, its layout.

Returns the tensor, or a masked copy of it when a mask was given or reused.

>>> import numpy as np
>>> weight = np.array([4.0, 0.0, 3.0, 0.5])
>>> sparsifier = DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
>>> sparsifier.add_data("w", weight, keep_zeros=True)
array([4. , 0. , 3. , 0.5])
>>> weight[:] = [1.0, 9.0, 3.0, 2.0]
>>> sparsifier.step()
>>> sparsifier.get_mask("w")
array([False, False,  True, False]))")
      .def(
          "set_data", &set_data, py::arg("name"), py::arg("data"),
          R"(Put other memory in the place of a group's data. All else stays: mask, config, state, sums of scores.

data: as for add_data(), of the shape that the group has. It is neither copied nor masked. For arrays that
never change, as JAX's, of which a training makes new ones: hand each in before the next step(). KeyError for
an unknown name, ValueError for a squashed one or another shape.)")
      .def("squashed", unlocked(&BaseDataSparsifier::squashed), py::arg("name"),
           "Whether squash_mask() has released the group's tensor.")
      .def(
          "frozen",
          [](const SelfSparsifier& self, const Name& name) {
            return without_gil([&] { return GroupTable(*self).row(name).frozen; });
          },
          py::arg("name"),
          "Whether step() leaves the group's mask as it is: add_data() was told update=False.")
      .def(
          "apply_kept_zeros",
          [](const SelfSparsifier& self) {
            side_of(self).mask_objects.adopt();
            moving_masks(*self, [&] { self->apply_kept_zeros(); });
          },
          R"(Zero the elements that stay zero (keep_zeros=True), and no others, in your own memory.

Call it before step() where an optimizer may have moved them: else they rank as the weights that they are
not. Attachment.follow() does.)")
      .def("active", unlocked(&GroupTable::active), py::arg("names"),
           "Those of these names, in their order, whose groups hold data: neither removed nor "
           "squashed.")
      .def("awaits_data", unlocked(&GroupTable::awaits_data), py::arg("name"),
           "Whether a loaded state waits for add_data() to bring data of that name.")
      .def(
          "layout",
          [](const SelfSparsifier& self, const Name& name) {
            return to_tuple(without_gil([&] { return GroupTable(*self).row(name).layout; }));
          },
          py::arg("name"),
          "The layout that add_data() was given for the group; () for the order of its axes.")
      .def(
          "remove_data",
          [](const SelfSparsifier& self, const Name& name) {
            without_gil([&] { self->remove_data(name); });
            auto& objects = side_of(self).mask_objects;
            objects.replace(name, objects.find(name), nullptr);
          },
          py::arg("name"), "Forget a group: data, mask, config and state.")
      .def(
          "update_mask",
          [](const SelfSparsifier& self, const Name&, const py::object&, const py::kwargs&) {
            must_override(self.handle(), "update_mask()");
          },
          py::arg("name"), py::arg("data"),
          R"(Compute the mask of one group: override this, and change get_mask(name) in place.

step() calls it for each group with the user's array (torch: detached, under no_grad) and the group's
config as keywords.)")
      .def(
          "check_config", [](const SelfSparsifier&, const py::object&, const py::object&) {},
          py::arg("name"), py::arg("config"),
          R"(Raise unless config, a dict, is one that update_mask() can work with.

Called with the whole config before any of it is written; name is '' for the defaults. Accepts all
unless overridden.)")
      .def(
          "is_integer_param", [](const SelfSparsifier&, const std::string&) { return false; },
          py::arg("key"),
          R"(Whether a config key takes integers only: override this for keys of your own that do.

A DataScheduler of such a key rounds what its schedule gives, half to even. It asks once a step. False
unless overridden.)")
      .def(
          "step", &step,
          R"(Recompute the masks of all groups that are neither squashed nor frozen; all change or none.

Every tensor is looked up where it is now: param.data = ... or a reloaded model are followed.
ValueError where a tensor has changed its shape. The GIL is released while masks are computed.

A UserWarning, once for each group, says that a mask keeps none of the group's elements, unless its config
has sparsity_level 1. The step is complete by then, also where warnings are errors.)")
      .def(
          "get_data", &get_data, py::arg("name"), py::arg("return_original") = true,
          R"(The tensor of a group itself; with return_original=False a fresh copy with zeros where masked.

ValueError where the group was squashed.)")
      .def(
          "get_mask", &get_mask, py::arg("name"),
          R"(The mask of a group, True where kept: the sparsifier's own memory, the same object at each call.

A NumPy bool array for NumPy data, a torch bool tensor for torch data, on their device. Writing to it changes
the mask.)")
      .def("get_array", &get_array, py::arg("name"), py::arg("key"),
           R"(An array that a group keeps under a key, or None: read-only, without a copy.

A NumPy array; for a group on a device of torch a tensor there, unless it has no axes. It stays as it is, and
nobody may write to it: set_array() puts another one in its place, and what sums up copies it first.)")
      .def("set_array", &set_array, py::arg("name"), py::arg("key"), py::arg("array"),
           R"(Keep a copy of an array beside a group's state, or, with None, drop it.

key: letters, digits and '_'.
array: of NumPy, or a tensor, which stays on its device; uint8, int64, float32 or float64, of any shape.

Arrays are saved, copied and loaded with the masks, as bytes with dtype and shape, and dropped with the group.
They may be set from inside an override; if the step fails, those from before are back.

>>> import numpy as np
>>> sparsifier = DataNormSparsifier([("w", np.arange(8.0))])
>>> sparsifier.set_array("w", "seen", np.zeros(8, np.uint8))
>>> sparsifier.get_array("w", "seen").sum()
np.uint64(0))")
      .def("apply_mask", &apply_mask, py::arg("names") = py::none(),
           R"(Zero the masked elements in the user's memory; the masks stay.

names: one name, several, or None for all groups that are not squashed.
ValueError for read-only or self-overlapping memory, before anything is written.)")
      .def("squash_mask", &squash_mask, py::arg("names") = py::none(),
           R"(apply_mask(), and release the tensors: step() skips them from then on.

Names and masks remain readable; adding a name again starts afresh.)")
      .def("report", &report,
           R"(What the masks are now: a datasparse.report.Report, which prints as a table.

Per group shape, dtype, block, target, actual sparsity, zeros, bytes dense and masked; and the totals.
How many of the zeros are in the data has a column where some are not, as before apply_mask(); groups,
rows of outputs and input channels without any weight left have one where there are some. Reads every mask
twice, and the data once.

>>> import numpy as np
>>> sparsifier = DataNormSparsifier([("w", np.arange(8.0))], sparsity_level=0.25, sparse_block_shape=(1, 1))
>>> sparsifier.step()
>>> sparsifier.apply_mask()
>>> sparsifier.report()
group  shape  dtype    block  target  actual  zeros  dense  masked
------------------------------------------------------------------
w      (8,)   float64  1x1    25.00%  25.00%      2   64 B    49 B
------------------------------------------------------------------
total                         25.00%  25.00%      2   64 B    49 B)")
      .def("state_dict", &state_dict,
           R"(Masks (one bit per element), configs and counters as plain data; no user data.

Attributes that a Python subclass has set are saved too, those that begin with '_' aside; TypeError
names one that is not plain. All of it is None, bool, int, float, str, bytes, tuple, list and dict, so
that torch.load takes it by default.)")
      .def("load_state_dict", &load_state_dict, py::arg("state_dict"), py::arg("strict") = true,
           R"(Restore what state_dict() returned; attached data stay attached.

State for a name without data waits until add_data() claims it. With strict, the names must be those
attached, unless none is. ValueError, naming the entry, if anything does not fit; nothing has changed then.)")
      .def_property_readonly(
          "data_groups",
          [](const SelfSparsifier& self) {
            return GroupMap(py::reinterpret_borrow<py::object>(self.handle()), Shows::config);
          },
          "Name to config, as a live dict of dicts; every write is checked.")
      .def_property_readonly(
          "state",
          [](const SelfSparsifier& self) {
            return GroupMap(py::reinterpret_borrow<py::object>(self.handle()), Shows::state);
          },
          "Name to a dict of plain values for the subclass's own use, saved with the masks.")
      .def_property_readonly(
          "defaults",
          [](const SelfSparsifier& self) {
            return ConfigMap(py::reinterpret_borrow<py::object>(self.handle()), *self,
                             Shows::defaults, "");
          },
          "The config of groups added from now on, as a live dict.")
      .def_property(
          "enable_mask_update", unlocked(&BaseDataSparsifier::enable_mask_update),
          [](const SelfSparsifier& self, bool enable) {
            without_gil([&] { self->set_enable_mask_update(enable); });
          },
          "While False, step() counts but changes no mask.")
      .def_property_readonly("step_count", unlocked(&BaseDataSparsifier::step_count),
                             "How often step() has succeeded.")
      .def("__reduce__",
           [](const SelfSparsifier& self) { return reduce(self.handle(), full_state(self)); })
      .def("__repr__", [](const SelfSparsifier& self) {
        return class_name(self.handle()) + "(" +
               std::string(py::repr(py::cast(
                   GroupMap(py::reinterpret_borrow<py::object>(self.handle()), Shows::config)))) +
               ")";
      });
}

"""Saving and loading: a run that is resumed goes on as if it had never stopped."""

import copy
import gc
import io
import json
import math
import pickle
import struct

import datasparse
import numpy as np
import pytest
import torch
import xxhash
from datasparse import BaseDataScheduler, BaseDataSparsifier, DataNormSparsifier
from support import ON_DEVICES, as_numpy, name_of, placed
from torch import nn

pytestmark = ON_DEVICES

# --- a training that can be stopped and resumed ---------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.words = nn.Embedding(10, 8)
        self.hidden = nn.Linear(8, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(self.words(x).sum(1))))


class Ramp(BaseDataScheduler):
    """Its next value depends on attributes of its own: without them the levels go astray."""

    def __init__(self, sparsifier):
        self.speed = 0.1
        self.history = []
        self.seen = {"epochs": (0,), "name": "ramp"}
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        self.speed *= 0.9
        self.history.append(self.last_epoch)
        self.seen["epochs"] = (*self.seen["epochs"], self.last_epoch)
        if self.last_epoch == 0:
            return self.base_param
        late = len(self.seen["epochs"]) / 1000
        return {
            name: level + (self.base_param[name] + self.speed) * 0.1 + late
            for name, level in self.get_last_param().items()
        }


class Patient(DataNormSparsifier):
    """Keeps a count per group in `state` and one as an attribute; both decide about its masks."""

    def __init__(self):
        self.turns = 0
        super().__init__(sparsity_level=0.2, sparse_block_shape=(1, 2))

    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.turns += 1
        count = self.state[name].get("count", 0) + 1
        self.state[name]["count"] = count
        mask = self.get_mask(name)
        mask.reshape(-1)[(count * 7 + self.turns) % mask.numel()] = count % 2


class Training:
    """Model, optimizer, sparsifier and scheduler; `attach=False` leaves the sparsifier empty."""

    def __init__(self, sparsifier_class, attach=True):
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3, momentum=0.9)
        if sparsifier_class is Patient:
            self.sparsifier = Patient()
        else:
            self.sparsifier = DataNormSparsifier(sparsity_level=0.2, sparse_block_shape=(1, 2))
        self.steps = 0
        if attach:
            self.attach()
            self.sparsifier.data_groups["out.weight"].update(
                sparse_block_shape=(-1, 1), zeros_per_block=2, norm="L2", sparsity_level=0.1
            )

    def attach(self):
        for name, parameter in self.model.named_parameters():
            if parameter.dim() > 1:
                self.sparsifier.add_data(name, parameter)

    def schedule(self):
        self.scheduler = Ramp(self.sparsifier)

    def step(self):
        generator = torch.Generator().manual_seed(100 + self.steps)
        x = torch.randint(0, 10, (6, 4), generator=generator)
        y = torch.randint(0, 3, (6,), generator=generator)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        self.sparsifier.step()
        self.sparsifier.apply_mask()
        self.scheduler.step()
        self.steps += 1

    def record(self):
        groups = self.sparsifier.data_groups
        return {
            "steps": self.steps,
            "levels": {name: config["sparsity_level"] for name, config in groups.items()},
            "config": {name: dict(config) for name, config in groups.items()},
            "masks": {name: as_numpy(self.sparsifier.get_mask(name)).tolist() for name in groups},
            "state": {name: dict(state) for name, state in self.sparsifier.state.items()},
            "weights": {name: w.tolist() for name, w in self.model.state_dict().items()},
            "step_count": self.sparsifier.step_count,
            "turns": getattr(self.sparsifier, "turns", None),
            "last_epoch": self.scheduler.last_epoch,
            "base_param": self.scheduler.base_param,
            "last_param": self.scheduler.get_last_param(),
            "own": [self.scheduler.speed, list(self.scheduler.history), dict(self.scheduler.seen)],
        }

    def ten_steps(self):
        records = [self.record()]
        for _ in range(10):
            self.step()
            records.append(self.record())
        return records

    def save(self, file):
        parts = ("model", "optimizer", "sparsifier", "scheduler")
        checkpoint = {part: getattr(self, part).state_dict() for part in parts}
        torch.save({**checkpoint, "steps": self.steps}, file)


ORDERS = {
    "sparsifier first": ("attach", "schedule", "sparsifier", "scheduler"),
    "scheduler first": ("attach", "schedule", "scheduler", "sparsifier"),
    "scheduler made last": ("attach", "sparsifier", "schedule", "scheduler"),
    "data added last, sparsifier first": ("schedule", "sparsifier", "scheduler", "attach"),
    "data added last, scheduler first": ("schedule", "scheduler", "sparsifier", "attach"),
    "data added between": ("schedule", "sparsifier", "attach", "scheduler"),
}


def resume(file, sparsifier_class, order):
    """Training as a new process makes it from a checkpoint; also run by the tests' scripts."""
    checkpoint = torch.load(file)
    training = Training(sparsifier_class, attach=False)
    training.model.load_state_dict(checkpoint["model"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.steps = checkpoint["steps"]
    for action in order:
        if action in ("attach", "schedule"):
            getattr(training, action)()
        else:
            getattr(training, action).load_state_dict(checkpoint[action])
    return training.ten_steps()


def stopped_and_unbroken(tmp_path, sparsifier_class):
    """The checkpoint of a training after six steps, and how that training went on."""
    training = Training(sparsifier_class)
    training.schedule()
    for _ in range(6):
        training.step()
    file = tmp_path / f"{sparsifier_class.__name__}.pt"
    training.save(file)
    return file, training.ten_steps()


@pytest.mark.device("cpu")
def test_resumed_in_a_new_process(tmp_path, run_python):
    classes = (DataNormSparsifier, Patient)
    stopped = {c.__name__: stopped_and_unbroken(tmp_path, c) for c in classes}
    files = {name: str(file) for name, (file, _) in stopped.items()}
    results = tmp_path / "results.pickle"
    run_python(
        f"""
import pickle
from test_state import ORDERS, resume, DataNormSparsifier, Patient
results = {{}}
for sparsifier_class in (DataNormSparsifier, Patient):
    name = sparsifier_class.__name__
    for order in ORDERS:
        results[name, order] = resume({files!r}[name], sparsifier_class, ORDERS[order])
with open({str(results)!r}, "wb") as file:
    pickle.dump(results, file)
"""
    )
    resumed = pickle.loads(results.read_bytes())
    assert len(resumed) == len(classes) * len(ORDERS)
    for (name, order), records in resumed.items():
        for step, (record, expected) in enumerate(zip(records, stopped[name][1], strict=True)):
            assert record == expected, (name, order, step)


def test_the_training_is_not_trivial(tmp_path):
    """What the tests above compare does change from step to step, the weights' zeros too."""
    _, unbroken = stopped_and_unbroken(tmp_path, Patient)
    for entry in ("levels", "masks", "weights", "state", "own"):
        values = [repr(record[entry]) for record in unbroken]
        assert len(set(values)) == len(values), entry


@pytest.mark.parametrize("left_out", ["sparsifier", "scheduler"])
def test_a_state_that_is_not_loaded_is_noticed(tmp_path, left_out):
    """Leaving out either state gives another training: the comparison can fail."""
    file, unbroken = stopped_and_unbroken(tmp_path, Patient)
    order = [action for action in ORDERS["scheduler made last"] if action != left_out]
    assert resume(file, Patient, order) != unbroken
    assert resume(file, Patient, ORDERS["scheduler made last"]) == unbroken


def test_rolled_back_in_place(tmp_path):
    """The same objects go back to the checkpoint; masks that the user holds follow."""
    training = Training(Patient)
    training.schedule()
    for _ in range(3):
        training.step()
    file = tmp_path / "checkpoint.pt"
    training.save(file)
    masks = {name: training.sparsifier.get_mask(name) for name in training.sparsifier.data_groups}
    unbroken = training.ten_steps()
    checkpoint = torch.load(file)
    for part in ("model", "optimizer", "scheduler", "sparsifier"):
        getattr(training, part).load_state_dict(checkpoint[part])
    training.steps = 3
    for name, mask in masks.items():
        assert training.sparsifier.get_mask(name) is mask
        assert mask.tolist() == unbroken[0]["masks"][name]
        assert training.sparsifier.get_data(name) is training.model.get_parameter(name)
    assert training.ten_steps() == unbroken


@pytest.fixture
def training():
    training = Training(Patient)
    training.schedule()
    training.step()
    return training


def test_a_state_is_a_snapshot(training):
    """Later steps and writes do not reach it, and writing to it does not reach the sparsifier."""
    parts = training.sparsifier, training.scheduler
    states = [part.state_dict() for part in parts]
    kept = copy.deepcopy(states)
    training.step()
    training.sparsifier.defaults["norm"] = "L2"
    assert states == kept
    before = training.record()
    for state in [part.state_dict() for part in parts]:
        state["attributes"].clear()
        for value in state.values():
            if isinstance(value, dict):
                value.clear()
    assert training.record() == before


def test_loading_leaves_the_state_alone_and_shares_nothing_with_it(training):
    states = training.sparsifier.state_dict(), training.scheduler.state_dict()
    kept = copy.deepcopy(states)
    training.sparsifier.load_state_dict(states[0])
    training.scheduler.load_state_dict(states[1])
    for _ in range(3):
        training.step()
    assert states == kept


# --- what is in a state ---------------------------------------------------------------------------


def plain(value):
    if isinstance(value, dict):
        return all(plain(item) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, bytes)


def test_states_hold_plain_data_only(training):
    training.sparsifier.data_groups["out.weight"]["sparsity_level"] = np.float32(0.25)
    assert plain(training.sparsifier.state_dict())
    assert plain(training.scheduler.state_dict())


@pytest.mark.device("cpu")
def test_a_mask_costs_one_bit_an_element_and_two_by_pickles_protocol_2():
    """That one is torch.save's, and writes bytes as text: those from 128 on cost two."""
    sparsifier = DataNormSparsifier([("w", np.zeros(10**6, np.float32))])
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        assert len(pickle.dumps(sparsifier.state_dict(), protocol)) <= 126_000
    for options, limit in [({}, 252_000), ({"pickle_protocol": 4}, 127_000)]:
        file = io.BytesIO()
        torch.save(sparsifier.state_dict(), file, **options)
        assert file.tell() <= limit


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65])
def test_masks_of_any_length_survive(rng, size):
    sparsifier = DataNormSparsifier([("w", placed(np.zeros(size, np.float32)))])
    bits = rng.integers(0, 2, size).astype(bool)
    sparsifier.get_mask("w")[...] = placed(bits)
    state = sparsifier.state_dict()
    sparsifier.get_mask("w")[...] = placed(~bits)
    sparsifier.load_state_dict(state)
    assert sparsifier.get_mask("w").tolist() == bits.tolist()


# --- a load that fails changes nothing ------------------------------------------------------------


class Tagged(DataNormSparsifier):
    def __init__(self, *args, **config):
        self.tag = "made"
        super().__init__(*args, **config)


class Still(BaseDataScheduler):
    def __init__(self, sparsifier):
        self.mood = "made"
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        return {"emb": 0.25, "a.b": 0.75} if self.last_epoch else {}


class Pair:
    """A sparsifier and its scheduler, and states of them that differ from what they are now."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.emb = rng.standard_normal((3, 5), dtype=np.float32)
        self.emb[2, 1:3] = 0
        self.sparsifier = Tagged(sparse_block_shape=(1, 1))
        self.sparsifier.add_data("emb", self.emb, layout=(1, 0), keep_zeros=True)
        parameter = nn.Parameter(torch.from_numpy(rng.standard_normal(11)))
        self.sparsifier.add_data("a.b", parameter, norm="L2", zeros_per_block=1)
        self.sparsifier.state["emb"].update(seen=3, mean=0.5)
        self.sparsifier.step()
        self.scheduler = Still(self.sparsifier)
        self.states = {
            "sparsifier": self.sparsifier.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        self.scheduler.step()
        self.scheduler.mood = self.sparsifier.tag = "now"
        self.sparsifier.data_groups["emb"].update(sparse_block_shape=(1, 2), norm="L2")
        self.sparsifier.state["emb"]["seen"] = 4
        self.sparsifier.defaults["sparsity_level"] = 0.875
        self.sparsifier.step()
        self.sparsifier.add_data("emb", self.emb, layout=(), keep_zeros=False, update=False)
        self.sparsifier.enable_mask_update = False
        self.emb += 1

    def everything(self):
        return [
            self.sparsifier.state_dict(),
            self.scheduler.state_dict(),
            self.emb.tobytes(),
            {name: dict(config) for name, config in self.sparsifier.data_groups.items()},
            {name: id(self.sparsifier.get_mask(name)) for name in self.sparsifier.data_groups},
        ]

    def refuses(self, part, state, match=None, load=None, **how):
        """The message with which a state is refused, by objects that stay as they were."""
        before = self.everything()
        with pytest.raises((TypeError, ValueError), match=match) as caught:
            (load or Pair.load_state_dict)(self, part, state, **how)
        assert self.everything() == before, caught.value
        return str(caught.value).rpartition("file': ")[2]

    def load_state_dict(self, part, state, **how):
        getattr(self, part).load_state_dict(state, **how)

    def load_checkpoint(self, path, part, state, **how):
        """Loads a file that holds this state of the part, and the other one as it was saved."""
        path.write_bytes(checkpoint_of({**self.states, part: state}, part))
        datasparse.load(path, self.sparsifier, self.scheduler, **how)


# What a checkpoint is, written by docs/checkpoints.md: any state, a damaged one too.


def as_json(value, lists=False):
    """Plain data as a checkpoint has them; with `lists`, tuples of integers as lists."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [as_json(item) for item in value]
        return items if lists or float in map(type, value) else {"$tuple": items}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, int) and abs(value) >= 2**63:
        return {"$int": hex(value)}
    return value


def group_of(name, saved, tensors):
    """A group of the file; its bits are put among the tensors."""
    if not isinstance(saved, dict):
        tensors[f"mask.{name}"] = b""
        return as_json(saved)
    group = {"name": name, **as_json(saved)}
    for key in {"shape", "layout"} & set(saved):
        group[key] = as_json(saved[key], lists=True)
    for key, tensor in [("mask", f"mask.{name}"), ("kept_zeros", f"zeros.{name}")]:
        bits = saved.get(key)
        if bits is None and key == "kept_zeros":
            continue
        tensors[tensor] = bits if isinstance(bits, bytes) else b""
        if isinstance(bits, bytes):
            group[key] = xxhash.xxh64(bits).hexdigest()
    if "mask" in group:
        group["xxh64"] = group.pop("mask")
    return group


def checkpoint_of(states, part):
    """The bytes of a file that holds these state dicts; its version is that of the part."""
    tensors, state = {}, states["sparsifier"]
    if isinstance(state, dict):
        state = as_json(state) | {"schedulers": [as_json(states["scheduler"])]}
        if "data_groups" in state:
            groups = states["sparsifier"]["data_groups"]
            if isinstance(groups, dict):
                groups = [group_of(*item, tensors) for item in groups.items()]
            state["groups"] = groups
    text = json.dumps(as_json(state))
    digest = xxhash.xxh64(text.encode()).hexdigest()
    metadata = {"format": "datasparse checkpoint", "state": text, "xxh64": digest}
    damaged = states[part]
    if not isinstance(damaged, dict) or "version" in damaged:
        metadata["version"] = str(damaged["version"]) if isinstance(damaged, dict) else "2"
    header, end = {"__metadata__": metadata}, 0
    for name, data in tensors.items():
        offsets = [end, end := end + len(data)]
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": offsets}
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + b"".join(tensors.values())


@pytest.fixture
def pair():
    return Pair()


PARTS = pytest.mark.parametrize("part", ["sparsifier", "scheduler"])


@pytest.fixture(params=["state dict", "checkpoint"])
def load(request, tmp_path):
    """load(pair, part, state): the two ways into the objects. What is refused is one list."""
    if request.param == "state dict":
        return Pair.load_state_dict
    return lambda pair, *state, **how: pair.load_checkpoint(tmp_path / "file", *state, **how)


def entries(node, path=()):
    """The path and value of everything in a nest of dicts and tuples, inner nodes too."""
    if path:
        yield path, node
    items = node.items() if isinstance(node, dict) else ()
    if isinstance(node, tuple | list):
        items = enumerate(node)
    for key, value in items:
        yield from entries(value, (*path, key))


def changed(node, path, change):
    """A copy of the nest in which change(container, key) was called for the place at path."""
    node = copy.deepcopy(node)
    *way, key = path
    containers = [node]
    for step in way:
        containers.append(containers[-1][step])
    if isinstance(containers[-1], dict):
        change(containers[-1], key)
        return node
    # tuples are rebuilt from the inside out
    inner = list(containers[-1])
    change(inner, key)
    replaced = type(containers[-1])(inner)
    return changed(node, path[:-1], lambda container, k: container.__setitem__(k, replaced))


def removed(node, path):
    return changed(node, path, lambda container, key: container.__delitem__(key))


def replaced(node, path, value):
    return changed(node, path, lambda container, key: container.__setitem__(key, value))


def is_free(path):
    """Inside a user's own values: a state without one, or with another plain one, is good."""
    depth = 1 if path[0] == "attributes" else 3
    return len(path) > depth and path[depth - 1] in ("attributes", "state")


def is_group_of_a_schedule(path):
    """A scheduler's state that was saved when there were fewer groups is good."""
    return path[0] in ("base_param", "last_param") and len(path) > 1


@PARTS
def test_the_unchanged_state_is_loaded(pair, part, load):
    """What is refused below is refused for its change alone."""
    before = pair.everything()
    load(pair, part, pair.states[part])
    assert pair.everything() != before
    assert getattr(pair, part).state_dict() == pair.states[part]


# An entry may have another name in a file, and is known by its group's place in the list there.
ALIASES = {
    "mask": ("xxh64",),
    "shape": ("mask",),
    "kept_zeros": ("zeros.",),
    "data_groups": ("groups",),
    "emb": ("['groups'][0]",),
    "a.b": ("['groups'][1]",),
}


def named(message, name):
    return any(word in message for word in (name, *ALIASES.get(name, ())))


@PARTS
def test_each_entry_removed(pair, part, load):
    """a state dict or file that is truncated | ValueError naming the entry; the sparsifier as
    before"""
    tried = 0
    for path, _ in entries(pair.states[part]):
        if is_free(path) or is_group_of_a_schedule(path):
            continue
        message = pair.refuses(part, removed(pair.states[part], path), load=load)
        names = [key for key in path if isinstance(key, str)]
        assert named(message, names[-1]) or named(message, names[1]), (path, message)
        tried += 1
    assert tried == {"sparsifier": 47, "scheduler": 8}[part]


OTHERS = [None, True, -5, 0.3, "text", b"bytes", (), (1, 2, 3, 4), [], object()]


def fits(path, other):
    """Whether `other` is a good value in the place at path."""
    if path[-1] in ("zeros_per_block", "norm"):
        return other is None
    if path[-1] == "sparsity_level" or is_group_of_a_schedule(path):
        return type(other) is float
    if path[-1] == "layout":
        return other is None or other in ((), [])
    if path[-1] == "kept_zeros":
        return other is None
    flags = ("enable_mask_update", "squashed", "update", "counts_renewals")
    return path[-1] in flags and other is True


@PARTS
def test_each_entry_of_another_type_or_value(pair, part, load, device):
    accepted = []
    # Where masks are elsewhere, a state is read by the same text: one value of each entry tells.
    others = OTHERS if device.name == "cpu" else ["text"]
    for path, _ in entries(pair.states[part]):
        if is_free(path) or path[:-1] == ("base_param",):
            continue
        for other in others:
            if fits(path, other) or (type(other) is object and load != Pair.load_state_dict):
                continue
            fresh = Pair()
            try:
                fresh.refuses(part, replaced(fresh.states[part], path, other), load=load)
            except pytest.fail.Exception:
                accepted.append((path, other))
    assert accepted == []


@PARTS
def test_messages_name_the_entry(pair, part, load):
    """a state dict or file that is truncated, of another version, or of other shapes | ValueError
    naming the entry; the sparsifier as before"""
    wrong = {
        "sparsifier": [
            ("version", 3),
            ("version", 0),
            ("version", -1),
            ("version", 10**6),
            ("version", "1"),
            ("step_count", -1),
            ("step_count", 2.5),
            ("step_count", 2**70),
            ("enable_mask_update", 1),
            ("defaults", []),
            ("defaults", "what", 1),
            ("defaults", "sparsity_level", 1.5),
            ("defaults", "sparsity_level", float("nan")),
            ("data_groups", None),
            ("data_groups", "emb", 3),
            ("data_groups", "emb", "config", None),
            ("data_groups", "emb", "config", "sparsity_level", "0.5"),
            ("data_groups", "a.b", "config", "zeros_per_block", 2),
            ("data_groups", "a.b", "config", "sparse_block_shape", [1, 4]),
            ("data_groups", "emb", "config", "sparse_block_shape", (1, 0)),
            ("data_groups", "emb", "config", "norm", "L3"),
            ("data_groups", "emb", "config", "norm", 5),
            ("data_groups", "emb", "config", "nrom", "L2"),
            ("data_groups", "a.b", "shape", (12,)),
            ("data_groups", "a.b", "shape", (11, 1)),
            ("data_groups", "emb", "shape", (5, 3)),
            ("data_groups", "a.b", "shape", ("11",)),
            ("data_groups", "a.b", "shape", (-11,)),
            ("data_groups", "a.b", "shape", (2**40, 2**40)),
            ("data_groups", "a.b", "shape", (2**70,)),
            ("data_groups", "a.b", "shape", (1,) * 33),
            ("data_groups", "emb", "mask", b""),
            ("data_groups", "emb", "mask", b"\0"),
            ("data_groups", "emb", "mask", b"\0" * 3),
            ("data_groups", "emb", "mask", "\0\0"),
            ("data_groups", "emb", "mask", [0, 0]),
            ("data_groups", "emb", "squashed", 0),
            ("data_groups", "emb", "layout", (0,)),
            ("data_groups", "emb", "layout", (0, 0)),
            ("data_groups", "emb", "layout", (0, 2)),
            ("data_groups", "emb", "layout", (-1, 0)),
            ("data_groups", "emb", "layout", (0, 1, 2)),
            ("data_groups", "emb", "layout", (2**70, 0)),
            ("data_groups", "emb", "layout", "01"),
            ("data_groups", "emb", "kept_zeros", b""),
            ("data_groups", "emb", "kept_zeros", b"\0"),
            ("data_groups", "emb", "kept_zeros", b"\0" * 3),
            ("data_groups", "emb", "kept_zeros", "\0\0"),
            ("data_groups", "emb", "update", 0),
            ("data_groups", "emb", "state", [1]),
            ("data_groups", "emb", "state", "seen", [1]),
            ("attributes", ["tag"]),
        ],
        "scheduler": [
            ("version", 0),
            ("version", 3),
            ("version", None),
            ("counts_renewals", 1),
            ("counts_renewals", None),
            ("schedule_param", "norm"),
            ("schedule_param", None),
            ("last_epoch", -2),
            ("last_epoch", 1.0),
            ("base_param", None),
            *(("base_param", "emb", bad) for bad in ([0.5], None, True, "text", (), (1, 2))),
            ("base_param", "emb", float("nan")),
            ("last_param", ()),
            ("last_param", "emb", 1.5),
            ("last_param", "a.b", float("nan")),
            ("last_param", "emb", "0.5"),
            ("attributes", None),
        ],
    }[part]
    for *path, value in wrong:
        state = replaced(pair.states[part], path, value)
        message = pair.refuses(part, state, load=load)
        for name in [path[-1], *(name for name in path if name in ("emb", "a.b"))]:
            assert named(message, name), (path, value, message)


def test_a_mask_of_a_type_that_no_file_has(pair):
    state = replaced(pair.states["sparsifier"], ("data_groups", "emb", "mask"), bytearray(2))
    pair.refuses("sparsifier", state, match="'emb'.*'mask'.*must be bytes, got bytearray")


@pytest.mark.parametrize(
    ("name", "key", "used"), [("emb", "mask", 15), ("a.b", "mask", 11), ("emb", "kept_zeros", 15)]
)
def test_bits_beyond_the_last_element(pair, name, key, used, load):
    state = pair.states["sparsifier"]
    bits = state["data_groups"][name][key]
    for bit in range(used % 8, 8):
        damaged = bits[:-1] + bytes([bits[-1] | 1 << bit])
        assert damaged != bits
        damaged = replaced(state, ("data_groups", name, key), damaged)
        message = pair.refuses("sparsifier", damaged, load=load)
        assert name in message
        assert key in message


@PARTS
def test_a_state_of_another_version_is_refused_for_that(pair, part):
    state = dict(pair.states[part], version=9)
    del state["attributes"]
    pair.refuses(part, state, match="version of the state must be .*, got 9")


def scheduler_state_of_0_1_0():
    """As that version wrote it."""
    return {
        "version": 1,
        "schedule_param": "sparsity_level",
        "last_epoch": 3,
        "base_param": {"emb": 0.5, "a.b": 0.5},
        "last_param": {"emb": 0.25, "a.b": 0.75},
        "own": {},
        "attributes": {"mood": "old"},
    }


def test_a_scheduler_state_of_0_1_0_goes_on_counting_renewals(pair):
    assert pair.scheduler.counts_renewals is False
    pair.scheduler.load_state_dict(scheduler_state_of_0_1_0())
    assert pair.scheduler.counts_renewals is True
    assert (pair.scheduler.last_epoch, pair.scheduler.mood) == (3, "old")
    assert pair.sparsifier.data_groups["emb"]["sparsity_level"] == 0.25
    assert pair.scheduler.base_param == {"emb": 0.5, "a.b": 0.5}
    saved = pair.scheduler.state_dict()
    assert (saved["version"], saved["counts_renewals"]) == (2, True)
    pair.scheduler.load_state_dict(dict(saved, counts_renewals=False))
    assert pair.scheduler.counts_renewals is False
    refused = dict(scheduler_state_of_0_1_0(), last_param={"emb": 1.5})
    pair.refuses("scheduler", refused, match="emb")
    assert pair.scheduler.counts_renewals is False


def test_a_scheduler_that_0_1_0_has_pickled_goes_on_counting_renewals(pair):
    empty, arguments, (_, sparsifier, verbose, attributes) = pair.scheduler.__reduce__()
    restored = empty(*arguments)
    restored.__setstate__((scheduler_state_of_0_1_0(), sparsifier, verbose, attributes))
    assert restored.counts_renewals is True
    assert restored.last_epoch == 3


@PARTS
@pytest.mark.parametrize("state", [None, (), [], "state", 3, b"state", {}], ids=name_of)
def test_what_is_no_state_at_all(pair, part, state, load):
    message = pair.refuses(part, state, load=load)
    assert message.startswith(("state", "header['__metadata__'] has no entry 'version'")), message


def test_each_others_states(pair):
    pair.refuses("sparsifier", pair.states["scheduler"])
    pair.refuses("scheduler", pair.states["sparsifier"])


def test_names_missing_or_unexpected_with_strict(pair, load):
    state = pair.states["sparsifier"]
    missing = removed(state, ("data_groups", "emb"))
    unexpected = replaced(state, ("data_groups", "guest"), state["data_groups"]["emb"])
    pair.refuses("sparsifier", missing, match=r"missing.*'emb'", load=load)
    pair.refuses("sparsifier", missing, match=r"missing.*'emb'", load=load, strict=True)
    pair.refuses("sparsifier", unexpected, match=r"'guest'", load=load)
    both = replaced(missing, ("data_groups", "guest"), state["data_groups"]["emb"])
    message = pair.refuses("sparsifier", both, load=load)
    assert "'emb'" in message
    assert "'guest'" in message


def test_names_missing_without_strict_keep_what_they_have(pair):
    before = pair.sparsifier.state_dict()
    state = removed(pair.states["sparsifier"], ("data_groups", "emb"))
    pair.sparsifier.load_state_dict(state, strict=False)
    now = pair.sparsifier.state_dict()
    assert now["data_groups"]["emb"] == before["data_groups"]["emb"]
    assert now["data_groups"]["a.b"] == state["data_groups"]["a.b"]


def test_shapes_are_checked_without_strict_too(pair, load):
    other = DataNormSparsifier([("emb", np.ones((5, 3))), ("x", np.ones(4))])
    state = other.state_dict()
    state["attributes"] = {"tag": "loaded"}
    pair.refuses("sparsifier", state, match="emb", load=load, strict=False)


def test_attributes_of_a_subclass_cannot_be_loaded_into_a_class_without():
    saved = Tagged([("emb", placed(np.ones((2, 4), np.float32)))], sparsity_level=0.25)
    saved.step()
    other = DataNormSparsifier([("emb", placed(np.ones((2, 4), np.float32)))])
    before = other.state_dict()
    with pytest.raises(ValueError, match="attributes"):
        other.load_state_dict(saved.state_dict())
    assert other.state_dict() == before


def test_a_check_config_that_refuses_a_state():
    class Even(BaseDataSparsifier):
        def check_config(self, name, config):
            if config["turn"] % 2:
                raise ValueError(f"turn of {name!r} must be even, got {config['turn']}")

    data = [("a", placed(np.ones(3))), ("b", placed(np.ones(5)))]
    sparsifier = Even(data, turn=2)
    sparsifier.get_mask("a")[0] = False
    state = sparsifier.state_dict()
    before = copy.deepcopy(state)
    state["data_groups"]["a"]["config"]["turn"] = 4
    state["data_groups"]["b"]["config"]["turn"] = 5
    with pytest.raises(ValueError, match="turn of 'b' must be even, got 5"):
        sparsifier.load_state_dict(state)
    assert sparsifier.state_dict() == before


# --- state that waits for its data ----------------------------------------------------------------


@pytest.fixture
def waiting(pair):
    """An empty sparsifier that has loaded the pair's state."""
    sparsifier = Tagged(sparse_block_shape=(4, 4))
    sparsifier.load_state_dict(pair.states["sparsifier"])
    return sparsifier


def test_waiting_state_is_claimed_with_config_mask_and_own_state(pair, waiting):
    saved = pair.states["sparsifier"]
    assert len(waiting.data_groups) == 0
    assert waiting.tag == "made"
    returned = waiting.add_data("emb", pair.emb)
    assert list(waiting.data_groups) == ["emb"]
    assert waiting.get_data("emb") is pair.emb
    assert waiting.state["emb"] == {"seen": 3, "mean": 0.5}
    assert waiting.data_groups["emb"]["sparse_block_shape"] == (1, 1)
    np.testing.assert_array_equal(returned, pair.emb * waiting.get_mask("emb"))
    waiting.add_data("a.b", pair.sparsifier.get_data("a.b"))
    assert waiting.state_dict() == saved


def test_data_of_another_shape_are_refused_and_the_state_still_waits(pair, waiting):
    before = waiting.state_dict()
    for shape in [(5, 3), (15,), (3, 5, 1), (3, 4), (0,), ()]:
        with pytest.raises(ValueError, match=r"'emb'.*shape.*\(3, 5\)"):
            waiting.add_data("emb", np.ones(shape, np.float32))
        assert len(waiting.data_groups) == 0
        assert waiting.state_dict() == before
    waiting.add_data("emb", pair.emb)
    assert waiting.state["emb"]["seen"] == 3
    saved = pair.states["sparsifier"]["data_groups"]["emb"]
    assert waiting.state_dict()["data_groups"]["emb"] == saved


def test_other_refused_data_leave_the_state_waiting(pair, waiting):
    before = waiting.state_dict()
    good = pair.emb
    for data, more in [
        (good.astype(np.int32), {}),
        ([1.0], {}),
        (good, {"sparsity_level": 2.0}),
        (good, {"nrom": "L1"}),
        (good, {"mask": np.full(good.shape, 2)}),
        (good, {"mask": np.ones((5, 3), bool)}),
    ]:
        with pytest.raises((TypeError, ValueError), match="emb"):
            waiting.add_data("emb", data, **more)
        assert waiting.state_dict() == before
    waiting.add_data("emb", good)
    assert waiting.state["emb"]["seen"] == 3


def test_what_a_call_says_beats_what_waits(pair, waiting):
    mask = np.zeros((3, 5), bool)
    waiting.add_data("emb", pair.emb, mask=mask, sparsity_level=0.125)
    assert not waiting.get_mask("emb").any()
    assert waiting.data_groups["emb"]["sparsity_level"] == 0.125
    assert waiting.data_groups["emb"]["sparse_block_shape"] == (1, 1)


def test_waiting_state_without_reuse_gives_its_config_only(waiting):
    data = np.ones((2, 2))
    assert waiting.add_data("emb", data, reuse_mask=False) is data
    assert waiting.get_mask("emb").all()
    assert waiting.state["emb"] == {}
    assert waiting.data_groups["emb"]["sparse_block_shape"] == (1, 1)


def test_waiting_state_is_claimed_once(pair, waiting):
    waiting.add_data("emb", pair.emb)
    waiting.remove_data("emb")
    data = np.ones((2, 2))
    assert waiting.add_data("emb", data) is data
    assert waiting.state["emb"] == {}
    assert waiting.data_groups["emb"]["sparse_block_shape"] == (1, 1)  # the loaded defaults
    assert waiting.get_mask("emb").all()


def test_waiting_state_is_saved_again(pair, waiting):
    saved = pair.states["sparsifier"]
    assert waiting.state_dict()["data_groups"] == saved["data_groups"]
    waiting.add_data("a.b", pair.sparsifier.get_data("a.b"))
    assert waiting.state_dict()["data_groups"] == saved["data_groups"]
    third = Tagged()
    third.load_state_dict(waiting.state_dict())
    third.add_data("emb", pair.emb)
    assert third.state["emb"]["seen"] == 3


def test_a_step_leaves_waiting_state_alone(pair, waiting):
    waiting.add_data("a.b", pair.sparsifier.get_data("a.b"))
    waiting.step()
    waiting.apply_mask()
    saved = pair.states["sparsifier"]["data_groups"]["emb"]
    assert waiting.state_dict()["data_groups"]["emb"] == saved


def test_loading_again_replaces_what_waits(waiting):
    other = DataNormSparsifier([("z", np.ones(4))])
    other.step()
    waiting.load_state_dict(other.state_dict())
    assert list(waiting.state_dict()["data_groups"]) == ["z"]
    data = np.ones((2, 2))
    assert waiting.add_data("emb", data) is data


def test_unexpected_names_wait_without_strict(pair):
    state = pair.states["sparsifier"]
    state["data_groups"]["guest"] = copy.deepcopy(state["data_groups"]["a.b"])
    pair.sparsifier.load_state_dict(state, strict=False)
    assert list(pair.sparsifier.data_groups) == ["emb", "a.b"]
    pair.sparsifier.add_data("guest", np.ones(11))
    assert pair.sparsifier.data_groups["guest"]["norm"] == "L2"
    np.testing.assert_array_equal(
        pair.sparsifier.get_mask("guest"), as_numpy(pair.sparsifier.get_mask("a.b"))
    )


# --- squashed groups ------------------------------------------------------------------------------


def test_squashed_group_is_saved_and_loaded(pair):
    expected = pair.sparsifier.get_mask("emb").tolist()
    pair.sparsifier.squash_mask("emb")
    state = pair.sparsifier.state_dict()
    other = Tagged()
    other.load_state_dict(state)
    assert list(other.data_groups) == ["emb"]
    assert other.get_mask("emb").tolist() == expected
    with pytest.raises(ValueError, match="squashed"):
        other.get_data("emb")
    other.add_data("a.b", pair.sparsifier.get_data("a.b"))
    assert other.state_dict() == state


def test_loading_a_squashed_state_releases_the_data_and_keeps_the_mask_object(pair):
    pair.sparsifier.squash_mask("a.b")
    expected = as_numpy(pair.sparsifier.get_mask("a.b"))
    fresh = Pair().sparsifier
    mask = fresh.get_mask("a.b")
    fresh.load_state_dict(pair.sparsifier.state_dict())
    gc.collect()
    with pytest.raises(ValueError, match="squashed"):
        fresh.get_data("a.b")
    fresh.step()
    assert isinstance(mask, torch.Tensor)
    assert fresh.get_mask("a.b") is mask
    np.testing.assert_array_equal(as_numpy(mask), expected)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copy_of_a_squashed_group_whose_loaded_state_waits(pair, copied):
    """Such a group is both: its mask can be read, and new data claim the loaded state."""
    sparsifier = pair.sparsifier
    sparsifier.squash_mask()
    sparsifier.load_state_dict(pair.states["sparsifier"])
    other = copied(sparsifier)
    assert list(other.data_groups) == ["emb", "a.b"]
    for name in other.data_groups:
        expected = as_numpy(sparsifier.get_mask(name))
        np.testing.assert_array_equal(as_numpy(other.get_mask(name)), expected)
        with pytest.raises(ValueError, match="are awaited: give them by add_data"):
            other.get_data(name)
    other.add_data("emb", pair.emb)
    assert other.state["emb"]["seen"] == 3


def test_a_scheduler_without_a_state_of_its_own_refuses_one():
    sparsifier = DataNormSparsifier([("w", placed(np.arange(8.0)))])
    scheduler = Still(sparsifier)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"own of the state must be empty .* got 'position'"):
        scheduler.load_state_dict({**before, "last_epoch": 7, "own": {"position": 3}})
    assert scheduler.state_dict() == before

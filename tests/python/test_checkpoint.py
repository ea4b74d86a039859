"""Checkpoints: one file, whole at any moment, from which a training goes on exactly."""

import json
import math
import os
import random
import re
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import datasparse
import numpy as np
import pytest
import torch
import xxhash
from conftest import observe
from datasparse import BaseDataScheduler, BaseDataSparsifier, DataNormSparsifier, DataScheduler
from datasparse.schedules import Linear
from datasparse.torch import attach
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support import ON_DEVICES, placed

pytestmark = ON_DEVICES


class Tagged(DataNormSparsifier):
    def __init__(self, *args, **config):
        self.tag = "made"
        super().__init__(*args, **config)


class Tenths(BaseDataScheduler):
    def __init__(self, sparsifier):
        self.mood = ["made"]
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        return dict.fromkeys(self.base_param, (1 + self.last_epoch) / 10)


class Pair:
    """A sparsifier and its scheduler, with NumPy and torch data."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.emb = rng.standard_normal((3, 5), dtype=np.float32)
        self.parameter = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(11)))
        self.sparsifier = Tagged([("emb", self.emb)], sparse_block_shape=(1, 1))
        self.sparsifier.add_data("a.b é", self.parameter, norm="L2", zeros_per_block=1)
        self.scheduler = Tenths(self.sparsifier)
        self.both = self.sparsifier, self.scheduler

    def step(self, steps=1):
        for _ in range(steps):
            self.sparsifier.step()
            self.scheduler.step()
        return self

    def everything(self):
        return [
            observe(*self.both),
            *(part.state_dict() for part in self.both),
            self.emb.tobytes(),
            self.parameter.tolist(),
            {name: id(self.sparsifier.get_mask(name)) for name in self.sparsifier.data_groups},
        ]


@pytest.fixture
def saved():
    """A pair that has come some way."""
    pair = Pair().step(3)
    pair.sparsifier.tag = pair.scheduler.mood[0] = "saved"
    pair.sparsifier.state["emb"].update(seen=3, mean=0.5)
    pair.sparsifier.data_groups["emb"]["norm"] = "L2"
    return pair


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def states(pair):
    return [part.state_dict() for part in pair.both]


# --- what is saved comes back ---------------------------------------------------------------------


def test_a_checkpoint_brings_everything_back(saved, path):
    assert datasparse.save(path, *saved.both) is None
    resumed = Pair()
    masks = {name: resumed.sparsifier.get_mask(name) for name in resumed.sparsifier.data_groups}
    assert datasparse.load(path, *resumed.both) is None
    assert states(resumed) == states(saved)
    for name, mask in masks.items():
        assert resumed.sparsifier.get_mask(name) is mask
    assert resumed.sparsifier.get_data("emb") is resumed.emb
    assert resumed.sparsifier.get_data("a.b é") is resumed.parameter
    assert states(resumed.step(5)) == states(saved.step(5))


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_are_those_of_open(saved, path, kind):
    datasparse.save(kind(path), *saved.both)
    datasparse.load(kind(path), *Pair().both)
    with pytest.raises(TypeError):
        datasparse.save(3, *saved.both)
    with pytest.raises(ValueError, match="null"):
        datasparse.load("a\0b", *saved.both)


def test_a_name_that_no_locale_can_read(saved, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    datasparse.save(path, *saved.both)
    datasparse.load(path, *Pair().both)
    with pytest.raises(FileNotFoundError) as caught:
        datasparse.load(path + b"2", *Pair().both)
    assert os.fsencode(caught.value.filename) == path + b"2"


def test_configs_are_those_of_the_file_also_where_a_scheduler_wrote_others(saved, path):
    saved.sparsifier.data_groups["emb"]["sparsity_level"] = 0.875
    datasparse.save(path, *saved.both)
    resumed = Pair()
    datasparse.load(path, *resumed.both)
    assert resumed.sparsifier.data_groups["emb"]["sparsity_level"] == 0.875
    assert resumed.scheduler.get_last_param()["emb"] == 0.4


def test_data_may_be_added_after_loading(saved, path):
    datasparse.save(path, *saved.both)
    sparsifier = Tagged()
    scheduler = Tenths(sparsifier)
    datasparse.load(path, sparsifier, scheduler)
    sparsifier.add_data("emb", saved.emb)
    sparsifier.add_data("a.b é", saved.parameter)
    assert [sparsifier.state_dict(), scheduler.state_dict()] == states(saved)


def test_names_may_differ_where_that_is_said(saved, path):
    datasparse.save(path, *saved.both)
    other = Tagged([("emb", saved.emb), ("more", np.ones(4))])
    with pytest.raises(ValueError, match=r"without data here: 'a\.b é'"):
        datasparse.load(path, other, Tenths(other))
    datasparse.load(path, other, strict=False)
    assert (other.get_mask("emb") == saved.sparsifier.get_mask("emb")).all()
    assert other.get_mask("more").all()


def test_a_group_that_the_file_lacks_goes_on_by_its_own_base(path):
    """Its level at the time of loading is a scheduled one: 0, of which a ramp would make 0."""

    def made(*names):
        sparsifier = DataNormSparsifier(sparsity_level=0.8)
        for name in names:
            sparsifier.add_data(name, np.arange(10.0))
        return sparsifier, DataScheduler(sparsifier, "sparsity_level", Linear(end=4))

    sparsifier, scheduler = made("a")
    scheduler.leads = True
    scheduler.step()
    datasparse.save(path, sparsifier, scheduler)
    for load in (
        lambda other, resumed: datasparse.load(path, other, resumed, strict=False),
        lambda other, resumed: resumed.load_state_dict(scheduler.state_dict()),
    ):
        other, resumed = made("a", "b")
        load(other, resumed)
        resumed.leads = True
        resumed.step()
        assert resumed.base_param == {"a": 0.8, "b": 0.8}
        assert resumed.get_last_param() == {"a": 0.4, "b": 0.4}


def test_several_schedulers_come_in_their_order(path):
    class Turns(BaseDataScheduler):
        def get_schedule_param(self):
            return dict.fromkeys(self.base_param, self.last_epoch % 5)

    def make():
        sparsifier = DataNormSparsifier([("w", placed(np.arange(12.0)))], zeros_per_block=1)
        return sparsifier, Tenths(sparsifier), Turns(sparsifier, "zeros_per_block")

    sparsifier, *schedulers = make()
    sparsifier.step()
    for scheduler in (*schedulers, *schedulers):
        scheduler.step()
    datasparse.save(path, sparsifier, *schedulers)
    again, *resumed = make()
    with pytest.raises(ValueError, match="scheduler 0: schedule_param of the state must be"):
        datasparse.load(path, again, *reversed(resumed))
    datasparse.load(path, again, *resumed)
    assert [s.state_dict() for s in resumed] == [s.state_dict() for s in schedulers]


def test_masks_of_squashed_groups_stay_what_they_were(saved, path):
    saved.sparsifier.squash_mask("a.b é")
    datasparse.save(path, *saved.both)
    resumed = Pair()
    mask = resumed.sparsifier.get_mask("a.b é")
    datasparse.load(path, *resumed.both)
    assert resumed.sparsifier.get_mask("a.b é") is mask
    assert mask.tolist() == saved.sparsifier.get_mask("a.b é").tolist()
    with pytest.raises(ValueError, match="squashed"):
        resumed.sparsifier.get_data("a.b é")


def test_a_torch_mask_that_was_pointed_elsewhere_is_saved(saved, path):
    bits = torch.arange(11) % 2 == 0
    saved.sparsifier.get_mask("a.b é").data = bits.clone()
    datasparse.save(path, *saved.both)
    resumed = Pair()
    datasparse.load(path, *resumed.both)
    assert resumed.sparsifier.get_mask("a.b é").tolist() == bits.tolist()


# --- attributes of subclasses ---------------------------------------------------------------------

numbers = st.none() | st.booleans() | st.integers() | st.floats()
leaves = numbers | st.text(st.characters()) | st.binary()
keys = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=3)
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(max_size=3).map("${}".format), inner, max_size=2)
    ),
    max_leaves=20,
)


def twin(value):
    """Equal for equal values of equal types, NaN and the sign of zero included."""
    if isinstance(value, dict):
        return dict, [(twin(key), twin(held)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [twin(item) for item in value]
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else value.hex()
    return type(value), value


@given(value=plain)
def test_any_plain_attribute_survives(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "checkpoint"
    saved, resumed = Pair(), Pair()
    saved.scheduler.mood = saved.sparsifier.tag = value
    datasparse.save(path, *saved.both)
    datasparse.load(path, *resumed.both)
    assert twin(resumed.scheduler.mood) == twin(value)
    assert twin(resumed.sparsifier.tag) == twin(value)
    with safe_open(path, "np") as file:
        json.loads(file.metadata()["state"])  # JSON by everyone's rules


@pytest.mark.parametrize(
    "value",
    [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**5000, -0.0, 5e-324, 1e16, 1.0, True, "\ud800",
     "\0", "", b"", (), {}, {"$tuple": [1]}, {1: 2, 1.5: 3, None: 4, (b"x",): 5}],
)  # fmt: skip
def test_an_attribute_at_the_edge_survives(path, value):
    saved, resumed = Pair(), Pair()
    saved.scheduler.mood = value
    datasparse.save(path, *saved.both)
    datasparse.load(path, *resumed.both)
    assert twin(resumed.scheduler.mood) == twin(value)


def test_new_attributes_come_and_others_stay(path):
    saved, resumed = Pair(), Pair()
    saved.sparsifier.fresh = [1]
    saved.sparsifier._private = [2]
    resumed.sparsifier.own = 3
    datasparse.save(path, *saved.both)
    datasparse.load(path, *resumed.both)
    assert vars(resumed.sparsifier) == {"tag": "made", "fresh": [1], "own": 3}


@pytest.mark.parametrize("value", [{1, 2}, np.ones(2), np.float64(1), object(), [print]])
def test_an_attribute_that_is_not_plain_is_named(path, value):
    pair = Pair()
    pair.scheduler.mood = {"deep": (value,)}
    with pytest.raises(TypeError, match=r"^Tenths\.mood\['deep'\]\[0\].* cannot be saved"):
        datasparse.save(path, *pair.both)
    assert not list(path.parent.iterdir())


def test_an_attribute_that_contains_itself_is_refused(path):
    pair = Pair()
    pair.scheduler.mood.append(pair.scheduler.mood)
    with pytest.raises(ValueError, match=r"Tenths\.mood\[1\].*nested more than 64 deep"):
        datasparse.save(path, *pair.both)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        pair.scheduler.state_dict()


def test_an_attribute_may_be_nested_64_deep(path):
    saved, resumed = Pair(), Pair()
    for _ in range(63):
        saved.scheduler.mood = {1: saved.scheduler.mood}
    datasparse.save(path, *saved.both)
    datasparse.load(path, *resumed.both)
    assert resumed.scheduler.mood == saved.scheduler.mood
    saved.scheduler.mood = (saved.scheduler.mood,)
    with pytest.raises(ValueError, match=r"^Tenths\.mood.*nested more than 64 deep"):
        datasparse.save(path, *saved.both)


def test_attributes_need_a_class_that_has_some(saved, path):
    datasparse.save(path, *saved.both)
    sparsifier = DataNormSparsifier()
    with pytest.raises(ValueError, match="attributes of the DataNormSparsifier must be none"):
        datasparse.load(path, sparsifier, strict=False)
    assert sparsifier.step_count == 0


# --- the file -------------------------------------------------------------------------------------


def header_and_data(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_safetensors_reads_it(saved, path):
    datasparse.save(path, *saved.both)
    tensors = load_file(path)
    assert set(tensors) == {"mask.emb", "mask.a.b é"}
    for name in saved.sparsifier.data_groups:
        mask = np.asarray(saved.sparsifier.get_mask(name))
        packed = tensors[f"mask.{name}"]
        assert packed.dtype == np.uint8
        bits = np.unpackbits(packed, count=mask.size, bitorder="little")
        assert np.array_equal(bits.reshape(mask.shape).astype(bool), mask)
        assert np.array_equal(packed, np.packbits(mask, bitorder="little"))
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "datasparse checkpoint"
    assert metadata["version"] == "2"
    state = json.loads(metadata["state"])
    assert [group["name"] for group in state["groups"]] == ["emb", "a.b é"]


SEEDS = Path(__file__).parents[1] / "fuzz/corpus"


def objects_of_the_seed():
    sparsifier = datasparse.DataNormSparsifier([("w", placed(np.ones((3, 5), np.float32)))])
    scheduler = datasparse.DataScheduler(sparsifier, "sparsity_level", Linear(final=0.4, end=2))
    return sparsifier, scheduler


def test_a_file_of_0_1_0_means_what_it_meant(path):
    content = (SEEDS / "group-and-scheduler").read_bytes()
    header, _ = header_and_data(content)
    assert header["__metadata__"]["version"] == "1"
    assert "counts_renewals" not in header["__metadata__"]["state"]
    sparsifier, scheduler = objects_of_the_seed()
    path.write_bytes(content)
    datasparse.load(path, sparsifier, scheduler)
    assert (sparsifier.step_count, scheduler.last_epoch) == (1, 1)
    assert scheduler.counts_renewals is True
    assert scheduler.base_param == {"w": 0.5}
    assert sparsifier.data_groups["w"]["sparsity_level"] == 0.2
    bits = np.unpackbits(np.frombuffer(content[-2:], np.uint8), count=15, bitorder="little")
    assert np.array_equal(sparsifier.get_mask("w").ravel(), bits.astype(bool))

    datasparse.save(path, sparsifier, scheduler)
    header, _ = header_and_data(path.read_bytes())
    assert header["__metadata__"]["version"] == "2"
    (saved,) = json.loads(header["__metadata__"]["state"])["schedulers"]
    assert saved["counts_renewals"] is True
    resumed = objects_of_the_seed()
    datasparse.load(path, *resumed)
    assert resumed[1].counts_renewals is True


@pytest.mark.parametrize("counts", [True, False])
def test_what_steps_count_is_in_the_file(path, counts):
    sparsifier, scheduler = objects_of_the_seed()
    scheduler.counts_renewals = counts
    datasparse.save(path, sparsifier, scheduler)
    resumed = objects_of_the_seed()
    resumed[1].counts_renewals = not counts
    datasparse.load(path, *resumed)
    assert resumed[1].counts_renewals is counts


def test_it_reads_what_safetensors_writes(saved, path):
    datasparse.save(path, *saved.both)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    rewritten = path.with_name("rewritten")
    save_file(load_file(path), rewritten, metadata)
    resumed = Pair()
    datasparse.load(rewritten, *resumed.both)
    assert states(resumed) == states(saved)


def test_the_data_begin_at_a_multiple_of_eight(path):
    for length in range(1, 20):
        sparsifier = DataNormSparsifier([("x" * length, placed(np.ones(3)))])
        datasparse.save(path, sparsifier)
        assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 8 == 0


@pytest.mark.parametrize("shape", [(10**6,), (1000, 1000), (999_999,)])
def test_a_million_elements_take_a_bit_each_and_a_kilobyte(path, shape):
    sparsifier = DataNormSparsifier([("w", placed(np.zeros(shape, np.float32)))])
    sparsifier.step()
    datasparse.save(path, sparsifier, Tenths(sparsifier))
    assert path.stat().st_size <= 125_000 + 1000


@pytest.mark.parametrize("name", ["__metadata__", "$dict", "mask.", "a\0b", "'", '"', "\U0001f600"])
def test_hostile_names_are_names(path, name):
    sparsifier = DataNormSparsifier(
        [(name, placed(np.arange(8.0))), ("other", placed(np.arange(9.0)))]
    )
    sparsifier.step()
    datasparse.save(path, sparsifier)
    resumed = DataNormSparsifier([(name, placed(np.zeros(8))), ("other", placed(np.zeros(9)))])
    datasparse.load(path, resumed)
    assert resumed.state_dict() == sparsifier.state_dict()
    assert set(load_file(path)) == {f"mask.{name}", "mask.other"}


def test_the_same_state_gives_the_same_bytes(saved, path):
    datasparse.save(path, *saved.both)
    first = path.read_bytes()
    datasparse.save(path, *saved.both)
    assert path.read_bytes() == first


# --- a load that fails changes nothing ------------------------------------------------------------


def refused(path, pair=None, **how):
    """The message with which the file is refused, by objects that stay as they were."""
    pair = pair or Pair(seed=1).step()
    before = pair.everything()
    with pytest.raises(ValueError, match=r"^cannot load '") as caught:
        datasparse.load(path, *pair.both, **how)
    assert pair.everything() == before
    return str(caught.value).removeprefix(f"cannot load '{path}': ")


def test_a_flipped_bit_is_found_wherever_it_is(saved, path):
    datasparse.save(path, *saved.both)
    good = path.read_bytes()
    pair = Pair(seed=1).step()
    rng = random.Random(5)
    for _ in range(300):
        bit = rng.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        refused(path, pair)


def test_a_flipped_bit_of_a_mask_names_the_mask(saved, path):
    datasparse.save(path, *saved.both)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refused(path).startswith("tensor 'mask.a.b é' is damaged: its checksum is ")


def test_a_file_that_is_cut_anywhere_is_refused(saved, path):
    datasparse.save(path, *saved.both)
    good = path.read_bytes()
    pair = Pair(seed=1).step()
    for size in range(0, len(good), 7):
        path.write_bytes(good[:size])
        refused(path, pair)


def test_foreign_files_are_refused(path):
    save_file({"w": np.ones(3, np.uint8)}, path)
    assert refused(path) == "header has no entry '__metadata__'"
    save_file({"w": np.ones(3, np.float32)}, path, {"format": "pt"})
    assert refused(path) == "header['w']['dtype'] must be U8, got F32"
    torch.save({"a": 1}, path)
    assert "the length of the header must be" in refused(path)
    path.write_bytes(b"")
    assert refused(path) == "a checkpoint has at least 8 bytes, got 0"
    path.write_bytes(os.urandom(5000))
    refused(path)


def test_other_shapes_names_and_classes_are_refused(saved, path):
    datasparse.save(path, *saved.both)
    pair = Pair()
    pair.sparsifier.add_data("emb", np.ones((5, 3), np.float32), reuse_mask=False)
    assert "must have the shape of its data, (5, 3), got (3, 5)" in refused(path, pair)
    pair.sparsifier.remove_data("emb")
    assert "without data here: 'emb'" in refused(path, pair)

    class Threshold(BaseDataSparsifier):
        def update_mask(self, name, data, threshold):
            pass

        def check_config(self, name, config):
            if set(config) != {"threshold"}:
                raise ValueError(f"config must hold threshold, got {config}")

    other = Threshold(threshold=0.5)
    with pytest.raises(ValueError, match="config must hold threshold"):
        datasparse.load(path, other, strict=False)


def test_a_last_object_that_refuses_leaves_all_the_others(saved, path):
    """The sparsifier and the first scheduler are fine; the second one is not."""
    second = Tenths(saved.sparsifier)
    datasparse.save(path, *saved.both, second)
    pair = Pair(seed=1).step()
    third = Tenths(pair.sparsifier)
    header, data = header_and_data(path.read_bytes())
    state = json.loads(header["__metadata__"]["state"])
    state["schedulers"][1]["last_epoch"] = -5
    before = [*pair.everything(), third.state_dict()]
    rewrite(path, header, state, data)
    with pytest.raises(ValueError, match="scheduler 1: last_epoch of the state must be"):
        datasparse.load(path, *pair.both, third)
    assert [*pair.everything(), third.state_dict()] == before


def rewrite(path, header, state, data):
    """A file with another state, whose checksum fits."""
    text = json.dumps(state)
    header["__metadata__"].update(state=text, xxh64=xxhash.xxh64(text.encode()).hexdigest())
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ({"$dict": [[[1], 2]]}, r"scheduler 0: a dict cannot have the key \[1\]"),
        ({"$dict": [[{}, 2]]}, r"scheduler 0: a dict cannot have the key {}"),
        ({"$str": "ff"}, "scheduler 0: a str must be UTF-8"),
        ({"$what": 1}, r"state holds a malformed '\$what'"),
        ({"$int": "7"}, r"state holds a malformed '\$int'"),
    ],
)
def test_attributes_that_python_cannot_have_are_refused(saved, path, attribute, message):
    datasparse.save(path, *saved.both)
    header, data = header_and_data(path.read_bytes())
    state = json.loads(header["__metadata__"]["state"])
    state["schedulers"][0]["attributes"]["mood"] = attribute
    rewrite(path, header, state, data)
    assert re.match(message, refused(path))


# --- arguments ------------------------------------------------------------------------------------


def test_arguments_of_other_kinds_are_refused(saved, path):
    with pytest.raises(TypeError, match="schedulers must be BaseDataSchedulers, got Tagged"):
        datasparse.save(path, saved.sparsifier, saved.sparsifier)
    with pytest.raises(TypeError):
        datasparse.save(path, saved.scheduler)
    with pytest.raises(TypeError):
        datasparse.load(path)
    attachment = attach(torch.nn.Linear(2, 2))
    for call in (datasparse.save, datasparse.load):
        with pytest.raises(TypeError, match=r"got Attachment; pass its \.sparsifier"):
            call(path, attachment)
    with pytest.raises(ValueError, match="drives another"):
        datasparse.save(path, saved.sparsifier, Pair().scheduler)
    with pytest.raises(ValueError, match="must be different ones"):
        datasparse.save(path, *saved.both, saved.scheduler)
    with pytest.raises(TypeError, match="has not been called yet"):
        datasparse.save(path, Tagged.__new__(Tagged))
    assert not list(path.parent.iterdir())


def test_schedulers_must_be_as_many_as_were_saved(saved, path):
    datasparse.save(path, *saved.both)
    pair = Pair(seed=1).step()
    before = pair.everything()
    with pytest.raises(ValueError, match="as many as the checkpoint holds, 1, got 0; pass strict"):
        datasparse.load(path, pair.sparsifier)
    with pytest.raises(ValueError, match="as many as the checkpoint holds, 1, got 2"):
        datasparse.load(path, *pair.both, Tenths(pair.sparsifier), strict=False)
    assert pair.everything()[2] == before[2]
    datasparse.load(path, pair.sparsifier, strict=False)
    assert pair.sparsifier.state_dict() == saved.sparsifier.state_dict()


def test_the_system_says_why(saved, path, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        datasparse.load(path, *saved.both)
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        datasparse.save(tmp_path / "none" / "x", *saved.both)
    path.write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        datasparse.save(path / "x", *saved.both)
    with pytest.raises(ValueError, match="must be a regular file"):
        datasparse.save(tmp_path, *saved.both)


def test_a_write_protected_file_stays(saved, path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    datasparse.save(path, *saved.both)
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        datasparse.save(path, *saved.both)


def test_mode_and_link_stay(saved, tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    for mode in (0o600, 0o644):
        datasparse.save(link, *saved.both)
        assert link.is_symlink()
        target.chmod(mode)
        datasparse.save(link, *saved.both)
        assert stat.S_IMODE(target.stat().st_mode) == mode
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.device("cpu")
@pytest.mark.parametrize("limit", [0, 100, 4096, 100_000])
def test_a_full_disk_leaves_the_old_file(path, run_python, limit):
    script = f"""
import os, resource
import datasparse, numpy as np
path = {str(path)!r}
sparsifier = datasparse.DataNormSparsifier([("w", np.arange(1e6))])
datasparse.save(path, sparsifier)
old = open(path, "rb").read()
sparsifier.step()
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, before[1]))
try:
    datasparse.save(path, sparsifier)
except OSError as error:
    print(error.filename == path, error.strerror, open(path, "rb").read() == old)
resource.setrlimit(resource.RLIMIT_FSIZE, before)  # a sanitizer's report may be longer
print(os.listdir(os.path.dirname(path)))
"""
    assert run_python(script) == f"True File too large True\n['{path.name}']\n"


@pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="needs a disk of its own"
)
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        sparsifier = DataNormSparsifier([("w", placed(np.arange(1e6)))])
        datasparse.save(tmp_path / "x", sparsifier)
        old = (tmp_path / "x").read_bytes()
        sparsifier.step()
        with pytest.raises(OSError, match="No space left on device"):
            datasparse.save(tmp_path / "x", sparsifier)
        assert (tmp_path / "x").read_bytes() == old
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- threads --------------------------------------------------------------------------------------


def test_saving_waits_for_a_step_without_the_interpreter(path):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)
            entered.set()
            assert go_on.wait(60)

    sparsifier = Slow([("w", placed(np.arange(8.0)))], sparse_block_shape=(1, 1))
    step = threading.Thread(target=sparsifier.step)
    step.start()
    assert entered.wait(60)
    asked = threading.Event()

    class Asked:
        def __fspath__(self):
            asked.set()
            return str(path)

    save = threading.Thread(target=datasparse.save, args=(Asked(), sparsifier))
    # This thread wakes where the other one gives the interpreter up: within save().
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        save.start()
        assert asked.wait(60)
    finally:
        sys.setswitchinterval(interval)
    assert not path.exists()
    go_on.set()
    step.join(60)
    save.join(60)
    resumed = DataNormSparsifier([("w", placed(np.zeros(8)))])
    datasparse.load(path, resumed)
    assert (resumed.step_count, resumed.get_mask("w").sum()) == (1, 4)


def test_a_checkpoint_from_inside_an_override_is_refused(path):
    class Eager(BaseDataSparsifier):
        def update_mask(self, name, data):
            datasparse.save(path, self)

    sparsifier = Eager([("w", placed(np.ones(3)))])
    with pytest.raises(RuntimeError, match="must not be called from inside update_mask"):
        sparsifier.step()

    class Hasty(Tenths):
        def get_schedule_param(self):
            datasparse.save(path, self.data_sparsifier, self)

    with pytest.raises(RuntimeError, match=r"from inside its get_schedule_param\(\)"):
        Hasty(DataNormSparsifier([("w", placed(np.ones(3)))]))


def test_loading_lets_old_attributes_go_outside_the_locks(path):
    """What is replaced may run code as it goes: here, code that needs the locks."""

    class Last:
        def __init__(self, sparsifier):
            self.sparsifier = sparsifier

        def __del__(self):
            self.sparsifier.step()
            seen.append(self.sparsifier.step_count)

    seen = []
    saved = Pair()
    datasparse.save(path, *saved.both)
    pair = Pair()
    pair.scheduler.mood = Last(pair.sparsifier)
    datasparse.load(path, *pair.both)
    assert seen == [1]
    assert pair.scheduler.mood == ["made"]

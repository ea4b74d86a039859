"""Arrays that groups keep beside their states."""

import copy
import pickle

import datasparse
import numpy as np
import pytest
from support import HALF, ON_DEVICES, as_numpy, placed, values

pytestmark = ON_DEVICES


def there(*arguments):
    return placed(values(*arguments))


ARRAYS = {
    "uint8": np.arange(7, dtype=np.uint8),
    "int64": np.array(-5),
    "float32": values(1),
    "float64": values(2).astype(np.float64).T,
    "empty": np.zeros((0, 3), np.float32),
}


def kept(sparsifier, name="w"):
    return {key: sparsifier.get_array(name, key) for key in ARRAYS}


def require_same(found, expected=ARRAYS):
    for key, array in expected.items():
        assert as_numpy(found[key]).dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


@pytest.fixture
def sparsifier():
    sparsifier = datasparse.DataNormSparsifier({"w": there(1), "v": there(2)}, **HALF)
    for key, array in ARRAYS.items():
        sparsifier.set_array("w", key, array)
    return sparsifier


def test_what_was_set_is_a_copy_and_what_is_got_a_view_that_stays(sparsifier, device):
    array = np.zeros(3, np.float32)
    sparsifier.set_array("w", "a", array)
    array += 1
    view = sparsifier.get_array("w", "a")
    assert view.tolist() == [0, 0, 0]
    if device.name == "cpu":
        assert not view.flags.writeable
        assert np.shares_memory(view, sparsifier.get_array("w", "a"))
    else:
        assert view.device == device.at()
        assert view.data_ptr() == sparsifier.get_array("w", "a").data_ptr()
    sparsifier.set_array("w", "a", array)
    assert view.tolist() == [0, 0, 0]
    assert sparsifier.get_array("w", "a").tolist() == [1, 1, 1]
    sparsifier.set_array("w", "a", None)
    assert sparsifier.get_array("w", "a") is None
    del sparsifier
    assert view.tolist() == [0, 0, 0]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda sparsifier: pickle.loads(pickle.dumps(sparsifier)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_copies_and_pickles_have_them(sparsifier, copied):
    require_same(kept(copied(sparsifier)))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("by_file", [False, True])
def test_states_and_files_have_them(sparsifier, waits, by_file, tmp_path):
    other = datasparse.DataNormSparsifier(None if waits else {"w": there(1), "v": there(2)})
    if not waits:
        other.set_array("v", "gone", np.zeros(1))
    if by_file:
        datasparse.save(tmp_path / "file", sparsifier)
        datasparse.load(tmp_path / "file", other)
    else:
        state = sparsifier.state_dict()
        before = copy.deepcopy(state)
        sparsifier.set_array("w", "uint8", np.zeros(7, np.uint8))
        assert state == before
        other.load_state_dict(state)
    if waits:
        other.add_data("w", there(1))
        other.add_data("v", there(2))
    require_same(kept(other))
    assert other.get_array("v", "gone") is None


def test_a_state_without_them_looks_as_ever_and_has_them_as_plain_data(sparsifier):
    state = sparsifier.state_dict()
    assert "arrays" not in state["data_groups"]["v"]
    entry = state["data_groups"]["w"]["arrays"]["float32"]
    assert entry == {"dtype": "float32", "shape": (12, 16), "bytes": values(1).tobytes()}


def test_they_go_with_the_group_and_with_its_mask(sparsifier):
    sparsifier.add_data("w", there(3))
    require_same(kept(sparsifier))
    sparsifier.add_data("w", there(3), reuse_mask=False)
    assert set(map(type, kept(sparsifier).values())) == {type(None)}


def changed(state, **entry):
    state = copy.deepcopy(state)
    state["data_groups"]["w"]["arrays"] = {"a": {**GOOD, **entry}}
    return state


GOOD = {"dtype": "float32", "shape": (2,), "bytes": bytes(8)}
WRONG = {
    "length": ({"bytes": bytes(7)}, r"\['bytes'\] must have 8 bytes for shape \(2,\), got 7"),
    "dtype": ({"dtype": "float16"}, r"\['dtype'\] must be one of uint8, .*got 'float16'"),
    "shape": ({"shape": (-1,)}, r"\['shape'\]"),
    "bytes": ({"bytes": "x"}, r"\['bytes'\] must be bytes, got str"),
}


@pytest.mark.parametrize(("entry", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_entry_is_named_and_nothing_changes(sparsifier, entry, message):
    before = sparsifier.state_dict()
    with pytest.raises(ValueError, match=rf"\['w'\]\['arrays'\]\['a'\]{message}"):
        sparsifier.load_state_dict(changed(before, **entry))
    assert sparsifier.state_dict() == before


@pytest.mark.parametrize("arrays", [None, {}, {"a b": GOOD}, {1: GOOD}, {"a": 3}])
def test_what_is_no_dict_of_arrays_is_refused(sparsifier, arrays):
    state = sparsifier.state_dict()
    state["data_groups"]["w"]["arrays"] = arrays
    with pytest.raises(ValueError, match=r"\['w'\]\['arrays'\]"):
        sparsifier.load_state_dict(state)


@pytest.mark.parametrize("array", [[1.0], np.ones(3, np.float16), np.ones(3, ">f4"), "x"])
def test_other_arrays_are_refused(sparsifier, array):
    with pytest.raises(TypeError, match="array 'a' of 'w' must be a NumPy array, or a tensor, of"):
        sparsifier.set_array("w", "a", array)
    with pytest.raises(ValueError, match="keys of letters"):
        sparsifier.set_array("w", "a.b", np.ones(3))
    with pytest.raises(datasparse.UnknownNameError, match="no data named 'x'"):
        sparsifier.get_array("x", "a")


class Writes(datasparse.DataNormSparsifier):
    fails = True

    def get_scores(self, name, data, **config):
        self.set_array(name, "uint8", np.ones(2, np.uint8))
        self.set_array(name, "new", np.ones(2))
        if self.fails:
            raise ZeroDivisionError
        return data


def test_a_step_that_fails_brings_them_back():
    sparsifier = Writes({"w": there(1)}, **HALF)
    sparsifier.set_array("w", "uint8", ARRAYS["uint8"])
    before = sparsifier.state_dict()
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    assert sparsifier.state_dict() == before
    sparsifier.fails = False
    sparsifier.step()
    assert sparsifier.get_array("w", "new").tolist() == [1, 1]

"""Names of groups and of config keys: those that nobody knows, and what is no name."""

import datasparse
import numpy as np
import pytest
from datasparse.schedules import Linear
from support import ON_DEVICES, name_of, placed
from test_errors import SHAPE, ramp, stepped

pytestmark = ON_DEVICES

ASK_BY_NAME = {
    "get_mask": lambda s, name: s.get_mask(name),
    "get_data": lambda s, name: s.get_data(name),
    "get_data masked": lambda s, name: s.get_data(name, return_original=False),
    "remove_data": lambda s, name: s.remove_data(name),
    "apply_mask": lambda s, name: s.apply_mask(names=["emb", name]),
    "squash_mask": lambda s, name: s.squash_mask(names=["emb", name]),
    "data_groups": lambda s, name: s.data_groups[name],
    "data_groups write": lambda s, name: s.data_groups.update({name: {"sparsity_level": 0.1}}),
}


@pytest.mark.parametrize("ask", ASK_BY_NAME.values(), ids=ASK_BY_NAME.keys())
def test_unknown_name_is_reported_with_the_nearest_known_name(ask, observe):
    """Unknown names: an error that is both KeyError and ValueError, with the nearest known name."""
    sparsifier = stepped("emb", "classifier")
    before = observe(sparsifier)
    with pytest.raises(datasparse.UnknownNameError) as caught:
        ask(sparsifier, "clasifier")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)
    assert "clasifier" in str(caught.value)
    assert "classifier" in str(caught.value).replace("clasifier", "")
    assert observe(sparsifier) == before
    assert np.count_nonzero(sparsifier.get_data("emb")) == 32


@pytest.mark.device("cpu")
def test_unknown_name_without_any_group_is_reported():
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        datasparse.DataNormSparsifier().get_mask("emb")


@pytest.mark.parametrize("name", ["", 3, None, b"emb", ("emb",)], ids=name_of)
def test_what_is_no_name_is_refused(name):
    sparsifier = datasparse.DataNormSparsifier()
    with pytest.raises(ValueError if name == "" else TypeError, match="name"):
        sparsifier.add_data(name, placed(ramp()))
    assert len(sparsifier.data_groups) == 0


def test_a_message_goes_on_behind_a_nul_in_a_name():
    sparsifier = datasparse.DataNormSparsifier([("a\0b", placed(np.ones((2, 2))))])
    with pytest.raises(ValueError, match=r"sparsity_level of 'a\\0b' must be in \[0, 1\], got 2"):
        sparsifier.data_groups["a\0b"]["sparsity_level"] = 2
    with pytest.raises(TypeError, match=r"unknown config key '\\0'"):
        sparsifier.data_groups["a\0b"]["\0"] = 2


# What os.fsdecode() makes of a file's name that is no UTF-8.
HALF = "\udcff"


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.add_data(HALF, ramp()),
        lambda s: type(s)({HALF: ramp()}),
        lambda s: type(s)(**{HALF: 1}),
        lambda s: s.remove_data(HALF),
        lambda s: s.get_mask(HALF),
        lambda s: s.get_data(HALF),
        lambda s: s.apply_mask([HALF]),
        lambda s: s.squash_mask(HALF),
        lambda s: s.data_groups[HALF],
        lambda s: s.data_groups["w"][HALF],
        lambda s: s.data_groups["w"].update(pool=HALF),
        lambda s: s.defaults.update(norm=HALF),
        lambda s: s.state[HALF],
        lambda s: datasparse.DataScheduler(s, HALF, Linear(end=3)),
        lambda s: datasparse.DataScheduler(s, "sparsity_level", {HALF: Linear(end=3)}),
        lambda s: datasparse.distributions.erk({HALF: SHAPE}, 0.5),
    ],
)
def test_text_that_utf8_does_not_know_is_a_value_error(use, observe):
    sparsifier = stepped("w")
    before = observe(sparsifier)
    with pytest.raises(UnicodeEncodeError, match=r"'utf-8' codec can't encode character '\\udcff'"):
        use(sparsifier)
    assert observe(sparsifier) == before

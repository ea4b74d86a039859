"""One level for a whole model, as a level for each layer: uniform, ERK, and attach() by them."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial

import datasparse
import numpy as np
import pytest
import torch
from datasparse import BaseDataSparsifier, DataNormSparsifier, DataScheduler, UnknownNameError
from datasparse.distributions import erk, uniform
from datasparse.schedules import Linear, Polynomial
from datasparse.torch import attach
from support import ON_DEVICES, first_there, placed
from torch import nn

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}
LENET = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
CONVOLUTIONAL = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "fc1": (120, 256),
    "fc2": (84, 120),
    "fc3": (10, 84),
}


def zeros_of(levels, shapes):
    """What masks of single elements zero: Python's round() goes half to even, too."""
    return {name: round(level * math.prod(shapes[name])) for name, level in levels.items()}


# --- against a plain reference --------------------------------------------------------------------


def reference_zeros(shapes, level, power, dense):
    """The exact zeros of each layer, as fractions: a layer at a time becomes dense.

    With power 1, these are exact; else to 60 digits.
    """
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(elements.values()) - round(level * sum(elements.values()))
    densities = {}
    for name, shape in shapes.items():
        if elements[name]:
            ratio = Fraction(max(sum(shape), 1), elements[name])
            densities[name] = ratio if power == 1 else power_of(ratio, power)
    full = {name for name in densities if name in dense}
    while True:
        free = [name for name in densities if name not in full]
        left = kept - sum(elements[name] for name in full)
        weights = sum(densities[name] * elements[name] for name in free)
        factor = left / weights if free else 0
        greatest = max(free, key=lambda name: densities[name], default=None)
        if greatest is None or factor * densities[greatest] <= 1:
            break
        full.add(greatest)
    return {
        name: Fraction(0)
        if name in full or name not in densities
        else elements[name] - factor * densities[name] * elements[name]
        for name in shapes
    }


def power_of(ratio, power):
    with localcontext() as context:
        context.prec = 60
        return Fraction((Decimal(ratio.numerator) / Decimal(ratio.denominator)) ** Decimal(power))


def random_shape(random):
    lengths = [1, 1, 2, 3, 5, 7, 10, 16, 64, 100, 257, 1000]
    if random.random() < 0.03:
        lengths = [0]
    return tuple(int(n) for n in random.choice(lengths, size=random.integers(0, 5)))


@pytest.mark.device("cpu")
@pytest.mark.parametrize("power", [1, 0.5, 2, 0.3, "any"])
def test_erk_is_the_plain_formula_on_random_shapes(power):
    random = np.random.default_rng(7)
    exactly = rounds = 0
    cases = 1000 if power == 1 else 200
    for _ in range(cases):
        shapes = {f"layer{i}": random_shape(random) for i in range(random.integers(1, 12))}
        elements = {name: math.prod(shape) for name, shape in shapes.items()}
        dense = [name for name in shapes if random.random() < 0.1]
        free = sum(count for name, count in elements.items() if name not in dense)
        total = sum(elements.values())
        level = random.choice([0.5, 0.8, 0.9, 0.95, 0.99, random.random()])
        level *= free / total if total else 1
        chosen = random.uniform(0, 4) if power == "any" else power
        zeros = zeros_of(erk(shapes, level, chosen, dense), shapes)

        assert list(zeros) == list(shapes)
        assert sum(zeros.values()) == round(level * total)
        exact = reference_zeros(shapes, level, chosen, dense)
        for name in shapes:
            assert abs(zeros[name] - exact[name]) < 1, name
            assert 0 <= zeros[name] <= elements[name]
        # The largest remainders, ties in order.
        expected = {name: math.floor(exact[name]) for name in shapes}
        left = round(level * total) - sum(expected.values())
        for name in sorted(shapes, key=lambda name: expected[name] - exact[name])[:left]:
            expected[name] += 1
        exactly += zeros == expected
        rounds += any(exact[name] == 0 and elements[name] for name in shapes)
    assert exactly == cases
    assert rounds > 20  # in so many cases layers are dense


@pytest.mark.device("cpu")
def test_uniform_is_within_one_element_of_the_level():
    random = np.random.default_rng(8)
    for _ in range(200):
        shapes = {f"layer{i}": random_shape(random) for i in range(random.integers(1, 12))}
        elements = {name: math.prod(shape) for name, shape in shapes.items()}
        total, level = sum(elements.values()), random.random()
        zeros = zeros_of(uniform(shapes, level), shapes)
        assert sum(zeros.values()) == round(level * total)
        for name, count in elements.items():
            assert abs(zeros[name] - Fraction(round(level * total), max(total, 1)) * count) < 1
        assert uniform(shapes, level) == erk(shapes, level, power=0)


@pytest.mark.parametrize(
    ("shapes", "level", "zeros"),  # distribution_test.cpp has the arithmetic
    [
        (LENET, 0.8, [197041, 15919, 0]),
        (LENET, 0.9, [216486, 23094, 0]),
        (LENET, 0.95, [226149, 26660, 81]),
        (LENET, 0.98, [231579, 28664, 633]),
        (CONVOLUTIONAL, 0.8, [0, 1990, 25898, 7464, 0]),
        (CONVOLUTIONAL, 0.9, [46, 2204, 28422, 8833, 266]),
        (CONVOLUTIONAL, 0.95, [98, 2302, 29571, 9456, 553]),
        (CONVOLUTIONAL, 0.98, [129, 2361, 30260, 9831, 725]),
    ],
)
def test_erk_is_as_worked_out_by_hand(shapes, level, zeros):
    levels = erk(shapes, level)
    assert list(zeros_of(levels, shapes).values()) == zeros
    # Masks have these zeros.
    data = {name: np.random.default_rng(1).normal(size=shape) for name, shape in shapes.items()}
    sparsifier = DataNormSparsifier(**SINGLE)
    for name, values in data.items():
        sparsifier.add_data(name, placed(values), sparsity_level=levels[name])
    sparsifier.step()
    assert [int((~sparsifier.get_mask(name)).sum()) for name in shapes] == zeros


@pytest.mark.device("cpu")
@pytest.mark.parametrize("bits", [31, 32, 40, 50])
def test_large_layers_have_their_zeros_to_the_element(bits):
    shapes = {"a": (2**bits - 1,), "b": (3, 2 ** (bits - 2) + 1), "c": (2, 5)}
    for level in (0.1, 0.5, 1 / 3, 0.987654321):
        for levels in (uniform(shapes, level), erk(shapes, level)):
            total = sum(map(math.prod, shapes.values()))
            assert sum(zeros_of(levels, shapes).values()) == round(level * total)


# --- arguments ------------------------------------------------------------------------------------


def test_shapes_are_taken_from_whatever_has_one():
    arrays = {name: np.empty(shape, dtype=np.int8) for name, shape in LENET.items()}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in LENET.items()}
    lists = [(name, list(shape)) for name, shape in LENET.items()]
    sizes = {name: torch.Size(shape) for name, shape in LENET.items()}
    scalars = {name: tuple(map(np.int32, shape)) for name, shape in LENET.items()}
    model = nn.ModuleDict({name: nn.Linear(s[1], s[0], bias=False) for name, s in LENET.items()})
    expected = erk(LENET, 0.9)
    for shapes in (arrays, tensors, lists, sizes, scalars, iter(lists)):
        assert erk(shapes, 0.9) == expected
    by_parameter = erk(model.named_parameters(), np.float32(0.5), power=np.int64(1))
    assert list(by_parameter.values()) == list(erk(LENET, 0.5).values())
    assert list(by_parameter) == ["fc1.weight", "fc2.weight", "fc3.weight"]


@pytest.mark.device("cpu")
def test_levels_are_floats_in_the_order_of_shapes():
    levels = erk(dict(reversed(LENET.items())), 1)
    assert list(levels) == ["fc3", "fc2", "fc1"]
    assert all(type(level) is float for level in levels.values())
    assert uniform({}, 0.5) == erk([], 0.5) == {}
    assert erk({"scalar": (), "empty": (3, 0)}, 1) == {"scalar": 1.0, "empty": 0.0}


@pytest.mark.device("cpu")
def test_dense_takes_names_and_globs():
    # 35352 zeros of 43350 elements. The densest is fc3 again: 7998 / 629 x 94 = 1195 > 840.
    assert erk(CONVOLUTIONAL, 0.8, dense="fc3")["fc3"] == 0
    by_name = erk(CONVOLUTIONAL, 0.8, dense=["conv1", "conv2"])
    assert by_name == erk(CONVOLUTIONAL, 0.8, dense="conv*")
    assert by_name == erk(CONVOLUTIONAL, 0.8, dense={"conv?", "conv1"})
    assert by_name["conv1"] == by_name["conv2"] == 0
    assert sum(zeros_of(by_name, CONVOLUTIONAL).values()) == 35352


@pytest.mark.device("cpu")
def test_dense_that_leaves_too_little_names_the_possible_range():
    with pytest.raises(ValueError, match=r"^level must be in \[0\.0, 0\.1164.*\], since all but "):
        erk(LENET, 0.9, dense="fc1")
    limit = 31000 / 266200
    assert erk(LENET, limit, dense="fc1") == {"fc1": 0.0, "fc2": 1.0, "fc3": 1.0}
    with pytest.raises(ValueError, match=r"\[0\.0, 0\.0\], since all but 0 of the 266200"):
        erk(LENET, 0.5, dense="*")


@pytest.mark.device("cpu")
def test_an_unknown_dense_names_the_nearest():
    with pytest.raises(UnknownNameError, match="matched by 'conv3'; did you mean 'conv1'") as error:
        erk(CONVOLUTIONAL, 0.5, dense=["fc*", "conv3"])
    assert isinstance(error.value, KeyError)


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"level": 1.2}, ValueError, r"level must be in \[0, 1\], got 1.2"),
        ({"level": -0.1}, ValueError, r"level must be in \[0, 1\], got -0.1"),
        ({"level": math.nan}, ValueError, r"level must be in \[0, 1\], got nan"),
        ({"level": "0.5"}, TypeError, "level must be a number, got '0.5'"),
        ({"level": True}, TypeError, "level must be a number, got True"),
        ({"level": None}, TypeError, "level must be a number, got None"),
        ({"power": -1}, ValueError, "power must be a finite number of at least 0, got -1.0"),
        ({"power": math.nan}, ValueError, "power must be a finite .* got nan"),
        ({"power": math.inf}, ValueError, "power must be a finite .* got inf"),
        ({"power": "1"}, TypeError, "power must be a number, got '1'"),
        ({"dense": 3}, TypeError, r"dense must be a str or several, got 3 \(int\)"),
        ({"dense": [3]}, TypeError, r"dense must hold str, got 3 \(int\)"),
        ({"shapes": 3}, TypeError, r"shapes must be a mapping .* got 3 \(int\)"),
        ({"shapes": {"a": 3}}, TypeError, r"shapes must hold tuples .* got 3 \(int\) for 'a'"),
        ({"shapes": {"a": "ab"}}, TypeError, r"shapes must hold tuples .* got 'ab' \(str\)"),
        ({"shapes": {"a": (2.0,)}}, TypeError, r"shapes must hold tuples of integers"),
        ({"shapes": {"a": (True,)}}, TypeError, r"shapes must hold tuples of integers"),
        ({"shapes": {3: (3,)}}, TypeError, "shapes must hold .* with a str as name, got"),
        ({"shapes": ["ab"]}, TypeError, r"shapes must hold \(name, shape\) pairs .* got 'ab'"),
        ({"shapes": {"a": (3, -1)}}, ValueError, r"shape of 'a' must not be negative, got \(3, -1"),
        ({"shapes": {"a": (2**70,)}}, ValueError, "a length of 'a' must fit into 64 bits"),
        ({"shapes": {"a": (1,) * 33}}, ValueError, "at most 32 axes"),
        ({"shapes": [("a", (1,)), ("a", (2,))]}, ValueError, "every name once, got 'a' twice"),
        ({"shapes": {"a": (2**50, 2), "b": (1,)}}, ValueError, "at most 2.51 elements together"),
    ],
)
def test_wrong_arguments(arguments, kind, message):
    given = {"shapes": LENET, "level": 0.5, **arguments}
    with pytest.raises(kind, match=message):
        erk(**given)
    if not {"power", "dense"} & set(arguments):
        with pytest.raises(kind, match=message):
            uniform(**given)


@pytest.mark.device("cpu")
def test_a_shape_that_raises_is_not_hidden():
    with pytest.raises(RuntimeError, match="uninitialized"):
        erk(nn.LazyLinear(3).named_parameters(), 0.5)


@pytest.mark.device("cpu")
def test_the_module_is_there_without_an_import_of_its_own():
    assert datasparse.distributions.erk is erk
    assert "distributions" in datasparse.__all__
    assert erk.__module__ == uniform.__module__ == "datasparse.distributions"


# --- attach() -------------------------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        nn.Flatten(),
        nn.Linear(256, 120),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    )


def levels_in(sparsifier):
    return {name: group["sparsity_level"] for name, group in sparsifier.data_groups.items()}


def shapes_in(sparsifier):
    return {name: tuple(sparsifier.get_data(name).shape) for name in sparsifier.data_groups}


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_attach_gives_each_weight_its_level(model, mode):
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    attachment = attach(model, sparsifier, distribution="erk", mode=mode)
    levels = levels_in(sparsifier)
    assert levels == erk(shapes_in(sparsifier), 0.9)
    sparsifier.step()
    zeros = [int((~sparsifier.get_mask(name)).sum()) for name in attachment.names]
    assert zeros == [46, 2204, 28422, 8833, 266]
    attachment.apply()
    assert attachment.sparsity() == 39771 / 44190


def test_attach_distributes_the_level_that_it_is_given(model):
    sparsifier = DataNormSparsifier(sparsity_level=0.5, **SINGLE)
    attach(model, sparsifier, distribution="uniform", exclude="0.*", sparsity_level=0.8)
    assert levels_in(sparsifier) == uniform(shapes_in(sparsifier), 0.8)
    assert "0.weight" not in sparsifier.data_groups
    assert sparsifier.defaults["sparsity_level"] == 0.5


def test_attach_takes_a_function(model):
    sparsifier = DataNormSparsifier(sparsity_level=0.8, **SINGLE)
    attach(model, sparsifier, distribution=partial(erk, dense="0.*", power=0.5))
    assert levels_in(sparsifier)["0.weight"] == 0
    assert levels_in(sparsifier) == erk(shapes_in(sparsifier), 0.8, power=0.5, dense="0.*")

    seen = []

    def first_at_half(shapes, level):
        seen.append((shapes, level))
        return {"0.weight": level / 2}

    sparsifier = DataNormSparsifier(sparsity_level=0.8, **SINGLE)
    attach(model, sparsifier, include=["0.*", "2.*"], distribution=first_at_half)
    assert seen == [({"0.weight": (6, 1, 5, 5), "2.weight": (16, 6, 5, 5)}, 0.8)]
    assert levels_in(sparsifier) == {"0.weight": 0.4, "2.weight": 0.8}


def test_layers_with_a_level_of_their_own_stand_outside(model):
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    attach(model, sparsifier, include="6.weight", sparsity_level=0.25)
    attach(model, sparsifier, distribution="erk")
    levels, shapes = levels_in(sparsifier), shapes_in(sparsifier)
    assert levels.pop("6.weight") == 0.25
    del shapes["6.weight"]
    assert levels == erk(shapes, 0.9)


def test_a_sparsifier_that_was_loaded_keeps_its_levels(model):
    first = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    attach(model, first, distribution="erk")
    second = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    second.load_state_dict(first.state_dict())
    attach(model, second, distribution="uniform")
    assert levels_in(second) == levels_in(first)
    attach(model, second, distribution=partial(erk, dense="0.*"))
    assert levels_in(second) == levels_in(first)


@pytest.mark.parametrize("schedule", first_there([Polynomial(end=10), Linear(end=10)]))
@pytest.mark.parametrize("scheduler_comes_first", first_there([True, False]))
def test_a_schedule_goes_to_each_level(model, schedule, scheduler_comes_first):
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    if scheduler_comes_first:
        scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    attachment = attach(model, sparsifier, distribution="erk")
    if not scheduler_comes_first:
        scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    base = erk(shapes_in(sparsifier), 0.9)
    plan = scheduler.plan(11)
    totals = np.sum(list(plan.zeros_most.values()), axis=0)
    assert totals[0] == 0
    assert totals[10] == 39771
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attachment.follow(optimizer, scheduler=scheduler)
    for step in range(1, 11):
        model(torch.randn(2, 1, 12, 12)).square().mean().backward()
        optimizer.step()
        assert levels_in(sparsifier) == {
            name: schedule(step, level) for name, level in base.items()
        }
    assert levels_in(sparsifier) == base
    assert attachment.sparsity() == 39771 / 44190


def test_blocks_have_the_same_levels(model):
    single, blocks = (
        DataNormSparsifier(sparsity_level=0.9, sparse_block_shape=shape)
        for shape in [(1, 1), (1, 4)]
    )
    for sparsifier in (single, blocks):
        attach(model, sparsifier, distribution="erk")
    assert levels_in(blocks) == levels_in(single)


def test_a_weight_that_is_computed_counts_by_its_own_shape():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(40, 30)),
        nn.utils.parametrizations.orthogonal(nn.Linear(20, 20)),
    )
    sparsifier = DataNormSparsifier(sparsity_level=0.6, **SINGLE)
    attach(model, sparsifier, distribution="erk", mode="parametrize")
    assert levels_in(sparsifier) == erk({"0.weight": (30, 40), "1.weight": (20, 20)}, 0.6)


def no_mapping(shapes, level):
    return [level]


def unknown_name(shapes, level):
    return {"7.weight": level}


def out_of_range(shapes, level):
    return {"2.weight": 0.5, "4.weight": 1.5}


def fails(shapes, level):
    raise ArithmeticError("no level")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"distribution": "erx"}, ValueError, 'distribution must be "erk", "uniform" or a func'),
        ({"distribution": 3}, TypeError, r'distribution must be "erk", .* got 3 \(int\)'),
        ({"distribution": no_mapping}, TypeError, "must return a mapping of names to levels"),
        ({"distribution": unknown_name}, UnknownNameError, "of '7.weight'; known: '0.weight'"),
        ({"distribution": out_of_range}, ValueError, "sparsity_level of '4.weight' must be in"),
        ({"distribution": fails}, ArithmeticError, "no level"),
        ({"distribution": "erk", "sparsity_level": 1.5}, ValueError, "level must be in"),
        ({"distribution": partial(erk, dense="[24]*")}, ValueError, r"must be in \[0.0, 0.25"),
    ],
)
def test_what_attach_refuses_leaves_all_as_it_was(model, options, kind, message):
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    with pytest.raises(kind, match=message):
        attach(model, sparsifier, **options)
    assert len(sparsifier.data_groups) == 0
    attach(model, sparsifier, distribution="erk")


def test_a_sparsifier_without_a_level_has_nothing_to_distribute(model):
    class Own(BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            pass

    with pytest.raises(ValueError, match="distribution needs a sparsity_level"):
        attach(model, Own(share=0.5), distribution="erk")
    sparsifier = Own(sparsity_level=0.9)
    attach(model, sparsifier, distribution="erk")
    assert levels_in(sparsifier) == erk(shapes_in(sparsifier), 0.9)

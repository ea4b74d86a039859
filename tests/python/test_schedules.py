"""Schedules: their values, their manners as values, and the expressions they are parsed from."""

import contextlib
import copy
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
from datasparse import DataNormSparsifier, DataScheduler, schedules
from datasparse.schedules import (
    Clamp,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Lambda,
    Linear,
    MultiStep,
    OneShot,
    Piecewise,
    Polynomial,
    Product,
    Round,
    Schedule,
    Sequential,
    Step,
    parse,
)
from fuzz_schedules import fuzz
from hypothesis import given
from hypothesis import strategies as st
from support import name_of

# --- values ---------------------------------------------------------------------------------------

RAMP = {"initial": 0.25, "final": 0.75, "begin": 10, "end": 30, "every": 5}

# Worked out by hand, with a base value of 0.5. The C++ tests hold more.
TABLE = [
    (Constant(), {0: 0.5, 9: 0.5}),
    (Constant(0.25), {0: 0.25, 9: 0.25}),
    (Step(10, 0.5), {0: 0.5, 9: 0.5, 10: 0.25, 19: 0.25, 20: 0.125}),
    (MultiStep([2, 5], 0.5), {1: 0.5, 2: 0.25, 4: 0.25, 5: 0.125, 6: 0.125}),
    (Exponential(0.5, every=2), {0: 0.5, 1: 0.5, 2: 0.125, 3: 0.125, 4: 0.03125}),
    (Linear(**RAMP), {9: 0.25, 10: 0.25, 14: 0.25, 15: 0.375, 19: 0.375, 20: 0.5, 25: 0.625,
                      29: 0.625, 30: 0.75, 31: 0.75}),
    # 0.75 + (0.25 - 0.75) (1 - t)^3, equation (1) of Zhu and Gupta
    (Polynomial(**RAMP), {9: 0.25, 10: 0.25, 14: 0.25, 15: 0.5390625, 19: 0.5390625, 20: 0.6875,
                          25: 0.7421875, 29: 0.7421875, 30: 0.75, 31: 0.75}),
    (Polynomial(**RAMP, power=2), {10: 0.25, 15: 0.46875, 20: 0.625, 25: 0.71875, 30: 0.75}),
    (Cosine(**RAMP), {9: 0.25, 10: 0.25, 14: 0.25, 20: 0.5, 24: 0.5, 30: 0.75, 31: 0.75}),
    (Linear(end=4), {0: 0.0, 1: 0.125, 3: 0.375, 4: 0.5, 5: 0.5}),
    (Cyclic(0.0, 0.75, 6), {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 0.5, 5: 0.25, 6: 0.0, 9: 0.75}),
    (OneShot(5), {0: 0.0, 4: 0.0, 5: 0.5, 6: 0.5}),
    (Piecewise({2: 0.25, 5: None, 6: 0.75}), {0: 0.5, 1: 0.5, 2: 0.25, 4: 0.25, 5: 0.5, 6: 0.75}),
    (Lambda(lambda step: step / 2), {0: 0.0, 1: 0.25, 3: 0.75}),
    (Sequential([Constant(0.25), Linear(end=2), Step(1, 0.5)], [3, 6]),
     {2: 0.25, 3: 0.0, 4: 0.25, 5: 0.5, 6: 0.5, 7: 0.25}),
    (Product([Linear(end=2), Step(2, 0.5)]), {0: 0.0, 1: 0.25, 2: 0.25, 4: 0.125}),
    (Clamp(Exponential(2.0), 0.0, 0.75), {0: 0.5, 1: 0.75, 9: 0.75}),
    (Round(Linear(final=4.0, end=8)), {0: 0, 1: 0, 2: 1, 3: 2, 5: 2, 7: 4, 8: 4}),
]  # fmt: skip
KINDS = [schedule for schedule, _ in TABLE]


@pytest.mark.parametrize(("schedule", "values"), TABLE, ids=map(name_of, KINDS))
def test_values_worked_out_by_hand(schedule, values):
    assert {step: schedule(step, 0.5) for step in values} == values


def test_the_table_holds_every_kind():
    kinds = {getattr(schedules, name) for name in schedules.__all__} - {Schedule, parse}
    assert {type(schedule) for schedule in KINDS} == kinds


def test_cosine_quarter_of_the_way():
    assert Cosine(**RAMP)(15, 0.5) == pytest.approx(
        0.25 + 0.5 * (1 - math.sqrt(0.5)) / 2, abs=1e-16
    )


steps = st.integers(0, 2**63 - 1)
numbers = st.floats(-1e6, 1e6)
levels = st.none() | numbers


@st.composite
def ramps(draw):
    begin = draw(st.integers(0, 1000))
    return {
        "initial": draw(levels),
        "final": draw(levels),
        "begin": begin,
        "end": begin + draw(st.integers(0, 1000)),
        "every": draw(st.integers(1, 2000)),
    }


milestones = st.sets(st.integers(1, 10**6), min_size=1, max_size=5).map(sorted)
gammas = st.floats(0, 2)
pairs = st.tuples(numbers, numbers).map(sorted)
leaves = st.one_of(
    st.builds(Constant, levels),
    st.builds(Step, st.integers(1, 10**6), gammas),
    st.builds(MultiStep, milestones, gammas),
    st.builds(Exponential, gammas, st.integers(1, 10**6)),
    ramps().map(lambda ramp: Linear(**ramp)),
    st.builds(lambda ramp, power: Polynomial(**ramp, power=power), ramps(), st.floats(0.1, 9)),
    ramps().map(lambda ramp: Cosine(**ramp)),
    st.builds(lambda pair, period: Cyclic(*pair, period), pairs, st.integers(2, 10**6)),
    st.builds(OneShot, st.integers(0, 10**6), levels, levels),
    st.dictionaries(st.integers(0, 10**6), levels, min_size=1, max_size=5).map(
        lambda values: Piecewise(dict(sorted(values.items())))
    ),
)


def composed(parts):
    return st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(
            lambda items: Sequential(items, [7 * k for k in range(1, len(items))])
        ),
        st.lists(parts, min_size=1, max_size=3).map(Product),
        st.builds(lambda part, pair: Clamp(part, *pair), parts, pairs),
        parts.map(Round),
    )


any_schedule = st.recursive(leaves, composed, max_leaves=6)


@given(ramp=ramps(), base=numbers, offset=st.integers(-3, 2000))
def test_ramps_stay_within_their_bounds_and_are_held(ramp, base, offset):
    step = max(0, ramp["begin"] + offset)
    initial = base if ramp["initial"] is None else ramp["initial"]
    final = base if ramp["final"] is None else ramp["final"]
    for kind in (Linear, Polynomial, Cosine):
        schedule = kind(**ramp)
        value = schedule(step, base)
        assert min(initial, final) <= value <= max(initial, final)
        if step >= ramp["end"]:
            assert value == final
        elif step <= ramp["begin"]:
            assert value == initial
        else:
            assert value == schedule(step - (step - ramp["begin"]) % ramp["every"], base)


@given(ramp=ramps(), step=st.integers(0, 3000))
def test_polynomial_is_the_formula_of_its_paper(ramp, step):
    initial, final = 0.125, 0.875
    ramp.update(initial=initial, final=final)
    begin, end, every = ramp["begin"], ramp["end"], ramp["every"]
    time = min(max(step - begin, 0) // every * every, end - begin) if step < end else end - begin
    left = 1 - time / (end - begin) if end > begin else float(step < begin)
    expected = final + (initial - final) * left**3
    assert Polynomial(**ramp)(step, 0.5) == pytest.approx(expected, abs=1e-15)


@given(schedule=any_schedule, base=numbers, later=st.integers(0, 10**6))
def test_nothing_changes_after_the_end(schedule, base, later):
    if schedule.end is not None:
        assert schedule(schedule.end + later, base) == schedule(schedule.end, base)


def numbers_in(schedule):
    """Every level and every factor that a schedule is made of."""
    if isinstance(schedule, Round):
        return []
    if isinstance(schedule, Lambda):
        return [math.pi]  # for want of anything better: any number at all
    own = [
        getattr(schedule, name)
        for name in ("gamma", "initial", "final", "low", "high", "before", "value")
        if hasattr(schedule, name)
    ]
    if isinstance(schedule, Piecewise):
        own += schedule.values.values()
    parts = [*getattr(schedule, "schedules", ())]
    if isinstance(schedule, Clamp):
        parts.append(schedule.schedule)
    return own + [number for part in parts for number in numbers_in(part)]


whole = st.integers(-5, 5).map(float)


@st.composite
def whole_ramps(draw):
    return {**draw(ramps()), "initial": draw(st.none() | whole), "final": draw(st.none() | whole)}


some_whole = st.recursive(
    leaves
    | st.builds(Constant, whole)
    | st.builds(Step, st.integers(1, 99), st.sampled_from([0.0, 1.0, 2.0]))
    | whole_ramps().map(lambda ramp: Cosine(**ramp))
    | st.builds(OneShot, st.integers(0, 9), whole, whole),
    composed,
    max_leaves=3,
)


@given(schedule=some_whole, step=st.integers(0, 50), base=st.integers(-1000, 1000))
def test_only_a_schedule_of_integers_rounds_an_integer(schedule, step, base):
    exact = schedule(step, float(base))
    if abs(exact) <= 2**53:
        value = schedule(step, base)
        if all(number is None or number == int(number) for number in numbers_in(schedule)):
            assert type(value) is int
            assert value == round(exact)
        else:
            assert type(value) is float
            assert value == exact


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Linear(initial=1.0, final=0.2, end=4), [1.0, 0.8, 0.6, 0.4, 0.2]),
        (Polynomial(initial=1.0, final=0.5, end=2, power=1), [1.0, 0.75, 0.5, 0.5, 0.5]),
        (Exponential(0.5), [1.0, 0.5, 0.25, 0.125, 0.0625]),
        (Cyclic(0.0, 0.5, 4), [0.0, 0.25, 0.5, 0.25, 0.0]),
        (Piecewise({1: 0.5, 2: None}), [1.0, 0.5, 1.0, 1.0, 1.0]),
        (
            Sequential([Constant(), Linear(initial=None, final=0.5, end=2)], [1]),
            [1, 1, 0.75, 0.5, 0.5],
        ),
        (Clamp(Linear(end=4), 0.25, 0.75), [0.25, 0.25, 0.5, 0.75, 0.75]),
        (Product([Linear(end=2), Constant(0.5)]), [0.0, 0.25, 0.5, 0.5, 0.5]),
        (Lambda(lambda step: step / 4), [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
    ids=name_of,
)
def test_an_int_for_a_base_loses_no_fraction(schedule, expected):
    values = [schedule(step, 1) for step in range(5)]
    assert values == pytest.approx(expected)
    assert {type(value) for value in values} == {float}
    assert {type(Round(schedule)(step, 1)) for step in range(5)} == {int}


@pytest.mark.parametrize("kind", [Linear, Polynomial, Cosine])
def test_a_ramp_may_jump(kind):
    jump = kind(initial=0.25, final=0.75, begin=3, end=3)
    assert [jump(step, 0.5) for step in range(6)] == [0.25, 0.25, 0.25, 0.75, 0.75, 0.75]
    assert jump.end == 3
    assert parse(repr(jump)) == jump
    assert kind(final=0.75, end=0)(0, 0.5) == 0.75


def test_powers_of_zero_end():
    assert (Step(5, 0.0).end, Exponential(0.0).end, Exponential(0.0, every=4).end) == (5, 1, 4)


def test_zeros_per_block_rise_one_by_one():
    assert [Linear(end=8)(step, 4) for step in range(10)] == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]


def test_numpy_numbers_are_numbers():
    assert Linear(final=np.float32(0.5), end=np.int64(2))(np.int32(1), np.float64(0.9)) == 0.25
    assert type(Constant()(0, np.int64(4))) is int


@pytest.mark.parametrize("base", [None, True, "0.5", (1, 4), [0.5], np.ones(2)])
def test_a_base_that_is_no_number(base):
    with pytest.raises(TypeError, match="base must be"):
        Constant(0.5)(0, base)


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (0.5, ValueError), ("1", TypeError), (2**63, ValueError)]
)
def test_what_is_no_step(step, error):
    with pytest.raises(error, match="step must"):
        Constant(0.5)(step, 0.5)


# --- functions ------------------------------------------------------------------------------------


def quarter(step):
    return 0.25


@pytest.mark.parametrize("returned", [None, "1", True, [1.0], 1j])
def test_a_function_must_return_a_number(returned):
    with pytest.raises(TypeError, match=r"fn\(3\) must be"):
        Lambda(lambda step: returned)(3, 0.5)


def test_what_a_function_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        Lambda(lambda step: 1 / 0)(3, 0.5)


def test_functions_are_compared_by_identity():
    def other(step):
        return 0.25

    assert Lambda(quarter) == Lambda(quarter)
    assert hash(Lambda(quarter)) == hash(Lambda(quarter))
    assert Lambda(quarter) != Lambda(other)
    assert Lambda(quarter).fn is quarter
    assert repr(quarter) in repr(Lambda(quarter))


def test_a_cycle_through_a_function_is_collected():
    class Owner:
        def scale(self, step):
            return 1.0

    owner = Owner()
    owner.schedule = Clamp(Sequential([Constant(), Lambda(owner.scale)], [1]), 0.0, 1.0)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_a_function_lives_as_long_as_its_schedule():
    schedule = Round(Lambda(lambda step: 0.75))
    gc.collect()
    assert schedule(0, 1.0) == 1.0


# --- values among values --------------------------------------------------------------------------


@given(schedule=any_schedule)
def test_repr_pickle_and_copies_give_equals(schedule):
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    for same in (
        eval(repr(schedule), names),
        parse(repr(schedule)),
        pickle.loads(pickle.dumps(schedule)),
        copy.copy(schedule),
        copy.deepcopy(schedule),
    ):
        assert type(same) is type(schedule)
        assert same == schedule
        assert hash(same) == hash(schedule)
        assert repr(same) == repr(schedule)


@given(one=any_schedule, other=any_schedule)
def test_equality_is_that_of_the_repr(one, other):
    assert (one == other) == (repr(one) == repr(other).replace("-0.0", "0.0")) or "-0.0" in repr(
        one
    )


def test_a_lambda_of_an_importable_function_is_pickled():
    schedule = Product([Lambda(quarter), Constant(2.0)])
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize("schedule", KINDS, ids=name_of)
def test_all_are_schedules_and_work_as_keys(schedule):
    assert isinstance(schedule, Schedule)
    assert {schedule: 1}[copy.copy(schedule)] == 1
    assert schedule != repr(schedule)


@pytest.mark.parametrize("schedule", KINDS, ids=name_of)
def test_none_can_be_changed(schedule):
    before = repr(schedule)
    for name in [*dir(schedule), "another"]:
        if not name.startswith("__"):
            with pytest.raises(AttributeError):
                setattr(schedule, name, 1)
    with contextlib.suppress(TypeError):
        schedule.__init__(0.75)
    assert repr(schedule) == before


def test_arguments_can_be_read():
    ramp = Polynomial(final=0.75, begin=1, end=5, every=2, power=2)
    assert (ramp.initial, ramp.final, ramp.begin, ramp.end) == (0.0, 0.75, 1, 5)
    assert (ramp.every, ramp.power) == (2, 2.0)
    sequence = Sequential([Constant(), ramp], [4])
    assert sequence.schedules == (Constant(), ramp)
    assert sequence.milestones == (4,)
    assert Piecewise({1: 0.5, 3: None}).values == {1: 0.5, 3: None}
    assert Clamp(ramp, 0.0, None).schedule == ramp


@pytest.mark.parametrize("kind", [type(schedule) for schedule in KINDS])
def test_one_made_without_init_raises(kind):
    unmade = kind.__new__(kind)
    for use in (repr, hash, copy.copy, pickle.dumps, lambda s: s(0, 0.5), lambda s: s.end):
        with pytest.raises(TypeError):
            use(unmade)
    with pytest.raises(TypeError):
        Round(unmade)


def test_schedule_itself_cannot_be_made():
    with pytest.raises(TypeError):
        Schedule()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Step(0, 0.5), ValueError, "step_size must be at least 1, got 0"),
        (lambda: Step(1.5, 0.5), ValueError, "step_size must be an integer, got 1.5"),
        (lambda: Step("a", 0.5), TypeError, "step_size must be an integer, got 'a' (str)"),
        (lambda: Step(True, 0.5), TypeError, "step_size must be an integer, got True (bool)"),
        (lambda: Step(1, None), TypeError, "gamma must be a number, got None (None)"),
        (lambda: Step(1, -1), ValueError, "gamma must be finite and at least 0, got -1.0"),
        (lambda: MultiStep(3, 0.5), TypeError, "milestones must be a list, got 3 (int)"),
        (lambda: MultiStep([1, "b"], 0.5), TypeError,
         "milestones[1] must be an integer, got 'b' (str)"),
        (lambda: MultiStep([2, 1], 0.5), ValueError,
         "milestones must increase, from 0 or above, got (2, 1)"),
        (lambda: Linear(begin=2, end=1), ValueError, "end must be at least begin, 2, got 1"),
        (lambda: Cosine(end=-1), ValueError, "end must be at least begin, 0, got -1"),
        (lambda: Linear(final=[0.9], end=5), TypeError, "final must be"),
        (lambda: Linear(final=math.nan, end=5), ValueError, "final must be finite, got nan"),
        (lambda: Linear(end=5, every=0), ValueError, "every must be at least 1, got 0"),
        (lambda: Polynomial(end=5, power=0), ValueError,
         "power must be finite and above 0, got 0.0"),
        (lambda: Cyclic(0.5, 0.25, 4), ValueError, "low must be at most high, got 0.5 and 0.25"),
        (lambda: Piecewise([(0, 0.5)]), TypeError, "values must be a dict of values by step, got"),
        (lambda: Piecewise({0: "a"}), TypeError, "values[0] must be a number, got 'a' (str)"),
        (lambda: Piecewise({"a": 0}), TypeError,
         "a step of values must be an integer, got 'a' (str)"),
        (lambda: Lambda(3), TypeError, "fn must be callable, got 3 (int)"),
        (lambda: Round(0.5), TypeError, "schedule must be a schedule, got 0.5 (float)"),
        (lambda: Product([Constant(), 2]), TypeError,
         "schedules[1] must be a schedule, got 2 (int)"),
        (lambda: Sequential([Constant()], [1]), ValueError,
         "milestones must be one fewer than schedules, got 1 for 1"),
        (lambda: Constant(10**20), ValueError, "value must fit into 64 bits"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_depth_and_size_are_bounded():
    deep = wide = Constant(0.5)
    for _ in range(99):
        deep = Round(deep)
    assert pickle.loads(pickle.dumps(deep)) == deep
    with pytest.raises(ValueError, match="nested at most 100 deep"):
        Round(deep)
    for _ in range(12):
        wide = Product([wide, wide])
    with pytest.raises(ValueError, match="at most 10000 schedules"):
        Product([wide, wide])


# --- expressions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [s for s in KINDS if not isinstance(s, Lambda)], ids=name_of)
def test_a_repr_is_parsed(schedule):
    assert parse(f"  {schedule!r}\n") == schedule


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "must be a schedule"),
        ("0.5", "must be a schedule, got '0.5'"),
        ("[Constant()]", "must be a schedule"),
        ("Constant(", "was never closed"),
        ("Constant() Constant()", "invalid syntax"),
        ("Konstant()", "must name a schedule, got 'Konstant'; known: Clamp, Constant,"),
        ("Lambda(print)", "must name a schedule, got 'Lambda'"),
        ("Constant(print)", "must not hold 'print'"),
        ("Constant(print(1))", "must name a schedule, got 'print'"),
        ("Constant()()", r"must name a schedule, got 'Constant\(\)'"),
        ("__import__('os')", 'must not hold "\'"'),
        ("Constant().__class__", r"must not hold '.'"),
        ("Constant(2**9)", r"must not hold '\*'"),
        ("Constant(1 + 1)", r"must not hold '\+'"),
        ("Constant(-Constant())", "must not hold '-'"),
        ("Constant(not None)", "must not hold 'not'"),
        ("Constant(True)", "must not hold 'True'"),
        ("Constant(1 if 1 else 2)", "must not hold 'if'"),
        ("Constant(1j)", "must not hold '1'"),
        ("Constant(0x10)", "must not hold '0'"),
        ("Constant(1_0)", "must not hold '1'"),
        ("Constant(1.5.5)", "must not hold '1'"),
        ("Constant(value=a)", "must not hold 'a'"),
        ("Constant({1, 2})", r"must not hold '\{1, 2\}'"),
        ("Piecewise({[1]: 0.2})", r"must hold numbers as keys, got '\{\[1\]: 0.2\}'"),
        ("Piecewise({Constant(): 0.2})", "must hold numbers as keys"),
        ("Constant([1][0])", r"must not hold '\[1\]\[0\]'"),
        (
            "Linear(final=0.9)",
            r"must be written Linear\(\*, initial=0.0, final=None, begin=0, end,",
        ),
        ("Step(1, 2, 3)", r"Step\(1, 2, 3\) must be written Step\(step_size, gamma\)"),
        ("Linear(begin=1, end=0)", "end must be at least begin"),
        ("Constant(1e999)", "value must be finite"),
        ("Constant(" + "9" * 9000 + ")", "Exceeds the limit|must fit into 64 bits"),
        ("Round(" * 101, "at most 100 brackets"),
        ("Constant(" + " " * 10_000 + ")", "at most 10000 characters, got"),
        ("Constant(\u0661)", "must not hold"),
        ("C\u043enstant()", "must not hold"),
        ("Constant()\0", "must not hold"),
    ],
)
def test_other_expressions_are_refused(expression, message):
    with pytest.raises(ValueError, match=message):
        parse(expression)


def test_an_expression_is_a_str():
    with pytest.raises(TypeError, match="expression must be a str"):
        parse(b"Constant()")


@given(
    expression=st.text(max_size=200) | st.text("()[]{}-0123456789.,:= ConstaLinerRud", max_size=60)
)
def test_no_expression_does_anything_but_parse_or_raise(expression):
    with contextlib.suppress(TypeError, ValueError):
        assert isinstance(parse(expression), Schedule)


@pytest.mark.not_quick
def test_mutated_expressions_for_a_moment():
    tried, parsed = fuzz(2, seed=1)
    assert tried > parsed > 0


@pytest.mark.parametrize("kind", [Exponential(2.0), Step(1, 10.0), MultiStep([1, 2], 1e200)])
def test_what_starts_at_0_stays_there(kind):
    """A power may be infinite by then, and 0 times that is no number."""
    for schedule in (kind, Clamp(kind, 0.0, 0.95), Product([Constant(0.0), kind])):
        assert schedule(5000, 0.0) == 0.0


def test_a_clamp_of_no_number_is_none():
    assert math.isnan(Clamp(Lambda(lambda step: math.nan), 0.0, 0.9)(3, 0.5))


@pytest.mark.parametrize(
    ("text", "key"),
    [("Constant(value=.5, value=.6)", "'value'"), ("Piecewise({1: .2, 2: .3, 1: .6})", "1")],
)
def test_an_expression_holds_each_key_once(text, key):
    with pytest.raises(ValueError, match=rf"must hold each key once, got {key} twice|repeated"):
        parse(text)


def test_a_subclass_of_a_schedule_is_refused():
    """Its methods would be called by nobody."""

    class Own(Linear):
        def __call__(self, step, base):
            return 0.123

    sparsifier = DataNormSparsifier({"w": np.ones(4)})
    with pytest.raises(TypeError, match="got Own, a subclass of Linear, whose methods"):
        DataScheduler(sparsifier, "sparsity_level", Own(end=4))
    with pytest.raises(TypeError, match="got Own, a subclass of Linear"):
        Sequential([Own(end=4), Constant()], [3])

"""The C functions through ctypes: every one with NULL, as the header declares it, and masks."""

import ctypes
import re
from pathlib import Path

import datasparse
import numpy as np
import pytest
import reference

HEADER = Path(datasparse.get_include()) / "datasparse" / "datasparse.h"

OK, VALUE_ERROR = 0, 2

# May be NULL, as the header says.
OPTIONAL = {
    ("datasparse_set_message_handler", "handler"),
    ("datasparse_set_message_handler", "user_data"),
    ("datasparse_data_norm_sparsifier_create", "own"),
    ("datasparse_data_norm_sparsifier_create", "overrides"),
    ("datasparse_sparsifier_create", "defaults"),
    ("datasparse_sparsifier_add_data", "config"),
    ("datasparse_sparsifier_add_data_with_mask", "config"),
    ("datasparse_sparsifier_add_data_with_mask", "mask"),
    ("datasparse_sparsifier_add_source", "config"),
}


class Array(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("dtype", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("read_only", ctypes.c_int32), ("data", ctypes.c_void_p), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    )  # fmt: skip


class BlockSpec(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("norm", ctypes.c_int32),
        ("sparsity_level", ctypes.c_double), ("block_height", ctypes.c_int64),
        ("block_width", ctypes.c_int64), ("zeros_per_block", ctypes.c_int64),
    )  # fmt: skip


class OwnState(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("user_data", "release", "save", "prepare_load", "commit_load")
    )


UPDATE_MASK = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(Array),
    ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8),
)  # fmt: skip
GET_SCHEDULE_PARAM = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
    ctypes.c_void_p,
)  # fmt: skip
PIN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(Array))


class SparsifierOverrides(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("own", OwnState), ("update_mask", UPDATE_MASK),
        ("check_config", ctypes.c_void_p),
    )  # fmt: skip


class SchedulerOverrides(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("own", OwnState),
        ("get_schedule_param", GET_SCHEDULE_PARAM),
    )  # fmt: skip


class Source(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("user_data", ctypes.c_void_p),
        ("release", ctypes.c_void_p), ("pin", PIN), ("unpin", ctypes.c_void_p),
        ("mark_written", ctypes.c_void_p),
    )  # fmt: skip


class Group(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("status", ctypes.c_int32), ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("name", ctypes.c_char_p), ("shape", ctypes.c_void_p),
        ("elements", ctypes.c_int64), ("zeros", ctypes.c_int64),
    )  # fmt: skip


class Rule(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32), ("mode", ctypes.c_int32), ("tolerance", ctypes.c_double),
        ("patience", ctypes.c_int64), ("back_off", ctypes.c_int64), ("steps", ctypes.c_int64),
    )  # fmt: skip


def declarations():
    """Every function of the header: its name, what it returns, and its (type, name) parameters."""
    text = re.sub(r"///?.*", "", HEADER.read_text())
    found = {}
    for returns, name, parameters in re.findall(
        r"\nDATASPARSE_API\s+([\w *]+?)\s*(datasparse_\w+)\((.*?)\);", text, re.DOTALL
    ):
        # The one parameter that is a function of more than one parameter.
        plain = re.sub(r"\bvoid \(\*(\w+)\)\([^)]*\)", r"handler_type* \1", parameters)
        pairs = []
        for parameter in plain.split(","):
            if parameter.strip() != "void":
                kind, last = re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", parameter, re.DOTALL).groups()
                pairs.append((kind, last))
        found[name] = returns, pairs
    return found


DECLARED = declarations()
CAN_FAIL = {
    name: parameters
    for name, (returns, parameters) in DECLARED.items()
    if returns == "datasparse_status"
}


@pytest.fixture(scope="module")
def library():
    return ctypes.CDLL(datasparse.get_library())


def message(library):
    library.datasparse_error_message.restype = ctypes.c_char_p
    return library.datasparse_error_message().decode()


def call(library, name, *arguments):
    """Calls a function that must succeed."""
    function = getattr(library, name)
    assert function(*arguments) == OK, message(library)


def make(library, name, *arguments):
    """The handle that a function puts behind its last parameter."""
    handle = ctypes.c_void_p()
    call(library, name, *arguments, ctypes.byref(handle))
    return handle


def spec(level=0.5):
    return BlockSpec(1, 0, level, 1, 1, -1)


class Good:
    """A valid argument for every parameter of every function."""

    def __init__(self, library, path):
        self.values = np.arange(12, dtype=np.float32).reshape(3, 4)
        self.shape = (ctypes.c_int64 * 2)(3, 4)
        shape = ctypes.addressof(self.shape)
        self.array = Array(1, 2, 2, 0, self.values.ctypes.data, shape, None)
        self.mask_bytes = (ctypes.c_uint8 * 12)(*[1] * 12)
        self.sparsifier = make(
            library, "datasparse_data_norm_sparsifier_create", ctypes.byref(spec()), None, None
        )
        call(library, "datasparse_sparsifier_add_data", self.sparsifier, b"w",
             ctypes.byref(self.array), None)  # fmt: skip
        self.schedule = make(library, "datasparse_schedule_constant", ctypes.c_double(0.25))
        self.scheduler = make(
            library, "datasparse_data_scheduler_create", self.sparsifier, b"sparsity_level",
            self.schedule, ctypes.c_int64(-1),
        )  # fmt: skip
        self.config = make(library, "datasparse_sparsifier_config", self.sparsifier, b"w")
        self.levels = make(library, "datasparse_params_create")
        call(library, "datasparse_params_set_float", self.levels, b"w", ctypes.c_double(0.5))
        self.kinds = make(library, "datasparse_params_create")
        call(library, "datasparse_params_set_bool", self.kinds, b"bool", ctypes.c_int32(1))
        call(library, "datasparse_params_set_int", self.kinds, b"int", ctypes.c_int64(1))
        call(library, "datasparse_params_set_float", self.kinds, b"float", ctypes.c_double(1))
        call(library, "datasparse_params_set_string", self.kinds, b"string", b"text")
        call(library, "datasparse_params_set_ints", self.kinds, b"ints", None, ctypes.c_size_t(0))
        call(library, "datasparse_params_set_floats", self.kinds, b"floats", None,
             ctypes.c_size_t(0))  # fmt: skip
        self.mask = make(library, "datasparse_sparsifier_mask", self.sparsifier, b"w")
        self.names = make(library, "datasparse_sparsifier_names", self.sparsifier)
        self.report = make(library, "datasparse_sparsifier_report", self.sparsifier)
        self.list = (ctypes.c_int64 * 2)(1, 2)
        self.floats = (ctypes.c_double * 2)(0.1, 0.2)
        self.schedules = (ctypes.c_void_p * 2)(self.schedule, self.schedule)
        self.strings = (ctypes.c_char_p * 2)(b"w", b"w")
        self.group = Group(version=1)
        self.rule = Rule(1, 0, 0.0, 0, 1, 5)
        self.source = Source(1, None, None, PIN(lambda *_: 0), None, None)
        self.updates = SparsifierOverrides(1, OwnState(), UPDATE_MASK(lambda *_: 0), None)
        self.scheduling = SchedulerOverrides(1, OwnState(), GET_SCHEDULE_PARAM(lambda *_: 0))
        self.out = (ctypes.c_void_p * 4)()
        self.path = str(path).encode()

    def argument(self, function, kind, name):
        one_kind = re.match("datasparse_params_get_(.*)", function)
        if one_kind and name in ("params", "key"):
            return self.kinds if name == "params" else one_kind[1].encode()
        if kind.endswith("**"):  # `const*` in between makes it an input
            return self.out
        if kind.endswith("*") and name in ("value", "size", "count"):
            return self.out
        match kind.replace("const ", "").replace(" const", ""):
            case "datasparse_sparsifier*":
                return self.sparsifier
            case "datasparse_scheduler*":
                return self.scheduler
            case "datasparse_schedule*":
                return self.schedule
            case "datasparse_params*":
                return self.levels if name == "values" else self.config
            case "datasparse_mask*":
                return self.mask
            case "datasparse_names*":
                return self.names
            case "datasparse_report*":
                return self.report
            case "datasparse_array*":
                return ctypes.byref(self.array)
            case "datasparse_block_spec*":
                return ctypes.byref(spec())
            case "datasparse_group*":
                return ctypes.byref(self.group)
            case "datasparse_adaptive_rule*":
                return ctypes.byref(self.rule)
            case "datasparse_source*":
                return ctypes.byref(self.source)
            case "datasparse_sparsifier_overrides*":
                return ctypes.byref(self.updates)
            case "datasparse_scheduler_overrides*":
                return ctypes.byref(self.scheduling)
            case "datasparse_schedule**" | "datasparse_scheduler**":
                return self.schedules
            case "char**":
                return self.strings
            case "char*":
                return {"key": b"sparsity_level", "path": self.path}.get(name, b"w")
            case "uint8_t*":
                return self.mask_bytes
            case "int64_t*":
                return self.list
            case "double*":
                return self.floats
            case "size_t":
                return ctypes.c_size_t({"index": 0, "mask_size": 12}.get(name, 2))
            case "int64_t":
                return ctypes.c_int64(2)
            case "int32_t":
                return ctypes.c_int32(1)
            case "double":
                return ctypes.c_double(0.5)
        return self.out


POINTERS = [
    (function, position)
    for function, parameters in CAN_FAIL.items()
    for position, (kind, name) in enumerate(parameters)
    if kind.endswith("*") and (function, name) not in OPTIONAL
]


def test_the_header_is_understood():
    assert len(DECLARED) > 80
    assert set(re.findall(r"\bdatasparse_\w+(?=\()", HEADER.read_text())) - set(DECLARED) <= {
        "datasparse_array_of", "datasparse_block_spec_of",
    }  # fmt: skip
    assert {name for name, (returns, _) in DECLARED.items() if returns == "void"} == {
        "datasparse_set_error_message",
        *(f"datasparse_{kind}_release"
          for kind in ("params", "sparsifier", "scheduler", "schedule", "mask", "names", "report")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "position"), POINTERS, ids=[f"{f}-{CAN_FAIL[f][p][1]}" for f, p in POINTERS]
)
def test_null_is_an_error_that_names_the_argument(library, function, position, tmp_path):
    good = Good(library, tmp_path / "checkpoint")
    parameters = CAN_FAIL[function]
    arguments = [good.argument(function, kind, name) for kind, name in parameters]
    arguments[position] = None
    assert getattr(library, function)(*arguments) == VALUE_ERROR, message(library)
    assert message(library).endswith(f"{parameters[position][1]} must not be NULL")
    assert not any(good.out)


def test_releasing_null_does_nothing(library):
    for name, (returns, _) in DECLARED.items():
        if name.endswith("_release"):
            assert returns == "void"
            getattr(library, name)(None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masks_are_those_of_python(library, dtype):
    code = {np.float16: 0, np.float32: 2, np.float64: 3}[dtype]
    data = np.random.default_rng(0).standard_normal((33, 50)).astype(dtype)[:, ::2]
    shape, strides = (ctypes.c_int64 * 2)(*data.shape), (ctypes.c_int64 * 2)(*data.strides)
    array = Array(
        1, code, 2, 0, data.ctypes.data, ctypes.addressof(shape), ctypes.addressof(strides)
    )
    mask = np.empty(data.shape, np.bool_)
    config = BlockSpec(1, 1, 0.4, 2, 3, 4)
    call(library, "datasparse_block_mask", ctypes.byref(array), ctypes.byref(config),
         ctypes.c_void_p(mask.ctypes.data), ctypes.c_size_t(mask.size))  # fmt: skip
    expected = datasparse.block_mask(
        data, sparsity_level=0.4, sparse_block_shape=(2, 3), zeros_per_block=4, norm="L2"
    )
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(mask, reference.mask(data, 0.4, (2, 3), 4, "L2"))


def test_a_mask_of_ones_own(library):
    """update_mask in Python, called by C: it sees the data, and writes the mask."""
    data = np.array([0.1, -0.7, 0.4, 2.0], np.float32)
    shape = (ctypes.c_int64 * 1)(4)
    array = Array(1, 2, 1, 0, data.ctypes.data, ctypes.addressof(shape), None)

    def update_mask(_user_data, _sparsifier, name, given, _config, mask):
        assert name == b"row"
        values = np.ctypeslib.as_array(
            ctypes.cast(given.contents.data, ctypes.POINTER(ctypes.c_float)), (4,)
        )
        np.ctypeslib.as_array(mask, (4,))[:] = abs(values) > 0.5
        return OK

    overrides = SparsifierOverrides(1, OwnState(), UPDATE_MASK(update_mask), None)
    sparsifier = make(library, "datasparse_sparsifier_create", None, ctypes.byref(overrides))
    call(library, "datasparse_sparsifier_add_data", sparsifier, b"row", ctypes.byref(array), None)
    call(library, "datasparse_sparsifier_step", sparsifier)
    call(library, "datasparse_sparsifier_apply_mask", sparsifier)
    np.testing.assert_array_equal(data, np.array([0, -0.7, 0, 2], np.float32))
    library.datasparse_sparsifier_release(sparsifier)

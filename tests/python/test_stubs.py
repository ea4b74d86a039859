"""The stub names what the module holds, no more and no less."""

import ast
from importlib.resources import files

import datasparse
from datasparse import _core

STUB = ast.parse((files(datasparse) / "_core.pyi").read_text())

# What pybind11 or object gives to every class.
COMMON = set(dir(object)) | {"__module__", "_pybind11_conduit_v1_"}
COMMON |= {"__setstate__", "_construct_empty"}  # for copies and pickles
TYPE_ALIASES = {"Array", "DataList", "ParamValue", "Shapes"}


def names_in(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_module_and_stub_hold_the_same_names():
    held = {name for name in vars(_core) if not name.startswith("_")} | {"__version__"}
    stubbed = names_in(STUB.body) - TYPE_ALIASES
    own = {name for name in stubbed - held if name.startswith("_")}  # of the package
    assert stubbed - own == held
    assert own <= set(vars(_core))


def test_classes_and_stub_hold_the_same_methods():
    for node in STUB.body:
        if isinstance(node, ast.ClassDef) and node.name != "UnknownNameError":
            held = set(vars(getattr(_core, node.name))) - COMMON
            stubbed = names_in(node.body) - COMMON
            overridden = {"check_config", "is_integer_param", "update_mask"}
            is_derived = any(getattr(base, "id", "") == "BaseDataSparsifier" for base in node.bases)
            inherited = overridden & held if is_derived else set()
            assert stubbed | inherited == held - {"__hash__"}, node.name

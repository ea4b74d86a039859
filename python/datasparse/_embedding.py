"""Where the wheel keeps what programs in C and C++ are built with."""

from __future__ import annotations

import sys
from pathlib import Path

from . import _core

# Beside the module, which an editable installation keeps apart from the Python files.
_ROOT = Path(_core.__file__).parent


def get_include() -> str:
    """Return the folder of the headers: the one that holds `datasparse/datasparse.hpp`."""
    return str(_existing(_ROOT / "include"))


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, for CMAKE_PREFIX_PATH or datasparse_DIR."""
    return str(_existing(_ROOT / "lib" / "cmake" / "datasparse"))


def get_library() -> str:
    """Return the path of the shared library, for `ctypes.CDLL` and linkers."""
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    return str(_existing(_ROOT / "lib" / f"libdatasparse{suffix}"))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"this build of datasparse was installed without {path}")
    return path

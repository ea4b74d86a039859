# Sourced by the other scripts: system packages on Debian and its kin, and a virtual environment.

# need PACKAGE COMMAND...: installs a system package unless the command succeeds.
need() {
  local package=$1
  shift
  if ! "$@" >/dev/null 2>&1; then missing+=("$package"); fi
}

install_missing() {
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    echo "Please install what these Debian packages hold, then start again: ${missing[*]}" >&2
    exit 1
  fi
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
}

# The active virtual environment, or .venv, made when it is not there.
enter_environment() {
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    . .venv/bin/activate
  fi
}

has_python_headers() {
  python3 -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'
}

# configure_python PRESET [OPTION...]: a build that has the module for the environment's Python.
configure_python() {
  cmake --preset "$1" -DDATASPARSE_PYTHON=ON -DPython_EXECUTABLE="$(command -v python)" \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" "${@:2}" >/dev/null
}

# build_package PRESET FOLDER [TARGET...]: builds the module, and the targets; FOLDER is then to Python what
# a wheel is.
build_package() {
  cmake --build --preset "$1" --parallel "$(nproc)" --target _core datasparse_static datasparse_shared "${@:3}"
  rm -rf "$2"
  mkdir -p "$2"
  cp -r python/datasparse "$2"
  cmake --install "build/$1" --prefix "$2/datasparse" >/dev/null
  mv "$2"/datasparse/datasparse/_core.* "$2/datasparse"
  # An editable installation comes before any path, unless it is taken out.
  cat >"$2/sitecustomize.py" <<'END'
import sys

sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "_editable_skbc_datasparse"]
END
}

missing=()
need python3 command -v python3
need python3-venv python3 -c 'import ensurepip, venv'
need python3-dev has_python_headers
need g++ command -v g++

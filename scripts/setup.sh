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

missing=()
need python3 command -v python3
need python3-venv python3 -c 'import ensurepip, venv'
need python3-dev has_python_headers
need g++ command -v g++

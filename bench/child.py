"""Runs a module of this package in a process of its own, and reads the JSON that it prints."""

import json
import os
import subprocess
import sys
from typing import Any

from bench.build import ROOT


def run_child(module: str, arguments: list[str], **environment: str) -> Any:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)

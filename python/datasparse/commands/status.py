"""Errors as a line on stderr and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable


def status_of(command: str, work: Callable[[], None], if_no_memory: str = "") -> int:
    """Do the work. Returns 0; 2 where it was refused, 1 where the system refused.

    if_no_memory: what is added to the line where there is not enough memory.
    """
    try:
        work()
    except (TypeError, ValueError) as error:
        print(f"datasparse {command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"datasparse {command}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"datasparse {command}: not enough memory{if_no_memory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"datasparse {command}: interrupted", file=sys.stderr)
        return 1
    return 0

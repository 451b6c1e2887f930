"""Other programs on the machine, made on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Twice as many as there are processors, so that each of ours has to wait for its turn.
_BUSY_A_PROCESSOR = 2


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Keep every processor busy, if that is wanted."""
    count = _BUSY_A_PROCESSOR * (os.cpu_count() or 1) if wanted else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()

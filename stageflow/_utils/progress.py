"""A line on the terminal that says what a command waits for, and since when."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def waiting(what: str, *, each_s: float = 1.0) -> Iterator[None]:
    """Show `what` and the elapsed seconds on a terminal while the block runs.

    Args:
        what: What is going on, such as ``Finding the benchmarks``.
        each_s: How often the line is written, in seconds. It is erased at the end.
    """
    if not sys.stderr.isatty():
        yield
        return
    out, ended, started_at = sys.stderr, Event(), time.monotonic()

    def show() -> None:
        while not ended.wait(each_s):
            out.write(f"\r{what}: {time.monotonic() - started_at:.0f} s ")
            out.flush()

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        out.write("\r\x1b[K")
        out.flush()

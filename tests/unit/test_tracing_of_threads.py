"""Threads start also while others install a trace function, as coverage does in each."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Tracer:
    """A trace function whose end runs code, in which Python may switch to another thread."""

    def __call__(self, *_: Any) -> None:
        """Trace nothing."""

    def __del__(self) -> None:
        for _ in range(50):
            pass


def test_no_thread_ends_because_another_one_installs_a_trace_function() -> None:
    """Two hundred threads install three hundred each."""
    done: list[int] = []

    def work() -> None:
        for _ in range(300):
            sys.settrace(Tracer())
        sys.settrace(None)
        done.append(1)

    before, interval_s = threading.gettrace(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(Tracer())
    try:
        threads = [threading.Thread(target=work) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
        threading.settrace(before)
    assert len(done) == 200

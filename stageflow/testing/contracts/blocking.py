"""Who holds the event loop, and for how long."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

#: How often the thread of the loop is looked at, in seconds.
_INTERVAL_S = 0.005

#: So often it has to be seen in one callback to be held: a machine that is busy elsewhere stops
#: the looking, too.
_LEAST_SIGHTINGS = 4

#: What every loop of asyncio's kind, simulated or real, calls a callback through.
_CALLS = asyncio.Handle._run.__code__


class BlockingWatch:
    """Looks at the thread that enters it, and finds the callback that holds it too long.

    Attributes:
        worst_ms: The longest that one callback was seen to hold the thread, in milliseconds.
        frame: Where it was seen, as ``file:line in function``.
    """

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self.frame = ""
        self._watched = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        callback, since, sightings = None, 0.0, 0
        while not self._stop.wait(_INTERVAL_S):
            now = time.perf_counter()
            frame = sys._current_frames().get(self._watched)
            current = _callback_of(frame)
            if current is None or current is not callback:
                callback, since, sightings = current, now, 0
                continue
            sightings += 1
            held_ms = (now - since) * 1000.0
            if frame is not None and sightings >= _LEAST_SIGHTINGS and held_ms > self.worst_ms:
                self.worst_ms, self.frame = held_ms, _place(frame)


def _callback_of(frame: FrameType | None) -> FrameType | None:
    """The frame that calls the callback under way, one for each; None while the loop waits."""
    while frame is not None and frame.f_code is not _CALLS:
        frame = frame.f_back
    return frame


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"

"""A terminal: a program on a pseudo-terminal of its own, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pyte

from stageflow._utils.closing import Closing
from tests.utils.asv_repo import heed_interrupts

#: What ends a picture: the screen is cleared below it.
_PICTURE_ENDS = b"\x1b[J"

#: Until when a program has to show what is waited for, in seconds.
PATIENCE_S = 60.0


def _take_terminal() -> None:
    """In the new process: hear Ctrl-C, and hear it from the terminal on the standard input."""
    heed_interrupts()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal(Closing):
    """Runs a program, and keeps its screen by a terminal emulator that is not ours.

    Attributes:
        screen: The screen; ``screen.display`` are its lines.
        raw: All that the program has written.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        columns: int = 90,
        lines: int = 24,
    ) -> None:
        self._argv = argv
        self._cwd = cwd
        self._environment = {**environment, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES"):
            self._environment.pop(name, None)
        self._size = struct.pack("HHHH", lines, columns, 0, 0)
        self.screen = pyte.Screen(columns, lines)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, self._size)
        self._process = subprocess.Popen(
            self._argv,
            cwd=self._cwd,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - before any thread
        )
        os.close(theirs)
        return self

    def close(self) -> None:
        """Hang up, which ends what still runs."""
        os.close(self._ours)
        self._process.wait(PATIENCE_S)

    @property
    def text(self) -> str:
        """The screen as text, without what is empty at the ends of lines."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, shows: Callable[[str], bool]) -> str:
        """Wait until a picture that is drawn whole shows something; the screen then.

        Raises:
            AssertionError: It never did.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not (self.raw.endswith(_PICTURE_ENDS) and shows(self.text)):
            assert self._read(deadline), f"never shown; at the end there stood:\n{self.text}"
        return self.text

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._ours, keys)

    def end(self) -> int:
        """Wait for the program's end; its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        """Take one piece of what it writes; whether there was any."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        try:
            piece = os.read(self._ours, 65_536) if ready else b""
        except OSError:  # nobody has the other side open any more
            piece = b""
        self.raw += piece
        self._stream.feed(piece)
        return bool(piece)

"""Children of this process, a few at a time."""

from __future__ import annotations

import os
import struct
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

#: What a child returns whose work raised.
BROKEN = 70

_NUMBER = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended.

    Attributes:
        code: What its work returned.
        signal: The signal that ended it, or 0.
        said: The last number that it said, if any.
    """

    code: int
    signal: int
    said: int | None


class Pool:
    """Forks a child for each piece of work; never more than `jobs` at once."""

    _mouth: ClassVar[int] = -1

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    @classmethod
    def say(cls, number: int) -> None:
        """In a child: let the parent know, whatever comes, how far the child was."""
        os.pwrite(cls._mouth, _NUMBER.pack(number), 0)

    def run(self, work: Iterable[tuple[int, Callable[[], int]]]) -> Iterator[tuple[int, End]]:
        """Do each piece in a child of its own.

        Args:
            work: Number and function; taken only when a child can begin with it.

        Yields:
            The number of a piece and how it ended, in the order in which they end.
        """
        waiting = iter(work)
        running: dict[int, tuple[int, int]] = {}
        while True:
            while len(running) < self._jobs and (piece := next(waiting, None)) is not None:
                number, function = piece
                with tempfile.TemporaryFile() as file:
                    ear = os.dup(file.fileno())
                pid = os.fork()
                if not pid:
                    self._be_child(ear, function)
                running[pid] = (number, ear)
            if not running:
                return
            pid, status = os.waitpid(-1, 0)
            if pid not in running:
                continue
            number, ear = running.pop(pid)
            yield number, self._end(status, ear)

    @staticmethod
    def _end(status: int, ear: int) -> End:
        heard = os.pread(ear, _NUMBER.size, 0)
        os.close(ear)
        said = _NUMBER.unpack(heard)[0] if heard else None
        if os.WIFSIGNALED(status):
            return End(0, os.WTERMSIG(status), said)
        return End(os.WEXITSTATUS(status), 0, said)

    @classmethod
    def _be_child(cls, ear: int, function: Callable[[], int]) -> None:
        """Do the work, and end without any clean-up of what belongs to the parent."""
        cls._mouth = ear
        code = BROKEN
        try:
            code = function()
        except BaseException:  # a child has nobody above it to raise to
            traceback.print_exc()
        finally:
            os._exit(code)

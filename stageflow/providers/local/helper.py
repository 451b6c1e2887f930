"""Native code off the event loop: in a process of its own, or in a thread.

The processes exchange lines of JSON over pipes, of which some announce bytes behind them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from stageflow._utils.fork import leave, renew_after_fork
from stageflow.errors import LocalServiceError, ProviderError

T = TypeVar("T")

_SHOWN_CHARS = 400
#: How long a process that has closed its output may take to end. A loaded machine takes seconds.
_EXIT_S = 60.0


class HelperProcess:
    """The owner's side. Its methods block; any thread may call them, one after another.

    Args:
        name: The name of the process in errors.
        command: A module of this package and its arguments, for ``python -m``.
        settings: The first line that it receives, as JSON can hold it.
        start_timeout_s: How long it may take to come up, in seconds.
    """

    def __init__(
        self, name: str, command: str, settings: Mapping[str, Any], *, start_timeout_s: float
    ) -> None:
        self._name = name
        self._command = command.split()
        self._settings = json.dumps(settings)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._ready: Mapping[str, Any] = {}
        self._killed = False
        self._overdue = False
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Leave the process to the parent, even when this one ends."""
        if self._process is not None:
            self._forgotten.detach()
            leave((self._process, self._errors))
            self._process = self._errors = None

    @property
    def pid(self) -> int | None:
        """Number of the process; None if none is running."""
        process = self._process
        if process is None or self._killed or process.poll() is not None:
            return None
        return process.pid

    def start(self) -> Mapping[str, Any]:
        """Start it unless it runs, and return its first line; raise `LocalServiceError`."""
        if self.pid is not None:
            return self._ready
        self.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._killed = False
        self._process = subprocess.Popen(  # noqa: S603 - a module of this package
            [sys.executable, "-P", "-m", *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            # The owner handles an interrupt from the terminal.
            start_new_session=True,
        )
        # Without close(), the process ends with this object or the interpreter.
        self._forgotten = weakref.finalize(self, _end, self._process, self._errors)
        self._overdue = False
        limit = threading.Timer(self._start_timeout_s, self._give_up)
        limit.start()
        try:
            self._ready = self._exchange(self._settings, b"", "did not come up")
        except LocalServiceError as error:
            self.close()
            if self._overdue:
                problem = f"did not come up within {self._start_timeout_s:g} s"
                raise LocalServiceError(self._name, problem, error.output) from None
            raise
        finally:
            limit.cancel()
            limit.join()  # its thread refers to this object
        return self._ready

    def ask(self, content: bytes) -> Mapping[str, Any]:
        """Send a request, and wait for its answer; raise `LocalServiceError` if there is none."""
        request = json.dumps({"bytes": len(content)})
        return self._exchange(request, content, "ended in the middle of a call")

    def kill(self) -> None:
        """End it at once; a call under way fails."""
        self._killed = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End it, and wait until it has."""
        if self._process is not None:
            self._forgotten()
            self._process = self._errors = None

    def _give_up(self) -> None:
        self._overdue = True
        self.kill()

    def _exchange(self, request: str, content: bytes, problem: str) -> Mapping[str, Any]:
        process = self._process
        assert process is not None, "start() it first"
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        try:
            process.stdin.write(request.encode() + b"\n" + content)
            process.stdin.flush()
        except OSError as error:
            raise self._failed(process, "has ended") from error
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failed(process, problem)
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _failed(self, process: subprocess.Popen[bytes], problem: str) -> LocalServiceError:
        assert self._errors is not None, "it belongs to the process"
        try:
            code = process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._errors.seek(0)
        output = self._errors.read().decode(errors="replace").strip()[-_SHOWN_CHARS:]
        return LocalServiceError(self._name, f"{problem} (exit code {code})", output)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, errors):
        with suppress(BrokenPipeError):  # by bytes that were not written yet
            if pipe is not None:
                pipe.close()


class Stop:
    """Asks work in a thread to end; the work checks `asked` between steps."""

    def __init__(self) -> None:
        self.asked = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    def ask(self) -> None:
        """Ask the work to end, and interrupt it if it can be interrupted."""
        with self._lock:
            self.asked = True
            if self._interrupt is not None:
                self._interrupt()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` once if the work is asked to end within this block."""
        with self._lock:
            self._interrupt = interrupt
            if self.asked:
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None


class SerialExecutor:
    """One thread that runs one call after another; at most `most` run or wait."""

    def __init__(self, name: str, most: int = 16) -> None:
        self._name = name
        self._most = most
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start with an own thread and queue."""
        self._places = threading.BoundedSemaphore(self._most)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Run some work in the thread; raise `ProviderError` if too many calls wait already."""
        if not self._places.acquire(blocking=False):
            problem = f"{self._name} has {self._most} calls under way or waiting, its limit"
            text = f"{problem}; retry later, or use more providers"
            raise ProviderError(text, code="provider_busy")
        stop = Stop()
        future = self._executor.submit(work, stop)
        places = self._places
        future.add_done_callback(lambda _: places.release())
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.ask()

    async def close(self) -> None:
        """Drop the calls that wait, and wait for the one under way."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

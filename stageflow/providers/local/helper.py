"""A module of this package in a process of its own, for as long as its owner wants it.

The two talk over the pipes of standard input and output: a line of JSON, and bytes after it where
the line says so. The child ends when its input does, however its owner ended; so it is never left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from typing import IO, Any

from stageflow.errors import ErrorCategory, ProviderError

_SHOWN_CHARS = 400
_FAREWELL_S = 5.0


class LocalServiceError(ProviderError):
    """A process that a local provider needs does not come up, or has ended.

    Attributes:
        said: The end of what it wrote to its standard error.
    """

    code = "local_service_failed"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, name: str, problem: str, said: str = "") -> None:
        super().__init__(f"{name} {problem}" + (f"; it said: {said}" if said else ""))
        self.said = said


class HelperProcess:
    """The owner's side. Its methods block; any thread may call them, one after another.

    Attributes:
        pid: Number of the process; None if none is running.
    """

    def __init__(
        self, name: str, module: str, settings: Mapping[str, Any], *, start_timeout_s: float
    ) -> None:
        """Say what is to run; nothing is started yet.

        Args:
            name: What it is called in errors.
            module: Of this package; run as ``python -m``.
            settings: What it is told first, as JSON can hold it.
            start_timeout_s: How long it may take to come up, in seconds.
        """
        self._name = name
        self._module = module
        self._settings = json.dumps(settings)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._told: Mapping[str, Any] = {}
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None if none is running."""
        process = self._process
        if process is None or self._killed or process.poll() is not None:
            return None
        return process.pid

    def start(self) -> Mapping[str, Any]:
        """Start it unless it is running; returns what it told when it was ready.

        Raises:
            LocalServiceError: It ends, or is not ready in time.
        """
        if self.pid is not None:
            return self._told
        self.close()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._killed = False
        self._process = subprocess.Popen(  # noqa: S603 - a module of this package
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            # An interrupt from the terminal is the owner's to handle.
            start_new_session=True,
        )
        # Whoever forgets to close: the process ends with the object, or with the interpreter.
        self._forgotten = weakref.finalize(self, _end, self._process, self._complaints)
        limit = threading.Timer(self._start_timeout_s, self._process.kill)
        limit.start()
        try:
            self._send(self._settings.encode())
            self._told = self._receive(f"did not come up within {self._start_timeout_s:g} s")
        except LocalServiceError:
            self.close()
            raise
        finally:
            limit.cancel()
        return self._told

    def ask(self, request: Mapping[str, Any], content: bytes = b"") -> Mapping[str, Any]:
        """Send a request, and wait for its answer.

        Raises:
            LocalServiceError: The process has ended.
        """
        self._send(json.dumps({**request, "bytes": len(content)}).encode(), content)
        return self._receive("ended in the middle of a call")

    def kill(self) -> None:
        """End it at once, whatever it is doing; a call under way fails."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End it, and wait until it has."""
        if self._process is not None:
            self._forgotten()
            self._process = self._complaints = None

    def _send(self, line: bytes, content: bytes = b"") -> None:
        assert self._process is not None, "start() it first"
        assert self._process.stdin is not None, "it was opened as a pipe"
        try:
            self._process.stdin.write(line + b"\n" + content)
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("has ended") from error

    def _receive(self, problem: str) -> Mapping[str, Any]:
        assert self._process is not None, "start() it first"
        assert self._process.stdout is not None, "it was opened as a pipe"
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failed(problem)
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _failed(self, problem: str) -> LocalServiceError:
        assert self._process is not None, "start() it first"
        try:
            code = self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        said = ""
        if self._complaints is not None:
            self._complaints.seek(0)
            said = self._complaints.read().decode(errors="replace").strip()[-_SHOWN_CHARS:]
        return LocalServiceError(self._name, f"{problem} (exit code {code})", said)


def _end(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, complaints):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was still to be written has no reader any more

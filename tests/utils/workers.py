"""Worker processes: the command ``stageflow worker``, started, stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 60.0


class WorkerProcess:
    """One ``stageflow worker``."""

    def __init__(self, broker: str, *arguments: str, environment: Mapping[str, str]) -> None:
        """Start it; it serves as soon as it can."""
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stageflow", "worker", "--broker", broker, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_it_serves(self) -> None:
        """Return once it says that it serves."""
        self.wait_for(" serves ")

    def wait_for(self, part: str) -> None:
        """Return once it writes a line with that part."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            if part in line:
                return
        raise AssertionError("".join(self.lines))

    def stop_at_once(self) -> int:
        """Send SIGTERM until it ends, as an operator would who cannot wait; its exit code."""
        while True:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            return self._process.returncode

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """End it as an operator would; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        _, rest = self._process.communicate(timeout=_PATIENCE_S)
        self.lines.append(rest)
        return self._process.returncode

    def end(self) -> tuple[int, str]:
        """Wait until it ends by itself; returns its exit code and what it wrote."""
        _, text = self._process.communicate(timeout=_PATIENCE_S)
        return self._process.returncode, text

"""A process that runs timed works of the benchmarks with the package of one commit.

It is ``python -m benchmarks.worker``, which reads and writes one JSON object a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.errors import WorkerFailedError

_PATIENCE_S = 60.0
#: Counting all operations takes 20 s, and several times that on a busy machine.
_COUNTING_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Block:
    """What one request measured.

    Attributes:
        wall_ns: Wall time of an operation, by call, in nanoseconds.
        cpu_ns: CPU time of an operation, in nanoseconds.
    """

    wall_ns: tuple[float, ...]
    cpu_ns: float


class Worker:
    """A worker, which ends with the ``with`` block that it is used in.

    Attributes:
        works: Names of the works that can be timed, whether the commit can do them or not.
        missing: What the commit lacks, by the name of the work that needs it.
    """

    def __init__(self, benchmarks: Path, tree: Path) -> None:
        """Start it.

        Args:
            benchmarks: The folder of the benchmarks.
            tree: The folder that holds the commit's package.

        Raises:
            WorkerFailedError: It did not start, or not with that package.
        """
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - a fixed program, and no shell
            # Not the working directory but the commit's package comes first on the path.
            [sys.executable, "-P", "-m", f"{benchmarks.name}.worker"],
            cwd=benchmarks.parent,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(benchmarks.parent)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            process_group=0,
        )
        try:
            ready = self._read(_PATIENCE_S)
            package = Path(ready["package"]).resolve()
            if package.parent != tree.resolve():
                raise WorkerFailedError(f"the worker imported {package}, not the one in {tree}")
            self.missing: dict[str, tuple[str, ...]] = {
                name: tuple(lacks) for name, lacks in ready["missing"].items()
            }
            self.works = tuple(ready["works"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: str, seconds: float) -> Block | str:
        """Let it do a work again and again for about that long; returns the error if it broke.

        Raises:
            WorkerFailedError: It ended, or hung.
        """
        answer = self._ask({"work": work, "seconds": seconds}, _PATIENCE_S)
        if "error" in answer:
            return str(answer["error"])
        return Block(tuple(answer["wall_ns"]), answer["cpu_ns"] / answer["operations"])

    def measure(self, series: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Let it measure exact and counted series, by themselves.

        Returns:
            By series, an object with ``value``, or ``missing``, or ``error``.

        Raises:
            WorkerFailedError: It ended, or hung.
        """
        return self._ask({"measure": list(series)}, _COUNTING_PATIENCE_S)

    def _ask(self, question: dict[str, Any], patience_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None  # it is a pipe
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended") from None
        return self._read(patience_s)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _read(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # it is a pipe
        timer = threading.Timer(patience_s, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._failed("ended, or hung")
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._failed(f"wrote {line!r}, which is not JSON,") from None
        assert isinstance(answer, dict)
        return answer

    def _failed(self, how: str) -> WorkerFailedError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        tail = "\n".join(self._errors.read().strip().splitlines()[-15:])
        return WorkerFailedError(f"the worker of the timed works {how}:\n{tail}")

"""A process that measures benchmarks with the package of one commit, a line of JSON each.

It is ``python -m benchmarks._lib.worker`` if a project has that, else `probe`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageflow._utils.closing import Closing
from stageflow._utils.progress import waiting
from stageflow.pulse.errors import PulseError, WorkerFailedError
from stageflow.pulse.history import GATE_DIR, TIMED_UNIT, AsvProject, series_of, timed

#: For an answer, and for each series that is measured: a worker ends long before it itself.
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Block:
    """One block of calls: wall and CPU time of an operation, `Side.lost_ns`, operations a call."""

    wall_ns: tuple[float, ...]
    cpu_ns: float
    lost_ns: tuple[float, ...] = ()
    per_call: float = 1.0


_PROBE = Path(__file__).with_name("probe.py")


def has_worker(benchmarks: Path) -> bool:
    """Return whether a folder of benchmarks has a worker of its own."""
    return (benchmarks / "_lib/worker.py").exists()


def program_of(benchmarks: Path, tree: Path) -> tuple[list[str], dict[str, str]]:
    """Return what starts a worker, and its environment, in which a commit's package is first."""
    # Not the working directory but the commit's package comes first on the path.
    python = [sys.executable, "-P"]
    if has_worker(benchmarks):
        program, path = ["-m", f"{benchmarks.name}._lib.worker"], [tree, benchmarks.parent]
    else:
        program, path = [str(_PROBE), str(benchmarks)], [tree, tree / "src"]
    return [*python, *program], os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}


class Worker(Closing):
    """A worker, which ends with its ``with`` block. Its methods raise `WorkerFailedError`.

    A project's own has `operations` to time. A commit may lack something for one: see `missing`.
    """

    def __init__(self, benchmarks: Path, tree: Path) -> None:
        """Start it, for a folder of benchmarks and a folder that holds the commit's package."""
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115
        started, env = program_of(benchmarks, tree)
        # Benchmarks may leave files where they run.
        self._folder = tempfile.TemporaryDirectory(prefix="gate-")
        self._process = subprocess.Popen(  # noqa: S603 - a fixed program, and no shell
            started,
            cwd=benchmarks.parent if has_worker(benchmarks) else self._folder.name,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            process_group=0,
        )
        try:
            ready = self._read(_PATIENCE_S)
            package = Path(ready.get("package", tree / "any")).resolve()
            if package.parent != tree.resolve():
                raise WorkerFailedError(f"the worker imported {package}, not the one in {tree}")
            lacking = ready.get("missing", {}).items()
            self.missing = {name: tuple(lacks) for name, lacks in lacking}
            self.operations = tuple(ready.get("operations", ()))
        except BaseException:
            self.close()
            raise

    def run(self, operation: str, seconds: float) -> Block | str:
        """Repeat an operation for about that long; return the error if it failed."""
        answer = self._ask({"operation": operation, "seconds": seconds}, _PATIENCE_S)
        if "error" in answer:
            return str(answer["error"])
        if "missing" in answer:
            self.missing[operation] = tuple(answer["missing"])
            return Block((), 0.0)
        wall_ns, count = tuple(answer["wall_ns"]), answer["count"]
        per_call = count / answer.get("calls", len(wall_ns))
        return Block(wall_ns, answer["cpu_ns"] / count, per_call=per_call)

    def measure(self, series: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return by series an object with ``value``, ``missing``, ``error`` or ``late``."""
        return self._ask({"measure": list(series)}, _PATIENCE_S * (2 + len(series)))

    def _ask(self, question: dict[str, Any], patience_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None  # it is a pipe
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended") from None
        return self._read(patience_s)

    def close(self) -> None:
        """End the worker and the processes that it has started."""
        self._kill()
        self._process.communicate()
        self._errors.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # it is a pipe
        timer = threading.Timer(patience_s, self._kill)
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
        with suppress(subprocess.TimeoutExpired):  # it has closed its output, and may be ending
            self._process.wait(1.0)
        self._kill()
        how += f" (exit code {self._process.wait()})"
        self._errors.seek(0)
        tail = "\n".join(self._errors.read().splitlines()[-15:])
        return WorkerFailedError(f"the worker of the timed operations {how}\n{tail}".rstrip())


@dataclass(frozen=True, slots=True)
class Catalogue:
    """asv's descriptions of the benchmarks by name, and the operations that are timed in pairs.

    `apart` has the units of the series that are counted or read apart from asv.
    """

    benchmarks: Mapping[str, Mapping[str, Any]]
    operations: tuple[str, ...]
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """The unit of every series."""
        found = {
            series: str(benchmark["unit"])
            for name, benchmark in self.benchmarks.items()
            for series in series_of(name, benchmark["params"])
        }
        return {**found, **self.apart, **{timed(name): TIMED_UNIT for name in self.operations}}


def discover(benchmarks: Path, tree: Path) -> Catalogue:
    """List what the folder `benchmarks` can measure of the package in `tree`."""
    done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
        [sys.executable, "-P", str(_PROBE), str(benchmarks), "list"],
        check=False,
        env=program_of(benchmarks, tree)[1],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        ended = f"cannot be listed (exit code {done.returncode})"
        raise PulseError(f"the benchmarks in {benchmarks} {ended}:\n{tail}")
    found = json.loads(done.stdout)
    operations, apart = tuple(found["operations"]), found["apart"]
    if has_worker(benchmarks):
        with Worker(benchmarks, tree) as worker:
            operations, apart = worker.operations, {}
    return Catalogue({one["name"]: one for one in found["benchmarks"]}, operations, apart)


def list_benchmarks(project: AsvProject) -> Catalogue:
    """List what the benchmarks of a clone can measure."""
    with waiting("Finding the benchmarks"):
        if has_worker(project.benchmarks_dir):
            return discover(project.benchmarks_dir, project.source)
        with tree(project, "HEAD") as files:
            return discover(project.benchmarks_dir, files)


@contextmanager
def tree(project: AsvProject, commit: str, *folders: str) -> Iterator[Path]:
    """Yield a temporary folder that holds a commit's package, and `folders`.

    It holds all of the commit, built if need be, if the benchmarks have no worker that knows its
    one package.
    """
    place: tuple[str, ...]
    if has_worker(project.benchmarks_dir):
        place, folders = (), (project.package, *folders)
    else:
        place, folders = ("-C", str(project.source)), ()
    with tempfile.TemporaryDirectory(prefix="gate-") as temporary:
        archive = Path(temporary) / "commit.tar"
        project.git(*place, "archive", "--format=tar", f"--output={archive}", commit, *folders)
        target = Path(temporary) / "tree"
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
        if not has_worker(project.benchmarks_dir):
            sources = target / project.repo_subdir
            if _needs_build(sources):
                wheel = _wheel(project, project.commit(commit) or commit, sources)
                shutil.unpack_archive(wheel, target, "zip")
            elif sources != target:
                shutil.copytree(sources, target, symlinks=True, dirs_exist_ok=True)
            _find_package(project.package.replace("-", "_"), commit, target)
        yield target


def _find_package(name: str, commit: str, target: Path) -> None:
    """Copy a package from a folder such as ``lib`` to where a worker imports it from.

    An installed one would be measured in place of one that is not found, as if nothing changed.
    """
    forms = (name, f"{name}.py", f"{name}.*.so")
    if any(any(place.glob(form)) for place in (target, target / "src") for form in forms):
        return
    for found in target.glob(f"*/{name}/__init__.py"):
        shutil.copytree(found.parent, target / name)
        return
    installed = importlib.util.find_spec(name) if name.isidentifier() else None
    if installed and "site-packages" in str(installed.origin):
        raise PulseError(
            f"commit {commit[:10]} has no package {name!r} in its root, in src or another folder, "
            f"so {installed.origin} would be measured: set 'repo_subdir' in asv.conf.json, or run "
            "this in a clone of the package"
        )


#: Code that is compiled, and settings by which a build writes files of the package.
_COMPILED = {".c", ".cc", ".cpp", ".cxx", ".f", ".f90", ".pyx", ".rs"}
_WRITTEN = re.compile(r"\b(?:version_file|write_to|build\.hooks|build-hook)\b")
#: Folders that are no part of a package.
_ASIDE = re.compile(r"asv\w*|benchmarks?|docs?|examples?|tests?|tools?")


def _needs_build(tree: Path) -> bool:
    settings = tree / "pyproject.toml"
    if settings.exists() and _WRITTEN.search(settings.read_text("utf-8", errors="replace")):
        return True
    found = (path.relative_to(tree) for path in tree.rglob("*") if path.suffix in _COMPILED)
    return any(not _ASIDE.fullmatch(path.parts[0]) for path in found)


def _wheel(project: AsvProject, commit: str, tree: Path) -> Path:
    folder = project.root / GATE_DIR / "wheels" / f"{commit}-{sys.implementation.cache_tag}"
    if not (built := sorted(folder.glob("*.whl"))):
        done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
            [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), "."],
            cwd=tree,
            check=False,
            # There is no history, from which it would be taken.
            env={"SETUPTOOLS_SCM_PRETEND_VERSION": "0"} | os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        built = sorted(folder.glob("*.whl"))
        if done.returncode or not built:
            tail = "\n".join(done.stdout.strip().splitlines()[-15:])
            raise PulseError(
                f"commit {commit[:10]} has compiled parts, which pip cannot build here:\n{tail}\n"
                "Install what its build needs (compilers, libraries), or measure it with asv alone:"
                " asv continuous BASE HEAD"
            )
    return built[-1]

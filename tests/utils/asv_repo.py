"""Small git repositories that asv can measure with this repository's own ``asv.conf.json``.

Their package counts its work exactly and spends CPU time in proportion to it, so a commit that is
planted to be 1.5 times slower is so on any machine, however loaded.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PYPROJECT = """\
[build-system]
requires = ["flit_core>=3.12,<5"]
build-backend = "flit_core.buildapi"

[project]
name = "stageflow"
version = "0"
description = "A package whose cost is known."
"""

_PACKAGE = '''\
"""A package whose cost is known."""

STEPS = {steps}


def work():
    """Do STEPS steps; returns how many were done."""
    done = 0
    while done < STEPS:
        done += 1
    return done
'''

# CPU time of the process, not wall time: what other processes do to the machine counts little.
_BENCHMARKS = '''\
"""Benchmarks of a package whose cost is known."""

import time

import stageflow


def track_steps():
    return stageflow.work()


track_steps.unit = "steps"
track_steps.version = "1"


def time_work():
    stageflow.work()


time_work.version = "1"
time_work.timer = time.process_time
time_work.rounds = 2
time_work.sample_time = 0.02


def time_added_later():
    stageflow.added_later()


def _skip_where_missing():
    if not hasattr(stageflow, "added_later"):
        raise NotImplementedError


time_added_later.setup = _skip_where_missing
time_added_later.version = "1"
time_added_later.timer = time.process_time
time_added_later.rounds = 2
'''

_ADDED_LATER = "\n\ndef added_later():\n    work()\n"
BASE_STEPS = 20_000


@dataclass(frozen=True)
class ScratchRepo:
    """A git repository with a package, benchmarks and ``asv.conf.json``.

    Attributes:
        path: Its working tree.
        home: Home folder to run asv with, so that no machine file of the user is touched.
    """

    path: Path
    home: Path

    def git(self, *args: str) -> str:
        """Run git in the repository and return its output, stripped."""
        done = subprocess.run(
            ["git", *args],
            cwd=self.path,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, message: str, files: dict[str, str]) -> str:
        """Write `files`, by their path, commit them and return the commit's hash."""
        for name, text in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    @property
    def env(self) -> dict[str, str]:
        """Environment of programs run in the repository: nothing of the user's settings."""
        names = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.invalid"}
        names |= {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.invalid"}
        return os.environ | names | {"HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1"}

    def asv(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run asv in the repository, whatever its exit code."""
        return self._run([sys.executable, "-m", "asv", *args], self.path)

    def pulse(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m stageflow.pulse`` of this working tree on the repository."""
        # Not in the scratch repository: its package has the same name as ours.
        return self._run(self._pulse_command(*args), ROOT)

    def results(self) -> dict[str, Path]:
        """The result files, by the hash prefix of their commit."""
        found = (self.path / ".asv" / "results").glob("*/*-*.json")
        return {path.name.split("-")[0]: path for path in found}

    def copy(self, folder: Path) -> ScratchRepo:
        """A copy to change at will, which shares the asv environment of the original."""
        shutil.copytree(self.path, folder / "repo")
        return ScratchRepo(folder / "repo", self.home)

    def start_pulse(self, *args: str) -> subprocess.Popen[str]:
        """Start ``python -m stageflow.pulse`` on the repository, to be watched as it runs."""
        return subprocess.Popen(
            self._pulse_command(*args),
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A test run in the background may have been started with SIGINT ignored.
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - before any thread
        )

    def _pulse_command(self, command: str, *args: str) -> list[str]:
        module = [sys.executable, "-m", "stageflow.pulse"]
        return [*module, command, "--repository", str(self.path), *args]

    def _run(self, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )


def heed_interrupts() -> None:
    """Let Ctrl-C reach a program, also if these tests were started with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def package(steps: int, added_later: bool = False) -> dict[str, str]:
    """The file of the scratch package whose work takes `steps` steps."""
    text = _PACKAGE.format(steps=steps) + (_ADDED_LATER if added_later else "")
    return {"stageflow/__init__.py": text}


def create(folder: Path) -> ScratchRepo:
    """A repository with one commit on ``main``, whose asv environments lie in `folder` too."""
    repo = ScratchRepo(folder / "repo", folder / "home")
    repo.path.mkdir(parents=True)
    repo.home.mkdir()
    repo.git("init", "--quiet", "--initial-branch", "main")
    config = json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))
    config["env_dir"] = str(folder / "env")
    repo.commit(
        "The package",
        package(BASE_STEPS)
        | {
            "pyproject.toml": _PYPROJECT,
            "asv.conf.json": json.dumps(config),
            "benchmarks/__init__.py": "",
            "benchmarks/work.py": _BENCHMARKS,
            ".gitignore": ".asv/\n__pycache__/\n",
        },
    )
    return repo


@dataclass(frozen=True)
class Measured:
    """A repository with three commits on ``main``, all measured and published by ``bench``.

    Attributes:
        repo: The repository; copy it before changing it.
        commits: The hashes of its commits, oldest first.
        output: What ``bench`` printed.
        exit_code: What ``bench`` returned.
    """

    repo: ScratchRepo
    commits: list[str]
    output: str
    exit_code: int


@functools.cache
def measured(folder: Path) -> Measured:
    """The measured repository of this test session, made once: it costs an asv environment."""
    repo = create(folder)
    first = repo.git("rev-parse", "HEAD")
    second = repo.commit("More work", package(BASE_STEPS + 5_000))
    third = repo.commit("Escape <this> & that", package(BASE_STEPS + 5_000, added_later=True))
    done = repo.pulse("bench")
    return Measured(repo, [first, second, third], done.stdout, done.returncode)

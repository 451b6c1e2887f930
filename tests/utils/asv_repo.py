"""Small git repositories that asv can measure with this repository's own ``asv.conf.json``.

Their package counts its work exactly and spends CPU time in proportion to it, so a commit that is
planted to be 1.5 times slower is so on any machine, however loaded.

An asv environment and the measurement of three commits take seconds, so a test session makes them
once, and copies commits into the environment; test_continuous.py and test_init.py let pip build
and install them. Each worker of pytest-xdist has a copy of the environment, as asv installs one
commit after another in it; tests change copies of the repository.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pytest

from stageflow.cli import main
from tests.utils.commands import run_command
from tests.utils.session import once

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

#: pip takes three seconds to build and install a package of one file.
QUICK_BUILD: dict[str, Any] = {
    "build_command": [],
    "install_command": [f"python {Path(__file__).with_name('quick_install.py')} {{build_dir}}"],
}


def install_quickly(project: Path, environments: Path | None = None) -> None:
    """Let asv copy a laid project's commits into its environment, which finds stageflow here.

    `environments` are those of a measured repository, which are there already.
    """
    path = project / "asv.conf.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    command = f"{QUICK_BUILD['install_command'][0]} {ROOT}"
    settings |= QUICK_BUILD | {"install_command": [command]}
    if environments is not None:
        settings["env_dir"] = str(environments)
    path.write_text(json.dumps(settings), encoding="utf-8")


_ADDED_LATER = "\n\ndef added_later():\n    work()\n"
BASE_STEPS = 20_000


@dataclass(frozen=True)
class ScratchRepo:
    """A git repository with a package, benchmarks and ``asv.conf.json``.

    Attributes:
        path: Its working tree.
        home: Home folder to run asv with, so that no machine file of the user is touched.
        environments: Folder of its asv environments; None for what its ``asv.conf.json`` says.
    """

    path: Path
    home: Path
    environments: Path | None = None

    def git(self, *args: str) -> str:
        """Run git in the repository and return its output, stripped."""
        done = run_command(["git", *args], cwd=self.path, env=self.env, check=True)
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
        # In a new home, virtualenv would look for newer wheels, in a process that outlives it.
        names |= {"GIT_CONFIG_NOSYSTEM": "1", "VIRTUALENV_NO_PERIODIC_UPDATE": "1"}
        return os.environ | names | {"HOME": str(self.home)}

    def asv(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run asv in the repository, whatever its exit code."""
        return self._run([sys.executable, "-m", "asv", *args], self.path)

    def pulse(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``stageflow pulse`` of this working tree on the repository."""
        # In this process, as the start of another one takes longer than what many commands do.
        _, _, _, *command = self._pulse_command(*args)
        printed, on_sigterm = io.StringIO(), signal.getsignal(signal.SIGTERM)
        with (
            mock.patch.dict(os.environ, self.env),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            try:
                code = main(command)
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                signal.signal(signal.SIGTERM, on_sigterm)
        return subprocess.CompletedProcess(command, code, printed.getvalue())

    def results(self) -> dict[str, Path]:
        """The result files, by the hash prefix of their commit."""
        found = (self.path / ".asv" / "results").glob("*/*-*.json")
        return {path.name.split("-")[0]: path for path in found}

    def copy(self, folder: Path) -> Self:
        """Return a copy to change at will, which shares the asv environment of the original."""
        shutil.copytree(self.path, folder / "repo", symlinks=True)
        return replace(self, path=folder / "repo")

    def configure(self, **settings: Any) -> None:
        """Write ``asv.conf.json``, which git ignores here: as in this repository, but for these."""
        config = json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))
        # The package of these repositories is called stageflow, too, and has no plugin for asv.
        config |= {"env_dir": str(self.environments), "plugins": []} | settings
        (self.path / "asv.conf.json").write_text(json.dumps(config), encoding="utf-8")

    def start_pulse(self, *args: str) -> subprocess.Popen[str]:
        """Start ``stageflow pulse`` on the repository, to be watched as it runs."""
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
        module = [sys.executable, "-m", "stageflow", "pulse"]
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
            timeout=1800,  # only bounds a hang
        )


def heed_interrupts() -> None:
    """Let Ctrl-C reach a program, also if these tests were started with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def package(steps: int, added_later: bool = False) -> dict[str, str]:
    """The file of the scratch package whose work takes `steps` steps."""
    text = _PACKAGE.format(steps=steps) + (_ADDED_LATER if added_later else "")
    return {"stageflow/__init__.py": text}


def create(folder: Path) -> ScratchRepo:
    """A repository with one commit on ``main``, whose asv environments are in `folder` too."""
    repo = ScratchRepo(folder / "repo", folder / "home", folder / "env")
    repo.path.mkdir(parents=True)
    repo.home.mkdir()
    repo.git("init", "--quiet", "--initial-branch", "main")
    repo.configure()
    repo.commit(
        "The package",
        package(BASE_STEPS)
        | {
            "pyproject.toml": _PYPROJECT,
            "benchmarks/__init__.py": "",
            "benchmarks/work.py": _BENCHMARKS,
            ".gitignore": ".asv/\n__pycache__/\nasv.conf.json\n",
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

    def copy(self, folder: Path) -> ScratchRepo:
        """Return a copy of the repository to change at will; its builds do without pip."""
        copied = self.repo.copy(folder)
        copied.configure(**QUICK_BUILD)
        return copied


def measured(factory: pytest.TempPathFactory) -> Measured:
    """The measured repository of this test session, and this worker's copy of its environment."""
    folder = once(factory, "asv", _measure)
    env = factory.getbasetemp() / "asv-env"
    if not env.exists():
        shutil.copytree(folder / "env", env, symlinks=True)
    repo = ScratchRepo(folder / "repo", folder / "home", env)
    return Measured(repo, **json.loads((folder / "measured.json").read_text(encoding="utf-8")))


def _measure(folder: Path) -> None:
    repo = create(folder)
    repo.configure(**QUICK_BUILD)
    first = repo.git("rev-parse", "HEAD")
    second = repo.commit("More work", package(BASE_STEPS + 5_000))
    third = repo.commit("Escape <this> & that", package(BASE_STEPS + 5_000, added_later=True))
    done = repo.pulse("bench")
    told = {"commits": [first, second, third], "output": done.stdout, "exit_code": done.returncode}
    (folder / "measured.json").write_text(json.dumps(told), encoding="utf-8")
    # Two workers that build in one environment break each other's builds: each takes its copy.
    repo.configure(env_dir=f"{os.devnull}/each worker has its copy")

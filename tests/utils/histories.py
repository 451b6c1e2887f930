"""Synthetic histories: values by commit, and a git repository with asv's results of its commits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from stageflow.pulse.history import AsvProject
from tests.utils.commands import run_command

_ENV = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
    },
}


def values(seed: int, count: int, noise: float, step: float = 1.0, at: int = 0) -> list[float]:
    """Values around 1 that scatter by `noise`, and rise by a factor `step` at position `at`."""
    generator = random.Random(seed)
    return [
        max(0.5, generator.gauss(1.0, noise)) * (step if number >= at else 1.0)
        for number in range(count)
    ]


class History:
    """A repository of empty commits, and asv's results as if somebody had measured them."""

    def __init__(self, folder: Path) -> None:
        self.project = AsvProject(
            root=folder,
            branch="main",
            benchmarks_dir=folder / "benchmarks",
            results_dir=folder / ".asv/results",
            html_dir=folder / ".asv/html",
            set_aside_dir=folder / ".asv/set-aside",
            package="stageflow",
        )
        self.hashes: list[str] = []
        (self.project.results_dir / "machine").mkdir(parents=True)
        self.project.benchmarks_dir.mkdir()
        self._git("init", "--quiet", "--initial-branch", "main")

    def commit(self, count: int = 1) -> None:
        """Add commits, a minute apart."""
        for _ in range(count):
            number = len(self.hashes)
            at = f"@{1_700_000_000 + 60 * number} +0000"
            dates = {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
            message = f"Change number {number}"
            self._git("commit", "--quiet", "--allow-empty", "--message", message, **dates)
            self.hashes.append(self._git("rev-parse", "HEAD"))

    def measure(
        self,
        series: Mapping[str, Callable[[int], float]],
        *numbers: int,
        machine: str = "machine",
        version: str = "1",
    ) -> None:
        """Write asv's results of some commits; each series tells its value by their number."""
        (self.project.results_dir / machine).mkdir(exist_ok=True)
        described = {
            name: {"name": name, "params": [], "param_names": [], "version": version, "unit": "u"}
            for name in series
        }
        path = self.project.results_dir / "benchmarks.json"
        path.write_text(json.dumps(described | {"version": 2}))
        for number in numbers:
            commit = self.hashes[number]
            result = {
                "version": 2,
                "commit_hash": commit,
                "env_name": "virtualenv-py",
                "date": 0,
                "params": {"machine": machine},
                "python": "3.11",
                "requirements": {},
                "result_columns": ["result", "params", "version"],
                "results": {name: [[of(number)], [], version] for name, of in series.items()},
            }
            self.path_of(number, machine).write_text(json.dumps(result))

    def path_of(self, number: int, machine: str = "machine") -> Path:
        """Return the file of results of a commit."""
        name = f"{self.hashes[number][:8]}-virtualenv-py.json"
        return self.project.results_dir / machine / name

    def rewrite(self, first: int) -> None:
        """Replace the commits from number `first` on by others."""
        count = len(self.hashes) - first
        self._git("reset", "--quiet", "--hard", self.hashes[first - 1])
        del self.hashes[first:]
        self._git("commit", "--quiet", "--allow-empty", "--message", "Another beginning")
        self.hashes.append(self._git("rev-parse", "HEAD"))
        self.commit(count - 1)

    def _git(self, *arguments: str, **environment: str) -> str:
        done = run_command(
            ["git", *arguments], cwd=self.project.root, check=True, env=_ENV | environment
        )
        return done.stdout.strip()

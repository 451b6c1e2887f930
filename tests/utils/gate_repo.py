"""Scratch repositories with benchmarks that the gate judges, and figures that are known.

The package counts its steps. The exact benchmark, the counted one and the timed operations report
these steps, so that what is planted is found on any machine, through real git, asv and workers.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.utils import asv_repo
from tests.utils.asv_repo import BASE_STEPS, ScratchRepo, package
from tests.utils.session import once

_EXACT = '''\
"""What does not scatter."""

import stageflow


def track_steps(kernel):
    return stageflow.work()


track_steps.params = ["voice"]
track_steps.param_names = ["kernel"]
track_steps.unit = "steps"
track_steps.version = "1"
'''

_COUNTED = '''\
"""What is counted."""

import math

import stageflow
from ._lib.operations import OPERATIONS


def track_instructions(work):
    function = getattr(stageflow, OPERATIONS[work], None)
    if function is None:
        return math.nan
    function()
    return stageflow.STEPS


track_instructions.params = list(OPERATIONS)
track_instructions.param_names = ["work"]
track_instructions.unit = "instructions"
track_instructions.version = "1"
'''

_OPERATIONS = '''\
"""The operations, and the function of the package that does each."""

OPERATIONS = {"walk": "work", "later": "added_later"}
'''

# Time stands for steps: an operation of n steps "takes" n nanoseconds.
_WORKER = '''\
"""Run operations on request."""

import json
import os
import sys

import stageflow
from benchmarks._lib.operations import OPERATIONS

CALLS = 25


def run(name):
    try:
        getattr(stageflow, OPERATIONS[name])()
    except Exception as error:
        return {"operation": name, "error": f"{type(error).__name__}: {error}"}
    steps = stageflow.STEPS
    return {"operation": name, "wall_ns": [steps] * CALLS, "cpu_ns": steps * CALLS, "count": CALLS}


def measure(series):
    try:
        name = OPERATIONS[series.split("'")[1]] if "walk" in series else "work"
        getattr(stageflow, name)()
    except AttributeError as error:
        return {"missing": [str(error)]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": stageflow.STEPS}


def say(answer):
    print(json.dumps(answer), flush=True)


missing = {name: [needs] for name, needs in OPERATIONS.items() if not hasattr(stageflow, needs)}
folder = os.path.dirname(stageflow.__file__)
say({"ready": True, "package": folder, "operations": list(OPERATIONS), "missing": missing})
for line in sys.stdin:
    asked = json.loads(line)
    if "measure" in asked:
        say({series: measure(series) for series in asked["measure"]})
    else:
        say(run(asked["operation"]))
'''

_BUDGETS = """\
version = 1

[limits]
counted_fail = 1.095
counted_warn = 1.02
timed_fail = 1.2
timed_warn = 1.05

[[budget]]
metric = "Steps"
benchmark = "exact.track_steps('voice')"
unit = "steps"
p50 = {limit}
gate = "pre-merge"
owner = "engine"
runbook = "steps"

[[budget]]
metric = "A walk"
benchmark = "timed('walk')"
unit = "ms"
p50 = 1
p99 = 1
gate = "pre-merge"
owner = "engine"
runbook = "walk"

[[budget]]
metric = "Steps by night"
benchmark = "work.track_steps"
unit = "steps"
p50 = 1
gate = "nightly"
owner = "engine"
runbook = "night"

[[without_budget]]
benchmarks = "counted.*"
reason = "counted"

[[without_budget]]
benchmarks = "timed('later')"
reason = "added later"
"""


def budgets(limit: float = 10 * BASE_STEPS) -> dict[str, str]:
    """The file of budgets, which allow that many steps."""
    return {"benchmarks/budgets.toml": _BUDGETS.format(limit=limit)}


def operations(**more: str) -> dict[str, str]:
    """Return the file of operations, with more of them."""
    lines = "".join(f"OPERATIONS[{name!r}] = {function!r}\n" for name, function in more.items())
    return {"benchmarks/_lib/operations.py": _OPERATIONS + lines}


def benchmark_files() -> dict[str, str]:
    """The benchmarks that the gate judges, their worker and their budgets."""
    return {
        "benchmarks/exact.py": _EXACT,
        "benchmarks/counted.py": _COUNTED,
        "benchmarks/_lib/__init__.py": "",
        "benchmarks/_lib/worker.py": _WORKER,
        **operations(),
        **budgets(),
    }


@dataclass(frozen=True)
class GateRepo(ScratchRepo):
    """A repository whose branch ``feature`` is to be merged into ``main``."""

    def gate(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the gate on it."""
        return self.pulse("gate", *args)

    def content(self) -> dict[str, bytes]:
        """Return all measurements: results of asv, and the gate's own."""
        files = [*self.path.glob(".asv/results/*/*.json"), *self.path.glob(".asv/gate/*.json")]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}


def gated(factory: pytest.TempPathFactory, folder: Path) -> GateRepo:
    """A copy in `folder` of the session's repository on ``feature``, its base measured."""

    def make(shared: Path) -> None:
        repo = GateRepo(**vars(asv_repo.measured(factory).copy(shared)))
        # The package is without what is added later.
        repo.commit("Benchmarks for the gate", benchmark_files() | package(BASE_STEPS))
        repo.git("switch", "--quiet", "--create", "feature")
        done = repo.gate()
        assert done.returncode == 0, done.stdout

    return _copied(factory, once(factory, "gate", make), folder)


def slower(factory: pytest.TempPathFactory, folder: Path) -> GateRepo:
    """The same with a commit that is planted 1.5 times slower, and judged."""

    def make(shared: Path) -> None:
        repo = gated(factory, shared)
        repo.commit("Slower", package(BASE_STEPS * 3 // 2))
        done = repo.gate()
        assert done.returncode == 1, done.stdout

    return _copied(factory, once(factory, "slower", make), folder)


def _copied(factory: pytest.TempPathFactory, shared: Path, folder: Path) -> GateRepo:
    original = asv_repo.measured(factory)
    made = replace(original, repo=replace(original.repo, path=shared / "repo")).copy(folder)
    return GateRepo(**vars(made))

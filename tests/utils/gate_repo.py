"""Scratch repositories with benchmarks that the gate judges, and figures that are known.

The package counts its steps. The exact benchmark, the counted one and the timed works all report
these steps, so that what is planted is found on any machine, through real git, asv and workers.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.utils import asv_repo
from tests.utils.asv_repo import BASE_STEPS, ScratchRepo, package

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
from .works import WORKS


def track_instructions(work):
    function = getattr(stageflow, WORKS[work], None)
    if function is None:
        return math.nan
    function()
    return stageflow.STEPS


track_instructions.params = list(WORKS)
track_instructions.param_names = ["work"]
track_instructions.unit = "instructions"
track_instructions.version = "1"
'''

_WORKS = '''\
"""The works, and the function of the package that does each."""

WORKS = {"walk": "work", "later": "added_later"}
'''

# Time stands for steps: an operation of n steps "takes" n nanoseconds.
_WORKER = '''\
"""Does the works on request."""

import json
import os
import sys

import stageflow
from benchmarks.works import WORKS

CALLS = 25


def run(name):
    try:
        getattr(stageflow, WORKS[name])()
    except Exception as error:
        return {"work": name, "error": f"{type(error).__name__}: {error}"}
    steps = stageflow.STEPS
    return {"work": name, "wall_ns": [steps] * CALLS, "cpu_ns": steps * CALLS, "operations": CALLS}


def measure(series):
    try:
        function = getattr(stageflow, WORKS[series.split("'")[1]] if "walk" in series else "work")
        function()
    except AttributeError as error:
        return {"missing": [str(error)]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": stageflow.STEPS}


def say(answer):
    print(json.dumps(answer), flush=True)


missing = {name: [needs] for name, needs in WORKS.items() if not hasattr(stageflow, needs)}
folder = os.path.dirname(stageflow.__file__)
say({"ready": True, "package": folder, "works": list(WORKS), "missing": missing})
for line in sys.stdin:
    asked = json.loads(line)
    if "measure" in asked:
        say({series: measure(series) for series in asked["measure"]})
    else:
        say(run(asked["work"]))
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


def works(**more: str) -> dict[str, str]:
    """The file of works, with more of them."""
    lines = "".join(f"WORKS[{name!r}] = {function!r}\n" for name, function in more.items())
    return {"benchmarks/works.py": _WORKS + lines}


@dataclass(frozen=True)
class GateRepo(ScratchRepo):
    """A repository whose branch ``feature`` is to be merged into ``main``."""

    def gate(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the gate on it."""
        return self.pulse("gate", *args)

    def copy(self, folder: Path) -> GateRepo:
        """A copy to change at will."""
        made = ScratchRepo.copy(self, folder)
        return GateRepo(made.path, made.home)

    def content(self) -> dict[str, bytes]:
        """What has been measured: all results of asv, and all that the gate keeps."""
        files = [*self.path.glob(".asv/results/*/*.json"), *self.path.glob(".asv/gate/*.json")]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}


@functools.cache
def gated(shared: Path, folder: Path) -> GateRepo:
    """The repository of this test session on ``feature``, its base measured; copy it.

    Args:
        shared: Folder of the measured repository, whose asv environment it shares.
        folder: Where to make it.
    """
    made = asv_repo.measured(shared).repo.copy(folder)
    repo = GateRepo(made.path, made.home)
    files = {
        "benchmarks/exact.py": _EXACT,
        "benchmarks/counted.py": _COUNTED,
        "benchmarks/worker.py": _WORKER,
        **works(),
        **budgets(),
        # Without what is added later.
        **package(BASE_STEPS),
    }
    repo.commit("Benchmarks for the gate", files)
    repo.git("switch", "--quiet", "--create", "feature")
    done = repo.gate()
    assert done.returncode == 0, done.stdout
    return repo


@functools.cache
def slower(shared: Path, folder: Path, slow_folder: Path) -> GateRepo:
    """The same with a commit that is planted 1.5 times slower, judged; copy it."""
    repo = gated(shared, folder).copy(slow_folder)
    repo.commit("Slower", package(BASE_STEPS * 3 // 2))
    done = repo.gate()
    assert done.returncode == 1, done.stdout
    return repo

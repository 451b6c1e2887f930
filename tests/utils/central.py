"""Repositories and telemetry of any size for Central Pulse, whose figures are known."""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stageflow.events import EventLog, RawEvent
from stageflow.pulse.gate import Exit
from stageflow.pulse.history import AsvProject
from stageflow.telemetry import DEAD_LETTER_WAITING, SQLiteSink
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.telemetry import NOON_S, batch
from tools.gate_selftest.trials import Detected, Fault, Identical, Rate

MACHINE = "box"
FIRST_COMMIT_S = 1_700_000_000
#: The commit from which on each series that is called so costs a fifth more, as a share of all.
STEP_AT = 0.6
STAGES = ("stt", "profile", "memory", "llm", "tts", "persist")
_COLUMNS = ["result", "params", "version", "started_at", "duration"]

_COUNTED = '''\
"""What is counted."""


class Operation:
    params = ["build.complex"]
    param_names = ["operation"]

    def track_instructions(self, operation):
        return 1e6

    track_instructions.unit = "instructions"
    track_instructions.version = "1"
'''

_ENGINE = '''\
"""What is timed."""


class Runs:
    pass


def _track(self):
    return 1e-3


_track.unit = "seconds"
_track.version = "1"
for number in range(1, {metrics}):
    setattr(Runs, f"track_{{number:03}}", _track)
'''

#: As a worker that knows no operation.
_WORKER = '''\
"""Does nothing on request."""

import json
import os
import sys

import stageflow

if __name__ == "__main__":
    folder = os.path.dirname(stageflow.__file__)
    ready = {"ready": True, "package": folder, "operations": [], "missing": {}}
    print(json.dumps(ready), flush=True)
    sys.stdin.read()
'''

#: The rise to 1,200,000 is over it.
_BUDGETS = """\
version = 1

[limits]
counted_fail = 1.095
counted_warn = 1.01
timed_fail = 1.2
timed_warn = 1.05

[[budget]]
metric = "Building 20 stages"
benchmark = "counted.Operation.track_instructions('build.complex')"
unit = "instructions"
p50 = 1_100_000
gate = "pre-merge"
owner = "engine"
runbook = "pipeline-build"
"""

_RUNBOOK = """\
# Runbook

## pipeline-build

Look at `validation.py` & "graph.py".

Then <again>.
"""


def repository(folder: Path, commits: int, metrics: int, *, machine: str = MACHINE) -> AsvProject:
    """A git repository of so many empty commits, each with results of so many series.

    Series 0 is ``counted.Operation.track_instructions('build.complex')``, which rises at `STEP_AT`
    from 1,000,000 to 1,200,000 instructions; the others are timed, and scatter by 3 %.
    """
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet", "--initial-branch", "main")
    subprocess.run(
        ["git", "fast-import", "--quiet"],
        cwd=folder,
        input="".join(_fast_import(commits)).encode(),
        check=True,
    )
    hashes = _git(folder, "rev-list", "--reverse", "main").split()
    files = {
        # The package here is called stageflow, too, and has no plugin for asv.
        "asv.conf.json": json.dumps(
            json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8")) | {"plugins": []}
        ),
        "stageflow/__init__.py": "",
        "benchmarks/__init__.py": "",
        "benchmarks/counted.py": _COUNTED,
        "benchmarks/engine.py": _ENGINE.format(metrics=metrics),
        "benchmarks/_lib/__init__.py": "",
        "benchmarks/_lib/worker.py": _WORKER,
        "benchmarks/budgets.toml": _BUDGETS,
        "benchmarks/pulse.toml": (ROOT / "benchmarks/pulse.toml").read_text(encoding="utf-8"),
        "docs/runbook.md": _RUNBOOK,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    project = AsvProject.load(folder)
    _results(project, hashes, metrics, machine)
    return project


def _git(folder: Path, *args: str) -> str:
    done = run_command(["git", *args], cwd=folder, check=True)
    return done.stdout


def _fast_import(commits: int) -> Iterator[str]:
    for number in range(commits):
        message = f'Change <{number}> & "more" //of it'
        who = f"A <a@example.invalid> {FIRST_COMMIT_S + number * 3600} +0000"
        yield f"commit refs/heads/main\ncommitter {who}\ndata {len(message)}\n{message}\n\n"


def names(metrics: int) -> list[str]:
    """The names of the series of a repository."""
    return ["counted.Operation.track_instructions('build.complex')"] + [
        f"engine.Runs.track_{number:03}" for number in range(1, metrics)
    ]


def _results(project: AsvProject, hashes: list[str], metrics: int, machine: str) -> None:
    place = project.results_dir / machine
    place.mkdir(parents=True)
    facts = {"arch": "x", "cpu": "c", "num_cpu": "2", "os": "o", "ram": "1"}
    about = {"machine": machine, **facts}
    (place / "machine.json").write_text(json.dumps(about | {"version": 1}), encoding="utf-8")
    timed = names(metrics)[1:]
    counted = "counted.Operation.track_instructions"
    listed: dict[str, Any] = {
        name: {"name": name, "params": [], "param_names": [], "version": "1", "unit": "seconds"}
        for name in timed
    }
    listed[counted] = {
        "name": counted,
        "params": [["'build.complex'"]],
        "param_names": ["operation"],
        "version": "1",
        "unit": "instructions",
    }
    (project.results_dir / "benchmarks.json").write_text(
        json.dumps(listed | {"version": 2}), encoding="utf-8"
    )
    chance = random.Random(1)
    for number, commit in enumerate(hashes):
        raised = number >= STEP_AT * len(hashes)
        rows: dict[str, list[Any]] = {
            name: [[1e-3 * (n + 1) * chance.gauss(1, 0.03)], [], "1", 0, 0.1]
            for n, name in enumerate(timed)
        }
        rows[counted] = [[1.2e6 if raised else 1e6], [["'build.complex'"]], "1", 0, 0.1]
        content = {
            "commit_hash": commit,
            "env_name": "virtualenv-py3.11",
            "date": (FIRST_COMMIT_S + number * 3600) * 1000,
            "params": {**about, "python": "3.11"},
            "python": "3.11",
            "requirements": {},
            "env_vars": {},
            "result_columns": _COLUMNS,
            "results": rows,
            "durations": {},
            "version": 2,
        }
        path = place / f"{commit[:8]}-virtualenv-py3.11.json"
        path.write_text(json.dumps(content), encoding="utf-8")


_FIRST_AUDIO = '''\
"""What a person waits for."""


class TimeToFirstAudio:
    params = ["streaming_voice"]
    param_names = ["kernel"]

    def track_kernel(self, name):
        return {"samples": [0.3], "number": 1}

    track_kernel.unit = "seconds"
    track_kernel.version = "1"
'''


def hold_first_audio(project: AsvProject, *, p50: float, p99: float) -> None:
    """Give a repository a benchmark of first audio, with a budget in milliseconds."""
    (project.benchmarks_dir / "simulation.py").write_text(_FIRST_AUDIO, encoding="utf-8")
    budget = f"""
[[budget]]
metric = "First audio"
benchmark = "simulation.TimeToFirstAudio.track_kernel('streaming_voice')"
unit = "ms"
p50 = {p50}
p99 = {p99}
gate = "nightly"
owner = "kernels"
runbook = "pipeline-build"
"""
    with (project.benchmarks_dir / "budgets.toml").open("a", encoding="utf-8") as file:
        file.write(budget)


def write_selftest(project: AsvProject) -> None:
    """Write down a self-test of the gate, as its command does: one false alarm, all caught."""
    found = {
        "version": 1,
        "at": "2026-01-01T12:00:00+00:00",
        "commit": project.git("rev-parse", "main").strip(),
        "machine": {"cpus": 2, "arch": "x86_64", "system": "Linux", "python": "3.11.7"},
        "limits": {},
        "series": 97,
        "identical": [
            asdict(
                Identical(
                    condition, load, Rate(0, 20), Rate(n, 500), Rate(9, 520), 1e-5, "x", {"x": 9}
                )
            )
            for n, (condition, load) in enumerate((("quiet", 0.4), ("loaded", 5.1)))
        ],
        "planted": [
            asdict(Detected("bag", names(1)[0], rise, Rate(3, 3), Rate(3, 3)))
            for rise in (0.05, 0.1, 0.2, math.inf)
        ],
        "faults": [
            asdict(Fault("nothing matches", Exit.INSUFFICIENT_DATA, Exit.INSUFFICIENT_DATA))
        ],
    }
    path = project.root / "docs/gate-selftest.json"
    path.write_text(json.dumps(found), encoding="utf-8")


def a_load(**changes: Any) -> str:
    """A line as ``make load`` writes it: 500 turns a second for a minute, carried."""
    line = {
        "version": 1,
        "at": "2026-01-02T03:04:05+00:00",
        "commit": "a" * 40,
        "cpus": 2,
        "python": "3.11.7",
        "asked": 30_000,
        "ended": 30_000,
        "failed": 0,
        "seconds": 60.0,
        "latency_ms": {"p50": 0.6, "p95": 0.9, "p99": 1.4, "max": 9.5},
        "cpu_share": 0.15,
        "memory_growth": 0.004,
        "most_under_way": 7,
        "tasks": 0,
        "files": 0,
        "rate_hz": 500.0,
        "faults": [],
    }
    return json.dumps(line | changes) + "\n"


def voice_figures(word_error_rate: float = 0.36, **changes: Any) -> str:
    """A line as ``python -m tools.voice_figures --record`` writes it, with some of its figures."""
    line = {
        "version": 1,
        "at": "2026-01-02T03:04:05+00:00",
        "commit": "a" * 40,
        "commit_at": "2026-01-01T00:00:00+00:00",
        "cpus": 2,
        "python": "3.11.7",
        "machine": {
            "arch": "x",
            "cpu": "a processor",
            "machine": MACHINE,
            "num_cpu": "2",
            "os": "o",
            "ram": "1",
        },
        "requirements": {"pocketsphinx": "5.1.1"},
        "figures": {
            "turn.streaming.first_audio": {
                "value": 600.0,
                "unit": "ms",
                "samples": [500.0, 600.0, 1000.0],
            },
            "turn.whole.first_audio": {
                "value": 900.0,
                "unit": "ms",
                "samples": [800.0, 900.0, 1500.0],
            },
            "stt.any_words.word_error_rate": {
                "value": word_error_rate,
                "unit": "errors/word",
                "samples": None,
            },
            "answers.right_of_typed": {"value": 9, "unit": "of 10", "samples": None},
            "answers.right_of_spoken": {"value": 5, "unit": "of 10", "samples": None},
            "yet.unknown": {"value": 3.0, "unit": "s/s", "samples": None},
        },
    }
    return json.dumps(line | changes) + "\n"


def write_telemetry(path: Path, runs: int, *, hours: float = 24.0, seed: int = 1) -> None:
    """Write so many voice turns, spread evenly over some hours that end at noon.

    One in a hundred fails: at the language model with ``timeout`` in the middle of the time, with
    ``overloaded`` else. The breaker of the language model opens in the middle for a tenth of it.
    """
    chance, sink = random.Random(seed), SQLiteSink(path, source="server-1")
    start_s, length_s = NOON_S - hours * 3600, hours * 3600
    for first in range(0, runs, 500):
        numbers = range(first, min(first + 500, runs))
        sink.write(
            batch(*(log for n in numbers for log in _turn(n, runs, start_s, length_s, chance)))
        )
    sink.close()


def _turn(
    number: int, runs: int, start_s: float, length_s: float, chance: random.Random
) -> Iterator[EventLog]:
    share = number / runs
    log = EventLog(f"run-{number:07}", 0.0, start_s + share * length_s)
    middle = 0.45 <= share < 0.55
    slow = 1.6 if middle else 1 + 0.2 * math.sin(12 * share)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "voice", "correlation_id": None}))
    changes = {math.ceil(0.45 * runs): ("closed", "open", "5 failures in a row"),
               math.ceil(0.53 * runs): ("open", "half_open", "the cool-down is over"),
               math.ceil(0.55 * runs): ("half_open", "closed", "2 probes succeeded")}  # fmt: skip
    if number in changes:
        before, after, reason = changes[number]
        said = {"provider": "llm", "before": before, "after": after, "reason": reason}
        log.append((f"stage.llm.breaker_{after}", 0.0, "llm", said))
    ends: dict[str, float] = {}
    fails = number % 100 == 50 or (middle and number % 20 == 10)
    middles = {
        "stt": 0.12,
        "profile": 0.03,
        "memory": 0.05,
        "llm": 0.2,
        "tts": 0.1,
        "persist": 0.02,
    }
    needs = {"stt": (), "profile": ("stt",), "memory": ("stt",), "llm": ("profile", "memory"),
             "tts": ("llm",), "persist": ("tts",)}  # fmt: skip
    happened: list[tuple[float, int, tuple[Any, ...]]] = []
    for order, stage in enumerate(STAGES):
        began = max((ends[name] for name in needs[stage]), default=0.0)
        took = middles[stage] * slow * chance.lognormvariate(0, 0.35)
        ends[stage] = began + took
        happened.append((began, order, (f"stage.{stage}.started", began, stage, None)))
        if fails and stage == "llm":
            code = "timeout" if middle else "overloaded"
            failure = {"duration_ms": took * 1000, "error_code": code, "error_message": "it was"}
            happened.append((ends[stage], -1, ("stage.llm.failed", ends[stage], stage, failure)))
            break
        if stage == "tts":
            heard: RawEvent = (f"stage.{stage}.first_audio", ends[stage], stage, {})
            happened.append((ends[stage], -2, heard))
        completed = (f"stage.{stage}.completed", ends[stage], stage, began)
        happened.append((ends[stage], -1, completed))
    for _, _, event in sorted(happened):
        log.append(event)
    used = {"provider": "llm", "prompt_tokens": 150, "completion_tokens": 20, "cost": 0.0001}
    log.append(("stage.llm.usage", ends["llm"], "llm", used))
    end = max(ends.values())
    ending: dict[str, Any] = {"duration_ms": end * 1000}
    if fails:
        ending |= {"error_code": code, "error_message": "it was", "failed_stage": "llm"}
    log.append((f"pipeline.{'failed' if fails else 'completed'}", end, None, ending))
    yield log
    if fails and (middle or number % 1000 == 50):
        yield _letter(log, code)


def _letter(log: EventLog, code: str) -> EventLog:
    run_id, at_s = log.pipeline_run_id, log.wall_started_at
    letter = EventLog(run_id, at_s, at_s)
    data = {
        "dead_letter_id": hashlib.sha256(run_id.encode()).hexdigest()[:12],
        "created_at": _iso(at_s),
        "pipeline": "voice",
        "failed_stage": "llm",
        "provider": "llm",
        "error_code": code,
    }
    letter.append((DEAD_LETTER_WAITING, at_s, None, data))
    return letter


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()

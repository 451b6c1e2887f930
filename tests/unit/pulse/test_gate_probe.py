"""The program that measures ordinary asv benchmarks: each answers for itself, whatever it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.gate import worker

SUITE = """\
import decimal, os, subprocess, sys, time

def time_hangs():
    while True:
        time.sleep(0.001)

def time_exits():
    sys.exit(3)

def time_reads():
    subprocess.run(["head", "-n", "1"], check=True)

async def time_never_awaited():
    pass

def time_slow():
    time.sleep(0.0005)

def time_sleeps():
    time.sleep(0.05)

def track_decimal():
    return decimal.Decimal("1.5")

def track_none():
    return None

def track_infinity():
    return float("inf")

def track_nan():
    return float("nan")

def track_digits():
    return 10**400

def track_dies():
    os._exit(4)
"""
#: Questions about single benchmarks, and what is in the answers.
ANSWERS = {
    "time_hangs": "TimeoutError: it takes too long",
    "time_exits": "SystemExit: 3",
    "time_reads": "'wall_ns'",
    "time_never_awaited": "a coroutine function, which is never awaited",
    "track_decimal": "{'value': 1.5, ",
    "track_none": "TypeError: must be real number, not NoneType",
    "track_infinity": "ValueError: inf is not a finite number",
    "track_nan": "{'missing': ['a value']",
    "track_digits": "OverflowError: int too large to convert to float",
    "track_dies": "its process ended with code 4",
}
_PROGRAM = """\
from stageflow.pulse.gate import probe
probe._HANGS_S = 0.2
probe.main()
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder of benchmarks."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/__init__.py").touch()
    (tmp_path / "benchmarks/suite.py").write_text(SUITE, encoding="utf-8")
    return tmp_path / "benchmarks"


def asked(suite: Path, *questions: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers to these questions, in order, of one process."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(suite)],
        input="".join(json.dumps(question) + "\n" for question in questions),
        check=True,
        capture_output=True,
        text=True,
        env=worker.program_of(suite, Path(worker.__file__).parents[3])[1],
    )
    return [json.loads(line) for line in done.stdout.splitlines()[1:]]


def test_each_benchmark_answers_for_itself(suite: Path) -> None:
    """Those that hang, exit, die, read, or return no number leave the others their answers."""
    questions: list[dict[str, Any]] = [
        {"operation": f"suite.{name}", "seconds": 0.0}
        if name.startswith("time")
        else {"measure": [f"value('suite.{name}')"]}
        for name in ANSWERS
    ]
    found = dict(zip(ANSWERS, map(str, asked(suite, *questions)), strict=True))
    assert {name: text for name, text in found.items() if ANSWERS[name] not in text} == {}


@pytest.mark.parametrize(("body", "seconds", "calls"), [("slow", 0.0, 2), ("sleeps", 0.45, 10)])
def test_a_long_body_is_called_often_enough(
    suite: Path, body: str, seconds: float, calls: int
) -> None:
    """The gate asks twelve times: a median needs 20 samples, and a P99 a hundred.

    Ten calls of more than a tenth of the time are waited for, also where others use the processor.
    """
    (answer,) = asked(suite, {"operation": f"suite.time_{body}", "seconds": seconds})
    assert answer["count"] == len(answer["wall_ns"]) == calls

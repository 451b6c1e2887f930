"""Which of asv's results the gate takes for measured."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.gate import Asv, Catalogue, Value, measure
from stageflow.pulse.gate.measure import _Lines, digest, has_valgrind
from stageflow.pulse.history import AsvProject

HASH = "0123456789abcdef0123456789abcdef01234567"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
NAME = "exact.track_x"
SERIES = ("exact.track_x('a')", "exact.track_x('b')")
CATALOGUE = Catalogue(
    {NAME: {"name": NAME, "params": [["'a'", "'b'"]], "version": "1", "unit": "ms"}}, ()
)


def asv(root: Path, digested: str = "now") -> Asv:
    """Asv's results in a folder."""
    folder = root / ".asv/results"
    project = AsvProject(
        root, "main", root / "benchmarks", folder, root / "html", root / "aside", "stageflow"
    )
    return Asv(project, "here", CATALOGUE, digested)


def write(root: Path, row: list[Any], machine: str = "here", **more: object) -> None:
    """Write a result of asv."""
    content: dict[str, Any] = {
        "version": 2,
        "commit_hash": HASH,
        "python": PYTHON,
        "params": {"machine": machine, "cpu": "a processor", "arch": "x86_64"},
        "result_columns": ["result", "params", "version", "started_at", "samples"],
        "results": {NAME: row},
    }
    path = root / f".asv/results/{machine}/{HASH[:8]}-{more.get('env', 'env')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more), encoding="utf-8")


def know(root: Path, digested: str = "now") -> None:
    """Write down that it was measured with the benchmarks of that digest."""
    content = {"version": 1, "commits": {HASH: {NAME: digested}}}
    (root / ".asv/gate").mkdir(parents=True, exist_ok=True)
    (root / ".asv/gate/measured.json").write_text(json.dumps(content), encoding="utf-8")


PARAMS = [["'a'", "'b'"]]


def test_values_samples_and_the_lack_of_them(tmp_path: Path) -> None:
    """A value has its samples, NaN stays NaN, and null means that it broke."""
    write(tmp_path, [[1.5, None], PARAMS, "1", 7, [[1.0, 2.0], None]])
    know(tmp_path)
    found = asv(tmp_path).read(HASH)
    assert found.values == {SERIES[0]: Value(1.5, (1.0, 2.0)), SERIES[1]: Value(None)}
    assert found.machine == f"here, a processor, x86_64, Python {PYTHON}"
    write(tmp_path, [[math.nan, 0], PARAMS, "1"])
    values = asv(tmp_path).read(HASH).values
    assert math.isnan(values[SERIES[0]].value or 0)
    assert values[SERIES[1]] == Value(0)


def test_benchmark_that_broke_as_a_whole(tmp_path: Path) -> None:
    """Asv writes one null for all parameters: each of its series broke."""
    write(tmp_path, [None, PARAMS, "1"])
    know(tmp_path)
    assert asv(tmp_path).read(HASH).values == dict.fromkeys(SERIES, Value(None))


@pytest.mark.parametrize(
    "row", [[[1, 2], PARAMS, "2"], [[1], [["'a'"]], "1"]], ids=["another version", "other params"]
)
def test_results_of_another_benchmark_are_not_taken(tmp_path: Path, row: list[Any]) -> None:
    """A result of another version, or of other parameters, counts as not measured."""
    write(tmp_path, row)
    know(tmp_path)
    assert asv(tmp_path).read(HASH).values == {}


@pytest.mark.parametrize("ledger", ["of a list", "none", "another", "corrupt", "another format"])
def test_results_of_edited_benchmarks_are_not_taken(tmp_path: Path, ledger: str) -> None:
    """Unless it is known that the benchmarks were these, they are measured anew; history is not."""
    write(tmp_path, [[1, 2], PARAMS, "1"])
    if ledger == "another":
        know(tmp_path, "before")
    elif ledger != "none":
        know(tmp_path)
        texts = {"corrupt": "{", "of a list": f'{{"version": 1, "commits": {{"{HASH}": [1]}}}}'}
        text = texts.get(ledger, '{"version": 99, "commits": 7}')
        (tmp_path / ".asv/gate/measured.json").write_text(text, encoding="utf-8")
    assert asv(tmp_path).read(HASH).values == {}
    assert asv(tmp_path).read(HASH, reusable=False).values.keys() == set(SERIES)


@pytest.mark.parametrize("more", [{"machine": "there"}, {"python": "2.7"}])
def test_results_of_elsewhere_say_so(tmp_path: Path, more: dict[str, str]) -> None:
    """Results of another machine or Python carry its name, and are taken if there are no others."""
    write(tmp_path, [[1, 2], PARAMS, "1"], **more)
    know(tmp_path)
    found = asv(tmp_path).read(HASH)
    assert found.values.keys() == set(SERIES)
    assert next(iter(more.values())) in found.machine
    write(tmp_path, [[3, 4], PARAMS, "1"], env="ours")
    assert asv(tmp_path).read(HASH).values[SERIES[0]] == Value(3)


def test_newest_of_two_environments(tmp_path: Path) -> None:
    """Of two results of one commit the later one counts, however their files are called."""
    write(tmp_path, [[1, 2], PARAMS, "1", 200], env="a")
    write(tmp_path, [[3, 4], PARAMS, "1", 100], env="b")
    assert asv(tmp_path).read(HASH, reusable=False).values[SERIES[0]] == Value(1)


def test_digest_changes_with_what_decides(tmp_path: Path) -> None:
    """Any edit, name or machine changes it; a file that is not Python does not."""
    (tmp_path / "deep").mkdir()
    files = {"a.py": "1", "deep/b.py": "2", "budgets.toml": "3"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    seen = [digest(tmp_path, "m"), digest(tmp_path, "n")]
    (tmp_path / "deep/b.py").write_text("4")
    seen.append(digest(tmp_path, "m"))
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    seen.append(digest(tmp_path, "m"))
    assert len(set(seen)) == 4
    (tmp_path / "budgets.toml").write_text("5")
    assert digest(tmp_path, "m") == seen[-1]


def test_valgrind_is_looked_for_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions are counted on Linux and x86-64 with valgrind on the path, else not."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/valgrind")
    assert has_valgrind()
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert not has_valgrind()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not has_valgrind()


ASV_LINES = """\
· For stageflow commit 01234567 <main>:
[ 0.00%] ··· Setting up counted:27                                                failed
[ 0.00%] ···· {shared}
[ 0.00%] ··· exact.track_x skipped (setup_cache failed)
[ 0.00%] ··· exact.track_z skipped (setup_cache failed)
[50.00%] ··· exact.track_x                                                        failed
[50.00%] ···· {own}
[75.00%] ··· exact.track_y                                                        failed
[75.00%] ···· TimeoutError: the operation timed out
· For stageflow commit fedcba98 <main~1>:
[99.00%] ··· exact.track_x                                                            ok
"""


@pytest.mark.parametrize(
    ("shared", "own", "late"),
    [
        ("asv: setup_cache failed (exit status -256)", "", True),
        ("asv: setup_cache failed (exit status 1)", "", False),
        ("", "asv: benchmark timed out (timeout 60s)", True),
        ("benchmarks._lib.callgrind.TooBusyError: 9 were not counted within 60 s", "", True),
        ("", "TimeoutError: the operation timed out", False),
    ],
)
def test_what_was_not_done_in_time(tmp_path: Path, shared: str, own: str, late: bool) -> None:
    """Asv's lines say which benchmark ran out of time; one that raised by itself is broken."""
    told: list[str] = []
    lines = _Lines(told.append)
    for line in ASV_LINES.format(shared=shared, own=own).splitlines():
        lines.line(line)
    assert told == ASV_LINES.format(shared=shared, own=own).splitlines()
    assert [key for key in lines.late if key[1] == NAME] == [(HASH[:8], NAME)] * late
    assert (HASH[:8], "exact.track_y") not in lines.late
    assert ((HASH[:8], "exact.track_z") in lines.late) is (late and bool(shared))
    write(tmp_path, [[1, None], PARAMS, "1"])
    know(tmp_path)
    values = asv(tmp_path).read(HASH, late=lines.late).values
    assert values[SERIES[0]] == Value(1)
    assert (values[SERIES[1]].late, bool(values[SERIES[1]].note)) == (late, late)


SHARED: dict[str, Any] = {"setup_cache_key": "counted:9", "version": "1", "unit": "u"}
COUNTED: dict[str, dict[str, Any]] = {
    "counted.A.track": SHARED | {"params": [["'x'", "'y'"]]},
    "counted.B.track": SHARED | {"params": []},
    "work.track": SHARED | {"params": [["1", "2"]], "setup_cache_key": "work:1"},
}
ALL = ["counted.A.track('x')", "counted.A.track('y')", "counted.B.track", *SERIES]


@pytest.mark.parametrize(
    ("asked", "apart"),
    [
        (ALL, []),
        (ALL[1:], ALL[1:3]),
        (ALL[:2], ALL[:2]),
        (SERIES[:1], []),
        (["work.track(1)", "timed('x')"], []),
    ],
)
def test_few_of_those_that_share_a_cache_are_measured_apart(
    tmp_path: Path, asked: list[str], apart: list[str]
) -> None:
    """All of them are asv's; a part of a benchmark without a cache is, and what is not judged."""
    some = replace(asv(tmp_path), catalogue=Catalogue({**CATALOGUE.benchmarks, **COUNTED}, ()))
    assert some.apart(asked) == apart


def test_what_a_worker_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value, a lack, an error and a time limit are different answers, as asv's are."""
    answers = {"a": {"value": 3}, "b": {"missing": ["x"]}, "c": {"error": "E"}, "d": {"late": "L"}}

    class Measures(contextlib.nullcontext[Any]):
        def measure(self, series: str) -> dict[str, Any]:
            return {name: answers[name] for name in series}

    monkeypatch.setattr(measure, "Worker", lambda *_: Measures(Measures()))
    monkeypatch.setattr(measure, "tree", lambda *_: contextlib.nullcontext(tmp_path))
    found = asv(tmp_path).measure_apart(HASH, "abcd", lambda _: None)
    assert math.isnan(found.pop("b").value or 0)
    late = Value(None, note="L", late=True)
    assert found == {"a": Value(3.0), "c": Value(None, note="E"), "d": late}

"""Corrupt asv result files are named, set aside and kept; sound ones are left alone."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.pulse.history.results import defect, set_aside_corrupt

HASH = "0123456789abcdef0123456789abcdef01234567"
MACHINE = {"arch": "x86_64", "cpu": "c", "machine": "m", "num_cpu": "2", "os": "L", "ram": "1"}
RESULT: dict[str, Any] = {
    "commit_hash": HASH,
    "env_name": "virtualenv-py3.11",
    "date": 1_700_000_000_000,
    "params": MACHINE | {"python": "3.11"},
    "python": "3.11",
    "requirements": {},
    "env_vars": {},
    "result_columns": ["result", "params", "version", "started_at", "duration", "stats_q_25"],
    "results": {
        "a.time_x": [[0.5, None], [["1", "2"]], "1", 1, 0.1, [0.4, None]],
        "a.time_skipped": [[float("nan")], [], "1"],
        "a.time_failed": [None, [], "1"],
    },
    "durations": {},
    "version": 2,
}
BENCHMARKS = {
    "a.time_x": {"name": "a.time_x", "params": [["1", "2"]], "param_names": ["n"], "version": "1"},
    "version": 2,
}
RESULT_NAME = f"m/{HASH[:8]}-virtualenv-py3.11.json"


def write_sound(results: Path) -> dict[str, Path]:
    """Sound files of each kind, as asv 0.6.6 writes them."""
    content = {
        "benchmarks.json": BENCHMARKS,
        "m/machine.json": MACHINE | {"version": 1},
        RESULT_NAME: RESULT,
        "m/fedcba98-virtualenv-py3.11.json": RESULT
        | {"commit_hash": "fedcba98" + "0" * 32, "results": {}},
    }
    for name, data in content.items():
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data), encoding="utf-8")
    return {name: results / name for name in content}


def changed(**values: object) -> str:
    """A result file with some keys changed; None takes a key away."""
    data = copy.deepcopy(RESULT) | values
    return json.dumps({key: value for key, value in data.items() if value is not None})


def row(values: object, samples: object = None, started: object = 1, q_25: object = None) -> bytes:
    """A result file with one benchmark."""
    columns = ["result", "samples", "started_at", "duration", "stats_q_25"]
    cells = [values, samples, started, 0.5, q_25]
    return changed(result_columns=columns, results={"a.t": cells}).encode()


def listed(name: str, params: object, names: object) -> bytes:
    """A list of one benchmark."""
    row = {"name": name, "params": params, "param_names": names, "version": "1"}
    return json.dumps({name: row, "version": 2}).encode()


def nested(levels: int) -> Any:
    """Lists within each other."""
    return [nested(levels - 1)] if levels else []


#: asv's search for steps never ends with them, or ends with an error.
UNDRAWABLE = (math.inf, -math.inf, 1e308, 10**400, "1", [1], None)
BEYOND_ASV = [[1, value] for value in UNDRAWABLE if value is not None] + [7]

#: Parameters that are not texts, or too many.
UNUSABLE: tuple[Any, ...] = ([[1]], [[None]], [["x"] * 1000] * 3, {"n": []})

CORRUPTIONS = [
    (RESULT_NAME, b"", "empty"),
    (RESULT_NAME, b" \n", "empty"),
    (RESULT_NAME, b"\xff\xfe{}", "UTF-8"),
    (RESULT_NAME, json.dumps(RESULT).encode()[:200], "line 1 column"),
    (RESULT_NAME, b"[]", "list"),
    (RESULT_NAME, changed(version=1).encode(), "version 1, expected 2"),
    (RESULT_NAME, changed(version=None).encode(), "version None"),
    (RESULT_NAME, changed(results=None).encode(), "'results' is missing"),
    (RESULT_NAME, changed(results=[]).encode(), "'results' holds a JSON list"),
    (RESULT_NAME, changed(commit_hash="f" * 40).encode(), "does not belong"),
    (RESULT_NAME, changed(params=MACHINE | {"machine": "n"}).encode(), "measured on 'n'"),
    (RESULT_NAME, changed(results={"a.t": "fast"}).encode(), "'a.t' do not fit"),
    (RESULT_NAME, changed(results={"a.t": [[1]] * 9}).encode(), "'a.t' do not fit"),
    (RESULT_NAME, changed(results={"a.t": [["fast"], [], "1"]}).encode(), "list of numbers"),
    (RESULT_NAME, changed(results={"a.t": [[1], ["n"], "1"]}).encode(), "params of 'a.t'"),
    *(
        (RESULT_NAME, changed(results={"a.t": [[1], params, "1"]}).encode(), "params of 'a.t'")
        for params in UNUSABLE
    ),
    (RESULT_NAME, changed(results={"a.t": [[1], [], "1", 1, 1, 7]}).encode(), "'stats_q_25'"),
    *((RESULT_NAME, row(values), "'a.t' is not a list of numbers") for values in BEYOND_ASV),
    *((RESULT_NAME, row([1], [[1, bad]]), "samples of 'a.t'") for bad in (*UNDRAWABLE, math.nan)),
    (RESULT_NAME, row([1], 7), "samples of 'a.t'"),
    (RESULT_NAME, row([1], [7]), "samples of 'a.t'"),
    (RESULT_NAME, row([1], started=math.inf), "started_at of 'a.t' is not a point in time: inf"),
    (RESULT_NAME, row([1], started="now"), "started_at of 'a.t' is not a point in time"),
    (RESULT_NAME, row([1], q_25=[10**400]), "'stats_q_25' of 'a.t'"),
    (RESULT_NAME, changed(date=math.nan).encode(), "not finite"),
    (RESULT_NAME, changed(date=1e15).encode(), "date is not a point in time"),
    (RESULT_NAME, changed(durations={"b": math.inf}).encode(), "not finite"),
    (RESULT_NAME, changed(results={"\ud800": None}).encode(), "half of a character"),
    (RESULT_NAME, changed(result_columns=[1]).encode(), "columns are not named"),
    (RESULT_NAME, changed(params=MACHINE | {"ram": []}).encode(), "not single values"),
    (RESULT_NAME, row([1], started=0).replace(b"0.5", b"1" * 5_000), "not JSON that asv can read"),
    (RESULT_NAME, b"[" * 100_000, "nested too deeply"),
    (RESULT_NAME, changed(env_vars=nested(50)).encode(), "nested too deeply"),
    ("benchmarks.json", json.dumps({"version": 2, "a": nested(50)}).encode(), "nested too deeply"),
    ("m/machine.json", b'{"machine": "m", "version": 1, "ram": NaN}', "not finite"),
    ("m/machine.json", b'{"machine": "m"', "not whole JSON"),
    ("m/machine.json", b'{"machine": "other", "version": 1}', "'other'"),
    ("m/machine.json", b'{"machine": "m", "version": 9}', "version 9, expected 1"),
    ("benchmarks.json", b'{"a.time_x": {"na', "not whole JSON"),
    ("benchmarks.json", b'{"a.time_x": 3, "version": 2}', "'a.time_x' is not described"),
    *(
        ("benchmarks.json", listed("a", params, names), "malformed params")
        for params, names in (([[1]], ["n"]), ([["1"]], []), ([["x"] * 1000] * 3, ["n"] * 3))
    ),
    ("benchmarks.json", listed("a" * 300, [], []), "too long a name"),
    (
        "benchmarks.json",
        b'{"a": {"name": "a", "params": [1], "param_names": [], "version": "1"}, "version": 2}',
        "malformed params",
    ),
    (
        "benchmarks.json",
        b'{"a": {"name": "a", "params": [], "param_names": []}, "version": 2}',
        "no version",
    ),
]


def test_sound_files_stay(tmp_path: Path) -> None:
    """Files as asv writes them, with skipped and failed benchmarks in them, are not touched."""
    paths = write_sound(tmp_path / "results")
    before = {name: path.read_bytes() for name, path in paths.items()}
    assert set_aside_corrupt(tmp_path / "results", tmp_path / "aside") == []
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(("name", "content", "reason"), CORRUPTIONS)
def test_corrupt_file_is_named_and_moved(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """A corrupt file is named with its reason and moved, unchanged, and only it."""
    paths = write_sound(tmp_path / "results")
    paths[name].write_bytes(content)
    others = {n: p.read_bytes() for n, p in paths.items() if n != name}
    (moved,) = set_aside_corrupt(tmp_path / "results", tmp_path / "aside")
    assert moved.path == paths[name]
    assert reason in moved.reason
    assert moved.moved_to == tmp_path / "aside" / name
    assert moved.moved_to.read_bytes() == content
    assert {n: p.read_bytes() for n, p in paths.items() if n != name} == others
    assert set_aside_corrupt(tmp_path / "results", tmp_path / "aside") == []


def test_what_scatters_without_bounds_stays(tmp_path: Path) -> None:
    """Asv writes infinite bounds where it has too few samples, and NaN for what was skipped."""
    path = write_sound(tmp_path)[RESULT_NAME]
    path.write_bytes(row([math.nan, None, 1e100, True], [None, [1, 2.5]], None, [math.inf, None]))
    assert defect(path) is None


@pytest.mark.parametrize(
    "name", ["m/folder.json", "m/machine.json", "benchmarks.json", "m/n/x.json"]
)
@pytest.mark.parametrize("kind", ["folder", "link", "loop", "pipe"])
def test_an_entry_that_is_not_a_file_is_named_and_moved(
    tmp_path: Path, name: str, kind: str
) -> None:
    """A folder, a link that leads nowhere and a pipe that nobody fills stop nothing."""
    write_sound(tmp_path / "results")
    path = tmp_path / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "folder":
        (path / "deeper").mkdir(parents=True)
        (path / "deeper/x.json").write_text("{}")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else "nowhere")
    for number in range(2):
        moved = set_aside_corrupt(tmp_path / "results", tmp_path / "aside")
        reason = "in the folder of a machine" if name == "m/n/x.json" else "not a file"
        assert [(item.path, reason in item.reason) for item in moved] == [(path, True)] * (
            not number
        )
    assert os.path.lexists(tmp_path / "aside" / name)


def test_nothing_set_aside_is_overwritten(tmp_path: Path) -> None:
    """A file that is corrupt three times over leaves three files in the folder."""
    for content in (b"1", b"2", b"3"):
        write_sound(tmp_path / "results")[RESULT_NAME].write_bytes(content)
        set_aside_corrupt(tmp_path / "results", tmp_path / "aside")
    kept = [path.read_bytes() for path in (tmp_path / "aside" / "m").iterdir()]
    assert sorted(kept) == [b"1", b"2", b"3"]


def test_lost_machine_file_is_made_anew(tmp_path: Path) -> None:
    """A machine whose description is corrupt gets it back from what its results say of it."""
    paths = write_sound(tmp_path / "results")
    paths["m/machine.json"].write_text("{")
    set_aside_corrupt(tmp_path / "results", tmp_path / "aside")
    assert json.loads(paths["m/machine.json"].read_text()) == MACHINE | {"version": 1}


def test_no_results_yet(tmp_path: Path) -> None:
    """A results folder that does not exist yet holds nothing corrupt."""
    assert set_aside_corrupt(tmp_path / "results", tmp_path / "aside") == []


@given(st.data())
def test_half_written_file_is_never_sound(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A result file that was cut off anywhere is found out."""
    folder = tmp_path_factory.mktemp("cut")
    path = write_sound(folder)[RESULT_NAME]
    whole = path.read_bytes()
    assert defect(path) is None
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert defect(path) is not None

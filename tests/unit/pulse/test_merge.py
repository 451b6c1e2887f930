"""Results of several machines are put together: nothing is lost, nothing is mixed up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse import PulseError
from stageflow.pulse.history import AsvProject, merge

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = f"{COMMIT[:8]}-virtualenv-py3.11.json"
PARAMS = {"machine": "ci", "arch": "x86_64", "cpu": "c", "num_cpu": "2", "os": "o", "ram": "1"}
COLUMNS = ["result", "params", "version", "started_at"]

Rows = Mapping[str, tuple[float, int]]


def result(rows: Rows, **changed: Any) -> dict[str, Any]:
    """A result file: value and time of measurement by benchmark."""
    whole = {
        "commit_hash": COMMIT,
        "env_name": "virtualenv-py3.11",
        "date": 1,
        "params": PARAMS,
        "python": "3.11",
        "requirements": {},
        "env_vars": {},
        "result_columns": COLUMNS,
        "results": {name: [[value], [], "1", at] for name, (value, at) in rows.items()},
        "durations": {},
        "version": 2,
    }
    return whole | changed


def fill(folder: Path, content: Mapping[str, Any] | str, benchmark_version: str = "1") -> Path:
    """A folder of results of one machine and one commit."""
    machine = folder / "ci"
    machine.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (machine / NAME).write_text(text)
    (machine / "machine.json").write_text(json.dumps(PARAMS | {"version": 1}))
    benchmark = {"name": "a", "params": [], "param_names": [], "version": benchmark_version}
    (folder / "benchmarks.json").write_text(json.dumps({"a": benchmark, "version": 2}))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> AsvProject:
    """A clone without results."""
    settings = {"branches": ["main"], "project": "p", "results_dir": "results", "html_dir": "html"}
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "asv.conf.json").write_text(json.dumps(settings))
    return AsvProject.load(tmp_path / "clone")


def values(project: AsvProject) -> dict[str, float]:
    """The values in the clone, by benchmark."""
    content = json.loads((project.results_dir / "ci" / NAME).read_text())
    column = content["result_columns"].index("result")
    return {name: row[column][0] for name, row in content["results"].items()}


def snapshot(project: AsvProject) -> dict[Path, bytes]:
    """All that stands in the clone's results."""
    found = project.results_dir.rglob("*")
    return {path: path.read_bytes() for path in found if path.is_file()}


def ignore(line: str) -> None:
    """Tell nobody."""


def test_shards_of_one_commit_come_together(project: AsvProject, tmp_path: Path) -> None:
    """The measurements of each are there, and of two for the same series the later one; once."""
    first = fill(tmp_path / "1", result({"a": (1.0, 10), "b": (2.0, 10)}))
    second = fill(tmp_path / "2", result({"c": (3.0, 10), "b": (2.5, 11)}))
    third = fill(tmp_path / "3", result({"a": (1.5, 9)}))
    told: list[str] = []
    done = merge(project, [first, second, third], told.append)
    assert values(project) == {"a": 1.0, "b": 2.5, "c": 3.0}
    assert done.rows == 4
    assert told == [
        f"{first}: 2 measurements",
        f"{second}: 2 measurements",
        f"{third}: 0 measurements",
    ]
    before = snapshot(project)
    assert merge(project, [third, second, first], told.append).files == 0
    assert snapshot(project) == before


def test_columns_are_matched_by_name(project: AsvProject, tmp_path: Path) -> None:
    """A file of another version of asv may have other columns, in another order."""
    fill(project.results_dir, result({"a": (1.0, 10)}))
    columns = ["started_at", "version", "extra", "params", "result"]
    rows = {"b": [10, "1", "x", [], [2.0]]}
    other = result({}, result_columns=columns, results=rows)
    merge(project, [fill(tmp_path / "1", other)], ignore)
    assert values(project) == {"a": 1.0, "b": 2.0}


def test_records_keep_each_line_once(project: AsvProject, tmp_path: Path) -> None:
    """A record that two machines share grows by what is new, in order."""
    folder = fill(tmp_path / "1", result({"a": (1.0, 10)}))
    (folder / "load.jsonl").write_text("old\nnew\n")
    project.results_dir.mkdir()
    (project.results_dir / "load.jsonl").write_text("older\nold\n")
    merge(project, [folder], ignore)
    assert (project.results_dir / "load.jsonl").read_text() == "older\nold\nnew\n"


@pytest.mark.parametrize(
    ("content", "version", "said"),
    [
        ('{"cut', "1", "cannot be merged: not whole JSON"),
        (result({}, python="3.12"), "1", "python is '3.12' there and '3.11' here"),
        (result({}, params=PARAMS | {"ram": "2"}), "1", "different names"),
        (result({"b": (2.0, 1)}), "2", "has a in version 2, and here it is 1"),
    ],
)
def test_what_does_not_belong_is_refused(
    project: AsvProject, tmp_path: Path, content: Any, version: str, said: str
) -> None:
    """Named, with what differs; of the folders before it nothing was merged either."""
    fill(project.results_dir, result({"a": (1.0, 10)}))
    before = snapshot(project)
    good = fill(tmp_path / "1", result({"c": (3.0, 10)}))
    with pytest.raises(PulseError, match=said):
        merge(project, [good, fill(tmp_path / "2", content, version)], ignore)
    assert snapshot(project) == before


def test_a_folder_without_results_is_named(project: AsvProject, tmp_path: Path) -> None:
    """It may be the wrong one."""
    with pytest.raises(PulseError, match="holds no results: name a folder like"):
        merge(project, [tmp_path / "nowhere"], ignore)

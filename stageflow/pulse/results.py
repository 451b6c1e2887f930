"""asv's result files: which are sound, and the setting aside of those that are not.

asv writes its files in place, so an interrupt or a full disk leaves half a file; one such file
ends ``asv publish`` or hides a whole machine. Here each file is judged before asv reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.whole_file import whole_file

BENCHMARKS_FILE = "benchmarks.json"
MACHINE_FILE = "machine.json"
MACHINE_FIELDS = ("arch", "cpu", "machine", "num_cpu", "os", "ram")
_FORMAT_VERSIONS = {BENCHMARKS_FILE: 2, MACHINE_FILE: 1}
_RESULT_FORMAT_VERSION = 2
_RESULT_SHAPE: dict[str, type | tuple[type, ...]] = {
    "commit_hash": str,
    "env_name": str,
    "date": (int, float),
    "params": dict,
    "python": str,
    "requirements": dict,
    "result_columns": list,
    "results": dict,
}


@dataclass(frozen=True, slots=True)
class SetAside:
    """A result file that was taken out of asv's sight.

    Attributes:
        path: Where it stood.
        reason: What was wrong with it.
        moved_to: Where it stands now, unchanged.
    """

    path: Path
    reason: str
    moved_to: Path


class _UnsoundError(ValueError):
    """The file cannot be used; the text is the reason."""


def set_aside_corrupt(results_dir: Path, set_aside_dir: Path) -> list[SetAside]:
    """Move every result file that asv could not use out of `results_dir`.

    Nothing is deleted and nothing that was set aside earlier is overwritten. A machine that lost
    its ``machine.json`` gets a new one from its sound results, so that those are published.
    """
    moved = []
    for path in sorted([*results_dir.glob(BENCHMARKS_FILE), *results_dir.glob("*/*.json")]):
        reason = defect(path)
        if reason is not None:
            target = _free_name(set_aside_dir / path.relative_to(results_dir))
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            moved.append(SetAside(path, reason, target))
    _restore_machine_files(results_dir)
    return moved


def report_set_aside(set_aside: list[SetAside], root: Path, emit: Callable[[str], None]) -> None:
    """Name each result file that was set aside, with the reason and where it is now."""
    for item in set_aside:
        emit(
            f"Set aside {item.path.relative_to(root)}: {item.reason} "
            f"(now {item.moved_to.relative_to(root)})"
        )


def defect(path: Path) -> str | None:
    """Why asv could not use the result file `path`, or None when it is sound."""
    try:
        data = _load(path)
        if path.name == BENCHMARKS_FILE:
            _check_benchmarks(data)
        elif path.name == MACHINE_FILE:
            _check_machine(data, path.parent.name)
        else:
            _check_result(data, path)
    except _UnsoundError as error:
        return str(error)
    return None


def read_results(results_dir: Path) -> Iterator[dict[str, Any]]:
    """The content of every result file; set corrupt ones aside before."""
    for path in sorted(results_dir.glob("*/*.json")):
        if path.name != MACHINE_FILE:
            yield _load(path)


def rows_of(
    result: Mapping[str, Any], benchmarks: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a result by name of the benchmark, and in each the cells by name of the column.

    Rows of another version of a benchmark, or of one that is no more, are left out, as asv does.
    """
    for name, cells in result["results"].items():
        row = dict(zip(result["result_columns"], cells, strict=False))
        if name in benchmarks and row.get("version") == benchmarks[name]["version"]:
            yield name, row


def read_benchmarks(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Describe each current benchmark by name, as asv lists it; empty when there is no list."""
    path = results_dir / BENCHMARKS_FILE
    if not path.exists():
        return {}
    return {name: value for name, value in _load(path).items() if name != "version"}


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise _UnsoundError("the file is empty")
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise _UnsoundError(f"not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _UnsoundError(
            f"not whole JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    if not isinstance(data, dict):
        raise _UnsoundError(f"holds a JSON {type(data).__name__} where an object is expected")
    expected = _FORMAT_VERSIONS.get(path.name, _RESULT_FORMAT_VERSION)
    if data.get("version") != expected:
        raise _UnsoundError(f"format version {data.get('version')!r}, expected {expected}")
    return data


def _check_machine(data: dict[str, Any], folder: str) -> None:
    if data.get("machine") != folder:
        raise _UnsoundError(f"names machine {data.get('machine')!r} in the folder of {folder!r}")


def _check_benchmarks(data: dict[str, Any]) -> None:
    for name, benchmark in data.items():
        if name == "version":
            continue
        if not isinstance(benchmark, dict) or benchmark.get("name") != name:
            raise _UnsoundError(f"benchmark {name!r} is not described by an object of that name")
        params, param_names = benchmark.get("params"), benchmark.get("param_names")
        if not _is_list_of_lists(params) or not isinstance(param_names, list):
            raise _UnsoundError(f"benchmark {name!r} has malformed params")
        if not isinstance(benchmark.get("version"), str):
            raise _UnsoundError(f"benchmark {name!r} has no version")


def _check_result(data: dict[str, Any], path: Path) -> None:
    for key, kind in _RESULT_SHAPE.items():
        if key not in data:
            raise _UnsoundError(f"key {key!r} is missing")
        if not isinstance(data[key], kind):
            raise _UnsoundError(f"key {key!r} holds a JSON {type(data[key]).__name__}")
    commit = data["commit_hash"]
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit) or path.name.split("-")[0] != commit[:8]:
        raise _UnsoundError(f"commit {commit!r} does not belong to a file of this name")
    machine = data["params"].get("machine")
    if machine != path.parent.name:
        raise _UnsoundError(f"measured on {machine!r}, in the folder of {path.parent.name!r}")
    for name, row in data["results"].items():
        _check_row(name, row, data["result_columns"])


def _check_row(name: str, row: object, columns: list[str]) -> None:
    if not isinstance(row, list) or len(row) > len(columns):
        raise _UnsoundError(f"the results of {name!r} do not fit the columns")
    fields = dict(zip(columns, row, strict=False))
    values = fields.get("result")
    if values is not None and not (
        isinstance(values, list) and all(v is None or isinstance(v, int | float) for v in values)
    ):
        raise _UnsoundError(f"the result of {name!r} is not a list of numbers")
    if not _is_list_of_lists(fields.get("params") or []):
        raise _UnsoundError(f"the params of {name!r} are not lists")
    for column, value in fields.items():
        if column.startswith("stats_") and not (value is None or isinstance(value, list)):
            raise _UnsoundError(f"{column!r} of {name!r} is not a list")


def _is_list_of_lists(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, list) for item in value)


def _free_name(wanted: Path) -> Path:
    candidate, n = wanted, 0
    while candidate.exists():
        n += 1
        candidate = wanted.with_name(f"{wanted.name}.{n}")
    return candidate


def _restore_machine_files(results_dir: Path) -> None:
    """Describe machines anew: asv ignores all results of a machine without its file."""
    for folder in {path.parent for path in results_dir.glob("*/*.json")}:
        path = folder / MACHINE_FILE
        if path.exists():
            continue
        result = _load(next(folder.glob("*.json")))
        content = {key: result["params"].get(key, "") for key in MACHINE_FIELDS}
        with whole_file(path) as file:
            json.dump(content | {"version": _FORMAT_VERSIONS[MACHINE_FILE]}, file)

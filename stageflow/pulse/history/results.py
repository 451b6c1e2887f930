"""asv's result files: read them, and set aside those that are not sound.

asv writes its files in place, so an interrupt or a full disk leaves half a file, which ends ``asv
publish`` or hides a whole machine. So each file is checked before asv reads it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow._utils.files import atomic_write
from stageflow._utils.text import printable
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history.project import AsvProject, Emit

BENCHMARKS_FILE = "benchmarks.json"
MACHINE_FILE = "machine.json"
MACHINE_FIELDS = ("arch", "cpu", "machine", "num_cpu", "os", "ram")
#: Of result files it is 2.
_FORMAT_VERSIONS = {BENCHMARKS_FILE: 2, MACHINE_FILE: 1}
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
#: asv adds up the distances between values, and never ends where they come to infinity.
_LARGEST = 1e150
#: Values of one benchmark, each of which has a name; and letters of its name, as that of a file.
_MOST_CHOICES, _LONGEST = 100_000, 200
#: Lists and objects within each other; asv writes five.
_DEEPEST = 10
#: Moments in milliseconds since the epoch that have a date in every program.
_LATEST_MS = 6e13


@dataclass(frozen=True, slots=True)
class SetAside:
    """A result file that was moved out of asv's sight, unchanged, and what was wrong with it."""

    path: Path
    reason: str
    moved_to: Path


class _UnsoundError(ValueError):
    """The file cannot be used; the text is the reason."""


#: The files that this process has found sound, by time and size: a change is checked again.
_SOUND: dict[Path, tuple[int, int]] = {}


def set_aside_corrupt(results_dir: Path, set_aside_dir: Path) -> list[SetAside]:
    """Move every result file that asv could not use out of `results_dir`.

    Nothing is deleted and nothing that was set aside earlier is overwritten. A machine that lost
    its ``machine.json`` gets a new one from its sound results, so that those are published.
    """
    moved = []
    # asv looks into folders of any depth.
    for path in [results_dir / BENCHMARKS_FILE, *sorted(results_dir.glob("*/**/*.json"))]:
        within = path.relative_to(results_dir)
        lies = None if len(within.parts) <= 2 else "asv's files lie in the folder of a machine"
        # A file in a folder that was moved is gone.
        reason = (lies or defect(path)) if os.path.lexists(path) else None
        if reason is not None:
            wanted = target = set_aside_dir / within
            for number in itertools.count(1):
                if not os.path.lexists(target):
                    break
                target = wanted.with_name(f"{wanted.name}.{number}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            moved.append(SetAside(path, reason, target))
    for folder in {path.parent for path in results_dir.glob("*/*.json")}:
        # asv ignores all results of a machine without its file.
        if not (path := folder / MACHINE_FILE).exists():
            result = _load(next(folder.glob("*.json")))
            content = {key: result["params"].get(key, "") for key in MACHINE_FIELDS}
            with atomic_write(path) as file:
                json.dump(content | {"version": _FORMAT_VERSIONS[MACHINE_FILE]}, file)
    return moved


def clear_corrupt(project: AsvProject, emit: Emit) -> None:
    """Set aside the corrupt result files of a project, and report each."""
    for item in set_aside_corrupt(project.results_dir, project.set_aside_dir):
        path, moved_to = (os.path.relpath(at, project.root) for at in (item.path, item.moved_to))
        emit(printable(f"Set aside {path}: {item.reason} (now {moved_to})"))


def defect(path: Path) -> str | None:
    """Return why asv could not use the result file `path`; None if it is sound."""
    try:
        _need(path.is_file(), "not a file")
        stat = path.stat()
        if _SOUND.get(path) != (known := (stat.st_mtime_ns, stat.st_size)):
            _checked(path)
            _SOUND[path] = known
    except (OSError, _UnsoundError) as error:
        return str(error)
    return None


def _checked(path: Path) -> dict[str, Any]:
    data = _load(path)
    _check_plain({key: value for key, value in data.items() if key != "results"}, "", "the file")
    if path.name == BENCHMARKS_FILE:
        _check_benchmarks(data)
    elif path.name == MACHINE_FILE:
        folder, name = path.parent.name, data.get("machine")
        _need(name == folder, f"names machine {name!r} in the folder of {folder!r}")
    else:
        _check_result(data, path)
    return data


def read_results(results_dir: Path, emit: Emit | None = None) -> Iterator[dict[str, Any]]:
    """Yield the content of every result file, and leave out those that cannot be read.

    With `emit`, check the rest of the content as well, and report the files that are left out.
    Nothing is moved, since asv may be writing such a file.
    """
    for path in sorted(results_dir.glob("*/*.json")):
        if path.name != MACHINE_FILE:
            try:
                data = _checked(path) if emit else _load(path)
            except _UnsoundError as error:
                if emit:
                    at = os.path.relpath(path, results_dir.parent.parent)
                    emit(printable(f"Left out {at}: {error}"))
            else:
                yield data


def cells_of(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the cells of each benchmark's row by name of the column."""
    for name, row in result["results"].items():
        yield name, dict(zip(result["result_columns"], row, strict=False))


def rows_of(
    result: Mapping[str, Any], benchmarks: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the same without benchmarks that are gone or have another version, as asv does."""
    for name, row in cells_of(result):
        if name in benchmarks and row.get("version") == benchmarks[name]["version"]:
            yield name, row


def read_benchmarks(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Describe each current benchmark by name, as asv lists it; empty when there is no list."""
    path = results_dir / BENCHMARKS_FILE
    if not path.exists():
        return {}
    try:
        return {name: value for name, value in _checked(path).items() if name != "version"}
    except _UnsoundError as error:
        raise PulseError(
            f"{path} cannot be used ({error}): wait until asv has written it, or run stageflow"
            " pulse build, which sets it aside"
        ) from None


def _load(path: Path) -> dict[str, Any]:
    _need(path.is_file(), "not a file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _UnsoundError(_why(error)) from error
    if not isinstance(data, dict):
        raise _UnsoundError(f"holds a JSON {type(data).__name__} where an object is expected")
    found, expected = data.get("version"), _FORMAT_VERSIONS.get(path.name, 2)
    _need(found == expected, f"format version {found!r}, expected {expected}")
    return data


def _why(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"not UTF-8 text at byte {error.start}"
        case json.JSONDecodeError() if not error.doc.strip():
            return "the file is empty"
        case json.JSONDecodeError():
            return f"not whole JSON: {error.msg} at line {error.lineno} column {error.colno}"
        case OSError():
            return f"cannot be read: {error.strerror}"
        case RecursionError():
            return "nested too deeply"
    return f"not JSON that asv can read: {error}"


def _need(sound: bool, problem: str) -> None:
    if not sound:
        raise _UnsoundError(problem)


def _check_benchmarks(data: dict[str, Any]) -> None:
    for name, benchmark in data.items():
        if name == "version":
            continue
        if not isinstance(benchmark, dict) or benchmark.get("name") != name:
            raise _UnsoundError(f"benchmark {name!r} is not described by an object of that name")
        params, names = benchmark.get("params", ()), benchmark.get("param_names")
        fits = _are_params(params) and isinstance(names, list) and len(names) == len(params)
        _need(fits, f"benchmark {name!r} has malformed params")
        _need(len(name) <= _LONGEST, f"benchmark {name[:20]!r}… has too long a name for a file")
        _need(isinstance(benchmark.get("version"), str), f"benchmark {name!r} has no version")


def _check_result(data: dict[str, Any], path: Path) -> None:
    for key, kind in _RESULT_SHAPE.items():
        _need(key in data, f"key {key!r} is missing")
        _need(isinstance(data[key], kind), f"key {key!r} holds a JSON {type(data[key]).__name__}")
    commit, columns, folder = data["commit_hash"], data["result_columns"], path.parent.name
    fits = re.fullmatch(r"[0-9a-f]{40,64}", commit) and path.name.split("-")[0] == commit[:8]
    _need(bool(fits), f"commit {commit!r} does not belong to a file of this name")
    machine = data["params"].get("machine")
    _need(machine == folder, f"measured on {machine!r}, in the folder of {folder!r}")
    _need(all(isinstance(column, str) for column in columns), "the columns are not named")
    single = not any(isinstance(value, list | dict) for value in data["params"].values())
    _need(single, "the params of the machine are not single values")
    _check_moment("date", data["date"])
    for name, row in data["results"].items():
        _check_plain(name, "", "the name of a benchmark")
        _check_row(name, row, columns)


def _check_row(name: str, row: object, columns: list[str]) -> None:
    if not isinstance(row, list) or len(row) > len(columns):
        raise _UnsoundError(f"the results of {name!r} do not fit the columns")
    fields = dict(zip(columns, row, strict=False))
    values, samples = fields.pop("result", None), fields.pop("samples", None)
    # NaN stands for what was skipped, null for what broke.
    if values is not None and not (
        isinstance(values, list) and _are_finite([v for v in values if v is not None and v == v])  # noqa: PLR0124 - not NaN
    ):
        raise _UnsoundError(f"the result of {name!r} is not a list of numbers that asv can draw")
    if samples is not None and not (
        isinstance(samples, list)
        and all(some is None or (isinstance(some, list) and _are_finite(some)) for some in samples)
    ):
        raise _UnsoundError(f"the samples of {name!r} are not lists of finite numbers")
    if not _are_params(fields.get("params") or []):
        raise _UnsoundError(f"the params of {name!r} are not lists of texts")
    _check_moment(f"started_at of {name!r}", fields.get("started_at") or 0)
    for column, value in fields.items():
        # Their bounds may be infinite.
        if column.startswith("stats_") and value is not None:
            bounds = value if isinstance(value, list) else [""]
            sound = all(v is None or isinstance(v, float) or _are_finite([v]) for v in bounds)
            _need(sound, f"{column!r} of {name!r} is not a list of numbers")
        elif value is not None:
            _check_plain(value, column, name)


def _are_finite(values: list[Any]) -> bool:
    """Return whether all are numbers, and all of them together are not too large."""
    try:
        return bool(sum(map(abs, values)) <= _LARGEST)
    except (TypeError, OverflowError):
        return False


def _check_moment(what: str, value: object) -> None:
    if not isinstance(value, (int, float)) or not abs(value) <= _LATEST_MS:
        raise _UnsoundError(f"{what} is not a point in time: {str(value)[:20]}")


def _check_plain(value: object, column: str, name: str, left: int = _DEEPEST) -> None:
    """Check what is not measured: text that can be written, finite numbers, few levels."""
    problem = ""
    if left <= 0:
        problem = "is nested too deeply"
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            problem = "holds half of a character"
    elif isinstance(value, (list, dict)):
        for part in value if isinstance(value, list) else [*value, *value.values()]:
            _check_plain(part, column, name, left - 1)
    elif isinstance(value, (int, float)) and not _are_finite([value]):
        problem = "holds a number that is not finite, or too large"
    if problem:
        where = f"{column!r} of {name!r}" if column else name
        raise _UnsoundError(f"{where} {problem}")


def _are_params(value: Any) -> bool:
    """Return whether a value has lists of texts, of which not too many choices can be made."""
    sound = isinstance(value, list) and all(isinstance(item, list) for item in value)
    sound = sound and all(isinstance(text, str) for item in value for text in item)
    return sound and math.prod(map(len, value)) <= _MOST_CHOICES

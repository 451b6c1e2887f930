"""Merge the results of several machines, which shared the work or measured separately."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stageflow._utils.files import atomic_write
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history import results
from stageflow.pulse.history.project import AsvProject

#: What two result files of the same name must agree in, to be of the same measurement.
_SAME = ("commit_hash", "env_name", "params", "python", "requirements", "env_vars")
_STARTED_AT = "started_at"
Content = dict[str, Any]


class Merged(NamedTuple):
    """How many files a merge wrote, and how many measurements came."""

    files: int
    rows: int


def merge(project: AsvProject, folders: Sequence[Path], emit: Callable[[str], None]) -> Merged:
    """Add the results of other machines, in folders like ``.asv/results``, to those of this clone.

    Of two measurements of one benchmark on one commit, the later is kept. Records (``*.jsonl``)
    keep each line once. Merging the same folder again changes nothing.

    Raises:
        PulseError: A folder holds no results, a file is not sound, or two files do not belong
            together. Nothing is changed then.
    """
    results.clear_corrupt(project, emit)
    changes: dict[Path, str] = {}
    rows = 0
    for folder in folders:
        came = 0
        for source in _files(folder):
            target = project.results_dir / source.relative_to(folder)
            present = changes.get(target)
            if present is None and target.exists():
                present = target.read_text(encoding="utf-8")
            text, new = _joined(present, source, target)
            if text is not None:
                changes[target] = text
            came += new
        emit(f"{folder}: {came} measurements")
        rows += came
    for target, text in changes.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            file.write(text)
    return Merged(len(changes), rows)


def _files(folder: Path) -> Iterator[Path]:
    found = sorted(
        [*folder.glob(results.BENCHMARKS_FILE), *folder.glob("*.jsonl"), *folder.glob("*/*.json")]
    )
    if not found:
        raise PulseError(f"{folder} holds no results: name a folder like .asv/results")
    for path in found:
        wrong = None if path.is_file() else "not a file"
        wrong = results.defect(path) if path.suffix == ".json" else wrong
        if wrong is not None:
            raise PulseError(f"{path} cannot be merged: {wrong}; take it out, or fetch it again")
        yield path


def _joined(present: str | None, source: Path, target: Path) -> tuple[str | None, int]:
    """Return the target's new text, None if it is as now, and how many measurements came."""
    coming = source.read_text(encoding="utf-8")
    if source.suffix == ".jsonl":
        lines = (present or "").splitlines()
        known = set(lines)
        new = [line for line in dict.fromkeys(coming.splitlines()) if line not in known]
        return ("".join(f"{line}\n" for line in [*lines, *new]) if new else None), len(new)
    if source.name == results.MACHINE_FILE:
        return (coming if present is None else None), 0
    ours, theirs = json.loads(present or "{}"), json.loads(coming)
    if source.name == results.BENCHMARKS_FILE:
        for name in (theirs.keys() & ours.keys()) - {"version"}:
            known, came = ours[name]["version"], theirs[name]["version"]
            if known != came:
                raise PulseError(
                    f"{source} has {name} in version {came}, and here it is {known}: merge what was"
                    " measured with the same benchmarks"
                )
        joined = theirs | ours
        return (json.dumps(joined, indent=4) if joined != ours else None), 0
    if present is None:
        return coming, len(theirs["results"])
    return _results(ours, theirs, source, target)


def _results(ours: Content, theirs: Content, source: Path, target: Path) -> tuple[str | None, int]:
    for key in _SAME:
        if ours.get(key) != theirs.get(key):
            raise PulseError(
                f"{source} and {target} are not of one measurement: {key} is"
                f" {theirs.get(key)!r} there and {ours.get(key)!r} here;"
                " give machines that differ different names (--machine)"
            )
    rows = dict(results.cells_of(ours))
    came = 0
    for name, row in results.cells_of(theirs):
        if name not in rows or (row.get(_STARTED_AT) or 0) > (rows[name].get(_STARTED_AT) or 0):
            rows[name] = row
            came += 1
    if not came:
        return None, 0
    columns = list(dict.fromkeys([*ours["result_columns"], *theirs["result_columns"]]))
    cells = {name: [row.get(column) for column in columns] for name, row in rows.items()}
    durations = {**theirs.get("durations", {}), **ours.get("durations", {})}
    joined = {**ours, "result_columns": columns, "results": cells, "durations": durations}
    return json.dumps(joined), came

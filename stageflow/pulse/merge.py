"""Put results of several machines together that shared the work, or measured on their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.errors import PulseError
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import BENCHMARKS_FILE, MACHINE_FILE, defect
from stageflow.whole_file import whole_file

#: What two result files of the same name must agree in, to be of the same measurement.
_SAME = ("commit_hash", "env_name", "params", "python", "requirements", "env_vars")
_STARTED_AT = "started_at"

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        files: How many files were made or changed.
        rows: How many measurements came in.
    """

    files: int
    rows: int


def merge(project: AsvProject, folders: Sequence[Path], emit: Callable[[str], None]) -> Merged:
    """Add the results of other machines to those of this clone.

    Of a benchmark that two of them measured on one commit, the later measurement stands. Records
    (``*.jsonl``) keep each line once. Merging the same folder again changes nothing.

    Args:
        project: The clone whose results grow.
        folders: Folders of results, such as ``.asv/results`` of another clone.
        emit: Is told what came from where.

    Raises:
        PulseError: A folder holds no results, a file is not sound, or two files do not belong
            together; nothing is changed then.
    """
    changes: dict[Path, str] = {}
    rows = 0
    for folder in folders:
        came = 0
        for source in _files(folder):
            target = project.results_dir / source.relative_to(folder)
            text, new = _joined(_text(target, changes), source, target)
            if text is not None:
                changes[target] = text
            came += new
        emit(f"{folder}: {came} measurements")
        rows += came
    for target, text in changes.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            file.write(text)
    return Merged(len(changes), rows)


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder of results, each sound.

    Raises:
        PulseError: There are none, or one is not sound.
    """
    found = sorted(
        [*folder.glob(BENCHMARKS_FILE), *folder.glob("*.jsonl"), *folder.glob("*/*.json")]
    )
    if not found:
        raise PulseError(f"{folder} holds no results: name a folder like .asv/results")
    for path in found:
        wrong = defect(path) if path.suffix == ".json" else None
        if wrong is not None:
            raise PulseError(f"{path} cannot be merged: {wrong}; take it out, or fetch it again")
        yield path


def _text(target: Path, changes: dict[Path, str]) -> str | None:
    """What stands there, or will stand there by what was merged before."""
    if target in changes:
        return changes[target]
    return target.read_text(encoding="utf-8") if target.exists() else None


def _joined(present: str | None, source: Path, target: Path) -> tuple[str | None, int]:
    """What the target is to hold, None if that is what it holds; and how many measurements came."""
    coming = source.read_text(encoding="utf-8")
    if source.suffix == ".jsonl":
        lines = (present or "").splitlines()
        known = set(lines)
        new = [line for line in dict.fromkeys(coming.splitlines()) if line not in known]
        return ("".join(f"{line}\n" for line in [*lines, *new]) if new else None), len(new)
    if source.name == MACHINE_FILE:
        return (coming if present is None else None), 0
    ours, theirs = json.loads(present or "{}"), json.loads(coming)
    if source.name == BENCHMARKS_FILE:
        joined = _benchmarks(ours, theirs, source)
        return (json.dumps(joined, indent=4) if joined != ours else None), 0
    if present is None:
        return coming, len(theirs["results"])
    return _results(ours, theirs, source, target)


def _benchmarks(ours: Content, theirs: Content, source: Path) -> Content:
    for name in (theirs.keys() & ours.keys()) - {"version"}:
        known, benchmark = ours[name], theirs[name]
        if known["version"] != benchmark["version"]:
            raise PulseError(
                f"{source} has {name} in version {benchmark['version']}, and here it is"
                f" {known['version']}: merge what was measured with the same benchmarks"
            )
    return theirs | ours


def _results(ours: Content, theirs: Content, source: Path, target: Path) -> tuple[str | None, int]:
    for key in _SAME:
        if ours.get(key) != theirs.get(key):
            raise PulseError(
                f"{source} and {target} are not of one measurement: {key} is"
                f" {theirs.get(key)!r} there and {ours.get(key)!r} here;"
                " give machines that differ different names (--machine)"
            )
    rows = _rows(ours)
    came = 0
    for name, row in _rows(theirs).items():
        if name not in rows or (row.get(_STARTED_AT) or 0) > (rows[name].get(_STARTED_AT) or 0):
            rows[name] = row
            came += 1
    if not came:
        return None, 0
    columns = list(dict.fromkeys([*ours["result_columns"], *theirs["result_columns"]]))
    results = {name: [row.get(column) for column in columns] for name, row in rows.items()}
    durations = {**theirs.get("durations", {}), **ours.get("durations", {})}
    joined = {**ours, "result_columns": columns, "results": results, "durations": durations}
    return json.dumps(joined), came


def _rows(content: Content) -> dict[str, Content]:
    columns = content["result_columns"]
    return {name: dict(zip(columns, row, strict=False)) for name, row in content["results"].items()}

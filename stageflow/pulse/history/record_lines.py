"""Records that grow by a line of JSON for each measurement."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from stageflow.pulse.errors import PulseError
from stageflow.pulse.history.project import UNREADABLE, run_git

T = TypeVar("T")
#: How many lines of a record are shown, the newest.
SHOWN = 200


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add an object to a record, which is made with its folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def circumstances(root: Path) -> dict[str, Any]:
    """Return when, at which commit of `root` and on what machine something is measured now.

    Times are in ISO 8601. Outside of git there is no commit. ``machine`` has asv's keys.
    """
    # An extra, which readers of records do not need.
    from asv.machine import Machine  # type: ignore[import-untyped]  # noqa: PLC0415

    shown = ""
    with suppress(PulseError):
        shown = run_git(root, "show", "--no-patch", "--format=%H %ct", "HEAD", "--")
    commit, _, commit_s = shown.strip().partition(" ")
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit or None,
        "commit_at": dt.datetime.fromtimestamp(int(commit_s), dt.UTC).isoformat()
        if commit_s
        else None,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "machine": Machine.get_defaults(),
    }


def read_lines(path: Path, made: Callable[[dict[str, Any]], T]) -> tuple[list[T], int]:
    """Return what a record holds, oldest first, and how many of its lines could not be read.

    `made` converts a line's object, and raises one of `UNREADABLE` if it cannot.
    """
    if not path.is_file():
        return [], int(os.path.lexists(path))
    found, unread = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(made(json.loads(line, parse_float=_finite, parse_constant=_finite)))
        except UNREADABLE:
            unread += 1
    return found, unread


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def newest_lines(
    path: Path, version: int, made: Callable[[dict[str, Any]], T]
) -> tuple[list[T], list[str]]:
    """Return the newest lines of a `version`, as `read_lines` does, and remarks about others."""

    def of_version(line: dict[str, Any]) -> T:
        if line["version"] != version:
            raise ValueError(f"version {line['version']}")
        return made(line)

    found, unread = read_lines(path, of_version)
    left_out = f"{unread} lines of {path.name} cannot be read and were left out."
    return found[-SHOWN:], [left_out] if unread else []

"""Records that grow by a line of JSON each time something is done or measured."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: The newest so many lines of a record are shown.
SHOWN = 200


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add an object to a record, which is made with its folder if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def circumstances(root: Path) -> dict[str, Any]:
    """Under which something is measured now: when, at which commit, and on what machine.

    Args:
        root: Of the repository whose commit is checked out; outside of git there is none.

    Returns:
        ``at`` and ``commit_at`` in ISO 8601, ``commit`` as its full hash, ``cpus``, ``python``, and
        ``machine`` by asv's keys.
    """
    # An extra, which whoever only reads records does without.
    from asv.machine import Machine  # type: ignore[import-untyped]  # noqa: PLC0415

    command = ["git", "-C", str(root), "show", "--no-patch", "--format=%H %ct", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    commit, _, commit_s = done.stdout.strip().partition(" ")
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
    """What a record holds, oldest first, and how many of its lines could not be read.

    Args:
        path: The record; it need not be there.
        made: Makes of a line's object what is wanted. A `ValueError`, `KeyError` or `TypeError`
            says that it cannot: the line was cut off, or is of another version.
    """
    if not path.exists():
        return [], 0
    found, unread = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(made(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            unread += 1
    return found, unread


def newest_lines(
    path: Path, version: int, made: Callable[[dict[str, Any]], T]
) -> tuple[list[T], list[str]]:
    """The newest lines of a record, oldest first, and what there is to say of the others.

    Args:
        path: The record; it need not be there.
        version: That its lines have to be of.
        made: As `read_lines` takes it.
    """

    def of_version(line: dict[str, Any]) -> T:
        if line["version"] != version:
            raise ValueError(f"version {line['version']}")
        return made(line)

    found, unread = read_lines(path, of_version)
    left_out = f"{unread} lines of {path.name} cannot be read and were left out."
    return found[-SHOWN:], [left_out] if unread else []

"""Which lines differ from another commit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")
_FILE = re.compile(r"^\+\+\+ b/(.*)$")


class UnknownCommitError(ValueError):
    """git does not know the commit that was named."""


def changed_lines(root: Path, reference: str) -> dict[str, set[int]]:
    """The lines that were added or altered since `reference` was left, committed or not.

    Args:
        root: Folder of a git work tree.
        reference: A branch, tag or commit.

    Returns:
        The numbers of the lines, by path from the root. A line that was only deleted has none.

    Raises:
        UnknownCommitError: git does not know `reference`.
    """
    base = _git(root, "merge-base", "--", reference, "HEAD").strip()
    diff = _git(root, "diff", "--unified=0", "--no-color", "--no-ext-diff", "--relative", base)
    found: dict[str, set[int]] = {}
    lines: set[int] = set()
    for line in diff.splitlines():
        if file := _FILE.match(line):
            lines = found.setdefault(file[1], set())
        elif hunk := _HUNK.match(line):
            start, count = int(hunk[1]), int(hunk[2] or 1)
            lines.update(range(start, start + count))
    return {path: numbers for path, numbers in found.items() if numbers}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnknownCommitError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout

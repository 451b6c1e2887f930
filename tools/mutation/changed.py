"""Which lines differ from another commit."""

from __future__ import annotations

import re
from pathlib import Path

from stageflow.pulse import PulseError
from stageflow.pulse.history import run_git

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
    try:
        base = run_git(root, "merge-base", "--", reference, "HEAD").strip()
        form = ("--unified=0", "--no-ext-diff", "--relative", "--src-prefix=a/", "--dst-prefix=b/")
        diff = run_git(root, "diff", *form, base, "--")
    except PulseError as error:
        raise UnknownCommitError(str(error)) from error
    found: dict[str, set[int]] = {}
    lines: set[int] = set()
    for line in diff.split("\n"):
        if file := _FILE.match(line):
            lines = found.setdefault(file[1], set())
        elif hunk := _HUNK.match(line):
            start, count = int(hunk[1]), int(hunk[2] or 1)
            lines.update(range(start, start + count))
    return {path: numbers for path, numbers in found.items() if numbers}

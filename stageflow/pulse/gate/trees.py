"""Folders of a commit, as they were: no build and no checkout is needed to run what is in them."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stageflow.pulse.project import AsvProject


@contextmanager
def tree(project: AsvProject, commit: str, *folders: str) -> Iterator[Path]:
    """A temporary folder that holds some `folders` of a commit.

    Raises:
        PulseError: The commit has no such folder.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as temporary:
        archive = Path(temporary) / "commit.tar"
        project.git("archive", "--format=tar", f"--output={archive}", commit, *folders)
        target = Path(temporary) / "tree"
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
        yield target

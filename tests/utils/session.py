"""Resources that a test session has once, however many workers of pytest-xdist run it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

#: A file system in memory, as Linux has it, and the free bytes that it needs: a run takes a tenth.
_MEMORY = Path("/dev/shm")
_ENOUGH = 8 << 30


def keep_temporary_files_in_memory() -> None:
    """Use no disk for temporary files, in this process and those that it starts.

    SQLite and Git wait for the disk at each commit, and nothing here has to survive a power cut.
    With TMPDIR set, or little memory of this kind, temporary files are in the usual folder.
    """
    if "TMPDIR" in os.environ or not _MEMORY.is_dir():
        return
    found = os.statvfs(_MEMORY)
    if found.f_bavail * found.f_frsize >= _ENOUGH and not found.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that the first caller fills; the others wait, and must only read it.

    Args:
        factory: The session's.
        name: Of the folder.
        make: Fills the folder of that path.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder

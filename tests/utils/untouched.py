"""Notice when a test touches what the user's own commands keep in this clone."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

#: What the user's commands write into the clone, and no test reads or writes.
KEPT = (".asv", "dist")
KEPT_SUFFIX = ".db"
#: Below these lies nothing that was measured, but tens of thousands of files.
_NOT_WATCHED = {"env", "engines"}
_OPEN, _MODIFY, _MOVED, _CREATE, _DELETE = 0x20, 0x02, 0xC0, 0x100, 0x200
_IS_FOLDER = 0x40000000
_EVENT = struct.Struct("iIII")


class Watch:
    """Watch what is kept in a clone with inotify: programs that a test starts are noticed too.

    Elsewhere than on Linux nothing is noticed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[int, Path] = {}
        self._inotify = -1
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        folders = [root, *(folder for name in KEPT for folder in _below(root / name))]
        for folder in folders:
            mask = _OPEN | _MODIFY | _MOVED | _CREATE | _DELETE
            watch = libc.inotify_add_watch(self._inotify, os.fsencode(folder), mask)
            if watch >= 0:
                self._folders[watch] = folder

    def touched(self) -> list[str]:
        """Return the kept files that were opened or changed since the last call."""
        found = {path for path in self._events() if self._is_kept(path)}
        return sorted(str(path.relative_to(self._root)) for path in found)

    def close(self) -> None:
        """End the watch."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def _is_kept(self, path: Path) -> bool:
        top = path.relative_to(self._root).parts[0]
        return top in KEPT or (path.parent == self._root and KEPT_SUFFIX in path.suffixes)

    def _events(self) -> Iterator[Path]:
        while self._inotify >= 0:
            try:
                content = os.read(self._inotify, 1 << 16)
            except BlockingIOError:
                return
            while content:
                watch, mask, _, length = _EVENT.unpack_from(content)
                name = content[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                content = content[_EVENT.size + length :]
                # A folder is opened by each worker of the tests that begins to watch it.
                if watch in self._folders and name and not (mask & _IS_FOLDER and mask & _OPEN):
                    yield self._folders[watch] / os.fsdecode(name)


def _below(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        return ()
    found = []
    for path, names, _ in os.walk(folder):
        names[:] = [name for name in names if name not in _NOT_WATCHED]
        found.append(Path(path))
    return found

"""Renew objects that a forked process cannot share with its parent: threads, connections."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

_living: WeakSet[Any] = WeakSet()
_left: list[object] = []


def renew_after_fork(owner: Any) -> None:
    """Call `owner.after_fork()` in each process that is forked while `owner` lives."""
    _living.add(owner)


def leave(thing: object) -> None:
    """Keep an object of the parent for ever: closing it here would also close it there."""
    _left.append(thing)


def _renew() -> None:
    for owner in list(_living):
        owner.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew)

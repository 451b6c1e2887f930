"""The list of mutants that may survive, each with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.mutation.mutants import Identity


class SurvivorsError(ValueError):
    """The list is not as it should be; the text says which entry and what to fix."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A run's judgement of the list.

    Attributes:
        unlisted: Survivors without an entry.
        killed: Entries of mutants that are killed now.
        gone: Entries of mutants that no longer exist.
    """

    unlisted: tuple[Identity, ...]
    killed: tuple[Identity, ...]
    gone: tuple[Identity, ...]


def load(path: Path) -> dict[Identity, str]:
    """Read the list: the reason of each mutant.

    Raises:
        SurvivorsError: An entry lacks a part or a reason, or is listed twice.
    """
    if not path.exists():
        return {}
    found: dict[Identity, str] = {}
    for number, entry in enumerate(tomllib.loads(path.read_text("utf-8")).get("survivor", ()), 1):
        where = f"{path.name}, entry {number}"
        missing = {"module", "function", "before", "after", "reason"} - entry.keys()
        unknown = entry.keys() - {*Identity._fields, "reason"}
        if missing or unknown:
            raise SurvivorsError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        reason = entry.pop("reason").strip()
        identity = Identity(**entry)
        if not reason:
            raise SurvivorsError(f"{where}: say why it may survive")
        if identity in found:
            raise SurvivorsError(f"{where}: is listed twice; remove one, or set `nth`")
        found[identity] = reason
    return found


def judge(
    listed: Mapping[Identity, str],
    known: Iterable[Identity],
    survived: Iterable[Identity],
    tried: Iterable[Identity],
) -> Judgement:
    """Compare the list with a run.

    Args:
        listed: The list.
        known: Every mutant of the files.
        survived: The mutants that survived.
        tried: The mutants that were tried, perhaps not all.
    """
    every, lived, judged = frozenset(known), frozenset(survived), frozenset(tried)
    modules = {identity.module for identity in every}
    return Judgement(
        unlisted=tuple(i for i in sorted(lived) if i not in listed),
        killed=tuple(i for i in listed if i in judged and i not in lived),
        gone=tuple(i for i in listed if i.module in modules and i not in every),
    )

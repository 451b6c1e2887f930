"""What was measured of two commits, as the judge reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stageflow.pulse.gate.samples import Interval


@dataclass(frozen=True, slots=True)
class Value:
    """What asv knows of one series on one commit.

    Attributes:
        value: The median or the one value; None: it broke there; NaN: it was skipped there.
        samples: Single measurements, if it has any.
    """

    value: float | None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What asv knows of one commit.

    Attributes:
        commit: Its full hash.
        machine: What it was measured on: machine, processor, Python.
        values: By series; a series that is not there was not measured.
    """

    commit: str
    machine: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """How a timed work went on one commit.

    Attributes:
        wall_ns: Wall time of single operations, in nanoseconds.
        error: How it broke there, if it did.
        missing: What the commit lacks for it.
    """

    wall_ns: tuple[float, ...] = ()
    error: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """A work that two commits did in turn.

    Attributes:
        base, head: How it went on either.
        cpu: CPU time an operation, head to base; None unless both did it often enough.
        wall: Wall time an operation, head to base.
        confirmation: Like `cpu`, of a second run in fresh processes, if there was one.
    """

    base: Side
    head: Side
    cpu: Interval | None = None
    wall: Interval | None = None
    confirmation: Interval | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the judge has to go by.

    Attributes:
        units: Unit of each series that is asked about.
        head: What asv knows of the commit that is judged.
        base: What asv knows of the one it is compared with; None when it is the first commit.
        timings: By series.
        removed: Series that the base's benchmarks had and the present ones have not.
        edited: Files of benchmarks that were changed since the base.
        valgrind: Whether instructions can be counted on this machine.
    """

    units: Mapping[str, str]
    head: Measured
    base: Measured | None
    timings: Mapping[str, Timing] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    valgrind: bool = True

    @property
    def comparable(self) -> bool:
        """Whether there are two commits."""
        return self.base is not None and self.base.commit != self.head.commit

"""What writing to and reading from a ContextBag costs, beside a plain dict."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import stageflow as sf
from benchmarks import plain
from benchmarks.support import CpuTimed, requires, run, timed

setup = requires("ContextBag")

WRITES = 10_000
TASKS = 10
READS = 100_000


@functools.cache
def keys() -> tuple[str, ...]:
    """The keys that are written."""
    return tuple(f"key{number}" for number in range(WRITES))


@functools.cache
def full_bag() -> sf.ContextBag:
    """A bag in which all keys stand."""
    bag = sf.ContextBag()
    run(write_all(bag, keys()))
    return bag


async def write_all(bag: sf.ContextBag, names: tuple[str, ...]) -> None:
    """Write each key once, awaited."""
    for key in names:
        await bag.write(key, key, "writer")


async def write_by_tasks() -> sf.ContextBag:
    """Ten tasks write a tenth of the keys each into one bag."""
    bag = sf.ContextBag()
    share = WRITES // TASKS
    await asyncio.gather(
        *(write_all(bag, keys()[start : start + share]) for start in range(0, WRITES, share))
    )
    return bag


def write_sequentially() -> sf.ContextBag:
    """All keys, one after another, in one entry of the loop."""
    bag = sf.ContextBag()
    run(write_all(bag, keys()))
    return bag


def write_dict_with_check() -> dict[str, Any]:
    """The hand-written counterpart of `write_sequentially`: a dict, and a check before a write."""
    values: dict[str, Any] = {}

    async def write_all_by_hand() -> None:
        for key in keys():
            if key in values:
                raise KeyError(key)
            values[key] = key

    run(write_all_by_hand())
    return values


class Write(CpuTimed):
    """Writes: what every stage pays for each of its outputs."""

    version = "1"

    @timed
    def track_10k_sequential(self) -> None:
        """10,000 awaited writes of one task: the price of write-once and of knowing the writer."""
        write_sequentially()

    @timed
    def track_10k_by_10_tasks(self) -> None:
        """10,000 awaited writes of ten tasks: shows whether sharing a bag costs anything."""
        run(write_by_tasks())

    @timed
    def track_10k_dict_with_check(self) -> None:
        """10,000 writes to a plain dict with a check before each: the floor for the others."""
        write_dict_with_check()


class Read(CpuTimed):
    """Reads: what every stage pays for each of its inputs."""

    version = "1"

    @timed
    def track_100k(self) -> None:
        """100,000 reads by key."""
        bag = full_bag()
        for _ in range(READS // WRITES):
            for key in keys():
                bag[key]

    @timed
    def track_100k_dict(self) -> None:
        """100,000 reads of a plain dict: the floor for the other."""
        values = dict_of_keys()
        for _ in range(READS // WRITES):
            for key in keys():
                values[key]


@functools.cache
def dict_of_keys() -> dict[str, str]:
    """A plain dict in which all keys stand."""
    return {key: key for key in keys()}


if __name__ == "__main__":
    plain.main()

"""The cost of writing to and reading from a ContextBag, beside a plain dict."""

from __future__ import annotations

import asyncio
import functools

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, requires, run, timed
from benchmarks._lib.workloads import (
    WRITES,
    full_bag,
    keys,
    write_dict_with_check,
    write_sequentially,
)

setup = requires("ContextBag")

TASKS = 10
READS = 100_000


async def write_by_tasks() -> sf.ContextBag:
    """Ten tasks write a tenth of the keys each into one bag, and take turns after each write."""
    bag = sf.ContextBag()
    share = WRITES // TASKS

    async def write_share(start: int) -> None:
        for key in keys()[start : start + share]:
            await bag.write(key, key, "writer")
            await asyncio.sleep(0)  # a write does not suspend, so that this lets the others go on

    await asyncio.gather(*map(write_share, range(0, WRITES, share)))
    return bag


class Write(CpuTimed):
    """Writes: what every stage pays for each of its outputs."""

    version = "2"

    @timed
    def track_10k_sequential(self) -> None:
        """10,000 awaited writes of one task: the price of write-once and of knowing the writer."""
        write_sequentially()

    @timed
    def track_10k_by_10_tasks(self) -> None:
        """10,000 awaited writes of ten tasks in turn: what sharing a bag costs."""
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
    """A plain dict that holds all keys."""
    return {key: key for key in keys()}


if __name__ == "__main__":
    without_asv.main()

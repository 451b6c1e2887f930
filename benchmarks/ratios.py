"""The engine's cost as a multiple of hand-written asyncio code for the same work.

Both are measured in turn in the same process, so a ratio moves less with the machine than a time.
The hand-written code's own times are series, too: if they move with a ratio, stageflow has not
changed. ``python -m tools.compare`` prints these ratios beside their goals.
"""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.interleaved import ratios
from benchmarks._lib.pairs import (
    Pair,
    bag_writes,
    beside_featured,
    beside_gather,
    concurrent_runs,
)
from benchmarks._lib.support import CpuTimed, charted, requires, timed
from benchmarks._lib.workloads import SHAPES

setup = requires("ContextBag", "Interceptor", "PipelineContext", "PipelineOrchestrator")

ROUNDS = 9


def samples(pair: Pair, rounds: int | None = None) -> dict[str, object]:
    """The ratios of all rounds, for the chart."""
    return charted(ratios(*pair, rounds or ROUNDS))


class Gather:
    """Graphs beside a hand-written ``gather`` a layer, which has none of the features."""

    version = "1"
    unit = "times gather"
    params = tuple(SHAPES)[2:]
    param_names = ("graph",)

    def track_no_op(self, graph: str) -> dict[str, object]:
        """Stages that return at once: the price of the features, or what is saved with them."""
        return samples(beside_gather(graph))

    def track_suspending(self, graph: str) -> dict[str, object]:
        """Stages that suspend: the price of the features where tasks cannot be saved."""
        return samples(beside_gather(graph, suspend=True))


class Featured:
    """Graphs beside hand-written code with the same features."""

    version = "1"
    unit = "times hand-written"
    params = tuple(SHAPES)
    param_names = ("graph",)

    def track_no_op(self, graph: str) -> dict[str, object]:
        """Stages that return at once: what an engine brings over writing the features by hand."""
        return samples(beside_featured(graph))

    def track_suspending(self, graph: str) -> dict[str, object]:
        """Stages that suspend: the same where tasks cannot be saved."""
        return samples(beside_featured(graph, suspend=True))


class Other:
    """Comparisons of other work than graphs."""

    version = "1"

    def track_concurrent_runs(self) -> dict[str, object]:
        """1,000 runs of 20 stages at once, beside as many with a gather a layer."""
        return samples(concurrent_runs(), rounds=3)

    track_concurrent_runs.unit = "times gather"  # type: ignore[attr-defined]

    def track_bag_write(self) -> dict[str, object]:
        """An awaited write to a bag, beside a dict write with a check before it."""
        return samples(bag_writes())

    track_bag_write.unit = "times a dict write"  # type: ignore[attr-defined]


class HandWritten(CpuTimed):
    """The hand-written code's own CPU time for about 1,000 stages that return at once."""

    version = "1"
    params = ("chain of 100", "layered 10x10")
    param_names = ("graph",)

    @timed
    def track_gather(self, graph: str) -> None:
        """Bare gather a layer: must not move from commit to commit."""
        _, by_hand = beside_gather(graph)
        by_hand()

    @timed
    def track_featured(self, graph: str) -> None:
        """With the same features as stageflow: must not move from commit to commit."""
        _, by_hand = beside_featured(graph)
        by_hand()


if __name__ == "__main__":
    without_asv.main()

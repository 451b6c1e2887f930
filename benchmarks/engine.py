"""The engine's cost per stage: graphs whose stages do nothing, so that all time is its own.

Every call runs its graph as often as makes about 1,000 stages, in one entry of the loop: a
millisecond on the chart is a microsecond a stage. All features are on: events, timing, declared
outputs checked and written once, a timeout for each stage.
"""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, requires, run, timed
from benchmarks._lib.workloads import (
    SHAPES,
    StageMaker,
    no_op,
    orchestrator,
    run_at_once,
    run_times,
    suspending,
    unlimited,
)

setup = requires("PipelineOrchestrator", "PipelineContext", "StageSpec", "StageOutput")

STAGES_A_CALL = 1_000


def run_1000_stages(graph: str, make: StageMaker = no_op) -> None:
    """Run one of the shapes as often as makes about 1,000 stages."""
    times = max(1, STAGES_A_CALL // len(SHAPES[graph]))
    result = run(run_times(orchestrator(graph, make), times))
    result.unwrap()


class NoOp(CpuTimed):
    """Stages that return at once."""

    version = "1"
    params = tuple(SHAPES)
    param_names = ("graph",)

    @timed
    def track_1000_stages(self, graph: str) -> None:
        """The engine's own cost a stage when no stage suspends: its best case."""
        run_1000_stages(graph)


class Suspending(CpuTimed):
    """Stages that let the loop turn once, as all do that wait for something."""

    version = "1"
    params = tuple(SHAPES)
    param_names = ("graph",)

    @timed
    def track_1000_stages(self, graph: str) -> None:
        """The engine's cost a stage when each really suspends: tasks, limits armed and released."""
        run_1000_stages(graph, suspending)


class Unlimited(CpuTimed):
    """Stages without a timeout."""

    version = "1"
    params = ("chain of 100", "layered 10x10")
    param_names = ("graph",)

    @timed
    def track_1000_stages(self, graph: str) -> None:
        """Beside `NoOp`: what declaring a timeout for each stage costs."""
        run_1000_stages(graph, unlimited)


class Concurrent(CpuTimed):
    """Many runs in one loop."""

    version = "1"

    @timed
    def track_1000_runs_of_20(self) -> None:
        """1,000 runs of 20 stages (dense 4x5) at once: what a busy server pays for a wave."""
        run(run_at_once(orchestrator("dense 4x5"), 1_000))

    @timed
    def track_200_runs_of_20_suspending(self) -> None:
        """200 runs whose stages suspend, so that all of them are really under way at once."""
        run(run_at_once(orchestrator("dense 4x5", suspending), 200))


if __name__ == "__main__":
    without_asv.main()

"""The cost of a stage that runs another pipeline as a child run."""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.interleaved import interleaved
from benchmarks._lib.support import CpuTimed, charted, requires, run, timed
from benchmarks._lib.workloads import parent, run_times

setup = requires("subpipeline", "Pipeline", "PipelineOrchestrator")

RUNS_A_CALL = 100
ROUNDS = 9


def run_nested(depth: int) -> None:
    """Run ten stages `RUNS_A_CALL` times, `depth` levels deep."""
    run(run_times(parent(depth), RUNS_A_CALL)).unwrap()


class Nested(CpuTimed):
    """Ten stages that do nothing, below more and more levels of parent runs."""

    version = "1"
    params = (0, 1, 3)
    param_names = ("levels",)

    @timed
    def track_100_runs(self, levels: int) -> None:
        """A hundred runs; each level adds a child run with an id, a bag and a log of its own."""
        run_nested(levels)


class Child:
    """One child run."""

    version = "1"
    unit = "seconds"

    def track_cost_per_child(self) -> dict[str, object]:
        """CPU time that a child run adds: ten stages in a child against ten stages directly."""
        pairs = interleaved((lambda: run_nested(1), lambda: run_nested(0)), ROUNDS)
        return charted([(with_ - without) / RUNS_A_CALL for with_, without in pairs])


if __name__ == "__main__":
    without_asv.main()

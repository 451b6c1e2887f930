"""How much memory runs need."""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.fresh_process import growth_bytes
from benchmarks._lib.support import charted, requires, run
from benchmarks._lib.workloads import orchestrator, run_at_once, suspending

setup = requires("PipelineOrchestrator", "PipelineContext")


class Peak:
    """Peak of resident memory of a process that does one thing."""

    version = "1"

    def peakmem_nothing(self) -> None:
        """A process that has only imported the benchmarks: what the others are read against."""

    def peakmem_run_of_1000_stages(self) -> None:
        """One run of 1,000 stages, its graph included."""
        run(run_at_once(orchestrator("1,000 stages"), 1))

    def peakmem_1000_runs_of_20(self) -> None:
        """1,000 runs of 20 stages at once, all results kept to the end."""
        run(run_at_once(orchestrator("dense 4x5"), 1_000))

    def peakmem_1000_runs_of_20_suspending(self) -> None:
        """The same with stages that suspend: the tasks of all runs are in memory together."""
        run(run_at_once(orchestrator("dense 4x5", suspending), 1_000))


class Growth:
    """How far the peak rises in a fresh process that has done one run before."""

    version = "1"
    unit = "bytes"

    def track_1000_runs_of_20(self) -> dict[str, object]:
        """Growth by 1,000 runs of 20 stages at once, all results kept; at most 40 MB."""
        return charted([growth_bytes(1_000) for _ in range(3)])


if __name__ == "__main__":
    without_asv.main()

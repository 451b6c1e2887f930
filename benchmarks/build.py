"""The cost of defining a pipeline and building its graph."""

from __future__ import annotations

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, requires, timed
from benchmarks._lib.workloads import define_and_build, layers_of

setup = requires("Pipeline", "StageSpec", "StageOutput", "PipelineOrchestrator")


class Small(CpuTimed):
    """Pipelines of usual sizes."""

    version = "2"
    params = (3, 10, 20)
    param_names = ("stages",)

    @timed
    def track_define_and_build(self, stages: int) -> None:
        """Checks and compilation of stages with dependencies: paid once a process, at start."""
        define_and_build(stages)

    @timed
    def track_orchestrator(self, stages: int) -> None:
        """The same, and the graph bound to what runs it: all that is done before a first run."""
        sf.PipelineOrchestrator(define_and_build(stages))


class Growth(CpuTimed):
    """Large pipelines: the time should grow in proportion to the number of stages."""

    version = "1"
    params = (100, 1_000, 10_000)
    param_names = ("stages",)

    @timed
    def track_define_and_build(self, stages: int) -> None:
        """Checks and compilation; the curve bends if the cost a stage grows."""
        define_and_build(stages)


class Compose(CpuTimed):
    """Joining pipelines."""

    version = "1"

    @timed
    def track_compose_ten_of_ten(self) -> None:
        """Ten pipelines of ten stages joined one after another: checks run at each join."""
        joined = sf.Pipeline("bench", layers_of(100)[:10])
        for start in range(10, 100, 10):
            joined = joined.compose(sf.Pipeline("part", layers_of(100)[start : start + 10]))


if __name__ == "__main__":
    without_asv.main()

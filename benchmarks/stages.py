"""The cost of each stage of the kernels on its own, with providers that answer at once."""

from __future__ import annotations

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, requires, run, timed
from benchmarks._lib.turns import NEEDS, given, instant_providers, kernel

setup = requires(*NEEDS)

EXECUTIONS_A_CALL = 10


def execute(pipeline: str, stage: str) -> sf.StageOutput:
    """Execute one stage of a kernel ten times, with the engine around it."""
    context = sf.PipelineContext(given(pipeline), providers=instant_providers())
    bound = kernel(pipeline).stage(stage)

    async def executions() -> sf.StageOutput:
        for _ in range(EXECUTIONS_A_CALL):
            output = await bound.execute(context)
        return output

    return run(executions())


class Voice(CpuTimed):
    """The stages of the voice kernel."""

    version = "1"
    params = ("stt", "profile", "memory", "llm", "tts", "persist")
    param_names = ("stage",)

    @timed
    def track_10_executions(self, stage: str) -> None:
        """CPU time of one stage run as in its pipeline: names the culprit of a slow turn."""
        execute("voice", stage)


class Chat(CpuTimed):
    """The stages of the chat kernel."""

    version = "1"
    params = ("guard", "memory", "llm", "persist")
    param_names = ("stage",)

    @timed
    def track_10_executions(self, stage: str) -> None:
        """CPU time of one stage run as in its pipeline: names the culprit of a slow turn."""
        execute("chat", stage)


if __name__ == "__main__":
    without_asv.main()

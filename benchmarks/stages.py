"""What each stage of the kernels costs on its own, with providers that answer at once."""

from __future__ import annotations

import functools

import stageflow as sf
from benchmarks import plain
from benchmarks.support import CpuTimed, requires, run, timed
from benchmarks.turns import NEEDS, chat_inputs, instant_providers, kernel, voice_inputs

setup = requires(*NEEDS)

EXECUTIONS_A_CALL = 10


@functools.cache
def given(pipeline: str) -> dict[str, object]:
    """All that a stage could read: the inputs of a turn, and what a whole turn has written."""
    inputs = voice_inputs() if pipeline == "voice" else chat_inputs()
    context = sf.PipelineContext(inputs, providers=instant_providers())
    return {**inputs, **run(kernel(pipeline).run(context)).unwrap()}


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
    plain.main()

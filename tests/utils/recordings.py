"""Record turns of the kernels, and change what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stageflow import Interceptor, Pipeline, PipelineOrchestrator, ProviderRegistry, RunResult
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.kernels import default_providers
from stageflow.providers import speech_of_text
from stageflow.testing import FaultType, Recorder, Simulation, inject_fault, simulate

SAID = "I want to go for a walk. Is it going to rain?"


def inputs_of(pipeline: Pipeline) -> dict[str, Any]:
    given = {"audio": speech_of_text(SAID), "text": SAID, "user_id": "ada"}
    return {key: given[key] for key in pipeline.inputs}


def record(
    path: Path,
    pipeline: Pipeline,
    *faults: tuple[str, FaultType],
    interceptors: tuple[Interceptor, ...] = (),
    providers: ProviderRegistry | None = None,
    inputs: Mapping[str, Any] | None = None,
    codec: Codec = DEFAULT_CODEC,
    **options: Any,
) -> RunResult:
    """Run a pipeline in virtual time, and keep the turn in a file; its result."""

    async def turn(sim: Simulation) -> RunResult:
        context = sim.context(
            inputs_of(pipeline) if inputs is None else inputs,
            providers=default_providers() if providers is None else providers,
            **options,
        )
        with ExitStack() as block:
            for provider, fault in faults:
                block.enter_context(inject_fault(provider, fault, allow_unused=True))
            recorder = block.enter_context(Recorder(context.providers, codec=codec))
            orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=interceptors)
            result = await orchestrator.run(context)
        recorder.save(path, context, result)
        return result

    return simulate(turn, seed=None).value

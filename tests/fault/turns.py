"""Turns of the voice kernel, in virtual time, with providers whose every latency is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from stageflow import (
    Interceptor,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
)
from stageflow.kernels import PROFILES, voice
from stageflow.providers import (
    FakeDatabase,
    FakeLLM,
    FakeSTT,
    FakeTTS,
    LatencyProfile,
    speech_of_text,
)
from tests.utils.virtual_time import run_virtual

STT_MS, READ_MS, LLM_MS, TTS_MS, WRITE_MS = 100.0, 20.0, 200.0, 100.0, 10.0

#: What a turn takes without a fault; the two reads at its beginning overlap.
HEALTHY_MS = STT_MS + READ_MS + LLM_MS + TTS_MS + READ_MS + WRITE_MS

#: What none of the texts for a user may hold: words that mean something to engineers alone.
INTERNALS = ("error", "exception", "timeout", "stt", "llm", "tts", "injected", "http", "503", "'")


def providers() -> ProviderRegistry:
    """Fakes of all ports; the database knows the user ``ada``."""
    fixed = LatencyProfile.fixed
    return ProviderRegistry(
        stt=FakeSTT(latency=fixed(STT_MS)),
        llm=FakeLLM(latency=fixed(LLM_MS)),
        tts=FakeTTS(latency=fixed(TTS_MS)),
        db=FakeDatabase(
            {PROFILES: {"ada": {"name": "Ada"}}}, read=fixed(READ_MS), write=fixed(WRITE_MS)
        ),
    )


def context(registry: ProviderRegistry | None = None, text: str = "Hello?") -> PipelineContext:
    """Return the context of a voice turn."""
    return PipelineContext(
        {"audio": speech_of_text(text), "user_id": "ada"},
        providers=registry if registry is not None else providers(),
        seed=1,
    )


def taken(
    *faults: AbstractContextManager[Any],
    interceptors: Sequence[Interceptor] = (),
    prepare: Callable[[ProviderRegistry], None] | None = None,
) -> RunResult:
    """A voice turn under some faults, in virtual time."""

    async def main() -> RunResult:
        registry = providers()
        if prepare is not None:
            prepare(registry)
        orchestrator = PipelineOrchestrator(voice().build(), interceptors=interceptors)
        with ExitStack() as stack:
            for fault in faults:
                stack.enter_context(fault)
            return await orchestrator.run(context(registry))

    return run_virtual(main)


def statuses(result: RunResult) -> dict[str, str]:
    """How each stage ended."""
    return {name: str(stage.status) for name, stage in result.stages.items()}


def is_fit_for_users(message: str | None) -> bool:
    """Whether a text is a sentence for a person and gives nothing of the inside away."""
    return (
        bool(message)
        and str(message).endswith((".", "?"))
        and not any(word in str(message).lower() for word in INTERNALS)
    )

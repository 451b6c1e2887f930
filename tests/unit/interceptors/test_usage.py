"""The usage of calls: events, sums, cost by the user's prices, budgets, and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stageflow import PipelineContext, PipelineOrchestrator, ProviderRegistry, RunResult
from stageflow.errors import InvalidConfigError
from stageflow.events import EventLog
from stageflow.interceptors import UsageInterceptor, usage_of
from stageflow.kernels import chat, default_providers, streaming_voice, voice
from stageflow.providers import Answer, FakeLLM, Usage, calling, speech_of_text
from stageflow.telemetry import PrometheusSink


async def taken(pipeline: Any, usage: UsageInterceptor, llm: Any = None) -> RunResult:
    providers: ProviderRegistry = default_providers(scale=0)
    if llm is not None:
        providers.register("llm", llm)
    inputs = {"text": "Hi you", "audio": speech_of_text("Hi you"), "user_id": "ada"}
    ctx = PipelineContext(inputs, providers=providers)
    return await PipelineOrchestrator(pipeline.build(), interceptors=[usage]).run(ctx)


@pytest.mark.parametrize("pipeline", [chat(), chat(streaming=True)])
async def test_reported_tokens_are_unchanged(pipeline: Any) -> None:
    """And the cost is that of the table; units without a price are free."""
    usage = UsageInterceptor(prices={"llm": {"prompt_tokens": 0.5}})
    result = await taken(pipeline, usage, FakeLLM(Answer("Hello.", usage=Usage(12, 3))))
    (event,) = [event for event in result.events if event.what == "usage"]
    assert event.stage == "llm"
    told = {"provider": "llm", "prompt_tokens": 12, "completion_tokens": 3, "cost": 6.0}
    assert dict(event.data) == told
    assert usage_of(result.events) == {k: v for k, v in told.items() if k != "provider"}


@pytest.mark.parametrize("kernel", [voice, streaming_voice])
async def test_speech_is_counted_and_tokens_are_estimated(kernel: Any) -> None:
    """Sound in seconds, both heard and made, and the characters that are spoken."""
    result = await taken(kernel(), UsageInterceptor(), FakeLLM("Hello."))
    told = {e.data["provider"]: dict(e.data) for e in result.events if e.what == "usage"}
    assert told["stt"] == {"provider": "stt", "audio_s": speech_of_text("Hi you").duration_s}
    assert told["tts"]["characters"] == 6
    assert told["tts"]["audio_s"] == speech_of_text("Hello.").duration_s
    assert (told["llm"]["completion_tokens"], told["llm"]["estimated"]) == (2, True)


async def test_a_run_ends_where_its_budget_does() -> None:
    """The call after that is refused, for a reason that is not a failure to be replayed."""
    llm = FakeLLM([calling("look"), calling("look"), "Never said."])

    async def look() -> str:
        """Look."""
        return "x" * 300

    usage = UsageInterceptor(budget={"prompt_tokens": 100})
    result = await taken(chat(tools=[look]), usage, llm)
    assert result.failure is not None
    assert (result.failure.code, result.failure.category) == ("budget_exceeded", "policy")
    assert "its budget is 100" in str(result.failure)
    assert llm.calls == 2


async def test_a_budget_of_nothing_refuses_the_first_call() -> None:
    llm = FakeLLM("Never said.")
    result = await taken(chat(), UsageInterceptor(budget={"prompt_tokens": 0}), llm)
    assert result.failure is not None
    assert (result.failure.code, llm.calls) == ("budget_exceeded", 0)


@pytest.mark.parametrize(
    "options",
    [
        {"prices": 0},
        {"prices": 5},
        {"prices": {"llm": 1}},
        {"budget": 1},
        {"prices": {"llm": {"characters": 1}}},
        {"prices": {"llmm": {"prompt_tokens": 1}}},
        {"prices": {"llm": {"prompt_tokens": -1}}},
        {"prices": {"llm": {"prompt_tokens": float("nan")}}},
        {"budget": {"tokens": 1}},
        {"budget": {"cost": "1"}},
    ],
)
def test_what_is_not_a_price_or_a_budget_is_refused(options: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"give a mapping .* numbers"):
        UsageInterceptor(**options)


async def test_prometheus_counts_what_is_used() -> None:
    sink = PrometheusSink(registry := CollectorRegistry())
    usage = UsageInterceptor(prices={"llm": {"completion_tokens": 2.0}})
    result = await taken(chat(), usage, FakeLLM(Answer("Hi.", usage=Usage(12, 3))))
    sink.write(result.events)
    for unit, amount in (("prompt_tokens", 12), ("completion_tokens", 3), ("cost", 6.0)):
        labels = {"pipeline": "chat", "stage": "llm", "provider": "llm", "unit": unit}
        assert registry.get_sample_value("stageflow_usage_total", labels) == amount
    log = EventLog("own", 0.0, 0.0)
    log.append(("stage.llm.usage", 0.0, "llm", {"characters": 2}))  # of a stage of one's own
    sink.write(log.snapshot())
    labels = {"pipeline": "unknown", "stage": "llm", "provider": "unknown", "unit": "characters"}
    assert registry.get_sample_value("stageflow_usage_total", labels) == 2


async def test_a_failed_call_uses_nothing() -> None:
    class Down:
        async def complete(self, messages: Any) -> str:
            raise ConnectionError("reset")

        def stream(self, messages: Any) -> Any:
            raise ConnectionError("reset")

    for pipeline in (chat(), chat(streaming=True)):
        result = await taken(pipeline, UsageInterceptor(), Down())
        assert usage_of(result.events) == {}

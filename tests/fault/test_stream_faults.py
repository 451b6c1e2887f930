"""Faults of streams that stages write, and what those meet who read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    stage,
)
from stageflow.errors import InvalidConfigError, StreamFailedError
from stageflow.testing import Simulation, StreamFaultInjector, inject_fault, simulate

ITEMS = ["one", "two", "three"]


@stage(streams=["words", "other"], timeout_s=30.0, required=False)
async def write(ctx: StageContext) -> StageOutput:
    """Put three words at once into each stream."""
    words, other = ctx.open("words"), ctx.open("other")
    for item in ITEMS:
        await words.put(item)
        await other.put(item)
    return StageOutput.ok()


@stage(dependencies=["write"], inputs=["words"], outputs=["read"])
async def read(ctx: StageContext) -> StageOutput:
    """Read all words, note when each came, in milliseconds, and what came instead of the next."""
    found: list[Any] = []
    words, why = ctx["words"], None
    while True:
        try:
            word = await anext(words)
        except StopAsyncIteration:
            break
        except StreamFailedError as error:
            why = error.cause
            break
        found.append((word, round((ctx.now() - ctx.started_at) * 1000)))
    return StageOutput.ok(read=found if why is None else [*found, why.code])


PIPELINE = Pipeline("words", [write, read])


def run(*faults: StreamFaultInjector) -> RunResult:
    """Run the pipeline in virtual time."""

    async def main(sim: Simulation) -> RunResult:
        orchestrator = PipelineOrchestrator(PIPELINE.build(), interceptors=list(faults))
        return await orchestrator.run(sim.context())

    return simulate(main).value


def test_without_a_fault_all_comes_at_once() -> None:
    """The baseline of the other tests."""
    assert run().outputs["read"] == [(item, 0) for item in ITEMS]


def test_a_stream_that_stalls_falls_silent_until_the_stage_is_given_up() -> None:
    """Its reader has what came before, then waits; the limit of the writing stage ends it."""
    stall = StreamFaultInjector(PIPELINE, "words", "stall", after_items=2)
    result = run(stall)
    assert result.outputs["read"] == [("one", 0), ("two", 0), "stage_timeout"]
    assert result.duration_ms == pytest.approx(30_000)
    assert stall.injected == 1


def test_a_stream_that_is_cut_tells_its_reader_why() -> None:
    """The reader has the items before the cut, and then the error of the connection."""
    cut = StreamFaultInjector(PIPELINE, "words", "cut", after_items=2)
    result = run(cut)
    assert result.outputs["read"] == [("one", 0), ("two", 0), "connection_failed"]
    closed = [e.data["items"] for e in result.events if e.what == "stream_closed"]
    assert closed == [2, 2]
    assert cut.injected == 1


@stage(name="write", streams=["words"])
async def write_with_an_input(sentence: str, ctx: StageContext) -> None:
    words = ctx.open("words")
    for word in sentence.split():
        await words.put(word)


@stage(name="write", streams=["words"])
async def write_by_yield(sentence: str) -> AsyncIterator[str]:
    for word in sentence.split():
        yield word


@pytest.mark.parametrize("writer", [write_with_an_input, write_by_yield])
def test_it_meets_a_stage_of_any_form(writer: StageSpec) -> None:
    """A function that takes inputs beside its context opens its streams there as well."""
    pipeline = Pipeline("words", [writer], inputs=["sentence"])
    cut = StreamFaultInjector(pipeline, "words", "cut", after_items=2)
    slow = StreamFaultInjector(pipeline, "words", "slow", duration_ms=40)

    async def main(sim: Simulation) -> RunResult:
        return await pipeline.run(sim.context({"sentence": "a b c"}), interceptors=[slow, cut])

    ended = simulate(main).value.stages["write"]
    assert ended.detail["error_code"] == "connection_failed"
    assert (slow.injected, cut.injected) == (2, 1)


def test_a_slow_stream_delays_each_item() -> None:
    """By just so long; the other stream of the stage is as it was, but for the common pace."""
    slow = StreamFaultInjector(PIPELINE, "words", "slow", duration_ms=40)
    assert run(slow).outputs["read"] == [("one", 40), ("two", 80), ("three", 120)]
    assert slow.injected == 3


def test_two_faults_meet_two_streams() -> None:
    """One injector each; a stream that is in trouble does not change the other."""
    slow = StreamFaultInjector(PIPELINE, "words", "slow", duration_ms=40)
    cut = StreamFaultInjector(PIPELINE, "other", "cut", after_items=1)
    result = run(slow, cut)
    items = {e.data["stream"]: e.data["items"] for e in result.events if e.what == "stream_closed"}
    assert items == {"words": 2, "other": 1}


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("wrods", "cut"), {}, "StreamFaultInjector: key is 'wrods'; did you mean 'words'"),
        (("nothing like it", "cut"), {}, "'words' writes 'words', 'other'"),
        ((5, "cut"), {}, "writes 'words'"),
        (("words", "timeout"), {}, "a stream can have stall, cut, slow"),
        (("words", {"cut"}), {}, "a stream can have stall, cut, slow"),
        (("words", "cut"), {"duration_ms": 5}, "its one option is after_items"),
        (("words", "slow"), {"after_items": 5}, "its one option is duration_ms"),
        (("words", "stall"), {"after_items": -1}, "give an integer, 0 or more"),
        (("words", "slow"), {"duration_ms": -1}, "give a finite number of milliseconds"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, options: Any, said: str) -> None:
    """A stream that nobody writes, another fault, another option: each with its fix."""
    with pytest.raises(InvalidConfigError, match=said):
        StreamFaultInjector(PIPELINE, *arguments, **options)
    with pytest.raises(InvalidConfigError, match="'plain' writes none at all"):
        StreamFaultInjector(Pipeline("plain", []), *arguments, **options)


def test_the_pieces_of_a_slow_provider_come_one_by_one() -> None:
    """After the delay of the answer, each is later by its own."""

    async def main(sim: Simulation) -> list[tuple[str, int]]:
        with inject_fault("voice", "slow", duration_ms=100, per_piece_ms=10):
            pieces = (
                sim.context(providers=ProviderRegistry(voice=Voice())).providers["voice"].speak()
            )
            return [(piece, round(sim.loop.time() * 1000)) async for piece in pieces]

    assert simulate(main).value == [("one", 110), ("two", 120), ("three", 130)]


class Voice:
    """A provider that speaks at once."""

    async def speak(self) -> Any:
        """All words."""
        for item in ITEMS:
            yield item

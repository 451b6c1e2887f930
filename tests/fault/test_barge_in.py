"""Barge-in: a turn that is cancelled while it speaks is silent, and keeps what was really heard."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stageflow import Audio, Event, Message, PipelineContext, ProviderRegistry
from stageflow.kernels import INTERRUPTED, KEEPING_S, SpokenForm, streaming_voice
from stageflow.kernels.sentences import SentenceSplitter
from stageflow.providers import (
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    LatencyProfile,
    speech_of_text,
)
from stageflow.providers.ports import is_speakable
from stageflow.testing import Scenario, Simulation, SimulationLoop, run_in, simulate
from tests.utils.virtual_time import run_virtual

#: 100 to hear, 20 to read, 80 to the first sentence, 50 for its sound: speech begins at 250 ms.
SPEAKS_AT_MS = 250.0
#: How long `FakeTTS` speaks for a byte of text, in milliseconds, and in bytes of PCM.
BYTE_MS, BYTE_PCM = 60, 1_920
ANSWER = "One two. Three four five. Six."


class SteadyLLM(FakeLLM):
    """Takes 40 ms for each word, and knows how many streams are open."""

    open_streams = 0

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self.open_streams += 1
        try:
            for word in re.findall(r"\S+\s*", self._answer(messages)):
                await asyncio.sleep(0.040)
                yield word
        finally:
            self.open_streams -= 1


class CountedTTS(FakeTTS):
    """Knows how many syntheses are under way."""

    under_way = 0

    async def synthesize(self, text: str) -> Audio:
        self.under_way += 1
        try:
            return await super().synthesize(text)
        finally:
            self.under_way -= 1


def providers(answer: str = ANSWER, db: Any = None) -> ProviderRegistry:
    fixed = LatencyProfile.fixed
    return ProviderRegistry(
        stt=FakeSTT(latency=fixed(100)),
        llm=SteadyLLM(answer),
        tts=CountedTTS(latency=fixed(50)),
        db=db if db is not None else FakeDatabase(read=fixed(20), write=fixed(10)),
        speaker=FakeSpeaker(),
    )


def context(registry: ProviderRegistry, text: str = "Hello?") -> PipelineContext:
    inputs = {"audio": speech_of_text(text), "user_id": "ada"}
    return PipelineContext(inputs, providers=registry, seed=1)


def heard_text(speaker: FakeSpeaker) -> bytes:
    """Return the text that the sound alone carries: a byte for each of its complete tones."""
    tones = [
        part.pcm[start : start + BYTE_PCM]
        for part in speaker.heard
        for start in range(0, len(part.pcm) - BYTE_PCM + 1, BYTE_PCM)
    ]
    return bytes(int.from_bytes(tone[:2], "little", signed=True) // 100 - 1 for tone in tones)


def whole_words(answer: str, heard: bytes) -> str:
    """The answer up to the last of its words of which everything was heard."""
    assert answer.encode().startswith(heard)
    ends = [len(answer[: word.end()].encode()) for word in re.finditer(r"\S+", answer)]
    return heard[: max((end for end in ends if end <= len(heard)), default=0)].decode()


async def turns(registry: ProviderRegistry) -> list[dict[str, Any]]:
    record = await registry.db.get("conversations", "ada")
    return [] if record is None else list(record["turns"])


def assert_kept_what_was_heard(answer: str, speaker: FakeSpeaker, kept: list[Any]) -> None:
    """The record is what the listener has heard; after the last word, all of the answer."""
    heard = heard_text(speaker)
    words = whole_words(answer, heard)
    said = [turn["assistant"].rstrip() for turn in kept]
    if not kept or kept[0].get("interrupted"):
        assert said == ([words] if words else [])
    else:
        assert said == [answer.rstrip()]
        assert heard.decode() == spoken(answer)
    assert all(answer.startswith(turn["assistant"]) for turn in kept)


def spoken(answer: str) -> str:
    """The answer without what cannot be spoken at its end."""
    splitter = SentenceSplitter()
    sentences = [*splitter.feed(answer), splitter.finish()]
    while sentences and not is_speakable(sentences[-1]):
        sentences.pop()
    return "".join(sentences)


def barge_in(registry: ProviderRegistry, after_ms: float) -> tuple[list[Any], tuple[Event, ...]]:
    """Cancel a turn, and see that it is quiet by then and 20 ms later; what it kept, its events."""
    llm, tts, speaker = registry["llm"], registry["tts"], registry["speaker"]

    async def main() -> list[Any]:
        ctx = context(registry)
        run = asyncio.create_task(streaming_voice().run(ctx))
        await asyncio.sleep(after_ms / 1000)
        run.cancel()
        await asyncio.sleep(0.020)
        assert (llm.open_streams, tts.under_way, speaker.sounding) == (0, 0, 0)
        calls, heard = (llm.calls, tts.calls, speaker.calls), len(speaker.heard)
        await asyncio.wait([run])
        contexts.append(ctx)
        kept = await turns(registry)
        await asyncio.sleep(60.0)
        assert (llm.calls, tts.calls, speaker.calls) == calls, "it went on"
        assert len(speaker.heard) == heard, "something sounded after the cancellation"
        return kept

    contexts: list[PipelineContext] = []
    kept = run_virtual(main)
    return kept, contexts[0].get_events()


@pytest.mark.parametrize(
    ("sounds_for_bytes", "said"),
    [
        (2.9, None),
        (3.0, "One"),
        (7.9, "One"),
        (8.0, "One two."),
        (9.0, "One two. "),
        (14.0, "One two. Three"),
        (26.5, "One two. Three four five. "),
    ],
)
def test_the_words_that_were_heard_are_kept(sounds_for_bytes: float, said: str | None) -> None:
    """A word once all of its sound was played, and marked as cut short; else no record at all."""
    kept, _ = barge_in(providers(), SPEAKS_AT_MS + sounds_for_bytes * BYTE_MS)
    record = {"user": "Hello?", "assistant": said, "refused": False, "interrupted": True}
    assert kept == ([] if said is None else [record])


words = st.text("abcäßéжщЯλω.,'-", min_size=1, max_size=8)
answers = st.builds(
    lambda parts: "".join(word + gap for word, gap in parts),
    st.lists(st.tuples(words, st.sampled_from([" ", ". ", "! ", "\n", "  "])), min_size=1),
)


@given(answers, st.integers(0, 12_000))
@example("Ж. щщ", 2 * 260)
@example("a. ... - ", 2 * 12_000)
@example("... ", 2 * 12_000)
def test_what_is_kept_is_what_was_heard(answer: str, half_ms: int) -> None:
    """For each answer and each moment of the interruption, a listener would report the same."""
    assume(SpokenForm().of(answer) == answer)  # a "-" that begins a line is not spoken
    registry = providers(answer)
    kept, _ = barge_in(registry, half_ms / 2)
    assert_kept_what_was_heard(answer, registry["speaker"], kept)


def cancelled_at_step(step: int, registry: ProviderRegistry) -> tuple[bool, list[Any]]:
    """Cancel a turn before that callback; whether it came so far, and what it kept."""
    loop = SimulationLoop()

    async def main() -> tuple[bool, list[Any]]:
        run = asyncio.create_task(streaming_voice().run(context(registry)))
        loop.at_step(step, run.cancel)
        await asyncio.wait([run])
        assert registry["speaker"].sounding == 0
        return run.cancelled(), await turns(registry)

    return run_in(loop, main())


def test_it_holds_at_every_step_of_the_loop() -> None:
    """Also where a sentence has just ended, and while the turn is being kept."""
    # The first callback is the caller, the second begins the run.
    step, cancelled = 2, True
    kept_turns: list[Any] = []
    while cancelled:
        step, registry = step + 1, providers()
        cancelled, kept = cancelled_at_step(step, registry)
        assert_kept_what_was_heard(ANSWER, registry["speaker"], kept)
        kept_turns += kept if cancelled else []
    cut_short = [turn for turn in kept_turns if turn.get("interrupted")]
    assert len(cut_short) >= 3
    assert len(kept_turns) - len(cut_short) >= 2, "what was heard is kept, cancelled or not"


@given(st.integers(0, 2**32), st.integers(1, 150))
def test_it_holds_in_whatever_order(seed: int, step: int) -> None:
    """Whichever of the stages that are ready goes first, and wherever the cancellation falls."""

    async def main(sim: Simulation) -> None:
        registry = providers()
        run = streaming_voice().run(context(registry))
        with contextlib.suppress(asyncio.CancelledError):
            await sim.interruptible(run)
        speaker: FakeSpeaker = registry["speaker"]
        assert speaker.sounding == 0
        assert_kept_what_was_heard(ANSWER, speaker, await turns(registry))

    simulate(main, scenario=Scenario(seed, cancel_at_step=step))


def test_the_next_turn_tells_the_model() -> None:
    """Its prompt holds the words that were heard, and that the rest was not."""
    prompts: list[Sequence[Message]] = []

    class Recording(SteadyLLM):
        async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
            prompts.append(messages)
            async for piece in super().stream(messages):
                yield piece

    registry = providers()
    registry.register("llm", Recording(ANSWER))
    barge_in(registry, SPEAKS_AT_MS + 14 * BYTE_MS)
    run_virtual(lambda: streaming_voice().run(context(registry, "Stop!")))
    assert prompts[1][1:] == [
        Message("user", "Hello?"),
        Message("assistant", f"One two. Three {INTERRUPTED}"),
        Message("user", "Stop!"),
    ]


class Stuck(FakeDatabase):
    """Never answers once it is set to be stuck."""

    stuck = False
    begun = 0

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        self.begun += 1
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        return await super().get(collection, key)


@pytest.mark.parametrize("after_bytes", [14, len(ANSWER) + 0.1], ids=["speaking", "keeping"])
@pytest.mark.simulate(order="asyncio")
async def test_a_database_that_hangs_does_not_hold_the_cancellation(after_bytes: float) -> None:
    """It ends at the limit, as cancelled, without a task left; the sound has ended at once."""
    database = Stuck()
    registry = providers(db=database)

    def ctx_time() -> float:
        return asyncio.get_running_loop().time()

    ctx = context(registry)
    run = asyncio.create_task(streaming_voice().run(ctx))
    await asyncio.sleep((SPEAKS_AT_MS - 20) / 1000)
    database.stuck = True
    await asyncio.sleep(after_bytes * BYTE_MS / 1000)
    asked_at = ctx_time()
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    events = [e for e in ctx.get_events() if e.what == "not_kept"]
    took_s, not_kept = ctx_time() - asked_at, [e.data["error_code"] for e in events]
    assert took_s == pytest.approx(KEEPING_S)
    assert not_kept == ["operation_timeout"]
    assert database.begun == 3


@pytest.mark.simulate(order="asyncio")
async def test_a_record_that_fails_while_it_is_waited_for_is_not_a_stray_error() -> None:
    """The run ends as cancelled, an event tells it, and no exception is left unretrieved."""

    class SlowlyFailing(FakeDatabase):
        async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
            await asyncio.sleep(0.5)
            raise ConnectionError("gone")

    registry = providers(db=SlowlyFailing())
    stray: list[dict[str, Any]] = []

    asyncio.get_running_loop().set_exception_handler(lambda _, told: stray.append(told))
    ctx = context(registry)
    run = asyncio.create_task(streaming_voice().run(ctx))
    await asyncio.sleep((SPEAKS_AT_MS + len(ANSWER) * BYTE_MS + 100) / 1000)
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    del run
    gc.collect()
    not_kept = [event for event in ctx.get_events() if event.what == "not_kept"]
    assert [event.data["error_code"] for event in not_kept] == ["connection_failed"]
    assert stray == []


def test_a_database_that_fails_is_reported_and_hides_nothing() -> None:
    """The run ends as cancelled all the same; an event says that the turn was not kept."""

    class Failing(FakeDatabase):
        async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
            raise ConnectionError("gone")

    fixed = LatencyProfile.fixed
    registry = providers(db=Failing(read=fixed(20)))
    kept, events = barge_in(registry, SPEAKS_AT_MS + 14 * BYTE_MS)
    assert kept == []
    (told,) = [event for event in events if event.type == "stage.speak.not_kept"]
    assert told.data["error_code"] == "connection_failed"
    assert [e.type for e in events if e.stage == "speak"][-1] == "stage.speak.cancelled"
    assert events[-1].type == "pipeline.cancelled"

"""The streaming voice kernel: what it says when, what it keeps, and what a broken service costs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from stageflow import (
    Audio,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.context import RunStatus
from stageflow.dlq.replay import replay
from stageflow.dlq.store import InMemoryDeadLetterStore
from stageflow.errors import InvalidReplyError
from stageflow.interceptors.retry import RetryInterceptor, RetryPolicy
from stageflow.kernels.conversation import INTERRUPTED, PROFILES, conversation
from stageflow.kernels.streaming_voice import (
    ANSWER_S,
    PROGRESS_S,
    SENTENCE_S,
    first_audio_ms,
    streaming_voice,
    words_within,
)
from stageflow.kernels.voice import NOTHING_HEARD, voice
from stageflow.providers.fake import (
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    speech_of_text,
    text_of_speech,
)
from stageflow.providers.latency import LatencyProfile
from stageflow.testing.faults import FaultType, inject_fault
from tests.utils.assertions import assert_run_sound
from tests.utils.virtual_time import run_virtual

STT_MS, PROFILE_MS, MEMORY_MS, WRITE_MS = 100.0, 30.0, 20.0, 10.0
#: Four words at equal distances, so 50 ms each.
ANSWER, LLM_MS, TTS_MS = "One two. Three four.", 200.0, 100.0
#: `FakeTTS` takes 60 ms for a byte: "One two. " has 9, "Three four." has 11.
FIRST_SOUND_MS, SECOND_SOUND_MS = 540.0, 660.0

BEFORE_LLM_MS = STT_MS + max(PROFILE_MS, MEMORY_MS)
#: The first sentence is whole with its second word.
FIRST_AUDIO_MS = BEFORE_LLM_MS + 2 * LLM_MS / 4 + TTS_MS


class SlowProfiles(FakeDatabase):
    """A fake database that takes its own time for profiles."""

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        if collection == PROFILES:
            await asyncio.sleep((PROFILE_MS - MEMORY_MS) / 1000)
        return await super().get(collection, key)


def providers(answer: str = ANSWER, **others: Any) -> ProviderRegistry:
    """Fakes of all ports that always take the same time."""
    fixed = LatencyProfile.fixed
    database = SlowProfiles(
        {PROFILES: {"ada": {"name": "Ada"}}}, read=fixed(MEMORY_MS), write=fixed(WRITE_MS)
    )
    fakes = {
        "stt": FakeSTT(latency=fixed(STT_MS)),
        "llm": FakeLLM(answer, latency=fixed(LLM_MS)),
        "tts": FakeTTS(latency=fixed(TTS_MS)),
        "db": database,
        "speaker": FakeSpeaker(),
    }
    return ProviderRegistry(**{k: v for k, v in (fakes | others).items() if v is not None})


def context(registry: ProviderRegistry, text: str = "Hello?", user: str = "ada") -> PipelineContext:
    inputs = {"audio": speech_of_text(text), "user_id": user}
    return PipelineContext(inputs, providers=registry, seed=1)


def taken(
    registry: ProviderRegistry, pipeline: Pipeline | None = None, *interceptors: Any
) -> RunResult:
    """A turn in virtual time, checked for what every run owes."""
    turn = pipeline if pipeline is not None else streaming_voice()

    async def main() -> RunResult:
        return await turn.run(context(registry), interceptors=interceptors)

    result = run_virtual(main)
    assert_run_sound(turn, result)
    return result


def at_ms(result: RunResult, event_type: str) -> float:
    (found,) = [event.offset_ms for event in result.events if event.type == event_type]
    return found


def kept(registry: ProviderRegistry, user: str = "ada") -> list[Any]:
    """The turns in the database."""

    async def main() -> Any:
        return await registry.db.get("conversations", user)

    record = run_virtual(main)
    return [] if record is None else list(record["turns"])


# ── a turn ──────────────────────────────────────────────────────────────────────────────────


def test_shape() -> None:
    """Who waits for whom, what is a stream, what may fail, and that everything has a limit."""
    graph = streaming_voice().build()
    assert {spec.name: (spec.dependencies, spec.required) for spec in graph.specs} == {
        "stt": ((), True),
        "profile": (("stt",), False),
        "memory": (("stt",), False),
        "llm": (("profile", "memory"), True),
        "tts": (("llm",), True),
        "speak": (("tts",), True),
        "persist": (("llm", "speak"), False),
    }
    assert {key: (route.live, route.late) for key, route in graph.streams.items()} == {
        "sentences": (("tts",), ("persist",)),
        "sound": (("speak",), ()),
    }
    assert all(spec.timeout_s is not None for spec in graph.specs)


def test_outputs_are_those_of_the_whole_turn() -> None:
    """Whoever goes over from `voice` finds each output where it was, and equal."""
    streamed, whole = taken(providers()).unwrap(), taken(providers(), voice()).unwrap()
    assert {key: streamed[key] for key in whole} == whole
    assert streamed.keys() - whole.keys() == {"sentences", "sound"}
    assert text_of_speech(streamed["speech"]) == ANSWER


def test_what_is_heard_is_the_answer_in_sentences() -> None:
    """Each is a synthesis and a sound of its own, in order."""
    registry = providers()
    result = taken(registry)
    assert list(map(text_of_speech, registry["speaker"].heard)) == ["One two. ", "Three four."]
    assert list(result.outputs["sentences"].items()) == ["One two. ", "Three four."]
    assert registry["tts"].calls == 2
    assert kept(registry) == [{"user": "Hello?", "assistant": ANSWER, "refused": False}]


def test_time_to_first_audio_and_of_the_whole_turn() -> None:
    """Exactly what has to come one after another, worked out by hand, and nothing else.

    100 to hear, 30 for the slower of the two reads, 2 x 50 until the model's first sentence is
    whole, 100 to make its sound: 330. The second sentence is made while the first sounds, so 540
    and 660 of sound follow without a gap, and then 20 + 10 to keep the turn: 1560.
    """
    result = taken(providers())
    assert first_audio_ms(result.events) == pytest.approx(330.0)
    assert FIRST_AUDIO_MS == 330.0
    assert at_ms(result, "stage.tts.stream_first_item") == pytest.approx(330.0)
    assert at_ms(result, "stage.speak.completed") == pytest.approx(330.0 + 540.0 + 660.0)
    assert result.duration_ms == pytest.approx(1560.0)


def test_the_whole_turn_is_heard_later() -> None:
    """It waits for the whole answer: 100 + 30 + 200 + 100."""
    result = taken(providers(), voice())
    assert first_audio_ms(result.events) == pytest.approx(430.0)


def test_a_turn_without_sound_has_no_first_audio() -> None:
    """None, where the run failed before."""
    with inject_fault("stt", FaultType.ERROR):
        assert first_audio_ms(taken(providers()).events) is None


def test_the_model_does_not_wait_for_sound() -> None:
    """A hundred sentences are answered in the model's own time, while the first one sounds."""
    result = taken(providers("Hm. " * 100))
    assert at_ms(result, "stage.llm.completed") == pytest.approx(BEFORE_LLM_MS + LLM_MS)


def test_synthesis_is_only_so_far_ahead() -> None:
    """While the first sentence sounds, one more waits, and a third is made and no more."""
    registry = providers("A long one. Two. Three. Four. Five. Six.")

    async def main() -> int:
        run = asyncio.create_task(streaming_voice().run(context(registry)))
        await asyncio.sleep((BEFORE_LLM_MS + LLM_MS + TTS_MS + 400) / 1000)
        assert registry["speaker"].calls == 1
        calls: int = registry["tts"].calls
        await run
        return calls

    assert run_virtual(main) == 3
    assert registry["tts"].calls == 6


def test_without_a_speaker_the_turn_ends_when_all_sound_is_made() -> None:
    """Nobody is waited for, and the answer counts as said."""
    registry = providers(speaker=None)
    result = taken(registry)
    assert text_of_speech(result.unwrap()["speech"]) == ANSWER
    # Its last word is there before the first sentence's sound; the second synthesis follows.
    made_ms = BEFORE_LLM_MS + 2 * LLM_MS / 4 + 2 * TTS_MS
    assert at_ms(result, "stage.speak.completed") == pytest.approx(made_ms)
    assert kept(registry)[0]["assistant"] == ANSWER


def test_white_space_is_never_said_by_itself() -> None:
    """It goes with a sentence, or with none at the end, and no synthesis is asked for it."""
    answer = " " * 700 + "\n Well. \n\n Yes.  \n "
    registry = providers(answer)
    result = taken(registry)
    said = list(result.unwrap()["sentences"].items())
    assert all(sentence.strip() for sentence in said)
    assert "".join(said).rstrip() == answer.rstrip()
    assert result.outputs["answer"] == answer


def test_silence_is_answered_and_not_recorded() -> None:
    """To silence the kernel asks to repeat, aloud, without the model and without a record."""
    registry = providers(stt=FakeSTT(" "))
    result = taken(registry)
    assert result.unwrap()["answer"] == NOTHING_HEARD
    assert "".join(map(text_of_speech, registry["speaker"].heard)) == NOTHING_HEARD
    assert registry["llm"].calls == 0
    assert kept(registry) == []
    assert str(result.stages["persist"].status) == "skipped"


def test_a_broken_database_degrades() -> None:
    """With the database gone, the user still hears the answer."""
    registry = providers()
    with inject_fault("db", FaultType.DISCONNECT):
        result = taken(registry)
    assert "".join(map(text_of_speech, registry["speaker"].heard)) == ANSWER
    assert {name for name, s in result.stages.items() if str(s.status) == "failed"} == {
        "profile",
        "memory",
        "persist",
    }


# ── failures ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("provider", "fault", "options", "code", "stage"),
    [
        # The model breaks off within its second sentence; "One two. " is 9 bytes of sound.
        ("llm", FaultType.CUT, {"after_pieces": 3}, "connection_failed", "llm"),
        ("llm", FaultType.STALL, {"after_pieces": 3}, "no_progress", "llm"),
        ("tts", FaultType.INTERMITTENT, {"script": "ok,fail"}, "service_unavailable", "tts"),
        (
            "tts",
            FaultType.INTERMITTENT,
            {"script": "ok,fail", "fault": "stall"},
            "no_progress",
            "tts",
        ),
        (
            "tts",
            FaultType.INTERMITTENT,
            {"script": "ok,fail", "fault": "invalid"},
            "invalid_reply",
            "tts",
        ),
    ],
)
def test_what_was_made_before_a_failure_is_heard_and_kept(
    provider: str, fault: FaultType, options: Mapping[str, Any], code: str, stage: str
) -> None:
    """The first sentence sounds to its end, the run fails with its cause, the record holds it."""
    registry = providers()
    with inject_fault(provider, fault, **options):
        result = taken(registry)
    assert result.status is RunStatus.FAILED
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == (code, stage)
    assert list(map(text_of_speech, registry["speaker"].heard)) == ["One two. "]
    assert kept(registry) == [
        {"user": "Hello?", "assistant": "One two. ", "refused": False, "interrupted": True}
    ]
    assert (result.outputs.get("answer") == ANSWER) is (provider == "tts")


@pytest.mark.parametrize(
    ("provider", "fault", "code"),
    [
        ("llm", FaultType.ERROR, "service_unavailable"),
        ("llm", FaultType.EMPTY, "invalid_reply"),
        ("llm", FaultType.INVALID, "invalid_reply"),
        ("llm", FaultType.STALL, "no_progress"),
        ("tts", FaultType.ERROR, "service_unavailable"),
        ("tts", FaultType.STALL, "no_progress"),
        ("speaker", FaultType.DISCONNECT, "connection_failed"),
        ("speaker", FaultType.STALL, "stage_timeout"),
    ],
)
def test_a_turn_of_which_nothing_was_heard_leaves_no_record(
    provider: str, fault: FaultType, code: str
) -> None:
    """It fails with its cause, within the limit of whoever it waits for."""
    registry = providers()
    with inject_fault(provider, fault):
        result = taken(registry)
    assert result.failure is not None
    assert result.failure.code == code
    assert registry["speaker"].heard == []
    if provider != "speaker":
        assert kept(registry) == []
    limit_s = {"llm": PROGRESS_S, "tts": SENTENCE_S, "speaker": ANSWER_S}[provider]
    assert result.duration_ms <= FIRST_AUDIO_MS + limit_s * 1000 + MEMORY_MS + WRITE_MS


def test_a_speaker_that_breaks_costs_what_came_before_nothing() -> None:
    """What it played is kept."""
    registry = providers()
    with inject_fault("speaker", FaultType.INTERMITTENT, script="ok,fail"):
        result = taken(registry)
    assert result.failure is not None
    assert result.failure.stage == "speak"
    assert [turn["assistant"] for turn in kept(registry)] == ["One two. "]


@pytest.mark.parametrize("provider", ["llm", "tts"])
def test_a_first_failure_is_tried_again(provider: str) -> None:
    """As long as nothing was put into a stream, a stage may be repeated, its input included."""
    registry = providers()
    with inject_fault(provider, FaultType.INTERMITTENT, script="fail,ok") as fault:
        result = taken(registry, None, RetryInterceptor(RetryPolicy(base_delay_s=0.1)))
    assert result.status is RunStatus.COMPLETED
    assert fault.injected == 1
    assert "".join(map(text_of_speech, registry["speaker"].heard)) == ANSWER


@pytest.mark.parametrize(
    ("provider", "script"), [("tts", "ok,fail,ok"), ("llm", "fail")], ids=["tts", "llm"]
)
def test_what_was_said_is_not_said_again(provider: str, script: str) -> None:
    """Once a sentence was put, the error stands."""
    registry = providers()
    options: dict[str, Any] = {"fault": "cut", "after_pieces": 2} if provider == "llm" else {}
    with inject_fault(provider, FaultType.INTERMITTENT, script=script, **options):
        result = taken(registry, None, RetryInterceptor(RetryPolicy(base_delay_s=0.1)))
    assert result.status is RunStatus.FAILED
    assert list(map(text_of_speech, registry["speaker"].heard)) == ["One two. "]


def test_a_replay_asks_no_model_again() -> None:
    """The letter of a turn whose synthesis failed holds the answer: all of it is spoken then."""
    registry, store = providers(), InMemoryDeadLetterStore()
    orchestrator = PipelineOrchestrator(streaming_voice().build(), dead_letters=store)

    async def main() -> RunResult:
        ctx = context(registry)
        with inject_fault("tts", FaultType.INTERMITTENT, script="ok,fail"):
            await orchestrator.run(ctx)
        assert ctx.dlq_entry is not None
        return await replay(ctx.dlq_entry, orchestrator, store, providers=registry)

    result = run_virtual(main)
    assert text_of_speech(result.unwrap()["speech"]) == ANSWER
    assert (registry["llm"].calls, registry["stt"].calls) == (1, 1)
    heard = ["One two. ", "One two. ", "Three four."]
    assert list(map(text_of_speech, registry["speaker"].heard)) == heard


def test_sound_that_changes_its_rate_is_refused() -> None:
    """It could not be one `Audio`; the error names both rates, once all of it has been heard."""

    class Wavering(FakeTTS):
        async def synthesize(self, text: str) -> Audio:
            audio = await super().synthesize(text)
            return Audio(audio.pcm, 16_000 + 8_000 * (self.calls - 1))

    registry = providers(tts=Wavering())
    result = taken(registry)
    assert isinstance(result.failure, InvalidReplyError)
    whole = [speech_of_text("One two. ").pcm, speech_of_text("Three four.").pcm]
    assert [part.pcm for part in registry["speaker"].heard] == whole
    assert "[16000, 24000] Hz" in str(result.failure)


# ── what the model is told, and how words are counted ───────────────────────────────────────


def test_the_model_is_told_that_it_was_interrupted() -> None:
    """The next prompt holds what was heard, and says that it broke off there."""
    turn = {"user": "Hi", "assistant": "One two.", "refused": False, "interrupted": True}
    whole = {"user": "And?", "assistant": "Three.", "refused": False}
    said = [m.content for m in conversation("Go on", [turn, whole])[1:]]
    assert said == ["Hi", f"One two. {INTERRUPTED}", "And?", "Three.", "Go on"]


@pytest.mark.parametrize(
    ("sentence", "share", "said"),
    [
        ("Hello my friend. ", 0.0, ""),
        ("Hello my friend. ", 4.9 / 17, ""),
        ("Hello my friend. ", 5 / 17, "Hello"),
        ("Hello my friend. ", 8 / 17, "Hello my"),
        ("Hello my friend. ", 15.9 / 17, "Hello my"),
        ("Hello my friend. ", 1.0, "Hello my friend."),
        ("  Oh dear.", 4 / 10, "  Oh"),
        # What is left of three tenths of a second after subtracting times.
        ("abc defghi", 0.29999999999999993, "abc"),
        ("Grüße dir", 6.9 / 11, ""),
        ("Grüße dir", 7 / 11, "Grüße"),
        ("你好。", 0.99, ""),
        ("你好。", 1.0, "你好。"),
        ("One \ud800 two", 7 / 11, "One \ud800"),
    ],
)
def test_words_are_counted_by_their_share_of_the_sound(
    sentence: str, share: float, said: str
) -> None:
    """A word is said once all its bytes would have sounded."""
    assert words_within(sentence, share) == said


def test_stages_see_the_speaker() -> None:
    """By the property of its port, as any other provider."""
    speaker = FakeSpeaker()

    async def look(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(seen=ctx.speaker)

    pipeline = Pipeline("p", [StageSpec("look", look, outputs=("seen",))])
    context = PipelineContext(providers=ProviderRegistry(speaker=speaker))
    assert run_virtual(lambda: pipeline.run(context)).outputs["seen"] is speaker

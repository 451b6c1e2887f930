"""The streaming voice kernel: what it says when, what it keeps, and what a broken service costs."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stageflow import (
    Audio,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.dlq import InMemoryDeadLetterStore, replay
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from stageflow.kernels import (
    INTERRUPTED,
    NOTHING_HEARD,
    PROFILES,
    first_audio_ms,
    streaming_voice,
    voice,
)
from stageflow.kernels.conversation import conversation
from stageflow.kernels.streaming_voice import ANSWER_S, PROGRESS_S, SENTENCE_S, words_within
from stageflow.providers import (
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    LatencyProfile,
    Retry,
    adapted,
    speech_of_text,
    text_of_speech,
)
from stageflow.testing import FaultType, inject_fault
from tests.utils.assertions import assert_run_sound
from tests.utils.factories import shape
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
    """Run a turn in virtual time, and check what holds for every run."""
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


def test_shape() -> None:
    """Dependencies, streams and optional stages are as documented, and each stage has a limit."""
    graph = streaming_voice().build()
    assert shape(graph) == {
        "stt": (set(), True),
        "profile": ({"stt"}, False),
        "memory": ({"stt"}, False),
        "llm": ({"stt", "profile", "memory"}, True),
        "tts": ({"llm"}, True),
        "speak": ({"stt", "tts"}, True),
        "persist": ({"stt", "llm", "speak"}, False),
    }
    readers = {key: (r.back_pressured, r.buffered) for key, r in graph.streams.items()}
    assert readers == {
        "sentences": (("tts",), ("persist",)),
        "sound": (("speak",), ()),
    }
    assert all(spec.timeout_s is not None for spec in graph.specs)


def test_outputs_are_those_of_the_whole_turn() -> None:
    """A user of `voice` who changes to this kernel finds each output where it was, and equal."""
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


@pytest.mark.parametrize("kernel", [streaming_voice, voice])
def test_an_answer_that_is_not_spoken_has_no_first_audio(kernel: Callable[[], Pipeline]) -> None:
    """An emoji is shown and kept; nothing is heard."""
    result = taken(providers(llm=FakeLLM("\U0001f44d")), kernel())
    assert result.unwrap()["answer"] == "\U0001f44d"
    assert first_audio_ms(result.events) is None


@pytest.mark.parametrize("kernel", [streaming_voice, voice])
def test_first_audio_is_reported_once_a_run(kernel: Callable[[], Pipeline]) -> None:
    """However many sentences the answer has."""
    result = taken(providers(), kernel())
    assert [e.type for e in result.events if e.what == "first_audio"] == ["stage.tts.first_audio"]


def test_the_model_does_not_wait_for_sound() -> None:
    """A hundred sentences are answered in the model's own time, while the first one sounds."""
    result = taken(providers("Hm. " * 100))
    assert at_ms(result, "stage.llm.completed") == pytest.approx(BEFORE_LLM_MS + LLM_MS)


@pytest.mark.simulate(order="asyncio")
async def test_synthesis_is_only_so_far_ahead() -> None:
    """While the first sentence sounds, one more waits, and a third is made and no more."""
    registry = providers("A long one. Two. Three. Four. Five. Six.")

    run = asyncio.create_task(streaming_voice().run(context(registry)))
    await asyncio.sleep((BEFORE_LLM_MS + LLM_MS + TTS_MS + 400) / 1000)
    assert registry["speaker"].calls == 1
    calls: int = registry["tts"].calls
    await run
    assert calls == 3
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
    """It goes with a sentence, or with none at the end, and no synthesis is requested for it."""
    answer = " " * 700 + "\n Well. \n\n Yes.  \n "
    registry = providers(answer)
    result = taken(registry)
    said = list(result.unwrap()["sentences"].items())
    assert all(sentence.strip() for sentence in said)
    assert "".join(said).rstrip() == answer.rstrip()
    assert result.outputs["answer"] == answer


@pytest.mark.parametrize(
    ("answer", "spoken"),
    [
        ("Great, done! \U0001f60a", ["Great, done! "]),
        ("\U0001f60a\nGreat, done!", ["\nGreat, done!"]),
        ("One.\n---\nTwo.", ["One.\n", "\nTwo."]),
        ("Well. … \n** \nYes. =", ["Well. ", "… \n \nYes. "]),
        ("```\nx = 1\n```", []),
        ("Yes! \U0001f1e9\U0001f1ea \u200d\n1\ufe0f\u20e3", ["Yes! "]),
        ("Pay. €5! 好。\U0001f44d", ["Pay. ", "€5! ", "好。"]),
        ("\U0001f60a", []),
        ("…\n---\n", []),
    ],
)
def test_what_cannot_be_spoken_is_shown_and_kept(answer: str, spoken: list[str]) -> None:
    """It goes with the sentence behind it, or is not spoken; a service would refuse it alone."""
    registry = providers(answer, tts=FakeTTS(refuse_unspeakable=True))
    result = taken(registry)
    speech = result.unwrap()["speech"]
    assert list(map(text_of_speech, registry["speaker"].heard)) == spoken
    assert text_of_speech(speech) == "".join(spoken)
    assert result.outputs["answer"] == answer
    assert "".join(result.outputs["sentences"].items()) == answer
    assert [turn["assistant"] for turn in kept(registry)] == [answer]


def test_a_last_emoji_does_not_delay_the_sound() -> None:
    """The first sentence is spoken as early as without it."""
    result = taken(providers(f"{ANSWER} \U0001f60a", llm=FakeLLM(f"{ANSWER} \U0001f60a")))
    plain = taken(providers(llm=FakeLLM(ANSWER)))
    assert first_audio_ms(result.events) == first_audio_ms(plain.events)
    assert result.duration_ms == pytest.approx(plain.duration_ms + 60)  # the white space sounds


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
    """It fails with its cause, within the limit of the stage that it waits for."""
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
    """The sound that it played is kept."""
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


@pytest.mark.simulate(order="asyncio")
async def test_a_replay_asks_no_model_again() -> None:
    """The letter of a turn whose synthesis failed holds the answer: all of it is spoken then."""
    registry, store = providers(), InMemoryDeadLetterStore()
    orchestrator = PipelineOrchestrator(streaming_voice().build(), dead_letters=store)

    ctx = context(registry)
    with inject_fault("tts", FaultType.INTERMITTENT, script="ok,fail"):
        await orchestrator.run(ctx)
    assert ctx.dlq_entry is not None
    result = await replay(ctx.dlq_entry, orchestrator, store, providers=registry)
    assert text_of_speech(result.unwrap()["speech"]) == ANSWER
    assert (registry["llm"].calls, registry["stt"].calls) == (1, 1)
    heard = ["One two. ", "One two. ", "Three four."]
    assert list(map(text_of_speech, registry["speaker"].heard)) == heard


@pytest.mark.parametrize("soxr", [True, False])
def test_sound_that_changes_its_rate_is_resampled(
    soxr: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fallback may speak at another rate; the whole answer has that of the first sentence."""
    if not soxr:
        monkeypatch.setitem(sys.modules, "soxr", None)
    pcm = struct.pack("<4800h", *(round(9_000 * math.sin(n / 9)) for n in range(4800)))

    class Wavering(FakeTTS):
        async def synthesize(self, text: str) -> Audio:
            await super().synthesize(text)
            return Audio(pcm, 24_000 - 8_000 * (self.calls - 1))

    registry = providers(tts=Wavering())
    result = taken(registry)
    assert result.status is RunStatus.COMPLETED
    first, second = registry["speaker"].heard
    assert first == Audio(pcm, 24_000)
    assert second.sample_rate_hz == 24_000
    assert second.duration_s == pytest.approx(0.3, abs=0.001)
    samples = struct.unpack(f"<{len(second.pcm) // 2}h", second.pcm)[99:-99]
    wanted = [9_000 * math.sin(n / 13.5) for n in range(99, len(samples) + 99)]
    assert max(abs(a - b) for a, b in zip(samples, wanted, strict=True)) < 300
    assert result.outputs["speech"] == Audio(first.pcm + second.pcm, 24_000)


def test_one_sentence_is_synthesised_again() -> None:
    """A retry around the service repeats the call that failed, whatever was played before."""
    registry = providers()
    with (
        inject_fault("tts", FaultType.INTERMITTENT, script="ok,fail,fail,ok") as fault,
        adapted("tts", Retry),
    ):
        result = taken(registry)
    assert result.status is RunStatus.COMPLETED
    assert fault.injected == 2
    assert "".join(map(text_of_speech, registry["speaker"].heard)) == ANSWER


def test_the_model_learns_that_it_was_interrupted() -> None:
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


@pytest.mark.simulate(order="asyncio")
async def test_stages_see_the_speaker() -> None:
    """By the property of its port, as any other provider."""
    speaker = FakeSpeaker()

    async def look(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(seen=ctx.speaker)

    pipeline = Pipeline("p", [StageSpec("look", look, outputs=("seen",))])
    context = PipelineContext(providers=ProviderRegistry(speaker=speaker))
    assert (await pipeline.run(context)).outputs["seen"] is speaker

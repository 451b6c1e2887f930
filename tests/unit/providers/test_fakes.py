"""The fake providers: what they answer, how long they take, and what a cancellation leaves."""

from __future__ import annotations

import asyncio
import itertools
import struct
import unicodedata
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.errors import InvalidConfigError, ProviderError
from stageflow.providers import (
    Audio,
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    LatencyProfile,
    Message,
    ProviderRegistry,
    echo,
    speech_of_text,
    text_of_speech,
)
from stageflow.providers.fake import FakeRefusal
from stageflow.providers.ports import is_speakable
from stageflow.resilience import classify
from tests.utils.errors import raises_code
from tests.utils.virtual_time import run_virtual

HELLO = [Message("system", "Be brief."), Message("user", "Hello there.")]
FOREVER = LatencyProfile.fixed(3_600_000)
SPREAD = LatencyProfile.percentiles(p50_ms=50, p99_ms=200)


def marks_ms(main: Callable[[Callable[[], None]], Awaitable[None]]) -> list[float]:
    """The virtual times in ms at which `main` called its argument."""
    marks: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        await main(lambda: marks.append(loop.time() * 1000))

    run_virtual(run)
    return marks


def without_suspending(call: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of `call` at its first step; fail if it suspends."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("suspended")


async def pieces_of(llm: FakeLLM) -> list[str]:
    return [piece async for piece in llm.stream(HELLO)]


def test_fakes_serve_their_ports() -> None:
    """A registry takes each fake under the name of its port."""
    providers = ProviderRegistry(llm=FakeLLM(), stt=FakeSTT(), tts=FakeTTS(), db=FakeDatabase())
    assert set(providers) == {"llm", "stt", "tts", "db"}


def test_zero_latency_does_not_suspend() -> None:
    """Without latency, every call returns without giving the loop control."""
    audio = without_suspending(FakeTTS().synthesize("hi"))
    assert without_suspending(FakeSTT().transcribe(audio)) == "hi"
    assert without_suspending(FakeLLM("yes").complete(HELLO)) == "yes"
    assert without_suspending(FakeDatabase().put("c", "k", {})) is None
    assert without_suspending(FakeDatabase().get("c", "k")) is None
    assert without_suspending(pieces_of(FakeLLM("a b"))) == ["a ", "b"]


CALLS: list[tuple[str, Callable[[LatencyProfile, int], Any], Callable[[Any], Awaitable[Any]]]] = [
    ("llm", lambda p, s: FakeLLM(latency=p, seed=s), lambda f: f.complete(HELLO)),
    ("stream", lambda p, s: FakeLLM(latency=p, seed=s), pieces_of),
    ("stt", lambda p, s: FakeSTT("x", latency=p, seed=s), lambda f: f.transcribe(Audio(b""))),
    ("tts", lambda p, s: FakeTTS(latency=p, seed=s), lambda f: f.synthesize("x")),
    ("get", lambda p, s: FakeDatabase(read=p, seed=s), lambda f: f.get("c", "k")),
    ("put", lambda p, s: FakeDatabase(write=p, seed=s), lambda f: f.put("c", "k", {})),
]
each_call = pytest.mark.parametrize(
    ("make", "call"), [(make, call) for _, make, call in CALLS], ids=[name for name, *_ in CALLS]
)


def latencies_ms(fake: Any, call: Any, count: int) -> list[float]:
    """How long each of `count` calls takes, in virtual milliseconds."""

    async def main(mark: Callable[[], None]) -> None:
        mark()
        for _ in range(count):
            await call(fake)
            mark()

    return [after - before for before, after in itertools.pairwise(marks_ms(main))]


@each_call
def test_takes_its_latency(make: Any, call: Any) -> None:
    """Each call takes as long as its profile says, and is counted."""
    fake = make(LatencyProfile.fixed(25), 0)
    assert latencies_ms(fake, call, 3) == pytest.approx([25, 25, 25])
    assert fake.calls == 3


@each_call
def test_same_seed_same_latencies(make: Any, call: Any) -> None:
    """Two fakes with one seed take the same time call by call; another seed takes another."""
    first, second, other = (latencies_ms(make(SPREAD, seed), call, 5) for seed in (1, 1, 2))
    assert first == second != other
    assert len(set(first)) == 5


def test_kinds_do_not_share_their_chance() -> None:
    """Fakes of different kinds with one seed are not slow at the same calls."""
    taken = [
        latencies_ms(make(SPREAD, 1), call, 1)[0] for name, make, call in CALLS if name != "stream"
    ]
    assert len({round(duration, 6) for duration in taken}) == 4, "get and put share a generator"


@each_call
async def test_cancellable(make: Any, call: Any) -> None:
    """A call that is cancelled ends at once, and still counts as a call."""
    fake = make(FOREVER, 0)
    task = asyncio.ensure_future(call(fake))
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.calls == 1


async def test_llm_echoes() -> None:
    """By default the model repeats the user's last words."""
    assert await FakeLLM().complete(HELLO) == "You said: Hello there."


def test_echo_shows_what_came_before() -> None:
    """With an earlier message of the user, the echo mentions it; with none at all, it says so."""
    talk = [Message("user", "one"), Message("assistant", "ok"), Message("user", "two")]
    assert echo(talk) == "You said: two (Before that: one)"
    assert echo([Message("system", "Be brief.")]) == "You have said nothing yet."


async def test_llm_follows_its_script() -> None:
    """Scripted answers come in turn, and then from the first again."""
    llm = FakeLLM(["one", "two"])
    assert [await llm.complete(HELLO) for _ in range(3)] == ["one", "two", "one"]


async def test_llm_calls_a_function() -> None:
    """A function of the conversation makes the answer."""
    llm = FakeLLM(lambda messages: f"{len(messages)} messages")
    assert await llm.complete(HELLO) == "2 messages"


@given(st.text())
def test_pieces_joined_are_the_answer(answer: str) -> None:
    """For any answer, its pieces joined are the answer, and none of them is empty."""
    pieces = without_suspending(pieces_of(FakeLLM(answer)))
    assert "".join(pieces) == answer
    assert all(pieces)


@pytest.mark.parametrize(
    ("first_piece", "answer", "expected_ms"),
    [
        (LatencyProfile.fixed(60), "a b c d", [60, 100, 140, 180, 180]),
        (None, "a b c", [60, 120, 180, 180]),
        (LatencyProfile.fixed(500), "a b", [180, 180, 180]),
        (LatencyProfile.fixed(60), "alone", [180, 180]),
        (LatencyProfile.fixed(60), "", [180]),
    ],
    ids=["first then even", "even", "first cut to the whole", "one piece", "no piece"],
)
def test_stream_takes_the_whole_latency(
    first_piece: LatencyProfile | None, answer: str, expected_ms: list[float]
) -> None:
    """A stream waits for its first piece, then evenly, and as long in all as a whole answer."""
    llm = FakeLLM(answer, latency=LatencyProfile.fixed(180), first_piece=first_piece)

    async def main(mark: Callable[[], None]) -> None:
        async for _ in llm.stream(HELLO):
            mark()
        mark()

    assert marks_ms(main) == pytest.approx(expected_ms)


@pytest.mark.parametrize("answers", [[], [1], ["fine", None]])
def test_llm_refuses_a_bad_script(answers: Any) -> None:
    """A script without an answer, or with one that is not a string, is refused."""
    with pytest.raises(InvalidConfigError, match=r"FakeLLM: answers is .* one string"):
        FakeLLM(answers)


@given(st.text(st.characters(exclude_categories=())))
def test_stt_understands_tts(text: str) -> None:
    """FakeSTT returns the text that FakeTTS spoke, character by character."""
    assert text_of_speech(speech_of_text(text)) == text


async def test_speech_is_as_long_as_its_text() -> None:
    """Speech lasts 60 ms a byte, is 16-bit PCM and audible."""
    audio = await FakeTTS().synthesize("Hello")
    assert audio.duration_s == pytest.approx(0.3)
    samples = struct.unpack(f"<{len(audio.pcm) // 2}h", audio.pcm)
    assert max(samples) == -min(samples) > 1000
    assert sum(samples) == 0


async def test_stt_follows_its_script() -> None:
    """Scripted transcripts come in turn, whatever the audio."""
    stt = FakeSTT(["one", "two"])
    assert [await stt.transcribe(Audio(b"noise")) for _ in range(3)] == ["one", "two", "one"]


async def test_silence_is_empty() -> None:
    """Silence has an empty transcript."""
    assert await FakeSTT().transcribe(Audio(b"\0" * 6400)) == ""
    assert await FakeSTT().transcribe(Audio(b"")) == ""


SPEECH = speech_of_text("Grüße").pcm


@pytest.mark.parametrize(
    "pcm",
    [
        b"noise!",
        SPEECH[:-2],
        SPEECH[2:],
        SPEECH[: 3 * len(SPEECH) // 7],
        b"\xff\x7f" * 960,
        SPEECH[:100] + b"\1" + SPEECH[101:],
    ],
    ids=["noise", "cut end", "cut start", "cut character", "too loud", "one wrong byte"],
)
async def test_foreign_sound_is_refused(pcm: bytes) -> None:
    """Sound that is not FakeTTS's own is refused, with a message fit for a user."""
    with raises_code("unintelligible_audio", match=f"{len(pcm)} bytes") as caught:
        await FakeSTT().transcribe(Audio(pcm))
    assert isinstance(caught.value, ProviderError)
    assert "say it again" in caught.value.user_message


def test_stt_refuses_a_bad_script() -> None:
    """An empty script is refused."""
    with pytest.raises(InvalidConfigError, match="FakeSTT: transcripts"):
        FakeSTT([])


async def test_callers_cannot_reach_into_the_store() -> None:
    """Changing what went in or came out, however deep, changes nothing in the store."""
    given: dict[str, Any] = {"tags": ["a"]}
    initial: dict[str, Any] = {"tags": ["x"]}
    db = FakeDatabase({"c": {"first": initial}})
    await db.put("c", "k", given)
    given["tags"].append("b")
    initial["tags"].append("y")
    found: Any = await db.get("c", "k")
    found["tags"].append("c")
    assert await db.get("c", "k") == {"tags": ["a"]}
    assert await db.get("c", "first") == {"tags": ["x"]}


async def test_put_stores_the_record_as_it_was() -> None:
    """A record that its caller changes while it is being stored is stored as it was handed in."""
    db = FakeDatabase(write=LatencyProfile.fixed(0.001))
    record = {"n": 1}
    task = asyncio.ensure_future(db.put("c", "k", record))
    await asyncio.sleep(0)
    record["n"] = 2
    await task
    assert await db.get("c", "k") == {"n": 1}


async def test_cancelled_put_changes_nothing() -> None:
    """A put that is cancelled leaves the earlier record."""
    db = FakeDatabase({"c": {"k": {"n": 1}}}, write=FOREVER)
    task = asyncio.ensure_future(db.put("c", "k", {"n": 2}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.get("c", "k") == {"n": 1}


SECOND = Audio(bytes(range(250)) * 64, 8_000)  # 16,000 bytes


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.0])
def test_sound_takes_its_time(scale: float) -> None:
    """A second of sound takes a second times the scale, and has been heard then."""
    speaker = FakeSpeaker(scale=scale)

    async def main(mark: Callable[[], None]) -> None:
        await speaker.play(SECOND)
        mark()

    assert marks_ms(main) == [pytest.approx(1000 * scale)]
    assert (speaker.heard, speaker.sounding, speaker.calls) == ([SECOND], 0, 1)


async def test_sound_without_time_does_not_suspend() -> None:
    """At a scale of 0 everything has sounded at once."""
    speaker = FakeSpeaker(scale=0)
    without_suspending(speaker.play(SECOND))
    assert speaker.heard == [SECOND]


@given(st.integers(0, 7_999), st.sampled_from([0.5, 1.0, 2.0]))
def test_cancelled_sound_is_heard_to_the_sample(sample: int, scale: float) -> None:
    """The heard part is that which the clock allows, and the sound stops at once."""
    speaker = FakeSpeaker(scale=scale)

    async def main() -> None:
        task = asyncio.create_task(speaker.play(SECOND))
        await asyncio.sleep((sample + 0.5) / 8_000 * scale)
        assert speaker.sounding == 1
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run_virtual(main)
    assert speaker.heard == [Audio(SECOND.pcm[: 2 * sample], 8_000)]
    assert speaker.sounding == 0


@pytest.mark.simulate(order="asyncio")
async def test_a_sample_that_has_just_sounded_is_heard() -> None:
    """Also where the difference of two times falls short of it by a rounding error."""
    speaker = FakeSpeaker()

    assert (0.7 + 0.1 - 0.7) * 8_000 < 800
    await asyncio.sleep(0.7)
    task = asyncio.create_task(speaker.play(SECOND))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert len(speaker.heard[0].pcm) == 2 * 800


@pytest.mark.parametrize("scale", [-1, float("inf"), True, "1"])
def test_a_scale_of_sound_that_is_none_is_refused(scale: Any) -> None:
    """With the name of the class and the field."""
    with pytest.raises(InvalidConfigError, match=r"FakeSpeaker.*scale"):
        FakeSpeaker(scale=scale)


SPEAKABLE = ["a", "5", "€5", "Ж", "好", "ส", "يـ", "½", "①", "Ⅳ", "ª", "e\u0301", "**x**", "ー"]
UNSPEAKABLE = [
    *["", " \n", "…", "---", "```", "**", "=", "€", "%", "_", "«»", "。", "\U0001f60a"],
    *["\u200d", "\u0301", "\ufe0f", "\U0001f1e9\U0001f1ea", "\U0001f469\u200d\U0001f680"],
    *["1\ufe0f\u20e3", "#\u20e3", "\u3164", "\ud800"],
]


@pytest.mark.parametrize("text", [*SPEAKABLE, *UNSPEAKABLE])
def test_letters_and_digits_of_any_script_can_be_spoken(text: str) -> None:
    """Marks, symbols, emoji, keycaps and flags alone cannot."""
    assert is_speakable(text) is (text in SPEAKABLE)


@given(st.characters())
def test_a_character_is_speakable_by_its_category(character: str) -> None:
    """A letter or a number, but for the fillers, which are invisible letters."""
    named = unicodedata.category(character)[0] in "LN" and character not in "ᅟᅠㅤﾠ"
    assert is_speakable(character) is named


def test_a_strict_voice_refuses_what_cannot_be_spoken() -> None:
    """As services answer: HTTP 400. By default everything sounds."""
    with pytest.raises(FakeRefusal) as caught:
        without_suspending(FakeTTS(refuse_unspeakable=True).synthesize("---"))
    assert classify(caught.value).code == "request_rejected"
    assert without_suspending(FakeTTS(refuse_unspeakable=True).synthesize("x")).pcm
    assert without_suspending(FakeTTS().synthesize("---")).pcm


def test_a_model_with_a_window_refuses_more() -> None:
    """As services answer: HTTP 413, whether streamed or not."""
    small = FakeLLM("x", context_tokens=6)
    for call in (small.complete(HELLO), pieces_of(small)):
        with pytest.raises(FakeRefusal) as caught:
            without_suspending(call)
        assert classify(caught.value).code == "request_too_long"
    assert without_suspending(FakeLLM("x", context_tokens=7).complete(HELLO)) == "x"

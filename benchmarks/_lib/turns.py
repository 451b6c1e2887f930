"""Turns of the kernels, and the voice turn written by hand: what the kernel is compared with.

Each turn has providers of its own, seeded with the turn's number: turn 7 waits equally long in
every commit, and as long in the hand-written version as in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import stageflow as sf
from benchmarks._lib.support import from_older_commits, run, run_precisely

# An older commit may lack them; its benchmarks then skip before anything here is called.
with contextlib.suppress(ImportError):
    from_older_commits("kernels", KNOWN_USER="defaults", default_providers="defaults")
    from_older_commits("kernels", chat="chat", voice="voice")
    from stageflow.kernels import KNOWN_USER, chat, default_providers, voice

with contextlib.suppress(ImportError):
    from_older_commits(
        "kernels", streaming_voice="streaming_voice", first_audio_ms="streaming_voice"
    )
    from stageflow.kernels import streaming_voice

NEEDS = ("PipelineContext", "kernels.chat", "kernels.defaults", "kernels.voice")
STREAMING = (*NEEDS, "kernels.streaming_voice")
STREAMING_CHAT = (*NEEDS, "kernels.limiter")  # a module as old as the series that needs it
#: The kernels of a voice turn: whole and streaming.
VOICES = ("voice", "streaming_voice")
TEXT = "What is the weather like today?"
#: What is said where it matters that the answer, which repeats it, has more than one sentence.
TALK = f"I want to go for a long walk this afternoon. {TEXT} Do I have to take an umbrella?"

#: One turn, ready to be awaited.
Turn = Callable[[], Awaitable[Any]]


@functools.cache
def spoken(text: str) -> sf.Audio:
    """The user's words as sound."""
    return run(instant_providers().tts.synthesize(text))


def instant_providers() -> sf.ProviderRegistry:
    """Fakes that answer at once."""
    return default_providers(scale=0.0)


def voice_inputs(text: str = TEXT) -> dict[str, Any]:
    """Inputs of the voice kernels."""
    return {"audio": spoken(text), "user_id": KNOWN_USER}


def chat_inputs() -> dict[str, Any]:
    """Inputs of the chat kernel."""
    return {"text": TEXT, "user_id": KNOWN_USER}


@functools.cache
def kernel(name: str) -> sf.Pipeline:
    """The kernel of that name, built."""
    # An older commit may lack some of them: each is looked up when it is first used.
    makers = {
        "voice": lambda: voice(),  # noqa: PLW0108
        "streaming_voice": lambda: streaming_voice(),  # noqa: PLW0108
        "chat": lambda: chat(),  # noqa: PLW0108
        "streaming_chat": lambda: chat(streaming=True),
    }
    pipeline = makers[name]()
    pipeline.build()
    return pipeline


@functools.cache
def given(pipeline: str) -> dict[str, object]:
    """Return all that a stage could read: the inputs of a turn and all its outputs."""
    inputs = voice_inputs() if pipeline == "voice" else chat_inputs()
    context = sf.PipelineContext(inputs, providers=instant_providers())
    return {**inputs, **run(kernel(pipeline).run(context)).unwrap()}


def voice_turn(number: int, scale: float = 1.0) -> Turn:
    """The kernel's voice turn; latencies are multiplied by `scale`."""
    context = sf.PipelineContext(voice_inputs(), providers=default_providers(number, scale))
    return functools.partial(kernel("voice").run, context)


def chat_turn(number: int, scale: float = 1.0, name: str = "chat") -> Turn:
    """The kernel's chat turn; latencies are multiplied by `scale`."""
    context = sf.PipelineContext(chat_inputs(), providers=default_providers(number, scale))
    return functools.partial(kernel(name).run, context)


def talk(kernel_name: str, number: int) -> Turn:
    """A turn of either voice kernel whose answer has three sentences."""
    context = sf.PipelineContext(voice_inputs(TALK), providers=default_providers(number))
    return functools.partial(kernel(kernel_name).run, context)


def hand_voice_turn(number: int, scale: float = 1.0) -> Turn:
    """The voice turn written by hand, with the same latencies as `voice_turn` of that number."""
    return functools.partial(voice_by_hand, voice_inputs(), default_providers(number, scale))


async def voice_by_hand(
    inputs: Mapping[str, Any], providers: sf.ProviderRegistry
) -> dict[str, Any]:
    """The same turn in plain asyncio, for the answer and nothing else.

    No events, no limits, no checks, and a failing memory fails the turn.
    """
    user = inputs["user_id"]
    db = providers.db
    transcript = (await providers.stt.transcribe(inputs["audio"])).strip()
    profile, record = await asyncio.gather(db.get("profiles", user), db.get("conversations", user))
    turns = list(record["turns"]) if record is not None else []
    answer = await providers.llm.complete(_messages(transcript, turns, profile))
    speech = await providers.tts.synthesize(answer)
    kept = await db.get("conversations", user)
    said = {"user": transcript, "assistant": answer, "refused": False}
    newest = [*(kept["turns"] if kept is not None else ()), said][-20:]
    await db.put("conversations", user, {"turns": newest})
    return {
        "transcript": transcript,
        "profile": profile,
        "history": turns,
        "answer": answer,
        "speech": speech,
    }


def _messages(
    text: str, turns: Sequence[Mapping[str, Any]], profile: Mapping[str, Any] | None
) -> list[sf.Message]:
    prompt = "You are a friendly assistant. Answer briefly."
    if profile is not None:
        prompt = f"{prompt} The user's name is {profile['name']}."
    messages = [sf.Message("system", prompt)]
    for turn in turns:
        messages.append(sf.Message("user", turn["user"]))
        messages.append(sf.Message("assistant", turn["assistant"]))
    return [*messages, sf.Message("user", text)]


def latencies_s(turns: Sequence[Turn], apart_s: float, *, precise: bool = False) -> list[float]:
    """How long each turn takes, in seconds, when one starts every `apart_s` seconds.

    A turn hardly computes but mostly waits, so with a few milliseconds between their starts many
    turns share a loop without being in each other's way, and 200 of them take 1.5 s.

    Args:
        turns: What is timed.
        apart_s: The distance between two starts.
        precise: Whether timers are kept more precisely than the usual loop does, so that small
            differences can be seen.
    """

    async def timed(turn: Turn, delay_s: float) -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(delay_s)
        started_at = loop.time()
        await turn()
        return loop.time() - started_at

    async def all_timed() -> list[float]:
        delayed = (timed(turn, number * apart_s) for number, turn in enumerate(turns))
        return await asyncio.gather(*delayed)

    return run_precisely(all_timed()) if precise else run(all_timed())


def voice_pairs_s(pairs: int, apart_s: float, scale: float = 1.0) -> list[tuple[float, float]]:
    """Latencies in seconds of `pairs` voice turns, each by the kernel and by hand.

    The two of a pair wait equally long for their providers; which one starts first alternates.
    """
    turns: list[Turn] = []
    for number in range(pairs):
        pair = [voice_turn(number, scale), hand_voice_turn(number, scale)]
        turns += pair if number % 2 else reversed(pair)
    took = latencies_s(turns, apart_s, precise=True)
    both = zip(took[::2], took[1::2], strict=True)
    return [pair if number % 2 else (pair[1], pair[0]) for number, pair in enumerate(both)]


def repeat(make: Callable[[int, float], Turn], times: int) -> Any:
    """Take `times` turns without latency, one after another; returns what the last one did."""
    turns = [make(number, 0.0) for number in range(times)]

    async def all_turns() -> Any:
        for turn in turns:
            last = await turn()
        return last

    return run(all_turns())

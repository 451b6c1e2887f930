"""Exact series: a turn in virtual time, and how many tasks, timers and events it makes.

These are the same on every machine, to the last digit, so any change here is a change of the
kernel or the engine. Most are zero or small by intent: the least rise is then one of more than a
tenth, and asv's factor lets nothing through.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Coroutine
from typing import Any

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import from_older_commits, requires
from benchmarks._lib.turns import (
    NEEDS,
    STREAMING,
    STREAMING_CHAT,
    VOICES,
    chat_inputs,
    kernel,
    voice_inputs,
)

FAKES = ("FakeDatabase", "FakeLLM", "FakeSTT", "FakeTTS")

# An older commit may lack it; its benchmarks then skip before anything here is called.
with contextlib.suppress(ImportError):
    from_older_commits("providers", **dict.fromkeys(FAKES, "fake"), LatencyProfile="latency")
    from_older_commits("testing", SimulationLoop="simulation", run_in="simulation")
    from stageflow.kernels import KNOWN_USER
    from stageflow.providers import FakeDatabase, FakeLLM, FakeSTT, FakeTTS, LatencyProfile
    from stageflow.testing import SimulationLoop, run_in
with contextlib.suppress(ImportError):
    from stageflow.kernels import first_audio_ms

    from_older_commits("providers", FakeSpeaker="fake")
    from stageflow.providers import FakeSpeaker

setup = requires(*NEEDS, "testing.simulation")

KERNELS = ("voice", "chat")

#: Four sentences of four words; 84 bytes, of which each is 60 ms of sound.
ANSWER = " ".join(["Four words are here."] * 3 + ["These are four words."])


@dataclasses.dataclass(frozen=True)
class Latencies:
    """How long each call of a provider takes, in milliseconds, always."""

    stt: float
    llm: float
    tts: float
    read: float
    write: float

    def of_stages(self) -> dict[str, float]:
        """How long each stage of the kernels takes, by the calls that it makes."""
        return {
            "stt": self.stt,
            "profile": self.read,
            "memory": self.read,
            "llm": self.llm,
            "tts": self.tts,
            "persist": self.read + self.write,
        }


#: About those of the default fakes at P50, but sums of powers of two: they add up without rounding.
FIXED = Latencies(stt=125.0, llm=187.5, tts=93.75, read=23.4375, write=11.71875)
EQUAL = Latencies(stt=1_000.0, llm=1_000.0, tts=1_000.0, read=1_000.0, write=1_000.0)
NONE = Latencies(stt=0.0, llm=0.0, tts=0.0, read=0.0, write=0.0)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn in virtual time.

    Attributes:
        latency_ms: How long it took, in milliseconds of virtual time.
        tasks: How many tasks were made for it.
        calls: How many calls of providers were begun.
        timers: How many timers were set beyond the one of each of these calls.
        events: How many events it left.
        emitted: How many of them tell of the first audio.
        first_audio_ms: When there was the first sound, in milliseconds of virtual time; None if
            there was none, or the commit cannot tell.
        heard_ms: When all of the answer had been heard, if there was a first sound: a sound that
            is made as a whole is then played.
    """

    latency_ms: float
    tasks: int
    calls: int
    timers: int
    events: int
    emitted: int = 0
    first_audio_ms: float | None = None
    heard_ms: float | None = None
    #: When the first piece of the answer of a streaming chat was there.
    first_token_ms: float | None = None


def turn(name: str, latencies: Latencies, **others: Any) -> Turn:
    """A turn of a kernel with providers that take these times; `others` replace some of them.

    Raises:
        RuntimeError: The turn failed.
    """

    # Not at the top of the module: on commits without simulation it has to be importable.
    class CountingLoop(SimulationLoop):
        tasks = timers = 0

        def create_task(self, coro: Any, **options: Any) -> Any:
            self.tasks += 1
            return super().create_task(coro, **options)

        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
            self.timers += 1
            return super().call_at(when, callback, *args, context=context)

    inputs = chat_inputs() if name.endswith("chat") else voice_inputs()
    pipeline, loop, fakes = kernel(name), CountingLoop(), {**_fakes(latencies), **others}
    context = sf.PipelineContext(inputs, providers=sf.ProviderRegistry(**fakes), seed=0)
    main: Coroutine[Any, Any, sf.RunResult] = pipeline.run(context)
    result = run_in(loop, main)
    result.unwrap()
    calls = sum(fake.calls for fake in fakes.values())
    waits = calls if latencies != NONE else 0
    ended_ms, timers, events = loop.time() * 1_000.0, loop.timers - waits, result.events
    first_ms = first_audio_ms(events) if "first_audio_ms" in globals() else None
    heard_ms = first_ms and _heard_ms(result, first_ms)
    emitted = sum(event.what == "first_audio" for event in events)
    first_items = (e.offset_ms for e in events if e.what == "stream_first_item")
    token_ms = next(first_items, None) if name == "streaming_chat" else None
    return Turn(
        ended_ms, loop.tasks, calls, timers, len(events), emitted, first_ms, heard_ms, token_ms
    )


def _heard_ms(result: sf.RunResult, first_ms: float) -> float:
    for event in result.events:
        if event.type == "stage.speak.completed":
            return float(event.offset_ms)
    return first_ms + float(result.outputs["speech"].duration_s) * 1_000.0


def talk(name: str) -> Turn:
    """A turn of a voice kernel that answers in four sentences, to a speaker if it has use for one.

    The model's sixteen words come at equal distances.
    """
    model = FakeLLM(ANSWER, latency=LatencyProfile.fixed(FIXED.llm))
    return turn(name, FIXED, llm=model, speaker=FakeSpeaker())


def _fakes(latencies: Latencies) -> dict[str, Any]:
    fixed = LatencyProfile.fixed
    profiles = {"profiles": {KNOWN_USER: {"name": "Ada"}}}
    return {
        "llm": FakeLLM(latency=fixed(latencies.llm)),
        "stt": FakeSTT(latency=fixed(latencies.stt)),
        "tts": FakeTTS(latency=fixed(latencies.tts)),
        "db": FakeDatabase(profiles, read=fixed(latencies.read), write=fixed(latencies.write)),
    }


class Latency:
    """How long a turn takes in virtual time."""

    version = "1"
    params = KERNELS
    param_names = ("kernel",)
    unit = "ms"

    def track_ms(self, name: str) -> float:
        """With fixed latencies of the providers: what the graph and the engine make of them."""
        return turn(name, FIXED).latency_ms

    def track_beyond_critical_path_ms(self, name: str) -> float:
        """Time beyond that of the heaviest chain of its stages: 0, or the engine waits."""
        path = kernel(name).build().critical_path(FIXED.of_stages())
        return turn(name, FIXED).latency_ms - path.length

    def track_waits_of_its_own_ms(self, name: str) -> float:
        """With providers that answer at once: 0, or something sleeps for no reason."""
        return turn(name, NONE).latency_ms

    def track_calls_in_a_row(self, name: str) -> float:
        """Calls of providers one after another, as each takes a second: a lost overlap adds one."""
        return turn(name, EQUAL).latency_ms / 1_000.0

    track_calls_in_a_row.unit = "calls"  # type: ignore[attr-defined]


class Work:
    """The work of a turn with fixed latencies."""

    version = "1"
    params = KERNELS
    param_names = ("kernel",)

    def track_tasks(self, name: str) -> int:
        """Tasks: one for the caller, one for the run, and one for each real overlap."""
        return turn(name, FIXED).tasks

    track_tasks.unit = "tasks"  # type: ignore[attr-defined]

    def track_calls(self, name: str) -> int:
        """Calls of providers: one more is one more to pay, also where it runs beside others."""
        return turn(name, FIXED).calls

    track_calls.unit = "calls"  # type: ignore[attr-defined]

    def track_surplus_timers(self, name: str) -> int:
        """Timers beyond those with which the providers' calls wait: the engine's own."""
        return turn(name, FIXED).timers

    track_surplus_timers.unit = "timers"  # type: ignore[attr-defined]

    def track_surplus_events(self, name: str) -> int:
        """Events beyond the two of the run, the two of each stage, and the first audio: 0."""
        found = turn(name, FIXED)
        return found.events - found.emitted - 2 - 2 * len(kernel(name).stages)

    track_surplus_events.unit = "events"  # type: ignore[attr-defined]


class TimeToFirstAudio:
    """How long a user waits for the first sound of an answer of four sentences."""

    setup = requires(*STREAMING)
    version = "1"
    params = VOICES
    param_names = ("kernel",)
    unit = "ms"

    def track_ms(self, name: str) -> float:
        """All that has to come one after another before the first sound, and nothing else."""
        found = talk(name).first_audio_ms
        assert found is not None, "a turn that completed has been heard"
        return found

    def track_heard_ms(self, name: str) -> float:
        """Until the last word is heard: no gap follows, so the time won at the start is kept."""
        found = talk(name).heard_ms
        assert found is not None, "a turn that completed has been heard"
        return found


class TimeToFirstToken:
    """How long a user waits for the first word of a streaming chat's answer of sixteen words."""

    setup = requires(*STREAMING_CHAT)
    version = "1"
    unit = "ms"

    def track_ms(self) -> float:
        """The memory and the model's first word, and nothing else."""
        model = FakeLLM(ANSWER, latency=LatencyProfile.fixed(FIXED.llm))
        found = turn("streaming_chat", FIXED, llm=model).first_token_ms
        assert found is not None, "a turn that completed has been read"
        return found


class Streaming:
    """The time and the work of a streaming turn to speak four sentences to their end."""

    setup = requires(*STREAMING)
    version = "1"

    def track_ms(self) -> float:
        """First audio, all sound without a gap, and keeping the turn."""
        return talk("streaming_voice").latency_ms

    track_ms.unit = "ms"  # type: ignore[attr-defined]

    def track_tasks(self) -> int:
        """Tasks: those that listen, think, make sound and speak at once, and one that keeps."""
        return talk("streaming_voice").tasks

    track_tasks.unit = "tasks"  # type: ignore[attr-defined]

    def track_calls(self) -> int:
        """Calls of providers: for each sentence one of synthesis and one of the speaker."""
        return talk("streaming_voice").calls

    track_calls.unit = "calls"  # type: ignore[attr-defined]

    def track_events(self) -> int:
        """Events: two of the run and of each stage, three of each stream, the first audio."""
        return talk("streaming_voice").events

    track_events.unit = "events"  # type: ignore[attr-defined]


if __name__ == "__main__":
    without_asv.main()

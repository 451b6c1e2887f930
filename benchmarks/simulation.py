"""Turns in virtual time, which is exact on every machine; and what a simulated run costs."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, from_older_commits, requires, timed
from benchmarks._lib.turns import (
    NEEDS,
    STREAMING,
    STREAMING_CHAT,
    VOICES,
    Turn,
    chat_turn,
    talk,
    voice_turn,
)

# An older commit may lack it; its benchmarks then skip before anything here is called.
SIMULATION = ("Simulation", "simulate", "simulate_pipeline")
with contextlib.suppress(ImportError):
    from_older_commits("testing", **dict.fromkeys(SIMULATION, "simulation"))
    from stageflow.testing import Simulation, simulate, simulate_pipeline

with contextlib.suppress(ImportError):
    from stageflow.kernels import first_audio_ms

setup = requires(*NEEDS, "testing.simulation")

TURNS = 200
RUNS_A_CALL = 20


class VirtualLatency:
    """How long 200 turns take in virtual time: what the providers take, and nothing by chance.

    A change here is a change of what the kernel waits for, however small: a call more, or two
    calls one after another that ran side by side.
    """

    version = "1"
    unit = "seconds"

    def track_voice_turn(self) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99, the same ones on every machine."""
        return {"samples": [_virtual_s(voice_turn(n)) for n in range(TURNS)], "number": 1}

    def track_chat_turn(self) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99, the same ones on every machine."""
        return {"samples": [_virtual_s(chat_turn(n)) for n in range(TURNS)], "number": 1}


class StageLatency:
    """How long each stage of 200 such turns takes, as a user's telemetry would show it."""

    version = "1"
    unit = "seconds"
    param_names = ("stage",)
    params = (
        *("voice.stt", "voice.profile", "voice.memory", "voice.llm", "voice.tts", "voice.persist"),
        *("chat.guard", "chat.memory", "chat.llm", "chat.persist"),
        # Its stt, profile and memory are those of `voice`.
        *(f"streaming_voice.{name}" for name in ("llm", "tts", "speak", "persist")),
    )

    def track_stage(self, stage: str) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99, the same ones on every machine."""
        kernel, _, name = stage.partition(".")
        samples = [ended[name] for ended in _stages_s(kernel)]
        return {"samples": samples, "number": 1}


class TimeToFirstAudio:
    """How long 200 users wait in virtual time for the first sound of an answer of three sentences.

    Both kernels have the same providers, so the difference is what streaming saves.
    """

    setup = requires(*STREAMING)
    version = "1"
    unit = "seconds"
    param_names = ("kernel",)
    params = VOICES

    def track_kernel(self, name: str) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99. One kernel speaks before its answer is ready."""
        firsts = (first_audio_ms(result.events) for result in _talks(name))
        return {"samples": [_s(first_ms) for first_ms in firsts], "number": 1}


class TimeToFirstToken:
    """How long 200 users of a streaming chat wait for the first word, in virtual time."""

    setup = requires(*STREAMING_CHAT)
    version = "1"
    unit = "seconds"

    def track_turn(self) -> dict[str, object]:
        """With the latencies of the default fakes: P50, P95 and P99."""
        turns = [chat_turn(number, name="streaming_chat") for number in range(TURNS)]
        samples = [
            event.offset_ms / 1_000.0
            for turn in turns
            for event in simulate(_turned, turn, seed=None).value.events
            if event.what == "stream_first_item"
        ]
        return {"samples": samples, "number": 1}


class TimeToFirstItem:
    """How long the streams of these turns take to their first item, from the start of their stage.

    As a user's telemetry would show it: the streams whose first item the first audio waits for.
    """

    setup = requires(*STREAMING)
    version = "1"
    unit = "seconds"
    param_names = ("stream",)
    params = ("streaming_voice.llm.sentences", "streaming_voice.tts.sound")

    def track_stream(self, name: str) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99, the same ones on every machine."""
        kernel_name, stage, stream = name.split(".")
        samples = [
            _s(event.data["elapsed_ms"])
            for result in _talks(kernel_name)
            for event in result.events
            if event.type == f"stage.{stage}.stream_first_item" and event.data["stream"] == stream
        ]
        return {"samples": samples, "number": 1}


class Cpu(CpuTimed):
    """CPU time of 20 simulated runs of eight stages that each suspend once."""

    version = "1"

    @timed
    def track_20_runs(self) -> None:
        """Each in a loop and an order of its own: the stress test makes 24,000 of these."""
        for seed in range(RUNS_A_CALL):
            simulate_pipeline(_eight_stages(), seed=seed)


def _virtual_s(turn: Turn) -> float:
    return simulate(_turned, turn, seed=None).elapsed_s


async def _turned(sim: Simulation, turn: Turn) -> sf.RunResult:
    result: sf.RunResult = await turn()
    return result


@functools.cache
def _stages_s(kernel: str) -> list[dict[str, float]]:
    """For each of the turns, how long its stages took in seconds, by name."""
    if kernel == "streaming_voice":
        results = _talks(kernel)
    else:
        make = {"voice": voice_turn, "chat": chat_turn}[kernel]
        results = [simulate(_turned, make(n), seed=None).value for n in range(TURNS)]
    return [
        {
            event.stage: event.data["duration_ms"] / 1000.0
            for event in result.events
            if event.stage is not None and event.what == "completed"
        }
        for result in results
    ]


@functools.cache
def _talks(kernel_name: str) -> list[sf.RunResult]:
    """The turns that answer in three sentences."""
    turns = [talk(kernel_name, number) for number in range(TURNS)]
    return [simulate(_turned, turn, seed=None).value for turn in turns]


def _s(first_ms: float | None) -> float:
    assert first_ms is not None, "a turn that completed has been heard"
    return first_ms / 1_000.0


@functools.cache
def _eight_stages() -> sf.Pipeline:
    async def nap(ctx: sf.StageContext) -> sf.StageOutput:
        await asyncio.sleep(0.01)
        return sf.StageOutput.ok()

    return sf.Pipeline(
        "eight", [sf.StageSpec(f"s{n}", nap, (f"s{n - 2}",) if n > 1 else ()) for n in range(8)]
    )


if __name__ == "__main__":
    without_asv.main()

"""Turns in virtual time, which is exact on every machine; and what a simulated run costs."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import stageflow as sf
from benchmarks import plain
from benchmarks.support import CpuTimed, requires, timed
from benchmarks.turns import NEEDS, STREAMING, Turn, chat_turn, talk, voice_turn

# An older commit may lack it; its benchmarks then skip before anything here is called.
with contextlib.suppress(ImportError):
    from stageflow.testing.simulation import Simulation, simulate, simulate_pipeline

with contextlib.suppress(ImportError):
    from stageflow.kernels.streaming_voice import first_audio_ms

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
    )

    def track_stage(self, stage: str) -> dict[str, object]:
        """Latencies as samples: P50, P95 and P99, the same ones on every machine."""
        kernel, _, name = stage.partition(".")
        samples = [ended[name] for ended in _stages_s(kernel)]
        return {"samples": samples, "number": 1}


class TimeToFirstAudio:
    """After what time 200 users hear something, in virtual time, of an answer of three sentences.

    Both kernels have the same providers; what they differ by is what streaming wins.
    """

    setup = requires(*STREAMING)
    version = "1"
    unit = "seconds"

    def track_streaming(self) -> dict[str, object]:
        """With the first sentence as soon as it is there: P50, P95 and P99."""
        return {"samples": _first_audio_s("streaming_voice"), "number": 1}

    def track_whole(self) -> dict[str, object]:
        """With the whole answer: P50, P95 and P99."""
        return {"samples": _first_audio_s("voice"), "number": 1}


class Cpu(CpuTimed):
    """CPU time of 20 simulated runs of eight stages that each suspend once."""

    version = "1"

    @timed
    def track_20_runs(self) -> None:
        """Each in a loop and an order of its own: what a storm of 16,000 is made of."""
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


def _first_audio_s(kernel_name: str) -> list[float]:
    async def main(sim: Simulation, turn: Turn) -> float:
        found = first_audio_ms((await turn()).events)
        assert found is not None, "a turn that completed has been heard"
        return found / 1_000.0

    turns = [talk(kernel_name, number) for number in range(TURNS)]
    return [simulate(functools.partial(main, turn=turn), seed=None).value for turn in turns]


@functools.cache
def _eight_stages() -> sf.Pipeline:
    async def nap(ctx: sf.StageContext) -> sf.StageOutput:
        await asyncio.sleep(0.01)
        return sf.StageOutput.ok()

    return sf.Pipeline(
        "eight", [sf.StageSpec(f"s{n}", nap, (f"s{n - 2}",) if n > 1 else ()) for n in range(8)]
    )


if __name__ == "__main__":
    plain.main()

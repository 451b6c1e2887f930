"""Simulate outages: hours of turns in virtual time while providers fail, recorded as telemetry.

Turns of both voice kernels and of the chat kernel start at random times, with retries, breakers
and dead letters as in a service, while one provider after another fails. Engine, faults and
telemetry are the real ones; only the waiting is skipped, so that hours take seconds. The same seed
gives the same simulation, which ends now.

exit codes: 0, the telemetry is in the file; 1, it could not be written; 2, bad arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import stageflow as sf
from benchmarks._lib.turns import TALK, VOICES, chat_inputs, kernel, voice_inputs
from stageflow.dlq import DeadLetter, DeadLetterState, InMemoryDeadLetterStore, replay
from stageflow.interceptors import BreakerInterceptor, RetryInterceptor
from stageflow.kernels import default_providers
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from stageflow.telemetry import ObservedDeadLetterStore, SQLiteSink
from stageflow.testing import FaultInjector, Simulation, inject_fault, simulate

HOURS = 3.0
SEED = 5
#: The source that the telemetry names.
SOURCE = "simulation of outages in virtual time"
#: Turns a second, on the average, of each kernel.
RATES_HZ = {"streaming_voice": 0.25, "voice": 0.15, "chat": 0.2}
#: How long after an incident its dead letters are replayed, as a share of the simulation.
REPLAYED_AFTER = 0.05
#: How many events may wait for the sink: simulated hours pass faster than a disk writes.
BACKLOG = 5_000_000
#: How long a person waits for a turn.
DEADLINE_S = 20.0


@dataclasses.dataclass(frozen=True)
class Incident:
    """A provider in trouble.

    Attributes:
        provider: Its name.
        fault: As `inject_fault` takes it.
        begins, ends: As shares of the simulation.
        options: Options of the fault.
    """

    provider: str
    fault: str
    begins: float
    ends: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of_turn(self, number: int) -> FaultInjector:
        """Return the fault for the turn of that number."""
        chance = {"seed": number} if self.fault == "intermittent" else {}
        return inject_fault(self.provider, self.fault, allow_unused=True, **self.options, **chance)


INCIDENTS = (
    Incident("stt", "slow", 0.12, 0.20, {"duration_ms": 650}),
    Incident("llm", "intermittent", 0.32, 0.38, {"fault": "rate_limited", "probability": 0.6}),
    Incident("llm", "timeout", 0.50, 0.58, {"duration_ms": 3000}),
    Incident("db", "disconnect", 0.70, 0.74),
    Incident("tts", "intermittent", 0.82, 0.90, {"probability": 0.3, "fault": "error"}),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a simulation.

    Attributes:
        hours: Its length in virtual time.
        began_s: Its beginning, in seconds since the epoch.
        inputs: The inputs of a turn, by kernel.
        report: Called with each line of progress.
    """

    hours: float
    began_s: float
    inputs: Mapping[str, Mapping[str, Any]]
    report: Callable[[str], None]


class OutageSimulation:
    """One simulation, in the running loop."""

    def __init__(self, sim: Simulation, dispatcher: sf.EventDispatcher, asked: Settings) -> None:
        self._sim = sim
        self._asked = asked
        self._loop = asyncio.get_running_loop()
        self._length_s = asked.hours * 3600.0
        self._ended: Counter[str] = Counter()
        clock = self._wall_clock
        kept = InMemoryDeadLetterStore(wall_clock=clock)
        self._letters = ObservedDeadLetterStore(kept, dispatcher, wall_clock=clock)
        # By the rate, not by failures in a row: so a provider that fails now and then opens none.
        policy = BreakerPolicy(failures=None, failure_rate=0.5, cooldown_s=30.0)
        breaker = BreakerInterceptor(BreakerRegistry(policy))
        self._orchestrators = {
            name: sf.PipelineOrchestrator(
                kernel(name).build(),
                interceptors=[breaker, RetryInterceptor()],
                dispatcher=dispatcher,
                dead_letters=self._letters,
            )
            for name in RATES_HZ
        }

    async def run(self) -> Counter[str]:
        """Run the turns and replay dead letters; return how many runs ended in which way."""
        async with asyncio.TaskGroup() as turns:
            turns.create_task(self._watch())
            turns.create_task(self._replay_after_incidents())
            for name in RATES_HZ:
                turns.create_task(self._callers(name, turns))
        return self._ended

    def _wall_clock(self) -> float:
        return self._asked.began_s + self._loop.time()

    async def _watch(self) -> None:
        for tenth in range(1, 11):
            await asyncio.sleep(self._length_s / 10)
            done_h = tenth * self._asked.hours / 10
            turns = sum(self._ended.values())
            self._asked.report(f"simulated {done_h:.1f} of {self._asked.hours:g} h, {turns} turns")

    async def _replay_after_incidents(self) -> None:
        for one in INCIDENTS:
            await asyncio.sleep((one.ends + REPLAYED_AFTER) * self._length_s - self._loop.time())
            # At once: a streaming turn takes as long as its answer sounds.
            async with asyncio.TaskGroup() as replays:
                for letter in await self._letters.letters(DeadLetterState.WAITING):
                    replays.create_task(self._replay(letter))

    async def _replay(self, letter: DeadLetter) -> None:
        orchestrator = self._orchestrators[letter.pipeline]
        result = await replay(letter, orchestrator, self._letters, prepare=self._again)
        self._ended[f"{result.status} when replayed"] += 1

    def _again(self, letter: DeadLetter, _: sf.ProviderRegistry | None) -> sf.PipelineContext:
        return self._context(letter.inputs, 0)

    async def _callers(self, name: str, turns: asyncio.TaskGroup) -> None:
        for number in itertools.count():
            await asyncio.sleep(self._sim.random.expovariate(RATES_HZ[name]))
            if self._loop.time() >= self._length_s:
                return
            turns.create_task(self._turn(name, number))

    async def _turn(self, name: str, number: int) -> None:
        share = self._loop.time() / self._length_s
        context = self._context(self._asked.inputs[name], number)
        # What a turn meets when it begins, it meets to its end.
        with contextlib.ExitStack() as faults:
            for one in INCIDENTS:
                if one.begins <= share < one.ends:
                    faults.enter_context(one.of_turn(number))
            result = await self._orchestrators[name].run(context)
        self._ended[str(result.status)] += 1

    def _context(self, inputs: Mapping[str, Any], number: int) -> sf.PipelineContext:
        return self._sim.context(
            inputs,
            providers=default_providers(seed=number),
            deadline_s=DEADLINE_S,
            wall_clock=self._wall_clock,
        )


async def _simulated(
    sim: Simulation, dispatcher: sf.EventDispatcher, asked: Settings
) -> Counter[str]:
    return await OutageSimulation(sim, dispatcher, asked).run()


def record(path: Path, hours: float, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Simulate, and replace an earlier file when the new one is complete; return how runs ended."""
    partial = path.with_name(f"{path.name}.partial")
    _remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = {**dict.fromkeys(VOICES, voice_inputs(TALK)), "chat": chat_inputs()}
    asked = Settings(hours, time.time() - hours * 3600.0, inputs, report)
    dispatcher = sf.EventDispatcher([SQLiteSink(partial, source=SOURCE)], capacity=BACKLOG)
    try:
        ended = simulate(_simulated, dispatcher, asked, seed=seed).value
    finally:
        dispatcher.close(timeout_s=600.0)
    (kept,) = dispatcher.stats()
    if kept.dropped or kept.failed:
        raise OSError(f"{kept.dropped + kept.failed} events did not reach {partial}")
    _remove(path)
    partial.replace(path)
    return ended


def _remove(path: Path) -> None:
    """Remove a database, with what SQLite keeps beside it."""
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and report; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.outage_simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--into", type=Path, required=True, metavar="FILE", help="where the telemetry goes"
    )
    parser.add_argument(
        "--hours", type=float, default=HOURS, metavar="N", help="length in virtual time"
    )
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="which simulation")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.hours <= 168:
        parser.error("--hours must be more than 0 and at most 168, a week")
    began = time.monotonic()
    try:
        ended = record(arguments.into, arguments.hours, arguments.seed, _tell)
    except OSError as error:
        sys.stderr.write(f"error: the telemetry could not be written: {error}\n")
        return 1
    ends = ", ".join(f"{count} {how}" for how, count in ended.most_common())
    took_s = time.monotonic() - began
    sys.stdout.write(
        f"{arguments.into} holds {arguments.hours:g} simulated h: {ends} ({took_s:.0f} s)\n"
    )
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

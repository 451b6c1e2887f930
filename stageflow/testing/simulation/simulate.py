"""Run something in simulated time, in the order that a seed gives, and say how to repeat it."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from stageflow.context import PipelineContext
from stageflow.events import Event
from stageflow.pipeline import Pipeline
from stageflow.providers.registry import ProviderRegistry
from stageflow.result import RunResult
from stageflow.testing.faults import FaultInjector
from stageflow.testing.simulation.loop import Schedule, SimulationLoop, run_in
from stageflow.testing.simulation.token import Scenario, Token, can_travel, name_of

T = TypeVar("T")

#: Wall clock at the start of each simulation, in seconds since the epoch: 2001-09-09 01:46:40 UTC.
EPOCH_S = 1_000_000_000.0


#: The first seed, and nothing in the way.
FIRST = Scenario()


class Simulation:
    """What the simulated function is given: contexts, chance and time that repeat.

    Attributes:
        loop: The event loop.
        random: Random numbers from the seed.
        faults: The injectors of the scenario's faults, in order.
    """

    def __init__(
        self,
        loop: SimulationLoop,
        scenario: Scenario,
        faults: tuple[FaultInjector, ...] = (),
    ) -> None:
        self.loop = loop
        self.faults = faults
        self.random = random.Random(f"contexts of {scenario.seed}")
        self._cancel_at_step = scenario.cancel_at_step
        self._contexts: list[PipelineContext] = []

    def context(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> PipelineContext:
        """A context whose ids, random numbers and wall clock repeat.

        Args:
            inputs: The inputs of the run.
            options: As `PipelineContext` takes them.
        """
        given: dict[str, Any] = {
            "seed": self.random.getrandbits(64),
            "wall_clock": self._wall_clock,
            **options,
        }
        context = PipelineContext(inputs, **given)
        self._contexts.append(context)
        return context

    def _wall_clock(self) -> float:
        return EPOCH_S + self.loop.time()

    async def interruptible(self, work: Awaitable[T]) -> T:
        """Await `work`, which is what the scenario cancels if it says so.

        Raises:
            asyncio.CancelledError: It was cancelled.
        """
        task = asyncio.ensure_future(work)
        if self._cancel_at_step is not None:
            self.loop.at_step(self._cancel_at_step, task.cancel)
        return await task

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the latest run of each context, context after context."""
        return tuple(event for ctx in self._contexts for event in ctx.get_events())


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a simulation came to.

    Attributes:
        value: What the simulated function returned.
        elapsed_s: How long it took, in seconds of virtual time.
        steps: How many callbacks were called.
        switches: How often another than the first ready callback was called.
        events: The events of the latest run of each context that the simulation made.
        token: The whole of it as one word, for `replay`.
    """

    value: T
    elapsed_s: float
    steps: int
    switches: int
    events: tuple[Event, ...]
    token: str

    @property
    def log(self) -> bytes:
        """The events as lines of JSON; equal byte for byte when the same is simulated again."""
        lines = [json.dumps(event.to_dict(), sort_keys=True, default=repr) for event in self.events]
        return "".join(f"{line}\n" for line in lines).encode()


def simulate(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    seed: int | None = 0,
    scenario: Scenario | None = None,
    token: str | None = None,
) -> Outcome[T]:
    """Run an async function in an event loop of its own, in virtual time, in a seed's order.

    Example:
        >>> async def turn(sim: Simulation) -> RunResult:
        ...     return await chat().run(sim.context({"text": "hello", "user_id": "ada"}))
        >>> simulate(turn, seed=7).value.status
        <RunStatus.COMPLETED: 'completed'>

    Args:
        main: The function; it is given a `Simulation`, and then `args`. `simulate_pipeline` spares
            you writing one.
        args: What else it is given. A failure's token holds them if they are JSON's values, or
            have a ``to_dict`` and a ``from_dict`` as `Workload` has, and `main` is a module's.
        seed: Which order; the same seed gives the same run. None is asyncio's own order.
        scenario: All conditions, in place of `seed`: faults, cancellation, switches.
        token: The conditions of an earlier simulation, in place of both.

    Returns:
        What came of it.

    Raises:
        RealIOError: Something asked for a socket, a file descriptor, a thread or a process.
        DeadlockError: Every task waits for another.
        LivelockError: Callbacks follow one another without end, and no time passes.
        LeftBehindError: `main` has returned, and a task goes on.
        TokenError: The token is none.
        BaseException: Whatever `main` raises, with a note that says how to run it again.
    """
    if token is not None:
        scenario = Token.parse(token).scenario
    call = _count_call()
    asked = _ASKED.get()
    given = Scenario(seed) if scenario is None else scenario
    if asked is not None and asked.call == call:
        given = asked.scenario
    return _simulated(main, args, given, call)


def explore(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    runs: int = 100,
    scenario: Scenario = FIRST,
) -> list[Outcome[T]]:
    """Simulate the same in many orders, until one fails.

    Args:
        main: As in `simulate`.
        args: As in `simulate`.
        runs: How many seeds, from that of `scenario` upwards.
        scenario: The other conditions.

    Returns:
        What came of each run.

    Raises:
        ValueError: The scenario has no seed to count from.
        BaseException: As `simulate` does, at the first run that fails.
    """
    if scenario.seed is None:
        raise ValueError("explore counts seeds upwards from scenario.seed, and it is None; give 0")
    call = _count_call()
    asked = _ASKED.get()
    if asked is not None and asked.call == call:
        return [_simulated(main, args, asked.scenario, call)]
    seeds = range(scenario.seed, scenario.seed + runs)
    return [_simulated(main, args, replace(scenario, seed=seed), call) for seed in seeds]


def simulate_pipeline(
    pipeline: Pipeline,
    inputs: Mapping[str, Any] | None = None,
    *,
    providers: ProviderRegistry | None = None,
    seed: int | None = 0,
    scenario: Scenario | None = None,
    token: str | None = None,
) -> Outcome[RunResult]:
    """Run a pipeline once, as `simulate` does; cancelled if the scenario says so.

    Args:
        pipeline: What to run.
        inputs: Its inputs.
        providers: What its stages call.
        seed: As in `simulate`, as are `scenario` and `token`.
        scenario: All conditions, in place of `seed`.
        token: The conditions of an earlier simulation, in place of both.

    Returns:
        What came of it; its value is the run's result.

    Raises:
        asyncio.CancelledError: The scenario has cancelled the run.
        SimulationError: As in `simulate`.
    """

    async def run(sim: Simulation) -> RunResult:
        context = sim.context(inputs, providers=providers)
        return await sim.interruptible(pipeline.run(context))

    return simulate(run, seed=seed, scenario=scenario, token=token)


def replay(token: str) -> Outcome[Any]:
    """Run again what a token names, under its conditions.

    The function and its arguments are those of the token; see `simulate` for when it holds them.

    Returns:
        What came of it this time.

    Raises:
        TokenError: The token is none, or names a function that is not there.
        BaseException: Whatever the function raises, as it did then.
    """
    parsed = Token.parse(token)
    return _simulated(parsed.function(), parsed.args, parsed.scenario, 1)


# ── within a test ───────────────────────────────────────────────────────────────────────────

#: What the test under way is asked to repeat.
_ASKED: ContextVar[Token | None] = ContextVar("asked", default=None)

#: How many simulations the test under way has begun; None outside of the plugin.
_CALLS: ContextVar[list[int] | None] = ContextVar("calls", default=None)


@contextmanager
def counting(asked: Token | None) -> Iterator[None]:
    """Number the simulations of a block from 1, and let one of them be as `asked`; for plugins."""
    calls, wanted = _CALLS.set([0]), _ASKED.set(asked)
    try:
        yield
    finally:
        _CALLS.reset(calls)
        _ASKED.reset(wanted)


def _count_call() -> int:
    calls = _CALLS.get()
    if calls is None:
        return 1
    calls[0] += 1
    return calls[0]


# ── one simulation ──────────────────────────────────────────────────────────────────────────


def _simulated(
    main: Callable[..., Coroutine[Any, Any, T]],
    args: tuple[Any, ...],
    scenario: Scenario,
    call: int,
) -> Outcome[T]:
    loop = SimulationLoop(Schedule(scenario.seed, scenario.switches))
    try:
        with scenario.faults.injected() as injectors:
            sim = Simulation(loop, scenario, injectors)
            value = run_in(loop, main(sim, *args))
    except BaseException as error:
        _tell(error, _token(main, args, scenario, call))
        raise
    token = str(_token(main, args, scenario, call))
    return Outcome(value, loop.time(), loop.steps, loop.switches, sim.events, token)


def _token(
    main: Callable[..., object], args: tuple[Any, ...], scenario: Scenario, call: int
) -> Token:
    # pytest tells which test is running: "tests/test_turn.py::test_turn (call)".
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or None
    name = name_of(main)
    if name is None or not can_travel(args):
        return Token(scenario, None, (), test, call)
    return Token(scenario, name, args, test, call)


def _tell(error: BaseException, token: Token) -> None:
    if any("--simulate=" in note or "replay(" in note for note in getattr(error, "__notes__", ())):
        return
    ways = []
    if token.test is not None:
        ways.append(f"pytest --simulate={token}")
    if token.main is not None:
        ways.append(f"stageflow.testing.simulation.replay({str(token)!r})")
    if not ways:
        ways.append(f"the same call of simulate with token={str(token)!r}")
    error.add_note("To run exactly this again: " + "\n  or: ".join(ways))

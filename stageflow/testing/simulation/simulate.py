"""Run a function in simulated time, in the order of a seed, and say how to repeat that."""

import asyncio
import os
import random
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count, repeat
from types import TracebackType
from typing import Any, Generic, TypeVar

from stageflow.codec import DEFAULT_CODEC, canonical
from stageflow.engine import Pipeline, PipelineContext, RunResult
from stageflow.events.log import Event
from stageflow.providers.registry import ProviderRegistry
from stageflow.testing.faults import FaultInjector
from stageflow.testing.faults.injector import SIMULATION
from stageflow.testing.simulation.errors import TokenError
from stageflow.testing.simulation.loop import SimulationLoop, run_in
from stageflow.testing.simulation.owned import EPOCH_S, owned
from stageflow.testing.simulation.scenario import Scenario, Token, name_of

T = TypeVar("T")

_FIRST = Scenario()

__tracebackhide__ = True  # for pytest


class Simulation:
    """The argument of a simulated function: contexts, random numbers and time that repeat.

    Attributes:
        random: Random numbers from the seed.
        faults: The injectors of the scenario's faults, in order.
    """

    def __init__(
        self, loop: SimulationLoop, scenario: Scenario, faults: tuple[FaultInjector, ...] = ()
    ) -> None:
        self.loop = loop
        self.faults = faults
        self.random = random.Random(f"contexts of {scenario.seed}")
        self._cancel_at_step = scenario.cancel_at_step
        self._contexts: list[PipelineContext] = []

    def context(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> PipelineContext:
        """Return a `PipelineContext` whose ids, random numbers and wall clock repeat."""
        given: dict[str, Any] = {
            "seed": self.random.getrandbits(64),
            "wall_clock": lambda: EPOCH_S + self.loop.time(),
            **options,
        }
        context = PipelineContext(inputs, **given)
        self._contexts.append(context)
        return context

    async def interruptible(self, work: Awaitable[T]) -> T:
        """Await `work`, and cancel it if the scenario says so."""
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
    """The result of a simulation.

    Attributes:
        value: What the simulated function returned.
        elapsed_s: How long it took, in seconds of virtual time.
        steps: How many callbacks were called.
        switches: How often another than the first ready callback was called.
        events: The events of the latest run of each context that the simulation made.
    """

    value: T
    elapsed_s: float
    steps: int
    switches: int
    events: tuple[Event, ...]
    _token: Callable[[], Token] = field(repr=False, compare=False)

    @cached_property
    def token(self) -> str:
        """The token that repeats it, for `replay`."""
        return str(self._token())

    @property
    def log(self) -> bytes:
        """The events as lines of JSON; equal byte for byte when the same is simulated again."""
        lines = [
            canonical({**event.to_dict(), "data": DEFAULT_CODEC.plain_items(event.data)})
            for event in self.events
        ]
        return "".join(f"{line}\n" for line in lines).encode()


def simulate(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    seed: int | None = 0,
    scenario: Scenario | None = None,
    token: str | None = None,
) -> Outcome[T]:
    """Run an async function in a new event loop, in virtual time, in the order of a seed.

    Example:
        >>> async def turn(sim: Simulation) -> RunResult:
        ...     return await chat().run(sim.context({"text": "hello", "user_id": "ada"}))
        >>> simulate(turn, seed=7).value.status
        <RunStatus.COMPLETED: 'completed'>

    Args:
        main: The function; it takes a `Simulation`, and then `args`.
        args: Its other arguments. The token of a failure holds them if `stageflow.codec` can store
            them and `main` is a function of a module.
        seed: The order; the same seed gives the same run. None is asyncio's own order.
        scenario: All conditions, in place of `seed`: faults, cancellation, switches.
        token: The conditions of an earlier simulation, in place of both.

    Raises:
        SimulationError: It requests real I/O, does not end, or leaves tasks behind; or `token` is
            not a token.
        BaseException: Whatever `main` raises, with a note that says how to run it again.
    """
    if token is not None:
        scenario = Token.parse(token).scenario
    call, asked = _next_call()
    given = asked or (Scenario(seed) if scenario is None else scenario)
    return _simulated(main, args, given, call, replays=(token or asked) is not None)


def explore(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    runs: int = 100,
    scenario: Scenario = _FIRST,
) -> list[Outcome[T]]:
    """Do what `simulate` does, for many seeds, until one fails.

    Args:
        main: The function.
        args: Its other arguments.
        runs: How many seeds, from that of `scenario` upwards.
        scenario: The other conditions.

    Raises:
        ValueError: The scenario has no seed to count from, or `runs` is below 1.
        BaseException: As in `simulate`, for the first run that fails.
    """
    if scenario.seed is None:
        raise ValueError("explore counts seeds upwards from scenario.seed, and it is None; give 0")
    if type(runs) is not int or runs < 1:
        raise ValueError(f"runs={runs!r}: give a whole number from 1, as no run shows nothing")
    call, asked = _next_call()
    if asked is not None:
        return [_simulated(main, args, asked, call, replays=True)]
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
    """Run a pipeline once, as `simulate` does.

    Raises:
        asyncio.CancelledError: The scenario has cancelled the run.
        SimulationError: As in `simulate`.
    """

    async def run(sim: Simulation) -> RunResult:
        context = sim.context(inputs, providers=providers)
        return await sim.interruptible(pipeline.run(context))

    return simulate(run, seed=seed, scenario=scenario, token=token)


def replay(token: str) -> Outcome[Any]:
    """Repeat the simulation of a token.

    Raises:
        TokenError: It is not a token, holds no function (see `simulate`), or one that is not there.
        BaseException: Whatever the function raises.
    """
    parsed = Token.parse(token)
    return _simulated(parsed.function(), parsed.args, parsed.scenario, 1, replays=True)


#: The numbers of the simulations of the test under way, and the one that it is to repeat.
_TEST: ContextVar[tuple[Iterator[int], Token | None]] = ContextVar("test")


@contextmanager
def counting(asked: Token | None) -> Iterator[None]:
    """Number the simulations of a block from 1, and let one of them be as `asked`; for plugins."""
    outer = _TEST.set((count(1), asked))
    try:
        yield
    finally:
        _TEST.reset(outer)


def _next_call() -> tuple[int, Scenario | None]:
    """Return the number of a simulation in its test, and its scenario if a token asks for it."""
    numbers, asked = _TEST.get((repeat(1), None))
    call = next(numbers)
    return call, asked.scenario if asked is not None and asked.call == call else None


def _simulated(
    main: Callable[..., Coroutine[Any, Any, T]],
    args: tuple[Any, ...],
    scenario: Scenario,
    call: int,
    *,
    replays: bool = False,
) -> Outcome[T]:
    # Writing a token takes as long as a short simulation, and most are never asked for.
    token = partial(_token, main, args, scenario, call)
    trace = deque[str](maxlen=20)

    def attempt(*, traced: bool) -> Outcome[T]:
        loop = SimulationLoop(scenario)
        loop.trace = trace if traced else None
        under_way = SIMULATION.set(loop)
        try:
            with owned(loop, scenario.seed), scenario.faults.injected() as injectors:
                sim = Simulation(loop, scenario, injectors)
                value = run_in(loop, main(sim, *args))
        finally:
            SIMULATION.reset(under_way)
        return Outcome(value, loop.time(), loop.steps, loop.switches, sim.events, token)

    try:
        return attempt(traced=replays)
    except BaseException as error:
        notes = getattr(error, "__notes__", ())
        if not any("--simulate=" in note or "replay(" in note for note in notes):
            _tell(error, token(), None if replays else partial(attempt, traced=True), trace)
        error.__traceback__ = _without_own(error.__traceback__)
        raise


def _token(
    main: Callable[..., object], args: tuple[Any, ...], scenario: Scenario, call: int
) -> Token:
    # pytest says which test is running: "tests/test_turn.py::test_turn (call)".
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or None
    lost = DEFAULT_CODEC.lost("args", {"all": DEFAULT_CODEC.to_plain(list(args))})
    name = None if lost else name_of(main)
    return Token(scenario, name, () if name is None else args, test, call)


def _without_own(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback that begins in the code under test."""
    own = ("stageflow.testing.simulation", "asyncio.", "contextlib")
    while traceback and str(traceback.tb_frame.f_globals.get("__name__")).startswith(own):
        traceback = traceback.tb_next
    return traceback


def _tell(error: BaseException, token: Token, attempt: Any, trace: deque[str]) -> None:
    """Note how to run again what has failed, after a try whether that fails again."""
    try:
        text = str(token)
    except TokenError as problem:
        error.add_note(str(problem))
        return
    ways = []
    if token.test is not None:
        ways.append(f"pytest --simulate={text}")
    if token.main is not None:
        ways.append(f"stageflow.testing.simulation.replay({text!r})")
    if not ways:
        ways.append(f"the same call of simulate with token={text!r}")
    said = "To run exactly this again: "
    hypothesis = sys.modules.get("hypothesis")  # another try must not draw from its example
    drawn = hypothesis is not None and hypothesis.currently_in_test_context()
    tries = attempt is not None and isinstance(error, Exception) and not drawn
    if tries and not _fails_again(error, attempt):
        trace.clear()
        said = "This failure did not repeat: its cause is something that the seed does not decide,"
        said += " such as state that an earlier run has left. To run it under the same conditions: "
    said += "\n  or: ".join(ways)
    if trace:
        said += "\nWhat ran last (virtual time, task, where it went on):\n  " + "\n  ".join(trace)
    error.add_note(said)


def _fails_again(error: BaseException, attempt: Any) -> bool:
    try:
        attempt()
    except Exception as again:
        return _shown(again) == _shown(error)
    return False


def _shown(error: BaseException) -> str:
    """Return what is compared of an error: its type and text, without addresses of objects."""
    return re.sub(r"0x[0-9a-f]+", "0x…", f"{type(error).__qualname__}: {error}")

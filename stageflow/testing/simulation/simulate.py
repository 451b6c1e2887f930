"""Run a function in simulated time, in the order of a seed, and say how to repeat that."""

import asyncio
import inspect
import math
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from stageflow.codec import DEFAULT_CODEC, canonical
from stageflow.engine import Pipeline, PipelineContext, RunResult
from stageflow.events.log import Event
from stageflow.providers.registry import ProviderRegistry
from stageflow.testing.faults import FaultInjector
from stageflow.testing.faults.injector import SIMULATION
from stageflow.testing.simulation.errors import TokenError, of_kit
from stageflow.testing.simulation.hosts import Network
from stageflow.testing.simulation.loop import SimulationLoop, run_in
from stageflow.testing.simulation.orders import Exploration, Tried, deepened, portfolio, reduced
from stageflow.testing.simulation.patches import EPOCH_S, following, owned
from stageflow.testing.simulation.properties import Properties, place
from stageflow.testing.simulation.scenario import Deviations, Scenario, Token, name_of, written
from stageflow.testing.simulation.trace import Trace

T = TypeVar("T")

_FIRST = Scenario()
#: So many of the latest steps a note shows at most, and a page.
_LINES, _MOST_STEPS = 20, 2_000

__tracebackhide__ = True  # for pytest


class Simulation:
    """The argument of a simulated function: contexts, random numbers and time that repeat.

    Attributes:
        random: Random numbers from the seed.
        faults: The injectors of the scenario's faults, in order.
        network: The simulated network.
        host: Its method `Network.host`.
    """

    def __init__(
        self, loop: SimulationLoop, scenario: Scenario, faults: tuple[FaultInjector, ...] = ()
    ) -> None:
        self.loop, self.faults = loop, faults
        self.network = loop.network = Network(loop, scenario.network)
        self.host = self.network.host
        self.random = random.Random(f"contexts of {scenario.seed}")
        self._cancel_at_step = scenario.cancel_at_step
        self._contexts: list[PipelineContext] = []

    def context(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> PipelineContext:
        """Return a `PipelineContext` whose ids, random numbers and wall clock repeat."""
        given: dict[str, Any] = {"seed": self.random.getrandbits(64), **options}
        given.setdefault("wall_clock", lambda: EPOCH_S + self.loop.time())
        context = PipelineContext(inputs, **given)
        self._contexts.append(context)
        return context

    async def interruptible(self, work: Awaitable[T]) -> T:
        """Await `work`, and cancel it if the scenario says so."""
        task = asyncio.ensure_future(work)
        if self._cancel_at_step is not None:
            self.loop.at_step(self._cancel_at_step, task.cancel)
        return await task

    def always(self, predicate: Callable[[], object], message: str = "") -> None:
        """Check after each callback that `predicate` returns what is true.

        Args:
            predicate: A function that changes nothing; it is called after each callback.
            message: What it means, for the `PropertyError`; its file and line by default.
        """
        self._properties.always.append((predicate, message or place(predicate)))

    def eventually(
        self, predicate: Callable[[], object], *, within_s: float = math.inf, message: str = ""
    ) -> None:
        """Check that `predicate` returns what is true after some callback from now on.

        Args:
            predicate: As in `always`; it is called until it holds.
            within_s: By when, in seconds of virtual time from now; by default and at the latest
                when the simulated function has returned, and the generators of it are closed.
            message: As in `always`.
        """
        until_s = self.loop.time() + within_s
        self._properties.open.append((predicate, message or place(predicate), until_s))

    @cached_property
    def _properties(self) -> Properties:
        made = self.loop.properties = Properties(self.loop.time)
        return made

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
    _made: Deviations
    _token: Callable[[], Token] = field(repr=False, compare=False)

    @property
    def choices(self) -> str:
        """The order: the choices of another than the first callback, for `Scenario.choices`."""
        return written(self._made)

    @cached_property
    def token(self) -> str:
        """The token that repeats it, for `replay`."""
        return str(self._token())

    @property
    def log(self) -> bytes:
        """The events as lines of JSON; equal byte for byte when the same is simulated again."""
        plain = DEFAULT_CODEC.plain_items
        lines = (canonical({**e.to_dict(), "data": plain(e.data)}) for e in self.events)
        return "".join(f"{line}\n" for line in lines).encode()


def simulate(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    seed: int | None = 0,
    scenario: Scenario | None = None,
    token: str | None = None,
    page: str | Path | None = None,
) -> Outcome[T]:
    """Run an async function in a new event loop, in virtual time, in the order of a seed.

    Example:
        >>> async def turn(sim: Simulation) -> RunResult:
        ...     return await chat().run(sim.context({"text": "hello", "user_id": "ada"}))
        >>> simulate(turn, seed=7).value.status
        <RunStatus.COMPLETED: 'completed'>

    Args:
        main: The function; it takes a `Simulation`, and then `args`. It may also take `args` alone.
        args: Its other arguments. The token of a failure holds them if `stageflow.codec` can store
            them and `main` is a function of a module.
        seed: The order; the same seed gives the same run. None is asyncio's own order.
        scenario: All conditions, in place of `seed`: faults, cancellation, switches.
        token: The conditions of an earlier simulation, in place of both.
        page: A file of HTML that shows a failure; none by default.

    Raises:
        SimulationError: It requests real I/O, does not end, or leaves tasks behind; or `token` is
            not a token.
        BaseException: Whatever `main` raises, with a note that says how to run it again.
    """
    if token is not None:
        scenario = Token.parse(token).scenario
    call, asked = _test().next()
    given = asked or (Scenario(seed) if scenario is None else scenario)
    return _Case(main, args, call, page, replays=(token or asked) is not None).run(given)


def explore(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    runs: int | None = None,
    scenario: Scenario = _FIRST,
    deviations: int | None = None,
    page: str | Path | None = None,
) -> Exploration[Outcome[T]]:
    """Do what `simulate` does, in many orders, until one fails.

    The first order is asyncio's own. Then the strategies draw in turn, and no order is drawn
    twice as long as there are others. In pytest, what failed the last time is tried before.

    Args:
        main: The function.
        args: Its other arguments.
        runs: How many runs at most; 100 by default, or 10,000 with `deviations`.
        scenario: The other conditions. Each run has the next seed.
        deviations: Try all orders with up to this many deviations from asyncio's own, all with the
            same seed; the result says whether these were all.
        page: As in `simulate`.

    Raises:
        ValueError: The scenario has no seed to count from, or `runs` is below 1.
        BaseException: As in `simulate`, for the first run that fails.
    """
    if scenario.seed is None:
        raise ValueError("explore counts seeds upwards from scenario.seed, and it is None; give 0")
    runs = (100 if deviations is None else 10_000) if runs is None else runs
    if type(runs) is not int or runs < 1:
        raise ValueError(f"runs={runs!r}: give a whole number from 1, as no run shows nothing")
    if deviations is not None and (deviations < 0 or scenario.order == "asyncio"):
        raise ValueError(f"deviations={deviations}: give at least 0, and an order that is drawn")
    test = _test()
    call, asked = test.next()
    case: _Case[T] = _Case(main, args, call, page, replays=asked is not None)
    if asked is not None:
        return Exploration([case.run(asked)])
    with owned():
        if str(call) in test.failed:
            seed, choices = test.failed[str(call)]
            case.run(replace(scenario, seed=seed, choices=choices))
            del test.failed[str(call)]
        if deviations is not None:

            def attempt(order: Deviations) -> Outcome[T]:
                return case.run(replace(scenario, choices=written(order)), measures=True)

            return deepened(attempt, lambda: case.loop.order.widths or [], deviations, runs)
        found, tried, horizon = Exploration[Outcome[T]](), Tried(), 0
        for seed, strategy in portfolio(scenario, runs):
            one = replace(scenario, seed=seed, strategy=strategy, horizon=horizon)
            found.append(case.run(one, tried=tried))
            tried.end()
            horizon = max(horizon, case.loop.order.choices)
        found.orders = len({outcome._made for outcome in found})
    return found


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


def replay(token: str, *, page: str | Path | None = None) -> Outcome[Any]:
    """Repeat the simulation of a token, and write a `page` as in `simulate`.

    Raises:
        TokenError: It is not a token, holds no function (see `simulate`), or one that is not there.
        BaseException: Whatever the function raises.
    """
    parsed = Token.parse(token)
    return _Case(parsed.function(), parsed.args, 1, page, replays=True).run(parsed.scenario)


@dataclass
class Test:
    """The test under way, as a plugin knows it."""

    name: str | None = None  # its id; None for what pytest says
    asked: Token | None = None  # the simulation that it is to repeat
    pages: Path | None = None  # the folder for pages of failures; None if none are made
    #: Seed and choices of each `explore` that failed, by the number of its call.
    failed: dict[str, list[Any]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=partial(count, 1))

    def next(self) -> tuple[int, Scenario | None]:
        """Return the number of its next simulation, and the scenario if a token asks for it."""
        call, asked = next(self.numbers), self.asked
        return call, asked.scenario if asked is not None and asked.call == call else None

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Number the simulations of a block from 1."""
        outer = _TEST.set(self)
        try:
            yield
        finally:
            _TEST.reset(outer)


_TEST: ContextVar[Test | None] = ContextVar("test", default=None)


def _test() -> Test:
    return _TEST.get() or Test()


class _Case(Generic[T]):
    loop: SimulationLoop
    _sim: Simulation

    def __init__(
        self, main: Any, args: tuple[Any, ...], call: int, page: str | Path | None, *, replays: bool
    ) -> None:
        self._main: Callable[..., Coroutine[Any, Any, T]] = main
        self._args, self._call, self._replays = args, call, replays
        self._page = None if page is None else Path(page)
        test = _test()
        if page is None and test.pages is not None:
            name = re.sub(r"[^\w.-]+", "-", test.name or "test").strip("-")
            self._page = test.pages / f"{name}-{call}.html"
        self._given = True  # the simulation, before the other arguments
        with suppress(TypeError, ValueError):  # calling it says what is wrong
            signature = inspect.signature(main)
            try:
                signature.bind(None, *args)
            except TypeError:
                signature.bind(*args)
                self._given = False

    def run(
        self, scenario: Scenario, *, tried: Tried | None = None, measures: bool = False
    ) -> Outcome[T]:
        """Run it once; explain a failure, and reduce it unless it replays another one."""
        most = _LINES if self._page is None else _MOST_STEPS
        trace = Trace(most) if self._replays else None
        try:
            return self._attempt(scenario, tried, measures, trace)
        except BaseException as failure:
            error: BaseException = failure
        if not any("--simulate=" in n or "replay(" in n for n in getattr(error, "__notes__", ())):
            if tried or measures:
                scenario = _ordered(scenario, self.loop.order.deviations)
            error = self._explained(error, scenario, trace or Trace(most))
        try:
            raise error
        except BaseException:
            # Let the traceback begin in the code under test.
            while (shown := error.__traceback__) and of_kit(shown.tb_frame):
                error.__traceback__ = shown.tb_next
            raise
        finally:
            del error, shown  # they keep this frame, and so themselves

    def _failure(self, scenario: Scenario, trace: Trace | None = None) -> Exception | None:
        try:
            self._attempt(scenario, None, measures=False, trace=trace)
        except Exception as error:
            return error
        return None

    def _explained(self, error: BaseException, scenario: Scenario, trace: Trace) -> BaseException:
        """Note how to run again what has failed, with as few deviations as possible."""
        hypothesis = sys.modules.get("hypothesis")  # another try must not draw from its example
        drawn = hypothesis is not None and hypothesis.currently_in_test_context()
        said, repeats = "To run exactly this again: ", True
        deviations: Deviations = tuple(self.loop.order.deviations)
        if isinstance(error, Exception) and not drawn and not self._replays:
            with owned():
                again = self._failure(scenario, trace)
                repeats = again is not None and _shown(again) == _shown(error)
                if repeats and deviations:
                    deviations = self._reduced(scenario, deviations, error)
                    scenario = _ordered(scenario, deviations)
                    trace = Trace(trace.steps.maxlen or 0)
                    error = self._failure(scenario, trace) or error
                if repeats and scenario.choices is not None:
                    _test().failed[str(self._call)] = [scenario.seed, scenario.choices]
        if not repeats:
            trace.steps.clear()
            said = (
                "This failure did not repeat: its cause is something that the seed does not decide,"
                " such as state that an earlier run has left. To run it under the same conditions: "
            )
        try:
            token = self._token(scenario)
            text = str(token)
        except TokenError as problem:
            error.add_note(str(problem))
            return error
        ways = [f"pytest --simulate={text}"] if token.test is not None else []
        if token.main is not None:
            ways.append(f"stageflow.testing.simulation.replay({text!r})")
        said += "\n  or: ".join(ways or [f"the same call of simulate with token={text!r}"])
        if repeats and self.loop.order.drawn:
            left = "once" if len(deviations) == 1 else f"{len(deviations)} times"
            left += ", at the lines with *" * bool(trace.steps)
            left = (
                f"leaves asyncio's own order {left}"
                if deviations
                else "fails in asyncio's own order"
            )
            said += f"\nIt {left}."
        if trace.steps:
            if self._page is not None:
                trace.page(self._page, error, said, self._sim.events)
                said += f"\nThe same as a page: {self._page}"
            lines = ["What ran last (virtual time, task, where it went on):", *trace.lines(_LINES)]
            said += "\n" + "\n  ".join(lines)
        error.add_note(said)
        return error

    def _reduced(self, scenario: Scenario, deviations: Deviations, error: Exception) -> Deviations:
        def attempt(order: Deviations) -> tuple[Exception | None, Deviations, int]:
            failure = self._failure(_ordered(scenario, order))
            return failure, tuple(self.loop.order.deviations), self.loop.steps

        return reduced(attempt, deviations, error)

    def _attempt(
        self, scenario: Scenario, tried: Tried | None, measures: bool, trace: Trace | None
    ) -> Outcome[T]:
        loop = self.loop = SimulationLoop(scenario, tried)
        loop.order.widths = [] if measures else None
        loop.trace = trace
        under_way = SIMULATION.set(loop)
        try:
            faults = scenario.faults.injected() if scenario.faults.faults else nullcontext(())
            with owned(), following(loop, scenario.seed), faults as injectors:
                sim = self._sim = Simulation(loop, scenario, injectors)
                main = self._main(sim, *self._args) if self._given else self._main(*self._args)
                value = run_in(loop, main)
        finally:
            SIMULATION.reset(under_way)
        made = tuple(loop.order.deviations)
        # Writing a token takes as long as a short simulation, and most are never asked for.
        token = partial(self._token, scenario, None if tried is None else made)
        return Outcome(value, loop.time(), loop.steps, len(made), sim.events, made, token)

    def _token(self, scenario: Scenario, made: Deviations | None = None) -> Token:
        scenario = scenario if made is None else _ordered(scenario, made)
        # pytest says which test is running: "tests/test_turn.py::test_turn (call)".
        test = _test().name or os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or None
        lost = DEFAULT_CODEC.lost("args", {"all": DEFAULT_CODEC.to_plain(list(self._args))})
        name = None if lost else name_of(self._main)
        return Token(scenario, name, () if name is None else self._args, test, self._call)


def _ordered(scenario: Scenario, deviations: Deviations) -> Scenario:
    return replace(scenario, choices=written(deviations), strategy=None, horizon=0, switches=None)


def _shown(error: BaseException) -> str:
    """Return what is compared of an error: its type and text, without addresses of objects."""
    return re.sub(r"0x[0-9a-f]+", "0x…", f"{type(error).__qualname__}: {error}")

"""The base of all contracts, the event loops of their tests, and the stages that they test."""

import asyncio
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from types import ModuleType
from typing import Any, TypeVar

from stageflow.engine import Pipeline, StageSpec
from stageflow.errors import Portable
from stageflow.resilience.circuit_breaker import forget_breakers
from stageflow.testing.contracts.conduct import every_call_awaited, restored
from stageflow.testing.contracts.probes import CancellationProbe
from stageflow.testing.simulation import LeftBehindError, Schedule, SimulationLoop, run_in
from stageflow.testing.simulation.errors import places
from stageflow.testing.simulation.loop import raise_unhandled

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")
T = TypeVar("T", bound=object)

_REPLACES = "__overrides_contract__"
_SKIPS = "__skip_contract_tests__"


class ContractOverrideError(Portable, TypeError):
    """A subclass replaces a test of its contract and does not say why."""

    def __init__(self, subclass: str, test: str) -> None:
        super().__init__(
            f"{subclass} replaces the contract's {test}: give the method another name, or say why"
            ' it has to be replaced, @overrides_contract(reason="…")'
        )
        self.subclass, self.test = subclass, test


def _check_reason(name: str, bare: tuple[object, ...], reason: object) -> None:
    if bare:
        raise TypeError(f'{name} takes a reason only: write @{name}(reason="…")')
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f'{name} has the reason {reason!r}; say why: @{name}(reason="…")')


def overrides_contract(*bare: object, reason: str = "") -> Callable[[F], F]:
    """Declare that a method replaces a test of the contract, and why that does not fit.

    Raises:
        TypeError: It is used without parentheses.
        ValueError: The reason is empty.
    """
    _check_reason("overrides_contract", bare, reason)

    def declare(method: F) -> F:
        setattr(method, _REPLACES, reason)
        return method

    return declare


class Contract:
    """Base of all contracts: a subclass that replaces a test has to say why."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise `ContractOverrideError` if the class replaces a test and does not say why."""
        super().__init_subclass__(**options)
        bases = [base for base in cls.__mro__[1:] if issubclass(base, Contract)]
        inherited = {name for base in bases for name in vars(base) if name.startswith("test_")}
        for name, method in vars(cls).items():
            if name in inherited and not hasattr(method, _REPLACES):
                raise ContractOverrideError(cls.__name__, name)

    def _unwritten(self, method: str) -> NotImplementedError:
        name = type(self).__name__
        return NotImplementedError(f"{name} does not say what is under test: write {method}")


@dataclass(frozen=True)
class FoundStage:
    """A stage that a module defines; its pipeline is one of the module, or of this stage alone."""

    module: str
    pipeline: Pipeline
    spec: StageSpec
    skipped: str | None  # why contracts skip it

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.spec.name

    def __str__(self) -> str:
        return f"{self.pipeline.name}.{self.name}"


def skip_contract_tests(*bare: object, reason: str = "") -> Callable[[T], T]:
    """Mark a stage, its runner, or a `StageContractTest`, to be skipped; pytest shows the reason.

    Raises:
        TypeError: It is used without parentheses, or on what cannot carry a mark.
        ValueError: The reason is empty.
    """
    _check_reason("skip_contract_tests", bare, reason)

    def mark(stage: T) -> T:
        if isinstance(stage, StageSpec):  # its runner may be another stage's as well
            return dataclasses.replace(stage, runner=mark(partial(stage.execute)))
        if not callable(stage) and not hasattr(stage, "execute"):
            fix = "mark a StageSpec, its runner, or a test class"
            raise TypeError(f"{stage!r} is not a stage; {fix}")
        try:
            setattr(stage, _SKIPS, reason)
        except AttributeError:
            raise TypeError(f"{stage!r} cannot carry a mark; mark the StageSpec") from None
        return stage

    return mark


def reason_to_skip(spec: StageSpec, *more: object) -> str | None:
    """Return the reason of the first that was marked, of a stage or of others; else None."""
    marked = spec.runner, getattr(spec, "function", None), *more
    return next((getattr(one, _SKIPS) for one in marked if hasattr(one, _SKIPS)), None)


def get_all_stages(*places: ModuleType | Pipeline) -> list[FoundStage]:
    """Return the stages that modules define, or that pipelines have, each once.

    A stage of no pipeline of its module is found by itself, without its dependencies.

    Args:
        places: Modules, packages and pipelines to look in; the ready pipelines if left out.
    """
    found: dict[int, FoundStage] = {}
    for place in places or (importlib.import_module("stageflow.kernels"),):
        for stage in _stages_of(place):
            found.setdefault(id(stage.spec), stage)
    return list(found.values())


def _stages_of(place: ModuleType | Pipeline) -> Iterator[FoundStage]:
    if isinstance(place, Pipeline):
        for spec in place.stages:
            yield FoundStage(place.name, place, spec, reason_to_skip(spec))
        return
    if hasattr(place, "__path__"):
        for module in pkgutil.iter_modules(place.__path__, f"{place.__name__}."):
            yield from _stages_of(importlib.import_module(module.name))
    defined = list(vars(place).values())
    for pipeline in (value for value in defined if isinstance(value, Pipeline)):
        yield from _stages_of(pipeline)
    for spec in (value for value in defined if isinstance(value, StageSpec)):
        # Alone it has no ancestors: the run's inputs provide what it reads.
        unbound = dataclasses.replace(spec, dependencies=())
        alone = Pipeline(place.__name__.rpartition(".")[2], [unbound], inputs=tuple(spec.inputs))
        yield FoundStage(place.__name__, alone, spec, reason_to_skip(spec))


_IN_ORDER = Schedule()


class LoopContract(Contract):
    """A contract of something that runs in an event loop.

    In simulated time all orders and moments can be tried, and real I/O is refused. On a real loop
    the same tests find less: a cancellation is tried only where what is under test waits itself,
    tasks run in the machine's order, the only limit of a clean-up is `patience_s`, and a task that
    is left behind is found only if it still runs once `resources` are closed.

    Attributes:
        real_io: Whether what is under test does real I/O, and so needs a real event loop.
        patience_s: On a real loop, after how many seconds a test is said to hang.
        most_cancellations: On a real loop, at how many places at most a cancellation is tried.
    """

    real_io: bool = False
    patience_s: float = 30.0
    most_cancellations: int = 50

    @cached_property
    def resources(self) -> AsyncExitStack:
        """Resources of makers: enter one here, and it is closed in the loop that used it."""
        return AsyncExitStack()

    def _run(self, work: Coroutine[Any, Any, T], schedule: Schedule = _IN_ORDER) -> T:
        forget_breakers()
        with every_call_awaited(), restored():
            closing = self._closing(work)
            if self.real_io:
                return _run_really(closing, self.patience_s)
            return run_in(SimulationLoop(schedule), closing)

    async def _closing(self, work: Coroutine[Any, Any, T]) -> T:
        async with self.resources:
            value = await work
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimulationLoop):
            loop.check_nothing_left()
            timers = [timer for *_, timer in loop._timers if not timer.cancelled()]
            assert not timers, f"timers are set when it has ended: cancel {timers}"
        return value

    def _points(self) -> Iterable[int]:
        return range(1, self.most_cancellations + 1) if self.real_io else count(1)

    def _cancel_everywhere(
        self, attempt: Callable[[CancellationProbe], Coroutine[Any, Any, T]]
    ) -> list[T]:
        """Make one attempt after another, each cancelled later, until one ends before that."""
        ends = []
        for point in self._points():
            probe = CancellationProbe(point)
            with probe.excusing_groups():
                ends.append(self._run(attempt(probe)))
            if probe.cancelled_at_s is None:
                break
        return ends


def on_subject(test: Callable[[Any, S], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Run an async test in a new event loop, with what `_subject` makes there."""

    async def main(self: Any) -> None:
        await test(self, await self._subject())

    @functools.wraps(test)
    def run(self: Any) -> None:
        self._run(main(self))

    # Otherwise pytest sees the signature of `test` and looks for a fixture of the subject's name.
    del run.__wrapped__
    return run


def _run_really(work: Coroutine[Any, Any, T], patience_s: float) -> T:
    """Do what `run_in` does, on an event loop of asyncio's own, for `patience_s` at most."""
    loop = asyncio.new_event_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, found: unhandled.append(found))

    async def guarded() -> T:
        this, task = asyncio.current_task(), asyncio.ensure_future(work)
        try:
            await asyncio.wait([task], timeout=patience_s)
            left = places(asyncio.all_tasks() - {this})
            if not task.done():
                raise AssertionError(f"it goes on after {patience_s:g} s:\n  " + "\n  ".join(left))
            value = task.result()
            if left:
                raise LeftBehindError(left)
            return value
        finally:  # no coroutine is dropped in the middle
            if others := asyncio.all_tasks() - {this}:
                for other in others:
                    other.cancel()
                await asyncio.wait(others, timeout=patience_s)
            await loop.shutdown_asyncgens()
            await loop.shutdown_default_executor()

    try:
        value = loop.run_until_complete(guarded())
    finally:
        loop.close()
    raise_unhandled(unhandled)
    return value

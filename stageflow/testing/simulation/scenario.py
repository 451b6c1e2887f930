"""The conditions of a simulation, and the token that repeats it.

A token is compressed JSON in the URL-safe alphabet. It names a function and its arguments and holds
no code, but a replay calls that function, and may import its module if that is in the current
folder: so replay your own tokens only.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import math
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from stageflow._utils.files import decompressed
from stageflow.codec import DEFAULT_CODEC, FieldTypes, check_fields
from stageflow.codec import TEXT_OR_NONE as _TEXT
from stageflow.errors import CorruptDeadLetterError, StageflowError
from stageflow.providers import LatencyProfile
from stageflow.testing.faults import FaultPlan
from stageflow.testing.simulation.errors import TokenError

#: The number of each choice of another than the first callback, and the position chosen.
Deviations: TypeAlias = Sequence[tuple[int, int]]
Order: TypeAlias = Literal["tasks", "asyncio", "any"]
Strategy: TypeAlias = Literal["asyncio", "speeds", "kinds", "uniform", "pct2", "pct3", "pct4"]

_PREFIX = "sf1-"
#: The text in a token may have this many bytes.
_MOST_BYTES = 4_000_000
_MALFORMED = ValueError, TypeError, LookupError, AttributeError, RecursionError, StageflowError
_NO_FAULTS = FaultPlan()
_TYPES: FieldTypes = {"main": _TEXT, "test": _TEXT, "args": (list,), "call": (int,)}


def parsed(choices: str) -> list[tuple[int, int]]:
    """Return recorded choices: ``"3 8:2"`` is the second of choice 3, and the third of choice 8."""
    try:
        pairs = (choice.partition(":") for choice in choices.split())
        return [(int(number), int(position or 1)) for number, _, position in pairs]
    except ValueError:
        raise ValueError(f"choices={choices!r}: give numbers, such as '3 8:2'") from None


def written(deviations: Deviations) -> str:
    """Return choices as `parsed` reads them."""
    return " ".join(f"{n}:{p}" if p > 1 else str(n) for n, p in deviations)


@dataclass(frozen=True)
class Schedule:
    """The order in which ready callbacks are called, and when timers fire.

    Attributes:
        seed: What order and times are drawn from; None keeps asyncio's own order: first in, first
            out.
        switches: How often at most another than the first is chosen; None sets no limit. A failure
            that needs few of them is easier to understand.
        order: Which orders are drawn. "tasks": tasks take turns in any order, and what one task
            schedules keeps its order. "asyncio": only asyncio's own, so that times alone differ.
            "any": each callback by itself, even where asyncio promises an order.
        stretch: By which share of its delay a timer may be late; 0.1 lets ``sleep(1)`` take up to
            1.1 s, so that timers close to each other fire in any order.
        strategy: How an order is drawn. "asyncio": asyncio's own. "speeds": half of the tasks are
            slow. "kinds": all tasks of half of the functions are slow. "uniform": each task is as
            likely as another. "pct2" to "pct4": the task of the highest priority, and priorities
            change at one to three choices. None takes all of these in turn in `explore`, and
            "speeds" in `simulate`.
        horizon: How many choices a run has, if that is known; where priorities change is drawn
            from these.
        choices: A recorded order, in place of a drawn one, as `Outcome.choices` returns it.

    Raises:
        ValueError: A field has another value.
    """

    seed: int | None = None
    switches: int | None = None
    order: Order = "tasks"
    stretch: float = 0.0
    strategy: Strategy | None = None
    horizon: int = 0
    choices: str | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"order={self.order!r}: give 'tasks', 'asyncio' or 'any'")
        if self.strategy is not None and self.strategy not in get_args(Strategy):
            raise ValueError(f"strategy={self.strategy!r}: give one of {get_args(Strategy)}")
        if self.choices is not None:
            parsed(self.choices)
        if self.switches is not None and self.switches < 0:
            raise ValueError(f"switches={self.switches}: give a number from 0 up, or None")
        if not 0 <= self.stretch < math.inf:
            raise ValueError(f"stretch={self.stretch}: give a share of the delay, such as 0.1")
        if self.stretch and self.seed is None:
            raise ValueError(f"stretch={self.stretch}: it is drawn from a seed; give one")


@dataclass(frozen=True)
class NetworkPlan:
    """How a simulated network behaves; all of it is drawn from the seed.

    Attributes:
        latency_ms: P50 and P99 of the time from one host to another, in milliseconds. Nothing takes
            longer than the P99.
        split: The chance that what is written at once arrives in two parts.
        loss: The chance that a datagram is lost.
        resets: The chance, at each write, that the connection is reset.
        cuts: The chance, at each write, that nothing passes between the two hosts for `cut_s`:
            connections wait, datagrams are lost.
        cut_s: How long that is, in seconds.

    Raises:
        InvalidConfigError: A latency is not positive, or the P99 is below the P50.
        ValueError: Another field is out of its range.
    """

    latency_ms: tuple[float, float] = (2.0, 250.0)
    split: float = 0.3
    loss: float = 0.0
    resets: float = 0.0
    cuts: float = 0.0
    cut_s: float = 5.0

    def __post_init__(self) -> None:
        LatencyProfile(*self.latency_ms)
        for name in ("split", "loss", "resets", "cuts"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a chance from 0 to 1")
        if not 0 <= self.cut_s < math.inf:
            raise ValueError(f"cut_s={self.cut_s!r}: give seconds, 0 or more")


_NETWORK = NetworkPlan()


@dataclass(frozen=True)
class Scenario(Schedule):
    """The conditions of a simulation: a `Schedule`, faults, a network and a cancellation.

    Attributes:
        seed: As in `Schedule`; the ids of `Simulation.context` are drawn from it, too.
        faults: What is injected.
        network: How the simulated network behaves.
        cancel_at_step: The number of the callback, from 1, before which `Simulation.interruptible`
            is cancelled; None for never.

    Raises:
        ValueError: A field has an invalid value.
    """

    seed: int | None = 0
    faults: FaultPlan = _NO_FAULTS
    network: NetworkPlan = _NETWORK
    cancel_at_step: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cancel_at_step is not None and self.cancel_at_step < 1:
            raise ValueError(f"cancel_at_step={self.cancel_at_step}: the first callback is 1")

    def to_dict(self) -> dict[str, Any]:
        """Return the scenario as a mapping; the codec stores it if it knows the faults' options."""
        network = None if self.network == _NETWORK else vars(self.network)
        return {**vars(self), "network": network, **self.faults.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scenario:
        """Return the scenario that `to_dict` has written."""
        names = {field.name for field in fields(cls)} & plain.keys()
        network = NetworkPlan(**(plain.get("network") or {}))
        given = {"faults": FaultPlan.from_dict(plain), "network": network}
        return cls(**{**{n: plain[n] for n in names}, **given})


@dataclass(frozen=True)
class Token:
    """A simulation, to be repeated.

    Attributes:
        scenario: The conditions.
        main: The function as ``module:name``; None if it is local to another, or its arguments
            cannot be stored.
        args: Its arguments.
        test: The pytest id of the test that simulated it, or None.
        call: The number of the simulation in that test, from 1.
    """

    scenario: Scenario
    main: str | None = None
    args: tuple[Any, ...] = ()
    test: str | None = None
    call: int = 1

    def __str__(self) -> str:
        """Return the token as text."""
        codec = DEFAULT_CODEC
        plain = codec.plain_items(self.scenario.to_dict()) | {"main": self.main, "test": self.test}
        plain |= {"args": codec.to_plain(list(self.args)), "call": self.call}
        told = {name: value for name, value in plain.items() if value not in (None, [])}
        for path, value in DEFAULT_CODEC.lost("token", told).items():
            raise TokenError(f"of {self.main}", f"{path} is of type {value.shown}")
        packed = zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 9)
        return _PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token; raise `TokenError` if it is not one, or names what does not exist."""
        if not text.startswith(_PREFIX):
            raise TokenError(text, f"it does not begin with {_PREFIX!r}")
        body = text.removeprefix(_PREFIX)
        try:
            packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            plain: dict[str, Any] = {"main": None, "test": None, "args": [], "call": 1}
            plain |= json.loads(decompressed(packed, _MOST_BYTES))
            check_fields("", plain, _TYPES)
            main, test, arguments, call = (plain.pop(name) for name in _TYPES)
            # Without a seed it was None, which a token leaves out.
            given = {"seed": None, **DEFAULT_CODEC.items_from_plain(plain)}
            scenario = Scenario.from_dict(given)
            if call < 1:
                raise ValueError("simulations are counted from 1")
        except _MALFORMED as error:
            raise TokenError(text, "it is damaged; copy the whole of it") from error
        if main and arguments:
            # Import its module, and so the classes of arguments; pytest imports its own later.
            with contextlib.suppress(TokenError):
                _found(text, main)
        try:
            args = tuple(DEFAULT_CODEC.from_plain(arguments))
        except (CorruptDeadLetterError, TypeError, RecursionError) as error:
            raise TokenError(text, f"an argument of it is not known here ({error})") from error
        return cls(scenario, main, args, test, call)

    def function(self) -> Callable[..., Any]:
        """Return the function that was simulated; raise `TokenError` if there is none."""
        if self.main is None:
            where = f"run: pytest --simulate={self}" if self.test else "pass it by hand"
            problem = f"it holds conditions, and no function that a module has; {where}"
            raise TokenError(str(self), problem)
        return cast("Callable[..., Any]", _found(str(self), self.main))


def name_of(main: object) -> str | None:
    """Return a function as ``module:name``; None if it cannot be found by that."""
    module, name = getattr(main, "__module__", None), getattr(main, "__qualname__", None)
    if module and name and "<" not in name:
        reference = f"{module}:{name}"
        with contextlib.suppress(TokenError):
            return reference if _found("", reference) is main else None
    return None


def _found(text: str, reference: str) -> Any:
    module, _, name = reference.partition(":")
    path, here = Path(*module.split(".")), Path.cwd()
    folders = (Path(entry).resolve() for entry in sys.path)
    places = (folder / path for folder in folders if folder.is_relative_to(here))
    # To import any other one would run its code.
    if module not in sys.modules and not any(
        p.with_name(f"{p.name}.py").is_file() or p.is_dir() for p in places if p.name
    ):
        problem = "is neither imported nor in the current folder: import it first"
        raise TokenError(text, f"module {module!r} {problem}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise TokenError(text, f"there is no {name!r} in module {module!r} here") from error
    return found

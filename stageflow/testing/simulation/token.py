"""A simulation as one word: what was simulated, under which conditions, as text to paste.

A token is JSON, compressed, in the URL-safe alphabet. It names a function and its arguments, and
holds no code: but whoever replays a token lets that function be called, so replay your own.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from stageflow.testing.faults import FaultPlan
from stageflow.testing.simulation.errors import TokenError

_PREFIX = "sf1-"
_NO_FAULTS = FaultPlan()


@dataclass(frozen=True)
class Scenario:
    """Under which conditions something is simulated.

    Attributes:
        seed: What the order of ready callbacks and the ids of `Simulation.context` are drawn from;
            None keeps asyncio's own order.
        switches: How often at most something else than the first is called; None for no limit.
        faults: What is injected.
        cancel_at_step: Before which callback, counted from 1, `Simulation.interruptible` is
            cancelled; None for never.
    """

    seed: int | None = 0
    switches: int | None = None
    faults: FaultPlan = _NO_FAULTS
    cancel_at_step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scenario as plain values, ready for JSON if the faults' options are."""
        return {
            "seed": self.seed,
            "switches": self.switches,
            "cancel_at_step": self.cancel_at_step,
            **self.faults.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scenario:
        """The scenario that `to_dict` has written."""
        return cls(
            plain["seed"], plain["switches"], FaultPlan.from_dict(plain), plain["cancel_at_step"]
        )


@runtime_checkable
class Portable(Protocol):
    """What can travel in a token besides JSON's own values; it also has a ``from_dict``."""

    def to_dict(self) -> dict[str, Any]:
        """The value as plain values, ready for JSON."""
        ...


@dataclass(frozen=True)
class Token:
    """What a token says.

    Attributes:
        scenario: The conditions.
        main: Where the function is that was simulated, as ``module:name``; None if it cannot be
            found again, as it is local to another, or its arguments cannot be written down.
        args: Its arguments.
        test: The pytest id of the test that simulated it; None if it was no test.
        call: Which simulation of that test it was, the first being 1.
    """

    scenario: Scenario
    main: str | None = None
    args: tuple[Any, ...] = ()
    test: str | None = None
    call: int = 1

    def __str__(self) -> str:
        """The token as text."""
        plain = {
            **self.scenario.to_dict(),
            "main": self.main,
            "args": [_packed(arg) for arg in self.args],
            "test": self.test,
            "call": self.call,
        }
        told = {name: value for name, value in plain.items() if value not in (None, [])}
        packed = zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 9)
        return _PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that was written as `text`.

        Raises:
            TokenError: It is none, or names what is not there.
        """
        if not text.startswith(_PREFIX):
            raise TokenError(text, f"it does not begin with {_PREFIX!r}")
        body = text.removeprefix(_PREFIX)
        try:
            packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            plain = json.loads(zlib.decompress(packed))
            known = {"seed": None, "switches": None, "cancel_at_step": None, **plain}
            scenario = Scenario.from_dict(known)
        except (binascii.Error, zlib.error, ValueError, TypeError) as error:
            raise TokenError(text, "it is damaged; copy the whole of it") from error
        args = tuple(_unpacked(text, arg) for arg in plain.get("args", ()))
        return cls(scenario, plain.get("main"), args, plain.get("test"), plain.get("call", 1))

    def function(self) -> Callable[..., Any]:
        """The function that was simulated.

        Raises:
            TokenError: It is not there any more, or the token does not name one.
        """
        if self.main is None:
            where = f"run: pytest --simulate={self}" if self.test else "pass it by hand"
            raise TokenError(
                str(self), f"it holds conditions, and no function that a module has; {where}"
            )
        found: Callable[..., Any] = _found(str(self), self.main)
        return found


def name_of(main: object) -> str | None:
    """Where a function can be found again, as ``module:name``; None if it cannot."""
    module = getattr(main, "__module__", None)
    name = getattr(main, "__qualname__", None)
    if not module or not name or "<" in name:
        return None
    reference = f"{module}:{name}"
    try:
        return reference if _found("", reference) is main else None
    except TokenError:
        return None


def can_travel(args: tuple[Any, ...]) -> bool:
    """Whether a token can hold these arguments."""
    try:
        json.dumps([_packed(arg) for arg in args], allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _packed(value: Any) -> Any:
    if isinstance(value, Portable) and name_of(type(value)) is not None:
        return {"$": name_of(type(value)), "value": value.to_dict()}
    return value


def _unpacked(text: str, value: Any) -> Any:
    if isinstance(value, Mapping) and "$" in value:
        return _found(text, value["$"]).from_dict(value["value"])
    return value


def _found(text: str, reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise TokenError(text, f"there is no {name!r} in module {module!r} here") from error
    return found

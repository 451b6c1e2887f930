"""Inject a fault into some calls of one provider, within a block."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self

from stageflow.errors import InvalidConfigError, nearest, shown
from stageflow.providers import Audio, adapted
from stageflow.testing.faults import kinds
from stageflow.testing.faults.kinds import Fault, FaultType, refused, replying, suggestion
from stageflow.testing.wrapped import WrappedProvider, watcher_of

#: The options of INTERMITTENT itself; all others are those of the fault that it injects.
_INTERMITTENT = ("probability", "seed", "script", "fault")

_NO_FAULT = Fault()

#: The simulation that is under way, if any.
SIMULATION: ContextVar[object] = ContextVar("simulation", default=None)

_KINDS: Mapping[FaultType, type[Fault]] = {
    FaultType.TIMEOUT: kinds.Timeout,
    FaultType.ERROR: kinds.Raises,
    FaultType.SLOW: kinds.Slow,
    FaultType.STALL: kinds.Stall,
    FaultType.CUT: kinds.Cut,
    FaultType.RATE_LIMITED: kinds.RateLimited,
    FaultType.EMPTY: kinds.Reply,
    FaultType.INVALID: kinds.Reply,
    FaultType.DISCONNECT: kinds.Disconnect,
}


def _kinds(
    *without: str, error: type[Fault] = kinds.Raises, **replies: tuple[Any, Any]
) -> Mapping[FaultType, type[Fault]]:
    """Return the faults that fit; `replies` has each method's empty and its invalid answer."""
    changed = {**_KINDS, FaultType.ERROR: error}
    for n, kind in enumerate((FaultType.EMPTY, FaultType.INVALID) if replies else ()):
        changed[kind] = replying(**{method: reply[n] for method, reply in replies.items()})
    return MappingProxyType({t: made for t, made in changed.items() if t.name not in without})


class FaultInjector:
    """Injects one fault into one provider during a ``with`` or ``async with`` block.

    It affects whatever is registered under the provider's name, and only calls from the block:
    those of its context, tasks that it starts included. The innermost of nested blocks for the same
    provider counts. Once a block is left, calls reach the provider itself, also those of tasks that
    outlive it. A block that ends without a call that met the fault raises `InvalidConfigError`, as
    the name may be misspelt.

    This class accepts any provider and any fault; the classes below know what fits a port.

    Attributes:
        provider: The name under which the provider is registered.
        fault_type: What goes wrong; the constructor takes its value as a string, too, and the
            options of the fault by name.
        calls: How many calls began within the block.
        injected: How many of them met the fault.
        allow_unused: Whether the block may end without any.
        method: The only method whose calls count, such as the name of a tool; None for all.

    Raises:
        InvalidConfigError: The fault does not fit the provider, or an option the fault.
    """

    kinds: ClassVar[Mapping[FaultType, type[Fault]]] = _kinds()

    def __init__(
        self,
        provider: str,
        fault_type: FaultType | str,
        *,
        allow_unused: bool = False,
        method: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(provider, str) or not provider:
            fix = "give the name that it is registered as"
            raise InvalidConfigError(type(self).__name__, "provider", provider, fix)
        self.provider = provider
        self.fault_type = self._fitting("fault_type", fault_type)
        self.allow_unused, self.method = allow_unused, method
        self.calls = self.injected = 0
        self._asked_for = self._shadowed = False
        self._block: AbstractContextManager[None] | None = None
        self._new_turns: Callable[[], Iterator[bool]] = partial(itertools.repeat, True)
        kind = self.fault_type
        if kind is FaultType.INTERMITTENT:
            own = {name: options.pop(name) for name in _INTERMITTENT if name in options}
            kind = self._fitting("fault", own.pop("fault", FaultType.ERROR))
            if kind is FaultType.INTERMITTENT:
                raise refused("INTERMITTENT", "fault", kind, "name the fault that comes and goes")
            self._new_turns = partial(_turns, **own)
        self._turns, self._simulation = self._new_turns(), SIMULATION.get()
        self._fault = self._made(kind, options)

    def __enter__(self) -> Self:
        if self._block is not None:
            fix = "make an injector for each block"
            raise InvalidConfigError(repr(self), "block", "entered twice", fix)
        # A task that outlives the block may have kept its context.
        self._block = adapted(self.provider, lambda p: p if self._block is None else self.around(p))
        self._block.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        block, self._block = self._block, None
        assert block is not None, "it was entered"
        block.__exit__(kind, *error)
        if kind is None and not self.allow_unused and (problem := self.unused()) is not None:
            raise problem

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self.__exit__(kind, *error)

    def around(self, provider: Any) -> Any:
        """Return a provider that has this fault while the block is entered.

        For a provider that is not registered itself, such as one of two behind a fallback.
        """
        self._asked_for = True
        while isinstance(outer := watcher_of(provider), FaultInjector):
            outer._asked_for = outer._shadowed = True
            provider = provider.__wrapped__
        return WrappedProvider(self.provider, provider, self)

    def begin(self, method: str) -> Fault:
        """Count a call of `method` and return its fault."""
        if self._block is None or self.method not in (None, method):
            return _NO_FAULT
        self.calls += 1
        if self._simulation is not (now := SIMULATION.get()):
            # Each run of a simulation repeats, whatever the one before it drew.
            self._turns, self._simulation = self._new_turns(), now
        if not self._fault.affects(method) or not next(self._turns):
            return _NO_FAULT
        self.injected += 1
        return self._fault

    def missed(self) -> None:
        """Undo the count of the latest call: it is synchronous, and the fault does not apply."""
        self.injected -= 1

    def unused(self) -> InvalidConfigError | None:
        """Return the error for a fault that no call met, or None."""
        by_chance = self.fault_type is FaultType.INTERMITTENT and self.calls
        if self.injected or by_chance or self._shadowed:
            return None
        if self.calls:
            why = f"none of {self.calls} calls can meet it"
        elif self._asked_for:
            why = "the provider was asked for, but not called"
        else:
            hint = None if self.provider in OF_PORTS else nearest(self.provider, OF_PORTS)
            why = f"nothing in the block asked for a provider {self.provider!r}"
            why += f", did you mean {hint!r}?" if hint else ""
        fix = f"{why}; if that may be, give allow_unused=True"
        return InvalidConfigError(repr(self), "injected", 0, fix)

    def _fitting(self, field: str, found: object) -> FaultType:
        named = found if isinstance(found, str) else shown(found)
        try:
            kind = FaultType(named)
        except ValueError:
            otherwise = f"give one of {', '.join(FaultType)}"
            fix = suggestion(named.lower(), map(str, FaultType), otherwise)
            raise InvalidConfigError(type(self).__name__, field, found, fix) from None
        if kind not in self.kinds and kind is not FaultType.INTERMITTENT:
            fitting = ", ".join([*self.kinds, FaultType.INTERMITTENT])
            fix = f"{self.provider!r} cannot fail like that; choose among {fitting}"
            raise InvalidConfigError(type(self).__name__, field, str(kind), fix)
        return kind

    def _made(self, kind: FaultType, options: Mapping[str, Any]) -> Fault:
        made = self.kinds[kind]
        known = [field.name for field in fields(made)]
        if self.fault_type is FaultType.INTERMITTENT:
            known.extend(_INTERMITTENT)
        for name, value in options.items():
            if name not in known:
                fix = suggestion(name, known, f"the options that fit are {', '.join(known)}")
                fix = f"there is no such option; {fix}"
                raise refused(self.fault_type.name, name, value, fix)
            kinds.check_option(kind.name, name, value)
        if made is kinds.Reply and "reply" not in options:
            fix = (
                f"give the answer of {self.provider!r} as reply=…; for a model under another name,"
                f" use LlmFaultInjector({str(kind)!r}, provider={self.provider!r})"
            )
            raise refused(kind.name, "reply", None, fix)
        return made(**options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.provider!r}, {str(self.fault_type)!r})"


def _turns(
    probability: float | None = None, seed: int | str = 0, script: str | Sequence[str] | None = None
) -> Iterator[bool]:
    """Yield for each call whether it meets the fault."""
    if script is not None:
        if probability is not None:
            raise refused("INTERMITTENT", "probability", probability, "the script decides; drop it")
        words = script.split(",") if isinstance(script, str) else script
        said = [word.strip() if isinstance(word, str) else word for word in words]
        if not said or not all(word in ("fail", "ok") for word in said):
            fix = "write 'fail' and 'ok', such as 'fail, fail, ok'"
            raise refused("INTERMITTENT", "script", script, fix if said else "it holds no word")
        return itertools.chain((word == "fail" for word in said), itertools.repeat(False))
    kinds.check_option("INTERMITTENT", "probability", probability)
    kinds.check_option("INTERMITTENT", "seed", seed)
    source, share = random.Random(seed), 0.5 if probability is None else probability
    return (source.random() < share for _ in itertools.count())


class _PortFaultInjector(FaultInjector):
    port: ClassVar[str]

    def __init__(
        self, fault_type: FaultType | str, *, provider: str | None = None, **options: Any
    ) -> None:
        super().__init__(self.port if provider is None else provider, fault_type, **options)


class LlmFaultInjector(_PortFaultInjector):
    """All faults of a language model. An invalid answer holds no text: its content is null."""

    port = "llm"
    kinds = _kinds(complete=("", None), stream=((), (None,)))


class SttFaultInjector(_PortFaultInjector):
    """Faults of speech to text: all but CUT, as a transcript comes in one piece.

    An invalid transcript is the body of an error.
    """

    port = "stt"
    kinds = _kinds("CUT", transcribe=("", {"error": "decoder crashed"}))


class TtsFaultInjector(_PortFaultInjector):
    """Faults of text to speech: all but CUT, as the sound comes in one piece.

    Invalid sound ends in the middle of a 16-bit sample.
    """

    port = "tts"
    kinds = _kinds("CUT", synthesize=(Audio(b""), Audio(b"\x00\x10\x00")))


class DbFaultInjector(_PortFaultInjector):
    """Faults of a database: all but CUT and RATE_LIMITED, which databases do not have.

    An invalid record is torn, and so comes back as text.
    """

    port = "db"
    kinds = _kinds(
        "CUT", "RATE_LIMITED", error=kinds.DatabaseRaises, get=(None, '{"turns": [{"user": "hel')
    )


class SpeakerFaultInjector(_PortFaultInjector):
    """Faults of a speaker: it returns nothing that could be cut, empty or malformed."""

    port = "speaker"
    kinds = _kinds("CUT", "RATE_LIMITED", "EMPTY", "INVALID")


class ToolFaultInjector(_PortFaultInjector):
    """Faults of the functions that models call: all but CUT.

    An invalid result is one that JSON cannot hold. `method` is the name of a tool, None for all.
    """

    port = "tools"
    kinds = _kinds("CUT", always=("", b"\xff"))


#: The injector of the faults that fit each port, by the port's name.
OF_PORTS: Mapping[str, type[_PortFaultInjector]] = MappingProxyType(
    {made.port: made for made in _PortFaultInjector.__subclasses__()}
)


def inject_fault(provider: str, fault_type: FaultType | str, **options: Any) -> FaultInjector:
    """Inject a fault into the provider registered as `provider`, within a block.

    Example:
        >>> with inject_fault("stt", FaultType.ERROR, message="Service unavailable") as stt:
        ...     result = await pipeline.run(ctx)
        >>> stt.injected
        1

    Args:
        provider: The name under which it is registered. ``llm``, ``stt``, ``tts``, ``db``,
            ``speaker`` and ``tools`` accept the faults that fit them, any other name all faults.
        fault_type: What goes wrong; a member of `FaultType`, or its value as a string.
        options: Those of the fault; see `FaultType`. Durations are in milliseconds.

    Raises:
        InvalidConfigError: The fault does not fit the provider, or an option the fault.
    """
    if isinstance(provider, str) and provider in OF_PORTS:
        return OF_PORTS[provider](fault_type, **options)
    return FaultInjector(provider, fault_type, **options)


@dataclass(frozen=True)
class PlannedFault:
    """The arguments of `inject_fault`."""

    provider: str
    fault_type: FaultType | str
    options: Mapping[str, Any] = field(default_factory=dict)

    def injector(self) -> FaultInjector:
        """Return a new injector; raise as `inject_fault` does."""
        # A plan may be drawn at random, so that no call meets some of its faults.
        options = {"allow_unused": True, **self.options}
        return inject_fault(self.provider, self.fault_type, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return its options, its provider and its type as one mapping."""
        return {"provider": self.provider, "type": str(self.fault_type), **self.options}


@dataclass(frozen=True)
class FaultPlan:
    """Faults to inject together; of two for the same provider, the later is the inner one."""

    faults: tuple[PlannedFault, ...] = ()

    @contextmanager
    def injected(self) -> Iterator[tuple[FaultInjector, ...]]:
        """Inject all faults, or none, within a block; yield the injectors in order."""
        injectors = tuple(fault.injector() for fault in self.faults)
        with ExitStack() as stack:
            for injector in injectors:
                stack.enter_context(injector)
            yield injectors

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a mapping; `stageflow.codec` stores it if it knows the options."""
        return {"faults": [fault.to_dict() for fault in self.faults]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FaultPlan:
        """Return the plan from the mapping of `to_dict`."""
        try:
            faults = [dict(fault) for fault in plain.get("faults", ())]
            planned = (PlannedFault(f.pop("provider"), f.pop("type"), f) for f in faults)
            return cls(tuple(planned))
        except (AttributeError, LookupError, TypeError, ValueError):
            fix = 'give {"faults": [{"provider": …, "type": …, option: …}, …]}, as to_dict does'
            raise refused("plan", "plan", plain, fix) from None

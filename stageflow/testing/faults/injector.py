"""Which fault, for which provider, for which of its calls, and for how long."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Self

from stageflow.errors import InvalidConfigError, nearest, shown
from stageflow.providers.registry import adapted
from stageflow.testing.faults import kinds, replies
from stageflow.testing.faults.kinds import Fault
from stageflow.testing.faults.options import refused
from stageflow.testing.faults.proxy import FaultyProvider


class FaultType(StrEnum):
    """What goes wrong. In brackets the options, with their defaults."""

    TIMEOUT = "timeout"  # no answer within a time [duration_ms=3000]: TimeoutError
    ERROR = "error"  # the answer is an error [message, status_code=503 | sqlstate, exception]
    SLOW = "slow"  # the right answer, too late [duration_ms=500, per_piece_ms=0]
    INTERMITTENT = "intermittent"  # now and then [probability=0.5, seed=0 | script; fault, …]
    STALL = "stall"  # a stream opens, then nothing useful [after_pieces=0, keepalive_ms]
    CUT = "cut"  # a stream breaks midway [after_pieces=1]: ConnectionResetError
    RATE_LIMITED = "rate_limited"  # HTTP 429 [retry_after_s=1]
    EMPTY = "empty"  # an empty transcript, answer, sound; no record [reply: of no port, needed]
    INVALID = "invalid"  # corrupt sound, a malformed reply [reply: of no port, needed]
    DISCONNECT = "disconnect"  # the connection is lost [after_call=False]: ConnectionResetError


#: The options of INTERMITTENT itself; all others are those of the fault that it injects.
_INTERMITTENT = ("probability", "seed", "script", "fault")

_NO_FAULT = Fault()

_KINDS: Mapping[FaultType, type[Fault]] = {
    FaultType.TIMEOUT: kinds.Timeout,
    FaultType.ERROR: kinds.Raises,
    FaultType.SLOW: kinds.Slow,
    FaultType.STALL: kinds.Stall,
    FaultType.CUT: kinds.Cut,
    FaultType.RATE_LIMITED: kinds.RateLimited,
    FaultType.EMPTY: replies.Reply,
    FaultType.INVALID: replies.Reply,
    FaultType.DISCONNECT: kinds.Disconnect,
}


def _kinds(*without: FaultType, **others: type[Fault]) -> Mapping[FaultType, type[Fault]]:
    changed = {**_KINDS, **{FaultType[name]: kind for name, kind in others.items()}}
    return MappingProxyType({t: kind for t, kind in changed.items() if t not in without})


class FaultInjector:
    """Puts one fault on one provider, for the length of a ``with`` or ``async with`` block.

    The fault is met by whatever is registered under the provider's name, and only by calls from the
    block: by what runs in its context, tasks that it starts included. Where blocks for the same
    provider nest, the inner fault holds until its block is left, then the outer one again. Once a
    block is left, by whatever way, calls go to the provider itself, from tasks that outlive it too.

    This class takes any provider and any fault; the classes below know what fits a port.

    Attributes:
        provider: The name under which the provider is registered.
        fault_type: What goes wrong.
        calls: How many calls were begun while the fault was in force.
        injected: How many of them met it.
    """

    #: The faults that fit, and what they do.
    kinds: ClassVar[Mapping[FaultType, type[Fault]]] = _kinds()

    def __init__(self, provider: str, fault_type: FaultType | str, **options: Any) -> None:
        """Choose provider and fault.

        Args:
            provider: The name under which the provider is registered.
            fault_type: What goes wrong; its value as a string will do.
            options: Those of the fault; see `FaultType`.

        Raises:
            InvalidConfigError: The fault does not fit the provider, or an option the fault.
        """
        if not isinstance(provider, str) or not provider:
            raise InvalidConfigError(
                type(self).__name__, "provider", provider, "give the name that it is registered as"
            )
        self.provider = provider
        self.fault_type = self._fitting("fault_type", fault_type)
        self.calls = 0
        self.injected = 0
        self._block: AbstractContextManager[None] | None = None
        self._turns: Iterator[bool] = itertools.repeat(True)
        kind = self.fault_type
        if kind is FaultType.INTERMITTENT:
            own = {name: options.pop(name) for name in _INTERMITTENT if name in options}
            kind = self._fitting("fault", own.pop("fault", FaultType.ERROR))
            if kind is FaultType.INTERMITTENT:
                raise refused("INTERMITTENT", "fault", kind, "name the fault that comes and goes")
            self._turns = _turns(**own)
        self._fault = self._made(kind, options)

    # ── the block ───────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        if self._block is not None:
            raise InvalidConfigError(
                repr(self), "block", "entered twice", "make an injector for each block"
            )
        self._block = adapted(self.provider, self._adapt)
        self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        block, self._block = self._block, None
        assert block is not None, "it was entered"
        block.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    # ── calls ───────────────────────────────────────────────────────────────────────────────

    def around(self, provider: Any) -> Any:
        """A provider with this fault in front of it, which strikes while the block is entered.

        For a provider that is not registered itself, such as one of two behind a fallback.
        """
        while isinstance(provider, FaultyProvider):
            provider = provider.__wrapped__
        return FaultyProvider(provider, self)

    def _adapt(self, provider: Any) -> Any:
        # Where the block is left, a task may have kept its context.
        return provider if self._block is None else self.around(provider)

    def fault_for(self, method: str) -> Fault:
        """The fault for a call of `method` that begins now; it is counted."""
        if self._block is None:
            return _NO_FAULT
        self.calls += 1
        if not self._fault.affects(method) or not next(self._turns):
            return _NO_FAULT
        self.injected += 1
        return self._fault

    # ── checks ──────────────────────────────────────────────────────────────────────────────

    def _fitting(self, field: str, found: object) -> FaultType:
        named = found if isinstance(found, str) else shown(found)
        try:
            kind = FaultType(named)
        except ValueError:
            hint = nearest(named.lower(), map(str, FaultType))
            mend = f"did you mean {hint!r}?" if hint else f"give one of {', '.join(FaultType)}"
            raise InvalidConfigError(type(self).__name__, field, found, mend) from None
        if kind not in self.kinds and kind is not FaultType.INTERMITTENT:
            fitting = ", ".join([*self.kinds, FaultType.INTERMITTENT])
            raise InvalidConfigError(
                type(self).__name__,
                field,
                str(kind),
                f"{self.provider!r} cannot fail like that; choose among {fitting}",
            )
        return kind

    def _made(self, kind: FaultType, options: Mapping[str, Any]) -> Fault:
        made = self.kinds[kind]
        known = [field.name for field in fields(made)]
        if self.fault_type is FaultType.INTERMITTENT:
            known.extend(_INTERMITTENT)
        for name, value in options.items():
            if name not in known:
                hint = nearest(name, known)
                raise refused(
                    self.fault_type.name,
                    name,
                    value,
                    f"there is no such option; did you mean {hint!r}?"
                    if hint
                    else f"the options that fit are {', '.join(known)}",
                )
        if made is replies.Reply and "reply" not in options:
            raise refused(
                kind.name,
                "reply",
                None,
                f"say what {self.provider!r} shall answer: reply=…; or if it is a model, say, under"
                f" another name, LlmFaultInjector({str(kind)!r}, provider={self.provider!r})",
            )
        return made(**options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.provider!r}, {str(self.fault_type)!r})"


def _turns(
    probability: float | None = None, seed: int | str = 0, script: str | Sequence[str] | None = None
) -> Iterator[bool]:
    """For each call, whether the fault strikes."""
    if script is not None:
        if probability is not None:
            raise refused("INTERMITTENT", "probability", probability, "the script decides; drop it")
        return itertools.chain(_script(script), itertools.repeat(False))
    share = 0.5 if probability is None else probability
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 <= share <= 1:
        raise refused("INTERMITTENT", "probability", share, "give a share from 0 to 1")
    if not isinstance(seed, int | str):
        raise refused("INTERMITTENT", "seed", seed, "give an integer or a string")
    source = random.Random(seed)
    return (source.random() < share for _ in itertools.count())


def _script(script: str | Sequence[str]) -> list[bool]:
    words = script.split(",") if isinstance(script, str) else script
    turns = []
    for word in words:
        said = word.strip() if isinstance(word, str) else word
        if said not in ("fail", "ok"):
            raise refused(
                "INTERMITTENT", "script", script, "write 'fail' and 'ok', such as 'fail, fail, ok'"
            )
        turns.append(said == "fail")
    if not turns:
        raise refused("INTERMITTENT", "script", script, "it holds no word")
    return turns


# ── by port ─────────────────────────────────────────────────────────────────────────────────


class LlmFaultInjector(FaultInjector):
    """Faults of a language model: all."""

    kinds = _kinds(EMPTY=replies.EmptyAnswer, INVALID=replies.InvalidAnswer)

    def __init__(
        self, fault_type: FaultType | str, *, provider: str = "llm", **options: Any
    ) -> None:
        super().__init__(provider, fault_type, **options)


class SttFaultInjector(FaultInjector):
    """Faults of speech to text: all but CUT, as a transcript comes in one piece."""

    kinds = _kinds(FaultType.CUT, EMPTY=replies.EmptyTranscript, INVALID=replies.InvalidTranscript)

    def __init__(
        self, fault_type: FaultType | str, *, provider: str = "stt", **options: Any
    ) -> None:
        super().__init__(provider, fault_type, **options)


class TtsFaultInjector(FaultInjector):
    """Faults of text to speech: all but CUT, as the sound comes in one piece."""

    kinds = _kinds(FaultType.CUT, EMPTY=replies.EmptySound, INVALID=replies.InvalidSound)

    def __init__(
        self, fault_type: FaultType | str, *, provider: str = "tts", **options: Any
    ) -> None:
        super().__init__(provider, fault_type, **options)


class DbFaultInjector(FaultInjector):
    """Faults of a database: all but CUT and RATE_LIMITED, which are none of its habits."""

    kinds = _kinds(
        FaultType.CUT,
        FaultType.RATE_LIMITED,
        ERROR=kinds.DatabaseRaises,
        EMPTY=replies.NoRecord,
        INVALID=replies.InvalidRecord,
    )

    def __init__(
        self, fault_type: FaultType | str, *, provider: str = "db", **options: Any
    ) -> None:
        super().__init__(provider, fault_type, **options)


class SpeakerFaultInjector(FaultInjector):
    """Faults of a speaker: it gives no answer that could be cut, empty or malformed."""

    kinds = _kinds(FaultType.CUT, FaultType.RATE_LIMITED, FaultType.EMPTY, FaultType.INVALID)

    def __init__(
        self, fault_type: FaultType | str, *, provider: str = "speaker", **options: Any
    ) -> None:
        super().__init__(provider, fault_type, **options)


#: What knows the faults that fit a port, by the port's name.
OF_PORTS: Mapping[
    str,
    type[LlmFaultInjector]
    | type[SttFaultInjector]
    | type[TtsFaultInjector]
    | type[DbFaultInjector]
    | type[SpeakerFaultInjector],
] = MappingProxyType(
    {
        "llm": LlmFaultInjector,
        "stt": SttFaultInjector,
        "tts": TtsFaultInjector,
        "db": DbFaultInjector,
        "speaker": SpeakerFaultInjector,
    }
)


def inject_fault(provider: str, fault_type: FaultType | str, **options: Any) -> FaultInjector:
    """Put a fault on whatever is registered as `provider`, within a block.

    Example:
        >>> with inject_fault("stt", FaultType.ERROR, message="Service unavailable") as stt:
        ...     result = await pipeline.run(ctx)
        >>> stt.injected
        1

    Args:
        provider: The name under which it is registered. ``llm``, ``stt``, ``tts``, ``db`` and
            ``speaker`` take the faults that fit these ports; one of any other name takes all.
        fault_type: What goes wrong; its value as a string will do.
        options: Those of the fault; see `FaultType`. Durations are in milliseconds.

    Returns:
        The injector, to be entered by ``with`` or ``async with``, which gives itself.

    Raises:
        InvalidConfigError: The fault does not fit the provider, or an option the fault.
    """
    if isinstance(provider, str) and provider in OF_PORTS:
        return OF_PORTS[provider](fault_type, **options)
    return FaultInjector(provider, fault_type, **options)

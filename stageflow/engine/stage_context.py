"""The context that a stage gets: its inputs, its streams, and the providers."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow import errors as err
from stageflow.engine.context import PipelineContext, RunScope, RunStatus
from stageflow.engine.stream import CAPACITY, Stream, StreamReader, StreamWriter
from stageflow.engine.timers import Timer
from stageflow.events.log import STARTED, STREAMING, TERMINAL, stage_event_type
from stageflow.providers.ports import LLM, STT, TTS, Database, Speaker
from stageflow.providers.registry import PORTS

_ENGINE_EVENTS = frozenset({STARTED, *TERMINAL, *STREAMING})
_ENDED = {"failed": "failed", "skipped": "was skipped", "cancelled": "was cancelled"}


# Stages emit few words often, and the check of a word costs as much as the rest of an event.
@functools.lru_cache(maxsize=1024)
def _own_event_type(stage: str, what: object) -> str | None:
    """Return the type of an event that a stage emits; None if its word is not allowed."""
    word = isinstance(what, str) and what.replace("_", "a").isalnum()
    return stage_event_type(stage, str(what)) if word and what not in _ENGINE_EVENTS else None


#: How many stages the reason of a skipped stage names.
_CHAIN = 7

REQUIRED = object()
"""The default of a parameter that has none."""


class Argument(NamedTuple):
    """One argument of a stage's function: an input, or the context if the key is empty."""

    key: str
    default: Any


class StageContext:
    """The context of one stage: its declared inputs, its streams, and the providers."""

    __slots__ = (
        "_declared",
        "_random",
        "_readers",
        "_timeout",
        "name",
        "provider_name",
        "scope",
        "started_at",
    )

    _random: random.Random
    _readers: dict[str, StreamReader]
    llm: LLM
    """The language model."""
    stt: STT
    """Speech to text."""
    tts: TTS
    """Text to speech."""
    db: Database
    """The database."""
    speaker: Speaker
    """The speaker, which plays sound."""

    def __init__(
        self,
        scope: RunScope,
        name: str,
        declared: frozenset[str],
        started_at: float,
        provider_name: str | None = None,
    ) -> None:
        #: The run that this stage belongs to; for interceptors and child runs.
        self.scope = scope
        self._declared = declared
        #: Name of the provider that the spec declares; None if it declares none.
        self.provider_name = provider_name
        self._timeout: Timer | None = None
        self.name = name
        #: When the stage started, in seconds of the loop's clock.
        self.started_at = started_at

    def __getitem__(self, key: str) -> Any:
        """Return a declared input; for a stream, the stage's own reader, the same each time.

        Raises:
            StageDefectError: The stage does not declare it.
            AbsentInputError: Its producer did not write it, or the run was started without it.
        """
        if not isinstance(key, str) or key not in self._declared:
            names = sorted(self._declared)
            raise err.StageDefectError(
                f"read {key!r} without declaring it; write inputs=[{key!r}, …]"
                f" (declared: {names}){err.did_you_mean(key, names)}",
                code="undeclared_input",
                keys=(key,),
            )
        scope = self.scope
        if key in scope.bag:
            value = scope.bag[key]
        elif key in scope.inputs:
            value = scope.inputs[key]
        else:
            raise err.AbsentInputError(key, self._why_absent(key))
        return value if type(value) is not Stream else self._reader(key, value)

    def arguments(self, wanted: Iterable[Argument]) -> list[Any]:
        """Return the inputs with which a stage's function is called; raise as reading does."""
        scope, found = self.scope, []
        values, given = scope.bag._values, scope.inputs
        value: Any
        for key, default in wanted:
            if not key:
                value = self
            elif key in values:
                value = values[key]
            elif key in given:
                value = given[key]
            else:
                value = default if default is not REQUIRED else self[key]
            found.append(value if type(value) is not Stream else self._reader(key, value))
        return found

    def why_skip(self, key: str) -> str:
        """Return why the stage is skipped, as `key` is absent, which it needs."""
        scope = self.scope
        producer = scope.producers.get(key)
        if producer is None:
            return f"the input {key!r} is absent: {self._why_absent(key)}"
        chain, cause = scope.chains.get(producer, ((), ""))
        chain = (*chain, producer)
        if len(chain) > _CHAIN:
            chain = (*chain[:2], "…", *chain[3 - _CHAIN :])
        cause = cause or f"stage {producer!r} {self._how_ended(producer)}"
        scope.chains[self.name] = chain, cause
        return f"its input {key!r} is absent along {' → '.join((*chain, self.name))}: {cause}"

    def __contains__(self, key: str) -> bool:
        """Return whether a declared input is there; raise as `get` does."""
        absent = object()
        return self.get(key, absent) is not absent

    __iter__ = None  # else Python would ask for the inputs 0, 1, …

    def _reader(self, key: str, stream: Stream) -> StreamReader:
        if not hasattr(self, "_readers"):
            self._readers = {}
        if key not in self._readers:
            self._readers[key] = stream.reader(self.name)
        return self._readers[key]

    def __setitem__(self, key: str, value: object) -> None:
        raise TypeError(f"a stage writes by returning: return StageOutput.ok({key}=…)")

    if not TYPE_CHECKING:  # a type checker would accept every name as an attribute

        def __getattr__(self, name: str) -> Any:
            if name in PORTS:
                return self.scope.context.providers[name]
            raise AttributeError(
                f"a stage's context has no {name!r}: ctx[{name!r}] reads an input,"
                f" ctx.provider({name!r}) calls a provider",
                name=name,
                obj=self,
            )

    def _why_absent(self, key: str) -> str:
        producer = self.scope.producers.get(key)
        if producer is None:
            return "the run was started without it" + err.misspelt([key], self.scope.inputs)
        return f"stage {producer!r}, which provides it, {self._how_ended(producer)}"

    def _how_ended(self, stage: str) -> str:
        for event in [e for e in self.scope.log.snapshot() if e.stage == stage][-1:]:
            why = event.data.get("error_message") or event.data.get("reason") or "no reason given"
            return f"{_ENDED.get(event.what, event.what)} ({why})"
        return "has not run"

    def get(self, key: str, default: Any = None) -> Any:
        """Return a declared input, or `default` if it is absent; raise if it is undeclared."""
        try:
            return self[key]
        except err.AbsentInputError:
            return default

    def open(self, key: str, *, capacity: int = CAPACITY) -> StreamWriter:
        """Open a declared stream, so that stages that read only streams of this one may start.

        The engine closes it when the stage ends. Another attempt that opens it again continues the
        same stream, if nothing has been put into it.

        Args:
            key: One of the streams that the stage declares.
            capacity: How many items the stage may be ahead of the slowest back-pressured reader.

        Raises:
            StreamError: The stage does not declare it, has put items into it, or has ended.
            InvalidConfigError: The capacity is not a positive whole number.
        """
        if not hasattr(self.scope, "streams"):
            raise err.StreamError.undeclared(key, ())
        return self.scope.streams.open(self.name, self.started_at, key, capacity)

    @property
    def repeatable(self) -> bool:
        """Whether the stage may run again: it has put no items, and can read all items again."""
        if hasattr(self.scope, "streams") and self.scope.streams.has_put(self.name):
            return False
        readers = getattr(self, "_readers", {})
        return all(reader.rewindable for reader in readers.values())

    def rewind(self) -> None:
        """Rewind the stage's readers, for another attempt of a `repeatable` stage."""
        for reader in getattr(self, "_readers", {}).values():
            reader.rewind()

    @property
    def run(self) -> PipelineContext:
        """The context of the whole run."""
        return self.scope.context

    @property
    def pipeline_name(self) -> str:
        """Name of the pipeline."""
        return self.scope.pipeline_name

    @property
    def pipeline_run_id(self) -> str:
        """Id of the run."""
        return self.scope.pipeline_run_id

    @property
    def correlation_id(self) -> str | None:
        """Id shared with the parent run and all child runs."""
        return self.scope.context.correlation_id

    @property
    def random(self) -> random.Random:
        """Random numbers of this stage; they repeat if the context has a seed."""
        if not hasattr(self, "_random"):
            self._random = random.Random(f"{self.pipeline_run_id}/{self.name}")
        return self._random

    def now(self) -> float:
        """Return the time of the loop's clock, in seconds."""
        return self.scope.loop.time()

    def remaining_s(self) -> float | None:
        """Return the seconds until the run's deadline; None if it has none."""
        deadline = self.scope.deadline
        return None if deadline is None else deadline - self.now()

    @property
    def timeout_s(self) -> float | None:
        """The stage's own timeout in seconds, counted from its start; None if it has none."""
        return self.scope.timeouts_s.get(self.name)

    @property
    def timed_out(self) -> bool:
        """Whether the stage's own timeout has expired."""
        return self._timeout is not None and self._timeout.expired

    @property
    def cancelled(self) -> bool:
        """Whether the stage has been cancelled: its run stops, or its own timeout has expired."""
        return self.scope.stopping or self.timed_out

    def limit(self, timeout_s: float, on_expiry: Callable[[], object]) -> Timer:
        """Set the stage's own timeout, counted from its start; for the engine."""
        self._timeout = self.scope.timers.set(self.started_at + timeout_s, on_expiry)
        return self._timeout

    def emit(self, what: str, **data: Any) -> None:
        """Record an event ``stage.<name>.<what>`` with this data.

        Raises:
            InvalidContextError: `what` is not a word of your own, or the stage has ended.
        """
        scope, name = self.scope, self.name
        if scope.log.has_ended(name):
            raise self.too_late(f"emitted {what!r}")
        try:
            kind = _own_event_type(name, what)
        except TypeError:  # it cannot be looked up in the cache
            kind = None
        if kind is None:
            raise err.InvalidContextError(
                f"stage {name!r} emitted {what!r}: give a word of letters, digits and '_'"
                f" other than {STARTED}, {', '.join((*sorted(TERMINAL), *STREAMING))}"
            )
        scope.log.append((kind, scope.loop.time(), name, data))

    @property
    def ended(self) -> bool:
        """Whether the stage has ended."""
        return self.scope.log.has_ended(self.name)

    def too_late(self, action: str) -> err.InvalidContextError:
        """Return the error of a stage that did `action` after it had ended."""
        status = self.scope.status
        over = "it had ended" if status is RunStatus.RUNNING else f"its run had {status}"
        return err.InvalidContextError(
            f"stage {self.name!r} {action} after {over}: let the stage await what it starts"
        )

    def provider(self, name: str) -> Any:
        """Return the provider of that name, or raise `UnknownProviderError`."""
        return self.scope.context.providers[name]

"""What a run, and what one of its stages, can see."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stageflow.bag import ContextBag
from stageflow.board import StreamBoard
from stageflow.durations import is_duration
from stageflow.errors import (
    AbsentInputError,
    ContextInUseError,
    InvalidContextError,
    UndeclaredInputError,
    UndeclaredStreamError,
    shown,
)
from stageflow.events import (
    CANCELLED,
    FAILED,
    SKIPPED,
    STARTED,
    STREAMING,
    TERMINAL,
    Event,
    EventLog,
    stage_event_type,
)
from stageflow.letter import DeadLetter, LetterBox
from stageflow.providers.ports import LLM, STT, TTS, Database, Speaker
from stageflow.providers.registry import ProviderRegistry
from stageflow.stream import CAPACITY, Stream, StreamReader, StreamWriter
from stageflow.watchdog import Watch, Watchdog

_NO_VALUES: Mapping[str, Any] = MappingProxyType({})


#: By which the engine records the life of a stage and of its streams.
_ENGINES_WORDS = frozenset({STARTED, *TERMINAL, *STREAMING})

#: What is said of a stage by the last event that it had.
_ENDED = {FAILED: "failed", SKIPPED: "was skipped", CANCELLED: "was cancelled"}


class RunStatus(StrEnum):
    """Where a run stands."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_RUNNING = RunStatus.RUNNING


class RunScope:
    """Everything that belongs to one run and to no other.

    Attributes:
        dead_letter: What was kept of the run; set only if it failed for good.
        streams: The run's streams; set only if its pipeline has any.
    """

    __slots__ = (
        "bag",
        "context",
        "dead_letter",
        "deadline",
        "inputs",
        "log",
        "loop",
        "own_deadline",
        "pipeline_name",
        "pipeline_run_id",
        "producers",
        "started_at",
        "status",
        "stopping",
        "streams",
        "timeouts_s",
        "watchdog",
    )

    dead_letter: DeadLetter
    streams: StreamBoard

    def __init__(
        self,
        context: PipelineContext,
        pipeline_name: str,
        loop: asyncio.AbstractEventLoop,
        producers: Mapping[str, str] = _NO_VALUES,
        timeouts_s: Mapping[str, float] = _NO_VALUES,
    ) -> None:
        self.context = context
        self.pipeline_name = pipeline_name
        #: For each output and stream, the name of the stage that declares it.
        self.producers = producers
        #: The timeouts of the stages that have one, by name.
        self.timeouts_s = timeouts_s
        self.loop = loop
        self.pipeline_run_id = context.new_id()
        self.started_at = loop.time()
        self.bag = ContextBag()
        self.log = EventLog(self.pipeline_run_id, self.started_at, context.wall_clock())
        self.inputs = context.inputs
        self.status = RunStatus.RUNNING
        #: Whether it starts nothing more, and cancels what is under way.
        self.stopping = False
        self.watchdog = Watchdog(loop)
        #: Loop time in seconds at which the run must have ended; None if it has no limit.
        self.deadline: float | None = None
        #: The same, if this run has to keep it itself: a parent with an earlier one will do it.
        self.own_deadline: float | None = None
        if context.deadline_s is not None:
            self.deadline = self.own_deadline = self.started_at + context.deadline_s
        inherited = context.parent.deadline if context.parent is not None else None
        if inherited is not None and (self.deadline is None or inherited <= self.deadline):
            self.deadline = inherited
            self.own_deadline = None


class PipelineContext:
    """What a caller hands to a run: inputs, providers, limits, and the sources of chance.

    A context carries one run at a time, and any number one after another; each run has an id, a
    bag and an event log of its own, and the properties below speak of the latest.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        providers: ProviderRegistry | None = None,
        deadline_s: float | None = None,
        correlation_id: str | None = None,
        seed: int | None = None,
        wall_clock: Callable[[], float] = time.time,
        dead_letters: LetterBox | None = None,
    ) -> None:
        """Prepare a context.

        Args:
            inputs: The inputs of the run, by key; what a pipeline declares as its inputs.
            providers: What stages call.
            deadline_s: Limit of each run in seconds, child runs included; None for no limit. It
                strikes where stages await: code that blocks the loop cannot be interrupted.
            correlation_id: Id that a run shares with all its child runs; the first run's own id
                if left out.
            seed: Makes ids and random numbers repeat; None draws them from the system. Contexts
                that run at the same time need different ones, or sinks mix up their runs.
            wall_clock: Seconds since the epoch; read once a run.
            dead_letters: Where runs that fail for good are kept, unless the orchestrator says.

        Raises:
            InvalidContextError: An input's key is not a string, the deadline is no positive number,
                or the seed no integer.
        """
        if inputs is not None and not isinstance(inputs, Mapping):
            raise InvalidContextError(
                f"inputs is {shown(inputs)}; give a mapping of keys to values"
            )
        if providers is not None and not isinstance(providers, ProviderRegistry):
            raise InvalidContextError(
                f"providers is a {type(providers).__name__}; give ProviderRegistry(llm=…, …)"
            )
        given = dict(inputs) if inputs is not None else {}
        for key in given:
            if not isinstance(key, str):
                raise InvalidContextError(f"the input {shown(key)} has no string as its key")
        if deadline_s is not None and not is_duration(deadline_s):
            raise InvalidContextError(
                f"deadline_s is {shown(deadline_s)}; give a positive number of seconds, or None"
            )
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise InvalidContextError(f"seed is {shown(seed)}; give an integer, or None")
        self.inputs: Mapping[str, Any] = MappingProxyType(given)
        self.providers = providers if providers is not None else ProviderRegistry()
        self.deadline_s = deadline_s
        self.seed = seed
        self.wall_clock = wall_clock
        self.dead_letters = dead_letters
        self.parent: RunScope | None = None
        self.parent_stage_id: str | None = None
        self._correlation_id = correlation_id
        self._random = random.Random(seed) if seed is not None else None
        self._scope: RunScope | None = None

    # ── chance and identity ─────────────────────────────────────────────────────────────────

    def new_id(self) -> str:
        """A fresh id: 32 hexadecimal digits."""
        if self._random is None:
            return os.urandom(16).hex()
        return f"{self._random.getrandbits(128):032x}"

    # ── the latest run ──────────────────────────────────────────────────────────────────────

    @property
    def status(self) -> RunStatus:
        """Where the latest run stands; CREATED before the first."""
        return self._scope.status if self._scope is not None else RunStatus.CREATED

    @property
    def pipeline_run_id(self) -> str | None:
        """Id of the latest run; None before the first."""
        return self._scope.pipeline_run_id if self._scope is not None else None

    @property
    def correlation_id(self) -> str | None:
        """Id shared by a run and all its child runs; None before the first run if not given."""
        return self._correlation_id or self.pipeline_run_id

    @property
    def parent_run_id(self) -> str | None:
        """Id of the run whose stage started this one; None for a run of its own."""
        return self.parent.pipeline_run_id if self.parent is not None else None

    @property
    def bag(self) -> ContextBag:
        """The outputs of the latest run; an empty bag before the first."""
        return self._scope.bag if self._scope is not None else ContextBag()

    @property
    def parent_outputs(self) -> Mapping[str, Any]:
        """A read-only view of what the parent run has written so far; empty without a parent."""
        return MappingProxyType(self.parent.bag) if self.parent is not None else _NO_VALUES

    @property
    def dlq_entry(self) -> DeadLetter | None:
        """The dead letter of the latest run, as it was when put; None if the run left none."""
        return getattr(self._scope, "dead_letter", None)

    def get_events(self) -> tuple[Event, ...]:
        """The events of the latest run, in order."""
        return self._scope.log.snapshot() if self._scope is not None else ()

    def child(
        self, caller: StageContext, inputs: Mapping[str, Any], *, deadline_s: float | None = None
    ) -> PipelineContext:
        """The context of a child run of this one, started by the stage `caller`."""
        child = PipelineContext(
            inputs,
            providers=self.providers,
            deadline_s=deadline_s,
            correlation_id=self.correlation_id,
            seed=None if self._random is None else self._random.getrandbits(64),
            wall_clock=self.wall_clock,
        )
        child.parent = caller.scope
        child.parent_stage_id = caller.name
        return child

    def begin_run(
        self,
        pipeline_name: str,
        loop: asyncio.AbstractEventLoop,
        producers: Mapping[str, str] = _NO_VALUES,
        timeouts_s: Mapping[str, float] = _NO_VALUES,
    ) -> RunScope:
        """Open the scope of a new run; for the orchestrator.

        Raises:
            ContextInUseError: The latest run has not ended.
        """
        if self._scope is not None and self._scope.status is RunStatus.RUNNING:
            raise ContextInUseError(pipeline_name, self._scope.pipeline_run_id)
        self._scope = RunScope(self, pipeline_name, loop, producers, timeouts_s)
        return self._scope


class StageContext:
    """What one stage can see while it runs: its declared inputs, and the providers."""

    __slots__ = (
        "_declared",
        "_random",
        "_readers",
        "_scope",
        "_timeout",
        "name",
        "provider_name",
        "started_at",
    )

    _random: random.Random
    _readers: dict[str, StreamReader]

    def __init__(
        self,
        scope: RunScope,
        name: str,
        declared: frozenset[str],
        started_at: float,
        provider_name: str | None = None,
    ) -> None:
        self._scope = scope
        self._declared = declared
        #: Name of the provider that the stage calls, as its spec declares; None for none.
        self.provider_name = provider_name
        self._timeout: Watch | None = None
        #: The stage's name.
        self.name = name
        #: When the stage started, in seconds of the loop's clock.
        self.started_at = started_at

    # ── inputs ──────────────────────────────────────────────────────────────────────────────

    def __getitem__(self, key: str) -> Any:
        """A declared input; of a stream the stage's own reader, the same one each time.

        Raises:
            UndeclaredInputError: The stage does not declare it.
            AbsentInputError: Its producer was skipped, failed while not required, ended without
                having opened it, or the run was started without it.
        """
        if not isinstance(key, str) or key not in self._declared:
            raise UndeclaredInputError(key, self._declared)
        scope = self._scope
        if key in scope.bag:
            value = scope.bag[key]
        elif key in scope.inputs:
            value = scope.inputs[key]
        else:
            raise AbsentInputError(key, self._why_absent(key))
        return value if type(value) is not Stream else self._reader(key, value)

    def _reader(self, key: str, stream: Stream) -> StreamReader:
        if not hasattr(self, "_readers"):
            self._readers = {}
        if key not in self._readers:
            self._readers[key] = stream.reader(self.name)
        return self._readers[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Refused: what a stage writes is what it returns.

        Raises:
            TypeError: Always; names what to write instead.
        """
        raise TypeError(f"a stage writes by returning: return StageOutput.ok({key}=…)")

    if not TYPE_CHECKING:  # a checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"a stage's context has no {name!r}: ctx[{name!r}] reads an input,"
                f" ctx.provider({name!r}) calls a provider",
                name=name,
                obj=self,
            )

    def _why_absent(self, key: str) -> str:
        producer = self._scope.producers.get(key)
        if producer is None:
            return "the run was started without it"
        ended = [e for e in self._scope.log.snapshot() if e.stage == producer][-1:]
        for event in ended:
            why = event.data.get("error_message") or event.data.get("reason") or "no reason given"
            how = _ENDED.get(event.what, event.what)
            return f"stage {producer!r}, which provides it, {how} ({why})"
        return f"stage {producer!r}, which provides it, has not run"

    def get(self, key: str, default: Any = None) -> Any:
        """A declared input, or `default` if it is absent.

        Raises:
            UndeclaredInputError: The stage does not declare it.
        """
        try:
            return self[key]
        except AbsentInputError:
            return default

    # ── streams ─────────────────────────────────────────────────────────────────────────────

    def open(self, key: str, *, capacity: int = CAPACITY) -> StreamWriter:
        """Open a declared stream: the stages that read it, and nothing else of this one, may start.

        The engine closes it when the stage ends. Opening it again, as another attempt does, goes
        on with the same stream, as long as nothing has been put into it.

        Args:
            key: One of the streams that the stage declares.
            capacity: How many items `StreamWriter.put` may be ahead of the slowest live reader.

        Raises:
            UndeclaredStreamError: The stage does not declare it.
            StreamReopenedError: It has been opened before, and items were put into it.
            StreamClosedError: The stage has ended.
            InvalidConfigError: The capacity is no positive whole number.
        """
        if not hasattr(self._scope, "streams"):
            raise UndeclaredStreamError(key, ())
        return self._scope.streams.open(self.name, self.started_at, key, capacity)

    @property
    def unopened(self) -> list[str]:
        """The streams that the stage declares and has not opened yet."""
        return self._scope.streams.unopened(self.name) if hasattr(self._scope, "streams") else []

    @property
    def repeatable(self) -> bool:
        """Whether the stage may be run again: it has put nothing, and can read all once more."""
        if hasattr(self._scope, "streams") and self._scope.streams.has_put(self.name):
            return False
        readers = getattr(self, "_readers", {})
        return all(reader.rewindable for reader in readers.values())

    def rewind(self) -> None:
        """Let the stage's readers begin again, for another attempt of a `repeatable` stage."""
        for reader in getattr(self, "_readers", {}).values():
            reader.rewind()

    # ── surroundings ────────────────────────────────────────────────────────────────────────

    @property
    def run(self) -> PipelineContext:
        """The context of the whole run."""
        return self._scope.context

    @property
    def scope(self) -> RunScope:
        """The run that this stage belongs to; for interceptors and child runs."""
        return self._scope

    @property
    def pipeline_name(self) -> str:
        """Name of the pipeline."""
        return self._scope.pipeline_name

    @property
    def pipeline_run_id(self) -> str:
        """Id of the run."""
        return self._scope.pipeline_run_id

    @property
    def correlation_id(self) -> str | None:
        """Id shared with the parent run and all child runs."""
        return self._scope.context.correlation_id

    @property
    def random(self) -> random.Random:
        """Random numbers of this stage; they repeat when the context was given a seed."""
        if not hasattr(self, "_random"):
            self._random = random.Random(f"{self.pipeline_run_id}/{self.name}")
        return self._random

    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self._scope.loop.time()

    def remaining_s(self) -> float | None:
        """Seconds until the run's deadline; None if it has none."""
        deadline = self._scope.deadline
        return None if deadline is None else deadline - self.now()

    @property
    def timeout_s(self) -> float | None:
        """The stage's own timeout in seconds, counted from its start; None if it has none."""
        return self._scope.timeouts_s.get(self.name)

    @property
    def timed_out(self) -> bool:
        """Whether the stage's own timeout has struck."""
        return self._timeout is not None and self._timeout.expired

    def limit(self, timeout_s: float, on_expiry: Callable[[], object]) -> Watch:
        """Begin to keep the stage's own timeout, counted from its start; for the engine."""
        self._timeout = self._scope.watchdog.watch(self.started_at + timeout_s, on_expiry)
        return self._timeout

    def emit(self, what: str, **data: Any) -> None:
        """Put an event ``stage.<name>.<what>`` on record.

        Args:
            what: Any word but those by which the engine records the life of a stage; no dots.
            data: What else there is to say.

        Raises:
            InvalidContextError: It is such a word, or no word; or the run has ended.
        """
        if self._scope.status is not _RUNNING:
            raise InvalidContextError(
                f"stage {self.name!r} emitted {what!r} after its run had {self._scope.status}:"
                " let the stage await what it starts"
            )
        if not what.replace("_", "a").isalnum() or what in _ENGINES_WORDS:
            raise InvalidContextError(
                f"stage {self.name!r} emitted {what!r}: give a word of letters, digits and '_'"
                f" other than {STARTED}, {', '.join((*sorted(TERMINAL), *STREAMING))}"
            )
        kind = stage_event_type(self.name, what)
        self._scope.log.append((kind, self.now(), self.name, data))

    # ── providers ───────────────────────────────────────────────────────────────────────────

    def provider(self, name: str) -> Any:
        """The provider registered under `name`.

        Raises:
            UnknownProviderError: There is none.
        """
        return self._scope.context.providers[name]

    @property
    def llm(self) -> LLM:
        """The language model."""
        return self._scope.context.providers.llm

    @property
    def stt(self) -> STT:
        """Speech to text."""
        return self._scope.context.providers.stt

    @property
    def tts(self) -> TTS:
        """Text to speech."""
        return self._scope.context.providers.tts

    @property
    def db(self) -> Database:
        """The database."""
        return self._scope.context.providers.db

    @property
    def speaker(self) -> Speaker:
        """What makes sound be heard."""
        return self._scope.context.providers.speaker

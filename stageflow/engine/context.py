"""The context that a caller hands to a run, and the scope that each run adds to it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from stageflow._utils.checks import is_async, is_duration
from stageflow.engine.bag import ContextBag
from stageflow.engine.dead_letter import DeadLetter, DeadLetterSink
from stageflow.engine.run_streams import RunStreams
from stageflow.engine.timers import TimerHeap
from stageflow.errors import InvalidContextError, shown
from stageflow.errors.data import require_methods
from stageflow.events.log import Event, EventLog
from stageflow.providers.registry import ProviderRegistry

#: How long stages may take to end after a run was stopped, in seconds, unless a context says so.
GRACE_S = 30.0

_NO_VALUES: Mapping[str, Any] = MappingProxyType({})


class RunStatus(StrEnum):
    """The state of a run."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunScope:
    """The state of one run; its context does not refer to it, so reference counting frees it."""

    #: Set only if the pipeline has streams.
    streams: RunStreams

    def __init__(
        self,
        context: PipelineContext,
        pipeline_name: str,
        loop: asyncio.AbstractEventLoop,
        producers: Mapping[str, str] = _NO_VALUES,
        timeouts_s: Mapping[str, float] = _NO_VALUES,
    ) -> None:
        """Begin a run in `context`; raise `InvalidContextError` if that still carries another."""
        if context.status is RunStatus.RUNNING:
            raise InvalidContextError(
                f"this PipelineContext still carries run {context.pipeline_run_id} of another call;"
                f" give pipeline {pipeline_name!r} a context of its own",
                code="context_in_use",
                pipeline_run_id=context.pipeline_run_id,
            )
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
        #: For each stage skipped for an absent input, the stages that led to it, and the cause.
        self.chains: dict[str, tuple[tuple[str, ...], str]] = {}
        self.log = EventLog(self.pipeline_run_id, self.started_at, context.wall_clock())
        self.inputs = context.inputs
        self.status = context.status = RunStatus.RUNNING
        context.pipeline_run_id, context.dlq_entry = self.pipeline_run_id, None
        context._bag, context._log = self.bag, self.log
        #: Whether the run is stopping: it starts no stage, and cancels those that run.
        self.stopping = False
        #: The stages, of child runs too, that had not ended after their grace period, as sentences.
        self.held: list[str] = [] if context.parent is None else context.parent.held
        self.timers = TimerHeap(loop)
        #: Loop time in seconds at which the run must have ended; None if it has no limit.
        self.deadline: float | None = None
        #: The same if this run enforces it; None if a parent with an earlier deadline does.
        self.own_deadline: float | None = None
        if context.deadline_s is not None:
            self.deadline = self.own_deadline = self.started_at + context.deadline_s
        inherited = context.parent.deadline if context.parent is not None else None
        if inherited is not None and (self.deadline is None or inherited <= self.deadline):
            self.deadline = inherited
            self.own_deadline = None

    def origin(self) -> dict[str, Any]:
        """Return the data of the run's first event."""
        context = self.context
        data = {"pipeline": self.pipeline_name, "correlation_id": context.correlation_id}
        if context.parent is not None:
            data["parent_run_id"] = context.parent_run_id
            data["parent_stage_id"] = context.parent_stage_id
        return data

    def end(self, status: RunStatus) -> None:
        """Record how the run has ended, and let go of what refers to the run."""
        self.status = self.context.status = status
        self.timers.close()
        self.log.detach()


class PipelineContext:
    """The context that a caller gives to a run: inputs, providers, limits, clock and seed.

    A context carries one run at a time, and any number one after another. Each run has an id, a
    bag and an event log of its own; the attributes below are those of the latest run.

    Attributes:
        status: State of the run; CREATED before the first.
        pipeline_run_id: Id of the run; None before the first.
        dlq_entry: The dead letter of the run, as it was put; None if the run left none.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        providers: ProviderRegistry | None = None,
        deadline_s: float | None = None,
        grace_s: float = GRACE_S,
        correlation_id: str | None = None,
        seed: int | None = None,
        wall_clock: Callable[[], float] = time.time,
        dead_letters: DeadLetterSink | None = None,
    ) -> None:
        """Prepare a context.

        Args:
            inputs: The inputs of the run, by key.
            providers: The providers that stages call.
            deadline_s: Limit of each run in seconds, child runs included. It takes effect where
                stages await: code that blocks the loop cannot be interrupted.
            grace_s: How long stages may take to end after a cancellation or the deadline, in
                seconds; the run then ends without them. A sink of dead letters has as long.
            correlation_id: Id that a run shares with its child runs; the first run's by default.
            seed: Makes ids and random numbers repeat. Contexts that run at the same time need
                different seeds, or sinks mix up their runs.
            wall_clock: Returns seconds since the epoch; read once a run.
            dead_letters: The sink for dead letters, unless the orchestrator has one.

        Raises:
            InvalidContextError: An argument has a wrong type or value.
            InvalidConfigError: The sink for dead letters has no async ``put``.
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
        fix = "give a positive number of seconds"
        if deadline_s is not None and not is_duration(deadline_s):
            raise InvalidContextError(f"deadline_s is {shown(deadline_s)}; {fix}, or None")
        if not is_duration(grace_s):
            raise InvalidContextError(f"grace_s is {shown(grace_s)}; {fix}")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise InvalidContextError(f"seed is {shown(seed)}; give an integer, or None")
        if wall_clock is not time.time and (not callable(wall_clock) or is_async(wall_clock)):
            fix = "give a plain function that returns seconds since the epoch"
            raise InvalidContextError(f"wall_clock is {shown(wall_clock)}; {fix}")
        if dead_letters is not None:
            require_methods("PipelineContext", "dead_letters", dead_letters, awaited=("put",))
        self.inputs: Mapping[str, Any] = MappingProxyType(given)
        self.providers = providers if providers is not None else ProviderRegistry()
        self.deadline_s = deadline_s
        self.grace_s = grace_s
        self.seed = seed
        self.wall_clock = wall_clock
        self.dead_letters = dead_letters
        self.parent: RunScope | None = None
        self.parent_stage_id: str | None = None
        self._correlation_id = correlation_id
        self._random = random.Random(seed) if seed is not None else None
        self.status = RunStatus.CREATED
        self.pipeline_run_id: str | None = None
        self._bag: ContextBag | None = None
        self._log: EventLog | None = None
        self.dlq_entry: DeadLetter | None = None
        #: The dead letter whose run this one resumes.
        self.resumes: DeadLetter | None = None

    def new_id(self) -> str:
        """Return a new id: 32 hexadecimal digits."""
        if self._random is None:
            return os.urandom(16).hex()
        return f"{self._random.getrandbits(128):032x}"

    @property
    def correlation_id(self) -> str | None:
        """Id shared by a run and all its child runs; None before the first run if not given."""
        return self._correlation_id or self.pipeline_run_id

    @property
    def parent_run_id(self) -> str | None:
        """Id of the run whose stage started this one; None for a root run."""
        return self.parent.pipeline_run_id if self.parent is not None else None

    @property
    def bag(self) -> ContextBag:
        """The outputs of the latest run; an empty bag before the first."""
        return self._bag if self._bag is not None else ContextBag()

    @property
    def parent_outputs(self) -> Mapping[str, Any]:
        """Outputs of the parent run so far, read-only; empty without a parent."""
        return MappingProxyType(self.parent.bag) if self.parent is not None else _NO_VALUES

    def get_events(self) -> tuple[Event, ...]:
        """Return the events of the latest run, in order."""
        return self._log.snapshot() if self._log is not None else ()

    def child(
        self,
        inputs: Mapping[str, Any],
        *,
        parent: RunScope,
        stage: str,
        deadline_s: float | None = None,
    ) -> PipelineContext:
        """Return the context of a child run, which the stage `stage` of the run `parent` starts."""
        child = PipelineContext(
            inputs,
            providers=self.providers,
            deadline_s=deadline_s,
            grace_s=self.grace_s,
            correlation_id=self.correlation_id,
            seed=None if self._random is None else self._random.getrandbits(64),
            wall_clock=self.wall_clock,
        )
        child.parent, child.parent_stage_id = parent, stage
        return child

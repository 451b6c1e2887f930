"""The dead letter: the record of a run that failed, from which the run can be replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, Protocol

from stageflow.engine.stream import Stream
from stageflow.events.log import Event, StageStatus

_SHOWN_CHARS = 120
#: Attributes by which classes of data are recognised: dataclasses, pydantic's, those of attrs.
DATA_MARKS = ("__dataclass_fields__", "__pydantic_fields_set__", "__attrs_attrs__")
#: Objects of subclasses of these may have attributes that are stored.
_OPEN = (str, int, float, bytes, tuple, list, dict, set, frozenset, SimpleNamespace)
#: Their objects have no parts.
_PLAIN = frozenset([str, int, float, bool, bytes, type(None)])
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class DeadLetterState(StrEnum):
    """The state of a dead letter."""

    WAITING = "waiting"
    REPLAYING = "replaying"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Unstorable:
    """A placeholder in a stored dead letter for a value that cannot be stored.

    Attributes:
        type_name: The value's type, with its module.
        description: Why it cannot, or the value's text, shortened.
        plain: Stored form of a value whose class is not imported here.
    """

    type_name: str
    description: str
    plain: Any = field(default=None, compare=False, repr=False)

    @property
    def shown(self) -> str:
        """The type, and the description, as errors show them."""
        return f"{self.type_name}: {self.description[:_SHOWN_CHARS]}"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How one stage of the failed run ended.

    Attributes:
        ending: How it ended.
        final: Whether a replay skips the stage. False for a stage that failed the run, was
            cancelled or never started; for one that wrote a lost stream which must still be read,
            and for its dependents.
        reason: Why it ended so, unless it completed.
        outputs: Its outputs, and those of its streams of which every item was kept.
    """

    ending: StageStatus
    final: bool
    reason: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Why a run failed: what the error said, and the provider that the failed stage declares."""

    code: str
    category: str
    message: str
    user_message: str
    retryable: bool = False
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The record of a run that failed.

    Attributes:
        id: 32 hexadecimal digits.
        created_at: When the run failed, in UTC.
        correlation_id: Id that the run shared with its child runs.
        failed_stage: The stage that failed the run; None if its deadline did.
        error: Why it failed; after a replay that failed too, why the replay failed.
        stages: How each stage ended, by name, with the outputs of those that finished.
        events: Events of the run, then of the latest replay that failed.
        seed: The seed of the run's context, if any.
        deadline_s: The run's limit in seconds, if any.
        attempts: How many replays have begun.
        lease_expires_at: During a replay: until when nobody else may replay it, in UTC.
        replay_run_id: Id of the replay that completed.
    """

    id: str
    created_at: datetime
    pipeline: str
    pipeline_run_id: str
    correlation_id: str | None
    failed_stage: str | None
    error: FailureRecord
    inputs: Mapping[str, Any] = field(hash=False)
    stages: Mapping[str, StageRecord] = field(hash=False)
    events: tuple[Event, ...] = ()
    seed: int | None = None
    deadline_s: float | None = None
    state: DeadLetterState = DeadLetterState.WAITING
    attempts: int = 0
    lease_expires_at: datetime | None = None
    replay_run_id: str | None = None

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs of the finished stages, by key."""
        return {
            key: value for record in self.stages.values() for key, value in record.outputs.items()
        }

    @property
    def finished(self) -> dict[str, StageRecord]:
        """The stages that a replay does not run again."""
        return {name: record for name, record in self.stages.items() if record.final}

    def unstorable(self) -> dict[str, Unstorable]:
        """Return the values that a replay would need and that could not be stored, by path."""
        needed = {"inputs": self.inputs, "outputs": self.outputs}
        return dict(found for path in needed for found in unstorable_in(path, needed[path]))


def unstorable_in(path: str, value: object) -> Iterator[tuple[str, Unstorable]]:
    """Yield the placeholders within `value`, which is at `path`, each with its own path."""
    if isinstance(value, Unstorable):
        yield path, value
        return
    for step, part in _parts(value):
        yield from unstorable_in(f"{path}{step}", part)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value that may be placeholders, each with the step that leads to it."""
    if isinstance(value, Mapping):
        yield from (("[key]", key) for key in value)
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | deque | Stream):
        items = value if not isinstance(value, Stream) else value.items() if value.whole else ()
        if not _PLAIN.issuperset(map(type, items)):
            yield from ((f"[{number}]", item) for number, item in enumerate(items))
    elif isinstance(value, set | frozenset):
        yield from (("[…]", item) for item in value)
    cls = type(value)
    if cls.__module__ != "builtins" and (
        issubclass(cls, _OPEN) or any(hasattr(cls, mark) for mark in DATA_MARKS)
    ):
        yield from ((f".{name}", item) for name, item in attributes_of(value).items())


def attributes_of(value: object) -> dict[str, Any]:
    """Return the attributes of an object, also those in slots; no code of its class is called."""
    state = object.__getstate__(value) or {}
    plain, slots = state if isinstance(state, tuple) else (state, {})
    return {**(plain or {}), **slots}


class DeadLetterSink(Protocol):
    """The port to which the engine hands dead letters."""

    async def put(self, letter: DeadLetter) -> Mapping[str, Unstorable] | None:
        """Store a dead letter durably before returning; putting it again changes nothing.

        Returns:
            The values that a replay needs and that could not be stored, by path; None if unknown.

        Raises:
            DuplicateDeadLetterError: Another dead letter has this id.
        """

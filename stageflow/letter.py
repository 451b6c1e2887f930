"""The dead letter: what is kept of a run that failed for good, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from stageflow.events import Event, StageStatus
from stageflow.stream import Stream

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class LetterState(StrEnum):
    """Where a dead letter stands."""

    WAITING = "waiting"
    REPLAYING = "replaying"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Unstorable:
    """Stands in a stored letter for a value that no letter can hold.

    Attributes:
        type_name: The value's type, with its module.
        description: What the value said of itself, shortened.
    """

    type_name: str
    description: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is known of one stage of the run that failed.

    Attributes:
        ending: How it ended.
        final: Whether that stands: it ended by itself, and a replay does not run it again. What
            failed the run, was cancelled, or never started, is not final; nor is what wrote a
            stream that is still to be read and is gone, with all that depends on it.
        reason: Why, unless it completed.
        outputs: What it wrote; of its streams those that were kept whole.
    """

    ending: StageStatus
    final: bool
    reason: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)


@dataclass(frozen=True, slots=True)
class LetterError:
    """Why a run failed.

    Attributes:
        code: The error's `code`.
        category: Its category, such as ``transient``.
        message: Its text for an engineer.
        user_message: Its text for the person in the conversation.
        retryable: Whether the same call may succeed when it is made again.
        provider: Name of the provider that the failed stage calls; None if it names none.
    """

    code: str
    category: str
    message: str
    user_message: str
    retryable: bool = False
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A run that failed for good.

    Attributes:
        id: Names the letter; 32 hexadecimal digits.
        created_at: When the run failed, in UTC.
        pipeline: Name of the pipeline.
        pipeline_run_id: Id of the run.
        correlation_id: Id that the run shared with its child runs.
        failed_stage: The stage that failed the run; None if its deadline did.
        error: Why it failed; after a replay that failed as well, why that did.
        inputs: The inputs of the run.
        stages: How each stage ended, by name, with the outputs of those that finished.
        events: What happened, first in the run, then in the latest replay that failed.
        seed: The seed of the run's context; None if it had none.
        deadline_s: The run's limit in seconds; None if it had none.
        state: Waiting for a replay, being replayed, or replayed.
        attempts: How many replays have begun.
        lease_expires_at: While it is being replayed: until when nobody else may, in UTC.
        replay_run_id: Once it has been replayed: the id of the run that completed.
    """

    id: str
    created_at: datetime
    pipeline: str
    pipeline_run_id: str
    correlation_id: str | None
    failed_stage: str | None
    error: LetterError
    inputs: Mapping[str, Any] = field(hash=False)
    stages: Mapping[str, StageRecord] = field(hash=False)
    events: tuple[Event, ...] = ()
    seed: int | None = None
    deadline_s: float | None = None
    state: LetterState = LetterState.WAITING
    attempts: int = 0
    lease_expires_at: datetime | None = None
    replay_run_id: str | None = None

    @property
    def outputs(self) -> dict[str, Any]:
        """What the finished stages have written, by key."""
        return {
            key: value for record in self.stages.values() for key, value in record.outputs.items()
        }

    @property
    def finished(self) -> dict[str, StageRecord]:
        """The stages that a replay does not run again."""
        return {name: record for name, record in self.stages.items() if record.final}

    def unstorable(self) -> dict[str, Unstorable]:
        """The values that a replay would need and that could not be stored, by their path."""
        found: dict[str, Unstorable] = {}
        for key, value in (*self.inputs.items(), *self.outputs.items()):
            kept = isinstance(value, Stream) and value.whole
            found.update(unstorable_in(key, value.items() if kept else value))
        return found


def unstorable_in(path: str, value: object) -> Iterator[tuple[str, Unstorable]]:
    """The placeholders within `value`, which stands at `path`, each with its own path."""
    if isinstance(value, Unstorable):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from unstorable_in(f"{path}[key]", key)
            yield from unstorable_in(f"{path}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from unstorable_in(f"{path}[{number}]", item)
    elif isinstance(value, set | frozenset):
        for item in value:
            yield from unstorable_in(f"{path}[…]", item)
    elif is_dataclass(value):
        for part in fields(value):
            yield from unstorable_in(f"{path}.{part.name}", getattr(value, part.name))


class LetterBox(Protocol):
    """Where the engine puts dead letters."""

    async def put(self, letter: DeadLetter) -> None:
        """Keep a letter durably before returning.

        Putting the same letter again changes nothing.
        """

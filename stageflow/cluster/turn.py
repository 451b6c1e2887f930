"""Turns and their results, and how they look on the wire: JSON by the codec of dead letters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stageflow import __version__
from stageflow.cluster.errors import (
    IncompatiblePayloadError,
    PayloadTooLargeError,
    ProtocolMismatchError,
    RemoteTurnError,
)
from stageflow.context import RunStatus
from stageflow.dlq.codec import LetterCodec
from stageflow.durations import is_duration
from stageflow.errors import CorruptDeadLetterError, InvalidConfigError, StageflowError
from stageflow.graph import StageGraph
from stageflow.letter import unstorable_in

#: Raised whenever one side could not read what the other writes.
PROTOCOL = 1

#: How large a turn, or its answer, may be unless one says otherwise: a minute of speech.
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_KEY = re.compile(r"[!-~]{1,200}")
#: How the codec marks a placeholder. Whatever a user calls "$" is written as a list of pairs.
_PLACEHOLDER = '{"$": "unstorable"'


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a pipeline, to be done by some worker.

    Attributes:
        pipeline: Name of the pipeline.
        inputs: Inputs of the run.
        key: Idempotency key: however often it is sent, a turn of that key ends once. It is the
            run's correlation id, and the run's own id follows from it, so that what a stage
            writes under either is written once, too. Up to 200 visible ASCII characters.
        queue: Which workers may run it.
        deadline_s: Seconds that it may take from being sent on, waiting included; None for no
            limit.
        outputs: Which outputs are sent back; None for all.
    """

    pipeline: str
    inputs: Mapping[str, Any] = field(hash=False)
    key: str
    queue: str = "default"
    deadline_s: float | None = None
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_name("Turn", "pipeline", self.pipeline)
        check_name("Turn", "queue", self.queue)
        if not isinstance(self.key, str) or not _KEY.fullmatch(self.key):
            raise InvalidConfigError(
                "Turn", "key", self.key, "give 1 to 200 visible ASCII characters"
            )
        if self.deadline_s is not None and not is_duration(self.deadline_s):
            raise InvalidConfigError(
                "Turn", "deadline_s", self.deadline_s, "give a positive number of seconds, or None"
            )


def check_name(owner: str, what: str, name: object) -> None:
    """Raise `InvalidConfigError` unless `name` can be that of a queue or a pipeline."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidConfigError(owner, what, name, "give letters, digits, '_' and '-'")


def check_counts(owner: str, **counts: object) -> None:
    """Raise `InvalidConfigError` unless all of them are positive integers."""
    for field_name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise InvalidConfigError(owner, field_name, value, "give a positive integer")


def check_durations(owner: str, **seconds: object) -> None:
    """Raise `InvalidConfigError` unless all of them are limits of time."""
    for field_name, value in seconds.items():
        if not is_duration(value):
            raise InvalidConfigError(owner, field_name, value, "give a positive number of seconds")


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended.

    Attributes:
        key: Its idempotency key.
        pipeline: Name of the pipeline.
        status: COMPLETED, FAILED or CANCELLED.
        outputs: What the stages have written, by key, as far as it was asked for. A value that
            cannot be sent is an `stageflow.letter.Unstorable`.
        failure: Why it failed or was cancelled; None if it completed.
        pipeline_run_id: Id of the run; None if there was none.
        duration_ms: How long the run took on the worker, in milliseconds.
        worker: Name of the worker; None if no worker ended it.
        deliveries: How many workers have taken it, the last included.
        dead_letter: Id of the dead letter that it left; None if none.
        dead_letter_error: Why it left none though it should have.
    """

    key: str
    pipeline: str
    status: RunStatus
    outputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    failure: StageflowError | None = None
    pipeline_run_id: str | None = None
    duration_ms: float = 0.0
    worker: str | None = None
    deliveries: int = 0
    dead_letter: str | None = None
    dead_letter_error: str | None = None

    def unwrap(self) -> dict[str, Any]:
        """The outputs of a completed turn.

        Raises:
            StageflowError: It did not complete; this is its `failure`.
        """
        if self.failure is not None:
            raise self.failure
        return dict(self.outputs)


@dataclass(frozen=True, slots=True)
class Card:
    """What a worker says of itself when it joins.

    Attributes:
        queues: The queues that it reads.
        inputs: The pipelines that it serves, and the inputs that each declares.
        protocol: The version of the protocol that it speaks; None if it cannot be told.
        version: Its stageflow.
    """

    queues: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(hash=False)
    protocol: int | None = PROTOCOL
    version: str = __version__


def card_of(queues: tuple[str, ...], graphs: Mapping[str, StageGraph]) -> Card:
    """The card of a worker that serves `graphs`."""
    return Card(queues, {name: tuple(graph.inputs) for name, graph in graphs.items()})


def seed_of(key: str) -> int:
    """The seed of a turn's run: all attempts have the same ids."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")


def letter_id_of(key: str) -> str:
    """The id of the dead letter that a turn leaves: a second attempt cannot leave another."""
    return hashlib.sha256(f"letter of {key}".encode()).hexdigest()[:32]


class Wire:
    """Turns, results and cards as bytes; refuses what is too large or cannot be read there."""

    def __init__(self, codec: LetterCodec, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._codec = codec
        self._limit_bytes = max_payload_bytes

    def encode_turn(self, turn: Turn) -> tuple[bytes, str]:
        """The content of a turn, and what tells it from others.

        Raises:
            IncompatiblePayloadError: An input is of a type that the codec does not know.
            PayloadTooLargeError: It is larger than allowed.
        """
        content = {
            "pipeline": turn.pipeline,
            "inputs": self._plain(turn.inputs),
            "outputs": turn.outputs,
        }
        text = json.dumps({"protocol": PROTOCOL, "deadline_s": turn.deadline_s, **content})
        what = f"the turn {turn.key!r} of pipeline {turn.pipeline!r}"
        if _PLACEHOLDER in text:
            raise IncompatiblePayloadError(what, self._unsendable(turn.inputs))
        identity = json.dumps([turn.queue, content], sort_keys=True)
        return self._fitting(what, text), hashlib.sha256(identity.encode()).hexdigest()

    def decode_turn(self, key: str, queue: str, body: bytes) -> Turn:
        """The turn that `encode_turn` was given.

        Raises:
            ProtocolMismatchError: It was written by another version of the protocol.
            IncompatiblePayloadError: It cannot be read.
            PayloadTooLargeError: It is larger than allowed here.
        """
        what = f"the turn {key!r}"
        if len(body) > self._limit_bytes:
            raise PayloadTooLargeError(what, len(body), self._limit_bytes)
        data = _read(what, body)
        try:
            outputs = data["outputs"]
            return Turn(
                data["pipeline"],
                self._values(data["inputs"]),
                key,
                queue,
                data["deadline_s"],
                None if outputs is None else tuple(outputs),
            )
        except (CorruptDeadLetterError, InvalidConfigError, *_MALFORMED) as error:
            raise IncompatiblePayloadError(what, f"{type(error).__name__}: {error}") from error

    def encode_result(self, result: TurnResult) -> bytes:
        """A result as bytes.

        Raises:
            PayloadTooLargeError: It is larger than allowed.
        """
        failure = result.failure
        text = json.dumps(
            {
                "protocol": PROTOCOL,
                "pipeline": result.pipeline,
                "status": str(result.status),
                "outputs": self._plain(result.outputs),
                "failure": None if failure is None else _plain_failure(failure),
                **{name: getattr(result, name) for name in _RESULT_FIELDS},
            }
        )
        return self._fitting(f"the answer of the turn {result.key!r}", text)

    def decode_result(self, key: str, answer: bytes) -> TurnResult:
        """The result that `encode_result` was given; raises as `decode_turn`."""
        what = f"the answer of the turn {key!r}"
        data = _read(what, answer)
        try:
            failure = data["failure"]
            return TurnResult(
                key,
                data["pipeline"],
                RunStatus(data["status"]),
                self._values(data["outputs"]),
                None if failure is None else RemoteTurnError(**failure),
                **{name: data[name] for name in _RESULT_FIELDS},
            )
        except (CorruptDeadLetterError, *_MALFORMED) as error:
            raise IncompatiblePayloadError(what, f"{type(error).__name__}: {error}") from error

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._codec.to_plain(value) for key, value in values.items()}

    def _values(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._codec.from_plain(value) for key, value in plain.items()}

    def _unsendable(self, inputs: Mapping[str, Any]) -> str:
        found = (
            f"{path} is of type {value.type_name}"
            for key, plain in self._plain(inputs).items()
            for path, value in unstorable_in(key, self._codec.from_plain(plain))
        )
        return ", ".join(found)

    def _fitting(self, what: str, text: str) -> bytes:
        body = text.encode()
        if len(body) > self._limit_bytes:
            raise PayloadTooLargeError(what, len(body), self._limit_bytes)
        return body


_RESULT_FIELDS = (
    "pipeline_run_id",
    "duration_ms",
    "worker",
    "deliveries",
    "dead_letter",
    "dead_letter_error",
)
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def encode_card(card: Card) -> bytes:
    """A card as bytes."""
    inputs = {name: list(keys) for name, keys in card.inputs.items()}
    queues = list(card.queues)
    plain = {"protocol": card.protocol, "version": card.version, "queues": queues, "inputs": inputs}
    return json.dumps(plain).encode()


def decode_card(body: bytes) -> Card:
    """The card that `encode_card` was given.

    Of a worker with another protocol nothing but that is known; one that cannot be read has none.
    """
    try:
        data = json.loads(body)
        if data["protocol"] != PROTOCOL:
            return Card((), {}, data["protocol"], str(data.get("version")))
        inputs = {name: tuple(keys) for name, keys in data["inputs"].items()}
        return Card(tuple(data["queues"]), inputs, data["protocol"], data["version"])
    except _MALFORMED:
        return Card((), {}, None, "unknown")


def _read(what: str, body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
        protocol = data["protocol"]
    except _MALFORMED as error:
        raise IncompatiblePayloadError(what, f"{type(error).__name__}: {error}") from error
    if protocol != PROTOCOL:
        raise ProtocolMismatchError(f"the sender of {what}", PROTOCOL, protocol)
    return dict(data)


def _plain_failure(failure: StageflowError) -> dict[str, Any]:
    return {
        "code": failure.code,
        "category": str(failure.category),
        "message": str(failure),
        "user_message": failure.user_message,
        "retryable": failure.retryable,
        "stage": failure.stage,
        "pipeline_run_id": failure.pipeline_run_id,
    }

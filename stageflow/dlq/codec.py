"""Dead letters as JSON: plain values as they are, other types with a tag, never a pickle.

Reading a letter can therefore make nothing but values. A value of an unknown type does not lose
the letter: it is replaced by an `Unstorable` that describes it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from stageflow.errors import CorruptDeadLetterError
from stageflow.events import Event, StageStatus
from stageflow.letter import (
    DeadLetter,
    LetterError,
    LetterState,
    StageRecord,
    Unstorable,
)
from stageflow.providers.ports import Audio, Message
from stageflow.stream import Stream

#: Marks a tagged value: ``{"$": tag, "v": …}``.
_TAG = "$"
_UNSTORABLE = "unstorable"
#: Deeper nesting than this is not stored; the JSON parser would refuse it at several times that.
_DEPTH = 60
_DESCRIBED_CHARS = 200
#: Integers with more bits are written in hexadecimal: Python limits decimal ones.
_DECIMAL_BITS = 1_024


@dataclass(frozen=True, slots=True)
class StoredType:
    """How values of one class are stored.

    Attributes:
        tag: Names the type in the stored letter; it must not change afterwards.
        cls: The class; values of its subclasses are not meant.
        to_plain: Makes of a value one that the codec can store.
        from_plain: The reverse.
    """

    tag: str
    cls: type[Any]
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _to_base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _stream(parts: list[Any]) -> Stream:
    key, producer, items = parts
    return Stream.of(items, key=key, producer=producer)


_BUILT_IN: tuple[StoredType, ...] = (
    StoredType("bytes", bytes, _to_base64, _from_base64),
    StoredType("bytearray", bytearray, _to_base64, lambda text: bytearray(_from_base64(text))),
    StoredType("tuple", tuple, list, tuple),
    StoredType("set", set, list, set),
    StoredType("frozenset", frozenset, list, frozenset),
    StoredType("mapping", MappingProxyType, dict, MappingProxyType),
    StoredType("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    StoredType("date", date, date.isoformat, date.fromisoformat),
    StoredType("timedelta", timedelta, _seconds, lambda parts: timedelta(*parts)),
    StoredType("decimal", Decimal, str, Decimal),
    StoredType("uuid", UUID, str, UUID),
    StoredType("complex", complex, lambda z: [z.real, z.imag], lambda parts: complex(*parts)),
    StoredType("audio", Audio, lambda a: [a.pcm, a.sample_rate_hz], lambda parts: Audio(*parts)),
    StoredType("message", Message, lambda m: [m.role, m.content], lambda parts: Message(*parts)),
    # One that is not whole refuses, and is described.
    StoredType("stream", Stream, lambda s: [s.key, s.producer, s.items()], _stream),
    StoredType(
        _UNSTORABLE,
        Unstorable,
        lambda u: [u.type_name, u.description],
        lambda parts: Unstorable(*parts),
    ),
)


class LetterCodec:
    """Turns dead letters into JSON text and back."""

    def __init__(self, types: Iterable[StoredType] = ()) -> None:
        """Begin with the built-in types.

        Args:
            types: Further ones, by which letters can hold objects of your own.
        """
        everything = (*_BUILT_IN, *types)
        self._by_class = {known.cls: known for known in everything}
        self._by_tag = {known.tag: known for known in everything}

    # ── values ──────────────────────────────────────────────────────────────────────────────

    def to_plain(self, value: Any) -> Any:
        """`value` as JSON can hold it; what cannot be stored becomes a described placeholder."""
        try:
            return self._plain(value, 0)
        except Exception as error:  # such as a dict that another thread changes meanwhile
            return self._placeholder(value, f"{type(error).__name__}: {error}")

    def _plain(self, value: Any, depth: int) -> Any:
        if value is None or type(value) in (bool, str):
            return value
        if type(value) in (int, float):
            return _plain_number(value)
        if depth >= _DEPTH:
            return self._placeholder(value, "nested too deep, or within itself")
        if type(value) is list:
            return [self._plain(item, depth + 1) for item in value]
        if type(value) is dict:
            return self._plain_dict(value, depth)
        return self._plain_object(value, depth)

    def _plain_object(self, value: Any, depth: int) -> Any:
        known = self._by_class.get(type(value))
        if known is None:
            return self._placeholder(value)
        try:
            plain = self._plain(known.to_plain(value), depth + 1)
        except Exception as error:
            return self._placeholder(value, f"{type(error).__name__}: {error}")
        if isinstance(plain, dict) and plain.get(_TAG) == _UNSTORABLE:
            # Nothing could make the value again out of a placeholder for all that it holds.
            return self._placeholder(value, plain["v"][1])
        return _tagged(known.tag, plain)

    def _plain_dict(self, value: dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: self._plain(item, depth + 1) for key, item in value.items()}
        pairs = [
            [self._plain(key, depth + 1), self._plain(item, depth + 1)]
            for key, item in value.items()
        ]
        return _tagged("dict", pairs)

    def _placeholder(self, value: Any, description: str | None = None) -> Any:
        cls = type(value)
        try:
            text = description if description is not None else repr(value)
        except Exception as error:
            text = f"its repr() raises {type(error).__name__}"
        parts = [f"{cls.__module__}.{cls.__qualname__}", text[:_DESCRIBED_CHARS]]
        return _tagged(_UNSTORABLE, parts)

    def from_plain(self, plain: Any) -> Any:
        """The value that `to_plain` was given.

        Raises:
            CorruptDeadLetterError: It is tagged with a type that this codec does not know, or is
                none of that type.
        """
        if isinstance(plain, list):
            return [self.from_plain(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if _TAG not in plain:
            return {key: self.from_plain(item) for key, item in plain.items()}
        tag = plain[_TAG]
        try:
            return self._untagged(tag, plain["v"])
        except CorruptDeadLetterError:
            raise
        except Exception as error:
            raise CorruptDeadLetterError(
                f"a value tagged {tag!r} ({type(error).__name__}: {error})"
            ) from error

    def _untagged(self, tag: str, inner: Any) -> Any:
        if tag == "int":
            return int(inner, 16)
        if tag == "float":
            return float(inner)
        if tag == "dict":
            return {self.from_plain(key): self.from_plain(item) for key, item in inner}
        return self._by_tag[tag].from_plain(self.from_plain(inner))

    # ── letters ─────────────────────────────────────────────────────────────────────────────

    def encode(self, letter: DeadLetter) -> str:
        """A letter's content as JSON, without where it stands (state, attempts, lease)."""
        return json.dumps(
            {
                "id": letter.id,
                "created_at": letter.created_at.isoformat(),
                "pipeline": letter.pipeline,
                "pipeline_run_id": letter.pipeline_run_id,
                "correlation_id": self.to_plain(letter.correlation_id),
                "failed_stage": letter.failed_stage,
                "error": {name: getattr(letter.error, name) for name in _ERROR_FIELDS},
                "inputs": self._plain_items(letter.inputs),
                "stages": {
                    name: {
                        "ending": str(record.ending),
                        "final": record.final,
                        "reason": self.to_plain(record.reason),
                        "outputs": self._plain_items(record.outputs),
                    }
                    for name, record in letter.stages.items()
                },
                "events": [self._plain_event(event) for event in letter.events],
                "seed": self.to_plain(letter.seed),
                "deadline_s": letter.deadline_s,
            }
        )

    def decode(self, text: str) -> DeadLetter:
        """The letter whose content `encode` wrote; it is waiting.

        Raises:
            CorruptDeadLetterError: It is no such text.
        """
        try:
            data = json.loads(text)
            return DeadLetter(
                id=data["id"],
                created_at=_moment(data["created_at"]),
                pipeline=data["pipeline"],
                pipeline_run_id=data["pipeline_run_id"],
                correlation_id=self.from_plain(data["correlation_id"]),
                failed_stage=data["failed_stage"],
                error=LetterError(**data["error"]),
                inputs=self._items(data["inputs"]),
                stages={
                    name: StageRecord(
                        StageStatus(record["ending"]),
                        record["final"],
                        self.from_plain(record["reason"]),
                        self._items(record["outputs"]),
                    )
                    for name, record in data["stages"].items()
                },
                events=tuple(self._event(event) for event in data["events"]),
                seed=self.from_plain(data["seed"]),
                deadline_s=data["deadline_s"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptDeadLetterError(f"{type(error).__name__}: {error}") from error

    def describe(self, letter: DeadLetter) -> dict[str, Any]:
        """A letter with where it stands, as JSON can hold it; for reading, not for `decode`."""
        until = letter.lease_expires_at
        return {
            **json.loads(self.encode(letter)),
            "state": str(LetterState(letter.state)),
            "attempts": letter.attempts,
            "lease_expires_at": until.isoformat() if until is not None else None,
            "replay_run_id": letter.replay_run_id,
        }

    def _plain_items(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # Keys are those of the user, and stand on their own: a key "$" is no tag here.
        return {key: self.to_plain(value) for key, value in values.items()}

    def _items(self, plain: dict[str, Any]) -> dict[str, Any]:
        return {key: self.from_plain(value) for key, value in plain.items()}

    def _plain_event(self, event: Event) -> dict[str, Any]:
        return {**event.to_dict(), "data": self._plain_items(event.data)}

    def _event(self, plain: dict[str, Any]) -> Event:
        data = MappingProxyType(self._items(plain["data"]))
        return Event(**{**plain, "timestamp": _moment(plain["timestamp"]), "data": data})


_ERROR_FIELDS = ("code", "category", "message", "user_message", "retryable", "provider")

#: The codec of stores that are given none.
DEFAULT_CODEC = LetterCodec()


def _tagged(tag: str, plain: Any) -> dict[str, Any]:
    return {_TAG: tag, "v": plain}


def _plain_number(value: int | float) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else _tagged("float", repr(value))
    return value if value.bit_length() <= _DECIMAL_BITS else _tagged("int", hex(value))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)

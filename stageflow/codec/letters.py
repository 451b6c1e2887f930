"""The codec of dead letters."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType, NoneType
from typing import Any

from stageflow.codec.values import ValueCodec, dumps, loads
from stageflow.engine.dead_letter import DeadLetter, DeadLetterState, FailureRecord, StageRecord
from stageflow.errors import CorruptDeadLetterError, StageflowError
from stageflow.events.log import Event, StageStatus


class Codec(ValueCodec):
    """Turns values and dead letters into JSON, and back."""

    def encode(self, letter: DeadLetter, *, large: bool = False) -> str:
        """Return a letter's content as JSON, without state, attempts and lease; see `dumps`."""
        error = letter.error
        return dumps(
            {
                **{name: getattr(letter, name) for name in _COPIED},
                "created_at": letter.created_at.isoformat(),
                "correlation_id": as_text(letter.correlation_id),
                "error": {**plain_failure(error), "provider": as_text(error.provider)},
                "inputs": self.plain_items(letter.inputs),
                "stages": {
                    name: {
                        "ending": str(record.ending),
                        "final": record.final,
                        "reason": as_text(record.reason),
                        "outputs": self.plain_items(record.outputs),
                    }
                    for name, record in letter.stages.items()
                },
                "events": [
                    {**event.to_dict(), "data": self.plain_items(event.data)}
                    for event in letter.events
                ],
                "seed": self.to_plain(letter.seed),
            },
            large=large,
        )

    def decode(self, text: str, *, large: bool = False) -> DeadLetter:
        """Return the letter whose content `encode` wrote; its state is waiting. See `loads`.

        Raises `CorruptDeadLetterError`, which names the field, for text that it cannot read.
        """
        try:
            data = check_fields("", loads(text, large=large), _LETTER)
            return DeadLetter(
                **{name: data[name] for name in _COPIED},
                created_at=_moment("created_at", data["created_at"]),
                correlation_id=data["correlation_id"],
                error=FailureRecord(**check_fields("error", data["error"], _ERROR)),
                inputs=self.items_from_plain(data["inputs"], strict=False),
                stages={
                    name: self._record(f"stages.{name}", record)
                    for name, record in data["stages"].items()
                },
                events=tuple(
                    self._event(f"events[{number}]", event)
                    for number, event in enumerate(data["events"])
                ),
                seed=check_fields("", {"seed": self.from_plain(data["seed"])}, _SEED)["seed"],
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CorruptDeadLetterError(f"{type(error).__name__}: {error}") from error

    def describe(self, letter: DeadLetter) -> dict[str, Any]:
        """Return a letter with state, attempts and lease as JSON values, not for `decode`."""
        until = letter.lease_expires_at
        return {
            **json.loads(self.encode(letter)),
            "state": str(DeadLetterState(letter.state)),
            "attempts": letter.attempts,
            "lease_expires_at": until.isoformat() if until is not None else None,
            "replay_run_id": letter.replay_run_id,
        }

    def _record(self, where: str, plain: object) -> StageRecord:
        record = check_fields(where, plain, _RECORD)
        return StageRecord(
            StageStatus(record["ending"]),
            record["final"],
            record["reason"],
            self.items_from_plain(record["outputs"], strict=False),
        )

    def _event(self, where: str, plain: object) -> Event:
        event = check_fields(where, plain, _EVENT)
        at = _moment(f"{where}.timestamp", event["timestamp"])
        data = MappingProxyType(self.items_from_plain(event["data"], strict=False))
        return Event(**{**event, "timestamp": at, "data": data})


#: The JSON types of each field of an object.
FieldTypes = Mapping[str, tuple[type, ...]]

TEXT = (str,)
TEXT_OR_NONE = (str, NoneType)
NUMBER = (int, float)
NUMBER_OR_NONE = (int, float, NoneType)

#: Fields of a letter that are stored as they are.
_COPIED = ("id", "pipeline", "pipeline_run_id", "failed_stage", "deadline_s")
_LETTER: FieldTypes = {
    **dict.fromkeys(("id", "created_at", "pipeline", "pipeline_run_id"), TEXT),
    **dict.fromkeys(("correlation_id", "failed_stage"), TEXT_OR_NONE),
    **dict.fromkeys(("error", "inputs", "stages"), (dict,)),
    "events": (list,),
    "seed": (int, dict, NoneType),  # a large integer is tagged
    "deadline_s": NUMBER_OR_NONE,
}
FAILURE: FieldTypes = {
    **dict.fromkeys(("code", "category", "message", "user_message"), TEXT),
    "retryable": (bool,),
}
_SEED: FieldTypes = {"seed": (int, NoneType)}
_ERROR: FieldTypes = {**FAILURE, "provider": TEXT_OR_NONE}
_RECORD: FieldTypes = {
    "ending": TEXT,
    "final": (bool,),
    "reason": TEXT_OR_NONE,
    "outputs": (dict,),
}
_EVENT: FieldTypes = {
    **dict.fromkeys(("type", "timestamp", "pipeline_run_id"), TEXT),
    "sequence": (int,),
    "offset_ms": NUMBER,
    "stage": TEXT_OR_NONE,
    "data": (dict,),
}


def check_fields(where: str, plain: object, kinds: FieldTypes) -> dict[str, Any]:
    """Return `plain` if it is a JSON object with these fields and finite numbers.

    Otherwise raise a `TypeError` with the field's path, which begins with `where`.
    """
    if type(plain) is not dict:
        raise TypeError(f"{where or 'the text'} is {type(plain).__name__}, not an object")
    for name, allowed in kinds.items():
        path = f"{where}.{name}" if where else name
        if name not in plain:
            raise TypeError(f"{path} is missing")
        value = plain[name]
        # Exact types: True is not a number.
        if type(value) not in allowed:
            wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in allowed)
            raise TypeError(f"{path} is {type(value).__name__}, not {wanted}")
        if float in allowed and value is not None and not abs(value) <= sys.float_info.max:
            raise TypeError(f"{path} is not a finite number")
    return plain


def as_text(value: object) -> str | None:
    """Return the text of a value, or None for None."""
    return None if value is None else str(value)


def plain_failure(error: FailureRecord | StageflowError) -> dict[str, Any]:
    """Return the fields of `FAILURE` in their types; a user's class of error may have others."""
    texts = {name: str(getattr(error, name)) for name in FAILURE if FAILURE[name] == TEXT}
    return {**texts, "retryable": bool(error.retryable)}


DEFAULT_CODEC = Codec()


def _moment(where: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where} is not a date: {error}") from error

"""A recorded turn as JSON: what came in, each call of a provider, and what came of it.

Version 1 is an object with the keys of `Turn`, beside ``format``, ``version`` and ``blobs``. Values
are written as dead letters write them (`stageflow.dlq.codec`): a type without a form in JSON has a
tag, and nothing is a pickle. Long bytes, such as sound, stand once under ``blobs``: compressed, in
base64, named by the SHA-256 of what they are, which also tells whether they are still that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stageflow.testing.recording.errors import InvalidRecordingError

FORMAT = "stageflow turn"
VERSION = 1

#: Of bytes that are longer in base64 than this there is one copy.
_BLOB_CHARS = 200


@dataclass
class RecordedCall:
    """One call of a provider.

    Attributes:
        provider: The name under which it was registered.
        method: The method that was called.
        began_ms: When, in milliseconds since the run's start.
        arguments: What it was called with, by position.
        options: What it was called with, by name.
        streamed: Whether the answer came in pieces.
        pieces: The answer: for each piece the milliseconds for which it was waited, and the piece;
            an answer that is awaited is one piece.
        ending: How it ended: answered, failed, cancelled, or left by a reader that wanted no more.
        ending_ms: For how many milliseconds that was waited, after the last piece.
        error: Why it failed.
    """

    provider: str
    method: str
    began_ms: float
    arguments: list[Any]
    options: dict[str, Any]
    streamed: bool = False
    pieces: list[list[Any]] = field(default_factory=list)
    ending: str = "left"
    ending_ms: float = 0.0
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Turn:
    """A recorded turn; all values are as JSON holds them.

    Attributes:
        pipeline: Name of the pipeline.
        providers: Names of the providers that were registered.
        inputs: The inputs of the run.
        seed: The seed of its context, or None.
        deadline_s: Its limit in seconds, or None.
        status: How it ended.
        error: Code, stage and text of its failure; None if it did not fail.
        outputs: What its stages wrote; without what a file cannot hold.
        unkept: The keys of the outputs that are missing for that.
        calls: All calls of providers, in the order in which they began.
        events: What happened, in order.
    """

    pipeline: str
    providers: list[str]
    inputs: dict[str, Any]
    seed: int | None
    deadline_s: float | None
    status: str
    error: dict[str, Any] | None
    outputs: dict[str, Any]
    unkept: list[str]
    calls: list[RecordedCall]
    events: list[dict[str, Any]]


def turn_text(turn: Turn, secrets: tuple[str, ...] = ()) -> str:
    """The turn as the text of a file; of `secrets` none is in it, wherever it stood."""
    blobs: dict[str, str] = {}

    def short(value: Any) -> Any:
        if isinstance(value, str):
            for secret in secrets:
                value = value.replace(secret, "[secret]")
        if isinstance(value, dict) and value.get("$") == "bytes" and len(value["v"]) > _BLOB_CHARS:
            content = base64.b64decode(value["v"])
            name = hashlib.sha256(content).hexdigest()
            blobs[name] = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
            return {"$": "blob", "v": name}
        return value

    content = _each(asdict(turn), short)
    whole = {"format": FORMAT, "version": VERSION, **content, "blobs": blobs}
    # No file in UTF-8 can hold half of a pair of surrogates as it is.
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def read_turn(path: Path) -> Turn:
    """The turn in a file.

    Raises:
        InvalidRecordingError: It cannot be read, is none, is damaged, or of another version.
    """
    where = str(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRecordingError(where, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        problem = f"it is damaged, or no recorded turn ({error}); record the turn anew"
        raise InvalidRecordingError(where, problem) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidRecordingError(
            where, "it holds no recorded turn; stageflow run … --record FILE makes one"
        )
    if found.get("version") != VERSION:
        raise InvalidRecordingError(
            where,
            f"it is of version {found.get('version')!r}, and this stageflow reads version"
            f" {VERSION}; replay it with the stageflow that recorded it, or record the turn anew",
        )
    try:
        return _turn(found)
    except (LookupError, TypeError, ValueError, AttributeError, zlib.error) as error:
        problem = f"it is damaged ({type(error).__name__}: {error}); record the turn anew"
        raise InvalidRecordingError(where, problem) from error


def _turn(found: dict[str, Any]) -> Turn:
    blobs: Mapping[str, str] = found["blobs"]

    def whole(value: Any) -> Any:
        if isinstance(value, dict) and value.get("$") == "blob":
            return {"$": "bytes", "v": _blob(blobs, value["v"])}
        return value

    content = _each({part.name: found[part.name] for part in fields(Turn)}, whole)
    for key, kind in _KINDS.items():
        if not isinstance(content[key], kind):
            raise TypeError(f"{key!r} is {type(content[key]).__name__}")
    content["calls"] = [_call(number, call) for number, call in enumerate(content["calls"], 1)]
    return Turn(**content)


_KINDS: Mapping[str, type] = {
    "pipeline": str,
    "providers": list,
    "inputs": dict,
    "status": str,
    "outputs": dict,
    "unkept": list,
    "calls": list,
    "events": list,
}


def _call(number: int, found: dict[str, Any]) -> RecordedCall:
    call = RecordedCall(**found)
    waits = [call.ending_ms, *(wait_ms for wait_ms, _ in call.pieces)]
    if not all(isinstance(wait_ms, int | float) and wait_ms >= 0 for wait_ms in waits):
        raise ValueError(f"call {number} waits for no number of milliseconds")
    if call.ending not in ("answered", "failed", "cancelled", "left"):
        raise ValueError(f"call {number} ends as {call.ending!r}")
    if call.ending == "answered" and not call.streamed and len(call.pieces) != 1:
        raise ValueError(f"call {number} has {len(call.pieces)} answers")
    if (call.ending == "failed") != (call.error is not None):
        raise ValueError(f"call {number} fails without an error, or does not with one")
    return call


def _blob(blobs: Mapping[str, str], name: str) -> str:
    content = zlib.decompress(base64.b64decode(blobs[name], validate=True))
    if hashlib.sha256(content).hexdigest() != name:
        raise ValueError(f"the bytes {name[:12]}… are not those that were recorded")
    return base64.b64encode(content).decode("ascii")


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A tree of JSON in which each value has been changed, from the outside inwards."""
    value = change(value)
    if isinstance(value, dict):
        return {key: _each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change) for item in value]
    return value


def unstorable_in(value: Any) -> str | None:
    """The type of the first value within `value` that could not be stored; None if all were."""
    if isinstance(value, list):
        return next(filter(None, map(unstorable_in, value)), None)
    if isinstance(value, dict):
        if value.get("$") == "unstorable":
            return str(value["v"][0])
        return next(filter(None, map(unstorable_in, value.values())), None)
    return None

"""A recorded turn as JSON: its inputs, each call of a provider, and its result.

Version 1 has the keys of `Turn`, ``format``, ``version`` and ``blobs``: long bytes, compressed and
named by their SHA-256, which is checked. Values have the form of dead letters.
"""

import base64
import builtins
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from stageflow._utils.files import decompressed
from stageflow.codec import TEXT, Codec, FieldTypes, check_fields
from stageflow.errors import LOGIC, SYSTEMIC, ErrorCategory, RecordedError, StageflowError
from stageflow.resilience.classification import classify

FORMAT = "stageflow turn"
VERSION = 1

#: Bytes that are longer in base64 than this are in `blobs`.
_BLOB_CHARS = 200
#: The blobs of a turn may have this many bytes: half an hour of speech.
_MOST_BYTES = 64 * 1024 * 1024


class RecordingError(StageflowError):
    """A turn could not be recorded or replayed."""

    code = "recording_error"
    category = ErrorCategory.LOGIC
    codes: ClassVar = {
        # A file that is not a recorded turn, a damaged one, or one of another version.
        "invalid_recording": LOGIC,
        # A file that cannot be written; its earlier content is still there.
        "recording_file": SYSTEMIC,
        "unrecordable_value": LOGIC,
    }


class RecordingMismatchError(RecordingError):
    """A pipeline does something else than the recorded turn; the text says what."""

    code = "recording_mismatch"


def invalid_recording(where: str, problem: str) -> RecordingError:
    """Return the error of a file that does not hold a recorded turn of this version."""
    return RecordingError(f"{where}: {problem}", code="invalid_recording")


@dataclass
class RecordedCall:
    """One call of a provider. Times are in milliseconds."""

    provider: str
    method: str
    began_ms: float  # since the run's start
    arguments: list[Any]
    options: dict[str, Any]
    streamed: bool = False
    #: The wait for each piece, and the piece; an answer that is awaited is one piece.
    pieces: list[list[Any]] = field(default_factory=list)
    ending: str = "left"  # by a reader that stopped; or answered, failed, cancelled
    ending_ms: float = 0.0  # the wait after the last piece
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Turn:
    """A recorded turn; all values are as JSON holds them."""

    pipeline: str
    providers: list[str]
    inputs: dict[str, Any]
    seed: int | None
    deadline_s: float | None
    status: str
    error: dict[str, Any] | None  # code, stage and text of a failure
    outputs: dict[str, Any]
    unkept: list[str]  # the keys of outputs that a file cannot hold
    calls: list[RecordedCall]  # in the order in which they began
    events: list[dict[str, Any]]


def turn_text(turn: Turn, secrets: tuple[str, ...] = ()) -> str:
    """Return the turn as the text of a file that holds none of `secrets`."""
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
    """Read a turn; raise a `RecordingError` if the file does not hold one of this version."""
    where = str(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise invalid_recording(where, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        problem = f"it is damaged, or no recorded turn ({error}); record the turn anew"
        raise invalid_recording(where, problem) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        problem = "it holds no recorded turn; stageflow run … --record FILE makes one"
        raise invalid_recording(where, problem)
    if found.get("version") != VERSION:
        problem = f"it is of version {found.get('version')!r}, and this stageflow reads version"
        problem += f" {VERSION}; replay it with the stageflow that recorded it, or record the turn"
        raise invalid_recording(where, f"{problem} anew")
    try:
        return _turn(found)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"it is damaged ({type(error).__name__}: {error}); record the turn anew"
        raise invalid_recording(where, problem) from error


def _turn(found: dict[str, Any]) -> Turn:
    blobs: Mapping[str, str] = found["blobs"]
    left = _MOST_BYTES

    def whole(value: Any) -> Any:
        nonlocal left
        if isinstance(value, dict) and value.get("$") == "blob":
            content = _blob(blobs, value["v"], left)
            left -= len(content)  # a small file may name one blob many times
            return {"$": "bytes", "v": base64.b64encode(content).decode("ascii")}
        return value

    content = _each({part.name: found[part.name] for part in fields(Turn)}, whole)
    check_fields("", content, _TURN)
    content["calls"] = [_call(number, call) for number, call in enumerate(content["calls"], 1)]
    return Turn(**content)


_TURN: FieldTypes = {
    "pipeline": TEXT,
    "status": TEXT,
    "inputs": (dict,),
    "outputs": (dict,),
    **dict.fromkeys(("providers", "unkept", "calls", "events"), (list,)),
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


def _blob(blobs: Mapping[str, str], name: str, limit_bytes: int) -> bytes:
    content = decompressed(base64.b64decode(blobs[name], validate=True), limit_bytes)
    if hashlib.sha256(content).hexdigest() != name:
        raise ValueError(f"the bytes {name[:12]}… are not those that were recorded")
    return content


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change each value of a tree of JSON, from the outside inwards."""
    value = change(value)
    if isinstance(value, dict):
        return {key: _each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change) for item in value]
    return value


def plain_error(error: Exception, codec: Codec) -> dict[str, Any]:
    """Return what a provider raised as JSON can hold it: what `classify` makes of it.

    A built-in exception is kept as it is, too.
    """
    known = classify(error)
    told: dict[str, Any] = {name: getattr(known, name) for name in (*_OWN, "message")}
    told["category"] = str(known.category)
    arguments = codec.to_plain(list(error.args))
    if type(error).__module__ == "builtins" and not codec.lost("", {"args": arguments}):
        told["builtin"] = [type(error).__name__, arguments]
    return told


def error_again(told: dict[str, Any], codec: Codec) -> Exception:
    """Return an exception like the one that was recorded."""
    if "builtin" in told:
        name, arguments = told["builtin"]
        cls = getattr(builtins, name)
        if issubclass(cls, Exception):
            made: Exception = cls(*codec.from_plain(arguments))
            return made
    own = (c for c in _classes(StageflowError) if told["code"] in {c.code, *c.codes})
    cls = next(own, RecordedError)
    # The arguments of its own constructor are not known.
    error = cls.__new__(cls, told["message"])
    StageflowError.__init__(error, told["message"])
    error.category = ErrorCategory(told["category"])
    for name in _OWN:
        setattr(error, name, told[name])
    return error


_OWN = ("code", "user_message", "retryable", "retry_after_s")


def _classes(cls: type[StageflowError]) -> Iterator[type[StageflowError]]:
    yield cls
    for known in cls.__subclasses__():
        yield from _classes(known)

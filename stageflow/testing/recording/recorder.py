"""Record a turn: its inputs, each call of a provider with its answer, and its result, as JSON.

Version 1 has the keys of `Turn`, ``format``, ``version`` and ``blobs``: long bytes, compressed and
named by their SHA-256, which is checked. Values have the form of dead letters.
"""

import asyncio
import base64
import builtins
import hashlib
import json
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from stageflow._utils.closing import Closing, closing_stream
from stageflow._utils.files import atomic_write, decompressed
from stageflow.codec import DEFAULT_CODEC, TEXT, Codec, FieldTypes, check_fields
from stageflow.engine import PipelineContext, RunResult, Stream
from stageflow.errors import LOGIC, SYSTEMIC, ErrorCategory, RecordedError, StageflowError
from stageflow.providers.registry import ProviderRegistry, adapted
from stageflow.resilience.classification import classify
from stageflow.testing.faults.kinds import Fault
from stageflow.testing.wrapped import Call, WrappedProvider

FORMAT = "stageflow turn"
VERSION = 1
#: Bytes that are longer in base64 than this are in `blobs`.
_BLOB_CHARS = 200
#: The blobs of a turn may have this many bytes: half an hour of speech.
_MOST_BYTES = 64 * 1024 * 1024


class RecordingError(StageflowError, code="recording_error", traits=LOGIC):
    """A turn could not be recorded or replayed."""

    codes: ClassVar = {
        # A file that is not a recorded turn, a damaged one, or one of another version.
        "invalid_recording": LOGIC,
        # A file that cannot be written; its earlier content is still there.
        "recording_file": SYSTEMIC,
        "unrecordable_value": LOGIC,
    }


class RecordingMismatchError(RecordingError, code="recording_mismatch"):
    """A pipeline does not behave as recorded; the text names the difference."""


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
        problem = f"it is damaged, or no recorded turn ({error}); record the turn again"
        raise invalid_recording(where, problem) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        problem = "it holds no recorded turn; stageflow run … --record FILE makes one"
        raise invalid_recording(where, problem)
    if found.get("version") != VERSION:
        problem = (
            f"it is of version {found.get('version')!r}, and this stageflow reads version"
            f" {VERSION}; replay it with the stageflow that recorded it, or record the turn again"
        )
        raise invalid_recording(where, problem)
    try:
        return _turn(found)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"it is damaged ({type(error).__name__}: {error}); record the turn again"
        raise invalid_recording(where, problem) from error


def _turn(found: dict[str, Any]) -> Turn:
    blobs: Mapping[str, str] = found["blobs"]
    left = _MOST_BYTES

    def whole(value: Any) -> Any:
        nonlocal left
        if isinstance(value, dict) and value.get("$") == "blob":
            name = value["v"]
            content = decompressed(base64.b64decode(blobs[name], validate=True), left)
            if hashlib.sha256(content).hexdigest() != name:
                raise ValueError(f"the bytes {name[:12]}… are not those that were recorded")
            left -= len(content)  # a small file may name one blob many times
            return {"$": "bytes", "v": base64.b64encode(content).decode("ascii")}
        return value

    content = _each({part.name: found[part.name] for part in fields(Turn)}, whole)
    check_fields("", content, _TURN)
    content["calls"] = [_call(number, call) for number, call in enumerate(content["calls"], 1)]
    return Turn(**content)


_TURN: FieldTypes = {
    **dict.fromkeys(("pipeline", "status"), TEXT),
    **dict.fromkeys(("inputs", "outputs"), (dict,)),
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


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change each value of a tree of JSON, from the outside inwards."""
    value = change(value)
    if isinstance(value, dict):
        return {key: _each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change) for item in value]
    return value


def plain_error(error: Exception, codec: Codec) -> dict[str, Any]:
    """Return what a provider raised as JSON can hold it: as `classify` and Python know it."""
    known = classify(error)
    told: dict[str, Any] = {name: getattr(known, name) for name in (*_OWN, "message")}
    told["category"] = str(known.category)
    arguments = codec.to_plain(list(error.args))
    if type(error).__module__ == "builtins" and not codec.lost("", {"args": arguments}):
        told["builtin"] = [type(error).__name__, arguments]
    return told


def error_again(told: dict[str, Any], codec: Codec) -> Exception:
    """Return an exception like the one that was recorded."""
    name, arguments = told.get("builtin", ("object", ()))
    if issubclass(made := getattr(builtins, name), Exception):
        return cast("Exception", made(*codec.from_plain(arguments)))
    own = (c for c in _classes(StageflowError) if told["code"] in {c.code, *c.codes})
    cls = next(own, RecordedError)
    # The arguments of its own constructor are not known.
    error = cls.__new__(cls, told["message"])
    StageflowError.__init__(error, told["message"])
    vars(error).update(
        {name: told[name] for name in _OWN}, category=ErrorCategory(told["category"])
    )
    return error


_OWN = ("code", "user_message", "retryable", "retry_after_s")


def _classes(cls: type[StageflowError]) -> Iterator[type[StageflowError]]:
    yield cls
    for known in cls.__subclasses__():
        yield from _classes(known)


#: Milliseconds are kept to the microsecond.
_DIGITS, _LEAST_MS = 3, 0.001


class Recorder(Closing):
    """Records the calls of all providers of a registry within a ``with`` block.

    Only calls from the block are recorded. Enter it inside of the blocks of faults, so that it
    records what stages do. Example::

        with Recorder(ctx.providers) as recorder:
            result = await pipeline.run(ctx)
        recorder.save("turn.json", ctx, result)

    Args:
        providers: Their registry.
        codec: Knows the types that the turn holds.
        secrets: Strings that no file may hold, such as keys.
    """

    def __init__(
        self,
        providers: ProviderRegistry,
        *,
        codec: Codec = DEFAULT_CODEC,
        secrets: Iterable[str] = (),
    ) -> None:
        self._providers, self._codec, self._secrets = tuple(providers), codec, tuple(secrets)
        #: Each call, and when it began, in seconds of the loop's clock.
        self._calls: list[tuple[RecordedCall, float]] = []
        self._block = ExitStack()

    def __enter__(self) -> Self:
        for name in {*self._providers, "tools"}:
            self._block.enter_context(adapted(name, partial(WrappedProvider, name, watcher=self)))
        return self

    def begin(self, method: str) -> Fault:
        """Return what records a call; for the providers."""
        return _Recording(self)

    def missed(self) -> None:
        """Do nothing: a plain call is not recorded."""

    def close(self) -> None:
        """Stop recording."""
        self._block.close()

    def _turn(self, context: PipelineContext, result: RunResult) -> Turn:
        # A stream of which items are gone cannot be kept.
        left = {k: v for k, v in result.bag.items() if not isinstance(v, Stream) or v.whole}
        codec, plain = self._codec, self._codec.plain_items
        outputs = plain(left)
        unkept = [key for key in outputs if codec.lost("", {key: outputs[key]})]
        for call, at in self._calls:
            call.began_ms = round((at - result.log.started_at) * 1000.0, _DIGITS)
        turn = Turn(
            pipeline=result.pipeline,
            providers=list(self._providers),
            inputs=plain(context.inputs),
            seed=context.seed,
            deadline_s=context.deadline_s,
            status=str(result.status),
            error=failure_of(result),
            outputs={key: value for key, value in outputs.items() if key not in unkept},
            unkept=unkept,
            calls=[call for call, _ in self._calls],
            events=[{**e.to_dict(), "data": plain(e.data)} for e in result.events],
        )
        lost = codec.lost("inputs", turn.inputs)
        for number, call in enumerate(turn.calls, 1):
            where = f"call {number}, {call.provider}.{call.method}: "
            asked = {"arguments": call.arguments, "options": list(call.options.values())}
            lost |= codec.lost(f"{where}asked", asked)
            lost |= codec.lost(f"{where}answered", {"pieces": call.pieces})
        for path, value in lost.items():
            raise RecordingError(
                f"the turn cannot be recorded: {path} is of type {value.shown}; use plain values,"
                " or give the recorder a codec that knows the type: Codec([StoredType(…)])",
                code="unrecordable_value",
            )
        return turn

    def save(self, path: str | Path, context: PipelineContext, result: RunResult) -> None:
        """Write the recorded run to a file, atomically.

        Raises:
            RecordingError: An input or a call holds a value that the codec does not know, or the
                file cannot be written.
        """
        text = turn_text(self._turn(context, result), self._secrets)
        try:
            with atomic_write(Path(path)) as file:
                file.write(f"{text}\n")
        except OSError as error:
            text = f"{path}: it cannot be written ({error.strerror})"
            raise RecordingError(text, code="recording_file") from error


def failure_of(result: RunResult) -> dict[str, Any] | None:
    """Return why a run failed, as JSON can hold it; None if it did not."""
    if result.failure is None:
        return None
    return {name: getattr(result.failure, name) for name in ("code", "stage", "message")}


class _Recording(Fault):
    """Records a call; a call that is not asynchronous is not recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def answer(self, call: Call) -> Any:
        with self._recorded(call, streamed=False):
            answer = await super().answer(call)
            self._gets(answer)
        return answer

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        with self._recorded(call, streamed=True):
            async with closing_stream(super().stream(call)) as pieces:
                async for piece in pieces:
                    self._gets(piece)
                    yield piece
                    self._wait()

    @contextmanager
    def _recorded(self, call: Call, *, streamed: bool) -> Iterator[None]:
        codec, self._loop = self._recorder._codec, asyncio.get_running_loop()
        # Encoded now: the caller may change a list afterwards.
        arguments, options = codec.to_plain(list(call.arguments)), codec.plain_items(call.options)
        recorded = RecordedCall(call.provider, call.method, 0.0, arguments, options, streamed)
        self._call = recorded
        self._recorder._calls.append((recorded, self._loop.time()))
        self._wait()
        try:
            yield
            recorded.ending = "answered"
        except asyncio.CancelledError:
            recorded.ending = "cancelled"
            raise
        except Exception as error:
            recorded.ending = "failed"
            recorded.error = plain_error(error, codec)
            raise
        finally:
            recorded.ending_ms = self._waited_ms()

    def _wait(self) -> None:
        # Once the loop has had control, the provider has suspended: other tasks could run.
        self._since, self._suspended = self._loop.time(), asyncio.Event()
        self._watch = self._loop.call_soon(self._suspended.set)

    def _gets(self, piece: Any) -> None:
        self._call.pieces.append([self._waited_ms(), self._recorder._codec.to_plain(piece)])

    def _waited_ms(self) -> float:
        """Return the wait in milliseconds; 0 if the provider has not suspended."""
        if not self._suspended.is_set():
            self._watch.cancel()
            return 0.0
        self._suspended.clear()
        return round((self._loop.time() - self._since) * 1000.0, _DIGITS) or _LEAST_MS

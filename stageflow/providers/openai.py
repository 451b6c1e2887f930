"""Models and speech of any service with OpenAI's protocol (needs the extra ``openai``).

A call is made once: the retry interceptor repeats it. A call that is cancelled, or a stream that
is left, closes its connection, so that the service stops working.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from stageflow import errors as err
from stageflow._utils.closing import AsyncClosing, closing_stream
from stageflow.errors.data import require_durations
from stageflow.providers import ports
from stageflow.providers.audio import pcm_rate_hz, wav_audio, wav_bytes
from stageflow.providers.extras import missing_extra
from stageflow.resilience.classification import classify

try:
    import openai
except ModuleNotFoundError as error:
    raise missing_extra("openai", "openai", "a service of OpenAI's kind") from error

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
PCM_RATE_HZ = 24_000
"""Samples a second of ``pcm``, as OpenAI defines it."""

T = TypeVar("T")
_Tools: TypeAlias = Sequence[Mapping[str, Any]]

_SHOWN_CHARS = 300
#: What services call the end of an answer; any other `finish_reason` says why it was cut.
_WHOLE = {
    "",
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "stop_sequence",
    "tool_calls",
    "function_call",
}
_CUT = {"max_tokens": "length", "model_length": "length", "safety": "content_filter"}
_FIXES = {
    "connection_failed": "; see that it is up and the URL is right",
    "credentials_rejected": f"; see the key in {KEY_VARIABLE}",
    "request_too_long": "; send less",
    "request_rejected": "; see that it has this model, and what it says of the request",
}
_TURNS_TO_SETTLE = 16


class OpenAIService(AsyncClosing):
    """A connection to a service, shared by the providers made from it.

    The first call opens it. Each event loop has its own connections.

    Args:
        base_url: URL with the version, such as ``http://127.0.0.1:8080/v1``.
        api_key: The key; None takes it from the environment variable ``OPENAI_API_KEY``. A service
            on this machine needs none.
        timeout_s: Limit for connecting, for an answer, and between two pieces of a stream, in
            seconds. Signs of life do not count.
        trust_env: Whether to use the proxies of the environment, except for this machine.
        keep_alive: Whether a connection serves several calls. If not, no call fails because the
            service just closed an idle connection.

    Raises:
        InvalidConfigError: An argument cannot be used, or there is no key.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        trust_env: bool = True,
        keep_alive: bool = True,
    ) -> None:
        require_durations("OpenAIService", timeout_s=timeout_s)
        self.base_url, on_this_machine = _checked_url(base_url)
        self._key = _checked_key(api_key, needed=not on_this_machine)
        # Timed here, as signs of life, which are not an answer, reset the limit of the client.
        self._timeout_s = timeout_s
        self._trust_env = trust_env and not on_this_machine
        self._keep_alive = keep_alive
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI]
        self._clients = WeakKeyDictionary()
        self._unused: openai.AsyncOpenAI | None = self._new_client()

    def llm(self, model: str, *, context_tokens: int | None = None, **options: Any) -> OpenAILLM:
        """Return a language model; `options` are sent with each request, such as ``temperature``.

        The model takes `context_tokens`, its answer included; the protocol cannot ask for them.
        """
        return OpenAILLM(self, model, options, context_tokens)

    def stt(self, model: str, **options: Any) -> OpenAISTT:
        """Return speech to text; `options` are sent with each request, such as ``language``."""
        return OpenAISTT(self, model, options)

    def tts(self, model: str, voice: str, **options: Any) -> OpenAITTS:
        """Return text to speech; `options` are sent with each request, such as ``speed``."""
        return OpenAITTS(self, model, options, voice)

    async def close(self) -> None:
        """Close all connections of this event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
        # The client leaves the nested generators of a stream to the loop, which closes each in a
        # task of its own, two iterations after the one around it.
        for _ in range(_TURNS_TO_SETTLE):
            await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"OpenAIService({self.base_url!r})"

    def _client(self) -> openai.AsyncOpenAI:
        """Return the client of the running loop, as connections cannot change their loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop], self._unused = self._unused or self._new_client(), None
        return self._clients[loop]

    def _new_client(self) -> openai.AsyncOpenAI:
        try:
            http_client = openai.DefaultAsyncHttpxClient(trust_env=self._trust_env)
        except (ImportError, ValueError) as error:
            fix = "set its variable (such as ALL_PROXY) to http://…, or give trust_env=False"
            if isinstance(error, ImportError):
                fix = f"pip install 'httpx[socks]', {fix}"
            found = "a proxy of the environment that cannot be used"
            raise _misfit("trust_env", found, fix) from error
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=self._timeout_s,
            http_client=http_client,
            default_headers=None if self._keep_alive else {"Connection": "close"},
        )

    def _failure(self, error: Exception, model: str) -> Exception:
        """Return an error that names the service, the model and the fix, and hides the key."""
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no part of an answer within {self._timeout_s:g} s")
        failure: Exception = error
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            text = f"{self.base_url} answered with something that is not a reply: "
            failure = err.InvalidReplyError(text + self._shown(str(error)))
            failure.__cause__ = error
        elif isinstance(error, openai.APIError | TimeoutError):
            failure = found = classify(error)
            where = f"{self.base_url}, model {model!r}{_FIXES.get(found.code, '')}"
            found.message = f"{self._shown(found.message)} ({where})"
            found.args = (found.message,)
        link: BaseException | None = error
        while link is not None and self._key:
            texts = (
                err.shown(link, str),
                err.shown(link),
                err.shown(link.args),
                err.shown(vars(link)),
            )
            if any(self._key in text for text in texts):
                failure.__cause__ = failure.__context__ = None
            link = link.__cause__ or link.__context__
        return failure

    def _masked(self, text: str) -> str:
        """Return a text without the key; join halves of characters, which may come in parts."""
        if re.search("[\ud800-\udbff][\udc00-\udfff]", text):
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return text.replace(self._key, "…") if self._key else text

    def _without_key(self, text: str) -> tuple[str, str]:
        """Return a part of a stream without the key, and its end if that may be half of it."""
        text, key = self._masked(text), self._key
        if "\ud800" <= text[-1:] <= "\udbff":  # the first half of a character
            return text[:-1], text[-1:]
        ends = range(min(len(key) - 1, len(text)), 0, -1)
        cut = len(text) - next((n for n in ends if text.endswith(key[:n])), 0)
        return text[:cut], text[cut:]

    def _shown(self, text: str) -> str:
        """Return the beginning of a text, without the key."""
        text = self._masked(text)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


@dataclass(frozen=True)
class _Model:
    _service: OpenAIService
    _model: str
    _options: Mapping[str, Any] = field(repr=False)

    @property
    def _named(self) -> dict[str, Any]:
        return {"model": self._model, "extra_body": self._options}

    async def _request(
        self, send: Callable[[openai.AsyncOpenAI], Awaitable[Any]], read: Callable[[Any], T]
    ) -> T:
        try:
            async with asyncio.timeout(self._service._timeout_s):
                reply = await send(self._service._client())
            return read(reply)
        except Exception as error:
            failure = self._service._failure(error, self._model)
        raise failure

    def _found(self, reply: Any, *path: str | int) -> Any:
        """Return the value at a path of a reply, which the client does not validate."""
        found = reply
        try:
            for step in path:
                found = found[step] if isinstance(step, int) else getattr(found, step)
        except (AttributeError, LookupError, TypeError):
            problem = (
                f"{self._service._shown(repr(reply))}, which has no {'.'.join(map(str, path))}"
            )
            raise err.InvalidReplyError(f"the service answered with {problem}") from None
        return found

    def _text(self, reply: Any, *path: str | int) -> str | None:
        """Return the text at a path of a reply, without the key, or None."""
        found = self._found(reply, *path)
        if found is not None and not isinstance(found, str):
            text = self._service._shown(repr(found))
            raise err.InvalidReplyError(f"the service sent {text} in place of text")
        return None if found is None else self._service._masked(found)


@dataclass(frozen=True)
class OpenAILLM(_Model):
    """A language model, by ``chat/completions``, which calls tools if its model does.

    An answer that was cut, calls tools, or has a ``usage`` is an `Answer`; in a stream, this is a
    last, empty piece. A stream has a usage if ``stream_options={"include_usage": True}`` is sent.
    """

    context_tokens: int | None = field(default=None, repr=False)

    async def complete(self, messages: Sequence[ports.Message], *, tools: _Tools = ()) -> str:
        """Return the whole answer.

        Raises:
            NoAnswerError: The model was cut before its first word; or, without `tools`, it refused
                or called one. With `tools`, these are answers.
            InvalidReplyError: The service answered with something else.
            StageflowError: The request failed; `classify` chooses the code.
        """

        def read(reply: Any) -> str:
            choice, message = (self._found(reply, "choices", 0, *n) for n in ((), ("message",)))
            reading, content = _Reading(self, bool(tools)), self._text(message, "content")
            refusal, reading.usage = reading.take(message, choice), _usage(reply)
            if not content or not content.strip():
                reading.require_answer()
                content = refusal or content or ""
            return ports.valid_answer(reading.answer(content))

        return await self._request(lambda client: self._create(client, messages, tools), read)

    async def stream(
        self, messages: Sequence[ports.Message], *, tools: _Tools = ()
    ) -> AsyncIterator[str]:
        """Yield the answer in pieces; raise as `complete`."""
        try:
            async with closing_stream(self._pieces(messages, tools)) as pieces:
                while True:
                    async with asyncio.timeout(self._service._timeout_s):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield piece
        except Exception as error:
            failure = self._service._failure(error, self._model)
        raise failure

    def _create(
        self,
        client: openai.AsyncOpenAI,
        messages: Sequence[ports.Message],
        tools: _Tools,
        **named: Any,
    ) -> Awaitable[Any]:
        params: Any = [{**one.to_dict(), "content": _sendable(one.content)} for one in messages]
        if tools:
            named["tools"] = tools
        return client.chat.completions.create(messages=params, **self._named, **named)

    async def _pieces(self, messages: Sequence[ports.Message], tools: _Tools) -> AsyncIterator[str]:
        reading, kept, has_text = _Reading(self, bool(tools)), "", False
        chunks = await self._create(self._service._client(), messages, tools, stream=True)
        async with chunks:
            async for chunk in chunks:
                reading.usage = _usage(chunk) or reading.usage
                if not self._found(chunk, "choices"):
                    continue  # a count of tokens, or a sign of life
                choice = self._found(chunk, "choices", 0)
                delta = self._found(choice, "delta")
                is_last = self._found(choice, "finish_reason") is not None
                refusal = reading.take(delta, choice)
                piece = "" if delta is None and is_last else self._text(delta, "content") or ""
                if is_last and not has_text and not piece.strip():
                    reading.require_answer()
                piece = piece or (refusal if tools else "")
                piece, kept = self._service._without_key(kept + piece)
                has_text = has_text or bool(piece.strip())
                if piece:
                    yield piece
        if kept:
            yield kept
        if not reading.reason:
            where = f"the stream of {self._service.base_url}"
            raise err.InvalidReplyError(f"{where} ended before the answer did")
        last = reading.answer("")
        if isinstance(last, ports.Answer):
            yield last


class _Reading:
    def __init__(self, model: _Model, tools: bool) -> None:
        self._service, self._tools = model._service, tools
        self._calls: list[list[Any]] = []  # id, name and arguments
        self._open: dict[str, list[Any]] = {}  # by index
        self.reason = ""
        self.refusal = ""
        self.usage: ports.Usage | None = None

    def take(self, message: Any, choice: Any) -> str:
        """Take a message, or the next part of one, and return the text of its refusal."""
        reason = getattr(choice, "finish_reason", None)
        if isinstance(reason, str):
            self.reason = self._service._shown(_CUT.get(reason.lower(), reason)) or self.reason
        refusal = self._service._masked(str(getattr(message, "refusal", None) or ""))
        self.refusal += refusal
        calls = getattr(message, "tool_calls", None) or getattr(message, "function_call", None)
        for part in calls if isinstance(calls, list) else filter(None, [calls]):
            function = getattr(part, "function", part)  # the older form has no level between
            arguments = getattr(function, "arguments", None) or ""
            if not isinstance(arguments, str):  # some services send the object
                arguments = json.dumps(arguments, default=str)
            # Parts of one call have its index, and none has two ids. Some services leave the index
            # out, or send 0 for each call; what then has neither id nor name belongs to the last.
            index, given = repr(getattr(part, "index", None)), getattr(part, "id", None) or ""
            name = getattr(function, "name", None) or ""
            call = self._open.get(index)
            if call is None or (given and call[0] not in ("", given)) or (index == "None" and name):
                self._calls.append(call := [given, name, ""])
                self._open[index] = call
            call[0], call[1] = given or call[0], name or call[1]
            call[2] += arguments
        return refusal

    @property
    def cut(self) -> bool:
        """Whether the service ended the answer before the model did."""
        return self.reason.lower() not in _WHOLE

    def require_answer(self) -> None:
        """Raise `NoAnswerError` for a message without text whose fields say why."""
        if self._tools and (self._calls or self.refusal):
            return
        if self.refusal:
            raise err.NoAnswerError(f"it refused: {self._service._shown(self.refusal)}", "refusal")
        reason = "tool_calls" if self._calls else self.reason
        if self.cut or reason in ("tool_calls", "function_call"):
            raise err.NoAnswerError(f"it ended with {reason!r} before its first word", reason)

    def answer(self, text: str) -> str:
        calls: list[ports.ToolCall] = []
        for n, call in enumerate(self._calls if self._tools else ()):
            if not all(isinstance(part, str) for part in call) or not call[1]:
                found = self._service._shown(repr(call))
                raise err.InvalidReplyError(f"the service called a tool without a name: {found}")
            # Ids distinguish results, and some services leave them out or repeat them.
            name, ids = call[0], {"", *(one.id for one in calls)}
            while name in ids:
                name, n = f"call_{n}", n + 1  # noqa: PLW2901 - the next number is free
            calls.append(ports.ToolCall(*map(self._service._masked, (name, *call[1:]))))
        reason = "tool_calls" if calls else "refusal" if self.refusal else "stop"
        reason = self.reason if self.cut else reason
        if reason == "stop" and self.usage is None:
            return text
        return ports.Answer(text, reason, tool_calls=tuple(calls), usage=self.usage)


def _usage(reply: Any) -> ports.Usage | None:
    found = getattr(reply, "usage", None)
    counts = [getattr(found, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return ports.Usage(*counts) if all(type(one) is int and one >= 0 for one in counts) else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class OpenAISTT(_Model):
    """Speech to text, by ``audio/transcriptions``."""

    async def transcribe(self, audio: ports.Audio) -> str:
        """Return what is said in `audio`; raise as `OpenAILLM.complete`."""
        sent: Any = {"file": ("speech.wav", wav_bytes(audio), "audio/wav"), **self._named}
        return await self._request(
            lambda client: client.audio.transcriptions.create(response_format="json", **sent),
            lambda reply: ports.valid_transcript(self._text(reply, "text")).strip(),
        )


@dataclass(frozen=True)
class OpenAITTS(_Model):
    """Text to speech, by ``audio/speech``: the service may send PCM or a WAV file."""

    _voice: str

    async def synthesize(self, text: str) -> ports.Audio:
        """Return `text` as sound; raise as `OpenAILLM.complete`."""
        sent: Any = {"voice": self._voice, "input": _sendable(text), **self._named}
        return await self._request(
            lambda client: client.audio.speech.create(response_format="pcm", **sent), self._sound
        )

    def _sound(self, reply: Any) -> ports.Audio:
        content, show = reply.content, self._service._shown
        content_type = reply.response.headers.get("content-type", "")
        if content[:4] in (b"RIFF", b"RF64"):
            try:
                return wav_audio(content, "the sound of the service")
            except err.InvalidAudioError as error:
                raise err.InvalidReplyError(str(error)) from error
        rate_hz = pcm_rate_hz(content, content_type, PCM_RATE_HZ)
        if rate_hz is None:
            raise err.InvalidReplyError(
                f"text to speech answered with {show(content_type) or 'no content type'} in place"
                f" of PCM of one channel: {show(repr(content[:_SHOWN_CHARS]))}"
            )
        return ports.valid_sound(ports.Audio(content, rate_hz))


def _sendable(text: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 cannot hold, by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _checked_url(url: str) -> tuple[str, bool]:
    """Return a URL, and whether its host is this machine."""
    parts = host = None
    with suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    if parts is not None and parts.username is not None:
        raise _misfit("base_url", "one with a user or password in it", "give the key as api_key")
    if not host:
        fix = "give http:// or https://, host and version, such as http://127.0.0.1:8080/v1"
        raise _misfit("base_url", url, fix)
    return url.rstrip("/"), bool(re.fullmatch(r"localhost|::1?|0\.0\.0\.0|127(\.\d{1,3}){3}", host))


def _checked_key(given: str | None, *, needed: bool) -> str:
    key = os.environ.get(KEY_VARIABLE, "") if given is None else given
    if not key and needed:
        raise _misfit("api_key", key, f"set the environment variable {KEY_VARIABLE} to the key")
    if key and not re.fullmatch(r"[!-~]+", key):
        found = "a text with a space, a line break or another character that no key has"
        raise _misfit("api_key", found, f"correct the environment variable {KEY_VARIABLE}")
    return key


def _misfit(field: str, found: object, fix: str) -> err.InvalidConfigError:
    return err.InvalidConfigError("OpenAIService", field, found, fix)

"""The usage of calls of providers: tokens, characters and seconds of sound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from stageflow._utils.closing import closing_stream
from stageflow.providers.fallback import _Wrapper
from stageflow.providers.ports import Answer, estimated_tokens

#: What is counted, by the name of the provider.
UNITS: Mapping[str, tuple[str, ...]] = {
    "llm": ("prompt_tokens", "completion_tokens"),
    "stt": ("audio_s",),
    "tts": ("characters", "audio_s"),
}


class Metered(_Wrapper):
    """A provider whose calls tell `report` what they have used: an amount by unit.

    Tokens that the service does not report are estimated, and so marked: ``estimated``. `check` is
    called before each call, and may raise.
    """

    def __init__(
        self,
        provider: Any,
        report: Callable[[Mapping[str, Any]], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(provider)
        self._report, self._check = report, check

    async def _call(self, method: str, /, *args: Any, **named: Any) -> Any:
        self._check()
        reply = await getattr(self._provider, method)(*args, **named)
        if method == "complete":
            self._report(self._tokens(args, reply, reply))
        elif method == "transcribe":
            self._report({"audio_s": args[0].duration_s})
        elif method == "synthesize":
            self._report({"characters": len(args[0]), "audio_s": reply.duration_s})
        return reply

    async def _stream(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        self._check()
        text, piece = "", None
        try:
            async with closing_stream(getattr(self._provider, method)(*args, **named)) as pieces:
                async for piece in pieces:
                    text += piece
                    yield piece
        finally:  # what was read of a stream that is left was used, too
            if piece is not None:
                self._report(self._tokens(args, text, piece))

    def _tokens(self, args: Any, text: Any, last: Any) -> Mapping[str, Any]:
        if isinstance(last, Answer) and last.usage is not None:
            usage = last.usage
            return {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            }
        count = getattr(self._provider, "count_tokens", estimated_tokens)
        prompt = sum(count(message.content) for message in args[0])
        return {"prompt_tokens": prompt, "completion_tokens": count(text), "estimated": True}

"""The usage of calls of providers: tokens, characters and seconds of sound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from stageflow.providers.fallback import _Wrapper, items_of
from stageflow.providers.ports import Answer, estimated_tokens

#: What is counted, by the name of the provider.
UNITS: Mapping[str, tuple[str, ...]] = {
    "llm": ("prompt_tokens", "completion_tokens"),
    "stt": ("audio_s",),
    "tts": ("characters", "audio_s"),
}


class Metered(_Wrapper):
    """A provider whose calls pass their usage to `report`: an amount by unit.

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

    async def _items(self, method: str, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        self._check()
        said: list[Any] = []
        try:
            async with items_of(self._provider, method, args, named) as items:
                async for item in items:
                    said.append(item)
                    yield item
        finally:  # what was read of a stream that is left was used, too
            if said:
                self._report(self._used(method, args, said))

    def _used(self, method: str, args: Any, said: list[Any]) -> Mapping[str, Any]:
        last = said[-1]
        if method == "transcribe":
            return {"audio_s": args[0].duration_s}
        if method == "synthesize":
            return {"characters": len(args[0]), "audio_s": last.duration_s}
        if isinstance(last, Answer) and last.usage is not None:
            tokens = last.usage.prompt_tokens, last.usage.completion_tokens
            return dict(zip(UNITS["llm"], tokens, strict=True))
        count = getattr(self._provider, "count_tokens", estimated_tokens)
        prompt = sum(count(message.content) for message in args[0])
        tokens = prompt, count("".join(said))
        return {**dict(zip(UNITS["llm"], tokens, strict=True)), "estimated": True}

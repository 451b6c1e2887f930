"""Conversations cut to what a language model takes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from stageflow._utils.closing import closing_stream
from stageflow.errors import InvalidConfigError, NoAnswerError
from stageflow.kernels.speech import ShownText
from stageflow.providers.ports import Answer, Message, estimated_tokens, invalid_reply, valid_answer
from stageflow.resilience.classification import classify

#: Limit of the earlier messages if neither the user nor the model sets one: with a prompt and an
#: answer they fit into 8,192, which any current service takes.
DEFAULT_HISTORY_TOKENS = 4_000

#: The share of a model's window for prompt, history and newest message; the rest is the answer's.
PROMPT_SHARE = 0.75

#: Tokens that a model adds to each message.
MESSAGE_TOKENS = 5

_TOO_LONG = "request_too_long"


class Fitted:
    """A language model that receives as much of a conversation as it takes.

    It receives the whole system prompt and newest message, and the newest of the messages between,
    up to `history_tokens` (None leaves it to the model) and to what its ``context_tokens`` allow;
    an answer is never sent without its question. If it refuses them for their length, it receives
    half of them, then none. Its ``<think>…</think>`` is left out of the answer.
    """

    def __init__(self, model: Any, history_tokens: int | None = None) -> None:
        self._model = model
        self._history_tokens = history_tokens

    async def complete(self, messages: Sequence[Message], **options: Any) -> str:
        """Return the complete answer; raise what the model raises for the shortest form."""
        *longer, shortest = self._attempts(messages)
        for attempt in longer:
            try:
                return _shown(await self._model.complete(attempt, **options), options)
            except Exception as error:
                if classify(error).code != _TOO_LONG:
                    raise
        return _shown(await self._model.complete(shortest, **options), options)

    async def stream(
        self, messages: Sequence[Message], **options: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces; raise as `complete`."""
        attempts = self._attempts(messages)
        for attempt in attempts:
            begun, text, end, said = attempt is attempts[-1], ShownText(), None, False
            try:
                async with closing_stream(self._model.stream(attempt, **options)) as pieces:
                    async for piece in pieces:
                        begun = True
                        if shown := text.feed(piece):
                            said = said or bool(shown.strip())
                            yield shown
                        if isinstance(piece, Answer):
                            end = piece
                if rest := text.feed("", last=True):
                    yield rest
                if not said and not rest.strip():
                    _without_text("" if end is None else end, options)
                if end is not None:
                    yield end.with_text("")
                return
            except Exception as error:
                if begun or classify(error).code != _TOO_LONG:
                    raise

    def _attempts(self, messages: Sequence[Message]) -> list[Sequence[Message]]:
        """Return the forms of the conversation to try, the longest first."""
        start = 1 if messages and messages[0].role == "system" else 0
        last = len(messages) - 1
        # The calls of tools, and their results, belong to the newest message of the user.
        while last > start and messages[last].role != "user":
            last -= 1
        earlier = messages[start : max(0, last)]
        if not earlier:
            return [messages]
        prompt, newest = messages[:start], messages[last:]
        count = getattr(self._model, "count_tokens", estimated_tokens)
        window = getattr(self._model, "context_tokens", None)
        limit = self._history_tokens
        # A mock may have an attribute of any name.
        if isinstance(window, int):
            room = int(window * PROMPT_SHARE) - sum(_sizes(count, [*prompt, *newest]))
            limit = room if limit is None else min(limit, room)
        elif limit is None:
            limit = DEFAULT_HISTORY_TOKENS
        totals = itertools.accumulate(_sizes(count, reversed(earlier)))
        most = sum(1 for total in totals if total <= limit)
        # An answer is not sent without its question.
        starts = [n for n, message in enumerate(earlier) if message.role == "user"]
        whole = len(earlier)
        kept = (next((n for n in starts if n >= whole - m), whole) for m in (most, most // 2, 0))
        return [[*prompt, *earlier[n:], *newest] for n in dict.fromkeys(kept)]


def require_prompting(history_tokens: object, system_prompt: object) -> None:
    """Raise `InvalidConfigError` unless they are None or a number of tokens, and a text."""
    if history_tokens is not None and (type(history_tokens) is not int or history_tokens < 0):
        fix = "give a number, 0 or more"
        raise InvalidConfigError("llm", "history_tokens", history_tokens, fix)
    if not isinstance(system_prompt, str):
        raise InvalidConfigError("llm", "system_prompt", system_prompt, "give a string")


def _sizes(count: Callable[[str], int], messages: Iterable[Message]) -> Iterable[int]:
    return (count(message.content) + MESSAGE_TOKENS for message in messages)


def _shown(answer: object, options: Mapping[str, Any]) -> str:
    text = ShownText().feed(valid_answer(answer), last=True)
    shown = answer.with_text(text) if isinstance(answer, Answer) else text
    return shown if text.strip() else _without_text(shown, options)


def _without_text(end: str, options: Mapping[str, Any]) -> str:
    """Return an answer without text if it calls tools that were offered, else raise."""
    if isinstance(end, Answer) and (end.cut or end.tool_calls):
        if end.tool_calls and options.get("tools"):
            return end
        problem = f"it ended with {end.finish_reason!r} before its first word"
        raise NoAnswerError(problem, end.finish_reason)
    raise invalid_reply("the language model", str(end), "nothing that could be said")

"""Turn the text of a model into what is shown, and what is spoken of it."""

from __future__ import annotations

import functools
import html
import re

#: The tags around what a model thinks.
_THOUGHTS = ("think", "thinking", "thought", "reasoning")

_EMOJI = (
    "[0-9#*]\ufe0f?\u20e3|(?<![\\w:]):[a-z][a-z0-9_+-]+:(?!\\w)"
    "|[\u200d\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
#: What is replaced at the start of a line, and anywhere, before it is spoken.
_AT_START = {
    r"^\s*\|?(?:\s*:?-{3,}:?\s*\|)+[\s:|-]*$": "",  # the line below the head of a table
    r"^\s*(?:[=*_]{3,}|(?:[-*_][^\S\n]+){2,}[-*_])[^\S\n]*(?=\n|$)": "",  # rules
    r"^\s*\|\s*(.*?)\s*\|?[^\S\n]*$": r"\1",  # a row of a table
    r"^\s*\[[^\]^]+\]:\s*<?https?:.*": "",  # the address of a link
    r"^\s*\[\^[^\]]+\]:\s*": "",  # the mark of a footnote
    r"^\s*(?:(?:#{1,6}|>|[-*+•])\s+)+(?:\[[ xX]\]\s)?": "",  # headings, quotes, items, tasks
}
_ANYWHERE = {
    r"\\(?=[^\w\s]|$)": "",
    r"<!--.*?-->": "",
    r"(?<=\S)\s*\|\s*(?=\S)": ", ",  # between cells
    r"!?\[([^\]]*)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\])": r"\1",  # links and pictures
    r"\[\^?\d+\]|【[^】]*】": "",  # footnotes and sources
    r"<?(?:https?://(?:www\.)?|\bwww\.)([^\s/)>\]]+)[^\s)>\]]*>?": r"\1",
    r"<(?:mailto:)?([^\s<>@]+@[^\s<>]+)>": r"\1",
    r"</?[a-zA-Z][^>]*>": "",
    r"\*{2,}|`+|~~": "",  # bold, code, struck
    r"(?<![\w\s])\*|\*(?![\w\s])|(?<=\s)\*(?=\w)|(?<=\w)\*(?=\s)": "",  # not 2*3 or 2 * 3
    r"(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)": "",  # not snake_case
    _EMOJI: "",
}


@functools.cache
def _rules(at_start: bool) -> list[tuple[re.Pattern[str], str]]:
    rules = _AT_START | _ANYWHERE if at_start else _ANYWHERE
    return [(re.compile(form), by) for form, by in rules.items()]


#: Text to which no rule applies.
_PLAIN = re.compile(r"(?!\s*[-+]\s|.*www\.)(?:[^\W_]|[\s.,;?!'’()%$-]|:(?=\s))*")  # noqa: RUF001 - it is meant


class SpokenForm:
    """Turn an answer, sentence by sentence, into what can be spoken.

    Markup, addresses of links, emoji and code blocks are left out; the cells of a table are listed.
    """

    def __init__(self) -> None:
        self._in_code, self._at_start = False, True

    def of(self, text: str) -> str:
        """Return the spoken form of the next part of the answer, which may be blank."""
        spoken = ""
        for line in text.splitlines(keepends=True):
            if line.lstrip().startswith(("```", "~~~")):
                self._in_code = not self._in_code
            elif not self._in_code:
                said = line
                if not _PLAIN.fullmatch(line):
                    for form, by in _rules(self._at_start):
                        said = form.sub(by, said)
                    said = html.unescape(said)
                spoken += said
            self._at_start = line.endswith("\n")
        return spoken


class ShownText:
    """Leave a model's ``<think>…</think>`` out of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._rest, self._behind = "", False
        self._end = ""  # the tag that ends a thought

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what is shown of the next piece; of the `last` one, all that is left."""
        shown, self._rest = "", self._rest + piece
        if not self._end and not self._behind and "<" not in self._rest:
            shown, self._rest = self._rest, ""
            return shown
        while True:
            tags = (self._end,) if self._end else tuple(f"<{name}>" for name in _THOUGHTS)
            tag = min(tags, key=lambda one: self._rest.find(one) % (len(self._rest) + 1))
            before, found, after = self._rest.partition(tag)
            if not found:
                # The end may be the beginning of a tag.
                most = 0 if last else min(len(before), max(map(len, tags)) - 1)
                ends = (
                    n for n in range(most, 0, -1) if any(t.startswith(before[-n:]) for t in tags)
                )
                kept = next(ends, 0)
                before, after = before[: len(before) - kept], before[len(before) - kept :]
            if not self._end:
                before = before.lstrip() if self._behind else before
                self._behind = self._behind and not before
                shown += before
            self._rest = after
            if not found:
                return shown
            self._behind = bool(self._end)
            self._end = "" if self._end else f"</{tag[1:]}"

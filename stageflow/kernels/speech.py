"""Turn the text of a model into what is shown, and what is spoken of it."""

from __future__ import annotations

import functools
import re

_START, _END = "<think>", "</think>"

_EMOJI = (
    "[0-9#*]\ufe0f?\u20e3"
    "|[\u200d\u2600-\u27bf\u2b50\u2b55\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
#: What is replaced at the start of a line, and anywhere, before it is spoken.
_AT_START = {
    r"^\s*\|?(?:\s*:?-{3,}:?\s*\|)+[\s:|-]*$": "",  # the line below the head of a table
    r"^\s*\|\s*(.*?)\s*\|?[^\S\n]*$": r"\1",  # a row of a table
    r"^\s*(?:(?:#{1,6}|>|[-*+•])\s+)+(?:\[[ xX]\]\s)?": "",  # headings, quotes, items, tasks
}
_ANYWHERE = {
    r"(?<=\S)\s*\|\s*(?=\S)": ", ",  # between cells
    r"!?\[([^\]]*)\]\([^)]*\)": r"\1",  # links and pictures
    r"\[\^?\d+\]|【[^】]*】": "",  # footnotes and sources
    r"<?https?://(?:www\.)?([^\s/)>\]]+)[^\s)>\]]*>?": r"\1",
    r"</?[a-zA-Z][^>]*>": "",
    r"\*{2,}|`+|~~": "",  # bold, code, struck
    r"(?<![\w\s])\*|\*(?![\w\s])|(?<=\s)\*(?=\w)|(?<=\w)\*(?=\s)": "",  # not 2*3 or 2 * 3
    r"(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)": "",  # not snake_case
    r"\\(?=[^\w\s]|$)": "",
    _EMOJI: "",
}


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
                rules = _AT_START | _ANYWHERE if self._at_start else _ANYWHERE
                spoken += functools.reduce(
                    lambda t, form: re.sub(form, rules[form], t), rules, line
                )
            self._at_start = line.endswith("\n")
        return spoken


class ShownText:
    """Leave a model's ``<think>…</think>`` out of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._rest, self._thinking, self._behind = "", False, False

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what is shown of the next piece; of the `last` one, all that is left."""
        shown, self._rest = "", self._rest + piece
        while True:
            tag = _END if self._thinking else _START
            before, found, after = self._rest.partition(tag)
            if not found:
                # The end may be the beginning of the tag.
                sizes = range(0 if last else len(tag) - 1, 0, -1)
                kept = next((n for n in sizes if before.endswith(tag[:n])), 0)
                before, after = before[: len(before) - kept], before[len(before) - kept :]
            if not self._thinking:
                before = before.lstrip() if self._behind else before
                self._behind = self._behind and not before
                shown += before
            self._rest = after
            if not found:
                return shown
            self._behind = self._thinking
            self._thinking = not self._thinking

"""Turn the text of a model into what is shown, and what is spoken of it."""

from __future__ import annotations

import functools
import html
import re

_NAME = r"(?:[a-z]{1,9}:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)"
#: The tags around what a model thinks; in backticks, they are what it writes about.
_BEGIN = re.compile(rf"(?<!`)(?:<({_NAME})(?:\s[^<>]{{0,80}})?>|\[THINK\]|◁think▷)", re.IGNORECASE)
_WITHOUT = re.compile(r"[^<\[◁`]*")
_MAY_BEGIN = re.compile(
    r"(?:`?(?:<(?:[a-z:]{0,24}(?:\s[^<>]{0,80})?)?)?|\[T?H?I?N?K?|◁\w{0,5})\Z", re.IGNORECASE
)

_EMOJI = (
    "[0-9#*]\ufe0f?\u20e3|[^\\w\\s]\ufe0f|[\u2139\u24c2\u3297\u3299]\ufe0f"
    "|(?<![\\w:]):[a-z][a-z0-9_+-]+:(?!\\w)"
    "|[\u200d\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\ufe0e\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
#: What is replaced at the start of a line, and anywhere, before it is spoken.
_AT_START = {
    r"^\s*\|?(?:\s*:?-+:?\s*\|)+[\s:|-]*$": "",  # the line below the head of a table
    r"^\s*(?:[=*_-]{3,}|(?:[-*_][^\S\n]+){2,}[-*_])[^\S\n]*(?=\n|$)": "",  # rules
    r"^\s*\|(?:[^\S\n]|\|)*": "",  # before the first cell
    r"^\s*\[[^\]^]+\]:\s*<?https?:.*": "",  # the address of a link
    r"^\s*\[\^[^\]]+\]:\s*": "",  # the mark of a footnote
    r"^\s*(?:(?:#{1,6}|>|[-*+•])\s+)+(?:\[[ xX]\]\s)?": "",  # headings, quotes, items, tasks
}
_LINK = r"(?:\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\])"
_ANYWHERE = {
    r"\\(?=[^\w\s]|_|$)": "",
    r"<!--.*?-->": "",
    _EMOJI: "",
    r"(?:\s*\|)+[^\S\n]*$": "",  # behind the last cell
    r"(?<=\S)(?:\s*\|)+\s*(?=\S)": ", ",  # between cells
    rf"!\[([^\]]*)\]{_LINK}": r"\1",  # pictures, which may be links
    rf"\[([^\]]*)\]{_LINK}": r"\1",
    r"\]\((?:https?:|/|#)[^\s)]*\)": "",  # the end of a link that began in the part before
    r"!?\[(?=[^\]]*\s$)": "",  # and its beginning
    r"\[\^?\d+\]|【[^】]*】": "",  # footnotes and sources
    r"<?(?:(?i:https?|ftp)://(?:www\.)?|\bwww\.)([^\s/)>\]]+)"
    r"(?:\([^\s()]*\)|[^\s()>\]])*(?<![.,;:!?])>?": r"\1",
    r"<(?:mailto:)?([^\s<>@]+@[^\s<>]+)>": r"\1",
    r"<(?:[bh]r|/?(?:p|div|li|t[dhr]|h[1-6]))\b[^>]*>": " ",
    r"</?[a-zA-Z][^>]*>": "",
    r"\*{2,}|`+|~~": "",  # bold, code, struck
    r"(?<![\w\s])\*|\*(?![\w\s])|(?<=\s)\*(?=\w)|(?<=\w)\*(?=\s)": "",  # not 2*3 or 2 * 3
    r"(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)": "",  # not snake_case
}
#: The begin or end of a block of code, which may be in a quote or an item.
_FENCE = re.compile(r"[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?(`{3,}(?=[^`]*$)|~{3,})\s*(\S?)")


@functools.cache
def _rules(at_start: bool) -> list[tuple[re.Pattern[str], str]]:
    rules = _AT_START | _ANYWHERE if at_start else _ANYWHERE
    return [(re.compile(form), by) for form, by in rules.items()]


#: Text to which no rule applies.
_PLAIN = re.compile(r"(?!\s*[-+][\s-]|.*www\.)(?:[^\W_]|[\s.,;?!'’()%$-]|:(?=\s))*")  # noqa: RUF001 - it is meant


class SpokenForm:
    """Turn an answer, sentence by sentence, into what can be spoken.

    Markup, addresses of links, emoji and code blocks are left out; the cells of a table are listed.
    """

    def __init__(self) -> None:
        self._fence, self._at_start = "", True

    def of(self, text: str) -> str:
        """Return the spoken form of the next part of the answer, which may be blank."""
        spoken = ""
        for line in text.splitlines(keepends=True):
            fence = _FENCE.match(line)
            if fence and fence[1].startswith(self._fence) and not (self._fence and fence[2]):
                self._fence = "" if self._fence else fence[1]
            elif not self._fence:
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
        self._end: re.Pattern[str] | None = None  # of the thought that has begun

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what is shown of the next piece; of the `last` one, all that is left."""
        shown, self._rest = "", self._rest + piece
        if self._end is None and not self._behind and _WITHOUT.fullmatch(self._rest):
            shown, self._rest = self._rest, ""
            return shown
        while True:
            if self._end is not None:
                closed = self._end.search(self._rest)
                if closed is None:
                    # The end may be the beginning of a tag.
                    self._rest = self._rest[-40:]
                    return shown
                self._rest, self._end, self._behind = self._rest[closed.end() :], None, True
            begin = _BEGIN.search(self._rest)
            kept = begin or (None if last else _MAY_BEGIN.search(self._rest))
            said = self._rest if kept is None else self._rest[: kept.start()]
            said = said.lstrip() if self._behind else said
            self._behind = self._behind and not said
            shown += said
            if begin is None:
                self._rest = kept[0] if kept is not None else ""
                return shown
            self._rest = self._rest[begin.end() :]
            end = rf"</{begin[1]}\s*>" if begin[1] else r"\[/THINK\]|◁/think▷"
            self._end = re.compile(end, re.IGNORECASE)

"""A text that comes piece by piece, cut into sentences as soon as each is whole."""

from __future__ import annotations

import re

#: A sentence that goes on for longer is cut, at white space where there is some.
MAX_SENTENCE_CHARS = 300

#: What ends in a full stop and hardly ever ends a sentence. Letters by themselves (J. R. Smith)
#: and letters between stops (e.g., U.S.) go without saying.
_ABBREVIATED = """
approx bzw ca capt cf co corp dept dr ed eds eq esp etc fig figs gen gov hon inc jr lt ltd max
messrs min mme mr mrs ms mt nos nr op pp prof prov rep rev sec sen sgt sr st ste str univ usw vgl
vol vols vs
"""
ABBREVIATIONS = frozenset(_ABBREVIATED.split())

#: Full stops of scripts that use them for nothing else: Chinese and Japanese, Hindi, Urdu, Arabic,
#: Armenian, Amharic, Burmese, Khmer. Many of these put no space behind them.
_STOPS = "。．！？｡।॥۔؟։።፧၊။។៕"  # noqa: RUF001 - they are meant
_CLOSERS = "\"')\\]}»›”’」』】）〉》"  # noqa: RUF001 - they are meant

# Each match ends where a sentence may end, and more text would not move that place: what may belong
# to the end is followed by something that does not.
_END = re.compile(
    rf"(?P<stop>[.!?…]+)[{_CLOSERS}“‘]*\s"  # noqa: RUF001 - German closes with them
    rf"|[{_STOPS}]+[{_CLOSERS}]*(?:\s|(?=[^{_STOPS}{_CLOSERS}]))"
    r"|(?<=\S)[^\S\n]*\n"
)
_LAST_WORD_END = re.compile(r".*\S\s", re.DOTALL)
_DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_OPENERS = "\"'([{«‹“‘„¿¡*_#-"  # noqa: RUF001 - they are meant


class SentenceSplitter:
    """Cuts a text into sentences, whatever the pieces in which it comes.

    A sentence keeps the one white space behind it, so that all sentences joined are the text,
    character by character. Where it ends is decided by the text alone, never by its pieces, and as
    early as can be: at the white space behind a full stop, at the end of a line, or at the first
    character after a full stop of a script that puts no space there.

    A stop does not end a sentence behind an abbreviation, a letter by itself, or the number of an
    item that begins a line; nor within a number, or a name such as ``example.org``, as no space
    follows there.
    """

    def __init__(self, max_chars: int = MAX_SENTENCE_CHARS) -> None:
        """Begin without text.

        Args:
            max_chars: The most characters of a sentence, 1 or more.
        """
        self._max_chars = max_chars
        self._rest = ""

    def feed(self, piece: str) -> list[str]:
        """Take the next piece of the text, and give the sentences that are whole now."""
        self._rest += piece
        whole = []
        while (end := self._first_end()) is not None:
            whole.append(self._rest[:end])
            self._rest = self._rest[end:]
        return whole

    def finish(self) -> str:
        """The rest of the text: its last sentence, mere white space, or nothing."""
        rest, self._rest = self._rest, ""
        return rest

    def _first_end(self) -> int | None:
        """Where the first sentence ends; None if more text could tell otherwise."""
        text, most = self._rest, self._max_chars
        for found in _END.finditer(text, 0, most + 1):
            if found.end() <= most and _is_end(text, found):
                return found.end()
        if len(text) <= most:
            return None
        word_end = _LAST_WORD_END.match(text, 0, most)
        return word_end.end() if word_end else most


def sentences_of(text: str, max_chars: int = MAX_SENTENCE_CHARS) -> list[str]:
    """The sentences of a whole text; joined, they are the text."""
    splitter = SentenceSplitter(max_chars)
    return [sentence for sentence in (*splitter.feed(text), splitter.finish()) if sentence]


def _is_end(text: str, found: re.Match[str]) -> bool:
    if found["stop"] is None:
        return True
    before = text[: found.start()]
    words = before.split()
    if not words or before[-1:].isspace():
        # A stop by itself ends what stands before it, if anything does.
        return bool(words) or found["stop"] != "."
    if found["stop"] != ".":
        return True
    word = words[-1].lstrip(_OPENERS)
    if len(words) == 1 and word.isdigit():
        return False
    return not (word.lower() in ABBREVIATIONS or (word != "I" and _DOTTED.fullmatch(word)))

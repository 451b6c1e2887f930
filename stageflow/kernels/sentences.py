"""Split a text that arrives in pieces into sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: A longer sentence is cut, if possible at white space.
MAX_SENTENCE_CHARS = 300

#: A first sentence without a clause or white space is cut at this multiple of its length.
FIRST_PARTS = 3

#: Abbreviations that rarely end a sentence. Single letters (J. R. Smith) and letters between stops
#: (e.g., U.S.) need no entry.
_ABBREVIATED = """
abs approx apr art aug av avda ave bd blvd bzw ca capt cf co corp dec dept dr dra ed eds ee ej env
eq esp etc evtl exkl fa feb fig figs fr ft gen ggf gov hon hr hrs inc ing inkl jan jr kap lb lbs lt
ltd max messrs mi min mio mlle mme mr mrd mrs ms mt nos nov nr núm oct op pág págs ph.d pp prof prov
rd rep rev sec sen sept sgt sig sr sra srta st ste str tel tél ud uds univ usw vgl vol vols vs
"""
ABBREVIATIONS = frozenset(_ABBREVIATED.split())

#: Full stops of Chinese and Japanese, Hindi, Urdu, Arabic, Armenian, Amharic, Burmese and Khmer,
#: which have no other use and often no space behind them.
_STOPS = "。．！？｡।॥۔؟։።፧၊။។៕"  # noqa: RUF001 - they are meant
_CLOSERS = "\"')\\]}*_~`»›”’」』】）〉》"  # noqa: RUF001 - they are meant

# Each match ends where a sentence may end. It includes the character behind the end, so that more
# text cannot move the end.
_END = re.compile(
    rf"(?P<stop>[.!?…]+)[{_CLOSERS}“‘]*\s"  # noqa: RUF001 - German closes with them
    rf"|[{_STOPS}]+[{_CLOSERS}]*(?:\s|(?=[^{_STOPS}{_CLOSERS}]))"
    rf"|……+[{_CLOSERS}]*(?=[^\s{_STOPS}{_CLOSERS}…])"
    r"|(?<=\S)[^\S\n]*\n"
    rf"|(?<=[.!?…][^\S\n])»[{_CLOSERS}]*\s"
)
_ANY_STOP = re.compile(rf"[.!?…\n{_STOPS}]")
_COMMON_STARTERS = """
After Also And Are As At Before But Can Could Did Does For He Her His How However I If In Is It Its
Let My Next No Now On Or Our Please She So That The Then There These They This Those Was We What
When Where Which Who Why Would Yes You Your Aber Das Dann Der Die Er Es Ich Sie Und Wir
Ce Ces Elle Et Il Ils Je Les Mais Nous On Puis Vous El Ella Esto Los Luego Pero Una Usted Yo
"""
_STARTERS = frozenset(_COMMON_STARTERS.split())
#: German words behind and before an ordinal ("am 3. Mai").
_MONTH_NAMES = """
januar jänner februar märz april mai juni juli august september oktober november dezember
"""
_MONTHS = frozenset(_MONTH_NAMES.split())
_ARTICLES = "am beim bis das dem den der des im vom zum zur"
_BEFORE_ORDINAL = frozenset(_ARTICLES.split())
#: Abbreviations that end a sentence if a capital, or one of these words, follows.
_BEFORE_CAPITAL = {"a.m", "p.m", "al", "etc", "usw"}
_BEFORE_STARTER = {"co", "corp", "inc", "jr", "ltd", "ph.d", "sr"}
_NEXT_WORD = re.compile(r"\W*(\w+)\W")
#: In how many characters behind a stop the next word is looked for.
_LOOK_AHEAD = 30
_CLAUSE_END = re.compile(
    rf".*\S(?:[,;:][{_CLOSERS}“‘]*\s|[、，；：]|\s[–—-]\s)",  # noqa: RUF001 - they are meant
    re.DOTALL,
)
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
_QUOTES = ('"', "'", "”", "’", "»", "“", "‘", "」", "』")  # noqa: RUF001 - they are meant
_OPEN_GUILLEMET = re.compile(r"«\s[^»]*$")  # of French, which has spaces within
_ELISION = re.compile(r"^(?:[cdjlmnst]|qu)['’]", re.IGNORECASE)  # noqa: RUF001 - it is meant
#: Not behind a number or an abbreviation, if possible, which belong to the next word.
_LAST_WORD_ENDS = [re.compile(rf".*[^\s{less}]\s", re.DOTALL) for less in (r"\d.", "")]
_DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_OPENERS = "\"'([{«‹“‘„¿¡*_#-"  # noqa: RUF001 - they are meant


class SentenceSplitter:
    """Split a text into sentences of at most `max_chars` characters.

    All sentences joined are the text, whatever the pieces in which it arrives. A sentence ends as
    early as possible: at the white space behind a full stop, at the end of a line, or behind a full
    stop of a script without spaces; not behind an abbreviation, a single letter, or the number of
    an item. If that depends on what follows ("no. 5", "plan B. Next", "“Why?” he asked"), the
    splitter waits for it.

    If the first sentence is longer than `first_bytes` in UTF-8, its first clause or else its first
    words are a piece of their own, so that they can be spoken early.
    """

    def __init__(
        self, max_chars: int = MAX_SENTENCE_CHARS, *, first_bytes: int | None = None
    ) -> None:
        self._max_chars = max_chars
        self._first_bytes = first_bytes
        self._is_first = True
        self._rest = ""

    def feed(self, piece: str) -> list[str]:
        """Add the next piece of the text, and return the sentences that are complete now."""
        self._rest += piece
        rest, most = self._rest, self._first_bytes if self._is_first else None
        is_long = most is not None and len(rest.encode("utf-8", "surrogatepass")) > most
        if not is_long and len(rest) <= self._max_chars and _ANY_STOP.search(rest) is None:
            return []
        whole = []
        while (end := self._first_end()) is not None:
            whole.append(self._rest[:end])
            self._rest = self._rest[end:]
            self._is_first = False
        return whole

    def finish(self) -> str:
        """Return the rest of the text: its last sentence, white space, or nothing."""
        rest, self._rest, self._is_first = self._rest, "", True
        return rest

    def _first_end(self) -> int | None:
        """Return where the first sentence ends; None if that depends on more text."""
        text, most, cuts = self._rest, [self._max_chars], _LAST_WORD_ENDS
        if self._is_first and self._first_bytes is not None:
            encoded = text.encode("utf-8", "surrogatepass")
            parts = (encoded[: n * self._first_bytes] for n in range(1, FIRST_PARTS + 1))
            most = [min(*most, len(part.decode("utf-8", "ignore"))) for part in parts]
            cuts = [_CLAUSE_END, *_LAST_WORD_ENDS]
        for head in most:
            end = _end_within(text, head)
            if end != 0:
                return end
            for cut in cuts:
                if found := cut.match(text, 0, head):
                    return found.end()
        return _boundary(text, most[-1])


def _end_within(text: str, most: int) -> int | None:
    """Return the end of a sentence of at most `most` characters; 0 if none; None if it depends."""
    for found in _END.finditer(text, 0, most + 1):
        if found.end() <= most:
            is_end = _is_end(text, found, min(found.end() + _LOOK_AHEAD, most + 1))
            if is_end is not False:
                return found.end() if is_end else None
    return 0 if len(text) > most else None


def _is_end(text: str, found: re.Match[str], limit: int) -> bool | None:
    """Return whether a sentence ends at a match; None if that depends on the text up to `limit`."""
    before, is_guillemet = text[: found.start()], found[0][0] == "»"
    if is_guillemet and not _OPEN_GUILLEMET.search(before):
        return False
    if found["stop"] is None and not is_guillemet:
        # 「…」と言った goes on.
        return not (text.startswith(("と", "っ"), found.end()) and found[0].endswith(_QUOTES))
    is_line = found[0].endswith("\n")
    goes_on = not is_line and _goes_on_behind_quote(text, found, limit)
    words = before.split()
    if goes_on is not False:
        return None if goes_on is None else False
    if found["stop"] != "." or not words or before[-1].isspace():
        # A stop on its own ends the text before it, if there is any.
        return bool(words) or found["stop"] != "."
    word = words[-1] = _ELISION.sub("", words[-1].lstrip(_OPENERS))
    is_item = word.isdigit() and (len(words) == 1 or words[-2].lower() in _BEFORE_ORDINAL)
    if is_item or is_line:
        return not is_item
    following = _NEXT_WORD.match(text, found.end(), limit)
    next_word = following[1] if following else "" if len(text) >= limit else None
    return _is_end_between(words, next_word)


def _goes_on_behind_quote(text: str, found: re.Match[str], limit: int) -> bool | None:
    in_guillemets = "»" not in found[0] and _OPEN_GUILLEMET.search(text, 0, found.start())
    if not in_guillemets and not found[0].rstrip().endswith(_QUOTES):
        return False
    following = text[found.end() : limit].lstrip()
    if following in ("", "»") and len(text) < limit:
        return None
    return following.startswith("»") if in_guillemets else following[:1].islower()


def _is_end_between(words: Sequence[str], next_word: str | None) -> bool | None:
    """Return whether a sentence ends at a full stop; None if that depends on a word to come."""
    word, lower = words[-1], words[-1].lower()
    may_end = lower in _BEFORE_STARTER | _BEFORE_CAPITAL
    if lower in ABBREVIATIONS and not may_end:
        return False
    is_number = word.isdigit()
    is_letters = word != "I" and _DOTTED.fullmatch(word) is not None
    is_short = len(words) > 1 and word[:1].isupper() and (1 < len(word) < 4 or word.isupper())
    is_street = lower.endswith("str")
    if not (is_number or is_letters or may_end or is_short or is_street or lower == "no"):
        return True
    if next_word is None:
        return None
    first = next_word[:1]
    if is_number or lower == "no":
        return next_word.lower() not in _MONTHS if is_number else not first.isdigit()
    if not is_letters and not may_end:
        return not (first.islower() or (is_street and first.isdigit()))
    is_unit = is_letters and len(words) > 1 and words[-2].isdigit()
    is_capital = first.isupper() and (len(next_word) == 1 or not next_word.isupper())
    return is_capital if is_unit or lower in _BEFORE_CAPITAL else next_word in _STARTERS


def _boundary(text: str, at: int) -> int:
    """Return the last boundary between characters as people see them, up to `at`."""
    for end in range(at, 0, -1):
        before, after = text[end - 1], text[end]
        joined = (
            unicodedata.category(after)[0] == "M"
            or unicodedata.combining(before) == 9  # virama, which joins consonants
            or "\u1160" <= after <= "\u11ff"  # vowels and ends of Korean syllables
            or after in "\u0e33\u0eb3\uff9e\uff9f"  # vowels and marks that are letters in Unicode
            or "\u200d" in (before, after)
            or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
            or "\U000e0020" <= after <= "\U000e007f"  # tags of regional flags
            or (_FLAG.match(after) and len(_FLAG.findall(text[:end].rpartition(" ")[2])) % 2)
        )
        if not joined:
            return end
    return at

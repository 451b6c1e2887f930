"""The splitter: where sentences end, in whatever pieces a text comes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.kernels.sentences import MAX_SENTENCE_CHARS, SentenceSplitter


def sentences_of(text: str, max_chars: int = MAX_SENTENCE_CHARS) -> list[str]:
    """Return the sentences of a whole text; joined, they are the text."""
    splitter = SentenceSplitter(max_chars)
    return [sentence for sentence in (*splitter.feed(text), splitter.finish()) if sentence]


#: Each text with bars where its sentences end; a bar stands for nothing in the text.
TEXTS = {
    "plain": "One is here. |Is it? |Yes! |And so on… |Good",
    "white space": "One. |  Two.\n|\n Three.\t|",
    "quotes": 'He said: "Come in." |She came. |(Really!) |Yes.',
    "runs of stops": "What?! |Wait... |no.",
    "numbers": "It costs 3.14 or 1,000.50 or .5 in all. |Version 2.0.1 is out. |Pay 5. |Done.",
    "names": "See example.org/a.b or main.py for more. |Ask ada@example.org then.",
    "titles": 'Dr. Smith and "Mrs. Jones" met (Prof. Wu). |They spoke.',
    "initials": "J. R. R. Tolkien wrote it. |So did I. |Truly.",
    "letters between stops": "Some, e.g. those in the U.S. army, i.e. these, left. |Fine.",
    "items": "1. Milk\n|2. Bread and butter.\n|- Eggs\n|Done.",
    "one line after another": "First line\n|Second line\n|\nThird",
    "Chinese": "你好。|今天天气很好！|「是吗？」|他说。|“好。”|他走了。",  # noqa: RUF001
    "Japanese": "はい。 |そうですか？。|うん",  # noqa: RUF001
    "Hindi": "नमस्ते। |आप कैसे हैं? |ठीक॥|",
    "Arabic": "كيف حالك؟ |بخير. |شكرا",
    "Urdu and Armenian": "یہ ہے۔ |Այո։ |Ոչ",  # noqa: RUF001
    "Amharic and Burmese": "ሰላም። |မင်္ဂလာပါ။ |x",
    "German": "Er kam ca. um 3 bzw. 4 Uhr. |„Gut.“ |Nun?",
    "stops alone": "... |. Hm",
    "no, or a number": "See no. 5 and nos. 6 and 7. |Is it you? |Oh no. |Why not?",
    "dates and ordinals": "Er kam am 3. Mai. |Montag, 3. Mai, der 2. Weltkrieg. |Pay 5. |Done.",
    "hours": "Come at 5 p.m. |Bring wine. |Not at 9 a.m. on Monday, at 9 a.m. EST. |Yes.",
    "companies": "It is Apple Inc. |It grew. |Apple Inc. CEO Cook said so. |Tea, milk etc. |Good.",
    "more abbreviations": "On Jan. 5, Fr. Wu, Ph.D. of Bonn, came. |A Ph.D. |He left.",
    "letters": "Take plan B. |Next we go. |Ask J. R. Smith. |He lives in the U.S. |It is far.",
    "marked up": "**Bold.** |Then *this.* |`Code.` |~~Gone.~~ |_So_ it is.",
    "ends of lines": "Plan B.\n|next, Smith Inc.\n|and so on",
    "nothing": "",
    "white space alone": " \n ",
}


#: Cases of the table that the splitter gets wrong: it does not wait for the word behind "…" or
#: "!", takes "der 5." for an ordinal, and ends a sentence at a quote in it.
WRONG = {
    "Well... I am not sure. | Maybe tomorrow.",
    "Wait… what? | I did not hear you.",
    "Yahoo! is a company. | It is old.",
    "Heute ist der 5. | Morgen ist der 6.",
    "“你来吗？”他问。|“不来。”",  # noqa: RUF001 - it is meant
    "请稍等～|马上就好。",  # noqa: RUF001 - it is meant
}
CASES = tomllib.loads(Path(__file__).with_name("sentence_cases.toml").read_text(encoding="utf-8"))


def test_sentences_of_six_languages() -> None:
    """Each of the table, in any pieces; tools/compare_segmenters.py compares other programs."""
    cases = [case for of_language in CASES.values() for case in of_language]
    assert len(CASES) == 6
    assert len(cases) >= 120
    wrong = set()
    for case in cases:
        text, expected = case.replace("|", ""), [part.strip() for part in case.split("|")]
        found = [sentence.strip() for sentence in sentences_of(text)]
        splitter = SentenceSplitter()
        pieces = [part for character in text for part in splitter.feed(character)]
        assert [*pieces, splitter.finish()] == sentences_of(text)
        if [sentence for sentence in found if sentence] != expected:
            wrong.add(case)
    assert wrong == WRONG


def cut(marked: str) -> list[str]:
    return [part for part in marked.split("|") if part]


@pytest.mark.parametrize("name", TEXTS)
def test_sentences_end_where_people_end_them(name: str) -> None:
    """At stops of many scripts and at ends of lines; not within numbers, names, abbreviations."""
    assert sentences_of(TEXTS[name].replace("|", "")) == cut(TEXTS[name])


texts = st.lists(
    st.one_of(
        st.sampled_from(
            [". ", "! ", "?", "…", "。", "。」", "」", ")", '"', " ", "\n", "Dr. ", "3.14"]
        ),
        st.sampled_from(["e.g. ", "x", "word ", "字", "1. ", "॥", "I. "]),
        st.sampled_from(["« ", " » ", "」", "と", "Ing. ", "5 h. ", "l'O.N. ", "Xstr. "]),
        st.text(max_size=6),
    ),
    max_size=60,
).map("".join)


@given(texts, st.integers(1, 40))
def test_joined_sentences_are_the_text(text: str, most: int) -> None:
    """Character by character, none empty, none longer than the bound."""
    found = sentences_of(text, most)
    assert "".join(found) == text
    assert all(1 <= len(sentence) <= most for sentence in found)


@given(texts, st.integers(1, 40), st.data())
def test_the_pieces_do_not_matter(text: str, most: int, data: st.DataObject) -> None:
    """A text that comes in any pieces is cut as if it had come as a whole."""
    splitter, found, rest = SentenceSplitter(most), list[str](), text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    found.append(splitter.finish())
    assert [sentence for sentence in found if sentence] == sentences_of(text, most)


@pytest.mark.parametrize(
    ("text", "known_after"),
    [("Hello. There", "Hello. "), ("你好。再见", "你好。再"), ("Well\nnow", "Well\n")],
)
def test_a_sentence_is_there_as_early_as_can_be(text: str, known_after: str) -> None:
    """With the white space behind its stop, or with what follows a stop that needs none."""
    splitter = SentenceSplitter()
    counts = [len(splitter.feed(character)) for character in text]
    assert counts.index(1) == len(known_after) - 1
    assert sum(counts) == 1


def test_a_sentence_that_never_ends_is_cut_between_words() -> None:
    """At the last white space within the bound; where there is none, at the bound."""
    assert sentences_of("aaa bbb ccc ddd", 9) == ["aaa bbb ", "ccc ddd"]
    assert sentences_of("aaa bbb", 7) == ["aaa bbb"]
    assert sentences_of("aaa bbb", 6) == ["aaa ", "bbb"]
    assert sentences_of("a 字。b", 4) == ["a 字。", "b"]
    assert sentences_of("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert sentences_of("   " + "a" * 12, 10) == ["   " + "a" * 7, "a" * 5]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It has 1 000 000 people", "It has "),
        ("We ask Dr. Who now", "We ask "),
        ("3 141 592 653 589", "3 141 592 "),
    ],
)
def test_a_number_or_an_abbreviation_is_not_cut_from_its_word(text: str, first: str) -> None:
    """Unless there is nothing else."""
    assert sentences_of(text, 13)[0] == first


def test_a_splitter_can_be_used_again() -> None:
    """Finishing leaves nothing behind."""
    splitter = SentenceSplitter()
    assert [*splitter.feed("One. Two"), splitter.finish()] == ["One. ", "Two"]
    assert [*splitter.feed("Three"), splitter.finish()] == ["Three"]
    assert splitter.finish() == ""


FAMILY, FLAGS = "👩‍👩‍👧", "🇫🇷🇩🇪🇮🇹"


@pytest.mark.parametrize(
    ("text", "most", "first"),
    [
        ("aaa" + "e\u0301\u0323" * 9, 5, "aaa"),
        ("aaa" + FAMILY * 3, 6, "aaa"),
        ("aaa" + "👍🏽" * 4, 4, "aaa"),
        ("aaa" + FLAGS, 6, "aaa🇫🇷"),
        ("aaa" + FLAGS, 7, "aaa🇫🇷🇩🇪"),
        ("नि" * 9, 3, "नि"),
        ("aaa" + "क्ष" * 3, 5, "aaa"),
        ("aaa" + "\u1112\u1161\u11ab" * 3, 5, "aaa"),  # Korean letters that form one syllable
        ("aaa" + "กำ" * 3, 4, "aaa"),
        ("e" + "\u0301" * 9, 4, "e" + "\u0301" * 3),
    ],
)
def test_what_people_see_as_one_character_is_not_cut(text: str, most: int, first: str) -> None:
    """Unless it alone is longer than the bound."""
    found = sentences_of(text, most)
    assert found[0] == first
    assert "".join(found) == text


LONG = "When the rain has gone and the sun is back, we take the path, and walk to the old mill " * 2


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (LONG, "When the rain has gone and the sun is back, we take the path, "),
        (LONG.replace(",", ""), LONG.replace(",", "")[:80]),
        ("今天天气很好我们一起去公园散步吧，" * 6, "今天天气很好我们一起去公园散步吧，"),  # noqa: RUF001
        ("วันนี้อากาศดีมาก เราไปเดินเล่นกันเถอะ " * 5, "วันนี้อากาศดีมาก "),
        ("It is short. " + LONG, "It is short. "),
        ("วันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ" * 5, ("วันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ" * 3)[:80]),
        ("今天天气很好" * 5 + "，" + "我们去吧" * 9, "今天天气很好" * 5 + "，"),  # noqa: RUF001
    ],
)
def test_a_long_first_sentence_is_spoken_in_parts(text: str, first: str) -> None:
    """After a clause, or else a word; all others stay whole."""
    splitter = SentenceSplitter(first_bytes=80)
    found = [*splitter.feed(text), splitter.finish()]
    assert found[0] == first
    assert "".join(found) == text
    one_by_one = SentenceSplitter(first_bytes=80)
    pieces = [sentence for character in text for sentence in one_by_one.feed(character)]
    assert [*pieces, one_by_one.finish()] == found

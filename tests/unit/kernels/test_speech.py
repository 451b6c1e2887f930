"""The spoken and the shown form of an answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import Pipeline, PipelineContext
from stageflow.kernels import ShownText, SpokenForm, chat, default_providers, streaming_voice, voice
from stageflow.providers import Answer, FakeLLM, calling, speech_of_text, text_of_speech

#: What is shown, and what is spoken of it; docs/guides/voice.md shows these as a table.
SPOKEN = {
    "**Bold**, *italic*, ***both*** and ~~gone~~.": "Bold, italic, both and gone.",
    "_So_ it __is__, in snake_case.": "So it is, in snake_case.",
    "2 * 3 = 6, 2*3 = 6, **5** apples": "2 * 3 = 6, 2*3 = 6, 5 apples",
    "## A heading\n": "A heading\n",
    "- an item\n* another\n+ a third\n- [x] done\n": "an item\nanother\na third\ndone\n",
    "> > a quote": "a quote",
    "1. first\n2. second": "1. first\n2. second",
    "See [the page](https://example.org/a?b=c).": "See the page.",
    "![A cat](cat.png) sleeps": "A cat sleeps",
    "It is at https://www.example.org/a/b?c=d today": "It is at example.org today",
    "As said[1] and shown.[^2]【3†a】": "As said and shown.",
    "Run `make test` now": "Run make test now",
    "Before\n```python\nprint(1)\n```\nAfter": "Before\nAfter",
    "| Name | Age |\n|------|:---:|\n| Ada | 36 |\n": "Name, Age\nAda, 36\n",
    "Great, done! \N{PARTY POPPER}": "Great, done! ",
    "\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} Hi": " Hi",
    "a<br>b</p><p>and <b>c</b>, 1 < 2 > 0": "a b  and c, 1 < 2 > 0",
    "A \\# sign": "A # sign",
    "\\*So\\* it is": "So it is",
    "Title\n=====\n* * *\nText": "Title\n\n\nText",
    "<!-- a note -->Hi, Tom &amp; Ann": "Hi, Tom & Ann",
    "See [the docs][1].\n[1]: https://example.org/a\n": "See the docs.\n\n",
    "[^1]: The note.": "The note.",
    "[A](https://example.org/(b)) at www.example.org/c": "A at example.org",
    "Write to <mailto:ada@example.org>": "Write to ada@example.org",
    ":smile: It is \N{ALARM CLOCK}5:30, so \N{BLACK RIGHT-POINTING TRIANGLE} go": (
        "It is 5:30, so  go"
    ),
    "---\n": "\n",
    "A heading\n---\n": "A heading\n\n",
    "|A|B|\n|:-:|-:|\n|1||\n||2|\na || b": "A, B\n1\n2\na, b",
    "[![a badge](b.svg)](https://example.org) works": "a badge works",
    "See https://example.org/a_(b).": "See example.org.",
    "HTTP://EXAMPLE.ORG/a or ftp://example.org/b": "EXAMPLE.ORG or example.org",
    "Use ```x``` here": "Use x here",
    "```x``` is code\nSo": "x is code\nSo",
    "````md\n```\na\n```\n````\nSo": "So",
    "```\na\n~~~\n```py\n```\nSo": "So",
    "- ```sh\n  make\n  ```\n> ~~~\n> a\n> ~~~\nSo": "So",
    "\u263a\ufe0e\u2139\ufe0f *\ufe0f\u20e3 \u203c\ufe0f\u00a9\ufe0f Hi": "   Hi",
    "a snake\\_case": "a snake_case",
    "Nothing to change, it's 5 o'clock (a.m.): \u00bfs\u00ed?": (
        "Nothing to change, it's 5 o'clock (a.m.): \u00bfs\u00ed?"
    ),
}


@pytest.mark.parametrize("shown", SPOKEN)
def test_what_is_spoken(shown: str) -> None:
    """Words, and no markup."""
    found = SpokenForm().of(shown)
    assert found.strip(" -") == SPOKEN[shown].strip(" ")


def test_code_over_several_sentences_is_not_spoken() -> None:
    """A block of code extends over the parts of an answer."""
    form = SpokenForm()
    parts = ["So. ", "```sh\n", "make x. ", "make y\n", "```\n", "Done."]
    assert [form.of(part) for part in parts] == ["So. ", "", "", "", "", "Done."]


@pytest.mark.parametrize(
    ("parts", "spoken"),
    [
        (["See [what? ", "And why](https://example.org/a) so."], "See what? And why so."),
        (["| Is it? ", "Yes. | No |\n", "| 1 | 2 |\n"], "Is it? Yes., No\n1, 2\n"),
        (["**So. ", "It is.** ", "_Or. ", "Not._"], "So. It is. Or. Not."),
    ],
)
def test_markup_extends_over_sentences(parts: list[str], spoken: str) -> None:
    """A splitter ends sentences within links, tables and bold text."""
    form = SpokenForm()
    assert "".join(map(form.of, parts)) == spoken


THOUGHT = "<think>Hm. Is it 4?</think>\n\nIt is **4**. <think>Sure.</think>Bye"


@given(st.lists(st.integers(0, len(THOUGHT)), max_size=9))
def test_thoughts_are_not_shown(cuts: list[int]) -> None:
    """In whatever pieces they come."""
    text, places = ShownText(), [0, *sorted(cuts), len(THOUGHT)]
    pieces = [THOUGHT[a:b] for a, b in itertools.pairwise(places)]
    shown = "".join(map(text.feed, pieces)) + text.feed("", last=True)
    assert shown == "It is **4**. Bye"


@pytest.mark.parametrize("name", ["thinking", "thought", "reasoning"])
def test_thoughts_have_many_tags(name: str) -> None:
    """Each ends with its own, in whatever pieces."""
    text, shown = f"So <{name}>a <think> b</think> c</{name}> it is <thi", ShownText()
    pieces = "".join(map(shown.feed, text)) + shown.feed("", last=True)
    assert pieces == ShownText().feed(text, last=True) == "So it is <thi"


@pytest.mark.parametrize(
    "thought",
    [
        "<THINK>a</Think>",
        '<think id="1">a</think >',
        "<thoughts>a < b</thoughts>\n",
        "<seed:think>a</seed:think>",
        "[THINK]a[/THINK] ",
        "◁think▷a◁/think▷",
    ],
)
def test_thoughts_have_many_forms(thought: str) -> None:
    """As models write them, in whatever pieces."""
    text, shown = f"So {thought}it is", ShownText()
    pieces = "".join(map(shown.feed, text)) + shown.feed("", last=True)
    assert pieces == ShownText().feed(text, last=True) == "So it is"


@pytest.mark.parametrize(
    "text", ["a < b <thin", "<", "x</think>", "a <b> c", "Write `<think>` first, [", "a`", "◁"]
)
def test_other_texts_are_shown_whole(text: str) -> None:
    """Also if they end like the beginning of a tag."""
    shown = ShownText()
    assert "".join(map(shown.feed, text)) + shown.feed("", last=True) == text


@pytest.mark.parametrize("kernel", [chat, voice, streaming_voice])
async def test_a_turn_keeps_what_is_shown_and_speaks_words(
    kernel: Callable[[], Pipeline],
) -> None:
    """The answer and the record hold the markup and no thoughts; the sound has neither."""
    providers = default_providers(scale=0)
    providers.register("llm", FakeLLM(THOUGHT))
    given_ = {"text": "2 + 2?", "audio": speech_of_text("2 + 2?"), "user_id": "ada"}
    turn = kernel()
    inputs = {name: given_[name] for name in turn.inputs}
    result = await turn.run(PipelineContext(inputs, providers=providers))
    assert result.outputs["answer"] == "It is **4**. Bye"
    record = await providers.db.get("conversations", "ada")
    assert record is not None
    assert record["turns"][0]["assistant"] == "It is **4**. Bye"
    if kernel is not chat:
        assert text_of_speech(result.outputs["speech"]) == "It is 4. Bye"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("<think>Hm.</think>", "invalid_reply"),
        ("<think>Hm.", "invalid_reply"),
        (Answer("<think>Hm.", "length"), "no_answer"),
        (calling("a_tool_that_nobody_offers"), "no_answer"),
    ],
)
@pytest.mark.parametrize("kernel", [chat, voice, streaming_voice, partial(chat, streaming=True)])
async def test_a_turn_of_thoughts_alone_fails(
    kernel: Callable[[], Pipeline], answer: str, code: str
) -> None:
    """An empty answer is not a turn: nothing is stored, and the user learns of it."""
    providers = default_providers(scale=0)
    providers.register("llm", FakeLLM(lambda _: answer))
    given_ = {"text": "2 + 2?", "audio": speech_of_text("2 + 2?"), "user_id": "ada"}
    turn = kernel()
    inputs = {name: given_[name] for name in turn.inputs}
    result = await turn.run(PipelineContext(inputs, providers=providers))
    assert result.failure is not None
    assert result.failure.code == code
    assert result.user_message
    assert await providers.db.get("conversations", "ada") is None

"""The listings of guides print the text below them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from stageflow.cli import make_parser
from stageflow.events import log as events
from tests.utils.commands import run_command
from tools.command_line import PAGE, page, parsers

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
#: Those whose listings are programs of their own.
PAGES = ("streams", "interceptors", "conditions", "deadlines", "chat")


def blocks(name: str, language: str) -> str:
    """The page's listings in that language, one after another."""
    text = (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_examples_print_what_the_guide_says(name: str) -> None:
    """They run as they are, in their order, and print the output below them."""
    done = run_command([sys.executable, "-W", "error", "-c", blocks(name, "python")])
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks(name, "text")


def test_the_guide_names_all_events_of_a_stream() -> None:
    """Its table has a row for each, in the order in which they come."""
    text = (GUIDES / "streams.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `stage\.<name>\.(\w+)`", text, re.MULTILINE) == list(events.STREAMING)


def test_the_reference_of_the_command_line_is_current() -> None:
    """Written again by ``python -m tools.command_line``: each command, and each of its options."""
    text = PAGE.read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## ([^\n]+)\n\n```text\n(.*?)```$", text, re.DOTALL | re.MULTILINE)
    )
    known = {parser.prog: parser for parser in parsers(make_parser())}
    assert list(sections) == list(known)
    for name, parser in known.items():
        options = {option for action in parser._actions for option in action.option_strings}
        assert options == set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", sections[name])) & options
    if sys.version_info < (3, 13):  # later versions lay out the help in another way
        assert text == page(), "run: python -m tools.command_line"

"""The tables of docs/errors.md and the classes of errors are the same."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import stageflow
from stageflow.errors import GENERIC_USER_MESSAGE, ErrorCategory, StageflowError

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"

#: Code, class, category, retryable, what the person sees, what to do.
ROW = re.compile(r"^\| `(\w+)` \| (`\w+` \| \w+ \| \w+ \| .+?) \| (.+) \|$", re.MULTILINE)


def classes() -> Iterator[type[StageflowError]]:
    """Every class of error that the package defines, in whichever module."""
    for module in pkgutil.walk_packages(stageflow.__path__, "stageflow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting: list[type[StageflowError]] = [StageflowError]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if found.__module__.partition(".")[0] == "stageflow":
            yield found


def facts(error: type[StageflowError]) -> str:
    """What the table has to say about a class, besides what to do."""
    retryable = "yes" if error.retryable else "no"
    seen = "*generic*" if error.user_message == GENERIC_USER_MESSAGE else error.user_message
    return f"`{error.__name__}` | {error.category} | {retryable} | {seen}"


def test_each_error_has_its_row_and_each_row_its_error() -> None:
    """Table and code say the same; the message holds the row that has to be added."""
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    documented = {code: told for code, told, _ in rows}
    assert len(documented) == len(rows), "docs/errors.md has two rows of one code"
    existing = {error.code: facts(error) for error in classes()}
    to_write = [
        f"| `{code}` | {told} | <what to do> |"
        for code, told in existing.items()
        if documented.get(code) != told
    ]
    assert not to_write, "write into docs/errors.md, filling in the end:\n" + "\n".join(to_write)
    to_remove = sorted(documented.keys() - existing.keys())
    assert not to_remove, f"remove from docs/errors.md, which no class has: {to_remove}"


def test_each_row_says_what_to_do() -> None:
    """No row is without advice, and each ends as a sentence does."""
    advice = {code: todo for code, _, todo in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))}
    assert len(advice) > 40
    assert [code for code, todo in advice.items() if not re.fullmatch(r"[A-Z].{8,}\.", todo)] == []


def test_each_category_is_explained() -> None:
    """The categories of the code are those of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    explained = re.findall(r"^\| (\w+) \| [^|]+ \|$", text, re.MULTILINE)
    assert explained == ["category", *ErrorCategory]

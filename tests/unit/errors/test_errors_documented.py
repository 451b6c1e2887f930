"""The tables of docs/errors.md have a row for each code of an error."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import stageflow
from stageflow.errors import (
    GENERIC_USER_MESSAGE,
    LOGIC,
    ErrorCategory,
    Problem,
    ProblemCode,
    StageflowError,
    Traits,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"

#: Code, class, category, retryable, what the person sees, what to do.
ROW = re.compile(r"^\| `(\w+)` \| (`\w+` \| \w+ \| \w+ \| .+?) \| (.+) \|$", re.MULTILINE)


def classes() -> Iterator[type[StageflowError]]:
    """Yield every class of error that the package defines, in whichever module."""
    for module in pkgutil.walk_packages(stageflow.__path__, "stageflow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting: list[type[StageflowError]] = [StageflowError]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if found.__module__.partition(".")[0] == "stageflow":
            yield found


def codes() -> Iterator[tuple[str, type, Traits]]:
    """Yield every code, the class that has it, and what errors with it say about themselves."""
    for error in classes():
        yield error.code, error, Traits(error.category, error.retryable, error.user_message)
        for code, traits in error.__dict__.get("codes", {}).items():
            yield code, error, traits
    for code in get_args(ProblemCode):
        yield code, Problem, LOGIC


def facts(owner: type, traits: Traits) -> str:
    """Return the middle columns of a row."""
    retryable = "yes" if traits.retryable else "no"
    seen = "*generic*" if traits.user_message == GENERIC_USER_MESSAGE else traits.user_message
    return f"`{owner.__name__}` | {traits.category} | {retryable} | {seen}"


def test_no_two_errors_share_a_code() -> None:
    """A code names one kind of error, over every module of the package."""
    counts = Counter(code for code, _, _ in codes())
    assert [code for code, count in counts.items() if count > 1] == []


def test_each_error_has_its_row_and_each_row_its_error() -> None:
    """The message of a failure holds the row to add."""
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    documented = {code: middle for code, middle, _ in rows}
    assert len(documented) == len(rows), "docs/errors.md has two rows of one code"
    existing = {code: facts(owner, traits) for code, owner, traits in codes()}
    to_write = [
        f"| `{code}` | {middle} | <what to do> |"
        for code, middle in existing.items()
        if documented.get(code) != middle
    ]
    assert not to_write, "write into docs/errors.md, filling in the end:\n" + "\n".join(to_write)
    to_remove = sorted(documented.keys() - existing.keys())
    assert not to_remove, f"remove from docs/errors.md, which no error has: {to_remove}"


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

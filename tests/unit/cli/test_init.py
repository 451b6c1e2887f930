"""``stageflow init``: what it refuses, what it writes, and that it writes all or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from stageflow.cli import init, main
from stageflow.cli.common import UsageError
from tests.utils.asv_repo import ROOT, ScratchRepo
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow


def names(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_whole_project_is_laid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file exists under the project's own name, and the output says the next steps."""
    folder = tmp_path / "my-shop"
    assert main(["init", str(folder), "--stageflow", str(ROOT)]) == 0
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
    assert "workflows fail\nelsewhere" in told


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
        ("Shop", "lower-case letters"),
        ("1shop", "lower-case letters"),
        ("shop.de", "lower-case letters"),
        ("class", "not a Python keyword"),
        ("asyncio", "taken by another package"),
        ("tests", "taken by another package"),
        ("stageflow", "taken by another package"),
        ("x" * 41, "up to 40"),
    ],
)
def test_a_name_that_no_package_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    """The name is refused with the reason and the option that fixes it, and nothing is written."""
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
    with pytest.raises(UsageError, match="neither a clone nor a wheel"):
        init.given(str(tmp_path))


class _Installed:
    """The metadata of a distribution, as importlib.metadata returns them."""

    def __init__(self, noted: str | None) -> None:
        self.noted = noted

    def read_text(self, name: str) -> str | None:
        return {"direct_url.json": self.noted}[name]


@pytest.mark.parametrize(
    ("noted", "origin"),
    [
        (None, None),
        ('{"url": "file:///usr", "dir_info": {"editable": true}}', "file:///usr"),
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


@pytest.mark.parametrize(
    ("url", "pushed", "origin"),
    [
        ("https://h/r", True, "git+https://h/r@{commit}"),
        ("git@h:o/r.git", True, "git+ssh://git@h/o/r.git@{commit}"),
        ("https://h/r", False, None),
        ("/srv/r", True, None),
    ],
)
def test_a_clone_is_named_by_what_others_can_reach(
    tmp_path: Path, url: str, pushed: bool, origin: str | None
) -> None:
    """A commit that a server has is taken from there; else from the folder, as the output says."""
    repo = ScratchRepo(tmp_path / "clone of mine", tmp_path)
    repo.path.mkdir()
    repo.git("init", "--quiet", "--initial-branch", "main")
    repo.commit("It", {"it/it": ""})
    repo.git("remote", "add", "origin", url)
    if pushed:
        repo.git("update-ref", "refs/remotes/origin/main", "HEAD")
    expected = (origin or repo.path.as_uri()).format(commit=repo.git("rev-parse", "HEAD"))
    noted = _Installed(json.dumps({"url": repo.path.as_uri(), "dir_info": {}}))
    assert init._origin(noted) == expected  # type: ignore[arg-type]
    within = (repo.path / "it").as_uri()
    noted = _Installed(json.dumps({"url": within, "dir_info": {}}))
    assert init._origin(noted) == within  # type: ignore[arg-type]


def test_the_template_keeps_the_rules_of_this_house() -> None:
    """Its files pass this repository's own ruff settings, beside those that they bring along."""
    done = run_command(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache"),
            *("--config", str(ROOT / "pyproject.toml"), str(init.TEMPLATE)),
        ],
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["ab", "shop", "zoo", "x" * 40])
def test_it_is_tidy_under_every_name(tmp_path: Path, name: str) -> None:
    """However long the name, and wherever it stands in the alphabet: ruff finds nothing."""
    init.create(tmp_path / "p", name, "")
    done = run_command(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=tmp_path / "p"
    )
    assert done.returncode == 0, done.stdout


def ruff(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Return ruff's report on a project, by the project's own settings."""
    return run_command([sys.executable, "-m", "ruff", *args, "--no-cache", "."], cwd=folder)


def test_a_test_of_its_own_needs_no_docstring(tmp_path: Path) -> None:
    """The listings of the guides pass the project's lint as they stand."""
    init.create(tmp_path / "p", "shop", "")
    (tmp_path / "p/tests/test_mine.py").write_text(
        "from stageflow.testing.contracts import StageCase, StageContractTest\n\n"
        "from shop.turn import turn\n\nfrom tests.cases import inputs, providers\n\n\n"
        "class TestDraft(StageContractTest):\n    def make_stage(self) -> StageCase:\n"
        '        return StageCase(turn, "draft", inputs(), providers())\n'
    )
    done = ruff(tmp_path / "p", "check")
    assert done.returncode == 0, done.stdout


def test_its_benchmarks_take_a_provider_of_ones_own(tmp_path: Path) -> None:
    """By its name, beside the fakes; the time that it takes is virtual."""
    init.create(tmp_path / "p", "shop", "")
    measured = """
import asyncio
from benchmarks._lib.turns import context, in_virtual_time
from stageflow import Pipeline, StageOutput, stage

class Stock:
    async def count(self, item):
        await asyncio.sleep(0.3)
        return 7

@stage(inputs=["item"], outputs=["left"], provider="stock")
async def look_up(ctx):
    assert await ctx.llm.complete([])
    return StageOutput.ok(left=await ctx.provider("stock").count(ctx["item"]))

pipeline = Pipeline("shop", [look_up], inputs=["item"])
ctx = context({"item": "tea"}, llm_ms=200, stock=Stock())
print(round(in_virtual_time(pipeline, ctx).duration_ms, 6))
"""
    done = run_command([sys.executable, "-W", "error", "-c", measured], cwd=tmp_path / "p")
    assert (done.stdout, done.stderr) == ("500.0\n", "")


def test_make_format_fixes_what_make_lint_finds(tmp_path: Path) -> None:
    """Order of imports and spaces; what is left is tidy."""
    folder = tmp_path / "p"
    init.create(folder, "shop", "")
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv/.ready").touch()
    (folder / "shop/untidy.py").write_text('"""Untidy."""\nimport os\nimport abc\nx=(os,  abc)\n')
    assert ruff(folder, "check").returncode == 1
    done = run_command(["make", "format"], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ruff(folder, "check").returncode == 0
    assert ruff(folder, "format", "--check").returncode == 0


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


@pytest.mark.parametrize("origin", ["file:///elsewhere", "git+https://h/r"])
def test_a_folder_that_is_missing_is_explained(tmp_path: Path, origin: str) -> None:
    """Where pip cannot install a stageflow from another machine, make says what to change."""
    folder = tmp_path / "p"
    init.create(folder, "shop", f" @ {origin}")
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    done = run_command(["make", "setup", "PYTHON=true"], cwd=folder)
    assert done.returncode != 0
    assert ("write an address that they can reach" in done.stderr) == origin.startswith("file:")

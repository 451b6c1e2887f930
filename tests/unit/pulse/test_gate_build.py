"""A package whose source is not enough is built for the gate, or refused with advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow.pulse import PulseError
from stageflow.pulse.gate.worker import list_benchmarks, tree
from stageflow.pulse.history import AsvProject
from tests.utils.asv_repo import ScratchRepo

pytestmark = pytest.mark.slow

#: A build backend without dependencies: what it writes is in no commit.
_BACKEND = """\
import pathlib
import zipfile


def build_wheel(folder, settings=None, metadata=None):
    name = "toylib-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.write("src/toylib/__init__.py", "toylib/__init__.py")
        wheel.writestr("toylib/_compiled.py", pathlib.Path("src/toylib/compiled.c").read_text())
        metadata = "Metadata-Version: 2.1\\nName: toylib\\nVersion: 1\\n"
        wheel.writestr("toylib-1.dist-info/METADATA", metadata)
        wheel.writestr("toylib-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("toylib-1.dist-info/RECORD", "")
    return name
"""
_FILES = {
    "asv.conf.json": '{"version": 1, "project": "toylib", "repo": ".", "branches": ["main"]}',
    "benchmarks/__init__.py": "",
    "benchmarks/suite.py": "import toylib\n\n\ndef time_add():\n    toylib.add(1, 2)\n",
    "pyproject.toml": (
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    ),
    "backend.py": _BACKEND,
    "src/toylib/__init__.py": "from toylib._compiled import add\n",
    "src/toylib/compiled.c": "def add(a, b):\n    return a + b\n",
}


@pytest.fixture
def project(tmp_path: Path) -> AsvProject:
    """A clone of a package with a module that only its build writes."""
    (tmp_path / "repo").mkdir()
    repo = ScratchRepo(tmp_path / "repo", tmp_path)
    repo.git("init", "--quiet", "--initial-branch", "main")
    repo.commit("The package", _FILES)
    return AsvProject.load(repo.path, reads_only=True)


def test_compiled_parts_are_built_once(
    project: AsvProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmarks are listed with the built package; the wheel of a commit is kept."""
    assert list_benchmarks(project).operations == ("suite.time_add",)
    monkeypatch.setenv("PIP_NO_INPUT", "no boolean, with which pip would fail")
    with tree(project, "main") as files:
        assert (files / "toylib/_compiled.py").is_file()


def test_a_build_that_fails_says_what_to_do(project: AsvProject) -> None:
    """The commit, the last lines of pip, and the two ways out are named."""
    (project.root / "backend.py").write_text("import no_such_compiler\n")
    project.git("commit", "--quiet", "--all", "--message", "Broken")
    with pytest.raises(PulseError, match=r"no_such_compiler(.|\n)*asv continuous BASE HEAD"):
        list_benchmarks(project)

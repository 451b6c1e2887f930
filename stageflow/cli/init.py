"""``stageflow init``: lay a project into an empty folder, tests and benchmarks included."""

from __future__ import annotations

import argparse
import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from json import loads
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from stageflow import __version__
from stageflow.cli.errors import FileError, UsageError
from stageflow.cli.options import Commands, described, say

TEMPLATE = Path(__file__).parent / "template"
#: What the package is called in the template, and files that begin with a dot.
_NAME, _DOT = "newproject", "dot-"
_REQUIREMENT = re.compile(r'"stageflow(\[[a-z,]+\])?"')
#: Folders of the project itself, and what it imports.
_TAKEN = {"asv", "benchmarks", "docs", "hypothesis", "pytest", "stageflow", "test", "tests"}

_EXAMPLES = """\
  stageflow init shop                        a project in the new folder shop
  stageflow init . --name shop               in this folder, which is empty
  stageflow init shop --stageflow ../stageflow                          take a clone
  stageflow init shop --stageflow "git+https://example.org/stageflow"   or what pip knows
  stageflow init shop --stageflow "stageflow>=0.1"
"""


def add_command(commands: Commands) -> None:
    """Add the command ``init``."""
    parser = described(
        commands,
        "init",
        "lay a project into a new or empty folder: stages, tests, benchmarks, workflows",
        _EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--name", help="of the package (default: that of the folder)")
    parser.add_argument(
        "--stageflow",
        metavar="PATH|REQUIREMENT",
        help="where pip finds stageflow (default: where the one that runs here came from)",
    )
    parser.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    name = package_name(arguments.name or folder.resolve().name.lower().replace("-", "_"))
    found = installed_from() if arguments.stageflow is None else given(arguments.stageflow)
    lay(folder, name, found)
    say(f"Laid {name} into {folder}. Go on with")
    say(f"  cd {quote(str(folder))}")
    say("  git init --initial-branch main && git add --all && git commit --message 'A new project'")
    say("  make test")
    say("  make bench")
    if found.startswith(" @ file:"):
        say(f"stageflow comes from this machine ({found[3:]}): before others build the project,")
        say("name in pyproject.toml one that they can reach, too.")
    return 0


# ── what it is called, and where it finds stageflow ─────────────────────────────────────────


def package_name(name: str) -> str:
    """The same name, if a package can have it.

    Raises:
        UsageError: It cannot; says why.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        why = "write up to 40 small letters, digits and _, a letter first, no word of Python's own"
    elif name in _TAKEN or name in sys.stdlib_module_names:
        why = "an import of it would find something else"
    else:
        return name
    raise UsageError(f"{name!r} cannot be a package: {why}; give another one with --name")


def given(where: str) -> str:
    """What follows the name stageflow in a requirement, for a path or a requirement.

    Raises:
        UsageError: A path holds no stageflow, or the requirement is of something else.
    """
    if match := re.fullmatch(r"stageflow\s*((?:[<>=!~@].*)?)", where):
        rest = match[1]
        return f" {rest}" if rest.startswith("@") else rest
    if re.match(r"(git\+)?(https?|ssh|file)://", where):
        return f" @ {where}"
    path = Path(where).resolve()
    if (path.suffix == ".whl" and path.is_file()) or (path / "stageflow/__init__.py").is_file():
        return f" @ {path.as_uri()}"
    raise UsageError(
        f"--stageflow {where}: neither a clone of stageflow nor a wheel is there; give such a path,"
        ' a URL, or a requirement such as "stageflow>=0.1"'
    )


def installed_from() -> str:
    """The same for the stageflow that runs here: the folder, file or repository it came from."""
    try:
        origin = _origin(distribution("stageflow"))
    except ModuleNotFoundError:  # it runs from a clone, not installed
        origin = Path(__file__).parents[2].as_uri()
    return f" @ {origin}" if origin else f">={__version__}"


def _origin(installed: Distribution) -> str | None:
    """As pip has noted it (PEP 610); None if it came from an index."""
    noted = installed.read_text("direct_url.json")
    if noted is None:
        return None
    origin = loads(noted)
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    url = str(origin["url"])
    # A wheel that was deleted since helps nobody.
    gone = url.startswith("file:") and not Path(urlsplit(url).path).exists()
    return None if gone else url


# ── laying it ───────────────────────────────────────────────────────────────────────────────


def lay(folder: Path, name: str, stageflow: str) -> None:
    """Write the project: all of it, or nothing.

    Args:
        folder: New, or empty.
        name: Of the package.
        stageflow: What follows the name stageflow in its requirement.

    Raises:
        UsageError: The folder is not empty, or is a file.
        FileError: It cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a new or an empty folder")
    if folder.is_dir() and (held := sorted(path.name for path in folder.iterdir())):
        shown = ", ".join(held[:3]) + (" …" if len(held) > 3 else "")
        raise UsageError(f"{folder} is not empty (it holds {shown}): name a new or an empty folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".init-", dir=folder))
        for path, text in files(name, stageflow):
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_text(text, encoding="utf-8")
        for path in list(staged.iterdir()):
            path.rename(folder / path.name)
        staged.rmdir()
    except BaseException as error:
        _undo(folder, missing)
        if isinstance(error, OSError):
            raise FileError("write", str(folder), error) from error
        raise


def files(name: str, stageflow: str) -> Iterator[tuple[Path, str]]:
    """Each file of the project: its path in it, and its text."""
    for source in sorted(TEMPLATE.rglob("*")):
        path = source.relative_to(TEMPLATE)
        if source.is_dir() or any("cache" in part for part in path.parts):
            continue
        text = source.read_text(encoding="utf-8").replace(_NAME, name)
        if path.name == "pyproject.toml":
            text = _REQUIREMENT.sub(rf'"stageflow\1{stageflow}"', text)
        parts = [part.replace(_NAME, name).replace(_DOT, ".") for part in path.parts]
        yield Path(*parts), text


def _undo(folder: Path, made: list[Path]) -> None:
    """Empty the folder again, and remove the folders that were `made` for it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    for path in made:
        if path.is_dir():
            path.rmdir()

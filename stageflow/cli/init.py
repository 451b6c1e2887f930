"""``stageflow init``: create a project with tests and benchmarks in an empty folder."""

from __future__ import annotations

import argparse
import keyword
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from json import dumps, loads
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

from stageflow import __version__
from stageflow._utils.arguments import option
from stageflow.cli.common import FileError, UsageError, say
from stageflow.errors import StageflowError

TEMPLATE = Path(__file__).parent / "template"
#: The package's name in the template, and the prefix of files that begin with a dot.
_NAME, _DOT = "newproject", "dot-"
_REQUIREMENT = re.compile(r'"stageflow(\[[a-z,]+\])?"')
#: Folders of the project, and packages that it imports.
_TAKEN = {"asv", "benchmarks", "docs", "hypothesis", "pytest", "stageflow", "test", "tests"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow init``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    option(parser, "--name", "name of the package (default: that of the folder)")
    text = "where pip finds stageflow (default: where the running one came from)"
    option(parser, "--stageflow PATH|REQUIREMENT", text)
    parser.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    name = package_name(arguments.name or folder.resolve().name.lower().replace("-", "_"))
    found = installed_from() if arguments.stageflow is None else given(arguments.stageflow)
    create(folder, name, found)
    say(f"Created {name} in {folder}. Continue with")
    say(f"  cd {quote(str(folder))}")
    say("  git init --initial-branch main && git add --all && git commit --message 'A new project'")
    say("  make test")
    say("  make bench")
    if found.startswith(" @ file:"):
        say(f"The project takes stageflow from this machine ({found[3:]}): its workflows fail")
        say("elsewhere, until pyproject.toml has an address that others reach. Set it there, or")
        say('create the project with --stageflow "git+https://…"')


def package_name(name: str) -> str:
    """Return `name`; raise `UsageError` unless it is valid for a package."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        why = "use up to 40 lower-case letters, digits and _, a letter first, not a Python keyword"
    elif name in _TAKEN or name in sys.stdlib_module_names:
        why = "the name is taken by another package"
    else:
        return name
    raise UsageError(f"{name!r} cannot be a package: {why}; set another one with --name")


def given(where: str) -> str:
    """Return what follows the name stageflow in the requirement, for a path or a requirement."""
    if match := re.fullmatch(r"stageflow\s*((?:[<>=!~@].*)?)", where):
        rest = match[1]
        return f" {rest}" if rest.startswith("@") else rest
    if re.match(r"(git\+)?(https?|ssh|file)://", where):
        return f" @ {where}"
    path = Path(where).resolve()
    if (path.suffix == ".whl" and path.is_file()) or (path / "stageflow/__init__.py").is_file():
        return f" @ {path.as_uri()}"
    raise UsageError(
        f"--stageflow {where} is neither a clone nor a wheel of stageflow: give such a path,"
        ' a URL, or a requirement such as "stageflow>=0.1"'
    )


def installed_from() -> str:
    """Return the same for the running stageflow: its folder, file, repository or version."""
    try:
        origin = _origin(distribution("stageflow"))
    except ModuleNotFoundError:  # it runs from a clone, not installed
        root = Path(__file__).parents[2]
        origin = _remote(root) or root.as_uri()
    return f" @ {origin}" if origin else f">={__version__}"


def _origin(installed: Distribution) -> str | None:
    """Return where pip got a package from (PEP 610); None for an index."""
    noted = installed.read_text("direct_url.json")
    if noted is None:
        return None
    origin = loads(noted)
    url = str(origin["url"])
    if vcs := origin.get("vcs_info"):
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if not url.startswith("file:"):
        return url
    path = Path(unquote(urlsplit(url).path))
    # A wheel may have been deleted since.
    return (_remote(path) or url) if path.exists() else None


def _remote(clone: Path) -> str | None:
    """Return the address of the commit of a clone, if others can get it from there."""
    from stageflow.pulse.history import run_git  # noqa: PLC0415 - other commands do not need it

    try:
        url = run_git(clone, "remote", "get-url", "origin").strip()
        pushed = run_git(clone, "for-each-ref", "--contains", "HEAD", "refs/remotes/origin")
        commit, *within = run_git(clone, "rev-parse", "HEAD", "--show-prefix").split()
    except (StageflowError, OSError):
        return None
    if found := re.fullmatch(r"git@([^:/]+):(.+)", url):
        url = f"ssh://git@{found[1]}/{found[2]}"
    shared = pushed and not within and re.match("(?:https|ssh)://", url)
    return f"git+{url}@{commit}" if shared else None


def create(folder: Path, name: str, stageflow: str) -> None:
    """Write the project `name` into a new or empty folder, or nothing.

    `stageflow` is what follows this name in the project's requirement.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a new or empty folder")
    if folder.is_dir() and (held := sorted(path.name for path in folder.iterdir())):
        shown = ", ".join(held[:3]) + (" …" if len(held) > 3 else "")
        raise UsageError(f"{folder} is not empty (it holds {shown}): name a new or empty folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files(name, stageflow):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except BaseException as error:
        _undo(folder, missing)
        if isinstance(error, OSError):
            raise FileError("write", str(folder), error) from error
        raise


def files(name: str, stageflow: str) -> Iterator[tuple[Path, str]]:
    """Yield path and text of each file of the project."""
    for source in sorted(TEMPLATE.rglob("*")):
        path = source.relative_to(TEMPLATE)
        if source.is_dir() or any("cache" in part for part in path.parts):
            continue
        text = source.read_text(encoding="utf-8").replace(_NAME, name)
        if path.name == "pyproject.toml":
            text = _REQUIREMENT.sub(
                lambda found: dumps(f"stageflow{found[1] or ''}{stageflow}", ensure_ascii=False),
                text,
            )
        parts = [part.replace(_NAME, name).replace(_DOT, ".") for part in path.parts]
        yield Path(*parts), text


def _undo(folder: Path, made: list[Path]) -> None:
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

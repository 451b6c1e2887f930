"""``stageflow doctor``: check what is installed, what is missing, and what works without it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from stageflow import __version__
from stageflow._utils.arguments import option
from stageflow._utils.extras import BESIDE, install_command
from stageflow._utils.text import printable
from stageflow.cli.common import add_color, add_json, say, say_json, wants_color
from stageflow.timeline.charts import painted
from stageflow.timeline.model import SIGNS

LEAST_PYTHON = (3, 11)
#: Room for asv's environments and the results of some dozens of commits.
LEAST_FREE_BYTES = 1_000_000_000
#: Extras for the development of stageflow itself.
_OWN_EXTRAS = {"dev", "docs"}
#: What does not work without each extra, and what does.
WITHOUT = {
    "alerts": "no alert rules for Prometheus; `stageflow pulse alert` works",
    "bench": "no benchmarks and no gate; `stageflow pulse serve`, `check` and `alert` work",
    "cluster": "no jobs on other machines, no shared breakers; runs in this process work",
    "completion": "no completion in shells; all commands work",
    "db": "no SqlDatabase, no PostgreSQL; dead letters and telemetry in SQLite work",
    "local": "no `--provider local`, no local models; fakes work",
    "openai": "no `--provider openai`, no local language model; fakes work",
    "otel": "no OpenTelemetry traces; the other sinks work",
    "prometheus": "no Prometheus metrics; the other sinks work",
    "testing": "no contracts, strategies and simulation in pytest; pipelines run",
}
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NO_CHROMIUM = "the tests of the site do not run; the site works in any browser"
_NO_PROMETHEUS = "no Prometheus here; `stageflow pulse alert` evaluates the same rules"
_NO_ALERTMANAGER = "no Alertmanager here; `stageflow pulse alert` delivers alerts itself"
_ALERTMANAGER = "prometheus-alertmanager"
#: Debian package of each program, what works without it, and its names if they differ.
PROGRAMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "git": ("git", "commits cannot be measured; runs and tests work", ()),
    "make": ("make", "no make targets; the commands that they call work", ()),
    "valgrind": ("valgrind", "the gate counts no instructions; exact figures and times work", ()),
    "chromium": ("chromium", _NO_CHROMIUM, _CHROMIUM),
    "redis-server": ("redis-server", "no `make cluster` here; any other Redis works", ()),
    "prometheus-server": ("prometheus", _NO_PROMETHEUS, ("prometheus",)),
    "alertmanager": (_ALERTMANAGER, _NO_ALERTMANAGER, (_ALERTMANAGER, "alertmanager")),
}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: what was found, and whether it is installed and valid.

    If it is `needed`, the exit code depends on it. `without` says what does not work then, and what
    does.
    """

    name: str
    ok: bool
    found: str
    needed: bool = False
    fix: str = ""
    without: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow doctor``."""
    names = [*WITHOUT, *PROGRAMS]
    text = f"require this extra or program; may be repeated: {', '.join(names)}"
    option(parser, "--need NAME", text, action="append", default=[], choices=names)
    add_json(parser, "the results")
    add_color(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    checks = list(examined(Path.cwd(), frozenset(arguments.need)))
    missing = [check for check in checks if check.needed and not check.ok]
    if arguments.json:
        say_json({"ok": not missing, "checks": [asdict(c) for c in checks]})
    else:
        _report(checks, wants_color(arguments.color))
        names = ", ".join(check.name for check in missing)
        say(f"\nNeeded but missing: {names}." if missing else "\nNothing needed is missing.")
    return 1 if missing else 0


def _report(checks: list[Check], color: bool) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = "completed" if check.ok else "failed" if check.needed else "skipped"
        sign = painted("-" if status == "skipped" else SIGNS[status], status, color)
        say(f"{sign} {check.name:<{width}}  {printable(check.found)}")
        if not check.ok:
            indent = " " * (width + 4)
            say(f"{indent}fix: {check.fix}")
            if check.without:
                say(f"{indent}without: {check.without}")


def examined(folder: Path, needed: frozenset[str] = frozenset()) -> Iterator[Check]:
    """Run all checks for work in `folder`; `needed` extras and programs are required."""
    found = f"{platform.python_version()} at {sys.executable}"
    fix = "install Python 3.11 or newer and create the virtual environment with it"
    yield Check("Python", sys.version_info >= LEAST_PYTHON, found, True, fix)
    yield _package()
    for extra, packages in extras().items():
        states = {name: _state(name, wanted) for name, wanted in packages.items()}
        found = ", ".join(f"{name} {state}" for name, (_, state) in states.items())
        fix = install_command(extra).replace("pip install", f"{sys.executable} -m pip install")
        without = WITHOUT.get(extra, "the features of this extra; the engine works")
        ok = all(ok for ok, _ in states.values())
        yield Check(extra, ok, found, extra in needed, fix, without)
    for program in PROGRAMS:
        yield _program(program, program in needed)
    yield _machine_file(Path.home() / ".asv-machine.json")
    yield _writable("current folder", folder, "change to a folder of your own, or: chmod u+w .")
    temporary = Path(tempfile.gettempdir())
    yield _writable("temporary folder", temporary, "set TMPDIR to a writable folder")
    free = shutil.disk_usage(folder).free
    fix = f"free at least {LEAST_FREE_BYTES / 1e9:g} GB, for example with `make clean`"
    found = f"{free / 1e9:,.1f} GB free at {folder}"
    yield Check("disk", free >= LEAST_FREE_BYTES, found, True, fix)


def _package() -> Check:
    where = Path(__file__).parents[1]
    fix = f"{sys.executable} -m pip install -e {where.parent}"
    try:
        installed = version("stageflow")
    except PackageNotFoundError:
        found = f"{__version__} at {where}, not installed"
        return Check("stageflow", False, found, True, fix, "pytest does not find the plugin")
    if others := sorted(
        set(metadata.packages_distributions().get("stageflow", ())) - {"stageflow"}
    ):
        names = " ".join(others)
        found = f"{__version__} at {where}, mixed with files of {names}"
        fix = f"{sys.executable} -m pip uninstall -y {names}; then {fix} --force-reinstall"
        return Check("stageflow", False, found, True, fix, "imports may find the other package")
    if foreign := _foreign_files(where):
        found = f"{__version__} at {where}, mixed with {len(foreign)} other files: {foreign[0]} …"
        fix = f"remove them, or: rm -r {where}; then {fix} --force-reinstall"
        return Check("stageflow", False, found, True, fix, "imports may find the other files")
    same = installed == __version__
    found = f"{__version__} at {where}" + ("" if same else f", installed as {installed}")
    return Check("stageflow", same, found, True, fix)


def _foreign_files(where: Path) -> list[str]:
    """Return the files in the package's folder that its installation did not write."""
    installed = distribution("stageflow")
    ours = {file.as_posix() for file in installed.files or ()}
    # A clone is elsewhere, or its files are not listed.
    if (
        Path(str(installed.locate_file(where.name))) != where
        or f"{where.name}/__init__.py" not in ours
    ):
        return []
    names = (path.relative_to(where.parent) for path in where.rglob("*") if path.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() not in ours and "__pycache__" not in name.parts
    )


_REQUIREMENT = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*;.*extra == ['"]([\w-]+)['"]""")


def extras() -> dict[str, dict[str, str]]:
    """Return the required versions of each extra of the installed package, by package."""
    try:
        lines = metadata.requires("stageflow") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[3] not in _OWN_EXTRAS:
            found.setdefault(match[3], {})[match[1]] = match[2].strip("()")
    for extra in found.keys() & BESIDE.keys():
        name, _, wanted = BESIDE[extra].partition("==")
        found[extra][name] = f"=={wanted}"
    return dict(sorted(found.items()))


def _state(package: str, wanted: str) -> tuple[bool, str]:
    try:
        found = version(package)
    except PackageNotFoundError:
        return False, "is missing"
    return (True, found) if fits(found, wanted) else (False, f"{found} does not fit {wanted}")


def fits(found: str, wanted: str) -> bool:
    """Return whether a version satisfies ``>=``, ``<`` and ``==`` of a requirement."""
    tests = {"==": lambda a, b: a == b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b}
    for operator, limit in re.findall(r"(==|>=|<)\s*([\w.]+)", wanted):
        ours, theirs = _numbers(found), _numbers(limit)
        length = max(len(ours), len(theirs))
        a, b = (numbers + (0,) * (length - len(numbers)) for numbers in (ours, theirs))
        if not tests[operator](a, b):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _program(name: str, needed: bool) -> Check:
    package, without, names = PROGRAMS[name]
    path = next(filter(None, map(shutil.which, names or (name,))), None)
    fix = f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {package}"
    if shutil.which("apt-get") is None:
        fix = f"install {package} with the package manager of this system"
    if path is None:
        return Check(name, False, "is missing", needed, fix, without)
    try:
        done = subprocess.run(  # noqa: S603 - a known program
            [path, "--version"], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, False, f"at {path} does not start: {error}", needed, fix, without)
    output = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode:
        return Check(name, False, f"at {path} does not start: {output[-1:]}", needed, fix, without)
    return Check(name, True, f"{output[0] if output else 'found'} ({path})", needed)


def _machine_file(path: Path) -> Check:
    name, without = "asv's machine file", "asv cannot store results; runs and tests work"
    if not path.exists():
        return Check(name, True, f"none yet: the first `stageflow pulse bench` creates {path}")
    try:
        known = [key for key in json.loads(path.read_text(encoding="utf-8")) if key != "version"]
    except (OSError, ValueError) as error:
        fix = f"mv {path} {path}.old    (asv creates a new one)"
        return Check(name, False, f"{path} cannot be read: {error}", False, fix, without)
    return Check(name, True, f"{path} lists {', '.join(known) or 'no machine yet'}")


def _writable(name: str, folder: Path, fix: str) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, True, f"{folder} can be written", needed=True)
    except OSError as error:
        return Check(name, False, f"{folder} cannot be written: {error.strerror}", True, fix)

"""``stageflow doctor``: what is installed, what is missing, and what works without it."""

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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from stageflow import __version__
from stageflow.cli.options import Commands, add_color, described, painted, say, wants_color
from stageflow.providers.extras import INSTALL

LEAST_PYTHON = (3, 11)
#: Environments of asv and results of some dozens of commits.
LEAST_FREE_BYTES = 1_000_000_000
#: Of this repository alone, and made of the others.
_OWN_EXTRAS = {"dev", "docs"}

#: What each extra is for: what does not work without it, and what does.
WITHOUT = {
    "alerts": "no rules are written for Prometheus; alerts of `stageflow pulse alert` work",
    "bench": "no `stageflow pulse`: nothing is measured or judged; runs and tests work",
    "cluster": "no turns on other machines, no shared breakers; runs in this process work",
    "completion": "the shell completes no commands; all of them work",
    "db": "no SqlDatabase, nothing in PostgreSQL; dead letters and telemetry in SQLite work",
    "local": "no `--provider local`: nothing hears, answers, speaks on this machine; fakes work",
    "openai": "no `--provider openai`, nor the local model, asked the same way; fakes work",
    "otel": "no traces for OpenTelemetry; the other sinks work",
    "prometheus": "no metrics for Prometheus; the other sinks work",
    "testing": "no contracts, strategies and simulation in pytest; pipelines run",
}
#: Programs by the names they go by, their package in Debian, and what works without them.
PROGRAMS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "git": (("git",), "git", "nothing is measured by commit; runs and tests work"),
    "make": (("make",), "make", "no short commands; what a Makefile calls works by itself"),
    "valgrind": (
        ("valgrind",),
        "valgrind",
        "the gate counts no instructions, and rests on exact figures and times",
    ),
    "chromium": (
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        "chromium",
        "the site's own tests do not run; the site works in any browser",
    ),
    "redis-server": (
        ("redis-server",),
        "redis-server",
        "no `make cluster` on this machine; turns go over any other Redis",
    ),
    "prometheus-server": (
        ("prometheus",),
        "prometheus",
        "no Prometheus on this machine; `stageflow pulse alert` evaluates the same rules",
    ),
    "alertmanager": (
        ("prometheus-alertmanager", "alertmanager"),
        "prometheus-alertmanager",
        "no Alertmanager on this machine; `stageflow pulse alert` delivers by itself",
    ),
}

_EXAMPLES = """\
  stageflow doctor
  stageflow doctor --need bench --need git      for a machine that measures: exits with 1 without
  stageflow doctor --json
"""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked for.

    Attributes:
        name: What.
        ok: Whether it is there, and as it should be.
        found: What was found, in words.
        needed: Whether anything works without it.
        mend: The command, or the deed, that brings it.
        without: What does not work without it, and what does.
    """

    name: str
    ok: bool
    found: str
    needed: bool = False
    mend: str = ""
    without: str = ""


def add_command(commands: Commands) -> None:
    """Add the command ``doctor``."""
    parser = described(
        commands,
        "doctor",
        "say what is installed, what is missing, and what works without it",
        _EXAMPLES + "\nexit codes: 0 all that is needed is there, 1 something needed is missing\n",
    )
    parser.add_argument(
        "--need",
        action="append",
        default=[],
        choices=[*WITHOUT, *PROGRAMS],
        metavar="NAME",
        help="count this extra or program as needed, too; may be repeated:"
        f" {', '.join([*WITHOUT, *PROGRAMS])}",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead")
    add_color(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    checks = list(examined(Path.cwd(), frozenset(arguments.need)))
    lacking = [check for check in checks if check.needed and not check.ok]
    if arguments.json:
        say(json.dumps({"ok": not lacking, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        _report(checks, wants_color(arguments.color))
        say("")
        if lacking:
            say(f"Missing, and needed: {', '.join(check.name for check in lacking)}.")
        else:
            say("All that is needed is there.")
    return 1 if lacking else 0


#: By whether it is there, and whether it is needed.
_LOOKS = {
    (True, True): ("✓", "green"),
    (True, False): ("✓", "green"),
    (False, True): ("✗", "red"),
    (False, False): ("-", "yellow"),
}


def _report(checks: list[Check], color: bool) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign, hue = _LOOKS[check.ok, check.needed]
        say(f"{painted(sign, hue, color)} {check.name:<{width}}  {check.found}")
        if not check.ok:
            indent = " " * (width + 4)
            say(f"{indent}mend: {check.mend}")
            if check.without:
                say(f"{indent}without: {check.without}")


def examined(folder: Path, needed: frozenset[str] = frozenset()) -> Iterator[Check]:
    """Look at everything; `folder` is where work is to be done, `needed` what must not lack."""
    yield _python()
    yield _package()
    for extra, packages in extras().items():
        yield _extra(extra, packages, extra in needed)
    for program in PROGRAMS:
        yield _program(program, program in needed)
    yield _machine_file(Path.home() / ".asv-machine.json")
    yield _writable("current folder", folder, "go to a folder of your own, or: chmod u+w .")
    temporary = Path(tempfile.gettempdir())
    yield _writable("temporary folder", temporary, "set TMPDIR to a folder that you may write")
    yield _disk(folder)


# ── Python and its packages ─────────────────────────────────────────────────────────────────


def _python() -> Check:
    return Check(
        "Python",
        sys.version_info >= LEAST_PYTHON,
        f"{platform.python_version()} at {sys.executable}",
        needed=True,
        mend="install Python 3.11 or newer, and make the virtual environment with that",
    )


def _package() -> Check:
    where = Path(__file__).parents[1]
    mend = f"{sys.executable} -m pip install -e {where.parent}"
    try:
        installed = version("stageflow")
    except PackageNotFoundError:
        found = f"{__version__} at {where}, not installed"
        return Check("stageflow", False, found, True, mend, "pytest finds no plugin")
    same = installed == __version__
    found = f"{__version__} at {where}" + ("" if same else f", installed as {installed}")
    return Check("stageflow", same, found, True, mend)


_REQUIREMENT = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*;.*extra == ['"]([\w-]+)['"]""")


#: A package that an extra needs and cannot name: it is installed by itself, without its own needs.
_BESIDE = re.compile(r"--no-deps ([\w-]+)(==[\w.]+)")


def extras() -> dict[str, dict[str, str]]:
    """The extras of the installed package: the versions that each asks for, by package."""
    try:
        lines = requires("stageflow") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[3] not in _OWN_EXTRAS:
            found.setdefault(match[3], {})[match[1]] = match[2].strip("()")
    for extra in found.keys() & INSTALL.keys():
        found[extra] |= dict(_BESIDE.findall(INSTALL[extra]))
    return dict(sorted(found.items()))


def _extra(extra: str, packages: Mapping[str, str], needed: bool) -> Check:
    states = {name: _state(name, wanted) for name, wanted in packages.items()}
    return Check(
        extra,
        all(ok for ok, _ in states.values()),
        ", ".join(f"{name} {state}" for name, (_, state) in states.items()),
        needed,
        _install(extra),
        WITHOUT.get(extra, "what is made of it; the engine works"),
    )


def _install(extra: str) -> str:
    command = INSTALL.get(extra, f"pip install 'stageflow[{extra}]'")
    return re.sub(r"\bpip install\b", f"{sys.executable} -m pip install", command)


def _state(package: str, wanted: str) -> tuple[bool, str]:
    try:
        found = version(package)
    except PackageNotFoundError:
        return False, "is missing"
    return (True, found) if fits(found, wanted) else (False, f"{found} does not fit {wanted}")


def fits(found: str, wanted: str) -> bool:
    """Whether a version fits what is asked, by the numbers of both.

    Only what this project's own requirements use is understood: ``>=``, ``<`` and ``==``.
    """
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


# ── programs, files, room ───────────────────────────────────────────────────────────────────


def _program(name: str, needed: bool) -> Check:
    called, package, without = PROGRAMS[name]
    path = next(filter(None, map(shutil.which, called)), None)
    mend = _installing(package)
    if path is None:
        return Check(name, False, "is missing", needed, mend, without)
    try:
        asked = subprocess.run(  # noqa: S603 - a known program, asked for its version
            [path, "--version"], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, False, f"at {path} does not start: {error}", needed, mend, without)
    said = (asked.stdout or asked.stderr).strip().splitlines()
    if asked.returncode:
        return Check(name, False, f"at {path} does not start: {said[-1:]}", needed, mend, without)
    return Check(name, True, f"{said[0] if said else 'is there'} ({path})", needed)


def _installing(package: str) -> str:
    if shutil.which("apt-get") is None:
        return f"install {package} by this system's own means"
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {package}"


def _machine_file(path: Path) -> Check:
    name, without = "asv's machine file", "results of asv cannot be filed; runs and tests work"
    if not path.exists():
        return Check(name, True, f"none yet: the first `stageflow pulse bench` makes {path}")
    try:
        known = [key for key in json.loads(path.read_text(encoding="utf-8")) if key != "version"]
    except (OSError, ValueError) as error:
        mend = f"mv {path} {path}.old    (it is made anew)"
        return Check(name, False, f"{path} cannot be read: {error}", False, mend, without)
    return Check(name, True, f"{path} knows {', '.join(known) or 'no machine yet'}")


def _writable(name: str, folder: Path, mend: str) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, True, f"{folder} can be written", needed=True)
    except OSError as error:
        return Check(name, False, f"{folder} cannot be written: {error.strerror}", True, mend)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        "disk",
        free >= LEAST_FREE_BYTES,
        f"{free / 1e9:,.1f} GB free at {folder}",
        needed=True,
        mend=f"make room, {LEAST_FREE_BYTES / 1e9:g} GB at least: `make clean` removes much",
    )

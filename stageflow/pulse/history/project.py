"""A repository that asv measures: its settings, and the calls of git and asv."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow._utils.arguments import option
from stageflow._utils.extras import install_command
from stageflow._utils.text import printable
from stageflow.pulse.errors import PulseError

Emit = Callable[[str], None]
#: The errors of reading a file or a line that was cut off, or holds something else.
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, RecursionError),
)
CONFIG_NAME = "asv.conf.json"
SET_ASIDE_DIR = ".asv/set-aside"
_REMOTES = "refs/remotes/"
#: Names of tags that asv can hand back to git: no option, and no bytes that were not UTF-8.
_PLAIN_REF = re.compile("(?!-)[^\N{REPLACEMENT CHARACTER}]+$")
#: One folder, no option of a command, and nothing that a file system or a shell reads otherwise.
_MACHINE = re.compile(r"\w(?:[^/\\:*?\"'<>|]{0,98}[^/\\:*?\"'<>|.\s])?")
#: How commands of asv are run that are not run as they are; -P keeps this folder from its path.
_ASV = {"publish": ("-P", str(Path(__file__).with_name("asv_publish.py")))}
_INTERRUPTS = 5
_INTERRUPT_PATIENCE_S = 1.0
#: Settings of a user that would change what git prints.
_FIXED = (
    "color.ui=false color.diff=false core.quotePath=false i18n.logOutputEncoding=UTF-8"
    " log.showSignature=false"
)
_GIT_OPTIONS = [word for setting in _FIXED.split() for word in ("-c", setting)]
#: What git tells its hooks, and what would lead it from a folder to another repository.
_OF_HOOKS = re.compile(
    "GIT_(?:DIR|WORK_TREE|INDEX_FILE|PREFIX|COMMON_DIR|NAMESPACE|OBJECT_DIRECTORY"
    "|ALTERNATE_OBJECT_DIRECTORIES|SHALLOW_FILE)"
)


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not _OF_HOOKS.fullmatch(name)}


def run_git(root: Path, *args: str, stdin: str = "", answers: Collection[int] = (0,)) -> str:
    """Run git in a folder and return what it printed.

    Exit codes in `answers` are answers, not failures. Paths among the arguments are not patterns.

    Raises:
        PulseError: git is missing or failed; carries what git wrote.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
            ["git", "--literal-pathspecs", *_GIT_OPTIONS, *args],  # noqa: S607 - the user's git
            cwd=root,
            env=_environment(),
            input=stdin.encode(),
            check=False,
            capture_output=True,
        )
    except FileNotFoundError as error:
        raise PulseError("git is not installed, or not on the PATH") from error
    if done.returncode not in answers:
        wrote = done.stderr.decode(errors="replace").strip()
        raise PulseError(f"git {args[0]} failed in {root}: {wrote}")
    return done.stdout.decode(errors="replace")


def machine_name(name: str) -> str:
    """Return a machine's name; raise `PulseError` unless it can name a folder on every system."""
    if not _MACHINE.fullmatch(name) or not name.isprintable():
        raise PulseError(
            f"{name!r} cannot be the name of a machine, under which results are filed: begin with "
            "a letter or digit, go on without slashes, colons and quotes, at most 100 characters, "
            "such as --machine ci-runner-1"
        )
    return name


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add ``--machine``."""

    def name(text: str) -> str:
        try:
            return machine_name(text)
        except PulseError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    option(parser, "--machine NAME", "file the results under this name", type=name)


@dataclass(frozen=True, slots=True)
class AsvProject:
    """The settings of a repository's ``asv.conf.json``.

    Its folder is `root`, where asv runs. `branch` is the first one configured, whose commits are
    measured; `package` is what they are of. Corrupt results are moved to `set_aside_dir`.
    """

    root: Path
    branch: str
    benchmarks_dir: Path
    results_dir: Path
    html_dir: Path
    set_aside_dir: Path
    package: str
    hash_length: int = 8
    repo: str = "."
    repo_subdir: str = ""

    @property
    def source(self) -> Path:
        """The root of the clone, which `root` may be a folder of."""
        path = (self.root / self.repo).resolve()
        # Else it is the address of what this is a clone of.
        return path if path.is_dir() else Path(self.git("rev-parse", "--show-toplevel")[:-1])

    @classmethod
    def load(cls, root: Path, *, reads_only: bool = False) -> AsvProject:
        """Read the settings of the repository in `root`, or raise `PulseError`.

        With `reads_only`, asv may be missing, and a folder without ``asv.conf.json`` is a project
        without a branch and without results.
        """
        for module in () if reads_only else ("asv", "virtualenv"):
            if importlib.util.find_spec(module) is None:
                raise PulseError(
                    f"{module} is not installed for {sys.executable}: install the extra, "
                    f"{install_command('bench')}",
                    code="pulse_asv_missing",
                )
        path = root.resolve() / CONFIG_NAME
        try:
            settings: dict[str, Any]
            if reads_only and not path.exists():
                settings = {"project": path.parent.name, "branches": [""]}
                settings |= {"results_dir": ".asv/results", "html_dir": ".asv/html"}
            else:
                settings = _read_config(path)
            package = settings["project"]
            branches = settings.get("branches") or [_default_branch(path.parent)]
            benchmarks = path.parent / settings.get("benchmark_dir", "benchmarks")
            return cls(
                root=path.parent,
                branch=str(branches[0]),
                benchmarks_dir=benchmarks.resolve(),
                results_dir=path.parent / settings.get("results_dir", "results"),
                html_dir=path.parent / settings.get("html_dir", "html"),
                set_aside_dir=path.parent / SET_ASIDE_DIR,
                package=package,
                hash_length=int(settings.get("hash_length", 8)),
                repo=str(settings.get("repo", ".")),
                repo_subdir=str(settings.get("repo_subdir", "")),
            )
        except FileNotFoundError:
            fix = "run this in a clone of the repository, or name one with --repository"
            raise PulseError(f"{path} does not exist: {fix}") from None
        except (KeyError, IndexError, TypeError) as error:
            raise PulseError(f"{path} must name 'project', the package: {error}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise PulseError(f"{path} is not JSON: {error}") from error

    @contextlib.contextmanager
    def _running_asv(self, args: Sequence[str], stdin: str) -> Iterator[subprocess.Popen[str]]:
        """Run an asv command in the repository, its output and errors as one stream."""
        with subprocess.Popen(  # noqa: S603 - a fixed program, and no shell
            [sys.executable, *_ASV.get(args[0], ("-m", "asv")), *args],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment() | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            # A group of its own: Ctrl-C reaches asv once, when the driver passes it on.
            process_group=0,
        ) as process:
            assert process.stdin is not None  # it is a pipe
            with process.stdin:
                process.stdin.write(stdin)
            process.stdin = None
            try:
                yield process
            finally:
                _stop(process)

    def asv(self, *args: str, stdin: str = "", limit_s: float | None = None) -> str:
        """Run an asv command and return what it printed; a `PulseError` has its last lines."""
        with self._running_asv(args, stdin) as process:
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise PulseError(
                    f"asv {args[0]} did not end within {limit_s:.0f} s", code="pulse_asv_failed"
                ) from None
        if process.returncode != 0:
            tail = "\n".join(output.strip().splitlines()[-15:])
            raise PulseError(
                f"asv {args[0]} ended with code {process.returncode}:\n{tail}",
                code="pulse_asv_failed",
            )
        return output

    def run_benchmarks(
        self, machine: str, commits: Sequence[str], *options: str, on_line: Callable[[str], None]
    ) -> None:
        """Let asv measure commits in their order; `on_line` gets each line of asv at once."""
        arguments = ["run", "--record-samples", "--show-stderr", "--no-pull"]
        arguments += ["--machine", machine, "HASHFILE:-", *options]
        with self._running_asv(arguments, "\n".join(commits)) as process:
            for line in process.stdout or ():
                on_line(line.rstrip("\n"))
            # asv's 2 says that some benchmark failed somewhere: the results say which.
            if process.wait() not in (0, 2):
                raise PulseError(
                    f"asv run ended with code {process.returncode}: see its lines",
                    code="pulse_asv_failed",
                )

    def know_machine(self, wanted: str | None) -> str:
        """Return the name that asv files results under; let asv describe the machine once."""
        name = machine_name(wanted or platform.node())
        path = Path.home() / ".asv-machine.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            known.pop("version", None)
            if name not in known and wanted is None and len(known) == 1:
                (name,) = known  # asv's own rule: the only machine known is this one
            if name in known:
                return machine_name(str(known[name]["machine"]))
        except UNREADABLE as error:
            raise PulseError(
                f"{path}, where asv describes this machine, is corrupt ({error!r}): "
                "move it away, and it is created again"
            ) from error
        self.asv("machine", "--yes", "--machine", name)
        return name

    @contextlib.contextmanager
    def config_of_branch(self) -> Iterator[Sequence[str]]:
        """Yield the options by which `asv publish` sees the branches and tags, and nothing else.

        asv asks git for each name alone, and stops where a name has two meanings or none: a branch
        that only a remote has; a file or a tag of the branch's name; a tag of a file. So it is
        given a bare repository without those, which borrows the commits of this clone.
        """
        settings = _read_config(self.root / CONFIG_NAME)
        settings.setdefault("branches", [self.branch])
        # The site is completed here.
        if ".stageflow.pulse.publisher" in settings.get("plugins", ()):
            settings["plugins"].remove(".stageflow.pulse.publisher")
        with tempfile.TemporaryDirectory(prefix="publish-") as folder:
            self._borrow(Path(folder), settings["branches"])
            settings["repo"] = folder
            # asv takes the paths in it from where the file is.
            with tempfile.NamedTemporaryFile(
                "w", dir=self.root, prefix=".", suffix=f".{CONFIG_NAME}", encoding="utf-8"
            ) as copy:
                json.dump(settings, copy)
                copy.flush()
                yield ("--config", copy.name)

    def _borrow(self, folder: Path, branches: Sequence[str]) -> None:
        """Make a bare repository that borrows this clone's commits, its tags and some branches."""
        tips = [self.git("rev-parse", f"{self.branch_ref(name)}^{{commit}}") for name in branches]
        objects, shallow = (
            self.root / self.git("rev-parse", "--git-path", path).removesuffix("\n")
            for path in ("objects", "shallow")
        )
        kind = self.git("rev-parse", "--show-object-format").strip()
        self.git("init", "--quiet", "--bare", "--template=", f"--object-format={kind}", str(folder))
        (folder / "objects/info/alternates").write_text(f"{objects}\n", encoding="utf-8")
        if shallow.exists():
            shutil.copy(shallow, folder)
        (folder / "HEAD").write_text(tips[0], encoding="utf-8")
        form = "--format=%(refname:lstrip=2) %(objecttype) %(*objecttype) %(objectname)"
        tags = (line.split(" ") for line in self.git("for-each-ref", form, "refs/tags").split("\n"))
        commands = [
            f"create refs/heads/{name} {tip}" for name, tip in zip(branches, tips, strict=True)
        ]
        commands += [
            f"create refs/tags/{name} {commit}\n"
            for name, *types, commit in (tag for tag in tags if len(tag) == 4)
            if "commit" in types and name not in ("HEAD", *branches) and _PLAIN_REF.match(name)
        ]
        run_git(folder, "update-ref", "--stdin", stdin="".join(commands))

    def git(self, *args: str, answers: Collection[int] = (0,)) -> str:
        """Run git in the repository, as `run_git` does."""
        return run_git(self.root, *args, answers=answers)

    def title(self, commit: str, form: str = "%h %s") -> str:
        """Return a commit's short hash and subject, safe to show; or another `form`."""
        return printable(self.git("show", "--no-patch", f"--format={form}", commit, "--").strip())

    def branch_ref(self, name: str | None = None) -> str:
        """Return the ref of a branch (by default the measured one): this clone's, or a remote's.

        A checkout of a single commit, as hosted runners make it, has branches of the remote only.
        """
        name = name or self.branch
        # Last as it is: asv takes any revision for a branch, such as HEAD.
        for ref in (f"refs/heads/{name}", *self.on_remotes(name), name):
            if self.commit(ref) is not None:
                return ref
        raise PulseError(
            f"this clone has no branch {name!r}, whose history is measured, and knows no remote "
            f"that has it: git fetch origin {name}:{name} brings it, "
            f"git branch {name} names the present commit so"
        )

    def on_remotes(self, name: str) -> list[str]:
        """Return the refs of the remotes' branches of that name, origin's first."""
        # Names may have spaces of Unicode in them, at which split() would part them.
        listed = self.git("for-each-ref", "--format=%(refname)", f"{_REMOTES}*/{name}").split("\n")
        return sorted(
            filter(None, listed), key=lambda ref: not ref.startswith(f"{_REMOTES}origin/")
        )

    def commit(self, revision: str) -> str | None:
        """Return the full hash of the commit that a revision names; None if it names none."""
        asked = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = self.git("rev-parse", *asked, answers=(0, 1)).strip()
        return found if found.isalnum() else None  # a range is two commits

    def is_shallow(self) -> bool:
        """Return whether this clone lacks the older part of its history."""
        return self.git("rev-parse", "--is-shallow-repository").strip() == "true"


def _read_config(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        return dict(json.loads(text))
    except ValueError:
        return dict(importlib.import_module("json5").loads(text))


def _default_branch(root: Path) -> str:
    """Return ``main`` or ``master``, which a clone has; else what is checked out."""
    refs = run_git(root, "for-each-ref", "--format=%(refname:lstrip=2)", "refs").split("\n")
    names = {name.removeprefix("origin/") for name in refs}
    return next((name for name in ("main", "master") if name in names), "HEAD")


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt a command that still runs, as Ctrl-C does, and wait for its end."""
    for _ in range(_INTERRUPTS):
        if process.poll() is not None:
            return
        # More than once: asv loses an interrupt that comes while it starts a program.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_INTERRUPT_PATIENCE_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

"""A repository that asv measures: its settings, and the two programs that are asked about it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stageflow.pulse.errors import AsvFailedError, AsvMissingError, PulseError

CONFIG_NAME = "asv.conf.json"
SET_ASIDE_DIR = ".asv/set-aside"
_INTERRUPTS = 5
_INTERRUPT_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class AsvProject:
    """The settings of one repository's ``asv.conf.json`` that matter here.

    Attributes:
        root: Folder that holds ``asv.conf.json``; asv runs there.
        branch: The branch whose commits are measured: the first one configured.
        benchmarks_dir: Where the benchmarks are.
        results_dir: Where asv keeps its result files.
        html_dir: Where the site is published.
        set_aside_dir: Where corrupt result files are moved to.
        package: Name of the package that is measured: its folder lies in `root`.
    """

    root: Path
    branch: str
    benchmarks_dir: Path
    results_dir: Path
    html_dir: Path
    set_aside_dir: Path
    package: str

    @classmethod
    def load(cls, root: Path) -> AsvProject:
        """Read the settings of the repository in `root`.

        Raises:
            AsvMissingError: asv or virtualenv is not installed.
            PulseError: `root` has no usable ``asv.conf.json``.
        """
        _require_asv()
        path = root.resolve() / CONFIG_NAME
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                root=path.parent,
                branch=settings["branches"][0],
                benchmarks_dir=path.parent / settings.get("benchmark_dir", "benchmarks"),
                results_dir=path.parent / settings["results_dir"],
                html_dir=path.parent / settings["html_dir"],
                set_aside_dir=path.parent / SET_ASIDE_DIR,
                package=settings["project"],
            )
        except FileNotFoundError:
            raise PulseError(
                f"{path} does not exist: run this in a clone of the repository, "
                "or name one with --repository"
            ) from None
        except ValueError as error:
            raise PulseError(f"{path} is not plain JSON (no comments allowed): {error}") from error
        except (KeyError, IndexError, TypeError) as error:
            raise PulseError(
                f"{path} must name 'branches' (at least one), 'project' (the package), "
                f"'results_dir' and 'html_dir': {error}"
            ) from error

    def start_asv(self, *args: str, stdin: str = "") -> subprocess.Popen[str]:
        """Start an asv command in the repository, and hand it `stdin`.

        Its standard output and its errors come as one; end it with `stop_asv`.
        """
        process = subprocess.Popen(  # noqa: S603 - a fixed program, and no shell
            [sys.executable, "-m", "asv", *args],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            # A group of its own: Ctrl-C reaches asv once, when the driver passes it on.
            process_group=0,
        )
        assert process.stdin is not None  # it is a pipe
        with process.stdin:
            process.stdin.write(stdin)
        process.stdin = None
        return process

    def asv(self, *args: str, stdin: str = "") -> str:
        """Run an asv command to its end and return what it printed.

        Raises:
            AsvFailedError: It ended with another code than 0; carries the last lines it printed.
        """
        process = self.start_asv(*args, stdin=stdin)
        try:
            output, _ = process.communicate()
        finally:
            stop_asv(process)
        if process.returncode != 0:
            tail = "\n".join(output.strip().splitlines()[-15:])
            raise AsvFailedError(f"asv {args[0]} ended with code {process.returncode}:\n{tail}")
        return output

    def run_benchmarks(
        self,
        machine: str,
        commits: Sequence[str],
        *options: str,
        on_line: Callable[[str], None],
    ) -> None:
        """Let asv measure some commits in their order, keeping all samples.

        Args:
            machine: Name that the results are filed under.
            commits: Full hashes.
            options: More options of ``asv run``.
            on_line: Is told each line that asv prints, as it does.

        Raises:
            AsvFailedError: asv could not go on.
        """
        arguments = ["run", "--record-samples", "--show-stderr", "--no-pull"]
        arguments += ["--machine", machine, "HASHFILE:-", *options]
        process = self.start_asv(*arguments, stdin="\n".join(commits))
        try:
            assert process.stdout is not None  # it is a pipe
            for line in process.stdout:
                on_line(line.rstrip("\n"))
            # asv's 2 says that some benchmark failed somewhere: the results say which.
            if process.wait() not in (0, 2):
                raise AsvFailedError(f"asv run ended with code {process.returncode}: see its lines")
        finally:
            stop_asv(process)

    def know_machine(self, wanted: str | None) -> str:
        """The machine name that asv files results under; has asv describe the machine once.

        Raises:
            PulseError: asv's description of this machine is corrupt.
        """
        name = wanted or platform.node()
        path = Path.home() / ".asv-machine.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            known.pop("version", None)
            if name not in known and wanted is None and len(known) == 1:
                (name,) = known  # asv's own rule: the only machine known is this one
            if name in known:
                return str(known[name]["machine"])
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise PulseError(
                f"{path}, where asv describes this machine, is corrupt ({error!r}): "
                "move it away, it is made anew"
            ) from error
        self.asv("machine", "--yes", "--machine", name)
        return name

    def git(self, *args: str) -> str:
        """Run git in the repository and return what it printed.

        Raises:
            PulseError: git is missing or refused.
        """
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
                ["git", *args],  # noqa: S607 - wherever the user keeps it
                cwd=self.root,
                check=False,
                capture_output=True,
                text=True,
                encoding="utf-8",
            )
        except FileNotFoundError as error:
            raise PulseError("git is not installed, or not on the PATH") from error
        if done.returncode != 0:
            raise PulseError(f"git {args[0]} failed in {self.root}: {done.stderr.strip()}")
        return done.stdout

    def require_branch(self) -> None:
        """Check that the branch whose history is shown exists in this clone.

        Raises:
            PulseError: It does not.
        """
        try:
            self.git("rev-parse", "--verify", "--quiet", f"{self.branch}^{{commit}}")
        except PulseError as error:
            raise PulseError(
                f"this clone has no branch {self.branch!r}, whose history is measured: "
                f"git fetch origin {self.branch}:{self.branch} brings it, "
                f"git branch {self.branch} names the present commit so"
            ) from error


def stop_asv(process: subprocess.Popen[str]) -> None:
    """Interrupt an asv command that still runs, as Ctrl-C does, and wait for its end."""
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


def _require_asv() -> None:
    for module in ("asv", "virtualenv"):
        if importlib.util.find_spec(module) is None:
            raise AsvMissingError(
                f"{module} is not installed for {sys.executable}: install the extra, "
                "pip install 'stageflow[bench]' (in a clone: pip install -e '.[bench]')"
            )

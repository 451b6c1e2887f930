"""Run a job of a workflow as a hosted runner does: its checkout, its environment, its steps."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{(.+?)\}\}")


@dataclass(frozen=True)
class Event:
    """An event that starts a workflow.

    Attributes:
        event_name: Such as ``push``.
        ref: The ref that is checked out, by its full name on the server.
        before: Of a push: the commit that the ref named before.
        base_ref: Of a pull request: the branch that it is to be merged into.
        forced: Whether a push took commits away.
    """

    event_name: str
    ref: str
    before: str = ""
    base_ref: str = ""
    forced: bool = False

    def value(self, text: str) -> str:
        """Return a text with its expressions evaluated; an unknown name raises."""
        event = SimpleNamespace(before=self.before, forced=self.forced)
        github = SimpleNamespace(
            event_name=self.event_name, ref=self.ref, base_ref=self.base_ref, event=event
        )
        names = {"__builtins__": {}, "github": github, "format": str.format}

        def evaluated(found: re.Match[str]) -> str:
            source = found[1].replace("&&", " and ").replace("||", " or ").strip()
            return str(eval(source, names))

        return _EXPRESSION.sub(evaluated, text)


@dataclass
class Job:
    """A job that has run.

    Attributes:
        clone: The checkout.
        codes: The exit code of each command that ran, in order.
        output: What all of them printed.
        summary: The summary that the job shows.
    """

    clone: Path
    codes: dict[str, int] = field(default_factory=dict)
    output: str = ""

    @property
    def summary(self) -> str:
        return self.clone.with_suffix(".summary").read_text(encoding="utf-8")


def run_job(workflow: Path, job: str, event: Event, runner: Runner, folder: Path) -> Job:
    """Check out and run the commands of a job, up to the first that fails.

    Args:
        workflow: The file.
        job: The name of the job.
        event: What started it.
        runner: Where it runs.
        folder: A new folder for the checkout.
    """
    steps: list[dict[str, Any]] = yaml.safe_load(workflow.read_text("utf-8"))["jobs"][job]["steps"]
    done = Job(folder)
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            runner.check_out(folder, event, int(step.get("with", {}).get("fetch-depth", 1)))
        elif "run" in step and (step.get("if") == "always()" or not any(done.codes.values())):
            given = {name: event.value(text) for name, text in step.get("env", {}).items()}
            given["GITHUB_STEP_SUMMARY"] = str(folder.with_suffix(".summary"))
            ended = runner.run(folder, event.value(step["run"]), given)
            done.codes[step["run"]] = ended.returncode
            done.output += ended.stdout
    return done


@dataclass(frozen=True)
class Runner:
    """A machine that runs jobs of one repository.

    Attributes:
        origin: The bare repository on the server.
        programs: Programs of the virtual environment, which no job installs anew.
        makefile: The Makefile that the steps call.
        env: The environment of all commands.
    """

    origin: Path
    programs: Path
    makefile: Path
    env: dict[str, str]

    def check_out(self, folder: Path, event: Event, depth: int) -> None:
        """Leave the clone that ``actions/checkout`` leaves."""
        kind, _, name = event.ref.removeprefix("refs/").partition("/")
        remote = f"refs/remotes/{'origin' if kind == 'heads' else kind}/{name}"
        self.git(folder.parent, "init", "--quiet", "--initial-branch", "master", str(folder))
        self.git(folder, "remote", "add", "origin", self.origin.as_uri())
        refs = [f"+{event.ref}:{remote}"]
        if depth == 0:
            refs += ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        limit = [f"--depth={depth}"] if depth else []
        self.git(folder, "fetch", "--quiet", "--no-tags", *limit, "origin", *refs)
        place = ("-B", name, remote) if kind == "heads" else ("--detach", remote)
        self.git(folder, "checkout", "--quiet", *place)
        shutil.copy(self.makefile, folder)
        # Newer than pyproject.toml, so that make takes it for set up.
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(self.programs)
        (folder / ".venv" / ".ready").touch()

    def git(self, folder: Path, *arguments: str) -> str:
        """Run git and return its output, stripped."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=self.env,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout.strip()

    def run(
        self, folder: Path, command: str, given: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run the command of a step."""
        outer = ("COV_", "COVERAGE", "MAKE", "PYTEST", "MFLAGS")
        kept = {name: text for name, text in self.env.items() if not name.startswith(outer)}
        return subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=folder,
            env=kept | {"PATH": f"{self.programs}:{kept['PATH']}"} | given,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

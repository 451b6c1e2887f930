"""Measure the newest commits that have no results yet, newest first, and publish the history."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stageflow.pulse.errors import PulseError
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import (
    read_benchmarks,
    read_results,
    report_set_aside,
    set_aside_corrupt,
)
from stageflow.pulse.shards import WHOLE, Shard
from stageflow.pulse.site import Published, discover, publish

DEFAULT_COMMITS = 5
EXIT_OK, EXIT_NEWEST_FAILED, EXIT_INTERRUPTED = 0, 3, 130
_COMMIT_LINE = re.compile(r"· For .* commit ([0-9a-f]{7,40})")
_FIELD = "\x1f"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how.

    Attributes:
        commits: How many unmeasured commits to measure, at most.
        machine: Name that the results are filed under; None takes the one that asv knows.
        pattern: Regular expression that a benchmark's name must match; None takes all.
        shard: Which part of those benchmarks; another machine measures the others.
        attributes: Overrides of benchmark attributes, as ``NAME=VALUE``.
        retry_failed: Whether commits with failed benchmarks count as unmeasured.
    """

    commits: int = DEFAULT_COMMITS
    machine: str | None = None
    pattern: str | None = None
    shard: Shard = WHOLE
    attributes: tuple[str, ...] = ()
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as git names it."""

    hash: str
    short: str
    subject: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What asv's results say about one commit, by benchmark name.

    Attributes:
        measured: Have a value.
        unavailable: Were skipped: the commit lacks what they need.
        failed: Ended with an error there, or the commit could not be built.
        missing: Were not tried, or in an older version.
    """

    measured: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.measured)} measured"]
        if self.unavailable:
            parts.append(f"{len(self.unavailable)} not available there")
        if self.failed and not self.measured and not self.unavailable:
            parts.append("could not be built, or all failed (asv's lines above say why)")
        elif self.failed:
            parts.append(f"{len(self.failed)} FAILED: {', '.join(self.failed)}")
        if self.missing:
            parts.append(f"{len(self.missing)} not reached")
        return ", ".join(parts)


def bench(project: AsvProject, options: Options, emit: Callable[[str], None] = print) -> int:
    """Measure, publish and report.

    Args:
        project: The repository to measure.
        options: What to measure, and how.
        emit: Is told the progress, line by line.

    Returns:
        0 when the history is published; 3 when it is, but the newest commit measured now could
        not be built there or has failed benchmarks (failures of older commits, which nothing can
        mend any more, are only reported); 130 when interrupted, with what was measured published.

    Raises:
        PulseError: Nothing could be measured or published.
    """
    project.require_branch()
    set_aside = set_aside_corrupt(project.results_dir, project.set_aside_dir)
    report_set_aside(set_aside, project.root, emit)
    machine = project.know_machine(options.machine)
    history = list(_history(project))
    emit(f"Finding the benchmarks of {project.root.name} (the first time, asv makes a virtualenv)")
    newest = [commit.hash for commit in history[: options.commits]]
    discover(project, newest, ("--machine", machine))
    options = _of_shard(project, options)
    chosen = _unmeasured(project, machine, history, options)
    started = time.monotonic()
    interrupted = bool(chosen) and _measure(project, machine, chosen, options, emit)
    published = publish(project, emit)
    emit("")
    outcomes = _outcomes(project, machine, options.pattern)
    _summarise(project, chosen, outcomes, time.monotonic() - started, emit)
    say_how_to_open(project, published, emit)
    if interrupted:
        return EXIT_INTERRUPTED
    newest_outcome = outcomes.get(chosen[0].hash) if chosen else None
    failed = newest_outcome is not None and newest_outcome.failed
    return EXIT_NEWEST_FAILED if failed else EXIT_OK


def _of_shard(project: AsvProject, options: Options) -> Options:
    """The options with a pattern that only the benchmarks of the shard match."""
    if options.shard.count == 1:
        return options
    names = sorted(
        name
        for name in read_benchmarks(project.results_dir)
        if options.pattern is None or re.search(options.pattern, name)
    )
    mine = [re.escape(name) for number, name in enumerate(names) if options.shard.takes(number)]
    if not mine:
        raise PulseError(
            f"shard {options.shard} of {len(names)} benchmarks holds none: use fewer shards"
        )
    return replace(options, pattern=f"^(?:{'|'.join(mine)})$")


def _history(project: AsvProject) -> Iterator[Commit]:
    """The commits of the branch, newest first, as asv follows them: first parents only."""
    log = project.git(
        "log",
        "--first-parent",
        f"--format=%H{_FIELD}%h{_FIELD}%s",
        project.branch,
        "--",
    )
    for line in log.splitlines():
        yield Commit(*line.split(_FIELD))


def _outcomes(project: AsvProject, machine: str, pattern: str | None) -> dict[str, Outcome]:
    """What is known of each commit on this machine and this version of Python, by commit hash."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    benchmarks = {
        name: benchmark
        for name, benchmark in read_benchmarks(project.results_dir).items()
        if pattern is None or re.search(pattern, name)
    }
    return {
        result["commit_hash"]: _outcome(result, benchmarks)
        for result in read_results(project.results_dir)
        if result["params"]["machine"] == machine and result["python"] == python
    }


def _outcome(result: dict[str, Any], benchmarks: dict[str, dict[str, Any]]) -> Outcome:
    outcome = Outcome()
    for name, benchmark in benchmarks.items():
        row = dict(zip(result["result_columns"], result["results"].get(name, []), strict=False))
        values = row.get("result")
        if row.get("version") != benchmark["version"] or row["params"] != benchmark["params"]:
            outcome.missing.append(name)
        elif values is None or None in values:
            outcome.failed.append(name)
        elif all(math.isnan(value) for value in values):
            outcome.unavailable.append(name)
        else:
            outcome.measured.append(name)
    return outcome


def _unmeasured(
    project: AsvProject, machine: str, history: list[Commit], options: Options
) -> list[Commit]:
    outcomes = _outcomes(project, machine, options.pattern)
    chosen = []
    for commit in history:
        outcome = outcomes.get(commit.hash)
        done = outcome is not None and not outcome.missing
        if not done or (options.retry_failed and outcome is not None and outcome.failed):
            chosen.append(commit)
    return chosen[: options.commits]


def _measure(
    project: AsvProject,
    machine: str,
    chosen: list[Commit],
    options: Options,
    emit: Callable[[str], None],
) -> bool:
    """Let asv measure the chosen commits in their order; returns whether it was interrupted."""
    arguments = ["--skip-existing-successful"]
    if options.pattern is not None:
        arguments += ["--bench", options.pattern]
    for attribute in options.attributes:
        arguments += ["--attribute", attribute]
    progress = _Progress(chosen, emit)
    try:
        hashes = [commit.hash for commit in chosen]
        project.run_benchmarks(machine, hashes, *arguments, on_line=progress.line)
    except KeyboardInterrupt:
        emit("Interrupted; what is measured so far is kept and published.")
        return True
    return False


class _Progress:
    """Puts a line of its own before what asv says about each commit."""

    def __init__(self, chosen: list[Commit], emit: Callable[[str], None]) -> None:
        self._chosen = chosen
        self._emit = emit
        self._started = time.monotonic()
        self._done = 0

    def line(self, line: str) -> None:
        match = _COMMIT_LINE.search(line)
        if match:
            self._commit_begins(match.group(1))
        self._emit(line)

    def _commit_begins(self, prefix: str) -> None:
        total = len(self._chosen)
        position = next(i for i, c in enumerate(self._chosen) if c.hash.startswith(prefix))
        elapsed_s = time.monotonic() - self._started
        # The time before the first commit is small: the environment stands already.
        rest = (
            f"about {_clock(elapsed_s / position * (total - position))} to go"
            if position
            else "an estimate of the rest follows after this one"
        )
        commit = self._chosen[position]
        self._emit("")
        self._emit(f"=== commit {position + 1} of {total}: {commit.short} {commit.subject}")
        self._emit(f"=== {_clock(elapsed_s)} elapsed, {rest}")


def _summarise(
    project: AsvProject,
    chosen: list[Commit],
    outcomes: dict[str, Outcome],
    elapsed_s: float,
    emit: Callable[[str], None],
) -> None:
    if not chosen:
        emit(f"Every commit of {project.branch} has been measured on this machine already.")
        return
    emit(f"Commits of {project.branch} measured in {_clock(elapsed_s)}:")
    for commit in chosen:
        emit(f"  {commit.short}  {outcomes.get(commit.hash, 'not reached')}")
        emit(f"  {'':{len(commit.short)}}  ({commit.subject})")


def say_how_to_open(project: AsvProject, published: Published, emit: Callable[[str], None]) -> None:
    """Say where the site is and the two ways to look at it."""
    emit(
        f"The history of {published.commits} commits, {published.benchmarks} benchmarks, "
        f"is published in {published.index}"
    )
    emit("Open that file in a browser (no network is needed), or run")
    emit(f"  {sys.executable} -m stageflow.pulse serve --repository {project.root}")


def _clock(duration_s: float) -> str:
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes}:{seconds:02d}"

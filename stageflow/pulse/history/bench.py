"""Measure the newest commits that have no results yet, newest first, and publish the history."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from stageflow._utils.arguments import option
from stageflow._utils.progress import waiting
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history.commits import Commit, commits_of
from stageflow.pulse.history.project import AsvProject, Emit
from stageflow.pulse.history.results import cells_of, clear_corrupt, read_benchmarks, read_results
from stageflow.pulse.history.site import Published, discover, publish

DEFAULT_COMMITS = 5
#: How many digits of a commit's hash are shown.
SHOWN = 8
EXIT_OK, EXIT_NEWEST_FAILED = 0, 3
EXIT_INTERRUPTED = 130
#: How much of a run is done, and how often that is shown.
_SHARE, _SHOWN_EACH_S = re.compile(r"\[ *([\d.]+)%\]"), 15.0
_COMMIT_LINE = re.compile(r"· For .* commit ([0-9a-f]{7,40})")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of several equal parts of something that can be counted: the `index`-th, from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``INDEX/COUNT``; the type of an option."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise argparse.ArgumentTypeError(f"{text!r} is not INDEX/COUNT, such as 2/4")
        return cls(int(index), int(count))

    def takes(self, number: int) -> bool:
        """Return whether the thing of this number, from 0, is in the shard; neighbours are not."""
        return number % self.count == self.index - 1


#: All of it, in one part.
WHOLE = Shard(1, 1)


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add ``--shard``."""
    text = "only the I-th of N equal parts, so that N machines share the work"
    option(parser, "--shard I/N", text, type=Shard.parse, default=WHOLE)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options of ``stageflow pulse bench``."""

    commits: int = DEFAULT_COMMITS
    machine: str | None = None
    pattern: str | None = None
    shard: Shard = WHOLE
    attributes: Sequence[str] = ()
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Names of benchmarks by what asv's results say about one commit."""

    measured: list[str] = field(default_factory=list)
    #: Were skipped: the commit lacks what they need.
    unavailable: list[str] = field(default_factory=list)
    #: Ended with an error, or the commit could not be built.
    failed: list[str] = field(default_factory=list)
    #: Were not tried, or in an older version.
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failed = f"{len(self.failed)} FAILED: {', '.join(self.failed)}"
        if not self.measured and not self.unavailable:
            failed = "could not be built, or all failed (asv's lines above say why)"
        parts = {
            f"{len(self.measured)} measured": True,
            f"{len(self.unavailable)} not available there": self.unavailable,
            failed: self.failed,
            f"{len(self.missing)} not reached": self.missing,
        }
        return ", ".join(text for text, shown in parts.items() if shown)


def bench(
    project: AsvProject,
    options: BenchOptions,
    emit: Emit = print,
    publish: Callable[[AsvProject, Emit], Published] = publish,
) -> int:
    """Measure, publish and report.

    Returns:
        0 if the history is published; 3 if the newest commit measured now could not be built or
        has failed benchmarks; 130 if interrupted, with what was measured published.

    Raises:
        PulseError: Nothing could be measured or published.
    """
    clear_corrupt(project, emit)
    machine = project.know_machine(options.machine)
    history = commits_of(project)[::-1]
    emit(f"Finding the benchmarks of {project.root.name} (the first time, asv makes a virtualenv)")
    newest = [commit.hash for commit in history[: options.commits]]
    with waiting("Finding the benchmarks"):
        discover(project, newest, ("--machine", machine))
    options = _of_shard(project, options)
    outcomes = _outcomes(project, machine, options.pattern)

    def done(commit: Commit) -> bool:
        found = outcomes.get(commit.hash)
        again = found is not None and found.failed and options.retry_failed
        return found is not None and not found.missing and not again

    chosen = [commit for commit in history if not done(commit)][: options.commits]
    arguments = ["--skip-existing-successful"]
    if options.pattern is not None:
        arguments += ["--bench", options.pattern]
    for attribute in options.attributes:
        arguments += ["--attribute", attribute]
    started, interrupted = time.monotonic(), False
    line, hashes = _Progress(chosen, emit).line, [commit.hash for commit in chosen]
    try:
        # The newest commit is published at once: the others take several times as long.
        for part in filter(None, (hashes[:1], hashes[1:])):
            project.run_benchmarks(machine, part, *arguments, on_line=line)
            if part != hashes[-len(part) :]:
                with suppress(PulseError):  # it could not be built
                    emit(f"The newest commit is published in {publish(project, emit).index}")
    except KeyboardInterrupt:
        emit("Interrupted; what is measured so far is kept and published.")
        interrupted = True
    published = publish(project, emit)
    emit("")
    outcomes = _outcomes(project, machine, options.pattern)
    if chosen:
        emit(f"Commits of {project.branch} measured in {_clock(time.monotonic() - started)}:")
    else:
        emit(f"Every commit of {project.branch} has been measured on this machine already.")
    for commit in chosen:
        emit(f"  {commit.hash[:SHOWN]}  {outcomes.get(commit.hash, 'not reached')}")
        emit(f"  {'':{SHOWN}}  ({commit.subject})")
    say_how_to_open(project, published, emit)
    if interrupted:
        return EXIT_INTERRUPTED
    newest_outcome = outcomes.get(chosen[0].hash) if chosen else None
    failed = newest_outcome is not None and newest_outcome.failed
    return EXIT_NEWEST_FAILED if failed else EXIT_OK


def _chosen_benchmarks(project: AsvProject, pattern: str | None) -> dict[str, dict[str, Any]]:
    found = read_benchmarks(project.results_dir).items()
    return {name: row for name, row in found if pattern is None or re.search(pattern, name)}


def _of_shard(project: AsvProject, options: BenchOptions) -> BenchOptions:
    shard = options.shard
    if shard.count == 1:
        return options
    names = sorted(_chosen_benchmarks(project, options.pattern))
    mine = [re.escape(name) for number, name in enumerate(names) if shard.takes(number)]
    if not mine:
        raise PulseError(f"shard {shard} of {len(names)} benchmarks holds none: use fewer shards")
    return replace(options, pattern=f"^(?:{'|'.join(mine)})$")


def _outcomes(project: AsvProject, machine: str, pattern: str | None) -> dict[str, Outcome]:
    here = machine, f"{sys.version_info[0]}.{sys.version_info[1]}"
    benchmarks = _chosen_benchmarks(project, pattern)
    found: dict[str, Outcome] = {}
    for result in read_results(project.results_dir):
        if (result["params"]["machine"], result["python"]) != here:
            continue
        outcome, cells = Outcome(), dict(cells_of(result))
        for name, benchmark in benchmarks.items():
            row = cells.get(name, {})
            values = row.get("result")
            if any(row.get(key) != benchmark[key] for key in ("version", "params")):
                outcome.missing.append(name)
            elif values is None or None in values:
                outcome.failed.append(name)
            elif all(math.isnan(value) for value in values):
                outcome.unavailable.append(name)
            else:
                outcome.measured.append(name)
        found[result["commit_hash"]] = outcome
    return found


class _Progress:
    """Emits a line before asv's about each commit, and the remaining time now and then."""

    def __init__(self, chosen: list[Commit], emit: Emit) -> None:
        self._chosen = chosen
        self._emit = emit
        self._started = time.monotonic()
        self._shown_s = self._run_s = 0.0
        self._later = 0

    def line(self, line: str) -> None:
        total, elapsed_s = len(self._chosen), time.monotonic() - self._started
        if match := _COMMIT_LINE.search(line):
            at = next(i for i, c in enumerate(self._chosen) if c.hash.startswith(match[1]))
            if at < 2:  # asv runs first for the newest commit, then for the others
                self._run_s, self._later = elapsed_s, 0 if at else total - 1
            rest = "an estimate of the rest follows"
            if at:
                rest = f"about {_clock(elapsed_s / at * (total - at))} to go"
            commit, self._shown_s = self._chosen[at], elapsed_s
            self._emit(f"\n=== commit {at + 1} of {total}: {commit.hash[:SHOWN]} {commit.subject}")
            self._emit(f"=== {_clock(elapsed_s)} elapsed, {rest}")
        elif (share := _SHARE.match(line)) and elapsed_s - self._shown_s > _SHOWN_EACH_S:
            done = max(float(share[1]) / 100, 0.01)
            left_s = (elapsed_s - self._run_s) * ((1 + self._later) / done - 1)
            self._emit(f"=== {_clock(elapsed_s)} elapsed, about {_clock(left_s)} to go")
            self._shown_s = elapsed_s
        self._emit(line)


def say_how_to_open(project: AsvProject, published: Published, emit: Emit) -> None:
    """Say where the site is and the two ways to look at it."""
    emit(
        f"The history of {published.commits} commits, {published.benchmarks} benchmarks, "
        f"is published in {published.index}"
    )
    emit("Open that file in a browser (no network is needed), or run")
    emit(f"  {sys.executable} -m stageflow pulse serve --repository {project.root}")


def _clock(duration_s: float) -> str:
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes}:{seconds:02d}"

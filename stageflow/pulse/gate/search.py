"""Find the commit that made a series slower, and draw where the time of an operation goes."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template

from stageflow._utils.extras import install_command
from stageflow.pulse import history as hist
from stageflow.pulse.errors import PulseError, WorkerFailedError
from stageflow.pulse.gate.measure import resolved
from stageflow.pulse.gate.pairs import time_pairs, timing_of
from stageflow.pulse.gate.worker import Worker, has_worker, list_benchmarks, program_of, tree
from stageflow.pulse.history import GATE_DIR, AsvProject, Emit, Signal, signal_of

#: A smaller change of a timed series is not searched for: it could be the machine's.
LEAST_TIMED_RATIO = 1.05


def bisect(project: AsvProject, part: str, base: str | None, head: str, emit: Emit = print) -> None:
    """Emit the commit after `base` that brought a series nearer to its value at `head`.

    Several commits are named if those between cannot be measured. `part` is the series, or a part
    of its name that no other has. Without a `base`, it is the branch in asv.conf.json.
    """
    found = list_benchmarks(project)
    series = hist.resolve_series(
        part, [name for name in found.units if signal_of(name) is not Signal.HISTORY]
    )
    first, last = resolved(project, base or project.branch), resolved(project, head)
    row = [first, *_between(project, first, last)]
    timed = signal_of(series) is Signal.TIMED
    unit = "times the base" if timed else found.units[series]
    cost = partial(_timed, project, series, first) if timed else partial(_measured, project, series)
    search = _Search(project, series, unit, cost, emit)
    low, high = search.between(row)
    before, after = search.end(row[low]), search.end(row[high])
    ratio = f", {after / before:.3f} times" if before > 0 else ""
    several = " one of (those between cannot be measured)" if high - low > 1 else ""
    emit(
        f"{series} changed from {before:g} to {after:g} {unit}{ratio} "
        f"({len(search.values)} commits measured), in{several}"
    )
    for commit in row[low + 1 : high + 1]:
        emit(f"  {project.title(commit, '%h %an %as %s')}")


def _between(project: AsvProject, base: str, head: str) -> list[str]:
    span = ("--first-parent", "--reverse", f"{base}..{head}", "--")
    listed = project.git("rev-list", *span).split()
    if not listed:
        raise PulseError(
            f"there is no commit between {base[:10]} and {head[:10]}: name an older base "
            "with --base, such as HEAD~20"
        )
    return listed


#: The value of a series on a commit, or why it has none there.
Cost = Callable[[str], float | str]


def _measured(project: AsvProject, series: str, commit: str) -> float | str:
    folder = project.benchmarks_dir
    with tree(project, commit) as files, Worker(folder, files) as worker:
        answer = worker.measure([series])[series]
    if "value" in answer:
        return float(answer["value"])
    return str(answer.get("error") or f"lacks {', '.join(answer['missing'])}")


def _timed(project: AsvProject, series: str, base: str, commit: str) -> float | str:
    if commit == base:
        return 1.0
    operation = hist.operation_of(series)
    with tree(project, base) as before, tree(project, commit) as after:
        both = time_pairs(project.benchmarks_dir, (before, after), [operation], lambda _: None)
    timing = timing_of(both[operation])
    if timing.cpu is not None:
        return timing.cpu.median
    return timing.head.error or timing.base.error or f"lacks {', '.join(timing.head.missing)}"


@dataclass(slots=True)
class _Search:
    """Halves a row of commits until one is left, around those that cannot be measured."""

    project: AsvProject
    series: str
    unit: str
    cost: Cost
    emit: Emit
    values: dict[str, float | str] = field(default_factory=dict)

    def between(self, row: Sequence[str]) -> tuple[int, int]:
        before, after = (self.end(commit) for commit in (row[0], row[-1]))
        least = LEAST_TIMED_RATIO if signal_of(self.series) is Signal.TIMED else 1.0
        if after <= before * least:
            raise PulseError(
                f"{self.series} did not regress between {row[0][:10]} ({before:g} {self.unit}) "
                f"and {row[-1][:10]} ({after:g}): name other ends with --base and --head"
            )
        middle = math.sqrt(before * after) if before > 0 else (before + after) / 2
        low, high = 0, len(row) - 1
        while (at := self._try_within(row, low, high)) is not None:
            low, high = (low, at) if self.end(row[at]) > middle else (at, high)
        return low, high

    def _try_within(self, row: Sequence[str], low: int, high: int) -> int | None:
        middle = (low + high) / 2
        for at in sorted(range(low + 1, high), key=lambda at: abs(at - middle)):
            if row[at] not in self.values:
                self.emit(f"{high - low} commits left")
            if isinstance(self._value(row[at]), float):
                return at
        return None

    def end(self, commit: str) -> float:
        value = self._value(commit)
        if isinstance(value, str):
            raise PulseError(f"{self.series} cannot be measured on {commit[:10]}: {value}")
        return value

    def _value(self, commit: str) -> float | str:
        if commit not in self.values:
            subject = self.project.title(commit)
            try:
                self.values[commit] = self.cost(commit)
            except WorkerFailedError as error:
                self.values[commit] = str(error).splitlines()[-1]
            value = self.values[commit]
            shown = f"{value:g} {self.unit}" if isinstance(value, float) else f"skipped: {value}"
            self.emit(f"  {subject}: {shown}")
        return self.values[commit]


#: Samples a second: not a multiple of a timer's frequency.
RATE_HZ = 487
_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*')
_RECORD = ("record", "--rate", str(RATE_HZ), "--format", "flamegraph")
_PROGRAM = (
    "import importlib, sys; module, operation, seconds = sys.argv[1:];"
    "importlib.import_module(module).repeat(operation, float(seconds))"
)


def profile(
    project: AsvProject, part: str, ends: tuple[str | None, str], seconds: float, emit: Emit = print
) -> None:
    """Sample the stack of an operation on two commits, and draw a page with both flame graphs.

    `part` is the operation, or a part of its name that no other has. `ends` are the revisions on
    the left (None takes the branch in asv.conf.json) and on the right, sampled for `seconds` each.
    """
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    sampler = str(beside) if beside.exists() else shutil.which("py-spy")
    if sampler is None:
        raise PulseError(f"py-spy is not installed: {install_command('bench')}")
    known = list_benchmarks(project).operations
    # A series ends in its operation, in quotes and brackets; it names the operation as well.
    part = next((name for name in known if part.endswith(f"({name!r})")), part)
    operation = hist.resolve_series(part, known)
    folder = project.root / GATE_DIR / "profiles" / re.sub(r"[^\w.@-]+", "-", operation)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shown = {}
    for side, revision in (("base", ends[0] or project.branch), ("head", ends[1])):
        commit = resolved(project, revision)
        shown[side] = project.title(commit)
        emit(f"Sampling {operation} for {seconds:g} s on {shown[side]}")
        graph = folder / f"{side}.svg"
        with tree(project, commit) as files:
            program, env = program_of(project.benchmarks_dir, files)
            arguments = ["repeat", operation, str(seconds)]
            if has_worker(project.benchmarks_dir):
                program = [*program[:2], "-c", _PROGRAM, program[-1]]
                arguments = arguments[1:]
            sampled = [sampler, *_RECORD, "--output", str(graph), "--", *program, *arguments]
            done = subprocess.run(sampled, env=env, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
            raise PulseError(
                f"py-spy could not sample {operation} (it needs the right to look into another "
                f"process: on macOS run it as root, in a container add SYS_PTRACE):\n{said}"
            )
        # py-spy's title is its whole command line.
        before, title, after = _TITLE.split(graph.read_text(encoding="utf-8"), 1)
        shown_title = f"{title}{html.escape(operation)}, {side}"
        graph.write_text(f"{before}{shown_title}{after}", encoding="utf-8")
    page = folder / "index.html"
    template = Template((hist.STATIC_DIR / "profile.html").read_text(encoding="utf-8"))
    escaped = {side: html.escape(text) for side, text in shown.items()}
    page.write_text(
        template.substitute(escaped, operation=html.escape(operation)), encoding="utf-8"
    )
    emit(f"Both flame graphs are in {page}")

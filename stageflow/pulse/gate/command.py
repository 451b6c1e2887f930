"""The gate: measure two commits, judge, report."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import pairs
from stageflow.pulse.gate.budgets import Budget
from stageflow.pulse.gate.catalogue import Catalogue, discover
from stageflow.pulse.gate.evidence import Evidence, Measured
from stageflow.pulse.gate.judge import Exit, judge, to_confirm
from stageflow.pulse.gate.measure import has_valgrind
from stageflow.pulse.gate.pairs import Pairs
from stageflow.pulse.gate.report import Report
from stageflow.pulse.gate.runs import Run, record
from stageflow.pulse.gate.series import Signal, benchmark_of, selected, signal_of, work_of
from stageflow.pulse.gate.setting import Emit, Setting, pairs_path, resolved, set_up, today
from stageflow.pulse.gate.trees import tree
from stageflow.pulse.project import AsvProject


@dataclass(frozen=True, slots=True)
class Options:
    """What the gate looks at, and where it writes its report.

    Attributes:
        base: Revision that the head is compared with, from where both parted; None takes the
            branch in asv.conf.json.
        head: Revision that is judged.
        nightly: Hold the budgets of the night, too.
        only: Part of the names of the series to look at, or a shell pattern.
        timed: Whether works are timed in pairs.
        machine: Name that results are filed under; None takes the one that asv knows.
        markdown, json: Files to write the report to, too.
    """

    base: str | None = None
    head: str = "HEAD"
    nightly: bool = False
    only: str | None = None
    timed: bool = True
    machine: str | None = None
    markdown: Path | None = None
    json: Path | None = None


def gate(project: AsvProject, options: Options, emit: Emit = print) -> Exit:
    """Compare two commits, hold the budgets, report, and say by the exit code what was found.

    Args:
        project: The repository.
        options: What to look at.
        emit: Is told the progress and the report, line by line.

    Raises:
        PulseError: The set-up failed: nothing was judged.
    """
    started = time.monotonic()
    project.require_branch()
    setting = set_up(project, options.machine, emit)
    base, head = _commits(project, options)
    held = setting.budgets.held(nightly=options.nightly)
    series = _asked(setting.catalogue, held, options)
    remarks = [*_uncommitted(project, head)]
    evidence = Evidence(
        units={name: setting.catalogue.units[name] for name in series},
        head=Measured(head, ""),
        base=None if base is None else Measured(base, ""),
        edited=_edited(project, base),
        valgrind=has_valgrind(),
    )
    if base is not None and evidence.edited:
        evidence = replace(evidence, removed=_removed(setting, base, options, remarks))
    emit(f"Looking at {len(series)} series of {head[:10]}" + (f" and {base[:10]}" if base else ""))
    evidence = _measured(setting, evidence, emit)
    evidence = _timed(setting, evidence, emit)
    judgement = judge(evidence, setting.budgets.limits, held, setting.accepted, today())
    judgement = replace(judgement, notes=(*judgement.notes, *remarks))
    _write(
        Report(
            judgement,
            base,
            head,
            evidence.head.machine or setting.asv.machine,
            dt.datetime.now(dt.UTC),
        ),
        options,
        emit,
    )
    record(project.root, Run.now(base, head, judgement.exit, time.monotonic() - started))
    return judgement.exit


def _commits(project: AsvProject, options: Options) -> tuple[str | None, str]:
    """The base, from which the head has come, and the head; no base for a first commit."""
    head = resolved(project, options.head)
    tip = resolved(project, options.base or project.branch)
    if tip == head and not project.git("rev-list", "--max-count=1", "--skip=1", head).strip():
        return None, head
    # What the branch has got meanwhile is not of the head's doing.
    try:
        return project.git("merge-base", tip, head).strip(), head
    except PulseError as error:
        raise PulseError(
            f"{tip[:10]} and {head[:10]} have no commit in common: name another base with --base, "
            "or in a shallow clone fetch the history (git fetch --unshallow)"
        ) from error


def _asked(found: Catalogue, held: Sequence[Budget], options: Options) -> list[str]:
    """The series to look at: all that are judged, and those that a budget is held on."""
    budgeted = {budget.series for budget in held}
    asked = []
    for series in selected(found.units, options.only):
        signal = signal_of(series)
        if signal is Signal.TIMED:
            wanted = options.timed
        else:
            wanted = signal is not Signal.HISTORY or series in budgeted
        if wanted:
            asked.append(series)
    return asked


def _edited(project: AsvProject, base: str | None) -> tuple[str, ...]:
    if base is None:
        return ()
    folder = project.benchmarks_dir.relative_to(project.root)
    return tuple(project.git("diff", "--name-only", base, "--", f"{folder}/*.py").splitlines())


def _removed(setting: Setting, base: str, options: Options, remarks: list[str]) -> tuple[str, ...]:
    """The series of the base's own benchmarks that are no more."""
    project = setting.project
    folder = project.benchmarks_dir.name
    try:
        with tree(project, base, project.package, folder) as files:
            had = discover(files / folder, files).units
    except PulseError as error:
        remarks.append(f"Whether benchmarks were removed is not known: {error}")
        return ()
    gone = selected(had, options.only)
    return tuple(series for series in gone if series not in setting.catalogue.units)


def _uncommitted(project: AsvProject, head: str) -> list[str]:
    package = project.package
    if head == resolved(project, "HEAD") and project.git("status", "--porcelain", "--", package):
        return [f"Uncommitted changes of {package}/ were not measured: commits are."]
    return []


def _measured(setting: Setting, evidence: Evidence, emit: Emit) -> Evidence:
    """Let asv measure what it has not, and read all of it."""
    names = dict.fromkeys(
        benchmark_of(series) for series in evidence.units if signal_of(series) is not Signal.TIMED
    )
    head, base = evidence.head.commit, evidence.base.commit if evidence.base else None
    if names:
        commits = dict.fromkeys(commit for commit in (head, base) if commit is not None)
        setting.asv.measure(list(commits), list(names), emit)
    return replace(
        evidence,
        head=setting.asv.read(head),
        base=None if base is None else setting.asv.read(base),
    )


def _timed(setting: Setting, evidence: Evidence, emit: Emit) -> Evidence:
    """Time in pairs what was not timed, and again what seems to have become slower."""
    works = [work_of(name) for name in evidence.units if signal_of(name) is Signal.TIMED]
    if not works:
        return evidence
    project, head = setting.project, evidence.head.commit
    # A head alone is timed beside itself: its budgets need samples.
    base = evidence.base.commit if evidence.base else head
    kept = Pairs.load(pairs_path(project, base, head), setting.asv.digest)
    package = project.package
    with tree(project, base, package) as before, tree(project, head, package) as after:

        def measure(lacking: Sequence[str], into: dict[str, pairs.Both]) -> None:
            if lacking:
                into.update(pairs.measure(project.benchmarks_dir, (before, after), lacking, emit))
                kept.save(base, head, setting.asv.machine)

        measure([work for work in works if work not in kept.first], kept.first)
        evidence = replace(evidence, timings=kept.timings())
        if evidence.comparable:
            doubtful = to_confirm(evidence, setting.budgets.limits)
            measure([work_of(series) for series in doubtful], kept.second)
    return replace(evidence, timings=kept.timings())


def _write(found: Report, options: Options, emit: Emit) -> None:
    for path, text in ((options.markdown, found.markdown), (options.json, found.json)):
        if path is not None:
            try:
                path.write_text(text(), encoding="utf-8")
            except OSError as error:
                raise PulseError(f"{path} cannot be written: {error.strerror}") from error
    emit("")
    for line in found.text().splitlines():
        emit(line)

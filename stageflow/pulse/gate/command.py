"""The gate, which measures two commits, judges and reports; and the same without measuring."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stageflow._utils.text import printable
from stageflow.pulse import history as hist
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import measure as measuring
from stageflow.pulse.gate import report
from stageflow.pulse.gate.budgets import Budget, Budgets
from stageflow.pulse.gate.judge import (
    Check,
    Evidence,
    Exit,
    Measured,
    State,
    Value,
    judge,
    to_confirm,
    to_repeat,
)
from stageflow.pulse.gate.measure import Asv, Setting, resolved
from stageflow.pulse.gate.pairs import Both, Pairs, time_pairs
from stageflow.pulse.gate.worker import Catalogue, discover, list_benchmarks, tree
from stageflow.pulse.history import GATE_DIR, AsvProject, Emit, Signal, signal_of


@dataclass(frozen=True, slots=True)
class GateOptions:
    """The options of ``stageflow pulse gate``.

    The head is compared with its merge base with `base`. None means the branch in asv.conf.json,
    and so do an empty name and zeros, which a hosted runner passes for the first push of a branch.
    """

    base: str | None = None
    head: str = "HEAD"
    nightly: bool = False
    only: str | None = None
    timed: bool = True
    machine: str | None = None
    markdown: Path | None = None
    json: Path | None = None


def gate(project: AsvProject, options: GateOptions, emit: Emit = print) -> Exit:
    """Compare two commits, check the budgets, report, and return the exit code."""
    started = time.monotonic()
    base, head = _commits(project, options)
    setting = measuring.set_up(project, options.machine, emit)
    held = setting.budgets.held(nightly=options.nightly)
    series = _asked(setting.asv.catalogue, held, options)
    package, untracked, remarks = project.package, "normal", []
    if not (project.root / package).exists():  # asv's own files may be new there
        package, untracked = str(project.source), "no"
    status = ("status", "--porcelain", f"--untracked-files={untracked}", "--", package)
    if head == resolved(project, "HEAD") and project.git(*status):
        remarks.append(f"Uncommitted changes of {package}/ were not measured: commits are.")
    evidence = Evidence(
        units={name: setting.asv.catalogue.units[name] for name in series},
        head=Measured(head, ""),
        base=None if base is None else Measured(base, ""),
        edited=_edited(project, base),
        valgrind=measuring.has_valgrind(),
    )
    if base is not None and evidence.edited:
        evidence = replace(evidence, removed=_removed(setting, base, options, remarks))
    against = f" against {base[:10]}" if base else ""
    if base == head:
        against = ", which is the base, too: only budgets are judged (--base names another commit)"
    emit(f"Judging {len(series)} series of {head[:10]}{against}")
    evidence = _measured(setting, evidence, held, emit)
    evidence = _timed(setting, evidence, held, emit)
    judgement = judge(evidence, setting.budgets.limits, held, setting.accepted, measuring.today())
    judgement = replace(judgement, notes=(*judgement.notes, *remarks))
    machine = evidence.head.machine or setting.asv.machine
    found = report.Report(judgement, base, head, machine, dt.datetime.now(dt.UTC))
    for path, text in ((options.markdown, found.markdown), (options.json, found.json)):
        if path is not None:
            try:
                path.write_text(text(), encoding="utf-8")
            except OSError as error:
                raise PulseError(f"{path} cannot be written: {error.strerror}") from error
    emit("")
    for line in found.text().splitlines():
        emit(line)
    record_run(project.root, GateRun.now(base, head, judgement.exit, time.monotonic() - started))
    return judgement.exit


def _commits(project: AsvProject, options: GateOptions) -> tuple[str | None, str]:
    """Return the base, None for a first commit, and the head."""
    head = resolved(project, options.head)
    no_base = not (options.base or "").strip("0")
    wanted = project.branch if no_base else str(options.base)
    shallow = project.is_shallow()
    tip = head if shallow and project.commit(wanted) is None else resolved(project, wanted)
    base = project.git("merge-base", tip, head, answers=(0, 1)).strip()
    if shallow and (tip == head or base != tip):  # what is an ancestor here is one everywhere
        raise PulseError(
            "this clone is shallow, so the commit to compare with may be missing: fetch its whole "
            "history with git fetch --unshallow, in a workflow with fetch-depth: 0"
        )
    if tip == head and not project.git("rev-list", "--max-count=1", "--skip=1", head, "--").strip():
        return None, head
    if not base:
        raise PulseError(
            f"{tip[:10]} and {head[:10]} have no commit in common: name another base with --base"
        )
    return base, head


def _asked(found: Catalogue, held: Sequence[Budget], options: GateOptions) -> list[str]:
    budgeted = {budget.series for budget in held}
    asked = [
        series
        for series in hist.selected_series(found.units, options.only)
        if (options.timed or signal_of(series) is not Signal.TIMED)
        and (signal_of(series) is not Signal.HISTORY or series in budgeted)
    ]
    relative = [b.reference[0] for b in held if b.reference and b.series in asked]
    return [*dict.fromkeys([*asked, *relative])]


def _edited(project: AsvProject, base: str | None) -> tuple[str, ...]:
    if base is None:
        return ()
    folder = str(project.benchmarks_dir)
    found = project.git("diff", "--name-only", "-z", base, "--", folder).split("\0")
    return tuple(printable(name) for name in found if name.endswith(".py"))


def _removed(
    setting: Setting, base: str, options: GateOptions, remarks: list[str]
) -> tuple[str, ...]:
    project = setting.asv.project
    folder = str(project.benchmarks_dir.relative_to(project.source))
    try:
        with tree(project, base, folder) as files:
            had = discover(files / folder, files).units
    except PulseError as error:
        remarks.append(f"Whether benchmarks were removed is not known: {error}")
        return ()
    gone = hist.selected_series(had, options.only)
    return tuple(series for series in gone if series not in setting.asv.catalogue.units)


def _measured(setting: Setting, evidence: Evidence, held: Sequence[Budget], emit: Emit) -> Evidence:
    """Let asv measure what it has not, or some series by themselves, and read all of it."""
    asv = setting.asv
    apart = asv.apart(evidence.units)
    names = dict.fromkeys(
        hist.benchmark_of(series)
        for series in evidence.units
        if signal_of(series) is not Signal.TIMED and series not in apart
    )
    commits = [side.commit for side in (evidence.head, evidence.base) if side is not None]
    late = asv.measure([*dict.fromkeys(commits)], [*names], emit) if names else {}
    hist.clear_corrupt(setting.asv.project, emit)

    def read(commit: str) -> Measured:
        found = asv.read(commit, late=late) if names else Measured(commit, "")
        if apart:
            values = {**found.values, **asv.measure_apart(commit, apart, emit)}
            found = replace(found, machine=found.machine or asv.machine, values=values)
        return found

    base, head = evidence.base and read(evidence.base.commit), evidence.head.commit
    found = base if base and base.commit == head else read(head)
    evidence = replace(evidence, head=found, base=base)
    if over := to_repeat(evidence, held):
        emit(f"Measuring again, as they are over budget: {', '.join(over)}")
        late = asv.measure([head], [*dict.fromkeys(map(hist.benchmark_of, over))], emit, again=True)
        hist.clear_corrupt(setting.asv.project, emit)
        evidence = replace(evidence, head=read(head))
    return evidence


def _timed(setting: Setting, evidence: Evidence, held: Sequence[Budget], emit: Emit) -> Evidence:
    timed = [name for name in evidence.units if signal_of(name) is Signal.TIMED]
    if not (operations := list(map(hist.operation_of, timed))):
        return evidence
    project, head = setting.asv.project, evidence.head.commit
    # A head alone is timed beside itself: its budgets need samples.
    base = evidence.base.commit if evidence.base else head
    kept = Pairs.load(measuring.pairs_path(project, base, head), setting.asv.digest)
    with tree(project, base) as before, tree(project, head) as after:

        def measure(lacking: Sequence[str], into: dict[str, Both]) -> None:
            if lacking:
                trees, again = (before, after), into is kept.second
                if again:
                    emit("Something seems slower: it is timed once more, to be sure")
                found = time_pairs(project.benchmarks_dir, trees, lacking, emit, beside_loop=again)
                into.update(found)
                kept.save(base, head, setting.asv.machine)

        done = {name for name, both in kept.first.items() if not any(run.error for run in both)}
        measure([operation for operation in operations if operation not in done], kept.first)
        evidence = replace(evidence, timings=kept.timings())
        doubtful = to_confirm(evidence, setting.budgets.limits, held)
        measure([hist.operation_of(series) for series in doubtful], kept.second)
    return replace(evidence, timings=kept.timings())


RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True, slots=True)
class GateRun:
    """A run of the gate: when it ended (ISO 8601), both commits, exit code, duration."""

    at: str
    base: str | None
    head: str
    exit: int
    wall_s: float

    @classmethod
    def now(cls, base: str | None, head: str, code: Exit, wall_s: float) -> GateRun:
        """Return a run that ends now."""
        at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return cls(at, base, head, int(code), round(wall_s, 3))


def record_run(root: Path, run: GateRun) -> None:
    """Add a run to the record of the repository in `root`."""
    hist.add_line(root / GATE_DIR / RUNS_FILE, asdict(run))


def recorded_runs(root: Path) -> tuple[list[GateRun], int]:
    """Return the recorded runs, oldest first, and how many lines cannot be read."""
    return hist.read_lines(root / GATE_DIR / RUNS_FILE, _run)


def _run(line: dict[str, Any]) -> GateRun:
    run = GateRun(**line)
    dt.datetime.fromisoformat(run.at).timestamp()
    return replace(run, exit=int(run.exit), wall_s=float(run.wall_s))


def compare(
    project: AsvProject, revisions: Sequence[str], only: str | None, emit: Emit = print
) -> Exit:
    """Emit all series that were measured on two commits, the greatest increase first."""
    found = list_benchmarks(project)
    hist.clear_corrupt(project, emit)
    asv = Asv(project, project.know_machine(None), found, "")
    one, other = (resolved(project, revision) for revision in revisions)
    a, b = (asv.read(commit, reusable=False) for commit in (one, other))
    emit(f"{one[:10]} on {a.machine or 'no machine'}; {other[:10]} on {b.machine or 'no machine'}")
    rows: dict[str, tuple[float, tuple[str, ...]]] = {}
    for series, unit in found.units.items() if a.machine == b.machine else ():
        was, now = (side.values.get(series, Value(None)).value for side in (a, b))
        if was is not None and now is not None and not math.isnan(was) and not math.isnan(now):
            ratio = hist.ratio_of(was, now)
            cells = (report.amount(was), report.amount(now), report.change(ratio), unit)
            rows[series] = (ratio, (series, *cells))
    paired = Pairs.load(measuring.pairs_path(project, one, other), None)
    for series, timing in paired.timings().items():
        if timing.cpu is not None:
            ratio = timing.cpu.median
            rows[series] = (ratio, (series, "", "", report.change(ratio), str(timing.cpu)))
    chosen = [rows[series] for series in hist.selected_series(rows, only)]
    if not chosen:
        emit("No series was measured on both, on one machine: measure them first (gate, bench).")
        return Exit.INSUFFICIENT_DATA
    columns = ("series", one[:10], other[:10], "change", "unit, or how sure")
    ordered = sorted(chosen, key=lambda row: -row[0])
    for line in report.text_table([columns, *(cells for _, cells in ordered)]):
        emit(line)
    return Exit.OK


def show_budgets(project: AsvProject, revision: str, emit: Emit = print) -> Exit:
    """Check the files of settings, and emit every budget beside what was measured last."""
    setting = measuring.set_up(project, None, emit)
    head = resolved(project, revision)
    budgets = setting.budgets
    checks = checks_at(setting.asv, budgets, head)
    for line in report.text_table([report.CHECK_COLUMNS, *map(report.check_row, checks)]):
        emit(line)
    states = Counter(check.state for check in checks)
    counts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
    emit(f"{len(checks)} figures of {len(budgets.budgets)} budgets, at {head[:10]}: {counts}")
    if checks and all(check.measured is None for check in checks):
        emit("Nothing of it was measured on this commit: measure it first (bench, gate).")
        return Exit.INSUFFICIENT_DATA
    return Exit.OVER_BUDGET if states[State.OVER] else Exit.OK


def checks_at(asv: Asv, budgets: Budgets, head: str) -> tuple[Check, ...]:
    """Return every budget beside what was measured last of the commit `head`."""
    found = (asv.project.root / GATE_DIR).glob(f"*-{head[:10]}.json")
    files = (path for path in found if path.is_file())
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    evidence = Evidence(
        units=asv.catalogue.units,
        head=asv.read(head, reusable=False),
        base=None,
        timings=Pairs.load(newest, None).timings() if newest else {},
    )
    return judge(evidence, budgets.limits, budgets.budgets, (), measuring.today()).checks

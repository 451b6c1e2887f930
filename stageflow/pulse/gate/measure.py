"""The state before the gate measures, and the results of asv."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import platform
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow._utils.files import atomic_write
from stageflow.pulse import history as hist
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import budgets as settings
from stageflow.pulse.gate.budgets import Accepted, Budgets
from stageflow.pulse.gate.judge import Measured, Value
from stageflow.pulse.gate.worker import Catalogue, Worker, list_benchmarks, tree
from stageflow.pulse.history import GATE_DIR, UNREADABLE, AsvProject, Emit, Signal, signal_of

#: How something was not done in time, by the first digits of the commit and the benchmark.
Late = dict[tuple[str, str], str]
_SHORT = 8
_LEDGER = "measured.json"
_LEDGER_VERSION = 1
_COMMIT_LINE = re.compile(r"· For .* commit ([0-9a-f]{7,40})")
#: What asv prints in place of measuring when a commit could not be built.
_NOT_BUILT_LINE = re.compile(r"· Skipping \S+$")
_BENCHMARK_LINE = re.compile(r"· (?:Setting up )?([\w.]+)( skipped)?")
#: asv stopped a benchmark, or what several share (-256), or one says that it cannot end in time.
_LATE_LINE = re.compile(r"asv: .*(?:timed out|exit status -256).*|\bTooBusyError: .*")


def has_valgrind() -> bool:
    """Return whether instructions can be counted here."""
    here = (platform.system(), platform.machine())
    return here == ("Linux", "x86_64") and shutil.which("valgrind") is not None


def digest(benchmarks: Path, machine: str) -> str:
    """Return a digest of what a measurement depends on besides the commit: all benchmarks' code.

    asv knows a benchmark by the version in its own body; what it calls may change without that.
    """
    found = hashlib.sha256(f"{machine} {sys.version} {has_valgrind()}".encode())
    for path in sorted(benchmarks.rglob("*.py")):
        found.update(f"\0{path.relative_to(benchmarks)}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Asv:
    """asv's results of one repository on this machine, and the `digest` of its benchmarks."""

    project: AsvProject
    machine: str
    catalogue: Catalogue
    digest: str

    def measure(
        self, commits: Sequence[str], names: Sequence[str], emit: Emit, *, again: bool = False
    ) -> Late:
        """Measure benchmarks on commits, except (unless `again`) what this digest has measured.

        Returns what was not done in time. Raises `PulseError` if a commit cannot be built.
        """
        wanted: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for commit in commits:
            wanted[tuple(names if again else self._lacking(commit, names))].append(commit)
        wanted.pop((), None)
        if not wanted:
            emit("asv has measured all of it already.")
        late: Late = {}
        for group_names, group in wanted.items():
            late |= self._run(group, group_names, emit)
        return late

    def apart(self, series: Collection[str]) -> list[str]:
        """Return the series to measure by themselves: some of those that share a `setup_cache`.

        asv would prepare it for all of them, such as a count of every operation.
        """
        shared: dict[object, set[str]] = defaultdict(set)
        for name, benchmark in self.catalogue.benchmarks.items():
            if key := benchmark.get("setup_cache_key"):
                shared[key].update(hist.series_of(name, benchmark["params"]))
        few = {name for names in shared.values() if not names <= {*series} for name in names}
        few = {name for name in few if signal_of(name) in (Signal.EXACT, Signal.COUNTED)}
        return [name for name in series if hist.is_apart(name) or name in few]

    def measure_apart(self, commit: str, series: Sequence[str], emit: Emit) -> dict[str, Value]:
        """Measure series by themselves."""
        emit(f"Measuring {len(series)} series of {commit[:10]} directly")
        project = self.project
        with tree(project, commit) as files, Worker(project.benchmarks_dir, files) as worker:
            answers = worker.measure(series)
        values: dict[str, Value] = {}
        for name in series:
            answer = answers[name]
            late, found = "late" in answer, answer.get("value", math.nan)
            if late or "error" in answer:
                note = str(answer["late" if late else "error"])
                values[name] = Value(None, note=note, late=late)
            else:
                values[name] = Value(float(found), repeats=tuple(answer.get("samples", ())))
        return values

    def read(self, commit: str, *, reusable: bool = True, late: Late | None = None) -> Measured:
        """Return what asv knows of a commit, from another machine if there is nothing of this one.

        If it has to be `reusable`, results of benchmarks that were edited since are left out.
        """
        found = hist.read_results(self.project.results_dir)
        results = [result for result in found if result["commit_hash"] == commit]
        here = self.machine, f"{sys.version_info[0]}.{sys.version_info[1]}"
        ours = [r for r in results if (r["params"]["machine"], r["python"]) == here]
        known = self._ledger().get(commit, {})
        values: dict[str, Value] = {}
        machine = ""
        for result in sorted(ours or results, key=_measured_at):
            words = [result["params"].get(key) for key in ("machine", "cpu", "arch")]
            machine = ", ".join([*map(str, filter(None, words)), f"Python {result['python']}"])
            for name, row in hist.cells_of(result):
                if not ours or not reusable or known.get(name) == self.digest:
                    note = (late or {}).get((commit[:_SHORT], name), "")
                    values.update(self._values(name, row, note))
        return Measured(commit, machine, values)

    def _values(self, name: str, row: Mapping[str, Any], late: str) -> Iterator[tuple[str, Value]]:
        benchmark = self.catalogue.benchmarks.get(name, {"params": None, "version": None})
        found = (row.get("version"), row.get("params") or [])
        if found != (benchmark["version"], benchmark["params"]):
            return
        for series, value, kept in hist.values_of(name, row):
            note = late if value is None else ""
            yield series, Value(value, tuple(kept or ()), note, late=bool(note))

    def _lacking(self, commit: str, names: Sequence[str]) -> list[str]:
        values = self.read(commit).values
        known = {series for series, found in values.items() if found.value is not None}
        params = {name: self.catalogue.benchmarks[name]["params"] for name in names}
        return [name for name in names if not known.issuperset(hist.series_of(name, params[name]))]

    def _run(self, commits: Sequence[str], names: Sequence[str], emit: Emit) -> Late:
        pattern = "|".join(map(re.escape, names))
        lines = _Lines(emit)
        self.project.run_benchmarks(
            self.machine, commits, "--bench", rf"^({pattern})(\(|$)", on_line=lines.line
        )
        if lines.not_built:
            raise PulseError(
                f"commit {', '.join(lines.not_built)} could not be built: see asv's output above",
                code="pulse_asv_failed",
            )
        ledger = self._ledger()
        for commit in commits:
            ledger.setdefault(commit, {}).update(dict.fromkeys(names, self.digest))
        self._ledger_path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._ledger_path) as file:
            json.dump({"version": _LEDGER_VERSION, "commits": ledger}, file, indent=1)
        return lines.late

    def _ledger(self) -> dict[str, dict[str, str]]:
        """By commit and benchmark, the digest under which it was measured."""
        # Without it everything counts as not measured, which is safe.
        with suppress(*UNREADABLE):
            content = json.loads(self._ledger_path.read_text(encoding="utf-8"))
            if content["version"] == _LEDGER_VERSION:
                return {commit: {**names} for commit, names in content["commits"].items()}
        return {}

    @property
    def _ledger_path(self) -> Path:
        return self.project.root / GATE_DIR / _LEDGER


class _Lines:
    """Emits asv's lines, and notes what could not be built, or was not done in time."""

    def __init__(self, emit: Emit) -> None:
        self.not_built: list[str] = []
        self.late: Late = {}
        self._emit = emit
        self._commit = self._benchmark = self._reason = ""

    def line(self, line: str) -> None:
        if found := _COMMIT_LINE.search(line):
            self._commit = found[1][:_SHORT]
        elif _NOT_BUILT_LINE.search(line) and self._commit not in self.not_built:
            self.not_built.append(self._commit)
        elif found := _LATE_LINE.search(line):
            self._reason = self.late[self._commit, self._benchmark] = found[0]
        elif found := _BENCHMARK_LINE.search(line):
            self._benchmark = found[1]
            # Skipped for what it shares with others, which was prepared before.
            self._reason = self._reason if found[2] else ""
            if self._reason:
                self.late[self._commit, self._benchmark] = self._reason
        self._emit(line)


def _measured_at(result: Mapping[str, Any]) -> float:
    return max((row.get("started_at") or 0.0 for _, row in hist.cells_of(result)), default=0.0)


BUDGETS_FILE = "budgets.toml"
ACCEPTED_FILE = "accepted.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """The state before anything is measured."""

    asv: Asv
    budgets: Budgets
    accepted: tuple[Accepted, ...]


def set_up(project: AsvProject, machine: str | None, emit: Emit) -> Setting:
    """Check all settings."""
    found = list_benchmarks(project)
    sections = settings.sections_of(project.root / settings.RUNBOOK)
    path = project.benchmarks_dir / BUDGETS_FILE
    budgets = Budgets(settings.DEFAULT_LIMITS, ())
    if path.exists():
        budgets = settings.load_budgets(path, found.units, sections)
    known = settings.load_accepted(project.benchmarks_dir / ACCEPTED_FILE, found.units)
    hist.clear_corrupt(project, emit)
    name = project.know_machine(machine)
    asv = Asv(project, name, found, digest(project.benchmarks_dir, name))
    return Setting(asv, budgets, known)


def resolved(project: AsvProject, revision: str) -> str:
    """Return the full hash of the commit that a revision, or a branch of a remote, names."""
    if revision == project.branch:
        revision = project.branch_ref()
    for name in (revision, *project.on_remotes(revision)):
        if (found := project.commit(name)) is not None:
            return found
    raise PulseError(
        f"this clone has no commit {revision!r}: run git fetch; if a forced push removed it, name"
        " another base"
    )


def pairs_path(project: AsvProject, base: str, head: str) -> Path:
    """Return where the paired timings of two commits are kept."""
    return project.root / GATE_DIR / f"{base[:10]}-{head[:10]}.json"


def today() -> dt.date:
    """Return today's date in UTC, by which acceptances expire."""
    return dt.datetime.now(dt.UTC).date()

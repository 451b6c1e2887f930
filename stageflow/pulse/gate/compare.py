"""Any two measured commits side by side, without a judgement."""

from __future__ import annotations

import math

from stageflow.pulse.gate import report
from stageflow.pulse.gate.catalogue import discover
from stageflow.pulse.gate.evidence import Measured
from stageflow.pulse.gate.judge import Exit, ratio_of
from stageflow.pulse.gate.measure import Asv
from stageflow.pulse.gate.pairs import Pairs
from stageflow.pulse.gate.series import selected
from stageflow.pulse.gate.setting import Emit, pairs_path, resolved
from stageflow.pulse.project import AsvProject


def compare(
    project: AsvProject, revisions: tuple[str, str], only: str | None, emit: Emit = print
) -> Exit:
    """Print all series that were measured on two commits, the greatest rise first.

    Returns:
        FINE, or TOO_LITTLE when no series was measured on both, on one machine.

    Raises:
        PulseError: A revision is unknown, or the benchmarks cannot be listed.
    """
    found = discover(project.benchmarks_dir, project.root)
    asv = Asv(project, project.know_machine(None), found, "")
    one, other = (resolved(project, revision) for revision in revisions)
    a, b = (asv.read(commit, reusable=False) for commit in (one, other))
    emit(f"{one[:10]} on {a.machine or 'no machine'}; {other[:10]} on {b.machine or 'no machine'}")
    rows = _asv_rows(a, b, found.units)
    for series, timing in Pairs.load(pairs_path(project, one, other), None).timings().items():
        if timing.cpu is not None:
            ratio = timing.cpu.median
            rows[series] = (ratio, (series, "", "", report.change(ratio), str(timing.cpu)))
    chosen = [rows[series] for series in selected(rows, only)]
    if not chosen:
        emit("No series was measured on both, on one machine: measure them first (gate, bench).")
        return Exit.TOO_LITTLE
    columns = ("series", one[:10], other[:10], "change", "unit, or how sure")
    ordered = sorted(chosen, key=lambda row: -row[0])
    for line in report.text_table([columns, *(cells for _, cells in ordered)]):
        emit(line)
    return Exit.FINE


def _asv_rows(
    a: Measured, b: Measured, units: dict[str, str]
) -> dict[str, tuple[float, tuple[str, ...]]]:
    """By series, the ratio and the cells of its row."""
    rows: dict[str, tuple[float, tuple[str, ...]]] = {}
    for series, unit in units.items():
        before, after = (measured.values.get(series) for measured in (a, b))
        if a.machine != b.machine or before is None or after is None:
            continue
        if before.value is None or after.value is None:
            continue
        if math.isnan(before.value) or math.isnan(after.value):
            continue
        ratio = ratio_of(before.value, after.value)
        amounts = (report.amount(before.value), report.amount(after.value))
        rows[series] = (ratio, (series, *amounts, report.change(ratio), unit))
    return rows

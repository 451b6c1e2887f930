"""The table of budgets, beside what was measured last."""

from __future__ import annotations

from stageflow.pulse.gate import report
from stageflow.pulse.gate.budgets import Budgets
from stageflow.pulse.gate.evidence import Evidence
from stageflow.pulse.gate.judge import Check, Exit, State, judge
from stageflow.pulse.gate.measure import GATE_DIR, Asv
from stageflow.pulse.gate.pairs import Pairs
from stageflow.pulse.gate.setting import Emit, resolved, set_up, today
from stageflow.pulse.project import AsvProject


def show_budgets(project: AsvProject, revision: str, emit: Emit = print) -> Exit:
    """Check the files of settings, and print every budget beside what was measured last.

    Raises:
        PulseError: A file of settings is wrong, or the benchmarks cannot be listed.
    """
    setting = set_up(project, None, emit)
    head = resolved(project, revision)
    budgets = setting.budgets
    checks = checks_at(setting.asv, budgets, head)
    for line in report.checks_table(checks):
        emit(line)
    over = [check for check in checks if check.state is State.OVER]
    counts = f"{len(checks)} figures of {len(budgets.budgets)} budgets"
    emit(f"{counts}, at {head[:10]}; over: {len(over)}")
    return Exit.OVER_BUDGET if over else Exit.FINE


def checks_at(asv: Asv, budgets: Budgets, head: str) -> tuple[Check, ...]:
    """Every budget beside what was measured last of the commit `head`, without measuring."""
    files = (asv.project.root / GATE_DIR).glob(f"*-{head[:10]}.json")
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    evidence = Evidence(
        units=asv.catalogue.units,
        head=asv.read(head, reusable=False),
        base=None,
        timings=Pairs.load(newest, None).timings() if newest else {},
    )
    return judge(evidence, budgets.limits, budgets.budgets, (), today()).checks

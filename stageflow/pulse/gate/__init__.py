"""Judge what a commit costs compared with another one, and with budgets."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.pulse.gate.budgets import *
from stageflow.pulse.gate.checked_toml import Key, Settings, Table, keys_of
from stageflow.pulse.gate.cli import run_gate_command
from stageflow.pulse.gate.command import GateRun, checks_at, record_run, recorded_runs
from stageflow.pulse.gate.judge import *
from stageflow.pulse.gate.measure import *
from stageflow.pulse.gate.pairs import *
from stageflow.pulse.gate.report import Report, amount, change
from stageflow.pulse.gate.worker import *

__all__ = [
    "ACCEPTED_FILE",
    "BUDGETS_FILE",
    "PROCESSES",
    "RUNBOOK",
    "Accepted",
    "Asv",
    "Both",
    "Budget",
    "Budgets",
    "Catalogue",
    "Check",
    "Evidence",
    "Exit",
    "Gate",
    "GateRun",
    "Judgement",
    "Key",
    "Kind",
    "Limits",
    "Measured",
    "Report",
    "Settings",
    "Side",
    "State",
    "Table",
    "TimedSide",
    "Timing",
    "Value",
    "Verdict",
    "Worker",
    "amount",
    "change",
    "checks_at",
    "judge",
    "keys_of",
    "list_benchmarks",
    "load_accepted",
    "load_budgets",
    "p99_limits_ms",
    "record_run",
    "recorded_runs",
    "resolved",
    "run_gate_command",
    "sections_of",
    "set_up",
    "side_of",
    "time_pairs",
    "timing_of",
    "today",
    "tree",
]

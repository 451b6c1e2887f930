"""What is known before anything is measured: the benchmarks, and the checked files of settings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import accepted as accepted_file
from stageflow.pulse.gate import budgets as budgets_file
from stageflow.pulse.gate.accepted import Accepted
from stageflow.pulse.gate.budgets import Budgets
from stageflow.pulse.gate.catalogue import Catalogue, discover
from stageflow.pulse.gate.measure import GATE_DIR, Asv, digest
from stageflow.pulse.gate.runbook import RUNBOOK, sections_of
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import report_set_aside, set_aside_corrupt

Emit = Callable[[str], None]

BUDGETS_FILE = "budgets.toml"
ACCEPTED_FILE = "accepted.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known before anything is measured."""

    project: AsvProject
    asv: Asv
    catalogue: Catalogue
    budgets: Budgets
    accepted: tuple[Accepted, ...]


def set_up(project: AsvProject, machine: str | None, emit: Emit) -> Setting:
    """Check all settings.

    Raises:
        PulseError: One is wrong, or the benchmarks cannot be listed.
    """
    found = discover(project.benchmarks_dir, project.root)
    sections = sections_of(project.root / RUNBOOK)
    budgets = budgets_file.load(project.benchmarks_dir / BUDGETS_FILE, found.units, sections)
    known = accepted_file.load(project.benchmarks_dir / ACCEPTED_FILE, found.units)
    set_aside = set_aside_corrupt(project.results_dir, project.set_aside_dir)
    report_set_aside(set_aside, project.root, emit)
    name = project.know_machine(machine)
    asv = Asv(project, name, found, digest(project.benchmarks_dir, name))
    return Setting(project, asv, found, budgets, known)


def resolved(project: AsvProject, revision: str) -> str:
    """The full hash of the commit that a revision names.

    Raises:
        PulseError: It names none.
    """
    try:
        return project.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    except PulseError as error:
        raise PulseError(
            f"this clone has no commit {revision!r}: git fetch brings what another one has"
        ) from error


def pairs_path(project: AsvProject, base: str, head: str) -> Path:
    """Where the paired timings of two commits are kept."""
    return project.root / GATE_DIR / f"{base[:10]}-{head[:10]}.json"


def today() -> dt.date:
    """The day on which acceptances may run out, the same for everyone."""
    return dt.datetime.now(dt.UTC).date()

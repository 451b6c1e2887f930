"""``stageflow pulse check`` and ``stageflow pulse export``: the page's data without the page."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from stageflow.pulse.arguments import add_repository, add_store
from stageflow.pulse.central.check import Emit, check
from stageflow.pulse.central.export import as_line, measurements
from stageflow.pulse.errors import PulseError
from stageflow.pulse.project import AsvProject
from stageflow.whole_file import whole_file

_CHECK_HELP = """\
Say what is wrong now: budgets that the newest measured commit exceeds, regressions that are open,
turns of the telemetry beyond their budget, alerts that fire, dead letters that wait. Nothing is
measured and nobody is told: bench measures, alert evaluates and tells.

examples:
  stageflow pulse check
  stageflow pulse check --store runs.db --json

exit codes:
  0    nothing is wrong
  1    something could not be read; the last line says what
  2    bad arguments
  3    something is wrong
  4    nothing is known: no commit is measured, and there is no telemetry
"""

_EXPORT_HELP = """\
Write everything that was measured, on every machine, one JSON object a line. docs/results.md
documents the schema.

examples:
  stageflow pulse export > measurements.jsonl
  stageflow pulse export --into measurements.jsonl

exit codes: 0 written, 1 nothing is measured, or it could not be written, 2 bad arguments
"""


def add_commands(command: Callable[..., argparse.ArgumentParser], emit: Emit) -> None:
    """Add the commands; each sets ``run``, called with the parsed arguments."""
    parser = command("check", help="say what is wrong now", description=_CHECK_HELP)
    add_repository(parser)
    add_store(parser, "look at this telemetry")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(
        run=lambda given: check(
            AsvProject.load(given.repository), given.store, emit, as_json=given.json
        )
    )
    parser = command("export", help="all measurements as JSON lines", description=_EXPORT_HELP)
    add_repository(parser)
    parser.add_argument("--into", type=Path, metavar="FILE", help="instead of the standard output")
    parser.set_defaults(run=lambda given: _export(AsvProject.load(given.repository), given.into))


def _export(project: AsvProject, into: Path | None) -> int:
    found = measurements(project)
    first = next(found, None)
    if first is None:
        raise PulseError(
            f"there are no results in {project.results_dir}: measure some commits first, "
            "stageflow pulse bench"
        )
    lines = (as_line(one) for one in itertools.chain([first], found))
    count = _written(lines, sys.stdout) if into is None else _written_whole(lines, into)
    sys.stderr.write(f"{count} measurements\n")
    return 0


def _written(lines: Iterable[str], file: TextIO) -> int:
    count = 0
    for line in lines:
        file.write(line)
        count += 1
    return count


def _written_whole(lines: Iterable[str], path: Path) -> int:
    """Write all lines or, if that cannot be done, leave what was there."""
    try:
        with whole_file(path) as file:
            return _written(lines, file)
    except OSError as error:
        raise PulseError(f"the measurements could not be written to {path}: {error}") from error

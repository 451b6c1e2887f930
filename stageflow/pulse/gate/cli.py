"""The commands of the gate: ``gate``, ``bisect``, ``profile``, ``compare`` and ``budgets``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stageflow._utils.arguments import flag, option
from stageflow.pulse.arguments import Add, emit
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate.command import GateOptions, compare, gate, show_budgets
from stageflow.pulse.gate.judge import Exit
from stageflow.pulse.gate.search import bisect, profile
from stageflow.pulse.history import AsvProject, Emit, add_machine

_GATE_HELP = """\
Measure two commits of this repository where they are not measured yet, and judge what changed: by
exact figures, by counted instructions, and by operations timed in pairs. Then check the budgets of
benchmarks/budgets.toml. docs/guides/gate.md explains the report.

examples:
  stageflow pulse gate                              HEAD against where it left main
  stageflow pulse gate --base HEAD~1 --only parse   one commit, and only some series
  stageflow pulse gate --nightly --markdown gate.md

exit codes (of several that hold, the first in the order 6, 5, 4, 1, 3):
  0    OK
  1    regression: something became slower that is not accepted in benchmarks/accepted.toml
  3    over budget
  4    insufficient data to judge
  5    a benchmark broke, or the head lacks what it measures and the base had
  6    the set-up failed; the last lines say why and what to do
"""
_BISECT_HELP = """\
Find the commit that made a series slower between two commits. Only that series is measured, in a
copy of each commit's package, on as few commits as possible; commits on which it cannot be measured
are skipped.

examples:
  stageflow pulse bisect "instructions('parse')" --base HEAD~30
  stageflow pulse bisect "timed('parse')" --base v0.1.0     by time, in pairs with the base
"""
_PROFILE_HELP = """\
Draw where the time of an operation goes, as flame graphs of two commits side by side.

examples:
  stageflow pulse profile parse
  stageflow pulse profile parse --base HEAD~10 --seconds 20
"""
_COMPARE_HELP = """\
Print every series that was measured on both commits, the greatest increase first, without a
judgement and without measuring anything.

examples:
  stageflow pulse compare main HEAD
  stageflow pulse compare v0.1.0 HEAD --only exact

exit codes: 0 printed, 4 nothing was measured on both, 6 the set-up failed
"""
_BUDGETS_HELP = """\
Check benchmarks/budgets.toml and benchmarks/accepted.toml, and print every budget beside what was
measured last.

examples:
  stageflow pulse budgets
  stageflow pulse budgets --head main

exit codes: 0 OK, 3 over budget, 4 nothing was measured, 6 a file is wrong, or the
set-up failed
"""
#: Runs a command and returns its exit code; None for 0.
Do = Callable[[AsvProject, argparse.Namespace, Emit], Exit | None]


def add_commands(add_command: Add) -> None:
    """Add the commands."""

    def add(name: str, do: Do, short: str, description: str) -> argparse.ArgumentParser:
        return add_command(name, short, description, partial(run_gate_command, do, emit=emit))

    only = "only series with this in their name, or a shell pattern"
    parser = add("gate", _gate, "judge a commit against another", _GATE_HELP)
    text = "compare with where HEAD left this (default: the branch in asv.conf.json)"
    option(parser, "--base REVISION", text)
    option(parser, "--head REVISION", "judge this commit", default="HEAD")
    flag(parser, "--nightly", "check the nightly budgets, too")
    option(parser, "--only PATTERN", only)
    option(parser, "--no-timed", "time nothing in pairs", action="store_false", dest="timed")
    add_machine(parser)
    for name in ("markdown", "json"):
        option(parser, f"--{name} FILE", "write the report there too", type=Path)

    finding = _calling(bisect, "series", "base", "head")
    bisecting = add("bisect", finding, "which commit made a series slower", _BISECT_HELP)
    text = "the series, or a part of its name that no other has"
    bisecting.add_argument("series", help=text)
    profiling = add("profile", _profile, "flame graphs of two commits", _PROFILE_HELP)
    profiling.add_argument("operation", help="its name, or a part that no other has")
    text = "sample each commit for S seconds (default: 8)"
    option(profiling, "--seconds S", text, type=float, default=8.0)
    for parser in (bisecting, profiling):
        option(parser, "--base REVISION", "before (default: the branch in asv.conf.json)")
        option(parser, "--head REVISION", "after (default: HEAD)", default="HEAD")
    comparing = _calling(compare, "revisions", "only")
    parser = add("compare", comparing, "two measured commits", _COMPARE_HELP)
    parser.add_argument("revisions", nargs=2, metavar="COMMIT")
    option(parser, "--only PATTERN", only)
    parser = add("budgets", _calling(show_budgets, "head"), "the table of budgets", _BUDGETS_HELP)
    option(parser, "--head REVISION", "measured on this one", default="HEAD")


def run_gate_command(do: Do, arguments: argparse.Namespace, emit: Emit) -> Exit:
    """Run a command whose exit codes distinguish a failed set-up from a regression."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return do(AsvProject.load(arguments.repository), arguments, emit) or Exit.OK
    except (PulseError, OSError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return Exit.SETUP_FAILED


def _gate(project: AsvProject, arguments: argparse.Namespace, emit: Emit) -> Exit:
    names = GateOptions.__dataclass_fields__
    return gate(project, GateOptions(**{name: getattr(arguments, name) for name in names}), emit)


def _calling(do: Callable[..., Exit | None], *names: str) -> Do:
    return lambda project, at, emit: do(project, *(getattr(at, name) for name in names), emit)


def _profile(project: AsvProject, at: argparse.Namespace, emit: Emit) -> None:
    profile(project, at.operation, (at.base, at.head), at.seconds, emit)

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

#: Runs a command and returns its exit code; None for 0.
Do = Callable[[AsvProject, argparse.Namespace, Emit], Exit | None]


def add_commands(add_command: Add) -> None:
    """Add the commands."""

    def add(name: str, do: Do, short: str) -> argparse.ArgumentParser:
        return add_command(name, short, partial(run_gate_command, do, emit=emit))

    only = "only series whose name contains or (as a shell pattern) matches this"
    parser = add("gate", _gate, "judge a commit against another")
    text = "compare with where HEAD left this (default: the branch in asv.conf.json)"
    option(parser, "--base REVISION", text)
    option(parser, "--head REVISION", "judge this commit", default="HEAD")
    flag(parser, "--nightly", "also check the nightly budgets")
    option(parser, "--only PATTERN", only)
    option(
        parser, "--no-timed", "do not time operations in pairs", action="store_false", dest="timed"
    )
    add_machine(parser)
    for name in ("markdown", "json"):
        option(parser, f"--{name} FILE", "write the report there too", type=Path)

    finding = _calling(bisect, "series", "base", "head")
    bisecting = add("bisect", finding, "which commit made a series slower")
    text = "the series, or a part of its name that no other has"
    bisecting.add_argument("series", help=text)
    profiling = add("profile", _profile, "flame graphs of two commits")
    profiling.add_argument("operation", help="its name, or a part that no other has")
    text = "sample each commit for S seconds (default: 8)"
    option(profiling, "--seconds S", text, type=float, default=8.0)
    for parser in (bisecting, profiling):
        option(parser, "--base REVISION", "before (default: the branch in asv.conf.json)")
        option(parser, "--head REVISION", "after (default: HEAD)", default="HEAD")
    comparing = _calling(compare, "revisions", "only")
    parser = add("compare", comparing, "two measured commits")
    parser.add_argument("revisions", nargs=2, metavar="COMMIT")
    option(parser, "--only PATTERN", only)
    parser = add("budgets", _calling(show_budgets, "head"), "the table of budgets")
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

"""The gate's commands beside the gate itself: where it slowed, why, and how far to trust it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from stageflow.pulse.gate.bisect import bisect, told
from stageflow.pulse.gate.judge import Exit
from stageflow.pulse.gate.profile import profile
from stageflow.pulse.gate.selftest.command import Options, selftest
from stageflow.pulse.gate.setting import Emit
from stageflow.pulse.project import AsvProject

_BISECT_HELP = """\
Find the commit in which a series rose between two commits. Only that series is measured, in a copy
of each commit's package, on as few commits as it takes; those that it cannot be measured on are
gone around.

examples:
  stageflow pulse bisect "track_instructions('bag.write')" --base HEAD~30
  stageflow pulse bisect "track_calls_in_a_row('voice')"
  stageflow pulse bisect "timed('run.chain')" --base v0.1.0     by time, in pairs with the base
"""

_PROFILE_HELP = """\
Draw where the time of an operation goes, as flame graphs of two commits side by side.

examples:
  stageflow pulse profile bag.write
  stageflow pulse profile turn.voice --base HEAD~10 --seconds 20
"""

_SELFTEST_HELP = """\
Try the gate on code of which the truth is known: identical code, which must not alarm; planted
slowdowns and a lost overlap, which must; and faults of the gate's own, none of which may read as a
verdict. What comes of it is written to two files, and printed.

examples:
  stageflow pulse selftest                                      takes an hour
  stageflow pulse selftest --quiet 4 --loaded 0 --repeats 1     a few minutes

exit codes:
  0    every goal was met
  1    a goal was missed; the table says which
  6    something could not be measured
  130  interrupted
"""

Do = Callable[[AsvProject, argparse.Namespace, Emit], Exit]


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; each sets ``do``, called with the project and the parsed arguments."""
    parser = command("bisect", help="which commit made a series rise", description=_BISECT_HELP)
    parser.add_argument("series", help="the series, or a part of its name that no other has")
    _add_ends(parser)
    parser.set_defaults(do=_bisect)

    parser = command("profile", help="flame graphs of two commits", description=_PROFILE_HELP)
    parser.add_argument("operation", help="its name, or a part that no other has")
    _add_ends(parser)
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="sample so long")
    parser.set_defaults(do=_profile)

    parser = command("selftest", help="how far to trust the gate", description=_SELFTEST_HELP)
    amounts = (
        ("--quiet", 40, "rounds on the machine as it is"),
        ("--loaded", 24, "rounds with every processor kept busy"),
        ("--draws", 500, "comparisons drawn from the rounds of either kind"),
        ("--repeats", 3, "how often each planted defect is measured"),
        ("--seed", 0, "what the draws are made from"),
    )
    for name, default, what in amounts:
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--into",
        type=Path,
        default=Path("docs/gate-selftest"),
        metavar="FILE",
        help="write FILE.json and FILE.md (default: %(default)s)",
    )
    parser.set_defaults(do=_selftest)


def _add_ends(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="REVISION", help="before (default: the branch in asv.conf.json)"
    )
    parser.add_argument("--head", default="HEAD", metavar="REVISION", help="after (default: HEAD)")


def _bisect(project: AsvProject, arguments: argparse.Namespace, emit: Emit) -> Exit:
    found = bisect(project, arguments.series, arguments.base, arguments.head, emit)
    for line in told(project, found):
        emit(line)
    return Exit.FINE


def _profile(project: AsvProject, arguments: argparse.Namespace, emit: Emit) -> Exit:
    ends = arguments.base, arguments.head
    page = profile(project, arguments.operation, ends, arguments.seconds, emit)
    emit(f"Both flame graphs stand in {page}")
    return Exit.FINE


def _selftest(project: AsvProject, arguments: argparse.Namespace, emit: Emit) -> Exit:
    names = Options.__dataclass_fields__
    return selftest(project, Options(**{name: getattr(arguments, name) for name in names}), emit)

"""The commands of the benchmark history and of the gate."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from stageflow.errors import StageflowError
from stageflow.pulse.alerts import cli as alerts_cli
from stageflow.pulse.alerts import generate
from stageflow.pulse.arguments import add_repository, add_store
from stageflow.pulse.bench import (
    DEFAULT_COMMITS,
    EXIT_INTERRUPTED,
    Options,
    bench,
    say_how_to_open,
)
from stageflow.pulse.central import cli as central_cli
from stageflow.pulse.central.page import PAGE, STORE_FILES, live_site
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import cli as gate_cli
from stageflow.pulse.gate import command as gate_command
from stageflow.pulse.gate.compare import compare
from stageflow.pulse.gate.judge import Exit
from stageflow.pulse.gate.shown import show_budgets
from stageflow.pulse.merge import merge
from stageflow.pulse.project import AsvProject
from stageflow.pulse.serve import address_of, make_server
from stageflow.pulse.shards import add_shard
from stageflow.pulse.site import publish

EXIT_ERROR = 1
DEFAULT_PORT = 8765
DEFAULT_HOURS = 24.0

_BENCH_HELP = """\
Measure the newest commits of the branch in asv.conf.json that have no results on this machine,
newest first, then publish the history as a site that needs no network. A commit counts as
measured when every present benchmark has a result there, was skipped there or failed there.

examples:
  stageflow pulse bench
  stageflow pulse bench --commits 1 --bench exact       one commit, and only some benchmarks
  stageflow pulse bench --shard 2/4 --machine ci        a quarter of the benchmarks; see merge

exit codes:
  0    measured and published; failures on older commits are only reported
  1    nothing could be measured or published; the last line says why and what to do
  2    bad arguments
  3    published, but the newest commit measured now did not build or has failed benchmarks
  130  interrupted or terminated; what was measured until then is published
"""

_MERGE_HELP = """\
Add results of other machines to those of this clone: of shards (bench --shard), or of whole runs.
A folder is like .asv/results there. Of two measurements of one benchmark on one commit, the later
one stands; nothing is changed unless all can be merged.

examples:
  stageflow pulse merge shards/1 shards/2 shards/3 shards/4

exit codes: 0 merged, 1 a file is not sound or belongs to something else, 2 bad arguments
"""

_BUILD_HELP = """\
Publish the results there are as a site, without measuring anything: asv's pages, and Central Pulse
(central.html), which shows history, telemetry and what is wrong now. docs/guides/central-pulse.md
tells how to read it.

examples:
  stageflow pulse build
  stageflow pulse build --store telemetry.db

exit codes: 0 published, 1 nothing could be published (the last line says why), 2 bad arguments
"""

_SERVE_HELP = """\
Serve the published site on the loopback address, until interrupted. With --store, Central Pulse
shows the telemetry of that file as it comes, and refreshes itself; a site need not have been
published for that.

examples:
  stageflow pulse serve
  stageflow pulse serve --store telemetry.db --hours 1
"""

_GATE_HELP = """\
Measure two commits of this repository, as far as they are not measured yet, and judge what
changed: by exact figures, by counted instructions, and by works timed in pairs; then hold the
budgets of benchmarks/budgets.toml. docs/guides/gate.md tells how to read the report.

examples:
  stageflow pulse gate                              HEAD against where it left main
  stageflow pulse gate --base HEAD~1 --only bag     one commit, and only some series
  stageflow pulse gate --nightly --markdown gate.md

exit codes (of several that hold, the first in the order 6, 5, 4, 1, 3):
  0    fine
  1    regression: something became slower that is not accepted in benchmarks/accepted.toml
  2    bad arguments
  3    over budget
  4    nothing, or too little, was measured to judge
  5    a benchmark broke, or the head lacks what it measures and the base had
  6    the set-up failed; the last lines say why and what to do
  130  interrupted
"""

_COMPARE_HELP = """\
Print every series that was measured on both commits, the greatest rise first, without a
judgement and without measuring anything.

examples:
  stageflow pulse compare main HEAD
  stageflow pulse compare v0.1.0 HEAD --only exact

exit codes: 0 printed, 2 bad arguments, 4 nothing was measured on both, 6 the set-up failed
"""

_BUDGETS_HELP = """\
Check benchmarks/budgets.toml and benchmarks/accepted.toml, and print every budget beside what was
measured last.

examples:
  stageflow pulse budgets
  stageflow pulse budgets --head main

exit codes: 0 fine, 2 bad arguments, 3 over budget, 6 a file is wrong, or the set-up failed
"""


def add_commands(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the commands to a parser; each sets ``run``, called with the parsed arguments.

    ``run`` returns the exit code and raises `PulseError` for what the user can mend.
    """
    raw = argparse.RawDescriptionHelpFormatter
    command = partial(subparsers.add_parser, formatter_class=raw)
    parser = command("bench", help="measure new commits and publish", description=_BENCH_HELP)
    add_repository(parser)
    parser.add_argument(
        *("-n", "--commits"),
        type=_positive,
        default=DEFAULT_COMMITS,
        metavar="N",
        help="measure at most N commits (default: %(default)s)",
    )
    parser.add_argument("--machine", metavar="NAME", help="file the results under this name")
    parser.add_argument("--bench", metavar="REGEX", help="only benchmarks whose name matches")
    add_shard(parser)
    parser.add_argument(
        *("-a", "--attribute"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override an attribute of all benchmarks, such as rounds=1; may be repeated",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="measure again where benchmarks failed",
    )
    parser.set_defaults(run=_bench)

    parser = command("merge", help="add results of other machines", description=_MERGE_HELP)
    add_repository(parser)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.set_defaults(run=_merge)

    parser = command("build", help="publish the results there are", description=_BUILD_HELP)
    add_repository(parser)
    add_store(parser, f"what Central Pulse shows (default: {' or '.join(STORE_FILES)})")
    parser.set_defaults(run=_build)

    parser = command("serve", help="serve the published site", description=_SERVE_HELP)
    add_repository(parser)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    add_store(parser, "show this telemetry, live")
    parser.add_argument(
        "--hours",
        type=_positive_number,
        default=DEFAULT_HOURS,
        metavar="N",
        help="of the telemetry, show the newest N hours (default: %(default)g)",
    )
    parser.set_defaults(run=_serve)

    central_cli.add_commands(command, _emit)
    alerts_cli.add_command(command, _emit)
    generate.add_command(command, _emit)
    _add_gate(command)


def _add_gate(command: Callable[..., argparse.ArgumentParser]) -> None:
    parser = command("gate", help="judge a commit against another", description=_GATE_HELP)
    add_repository(parser)
    parser.add_argument(
        "--base",
        metavar="REVISION",
        help="compare with where HEAD left this (default: the branch in asv.conf.json)",
    )
    parser.add_argument("--head", default="HEAD", metavar="REVISION", help="judge this commit")
    parser.add_argument("--nightly", action="store_true", help="hold the budgets of the night too")
    parser.add_argument(
        "--only", metavar="PATTERN", help="only series with this in their name, or a shell pattern"
    )
    parser.add_argument(
        "--no-timed", action="store_false", dest="timed", help="time nothing in pairs"
    )
    parser.add_argument("--machine", metavar="NAME", help="file the results under this name")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.set_defaults(run=partial(_of_the_gate, _gate))

    def gate_beside(name: str, **options: Any) -> argparse.ArgumentParser:
        parser = command(name, **options)
        add_repository(parser)
        parser.set_defaults(run=partial(_of_the_gate, _beside_the_gate))
        return parser

    gate_cli.add_commands(gate_beside)

    parser = command("compare", help="two measured commits", description=_COMPARE_HELP)
    add_repository(parser)
    parser.add_argument("revisions", nargs=2, metavar="COMMIT")
    parser.add_argument(
        "--only", metavar="PATTERN", help="only series with this in their name, or a shell pattern"
    )
    parser.set_defaults(run=partial(_of_the_gate, _compare))

    parser = command("budgets", help="the table of budgets", description=_BUDGETS_HELP)
    add_repository(parser)
    parser.add_argument("--head", default="HEAD", metavar="REVISION", help="measured on this one")
    parser.set_defaults(run=partial(_of_the_gate, _budgets))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a pulse command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stageflow.pulse",
        description="The benchmark history of this repository: measure it, publish it, look at it.",
    )
    add_commands(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except StageflowError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED


def _bench(arguments: argparse.Namespace) -> int:
    # A terminated run publishes what it has too, and leaves no asv behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(
        commits=arguments.commits,
        machine=arguments.machine,
        pattern=arguments.bench,
        shard=arguments.shard,
        attributes=tuple(arguments.attribute),
        retry_failed=arguments.retry_failed,
    )
    return bench(AsvProject.load(arguments.repository), options, _emit)


def _merge(arguments: argparse.Namespace) -> int:
    done = merge(AsvProject.load(arguments.repository), arguments.folders, _emit)
    _emit(f"{done.rows} measurements merged, {done.files} files changed")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    project = AsvProject.load(arguments.repository)
    say_how_to_open(project, publish(project, _emit, store=arguments.store), _emit)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    project = AsvProject.load(arguments.repository)
    if arguments.store is None:
        return _serve_forever(make_server(project.html_dir, arguments.port), "")
    with tempfile.TemporaryDirectory(prefix="central-") as alone:
        site_dir, live = live_site(
            project, arguments.store, arguments.hours * 3600, Path(alone), _emit
        )
        return _serve_forever(make_server(site_dir, arguments.port, live), PAGE)


def _serve_forever(server: ThreadingHTTPServer, page: str) -> int:
    with server:
        _emit(f"Open {address_of(server)}{page} (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _emit("")
    return 0


def _of_the_gate(
    do: Callable[[AsvProject, argparse.Namespace], Exit], arguments: argparse.Namespace
) -> Exit:
    """Run a command of the gate, whose exit codes tell a failed set-up from a regression."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return do(AsvProject.load(arguments.repository), arguments)
    except PulseError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return Exit.SET_UP


def _gate(project: AsvProject, arguments: argparse.Namespace) -> Exit:
    names = gate_command.Options.__dataclass_fields__
    options = gate_command.Options(**{name: getattr(arguments, name) for name in names})
    return gate_command.gate(project, options, _emit)


def _beside_the_gate(project: AsvProject, arguments: argparse.Namespace) -> Exit:
    return Exit(arguments.do(project, arguments, _emit))


def _compare(project: AsvProject, arguments: argparse.Namespace) -> Exit:
    return compare(project, tuple(arguments.revisions), arguments.only, _emit)


def _budgets(project: AsvProject, arguments: argparse.Namespace) -> Exit:
    return show_budgets(project, arguments.head, _emit)


def _emit(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number

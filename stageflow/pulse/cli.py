"""The commands ``bench``, ``build`` and ``serve`` of the benchmark history."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stageflow.pulse.bench import (
    DEFAULT_COMMITS,
    EXIT_INTERRUPTED,
    Options,
    bench,
    say_how_to_open,
)
from stageflow.pulse.errors import PulseError
from stageflow.pulse.project import AsvProject
from stageflow.pulse.serve import address_of, make_server
from stageflow.pulse.site import publish

EXIT_ERROR = 1
DEFAULT_PORT = 8765

_BENCH_HELP = """\
Measure the newest commits of the branch in asv.conf.json that have no results on this machine,
newest first, then publish the history as a site that needs no network. A commit counts as
measured when every present benchmark has a result there, was skipped there or failed there.

exit codes:
  0    measured and published; failures on older commits are only reported
  1    nothing could be measured or published; the last line says why and what to do
  2    bad arguments
  3    published, but the newest commit measured now did not build or has failed benchmarks
  130  interrupted or terminated; what was measured until then is published
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
    _add_repository(parser)
    parser.add_argument(
        *("-n", "--commits"),
        type=_positive,
        default=DEFAULT_COMMITS,
        metavar="N",
        help="measure at most N commits (default: %(default)s)",
    )
    parser.add_argument("--machine", metavar="NAME", help="file the results under this name")
    parser.add_argument("--bench", metavar="REGEX", help="only benchmarks whose name matches")
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

    parser = command("build", help="publish the results there are")
    parser.description = "Publish the results there are as a site, without measuring anything."
    _add_repository(parser)
    parser.set_defaults(run=_build)

    parser = command("serve", help="serve the published site to this machine")
    parser.description = "Serve the published site on the loopback address, until interrupted."
    _add_repository(parser)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    parser.set_defaults(run=_serve)


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
    except PulseError as error:
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
        attributes=tuple(arguments.attribute),
        retry_failed=arguments.retry_failed,
    )
    return bench(AsvProject.load(arguments.repository), options, _emit)


def _build(arguments: argparse.Namespace) -> int:
    project = AsvProject.load(arguments.repository)
    say_how_to_open(project, publish(project, _emit), _emit)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    project = AsvProject.load(arguments.repository)
    with make_server(project.html_dir, arguments.port) as server:
        _emit(f"The benchmark history: {address_of(server)} (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _emit("")
    return 0


def _emit(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the clone with asv.conf.json (default: the current folder)",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number

"""The parser of the command line, and what becomes of a command: output or error, exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from stageflow import __version__
from stageflow.cli import cluster, completion, dlq, doctor, draw, init, run, say
from stageflow.cli.errors import UsageError
from stageflow.cli.options import complain, described
from stageflow.errors import StageflowError
from stageflow.pulse.cli import add_commands as add_pulse_commands

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
#: What a shell reports for a program whose reader went away.
EXIT_BROKEN_PIPE = 141

_DESCRIPTION = """\
Run voice and chat turns as a graph of stages, and see where their time goes.

examples:
  stageflow init shop                       a project with tests and benchmarks, to begin with
  stageflow doctor                          what is installed, and what is missing
  stageflow run voice                       a turn with fake providers, and its timeline
  stageflow run chat --text "Hi" --json     the same for a chat, as JSON
  stageflow say "Hi" --out hi.wav           a question to ask: run voice --in hi.wav
  stageflow run shop.turns:order            a Pipeline of your own
  stageflow graph voice                     the graph as a Mermaid flowchart
  stageflow dlq list --store letters.db     runs that failed and were kept (run --dlq)
  stageflow worker voice --broker URL       run turns that others send (dispatch) over Redis
  stageflow pulse bench                     measure this repository's newest commits

exit codes:
  0    done
  1    the run failed, or a file could not be read or written
  2    bad arguments
  130  interrupted
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command sets ``run``, which does it."""
    parser = argparse.ArgumentParser(
        prog="stageflow",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stageflow {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    init.add_command(commands)
    doctor.add_command(commands)
    run.add_command(commands)
    say.add_command(commands)
    draw.add_commands(commands)
    dlq.add_commands(commands)
    cluster.add_commands(commands)
    pulse = described(
        commands,
        "pulse",
        "the benchmark history of a repository: measure, publish, serve",
        "  stageflow pulse bench           measure new commits and publish\n"
        "  stageflow pulse bench --help    what a command takes",
    )
    add_pulse_commands(pulse.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    completion.add_command(commands, make_parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; those of the process if left out.

    Returns:
        The exit code; see the help.

    Raises:
        SystemExit: The arguments do not parse (code 2), or ask for help or the version (code 0).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that lacks a sign of the charts gets a question mark in its place.
        sys.stdout.reconfigure(errors="replace")
    arguments = make_parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except StageflowError as error:
        complain(f"error: {error}")
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except BrokenPipeError:
        # Whatever is still buffered must not raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        complain("Interrupted.")
        return EXIT_INTERRUPTED
    return code

"""The table of commands, the parser that is made from it, and the exit codes."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from stageflow import __version__
from stageflow._utils.text import shown_address
from stageflow.cli.common import UsageError, complain, needing, say
from stageflow.errors import StageflowError, did_you_mean

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
#: What a shell reports for a program whose reader has closed the pipe.
EXIT_BROKEN_PIPE = 141
#: What the help of each command says before and after its options: NAME.txt, dlq-NAME.txt.
_HELP_DIR = Path(__file__).with_name("help")


class Command(NamedTuple):
    """A command: its name, its line and heading in the help, and ``module:function``.

    The function adds arguments to a parser and sets ``run``, which returns an exit code, or None
    for 0. It is imported only if it is needed.
    """

    name: str
    summary: str
    group: str
    configure: str


_RUN, _OPERATE, _SET_UP = "run pipelines", "operate", "set up"
#: All commands. The parser, its help and suggestions, and completion are made from it.
COMMANDS = (
    Command("run", "run a pipeline once and draw its timeline", _RUN, "cli.run:configure_run"),
    Command("say", "speak a text into a WAV file", _RUN, "cli.run:configure_say"),
    Command("graph", "draw the graph of a pipeline", _RUN, "cli.draw:configure_graph"),
    Command("timeline", "draw the events of a run", _RUN, "cli.draw:configure_timeline"),
    Command("dlq", "list, show, replay or export failed runs", _OPERATE, "cli.dlq:configure"),
    Command("worker", "run jobs from a broker", _OPERATE, "cli.cluster:configure_worker"),
    Command("dispatch", "send a job to a worker", _OPERATE, "cli.cluster:configure_dispatch"),
    Command("pulse", "measure, judge and publish commits", _OPERATE, "cli.app:configure_pulse"),
    Command("init", "create a project", _SET_UP, "cli.init:configure"),
    Command("doctor", "check what is installed", _SET_UP, "cli.doctor:configure"),
    Command("completion", "print a shell's script", _SET_UP, "cli.app:configure_completion"),
)
#: The group above the first command of each.
_HEADINGS = {next(c.name for c in COMMANDS if c.group == g): g for g in (_RUN, _OPERATE, _SET_UP)}


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest command or option; subparsers are of this class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help} | options)
        name = self.prog.removeprefix("stageflow ").replace(" ", "-")
        text = (_HELP_DIR / f"{name}.txt").read_text(encoding="utf-8")
        self.description, examples, after = text.partition("examples:\n")
        self.epilog = examples + after

    def error(self, message: str) -> NoReturn:
        """Show a usage error without the passwords of addresses, which may be anywhere in it."""
        text = " ".join(map(shown_address, message.split(" ")))
        self.exit(EXIT_USAGE, f"error: {text}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, where the options of the command are known."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            hint = did_you_mean(left[0], self._option_string_actions)
            self.error(f"there is no argument {left[0]!r}{hint}")
        return found, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            hint = did_you_mean(str(value), action.choices)
            self.error(f"there is no command {value!r}{hint}")
        super()._check_value(action, value)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the usage to a line, and fills paragraphs that have no lines of their own."""

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        named = [action for action in actions if action.required]
        text = super()._format_usage(usage, named, [], prefix)
        if prefix == "":  # the name of the program for subparsers, which is no usage
            return text
        return text.replace(self._prog, f"{self._prog} [options]", 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        parts = text.strip().split("\n\n")
        return "\n\n".join(p if "\n " in p else fill(self, p, width, indent) for p in parts)


class _ByGroup(_Help):
    def _format_action(self, action: argparse.Action) -> str:
        self._action_max_length = max(self._action_max_length, 14)  # of the longest command
        heading = _HEADINGS.get(action.dest)
        return (f"  {heading}:\n" if heading else "") + super()._format_action(action)


def make_parser(words: Collection[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser, with the arguments only of commands among `words`, or of all."""
    parser = _Parser(prog="stageflow", formatter_class=_ByGroup)
    parser.add_argument("--version", action="version", version=f"stageflow {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, summary, _, configure in COMMANDS:
        added = commands.add_parser(name, help=summary)
        if words is None or name in words:
            module, _, function = configure.partition(":")
            getattr(import_module(f"stageflow.{module}"), function)(added)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command (by default that of the process) and return its exit code.

    Raises:
        SystemExit: The arguments are not valid (code 2), or ask for help or the version (code 0).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console without a sign of the charts shows a question mark instead.
        sys.stdout.reconfigure(errors="replace")
    words = sys.argv[1:] if argv is None else argv
    arguments = make_parser(words).parse_args(words)
    try:
        code = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
    except StageflowError as error:
        lines = f"error: {error}".split("\n") if hasattr(error, "problems") else [f"error: {error}"]
        for line in lines:
            complain(line)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except BrokenPipeError:
        # Buffered output must not raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        complain("Interrupted.")
        return EXIT_INTERRUPTED
    return code


def configure_pulse(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``stageflow pulse``."""
    from stageflow.pulse.cli import add_commands  # noqa: PLC0415 - other commands do not need it

    add_commands(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))


SHELLS = ("bash", "zsh", "fish")
#: Metavars of options and arguments that take a file.
_FILES = {"FILE", "FOLDER", "PATH", "PATH|REQUIREMENT", "STORE"}


def configure_completion(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow completion``."""
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=lambda arguments: say(completion_script(arguments.shell)))


def completion_script(shell: str) -> str:
    """Return the script that a shell must read to complete the command line."""
    with needing("completion"):
        import shtab  # noqa: PLC0415 - an extra
    parser = make_parser()
    _mark_files(parser, shtab.FILE)
    return str(shtab.complete(parser, shell)).rstrip("\n")


def _mark_files(parser: argparse.ArgumentParser, mark: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark_files(inner, mark)
        elif action.metavar in _FILES:
            action.complete = mark  # type: ignore[attr-defined]

"""``stageflow completion``: the script by which a shell completes this command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from stageflow.cli.errors import needing
from stageflow.cli.options import Commands, described, say

SHELLS = ("bash", "zsh", "fish")

_EXAMPLES = """\
  source <(stageflow completion bash)                          in this bash, now
  stageflow completion bash > ~/.local/share/bash-completion/completions/stageflow
  stageflow completion zsh > ~/.zfunc/_stageflow    with fpath=(~/.zfunc $fpath) before compinit
  stageflow completion fish > ~/.config/fish/completions/stageflow.fish
"""
#: Options and arguments that take a file, by how they are shown.
_FILES = {"FILE", "FOLDER", "PATH", "PATH|REQUIREMENT", "STORE"}


def add_command(commands: Commands, make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command ``completion``, which asks `make_parser` for the whole command line."""
    parser = described(
        commands, "completion", "print the script that completes commands and options", _EXAMPLES
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=lambda arguments: _print(make_parser(), arguments.shell))


def _print(parser: argparse.ArgumentParser, shell: str) -> int:
    say(script(parser, shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the shell has to read; marks in the parser what takes a file.

    Raises:
        UsageError: shtab is not installed.
    """
    with needing("completion"):
        import shtab  # noqa: PLC0415 - an extra; nothing else needs it
    _mark_files(parser, shtab.FILE)
    return str(shtab.complete(parser, shell)).rstrip("\n")


def _mark_files(parser: argparse.ArgumentParser, mark: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark_files(inner, mark)
        elif action.metavar in _FILES:
            action.complete = mark  # type: ignore[attr-defined]

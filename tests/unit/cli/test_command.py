"""The command as a whole: help, version, mistyped commands, interrupts and odd consoles."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stageflow
from stageflow.cli import app, main
from stageflow.kernels import voice
from tests.utils.command_line import Capture, run


def test_version(capsys: Capture) -> None:
    """The version is the package's."""
    assert run(capsys, "--version") == (0, f"stageflow {stageflow.__version__}\n", "")


def parsers(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    """The help of a parser and of all its commands, by name."""
    yield name, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, child in action.choices.items():
                yield from parsers(child, f"{name} {command}")


def test_help_has_examples_that_parse() -> None:
    """Every command, those of the pulse too, has examples in its help, and each of them parses."""
    parser = app.make_parser()
    shown = dict(parsers(parser, "stageflow"))
    assert {"stageflow init", "stageflow dlq replay", "stageflow pulse gate"} <= set(shown)
    for name, text in shown.items():
        listed = text.partition("examples:\n")[2].partition("\n\n")[0]
        # Up to a remark, or to what the shell does with the output.
        call = r"^  (?:.* \| )?(?:\w+=\S+ )?stageflow (.+?)(?:\)? {2,}.*| >.*)?$"
        examples = re.findall(call, listed, re.MULTILINE)
        assert any(f"stageflow {example}".startswith(name) for example in examples), name
        for example in examples:
            words = shlex.split(example)
            if "--help" not in words:
                assert callable(parser.parse_args(words).run)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rnu"], "error: there is no command 'rnu'; did you mean 'run'?; see stageflow --help"),
        (
            ["dlq", "lst"],
            "error: there is no command 'lst'; did you mean 'list'?; see stageflow dlq",
        ),
        (
            ["run", "voice", "--txet", "x"],
            "error: there is no argument '--txet'; did you mean '--text'",
        ),
        (["zzz"], "there is no command 'zzz'; see stageflow --help"),
    ],
)
def test_a_mistyped_command(argv: list[str], message: str, capsys: Capture) -> None:
    """The nearest command or option is suggested, at any depth."""
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err


def test_the_help_lists_the_table_of_commands() -> None:
    """Each command has its line, below the heading of its group."""
    text = app.make_parser(()).format_help().partition("\ncommands:\n")[2]
    listed = re.findall(r"^    (\w+)\s+(\S.*)$", text, re.MULTILINE)
    assert listed == [(command.name, command.summary) for command in app.COMMANDS]
    headings = re.findall(r"^  (\w[\w ]+):$", text, re.MULTILINE)
    assert headings == list(dict.fromkeys(command.group for command in app.COMMANDS))


def test_the_documents_name_commands_of_the_table() -> None:
    """Each ``stageflow …`` of a document is a command."""
    root = Path(__file__).parents[3]
    texts = [path.read_text("utf-8") for path in (root / "README.md", *root.glob("docs/**/*.md"))]
    named = {
        name
        for text in texts
        for name in re.findall(r"(?:^\$ |`)stageflow ([a-z]+)\b(?!\.)", text, re.MULTILINE)
    }
    assert len(named) > 5
    assert named <= {command.name for command in app.COMMANDS}


def test_no_command(capsys: Capture) -> None:
    """Without a command the help is named, and the code is 2."""
    code, _, err = run(capsys)
    assert code == 2
    assert "see stageflow --help" in err
    assert "COMMAND" in err


def test_interrupt(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt exits with 130 and no traceback."""

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stageflow.cli.common.read_lines", interrupted)
    assert run(capsys, "timeline", "x") == (130, "", "Interrupted.\n")


def test_reader_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody reads the output any more, the command ends quietly with the shell's code."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with io.TextIOWrapper(io.FileIO(write_end, "w"), "utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["graph", "voice"]) == 141


def test_console_without_our_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console that cannot show a sign gets a question mark instead of a traceback."""
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["run", "chat", "--scale", "0"]) == 0
    assert b"? guard" in raw.getvalue()


def test_output_that_is_not_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that puts a buffer in place of the standard output gets the whole output."""
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stdout", buffer)
    assert main(["graph", "voice"]) == 0
    assert buffer.getvalue() == voice().draw()

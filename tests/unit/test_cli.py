"""The command line: what it prints, which code it returns, and how it takes bad arguments."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stageflow
from stageflow import Audio, Event
from stageflow.cli import app, main, options
from stageflow.kernels.streaming_voice import streaming_voice
from stageflow.kernels.voice import voice
from stageflow.telemetry.encoding import plain
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

HELLO = "Hello! What can you do?"

#: A module of a user's own, written to the current folder of a test.
OWN = """\
from stageflow import Pipeline, StageContext, StageOutput, stage

@stage(inputs=["items"], outputs=["count", "note"])
async def count(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=len(ctx["items"]), note=ctx["items"] * 200)

@stage()
async def nothing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()

@stage(dependencies=["elsewhere"])
async def waits(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()

order = Pipeline("order", [count], inputs=["items"])
bare = Pipeline("bare", [nothing])
open_ended = Pipeline("open_ended", [waits])
number = 7

class Shelf:
    inner = order

def make():
    return order

def broken():
    raise LookupError("no order today")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder; forgotten afterwards."""
    name = "own_pipelines_of_a_test"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """The exit code, and what went to the standard output and the standard error."""
    try:
        code = main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ── run ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "pipeline", "speaks"),
    [
        (["voice"], "streaming_voice", True),
        (["streaming_voice"], "streaming_voice", True),
        (["voice", "--whole"], "voice", True),
        (["chat"], "chat", False),
    ],
)
def test_run_prints_answer_and_timeline(
    argv: list[str], pipeline: str, speaks: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A turn prints its answer, the timeline of its stages, and when there was sound."""
    code, out, err = run(capsys, "run", *argv, "--scale", "0", "--text", "Any news?")
    assert (code, err) == (0, "")
    answer, empty, heading, *chart = out.splitlines()
    assert (answer, empty) == ("You said: Any news?", "")
    assert heading.startswith(f"{pipeline}: completed in ")
    assert [row.split()[:2] for row in chart if "│" in row][-1] == ["✓", "persist"]
    assert (re.fullmatch(r"first sound after \d+ ms", chart[-1]) is not None) is speaks


def test_only_voice_can_be_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere the option would change nothing, so it is refused."""
    code, out, err = run(capsys, "run", "chat", "--whole")
    assert (code, out) == (2, "")
    assert "--whole is for voice; chat is run as it is" in err


def test_run_has_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Without options there is something to say, and a user of whom there is a profile."""
    code, out, _ = run(capsys, "run", "voice", "--scale", "0", "--json")
    outputs = json.loads(out)["outputs"]
    assert (code, outputs["transcript"], outputs["profile"]) == (0, HELLO, {"name": "Ada"})


def test_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON form holds the outputs, audio by its length, and every event."""
    code, out, err = run(capsys, "run", "voice", "--scale", "0", "--json", "--user", "bob")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["pipeline"], result["status"]) == ("streaming_voice", "completed")
    (first,) = [e for e in result["events"] if e["type"] == "stage.tts.stream_first_item"]
    assert result["first_audio_ms"] == first["offset_ms"]
    assert (result["error"], result["user_message"]) == (None, None)
    answer = f"You said: {HELLO}"
    assert result["outputs"]["answer"] == answer
    seconds = pytest.approx(0.06 * len(answer))
    assert result["outputs"]["speech"] == {"duration_s": seconds, "sample_rate_hz": 16_000}
    assert "profile" not in result["outputs"]
    events = result["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "pipeline.completed"
    assert {event["pipeline_run_id"] for event in events} == {result["pipeline_run_id"]}


def test_seed_makes_ids_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    """With a seed the run's id repeats; without one it is fresh."""

    def run_id(*options: str) -> str:
        out = run(capsys, "run", "chat", "--scale", "0", "--json", *options)[1]
        return str(json.loads(out)["pipeline_run_id"])

    assert run_id("--seed", "7") == run_id("--seed", "7") != run_id("--seed", "8")
    assert run_id() != run_id()


def test_scale_slows_the_providers_down(capsys: pytest.CaptureFixture[str]) -> None:
    """A turn at scale 0.1 sleeps for a tenth of the default latencies, and at scale 0 not."""

    def llm_ms(scale: str) -> float:
        events = json.loads(run(capsys, "run", "chat", "--scale", scale, "--json")[1])["events"]
        found = [e["data"]["duration_ms"] for e in events if e["type"] == "stage.llm.completed"]
        return float(found[0])

    # Seed 0 draws 282.7 ms for the first answer; timers are never early by more than 1 ms.
    assert llm_ms("0.1") > 27
    assert llm_ms("0") < 27


def test_failed_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run exits with 1, says why and what the user is told, and draws its timeline."""
    code, out, err = run(capsys, "run", "voice", "--deadline-s", "0.001")
    assert code == 1
    assert "voice: failed in " in out
    assert "⊘ stt" in out
    assert "error: timeout: the run passed its deadline of 0.001 s\n" in err
    assert "the user is told: That took too long. Please try again." in err


def test_failed_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run as JSON exits with 1, too, and holds the error."""
    code, out, _ = run(capsys, "run", "chat", "--scale", "0", "--json", "--input", "text=[1]")
    result = json.loads(out)
    assert (code, result["status"]) == (1, "failed")
    assert result["error"] == "stage 'guard': the input 'text' is [1]; give a string"


def test_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Events and drawing are written to files, and the events draw the same chart again."""
    events, svg = tmp_path / "turn.jsonl", tmp_path / "turn.svg"
    files = ("--events", str(events), "--svg", str(svg))
    code, out, _ = run(capsys, "run", "chat", "--scale", "0", *files)
    assert code == 0
    lines = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    assert lines[0]["type"] == "pipeline.started"
    assert lines[-1]["type"] == "pipeline.completed"
    assert ET.fromstring(svg.read_text("utf-8")).tag.endswith("svg")
    code, chart, _ = run(capsys, "timeline", str(events))
    assert (code, out.partition("\n\n")[2]) == (0, chart)


@pytest.mark.parametrize("option", ["--svg", "--events"])
def test_file_that_cannot_be_written(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file that cannot be written is named, after the answer was printed."""
    target = str(tmp_path / "missing" / "file")
    code, out, err = run(capsys, "run", "chat", "--scale", "0", option, target)
    assert code == 1
    assert "You said" in out
    assert err == f"error: cannot write {target}: No such file or directory\n"


@pytest.mark.parametrize(
    ("choice", "variables", "terminal", "coloured"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": ""}, False, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour(  # noqa: PLR0917 - pytest passes by name
    choice: str,
    variables: dict[str, str],
    terminal: bool,
    coloured: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Colour is for terminals and FORCE_COLOR, never with NO_COLOR; an option overrides all."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    _, out, _ = run(capsys, "run", "chat", "--scale", "0", "--color", choice)
    assert ("\x1b[32m" in out) == coloured


# ── a pipeline of one's own ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attribute", ["order", "make", "Shelf.inner"])
def test_own_pipeline(attribute: str, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline, or a function that returns one, is found in the current folder and run."""
    name = f"{own}:{attribute}"
    code, out, err = run(capsys, "run", name, "--input", 'items=["tea", "milk"]', "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outputs"]["count"] == 2


def test_outputs_of_own_pipeline(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Outputs are shown by name and shortened; a value that is no JSON is a string."""
    code, out, _ = run(capsys, "run", f"{own}:order", "--input", "items=abc")
    assert code == 0
    first, second, *_ = out.splitlines()
    assert first == "count: 3"
    assert second == f"note: {('abc' * 200)[:200]}…"


def test_own_pipeline_without_outputs(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline without outputs shows its timeline alone."""
    code, out, _ = run(capsys, "run", f"{own}:bare")
    assert code == 0
    assert out.startswith("bare: completed in ")


def test_open_pipeline(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline that lacks a stage can be drawn, and fails to run with the missing name."""
    code, _, err = run(capsys, "run", f"{own}:open_ended")
    assert code == 1
    assert "depends on 'elsewhere', which does not exist" in err
    code, out, _ = run(capsys, "graph", f"{own}:open_ended", "--format", "text")
    assert code == 0
    assert "after elsewhere" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chatt", "no pipeline 'chatt'; .*did you mean 'chat'?"),
        (":order", "no pipeline ':order'"),
        ("OWN:", "no pipeline 'OWN:'"),
        ("OWN:oder", "module 'OWN' has no 'oder'; did you mean 'order'?"),
        ("OWN:zzz", "module 'OWN' has no 'zzz'\n"),
        ("OWN:number", "OWN:number is of type int, not a Pipeline"),
        ("OWN:broken", "calling OWN:broken failed: LookupError: no order today"),
        ("missing_a.b:c", "no module 'missing_a', neither in the current folder nor"),
        ("OWN.sub:c", "no module 'OWN.sub'|importing 'OWN.sub' failed"),
        ("raises:c", "importing 'raises' failed: ZeroDivisionError: division by zero"),
        ("unparsable:c", "importing 'unparsable' failed: SyntaxError: "),
        ("needy:c", "importing 'needy' failed: No module named 'missing_b'"),
    ],
)
def test_pipeline_that_is_not_there(
    name: str, message: str, own: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A pipeline that cannot be had is a usage error that says which part is wrong."""
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "unparsable.py").write_text("def\n")
    (tmp_path / "needy.py").write_text("import missing_b\n")
    code, out, err = run(capsys, "run", name.replace("OWN", own))
    assert (code, out) == (2, "")
    assert re.search(message.replace("?", r"\?").replace("OWN", own), err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["OWN:order"], "needs more inputs; add --input items=VALUE"),
        (["OWN:order", "--input", "itms=1"], "no input 'itms'; it takes 'items'; did you mean"),
        (["OWN:order", "--text", "x"], "makes no use of --text; it takes 'items'"),
        (["OWN:bare", "--user", "x"], "makes no use of --user; it takes no input"),
        (["voice", "--input", "items"], "'items' is not KEY=VALUE"),
        (["voice", "--input", "=1"], "'=1' is not KEY=VALUE"),
        (["voice", "--scale", "-1"], "--scale: '-1' is no finite number from 0 up"),
        (["voice", "--scale", "nan"], "--scale: 'nan' is no finite number from 0 up"),
        (["voice", "--scale", "x"], "--scale: invalid not_negative value: 'x'"),
        (["voice", "--deadline-s", "0"], "--deadline-s: 0 is too little"),
        (["voice", "--seed", "1.5"], "--seed: invalid int value"),
        (["voice", "--colour"], "unrecognized arguments: --colour"),
        ([], "required: PIPELINE"),
    ],
)
def test_bad_arguments(
    argv: list[str], message: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad arguments exit with 2 and a message that names the argument; nothing runs."""
    code, out, err = run(capsys, "run", *(part.replace("OWN", own) for part in argv))
    assert (code, out) == (2, "")
    assert message in err


# ── graph, timeline, pulse ──────────────────────────────────────────────────────────────────


def test_graph_as_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    """By default a graph is drawn as the pipeline draws itself."""
    assert run(capsys, "graph", "voice") == (0, voice().draw(), "")
    assert run(capsys, "graph", "streaming_voice") == (0, streaming_voice().draw(), "")


def test_graph_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """As text, a graph lists its stages in order, with what they wait for and give."""
    code, out, _ = run(capsys, "graph", "chat", "--format", "text")
    assert code == 0
    assert [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()] == [
        ["chat (text, user_id)"],
        ["guard", "guard", "required", "at most 1 s", "→ refusal"],
        ["memory", "enrich", "optional", "at most 1 s", "→ history"],
        ["llm", "agent", "required", "at most 15 s", "after guard, memory", "→ answer"],
        ["persist", "work", "optional", "at most 2 s", "after llm"],
    ]


def test_graph_without_limits(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage without limit, dependencies and outputs is listed without them."""
    code, out, _ = run(capsys, "graph", f"{own}:bare", "--format", "text")
    assert (code, out) == (0, "bare (no inputs)\n  nothing  transform  required\n")


def some_events() -> tuple[Event, ...]:
    return run_virtual(make_pipeline(make_spec("only"), name="drawn").run).events


def test_timeline_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events can come from the standard input."""
    lines = "\n".join(json.dumps(event.to_dict()) for event in some_events())
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, _ = run(capsys, "timeline", "-")
    assert code == 0
    assert out.startswith("drawn: completed in 0 ms, 1 stage\n")


def test_timeline_to_svg(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A timeline can be drawn to a file instead."""
    events, svg = tmp_path / "e.jsonl", tmp_path / "e.svg"
    events.write_text("\n".join(json.dumps(e.to_dict()) for e in some_events()), encoding="utf-8")
    assert run(capsys, "timeline", str(events), "--svg", str(svg)) == (0, "", "")
    assert "drawn: completed" in svg.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*: No such file or directory"),
        (b"\xff\xfe", r"cannot read .*: 'utf-8' codec can't decode"),
        (b"{", r"line 1 is no JSON: "),
        (b"", r"there is no event to draw"),
    ],
)
def test_timeline_of_a_bad_file(
    content: bytes | None, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file that is missing, or does not hold events, exits with 1 and says what is wrong."""
    file = tmp_path / "events.jsonl"
    if content is not None:
        file.write_bytes(content)
    code, out, err = run(capsys, "timeline", str(file))
    assert (code, out) == (1, "")
    assert re.match(f"error: {message}", err)


def test_pulse_is_mounted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The pulse commands are there, and their errors are shown like all others."""
    code, out, _ = run(capsys, "pulse", "--help")
    assert code == 0
    assert re.search(r"bench +measure", out)
    code, _, err = run(capsys, "pulse", "build", "--repository", str(tmp_path / "nowhere"))
    assert code == 1
    assert err.startswith("error: ")


# ── the command as a whole ──────────────────────────────────────────────────────────────────


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
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
    shown = dict(parsers(app.make_parser(), "stageflow"))
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
                assert callable(app.make_parser().parse_args(words).run)


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the usage is shown, and the code is 2."""
    code, _, err = run(capsys)
    assert code == 2
    assert "usage: stageflow" in err
    assert "COMMAND" in err


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt exits with 130 and no traceback."""

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stageflow.cli.draw.read_lines", interrupted)
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


def test_output_that_is_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that puts a buffer in place of the standard output gets the whole output."""
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stdout", buffer)
    assert main(["graph", "voice"]) == 0
    assert buffer.getvalue() == voice().draw()


# ── parts ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("nan"), "nan"),
        ({1: (2, [3])}, {"1": [2, [3]]}),
        ({"x"}, ["x"]),
        (Audio(bytes(32_000)), {"duration_s": 1.0, "sample_rate_hz": 16_000}),
        (b"raw", "b'raw'"),
    ],
)
def test_plain_values(value: Any, expected: Any) -> None:
    """Whatever a stage writes has a form that is valid JSON."""
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_width_is_the_terminal_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeline fills the terminal."""
    monkeypatch.setenv("COLUMNS", "123")
    assert options.terminal_width() == 123


def test_a_fault_on_a_provider_that_nobody_has_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A misspelled provider does not show a healthy turn."""
    assert main(["run", "voice", "--scale", "0", "--inject", "lmm=error"]) == 1
    assert "did you mean 'llm'" in capsys.readouterr().err

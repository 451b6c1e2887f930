"""`stageflow run`, `graph`, `timeline`, `pulse` and `say`."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import Audio, Event
from stageflow.cli import common, main
from stageflow.cli.providers import patient
from stageflow.kernels import streaming_voice, voice
from stageflow.providers import write_wav
from stageflow.telemetry.jsonl import plain
from tests.utils.command_line import Capture, run
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

HELLO = "Hello! What can you do?"

#: A module of a user's own, written to the current folder of a test.
OWN = """\
from stageflow import Pipeline, ProviderRegistry, StageContext, StageOutput, stage

@stage(inputs=["items"], outputs=["count", "note"])
async def count(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=len(ctx["items"]), note=ctx["items"] * 200)

@stage()
async def nothing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()

@stage(dependencies=["elsewhere"])
async def waits(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()

class Shop:
    async def price(self, item):
        return f"{item}: 3"

@stage(outputs=["price"])
async def ask(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(price=await ctx.provider("shop").price("tea"))

@stage
async def refuse(count: int) -> StageOutput:
    return StageOutput.refuse("We are closed.")

def services():
    return ProviderRegistry(shop=Shop())

asking = Pipeline("asking", [ask])
order = Pipeline("order", [count], inputs=["items"])
refused = Pipeline("refused", [count, refuse])
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
def own(module_of: Callable[[str, str], str]) -> str:
    """The name of a module with pipelines and providers."""
    return module_of("own_pipelines_of_a_test", OWN)


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
    argv: list[str], pipeline: str, speaks: bool, capsys: Capture
) -> None:
    """A turn prints its answer, the timeline of its stages, and when there was sound."""
    code, out, err = run(capsys, "run", *argv, "--scale", "0", "--text", "Any news?")
    assert (code, err) == (0, "")
    answer, empty, heading, *chart = out.splitlines()
    assert (answer, empty) == ("You said: Any news?", "")
    assert heading.startswith(f"{pipeline}: completed in ")
    assert [row.split()[:2] for row in chart if "│" in row][-1] == ["✓", "persist"]
    assert (re.fullmatch(r"first sound after \d+ ms", chart[-1]) is not None) is speaks


def test_only_voice_can_be_whole(capsys: Capture) -> None:
    """Elsewhere the option would change nothing, so it is refused."""
    code, out, err = run(capsys, "run", "chat", "--whole")
    assert (code, out) == (2, "")
    assert "--whole works with voice only, not with chat" in err


def test_run_has_defaults(capsys: Capture) -> None:
    """Without options there is something to say, and a user of whom there is a profile."""
    code, out, _ = run(capsys, "run", "voice", "--scale", "0", "--json")
    outputs = json.loads(out)["outputs"]
    assert (code, outputs["transcript"], outputs["profile"]) == (0, HELLO, {"name": "Ada"})


def test_run_as_json(capsys: Capture) -> None:
    """The JSON form holds the outputs, audio by its length, and every event."""
    code, out, err = run(capsys, "run", "voice", "--scale", "0", "--json", "--user", "bob")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["pipeline"], result["status"]) == ("streaming_voice", "completed")
    (first,) = [e for e in result["events"] if e["type"] == "stage.tts.first_audio"]
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


def test_seed_makes_ids_repeat(capsys: Capture) -> None:
    """With a seed the run's id repeats; without one it is fresh."""

    def run_id(*options: str) -> str:
        out = run(capsys, "run", "chat", "--scale", "0", "--json", *options)[1]
        return str(json.loads(out)["pipeline_run_id"])

    assert run_id("--seed", "7") == run_id("--seed", "7") != run_id("--seed", "8")
    assert run_id() != run_id()


def test_scale_slows_the_providers_down(capsys: Capture) -> None:
    """A turn at scale 0.1 sleeps for a tenth of the default latencies, and at scale 0 not."""

    def llm_ms(scale: str) -> float:
        events = json.loads(run(capsys, "run", "chat", "--scale", scale, "--json")[1])["events"]
        found = [e["data"]["duration_ms"] for e in events if e["type"] == "stage.llm.completed"]
        return float(found[0])

    # Seed 0 draws 282.7 ms for the first answer; timers are never early by more than 1 ms.
    assert llm_ms("0.1") > 27
    assert llm_ms("0") < 27


def test_failed_run(capsys: Capture) -> None:
    """A failed run exits with 1, prints its error and user message, and draws its timeline."""
    code, out, err = run(capsys, "run", "voice", "--deadline-s", "0.001")
    assert code == 1
    assert "voice: failed in " in out
    assert "⊘ stt" in out
    assert "error: timeout: the run passed its deadline of 0.001 s\n" in err
    assert "message for the user: That took too long. Please try again." in err


def test_failed_run_as_json(capsys: Capture) -> None:
    """A failed run as JSON exits with 1, too, and holds the error."""
    code, out, _ = run(capsys, "run", "chat", "--scale", "0", "--json", "--input", "text=[1]")
    result = json.loads(out)
    assert (code, result["status"]) == (1, "failed")
    assert result["error"] == "stage 'guard': the input 'text' is [1]; give a string"


def test_files(capsys: Capture, tmp_path: Path) -> None:
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
def test_file_that_cannot_be_written(option: str, capsys: Capture, tmp_path: Path) -> None:
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
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Colour is for terminals and FORCE_COLOR, never with NO_COLOR; an option overrides all."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    _, out, _ = run(capsys, "run", "chat", "--scale", "0", "--color", choice)
    assert ("\x1b[32m" in out) == coloured


@pytest.mark.parametrize("attribute", ["order", "make", "Shelf.inner"])
def test_own_pipeline(attribute: str, own: str, capsys: Capture) -> None:
    """A pipeline, or a function that returns one, is found in the current folder and run."""
    name = f"{own}:{attribute}"
    code, out, err = run(capsys, "run", name, "--input", 'items=["tea", "milk"]', "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outputs"]["count"] == 2


def test_outputs_of_own_pipeline(own: str, capsys: Capture) -> None:
    """Outputs are shown by name and shortened; a value that is not JSON is shown as a string."""
    code, out, _ = run(capsys, "run", f"{own}:order", "--input", "items=abc")
    assert code == 0
    first, second, *_ = out.splitlines()
    assert first == "count: 3"
    assert second == f"note: {('abc' * 200)[:200]}…"


def test_a_stream_that_failed_is_shown_by_its_items(capsys: Capture) -> None:
    """Their number, and how it ended."""
    code, out, _ = run(capsys, "run", "voice", "--inject", "llm=error", "--scale", "0")
    assert code == 1
    assert "sentences: 0 items, failed" in out.splitlines()


def test_own_pipeline_without_outputs(own: str, capsys: Capture) -> None:
    """A pipeline without outputs shows its timeline alone."""
    code, out, _ = run(capsys, "run", f"{own}:bare")
    assert code == 0
    assert out.startswith("bare: completed in ")


def test_a_refusal_is_printed(own: str, capsys: Capture) -> None:
    """The answer for the user stands below the outputs, and nothing has failed."""
    code, out, err = run(capsys, "run", f"{own}:refused", "--input", "items=a")
    assert (code, err) == (0, "")
    assert "We are closed." in out.splitlines()


def test_open_pipeline(own: str, capsys: Capture) -> None:
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
        ("chatt", "not 'chatt'; .*did you mean 'chat'?"),
        (":order", "not ':order'"),
        ("OWN:", "not 'OWN:'"),
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
    name: str, message: str, own: str, capsys: Capture, tmp_path: Path
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
        (["OWN:order", "--text", "x"], "does not use --text; it takes 'items'"),
        (["OWN:bare", "--user", "x"], "does not use --user; it takes no input"),
        (["voice", "--input", "items"], "'items' is not KEY=VALUE"),
        (["voice", "--input", "=1"], "'=1' is not KEY=VALUE"),
        (["voice", "--scale", "-1"], "--scale: '-1' is not a finite number of at least 0"),
        (["voice", "--scale", "nan"], "--scale: 'nan' is not a finite number of at least 0"),
        (["voice", "--scale", "x"], "--scale: invalid not_negative value: 'x'"),
        (["voice", "--deadline-s", "0"], "--deadline-s: give a number above 0"),
        (["voice", "--seed", "1.5"], "--seed: invalid int value"),
        (["voice", "--colour"], "there is no argument '--colour'; did you mean '--color'"),
        ([], "required: PIPELINE"),
    ],
)
def test_bad_arguments(argv: list[str], message: str, own: str, capsys: Capture) -> None:
    """Bad arguments exit with 2 and a message that names the argument; nothing runs."""
    code, out, err = run(capsys, "run", *(part.replace("OWN", own) for part in argv))
    assert (code, out) == (2, "")
    assert message in err


def test_graph_as_mermaid(capsys: Capture) -> None:
    """By default a graph is drawn as the pipeline draws itself."""
    assert run(capsys, "graph", "voice") == (0, voice().draw(), "")
    assert run(capsys, "graph", "streaming_voice") == (0, streaming_voice().draw(), "")


def test_graph_as_text(capsys: Capture) -> None:
    """As text, a graph lists its stages in order, with what they wait for and give."""
    code, out, _ = run(capsys, "graph", "chat", "--format", "text")
    assert code == 0
    assert [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()] == [
        ["chat (text, user_id)"],
        ["guard", "guard", "required", "at most 1 s", "→ refusal"],
        ["memory", "enrich", "optional", "at most 1 s", "→ history"],
        ["llm", "agent", "required", "at most 15 s", "after guard, memory", "→ answer"],
        ["persist", "work", "optional", "at most 2 s", "after guard, llm"],
    ]


def test_graph_without_limits(own: str, capsys: Capture) -> None:
    """Only what a stage has is listed; a dependency counts also if it is inferred."""
    code, out, _ = run(capsys, "graph", f"{own}:refused", "--format", "text")
    assert (code, out.splitlines()[2]) == (0, "  refuse  transform  required  after count")
    code, out, _ = run(capsys, "graph", f"{own}:bare", "--format", "text")
    assert (code, out) == (0, "bare (no inputs)\n  nothing  transform  required\n")


def some_events() -> tuple[Event, ...]:
    return run_virtual(make_pipeline(make_spec("only"), name="drawn").run).events


def test_timeline_from_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events can come from the standard input."""
    lines = "\n".join(json.dumps(event.to_dict()) for event in some_events())
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, _ = run(capsys, "timeline", "-")
    assert code == 0
    assert out.startswith("drawn: completed in 0 ms, 1 stage\n")


def test_timeline_to_svg(capsys: Capture, tmp_path: Path) -> None:
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
        (b"{", r"line 1 is not JSON: "),
        (b"", r"there are no events to draw"),
    ],
)
def test_timeline_of_a_bad_file(
    content: bytes | None, message: str, capsys: Capture, tmp_path: Path
) -> None:
    """A file that is missing, or does not hold events, exits with 1 and says what is wrong."""
    file = tmp_path / "events.jsonl"
    if content is not None:
        file.write_bytes(content)
    code, out, err = run(capsys, "timeline", str(file))
    assert (code, out) == (1, "")
    assert re.match(f"error: {message}", err)


def test_pulse_is_mounted(capsys: Capture, tmp_path: Path) -> None:
    """The pulse commands are there, and their errors are shown like all others."""
    code, out, _ = run(capsys, "pulse", "--help")
    assert code == 0
    assert re.search(r"bench +measure", out)
    code, _, err = run(capsys, "pulse", "build", "--repository", str(tmp_path / "nowhere"))
    assert code == 1
    assert err.startswith("error: ")


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
    """Any output of a stage has a form that is valid JSON."""
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_width_is_the_terminal_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeline fills the terminal."""
    monkeypatch.setenv("COLUMNS", "123")
    assert common.terminal_width() == 123


def test_a_fault_on_a_provider_that_nobody_has_is_refused(
    capsys: Capture,
) -> None:
    """A misspelled provider does not show a healthy turn."""
    assert main(["run", "voice", "--scale", "0", "--inject", "lmm=error"]) == 1
    assert "did you mean 'llm'" in capsys.readouterr().err


def test_a_provider_of_ones_own_is_called(own: str, capsys: Capture) -> None:
    """Beside the others; without it the error ends with the option that gives it."""
    code, out, err = run(capsys, "run", f"{own}:asking", "--providers", f"{own}:services", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outputs"] == {"price": "tea: 3"}
    code, _, err = run(capsys, "run", f"{own}:asking")
    assert code == 1
    assert "no provider is registered as 'shop'" in err
    assert err.endswith("add your own ProviderRegistry with --providers MODULE:ATTRIBUTE\n")
    code, _, err = run(capsys, "run", f"{own}:asking", "--providers", f"{own}:number")
    assert code == 2
    assert "is of type int, not a ProviderRegistry" in err


def test_speech_that_fakes_cannot_recognize_is_reported_with_the_fix(
    tmp_path: Path, capsys: Capture
) -> None:
    """A file of real speech needs real speech recognition, and the error names the option."""
    sound = str(tmp_path / "real.wav")
    write_wav(sound, Audio(b"\x01\x02" * 800))
    code, _, err = run(capsys, "run", "voice", "--scale", "0", "--in", sound)
    assert code == 1
    assert err.endswith(
        "fake providers only recognize speech of fakes: add --provider local or openai\n"
    )


def test_say_writes_what_run_can_hear(tmp_path: Path, capsys: Capture) -> None:
    """With the fakes' voice, for the fakes' ears."""
    sound = str(tmp_path / "q.wav")
    code, out, _ = run(capsys, "say", "Is it raining?", "--provider", "fake", "--out", sound)
    assert (code, out.startswith(f"{sound}: ")) == (0, True)
    code, out, _ = run(capsys, "run", "voice", "--scale", "0", "--in", sound)
    assert (code, out.splitlines()[0]) == (0, "You said: Is it raining?")
    code, _, err = run(capsys, "say", "x", "--provider", "fake", "--voice", "ada", "--out", sound)
    assert code == 2
    assert "--voice is for --provider local and openai only" in err


@pytest.mark.parametrize(("seconds", "limit_s"), [(2, 5.0), (30, 30.0)])
def test_the_time_to_listen_follows_the_length_of_the_sound(seconds: int, limit_s: float) -> None:
    """The kernel's own limit where that is longer; no other stage is changed."""
    sound = Audio(bytes(2 * 16_000 * seconds), 16_000)
    changed = patient(voice(), {"audio": sound}, local=False)
    limits = {spec.name: spec.timeout_s for spec in changed.stages}
    assert limits == {spec.name: spec.timeout_s for spec in voice().stages} | {"stt": limit_s}
    assert changed.inputs == voice().inputs


def test_models_on_this_machine_have_a_minute() -> None:
    """The kernel's limits are for services; stages that call nobody keep theirs."""
    changed = patient(voice(), {}, local=True)
    limits = {spec.name: spec.timeout_s for spec in changed.stages}
    calls = {spec.name: 60.0 for spec in voice().stages if spec.provider}
    assert limits == {spec.name: spec.timeout_s for spec in voice().stages} | calls
    assert calls.keys() >= {"stt", "llm", "tts"}

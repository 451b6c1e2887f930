"""``stageflow dlq``: from a turn that failed to its letter, its replay, and a test of it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import stageflow
from stageflow import errors as err
from stageflow.cli import main
from stageflow.dlq.codec import LetterCodec, StoredType
from stageflow.dlq.export import pytest_file
from stageflow.dlq.reproduce import RecordedFault, RecordedStall, stages_of, values_of
from stageflow.dlq.sqlite import SQLiteDeadLetterStore
from stageflow.events import StageStatus
from stageflow.letter import DeadLetter, LetterError, StageRecord, Unstorable
from tests.fault.letters import make_letter
from tests.utils.virtual_time import run_virtual

ROOT = Path(stageflow.__file__).parents[1]

#: A module of a user's own, in the current folder of a test.
OWN = """\
import asyncio

from stageflow import Pipeline, ProviderRegistry, StageOutput, stage


class Bank:
    async def charge(self, sum_):
        return f"charged {sum_}"


@stage(inputs=["sum"], outputs=["checked"])
async def check(ctx):
    if ctx["sum"] < 0:
        raise ValueError("a negative sum")
    return StageOutput.ok(checked=("ok", ctx["sum"]))


@stage(dependencies=["check"], inputs=["checked"], outputs=["receipt"], provider="bank")
async def charge(ctx):
    return StageOutput.ok(receipt=await ctx.provider("bank").charge(ctx["checked"][1]))


@stage(dependencies=["charge"], inputs=["receipt"])
async def note(ctx):
    if "13" in ctx["receipt"]:
        return StageOutput.fail("unlucky", retryable=True)
    return StageOutput.ok()


pay = Pipeline("pay", [check, charge, note], inputs=["sum"])


def make_pay():
    return pay


real = ProviderRegistry(bank=Bank())


def make_real():
    return real
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder; forgotten afterwards."""
    name = "own_payments_of_a_test"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("STAGEFLOW_DLQ", "letters.db")
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("STAGEFLOW_DLQ", "letters.db")
    return tmp_path


Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    """The exit code, and what went to the standard output and the standard error."""
    try:
        code = main(argv)
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def failed_turn(capsys: Capture, *options: str) -> str:
    """The id of the letter of a voice turn whose model is out of order."""
    fault = ("--inject", "llm=error", "--scale", "0", "--dlq", "letters.db")
    code, _, complaint = run(capsys, "run", "voice", *fault, *options)
    assert code == 1
    listed = [json.loads(line) for line in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    newest = str(listed[-1]["id"])
    assert f"kept as dead letter {newest}" in complaint
    return newest


def put(*letters: DeadLetter) -> None:
    async def work() -> None:
        async with SQLiteDeadLetterStore("letters.db") as store:
            for letter in letters:
                await store.put(letter)

    asyncio.run(work())


# ── run, list, show, replay ─────────────────────────────────────────────────────────────────


def test_a_failed_turn_is_kept_and_listed(here: Path, capsys: Capture) -> None:
    """`run --dlq` keeps it and says how to go on; `list` shows it, as text and as JSON."""
    letter_id = failed_turn(capsys, "--seed", "3")
    code, out, _ = run(capsys, "dlq", "list")
    assert code == 0
    (line,) = out.splitlines()
    for fragment in (letter_id, "waiting", "0 tried", "voice: llm (service_unavailable)"):
        assert fragment in line
    shown = json.loads(run(capsys, "dlq", "list", "--json", "--state", "waiting")[1])
    assert (shown["pipeline"], shown["failed_stage"]) == ("streaming_voice", "llm")
    datetime.fromisoformat(shown["created_at"])
    assert run(capsys, "dlq", "list", "--state", "replayed")[1] == "no dead letters\n"
    assert run(capsys, "dlq", "list", "--state", "replayed", "--json")[1] == ""


def test_a_turn_that_completes_leaves_no_letter(here: Path, capsys: Capture) -> None:
    """With `--dlq` and without a failure there is no file, and no word about it."""
    code, _, complaint = run(capsys, "run", "chat", "--scale", "0", "--dlq", "letters.db")
    assert (code, complaint) == (0, "")
    assert list(here.iterdir()) == []


def test_a_turn_that_cannot_be_kept_says_so(here: Path, capsys: Capture) -> None:
    """The turn's own failure comes first, then that it was not kept."""
    fault = ("--inject", "llm=error", "--scale", "0", "--dlq", "nowhere/letters.db")
    code, _, complaint = run(capsys, "run", "voice", *fault)
    assert code == 1
    own, _, kept = complaint.partition("NOT kept")
    assert "'llm' is out of order" in own
    assert "nowhere/letters.db" in kept


@pytest.mark.parametrize("fault", ["llm", "llm=", "=error", "llm=eror", "stt=cut"])
def test_a_fault_that_is_none_is_refused(here: Path, capsys: Capture, fault: str) -> None:
    """The argument is named, with what would fit, and the code is 2."""
    code, _, complaint = run(capsys, "run", "voice", "--inject", fault)
    assert code == 2
    assert "--inject" in complaint


def test_a_letter_is_shown(here: Path, capsys: Capture) -> None:
    """Error, what the user was told, what was kept, and the timeline; or all of it as JSON."""
    letter_id = failed_turn(capsys)
    code, out, _ = run(capsys, "dlq", "show", letter_id[:6])
    assert code == 0
    for fragment in (
        letter_id,
        "'llm' is out of order",
        "having trouble",
        "audio, user_id",
        "transcript, profile, history",
        "voice: failed in",
    ):
        assert fragment in out
    shown = json.loads(run(capsys, "dlq", "show", letter_id, "--json")[1])
    assert shown["stages"]["stt"]["outputs"] == {"transcript": "Hello! What can you do?"}
    assert (shown["state"], shown["inputs"]["user_id"]) == ("waiting", "ada")


def test_a_letter_is_replayed_once(here: Path, capsys: Capture) -> None:
    """The resumed turn is drawn; a second replay is refused; `show` names the run."""
    letter_id = failed_turn(capsys, "--text", "Is it raining?")
    code, out, _ = run(capsys, "dlq", "replay", letter_id[:8], "--scale", "0")
    assert code == 0
    assert out.startswith("You said: Is it raining?\n")
    code, _, complaint = run(capsys, "dlq", "replay", letter_id, "--scale", "0")
    assert code == 1
    assert "replayed already" in complaint
    listed = run(capsys, "dlq", "list")[1]
    assert "replayed" in listed
    assert "1 tried" in listed
    assert "replayed by:" in run(capsys, "dlq", "show", letter_id)[1]


def test_a_replay_as_json(here: Path, capsys: Capture) -> None:
    """The result, with the stages that were restored among its events."""
    letter_id = failed_turn(capsys)
    code, out, _ = run(capsys, "dlq", "replay", letter_id, "--scale", "0", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["status"] == "completed"
    skipped = [event for event in result["events"] if event["type"] == "stage.stt.skipped"]
    assert letter_id in skipped[0]["data"]["reason"]


# ── pipelines and providers of one's own ────────────────────────────────────────────────────


@pytest.mark.parametrize(("pipeline", "providers"), [("pay", "real"), ("make_pay", "make_real")])
def test_a_letter_of_a_pipeline_of_ones_own(
    own: str, capsys: Capture, pipeline: str, providers: str
) -> None:
    """`--pipeline` and `--providers` name what the command cannot know; it asks for them."""
    assert run(capsys, "run", f"{own}:pay", "--input", "sum=5", "--dlq", "letters.db")[0] == 1
    (letter,) = [json.loads(x) for x in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    assert (letter["failed_stage"], letter["error_code"]) == ("charge", "unknown_provider")
    code, _, complaint = run(capsys, "dlq", "replay", letter["id"])
    assert code == 2
    assert "--pipeline" in complaint
    there = ("--pipeline", f"{own}:{pipeline}")
    assert run(capsys, "dlq", "replay", letter["id"], *there)[0] == 1
    code, out, _ = run(
        capsys, "dlq", "replay", letter["id"], *there, "--providers", f"{own}:{providers}"
    )
    assert code == 0
    assert "receipt: charged 5" in out
    assert "2 tried" in run(capsys, "dlq", "list")[1]


def test_a_failed_replay_is_shown_with_both_runs(own: str, capsys: Capture) -> None:
    """The letter waits again; its timelines are those of the run and of the latest replay."""
    run(capsys, "run", f"{own}:pay", "--input", "sum=13", "--dlq", "letters.db")
    (letter,) = [json.loads(x) for x in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    options = ("--pipeline", f"{own}:pay", "--providers", f"{own}:real")
    code, _, complaint = run(capsys, "dlq", "replay", letter["id"], *options)
    assert code == 1
    assert "unlucky" in complaint
    out = run(capsys, "dlq", "show", letter["id"])[1]
    assert out.count("pay: failed in") == 2
    assert "note (stage_failed)" in out


@pytest.mark.parametrize("name", ["nonsense", "no_such_module:real", "json:dumps", "json:nope"])
def test_providers_that_are_none(own: str, capsys: Capture, name: str) -> None:
    """Whatever stands at the name, a wrong one is an error and nothing is replayed."""
    letter_id = failed_turn(capsys)
    code, _, complaint = run(capsys, "dlq", "replay", letter_id, "--providers", name)
    assert code == 2
    assert name.partition(":")[0] in complaint
    assert "0 tried" in run(capsys, "dlq", "list")[1]


def test_an_object_that_is_no_registry(own: str, capsys: Capture) -> None:
    """The error names its type."""
    letter_id = failed_turn(capsys)
    code, _, complaint = run(capsys, "dlq", "replay", letter_id, "--providers", f"{own}:pay")
    assert code == 2
    assert "Pipeline, not a ProviderRegistry" in complaint


# ── what can be wrong ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [("list",), ("show", "a"), ("replay", "a"), ("export", "a")])
def test_no_store(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Without a store, or with a file that is not there, the code is 2; no file is made."""
    code, _, complaint = run(capsys, "dlq", *command)
    assert code == 2
    assert "there is no file letters.db" in complaint
    monkeypatch.delenv("STAGEFLOW_DLQ")
    code, _, complaint = run(capsys, "dlq", *command)
    assert code == 2
    assert "--store FILE" in complaint
    assert "STAGEFLOW_DLQ" in complaint
    assert list(here.iterdir()) == []


def test_a_file_that_is_no_store(here: Path, capsys: Capture) -> None:
    """The error says what the file is not, and the code is 1."""
    Path("letters.db").write_text("Dear diary, " * 100, encoding="utf-8")
    code, _, complaint = run(capsys, "dlq", "list")
    assert code == 1
    assert complaint == "error: letters.db is no SQLite database; give another file\n"


def test_an_id_that_is_none_or_several(here: Path, capsys: Capture) -> None:
    """An unknown id and one that is not unique are told apart."""
    put(make_letter(1), make_letter(2))
    code, _, complaint = run(capsys, "dlq", "show", "fff")
    assert code == 1
    assert "no dead letter 'fff'" in complaint
    code, _, complaint = run(capsys, "dlq", "show", "000")
    assert code == 2
    assert "2 ids begin with '000'" in complaint


def test_a_letter_that_lacks_a_value(here: Path, capsys: Capture) -> None:
    """`show` names what was not stored, and `export` refuses."""
    put(make_letter(inputs={"items": object()}, pipeline="voice"))
    code, _, complaint = run(capsys, "dlq", "show", "0")
    assert code == 0
    assert "items (of type builtins.object)" in complaint
    code, _, complaint = run(capsys, "dlq", "export", "0")
    assert code == 1
    assert "items" in complaint


# ── export ──────────────────────────────────────────────────────────────────────────────────


def pytest_on(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file in a folder, as its owner would."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PATH": os.environ["PATH"]},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_an_exported_test_reproduces_the_failure(here: Path, capsys: Capture) -> None:
    """In an empty folder pytest goes green: the same stage, the same code."""
    letter_id = failed_turn(capsys, "--seed", "3")
    folder = here / "empty"
    folder.mkdir()
    code, out, complaint = run(
        capsys, "dlq", "export", letter_id, "-o", str(folder / "test_letter.py")
    )
    assert (code, out, complaint) == (0, "", "")
    done = pytest_on(folder, "test_letter.py")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    text = (folder / "test_letter.py").read_text(encoding="utf-8")
    assert "SEED = 3" in text
    assert "service_unavailable" in text
    assert run(capsys, "dlq", "export", letter_id)[1] == text


def test_an_exported_test_goes_red_when_the_failure_is_gone(here: Path, capsys: Capture) -> None:
    """Without its fault the run completes, and the test says so."""
    letter_id = failed_turn(capsys)
    text = run(capsys, "dlq", "export", letter_id)[1]
    fault, end = text.index("FAULTS = ["), text.index("]\n\n\ndef ")
    (here / "test_letter.py").write_text(text[:fault] + "FAULTS = [" + text[end:], encoding="utf-8")
    done = pytest_on(here, "test_letter.py")
    assert done.returncode == 1
    assert "the failure does not show any more" in done.stdout


def export(own: str, letter: DeadLetter, folder: Path) -> subprocess.CompletedProcess[str]:
    text = pytest_file(letter, import_line=f"import {own}", pipeline=f"{own}.pay")
    (folder / "test_letter.py").write_text(text, encoding="utf-8")
    return pytest_on(folder, "test_letter.py")


async def letter_of_a_run(own: str, sum_: int) -> DeadLetter:
    module = importlib.import_module(own)
    ctx = stageflow.PipelineContext({"sum": sum_}, providers=module.real, dead_letters=Keep())
    await module.pay.run(ctx)
    assert ctx.dlq_entry is not None
    return ctx.dlq_entry


class Keep:
    async def put(self, letter: DeadLetter) -> None:
        """Take it; the context holds it."""


@pytest.mark.parametrize("pipeline", ["pay", "make_pay"])
def test_a_bug_of_ones_own_is_exported_without_a_fault(
    own: str, capsys: Capture, tmp_path: Path, pipeline: str
) -> None:
    """A stage that fails by its own logic fails again by itself; inputs are all it takes."""
    run(capsys, "run", f"{own}:pay", "--input", "sum=-5", "--dlq", "letters.db")
    there = ("--pipeline", f"{own}:{pipeline}", "-o", "test_letter.py")
    code, _, complaint = run(capsys, "dlq", "export", "", *there)
    assert (code, complaint) == (0, "")
    assert "FAULTS = []" in (tmp_path / "test_letter.py").read_text(encoding="utf-8")
    done = pytest_on(tmp_path, "test_letter.py")
    assert done.returncode == 0, done.stdout


def test_a_stage_without_a_provider_is_made_to_fail_itself(own: str, tmp_path: Path) -> None:
    """The message may hold anything: quotes, backslashes, line ends, other alphabets."""
    sys.path.insert(0, str(tmp_path))
    letter = asyncio.run(letter_of_a_run(own, 13))
    assert letter.failed_stage == "note"
    nasty = LetterError("unlucky", "transient", 'a "\'\\ """ \n\\N{x} \ud800 ü {braces}', "Oh.")
    letter = make_letter(
        pipeline="pay",
        failed_stage="note",
        error=nasty,
        inputs={"sum": 13, "quotes": '""" \\ \\" \'\'\' {x}'},
        stages=letter.stages,
    )
    done = export(own, letter, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_run_past_its_deadline_is_reproduced(own: str, tmp_path: Path) -> None:
    """The stages that were under way stand still until the deadline, which is made short."""
    letter = make_letter(
        pipeline="pay",
        failed_stage=None,
        error=LetterError("deadline_exceeded", "systemic", "timeout", "Sorry."),
        inputs={"sum": 5},
        stages=dict.fromkeys(("check", "charge", "note"), make_letter().stages["pay"]),
        deadline_s=30.0,
    )
    done = export(own, letter, tmp_path)
    assert done.returncode == 0, done.stdout


def test_an_exported_test_can_be_called_like_any_function(own: str, tmp_path: Path) -> None:
    """Its parts in process: provider, stage and stall each fail the run as recorded."""
    sys.path.insert(0, str(tmp_path))
    kept = make_letter().stages["pay"]
    for failed, provider, code in (("charge", "bank", "boom"), ("note", None, "boom"),
                                   (None, None, "deadline_exceeded")):  # fmt: skip
        letter = make_letter(
            pipeline="pay",
            failed_stage=failed,
            error=LetterError(code, "transient", "gone", "Sorry.", provider=provider),
            inputs={"sum": 5},
            stages=dict.fromkeys(("charge", "note"), kept),
            deadline_s=30.0,
        )
        line = f"import {own}; from {own} import real as default_real"
        text = pytest_file(letter, import_line=line, pipeline=f"{own}.pay")
        given = "default_providers(scale=0)"
        assert given in text
        names: dict[str, Any] = {}
        exec(text.replace(given, "default_real"), names)
        (test,) = [value for name, value in names.items() if name.startswith("test_dead_letter")]
        test()
        names["FAULTS"].clear()
        with pytest.raises(AssertionError, match="does not show any more"):
            test()


EXPORTED = r'''"""Reproduces dead letter 00000000000000000000000000000001.

On 2026-01-02 at 03:04:05 UTC stage 'pay' of pipeline 'shop' failed with 'refused':
no money

The run resumes with what the finished stages had written; empty FINISHED to run all of them.
"""

import asyncio

import shop
from stageflow import PipelineContext, PipelineOrchestrator
from stageflow.dlq.reproduce import RecordedFault, stages_of, values_of
from stageflow.kernels.defaults import default_providers

SEED = 7
DEADLINE_S = None

INPUTS = values_of(
    r"""
{
  "items": [
    "tea"
  ]
}
"""
)

#: What the stages that had finished left behind.
FINISHED = stages_of(
    r"""
{
  "pick": {
    "ending": "completed",
    "outputs": {
      "picked": {
        "$": "tuple",
        "v": [
          "tea",
          {
            "$": "bytes",
            "v": "AA=="
          }
        ]
      }
    }
  }
}
"""
)

#: What goes wrong.
FAULTS = [
    RecordedFault(
        'pay',
        code='refused',
        category='permanent',
        message='no money',
        provider='bank',
    )
]


def test_dead_letter_000000000000() -> None:
    """Stage 'pay' fails with 'refused'."""
    context = PipelineContext(
        INPUTS, providers=default_providers(scale=0), deadline_s=DEADLINE_S, seed=SEED
    )
    orchestrator = PipelineOrchestrator(shop.sale.build(), interceptors=FAULTS)
    result = asyncio.run(orchestrator.resume(context, FINISHED, reason="dead letter 000000000000"))
    assert result.failure is not None, "the run completes: the failure does not show any more"
    failed = result.stages['pay']
    assert (str(failed.status), failed.detail["error_code"]) == (
        "failed",
        'refused',
    )
'''


def test_an_exported_test_stands_there_whole() -> None:
    """The file a user gets, sign by sign: it is theirs to read and to keep."""
    text = pytest_file(make_letter(), import_line="import shop", pipeline="shop.sale")
    assert text == EXPORTED


@pytest.mark.parametrize(
    ("limit_s", "shown"), [(0.01, "0.01"), (30.0, "0.02"), (None, "0.02")], ids=repr
)
def test_an_exported_test_of_a_deadline_stands_there_whole(
    limit_s: float | None, shown: str
) -> None:
    """It differs in the story, the limit, which is short, what goes wrong, and what is checked."""
    stages = {**make_letter().stages, "ship": make_letter().stages["pay"]}
    letter = make_letter(
        failed_stage=None,
        deadline_s=limit_s,
        stages=stages,
        seed=None,
        error=LetterError("deadline_exceeded", "transient", 'a "late\\" one', "Sorry."),
    )
    text = pytest_file(letter, import_line="import shop", pipeline="shop.sale")
    fault, end = EXPORTED.index("FAULTS = ["), EXPORTED.index("]\n\n\ndef ")
    check = EXPORTED.index("    failed = result.")
    expected = EXPORTED[:fault] + "FAULTS = [RecordedStall('pay', 'ship')" + EXPORTED[end:check]
    expected += "    assert result.failure.code == 'deadline_exceeded'\n"
    for old, new in (
        ("stage 'pay' of pipeline 'shop' failed with 'refused'",
         "the run of pipeline 'shop' failed with 'deadline_exceeded'"),
        ("no money\n", "a 'late//' one\n"),
        ("import RecordedFault", "import RecordedStall"),
        ("SEED = 7", "SEED = None"),
        ("DEADLINE_S = None", f"DEADLINE_S = {shown}"),
        ("Stage 'pay' fails with 'refused'", "The run fails with 'deadline_exceeded'"),
    ):  # fmt: skip
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert text == expected


def test_an_exported_test_of_a_bug_holds_no_fault() -> None:
    """The stage fails by itself again; only what makes faults is missing from the file."""
    letter = make_letter(error=LetterError("refused", "logic", "no money", "Sorry."))
    text = pytest_file(letter, import_line="import shop", pipeline="shop.sale")
    fault, end = EXPORTED.index("FAULTS = ["), EXPORTED.index("]\n\n\ndef ")
    expected = EXPORTED[:fault] + "FAULTS = [" + EXPORTED[end:]
    assert text == expected.replace("import RecordedFault, ", "import ")


def test_an_exported_test_reads_what_it_holds() -> None:
    """The values come back as they were, by a codec of one's own too; each stage is final."""
    finished = """{
        "pick": {"ending": "completed", "outputs": {"picked": {"$": "tuple", "v": ["tea"]}}},
        "quote": {"ending": "skipped", "outputs": {}}
    }"""
    assert stages_of(finished) == {
        "pick": StageRecord(StageStatus.COMPLETED, True, None, {"picked": ("tea",)}),
        "quote": StageRecord(StageStatus.SKIPPED, True),
    }
    assert values_of('{"a": {"$": "set", "v": [1]}, "b": null}') == {"a": {1}, "b": None}
    own = LetterCodec([StoredType("range", range, list, lambda v: range(*v))])
    plain = '{"$": "range", "v": [2, 5]}'
    assert values_of(f'{{"a": {plain}}}', own) == {"a": range(2, 5)}
    finished = f'{{"s": {{"ending": "completed", "outputs": {{"a": {plain}}}}}}}'
    assert stages_of(finished, own)["s"].outputs == {"a": range(2, 5)}


@pytest.mark.parametrize("provider", ["bank", None])
def test_a_recorded_fault_fails_as_it_was_recorded(provider: str | None) -> None:
    """With the code, the category and the text of then, and leaves other stages alone."""
    fault = RecordedFault(
        "charge", code="boom", category="systemic", message="gone", provider=provider
    )
    module: dict[str, Any] = {}
    exec(OWN, module)
    ctx = stageflow.PipelineContext({"sum": 5}, providers=module["real"])
    result = asyncio.run(module["pay"].run(ctx, interceptors=[fault]))
    assert result.failure is not None
    assert (result.failure.code, str(result.failure)) == ("boom", "gone")
    assert result.failure.category is err.ErrorCategory.SYSTEMIC
    assert (result.failure.stage, result.stages["check"].status) == ("charge", "completed")


def test_a_recorded_fault_of_a_provider_lets_the_stage_run() -> None:
    """What a stage makes of its provider's failure is its own again."""

    @stageflow.stage(outputs=["receipt"], provider="bank")
    async def charge(ctx: stageflow.StageContext) -> stageflow.StageOutput:
        try:
            await ctx.provider("bank").charge(5)
        except err.StageflowError as error:
            return stageflow.StageOutput.ok(receipt=f"later: {error.code}")
        return stageflow.StageOutput.ok(receipt="now")

    fault = RecordedFault(
        "charge", code="boom", category="systemic", message="gone", provider="bank"
    )
    ctx = stageflow.PipelineContext(providers=stageflow.ProviderRegistry(bank=object()))
    result = asyncio.run(stageflow.Pipeline("p", [charge]).run(ctx, interceptors=[fault]))
    assert result.outputs == {"receipt": "later: boom"}


def test_a_recorded_stall_holds_up_its_stages_alone() -> None:
    """The others go on; the deadline ends the run."""
    module: dict[str, Any] = {}
    exec(OWN, module)
    ctx = stageflow.PipelineContext({"sum": 5}, providers=module["real"], deadline_s=60.0)
    stall = RecordedStall("charge", "note")
    result = run_virtual(lambda: module["pay"].run(ctx, interceptors=[stall]))
    assert (result.failure.code, result.duration_ms) == ("deadline_exceeded", 60_000.0)
    assert result.outputs == {"checked": ("ok", 5)}


def test_a_letter_that_lacks_a_value_is_not_exported() -> None:
    """The error names the key."""
    lost = make_letter(inputs={"items": Unstorable("m.T", "t")})
    with pytest.raises(err.UnstorableValueError, match="items"):
        pytest_file(lost, import_line="", pipeline="")

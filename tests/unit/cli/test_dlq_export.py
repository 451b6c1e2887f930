"""`stageflow dlq export`: a dead letter becomes a test that reproduces the failure."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stageflow
from stageflow import StageStatus
from stageflow import errors as err
from stageflow.codec import Codec, StoredType
from stageflow.dlq import (
    DeadLetter,
    FailureRecord,
    RecordedFault,
    RecordedStall,
    StageRecord,
    Unstorable,
    pytest_file,
    stages_of,
    values_of,
)
from tests.utils.command_line import PAYMENTS, Capture, failed_turn, run
from tests.utils.commands import run_command
from tests.utils.dead_letters import make_letter
from tests.utils.errors import raises_code

ROOT = Path(stageflow.__file__).parents[1]


def pytest_on(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file in a folder, as its owner would."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    return run_command(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PATH": os.environ["PATH"]},
    )


@pytest.mark.slow
def test_an_exported_test_reproduces_the_failure(here: Path, capsys: Capture) -> None:
    """In an empty folder pytest goes green: the same stage, the same code."""
    dead_letter_id = failed_turn(capsys, "--seed", "3")
    folder = here / "empty"
    folder.mkdir()
    code, out, complaint = run(
        capsys, "dlq", "export", dead_letter_id, "-o", str(folder / "test_letter.py")
    )
    assert (code, out, complaint) == (0, "", "")
    done = pytest_on(folder, "test_letter.py")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    text = (folder / "test_letter.py").read_text(encoding="utf-8")
    assert "SEED = 3" in text
    assert "service_unavailable" in text
    assert run(capsys, "dlq", "export", dead_letter_id)[1] == text


@pytest.mark.slow
def test_an_exported_test_goes_red_when_the_failure_is_gone(here: Path, capsys: Capture) -> None:
    """Without its fault the run completes, and the test says so."""
    dead_letter_id = failed_turn(capsys)
    text = run(capsys, "dlq", "export", dead_letter_id)[1]
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


@pytest.mark.slow
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
    nasty = FailureRecord("unlucky", "transient", 'a "\'\\ """ \n\\N{x} \ud800 ü {braces}', "Oh.")
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
        error=FailureRecord("deadline_exceeded", "systemic", "timeout", "Sorry."),
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
            error=FailureRecord(code, "transient", "gone", "Sorry.", provider=provider),
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
from stageflow.dlq import RecordedFault, stages_of, values_of
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

#: The outputs of the finished stages.
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

#: The failure.
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
        error=FailureRecord("deadline_exceeded", "transient", 'a "late\\" one', "Sorry."),
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
    letter = make_letter(error=FailureRecord("refused", "logic", "no money", "Sorry."))
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
    own = Codec([StoredType("range", range, list, lambda v: range(*v))])
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
    exec(PAYMENTS, module)
    ctx = stageflow.PipelineContext({"sum": 5}, providers=module["real"])
    result = asyncio.run(module["pay"].run(ctx, interceptors=[fault]))
    assert result.failure is not None
    assert (result.failure.code, str(result.failure)) == ("boom", "gone")
    assert result.failure.category is err.ErrorCategory.SYSTEMIC
    assert (result.failure.stage, result.stages["check"].status) == ("charge", "completed")


def test_a_recorded_fault_of_a_provider_lets_the_stage_run() -> None:
    """The stage itself handles its provider's failure again."""

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


@pytest.mark.simulate(order="asyncio")
async def test_a_recorded_stall_holds_up_its_stages_alone() -> None:
    """The others go on; the deadline ends the run."""
    module: dict[str, Any] = {}
    exec(PAYMENTS, module)
    ctx = stageflow.PipelineContext({"sum": 5}, providers=module["real"], deadline_s=60.0)
    stall = RecordedStall("charge", "note")
    result = await module["pay"].run(ctx, interceptors=[stall])
    assert (result.failure.code, result.duration_ms) == ("deadline_exceeded", 60_000.0)
    assert result.outputs == {"checked": ("ok", 5)}


def test_a_letter_that_lacks_a_value_is_not_exported() -> None:
    """The error names the key."""
    lost = make_letter(inputs={"items": Unstorable("m.T", "t")})
    with raises_code("unstorable_value", match="items"):
        pytest_file(lost, import_line="", pipeline="")

"""Counting instructions under a real valgrind, exact turns, and the worker of the gate."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stageflow as sf
from benchmarks import counted, exact
from benchmarks._lib import callgrind, measure_one, operations
from benchmarks._lib.callgrind import Count, count
from benchmarks._lib.support import requires, run
from benchmarks._lib.turns import kernel
from stageflow import interceptors
from stageflow.kernels import chat, voice
from tests.utils.commands import run_command
from tests.utils.session import once

ROOT = Path(__file__).resolve().parents[3]

# Not for want of valgrind: where it could run, it has to be there.
counts_here = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="instructions are counted on Linux, x86-64",
)


#: Operations and series that are counted twice, each with a loop of its own.
REPEATED = ("bag.write", "run.suspending", "run.chain", "interceptor.timeout")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Count]:
    """One count, since the start of a process under valgrind takes longer than most counts."""
    sizes = dict.fromkeys([*operations.GROWTH["bag.writes"].sizes, 400, 800])
    names = [*REPEATED, "interceptor.none", *(f"bag.writes@{size}" for size in sizes)]

    def make(folder: Path) -> None:
        found = {name: one.value() for name, one in count(names).items()}
        (folder / "counts.json").write_text(json.dumps(found), encoding="utf-8")

    made = once(tmp_path_factory, "counts", make) / "counts.json"
    return {name: Count(value) for name, value in json.loads(made.read_text("utf-8")).items()}


@pytest.mark.slow
@counts_here
def test_an_import_is_counted_alike_whether_it_was_compiled_before(tmp_path: Path) -> None:
    """In a package without bytecode, and again: where nothing may write any, too."""
    (tmp_path / "stageflow").mkdir()
    # Compiling it takes some times what the rest of its import does.
    text = "".join(f"def function_{n}(a):\n    return a + {n}\n\n\n" for n in range(200))
    text += "PipelineContext = PipelineOrchestrator = function_0\n"
    (tmp_path / "stageflow/__init__.py").write_text(text, encoding="utf-8")
    program = (
        "import compileall, sys; sys.path[:0] = sys.argv[1:3];"
        "from benchmarks._lib.callgrind import count;"
        "cold = count(['start.import'])['start.import'].value();"
        "compileall.compile_dir(sys.argv[1], quiet=2);"
        "print([cold, count(['start.import'])['start.import'].value()])"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path), str(ROOT)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = run_command(command, check=True, env=environment)
    first, second = json.loads(done.stdout)
    assert first == pytest.approx(second, rel=0.01)


@pytest.mark.slow
@counts_here
def test_counts_follow_the_work(counts: dict[str, Count]) -> None:
    """Twice the events are about twice the instructions, and a chain of ten more than one write."""
    assert 1.9 < counts["bag.writes@800"].value() / counts["bag.writes@400"].value() < 2.1


def test_instrumentation_begins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time, valgrind translates the interpreter anew, which takes longer than most counts."""
    asked: list[int] = []
    monkeypatch.setattr(callgrind, "_requests", lambda: lambda request, *_: asked.append(request))
    try:
        answers = callgrind._answers(["bag.write", "run.chain"])
    finally:
        gc.unfreeze()
    assert all(answer["operations"] > 0 for answer in answers.values())
    zero, dump = callgrind._ZERO_STATS, callgrind._DUMP_STATS_AT
    assert asked == [callgrind._START_INSTRUMENTATION, zero, dump, zero, dump]


@pytest.mark.slow
@counts_here
def test_an_operation_that_raises_spoils_no_other(tmp_path: Path) -> None:
    """Its error has type and text; the counts before and after it stay."""
    (tmp_path / "stageflow").symlink_to(ROOT / "stageflow")
    package = shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    with (package / "_lib/operations.py").open("a", encoding="utf-8") as text:
        text.write(
            "\n\ndef _raising():\n"
            "    async def call():\n        raise LookupError('no such thing')\n    return call\n"
            "\n\nOPERATIONS['raising'] = Operation('raising', '', _raising, 1)\n"
        )
    program = (
        "import json, sys; sys.path[:0] = sys.argv[1:3];"
        "from benchmarks._lib.callgrind import count;"
        "print(json.dumps({n: (c.instructions, c.error) for n, c in"
        " count(['bag.write', 'raising', 'bag.read']).items()}))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(ROOT)]
    done = run_command(command, check=True)
    found = json.loads(done.stdout)
    assert found["raising"] == [None, "LookupError: no such thing"]
    assert found["bag.write"][0] > 100
    assert found["bag.read"][0] > 100


@pytest.mark.slow
def test_what_a_commit_lacks_is_not_available(tmp_path: Path) -> None:
    """With an empty stageflow nothing fails: its counts and exponents are NaN, which asv skips."""
    (tmp_path / "stageflow").mkdir()
    (tmp_path / "stageflow" / "__init__.py").touch()
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from benchmarks import counted;"
        "c = counted.counts();"
        "print([counted.Operation().track_instructions(c, o) for o in counted.Operation.params]"
        "+ [counted.Growth().track_exponent(c, w) for w in counted.Growth.params])"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(ROOT)]
    done = run_command(command, check=True)
    values = done.stdout.strip("[]\n").split(", ")
    assert len(values) == len(operations.OPERATIONS) + len(operations.GROWTH)
    # The reference is asyncio alone, whatever stageflow has.
    reference, *ours = values
    assert float(reference) > 0
    assert set(ours) == {"nan"}


def test_without_valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where valgrind is not to be found, nothing is counted, and the reason says the fix."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = count(["bag.write"])["bag.write"]
    assert found.instructions is None
    assert math.isnan(found.value())
    assert "install" in found.missing[0] or "Linux" in found.missing[0]


@pytest.mark.slow
@counts_here
def test_valgrind_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A valgrind that ends with an error fails the whole count, with what it said."""
    broken = tmp_path / "valgrind"
    broken.write_text("#!/bin/sh\necho 'no room for its code' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(callgrind.CallgrindError, match="code 3:\nno room for its code"):
        count(["bag.write"])


@counts_here
def test_counting_that_does_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit grows with what is counted; beyond it the machine was too busy, nothing broke."""
    assert callgrind.limit_s(2) - callgrind.limit_s(1) == callgrind.OPERATION_S > 0
    assert counted.Operation.setup_cache.timeout > callgrind.limit_s(len(ALL))  # type: ignore[attr-defined]
    monkeypatch.setattr(callgrind, "limit_s", lambda _: 0.01)
    with pytest.raises(callgrind.TooBusyError, match="1 operations were not counted within 0 s"):
        count(["bag.write"])
    name = "counted.Operation.track_instructions('bag.write')"
    exact = "exact.Work.track_tasks('chat')"
    found = measure_one.measure([name, exact])
    assert "not counted within" in found[name]["late"]
    assert found[exact]["value"] > 0  # needs no valgrind


def test_a_count_that_raised_fails_its_benchmark() -> None:
    """In asv stands the operation's own error, and not a number."""
    with pytest.raises(RuntimeError, match="LookupError: gone"):
        Count(error="LookupError: gone").value()


def test_interceptors_are_counted_by_what_they_add() -> None:
    """The same stages without any are taken off."""
    counts = {"interceptor.none": Count(100.0), "interceptor.retry": Count(130.0)}
    assert counted.Operation().track_instructions(counts, "interceptor.retry") == 30.0
    assert counted.Operation().track_instructions(counts, "interceptor.none") == 100.0


def test_an_exponent_is_of_what_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base level that does not grow is subtracted on request; otherwise it hides the exponent."""
    costs = {f"x@{n}": Count(1_000.0 + 3.0 * n * n) for n in (0, 2, 4, 8)}
    growth = operations.Growth("x", operations.GROWTH["bag.writes"].make, (2, 4, 8))
    for beyond, expected in ((None, 0.118), (0, 2.0)):
        monkeypatch.setitem(operations.GROWTH, "x", replace(growth, beyond=beyond))
        found = counted.Growth().track_exponent(costs, "x")
        assert found == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_of_a_power_law(power: float) -> None:
    """Costs that are a power of the size have that exponent, whatever they are multiplied by."""
    sizes = [10, 20, 40]
    assert counted.exponent(sizes, [7.0 * n**power for n in sizes]) == pytest.approx(power)


@pytest.mark.slow
@counts_here
def test_a_quadratic_slip_shows_at_small_size(counts: dict[str, Count]) -> None:
    """The sizes that are counted tell the square from the line, although both are quick there."""
    growth = operations.GROWTH["bag.writes"]
    linear = [counts[f"bag.writes@{size}"].value() for size in growth.sizes]
    assert counted.exponent(growth.sizes, linear) == pytest.approx(1.0, abs=0.05)
    slipped = [cost + 20.0 * n * n for n, cost in zip(growth.sizes, linear, strict=True)]
    assert counted.exponent(growth.sizes, slipped) > 1.1


ALL = [*operations.OPERATIONS, *counted.growing_names()]


@pytest.mark.parametrize("name", ALL)
def test_every_operation_can_be_done(name: str) -> None:
    """Each goes through a block of itself, says what it is, and needs what this commit has."""
    work = operations.named(name)
    assert work.name == name
    assert work.what
    assert work.missing() == []
    run(work.do(work.make()))


def test_every_stage_and_interceptor_is_among_them() -> None:
    """Each stage of the kernels and each interceptor of the package is counted by itself."""
    stages = {f"stage.{k.name}.{s.name}" for k in (voice(), chat()) for s in k.stages}
    assert stages == {name for name in operations.OPERATIONS if name.startswith("stage.")}
    brought = {
        name.removesuffix("Interceptor").lower()
        for name in interceptors.__all__
        if name.endswith("Interceptor") and name != "Interceptor"
    }
    assert brought <= {name.removeprefix("interceptor.") for name in operations.OPERATIONS}


def test_importing_again_leaves_the_modules_as_they_were() -> None:
    """The operation that imports the package gives back the modules that were there."""
    work = operations.named("start.import")
    before = dict(sys.modules)
    run(work.do(work.make()))
    assert {name: module for name, module in sys.modules.items() if name in before} == before
    assert sys.modules["stageflow"] is sf


def test_the_steady_loop_moves_by_looking() -> None:
    """Its clock does not depend on how long anything takes: so many looks, so many microseconds."""

    async def look() -> float:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        sum(range(100_000))
        return loop.time() - started_at

    loop = callgrind.SteadyLoop()
    try:
        assert loop.run_until_complete(look()) == pytest.approx(1e-6)
    finally:
        loop.close()


@pytest.mark.parametrize(("name", "expected"), [("voice", 464.84375), ("chat", 246.09375)])
def test_a_turn_takes_its_critical_path(name: str, expected: float) -> None:
    """By hand: stt, read, llm, tts, read, write; and read, llm, read, write. To the last digit."""
    assert exact.Latency().track_ms(name) == expected
    assert exact.Latency().track_beyond_critical_path_ms(name) == 0.0
    assert exact.Latency().track_waits_of_its_own_ms(name) == 0.0


def test_time_to_first_audio() -> None:
    """By hand: stt, read, four of sixteen words, tts; and with the whole answer. To the last digit.

    What streaming wins is the rest of the answer: twelve of its sixteen words.
    """
    streaming = exact.TimeToFirstAudio().track_ms("streaming_voice")
    whole = exact.TimeToFirstAudio().track_ms("voice")
    assert streaming == 125.0 + 23.4375 + 187.5 * 4 / 16 + 93.75
    assert whole == 125.0 + 23.4375 + 187.5 + 93.75
    assert whole - streaming == 187.5 * 12 / 16
    for name, first_ms in (("streaming_voice", streaming), ("voice", whole)):
        # 84 bytes of sound.
        heard_ms = exact.TimeToFirstAudio().track_heard_ms(name)
        assert heard_ms == pytest.approx(first_ms + 84 * 60)


def test_time_to_first_token() -> None:
    """By hand: read, and one of sixteen words. To the last digit."""
    assert exact.TimeToFirstToken().track_ms() == 23.4375 + 187.5 / 16


def test_a_streaming_turn() -> None:
    """By hand: first audio, 84 bytes of sound, read, write; and their calls and events."""
    turn = exact.Streaming()
    assert turn.track_ms() == pytest.approx(289.0625 + 84 * 60 + 23.4375 + 11.71875)
    # stt, two reads, the model; synthesis and sound of four sentences; a read and a write.
    assert turn.track_calls() == 4 + 2 * 4 + 2
    # Two of the run and of seven stages; opened, first item, closed, of two streams; first audio.
    assert turn.track_events() == 2 + 2 * 7 + 3 * 2 + 1
    assert turn.track_tasks() == 6


def test_calls_in_a_row() -> None:
    """By hand: stt, the two reads at once, llm, tts, read, write; and read, llm, read, write."""
    assert exact.Latency().track_calls_in_a_row("voice") == 6
    assert exact.Latency().track_calls_in_a_row("chat") == 4


def test_a_lost_overlap_adds_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice kernel whose two reads run one after the other is seen, by more than asv's factor."""
    stages = [
        replace(spec, dependencies=("profile",)) if spec.name == "memory" else spec
        for spec in voice().stages
    ]
    slow = sf.Pipeline("voice", stages, inputs=["audio", "user_id"])
    monkeypatch.setattr(exact, "kernel", lambda _name: slow)
    assert exact.Latency().track_calls_in_a_row("voice") == 7 > 6 * 1.1
    assert exact.Latency().track_beyond_critical_path_ms("voice") == 0.0


def test_an_engine_that_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of a millisecond that no stage asked for shows beside the zero that stood there."""

    class Pausing(sf.Interceptor):
        async def around(self, ctx: sf.StageContext, call_next: Any, /) -> sf.StageOutput:
            await asyncio.sleep(0.001)
            output: sf.StageOutput = await call_next(ctx)
            return output

    class Slow:
        stages = kernel("chat").stages
        run = sf.PipelineOrchestrator(kernel("chat").build(), interceptors=[Pausing()]).run
        build = kernel("chat").build

    monkeypatch.setattr(exact, "kernel", lambda _name: Slow)
    assert exact.Latency().track_beyond_critical_path_ms("chat") == pytest.approx(3.0)
    assert exact.Latency().track_waits_of_its_own_ms("chat") == pytest.approx(3.0)


def _ask(*questions: dict[str, Any], package: Path = ROOT) -> list[dict[str, Any]]:
    done = run_command(
        [sys.executable, "-P", "-m", "benchmarks._lib.worker"],
        input="".join(json.dumps(question) + "\n" for question in questions),
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{ROOT}"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_worker_answers_in_turn() -> None:
    """It says what it can time, times that, and goes on after what it cannot."""
    ready, first, unknown, second = _ask(
        {"operation": "bag.write", "seconds": 0.0},
        {"operation": "nonsense", "seconds": 0.0},
        {"operation": "run.concurrent", "seconds": 0.0},
    )
    assert ready["ready"] is True
    assert ready["package"] == str(ROOT / "stageflow")
    assert set(ready["operations"]) == {
        name for name, work in operations.OPERATIONS.items() if work.timed
    }
    assert ready["missing"] == {}
    assert first["operation"] == "bag.write"
    assert first["count"] == len(first["wall_ns"]) == 1_000
    assert min(first["wall_ns"]) > 0
    assert first["cpu_ns"] > 0
    assert "nonsense" in unknown["error"]
    # A P99 needs a hundred samples of the gate's twelve blocks, however busy the machine is.
    assert second["count"] == 9 * operations.OPERATIONS["run.concurrent"].per_block


def test_the_worker_measures_the_package_that_comes_first(tmp_path: Path) -> None:
    """An older package is what it times; what that lacks is named, and not an error."""
    (tmp_path / "stageflow").mkdir()
    (tmp_path / "stageflow" / "__init__.py").write_text("ContextBag = dict\n", encoding="utf-8")
    ready, answer = _ask({"operation": "run.chain", "seconds": 0.0}, package=tmp_path)
    assert ready["package"] == str(tmp_path / "stageflow")
    assert "bag.write" not in ready["missing"]
    assert "PipelineOrchestrator" in ready["missing"]["run.chain"]
    assert "PipelineOrchestrator" in answer["missing"]


@pytest.mark.slow
@counts_here
def test_single_series_are_measured_by_name(counts: dict[str, Count]) -> None:
    """Exact and counted ones by their names in asv; what asv would count with all others, too.

    Two counts of the same code differ by less than one in ten thousand, loops and all.
    """
    exact = "exact.Latency.track_ms('chat')"
    exponent = "counted.Growth.track_exponent('bag.writes')"
    repeated = {f"counted.Operation.track_instructions({name!r})": name for name in REPEATED}
    (_, found) = _ask({"measure": [exact, *repeated, exponent]})
    assert found[exact] == {"value": 246.09375}
    for series, name in repeated.items():
        value = counted.Operation().track_instructions(counts, name)
        assert found[series]["value"] == pytest.approx(value, rel=1e-4)
    assert found[exponent]["value"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "name",
    [
        "exact.Latency.track_ms('phone')",
        "exact.Latency.track_nonsense('voice')",
        "nonsense.A.b",
        "bag.Read.track_100k",
        "exact",
        "exact.Latency.track_ms('voice'",
    ],
)
def test_unknown_series_are_named(name: str) -> None:
    """A name that leads nowhere is an error that repeats it, and the others are measured."""
    found = measure_one.measure([name, "exact.Work.track_calls('voice')"])
    assert repr(name) in found[name]["error"]
    assert found["exact.Work.track_calls('voice')"] == {"value": 7}


def test_a_series_that_a_commit_lacks_something_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that asv would skip is missing here, with the reason."""
    monkeypatch.setattr(exact, "setup", requires("NoSuchThing"))
    found = measure_one.measure(["exact.Latency.track_ms('voice')"])
    assert "NoSuchThing" in found["exact.Latency.track_ms('voice')"]["missing"][0]

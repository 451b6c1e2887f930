"""The benchmarks: that asv finds, runs and skips them, and that they measure what they say."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asv.commands.compare import _is_result_better  # type: ignore[import-untyped]
from asv_runner.discovery import disc_benchmarks  # type: ignore[import-untyped]
from asv_runner.statistics import compute_stats  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    chat,
    counted,
    events,
    import_time,
    ratios,
    simulation,
    subpipelines,
    telemetry,
    voice,
)
from benchmarks._lib import (
    callgrind,
    fresh_process,
    interleaved,
    operations,
    pairs,
    support,
    turns,
    without_asv,
)
from benchmarks._lib.handwritten import BareGraph, FeaturedGraph, Run, write_once
from benchmarks._lib.support import BOUND, bounded, charted, requires, run, run_precisely
from benchmarks._lib.workloads import (
    SHAPES,
    Shape,
    layered,
    no_op,
    orchestrator,
    output_of,
    pipeline,
    run_at_once,
    run_times,
    suspending,
    unlimited,
)
from stageflow import StageStatus
from tests.utils.commands import run_command
from tests.utils.virtual_time import run_virtual
from tools import compare

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "benchmarks"

# asv's own discovery is the judge of what is a benchmark, and of its attributes.
FOUND = list(disc_benchmarks(str(FOLDER)))
BY_NAME = {benchmark.name: benchmark for benchmark in FOUND}
CASES = [
    pytest.param(benchmark, choice, id=f"{benchmark.name}{list(choice) or ''}")
    for benchmark in FOUND
    for choice in itertools.product(*benchmark._params)
    if not benchmark.name.startswith("memory.Peak.")  # test_work_done.py counts what these do
]
#: Replaces counts under valgrind; test_counting.py makes real ones.
A_COUNT_OF_EACH = {
    name: callgrind.Count(1.0 + int(name.partition("@")[2] or 0))
    for name in [*operations.OPERATIONS, *counted.growing_names()]
}


def _make_waiting_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for runner in ("run", "run_precisely"):
        monkeypatch.setattr(turns, runner, lambda main: run_virtual(lambda: main))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds and turns as still go through all code, and no real waiting."""
    for module in (events, import_time, ratios, subpipelines, telemetry):
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(telemetry, "PERIODS", 1)
    monkeypatch.setattr(telemetry, "READ_RUNS", 120)
    for module in (chat, simulation, voice):
        monkeypatch.setattr(module, "TURNS", 4)
    for turns_made in ("_stages_s", "_talks"):
        # Of another number of turns, before and after.
        made = functools.cache(getattr(simulation, turns_made).__wrapped__)
        monkeypatch.setattr(simulation, turns_made, made)
    monkeypatch.setattr(pairs, "STAGES_A_BATCH", 100)
    monkeypatch.setattr(pairs, "CONCURRENT_RUNS", 20)
    monkeypatch.setattr(counted, "LEAK_RUNS", 100)
    monkeypatch.setattr(support, "DRAWS", 2)
    monkeypatch.setattr(support, "LEAST_DRAWS", 2)
    monkeypatch.setattr(support, "DRAW_S", 0.0)
    _make_waiting_free(monkeypatch)


def test_every_area_has_benchmarks() -> None:
    """README.md lists the modules in which asv finds benchmarks, and those that help them."""
    areas = {benchmark.name.split(".")[0] for benchmark in FOUND}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    mapped = set(re.findall(r"^\| `(\w+)\.py` \|", readme, flags=re.MULTILINE))
    assert areas == mapped
    assert {path.stem for path in FOLDER.glob("*.py")} == areas | {"__init__"}
    helpers = {path.stem for path in FOLDER.glob("_lib/*.py")} - {"__init__"}
    assert helpers == set(re.findall(r"^- `(\w+)\.py`", readme, flags=re.MULTILINE))


@pytest.mark.parametrize("benchmark", FOUND, ids=lambda benchmark: benchmark.name)
def test_pinned_described_and_runnable(benchmark: Any) -> None:
    """A version set by hand, one line of what and why, no coroutine, and nothing set up."""
    owner = type(benchmark.func.__self__)
    assert re.fullmatch(r"\d+", vars(owner)["version"]), "pinned in the class's own body"
    assert benchmark.version == vars(owner)["version"], "what asv files its results under"
    assert len((inspect.getdoc(benchmark.func) or "").splitlines()) == 1
    assert not inspect.iscoroutinefunction(benchmark.func), "asv would never await it"
    assert benchmark._setups == [], "any setup makes asv time single calls"
    assert benchmark._teardowns == []
    assert benchmark._setup_cache is None or benchmark.type == "track"


def test_units_of_tracks_are_stated() -> None:
    """A tracked number without a unit of its own would be drawn in asv's word, "unit"."""
    tracks = [benchmark for benchmark in FOUND if benchmark.type == "track"]
    assert tracks
    assert [benchmark.name for benchmark in tracks if benchmark.unit == "unit"] == []


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("benchmark", "choice"), CASES)
def test_runs_once(benchmark: Any, choice: tuple[Any, ...]) -> None:
    """Each benchmark goes through with each of its parameters, and tracks nothing but numbers."""
    prepared = () if benchmark._setup_cache is None else (A_COUNT_OF_EACH,)
    found = benchmark.func(*prepared, *choice)
    if benchmark.type != "track":
        assert found is None
        return
    samples = found["samples"] if isinstance(found, dict) else [found]
    assert samples
    if isinstance(found, dict) and not benchmark.name.endswith(
        (
            *("track_turn", "track_voice_turn", "track_chat_turn", "StageLatency.track_stage"),
            *("TimeToFirstAudio.track_kernel", "TimeToFirstItem.track_stream"),
        )
    ):
        assert len(samples) == 2, "asv gets a time with a bound, or what decides nothing"
    assert all(math.isfinite(sample) for sample in samples)
    if benchmark.unit.startswith("times "):
        assert min(samples) > 0


durations = st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=12)


@given(durations, durations)
def test_no_difference_can_fail_a_comparison(first: list[float], second: list[float]) -> None:
    """For any measurements and machines, asv calls no two such results different."""
    kept = [charted(samples)["samples"] for samples in (first, second)]
    (a, a_stats), (b, b_stats) = (compute_stats(samples, 1) for samples in kept)
    assert not _is_result_better(a, b, (a_stats, kept[0]), (b_stats, kept[1]), factor=1.1)
    assert not _is_result_better(b, a, (b_stats, kept[1]), (a_stats, kept[0]), factor=1.1)


@given(durations, st.floats(0.01, 100).filter(lambda ratio: abs(ratio / BOUND - 1) > 1e-6))
def test_asv_compares_times_with_a_wide_bound(samples: list[float], ratio: float) -> None:
    """A time that doubled is worse to it; one that a busy machine stretches by 1.8 is not."""
    assert 1.8 < BOUND < 1.95
    kept = [bounded(times)["samples"] for times in (samples, [s * ratio for s in samples])]
    (a, a_stats), (b, b_stats) = (compute_stats(times, 1) for times in kept)
    worse = _is_result_better(a, b, (a_stats, kept[0]), (b_stats, kept[1]), factor=1.1)
    assert worse == (ratio > BOUND)


def test_asv_would_judge_what_is_not_made_so() -> None:
    """With all samples, the judge of the test above does find a difference."""
    fast, slow = ([base + n / 1e4 for n in range(10)] for base in (1.0, 1.2))
    kept = [(compute_stats(samples, 1)[1], samples) for samples in (fast, slow)]
    assert _is_result_better(1.0, 1.2, *kept, factor=1.1)


_SKIPPED = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from asv_runner.discovery import disc_benchmarks  # type: ignore[import-untyped]
print(json.dumps({b.name: b.do_setup() for b in disc_benchmarks(sys.argv[3])}))
"""


def _skipped(tmp_path: Path, package: str) -> set[str]:
    """Return what asv skips if `package` is all there is of stageflow; all modules must import."""
    (tmp_path / "stageflow").mkdir()
    (tmp_path / "stageflow" / "__init__.py").write_text(package, encoding="utf-8")
    answer = run_command(
        [sys.executable, "-c", _SKIPPED, str(tmp_path), str(ROOT), str(FOLDER)], check=True
    )
    skips: dict[str, bool] = json.loads(answer.stdout.splitlines()[-1])
    assert skips.keys() == BY_NAME.keys()
    return {name for name, skipped in skips.items() if skipped}


#: These know of each operation whether it can be counted, and give "n/a" for those that cannot.
COUNTS = {benchmark.name for benchmark in FOUND if benchmark._setup_cache is not None}


def test_skipped_without_any_api(tmp_path: Path) -> None:
    """With an empty stageflow every benchmark is skipped, and none fails."""
    assert _skipped(tmp_path, "") == BY_NAME.keys() - COUNTS


def test_skipped_by_need(tmp_path: Path) -> None:
    """A commit that has the bag and no more has its bag measured."""
    left = BY_NAME.keys() - COUNTS - _skipped(tmp_path, "ContextBag = dict")
    assert left == {name for name in BY_NAME if name.startswith("bag.")}


_BEFORE_FACADES = """
import contextlib, sys
sys.path[:0] = sys.argv[1:3]
from benchmarks._lib.support import from_older_commits
import stageflow.kernels.voice
from_older_commits("kernels", voice="voice", scale="voice", later="voice")
from stageflow.kernels import scale, voice
print(voice(), scale)
with contextlib.suppress(ImportError):
    from stageflow.kernels import later
    print("later")
"""


def test_commits_without_facades_stay_measurable(tmp_path: Path) -> None:
    """A name that an older commit has only in a module is found there; nothing is invented."""
    kernels = tmp_path / "stageflow" / "kernels"
    kernels.mkdir(parents=True)
    (tmp_path / "stageflow" / "__init__.py").touch()
    (kernels / "__init__.py").touch()
    (kernels / "voice.py").write_text(
        "scale = 2\ndef voice(): return 'a voice'\n", encoding="utf-8"
    )
    command = [sys.executable, "-c", _BEFORE_FACADES, str(tmp_path), str(ROOT)]
    answer = run_command(command, check=True)
    assert answer.stdout == "a voice 2\n"


def test_requires_names_what_is_missing() -> None:
    """Attributes and modules both count, and whatever asv passes to a setup is taken."""
    assert requires("Pipeline", "kernels.voice") is None
    skip = requires("Pipeline", "Nonsense", "kernels.nonsense", "nonsense.at.all")
    assert skip is not None
    with pytest.raises(NotImplementedError, match=r"no Nonsense, kernels\.nonsense, nonsense\."):
        skip(3, "graph")


def _expected(shape: Shape) -> dict[str, str]:
    return {output_of(name): name for name in shape.names}


@pytest.mark.parametrize("graph", SHAPES)
def test_graph_pairs_do_the_same(graph: str) -> None:
    """The engine and both hand-written versions write the same, suspending or not."""
    for suspend in (False, True):
        ours, gather = pairs.beside_gather(graph, suspend=suspend)
        also_ours, featured = pairs.beside_featured(graph, suspend=suspend)
        for work in (ours, gather, also_ours, featured):
            assert work() == _expected(SHAPES[graph])


def test_other_pairs_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do concurrent runs, chains without timeouts, bags and intercepted stages."""
    monkeypatch.setattr(pairs, "CONCURRENT_RUNS", 20)
    for ours, beside in (
        pairs.beside_featured("chain of 10", timeouts=False),
        pairs.bag_writes(),
        pairs.interceptors("all four"),
    ):
        assert dict(ours()) == beside()
    for suspend in (False, True):
        ours, beside = pairs.concurrent_runs(suspend=suspend)
        expected = [_expected(SHAPES["dense 4x5"])] * 20
        assert [dict(bag) for bag in ours()] == beside() == expected


def test_shapes_have_the_sizes_of_the_goals() -> None:
    """Fan of 12, dense of 20, 100 and 1,000 stages; each stage waits for the layer before only."""
    sizes = {graph: len(shape) for graph, shape in SHAPES.items()}
    assert list(sizes.values()) == [10, 100, 12, 20, 100, 1_000]
    for shape in SHAPES.values():
        for above, layer in itertools.pairwise(shape.layers):
            assert all(set(shape.dependencies[name]) <= set(above) for name in layer)
            assert all(shape.dependencies[name] for name in layer)


def test_all_features_are_on() -> None:
    """Every measured stage declares its inputs, its output and a timeout, and leaves its events."""
    for spec in pipeline("dense 4x5", suspending).stages:
        assert spec.timeout_s == 30.0
        assert spec.outputs == (output_of(spec.name),)
        assert spec.inputs == tuple(map(output_of, spec.dependencies))
    (result,) = run(run_at_once(orchestrator("dense 4x5", no_op), 1))
    assert len(result.events) == 2 * 20 + 2
    assert {stage.status for stage in result.stages.values()} == {StageStatus.COMPLETED}


def test_without_timeouts_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timeouts are left out of the hand-written code, the engine's stages have none too."""
    made = []
    monkeypatch.setattr(pairs, "orchestrator", lambda _graph, make: made.append(make))
    pairs.beside_featured("chain of 10", timeouts=False)
    pairs.beside_featured("chain of 10")
    assert made == [unlimited, no_op]
    assert [make("name").timeout_s for make in made] == [None, 30.0]


def test_no_op_stages_do_not_suspend() -> None:
    """Loop iterations tell the graphs from each other: none here, one for each layer there."""

    async def turns_of_the_loop(main: Callable[[], Any]) -> int:
        count = 0

        def turn() -> None:
            nonlocal count
            count += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        await main()
        return count - 1

    chain = layered([1] * 10)
    for suspend, expected in ((False, 0), (True, 10)):
        for graph in (BareGraph(chain, suspend=suspend), FeaturedGraph(chain, suspend=suspend)):
            assert asyncio.run(turns_of_the_loop(graph.run)) == expected
    quick, slow = (
        asyncio.run(turns_of_the_loop(functools.partial(run_times, bound, 1)))
        for bound in (orchestrator("chain of 10"), orchestrator("chain of 10", suspending))
    )
    # Around its stages, a run takes two turns, and three on a machine that is busy.
    assert quick < 5
    assert slow >= 10


def test_featured_events() -> None:
    """The code with the same features numbers and times two events a stage and two a run."""
    done = run(FeaturedGraph(SHAPES["fan 1+10+1"]).run())
    assert [event[0] for event in done.events] == list(range(1, 2 * 12 + 3))
    assert done.events[0][1] == "pipeline.started"
    assert done.events[-1][1] == "pipeline.completed"
    assert {event[3] for event in done.events} == {done.run_id}
    assert [event[2] for event in done.events] == sorted(event[2] for event in done.events)


def _featured(stage: Callable[[Run], Any], timeout_s: float = 1.0) -> FeaturedGraph:
    graph = FeaturedGraph(layered([1]), timeout_s=timeout_s)
    ((name, _, declared),) = graph.layers[0]
    graph.layers[0] = [(name, stage, declared)]
    return graph


@pytest.mark.simulate(order="asyncio")
async def test_featured_timeout() -> None:
    """It keeps its timeouts."""

    async def hang(_run: Run) -> dict[str, Any]:
        await asyncio.sleep(60.0)
        return {}

    with pytest.raises(TimeoutError):
        await _featured(hang, timeout_s=2.0).run()


@pytest.mark.simulate(order="asyncio")
async def test_featured_checks_outputs() -> None:
    """It refuses outputs that are not those declared."""

    async def return_another(_run: Run) -> dict[str, Any]:
        return {"another": 1}

    with pytest.raises(ValueError, match="another"):
        await _featured(return_another).run()


def test_featured_writes_once() -> None:
    """It refuses a second write, names both writers and keeps the first value."""
    outputs: dict[str, Any] = {}
    writers: dict[str, str] = {}
    write_once(outputs, writers, "key", 1, "first")
    with pytest.raises(ValueError, match=r"second writes key, which first"):
        write_once(outputs, writers, "key", 2, "second")
    assert (outputs, writers) == ({"key": 1}, {"key": "first"})


def test_voice_by_hand_answers_the_same() -> None:
    """The kernel's voice turn and the hand-written one have the same outputs."""
    by_kernel = turns.repeat(turns.voice_turn, 1).unwrap()
    assert by_kernel == turns.repeat(turns.hand_voice_turn, 1)
    assert turns.TEXT in by_kernel["answer"]


def test_pairs_of_turns_wait_equally_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only waiting moves, the two of each pair take the same time, each its own."""
    _make_waiting_free(monkeypatch)
    took = turns.voice_pairs_s(5, apart_s=0.005)
    assert len(took) == 5
    for kernel, by_hand in took:
        assert kernel == pytest.approx(by_hand, abs=1e-6)
        assert 0.2 < kernel < 1.2
    assert len({round(kernel, 6) for kernel, _ in took}) == 5


def test_precise_loop_does_not_round_up() -> None:
    """Waits of 0.1 ms end sooner there than in whole milliseconds."""

    async def shortest_s() -> float:
        loop = asyncio.get_running_loop()
        found = []
        for _ in range(50):
            started_at = loop.time()
            await asyncio.sleep(0.0001)
            found.append(loop.time() - started_at)
        return min(found)

    assert 0.0001 <= run_precisely(shortest_s()) < 0.0009


def test_rounds_interleave() -> None:
    """Every round runs every work once, each comes first in turn, and times stand in order."""
    done: list[str] = []

    def spin() -> None:
        done.append("spin")
        sum(range(200_000))

    works = (lambda: done.append("a"), spin)
    times = list(interleaved.interleaved(works, 4))
    assert done == ["a", "spin", *("a", "spin"), *("spin", "a"), *("a", "spin"), *("spin", "a")]
    assert all(a < spin for a, spin in times)


def test_ratios_are_ours_over_theirs() -> None:
    """Ten times the work is a ratio of about ten."""
    found = interleaved.ratios(lambda: sum(range(500_000)), lambda: sum(range(50_000)), 9)
    assert 5 < interleaved.spread(found).median < 20


def test_spread() -> None:
    """The median, and the tenth and the ninetieth percentile."""
    assert interleaved.spread([float(n) for n in range(100, -1, -1)]) == interleaved.Spread(
        50, 10, 90
    )
    assert interleaved.spread([3.0]) == interleaved.Spread(3, 3, 3)


def test_growth_is_that_of_a_fresh_process() -> None:
    """More runs at once need more memory, whatever this process has taken already."""
    few, many = fresh_process.growth_bytes(100), fresh_process.growth_bytes(1_000)
    assert few < many < 100e6
    assert many > 2e6


def test_failing_interpreter_is_reported() -> None:
    """The error of a fresh interpreter is not lost."""
    with pytest.raises(RuntimeError, match="no_such_module"):
        fresh_process.import_seconds("no_such_module")


def test_plain_runs_what_asv_runs() -> None:
    """As plain Python a module has the very benchmarks that asv finds in it."""
    for area in {name.split(".")[0] for name in BY_NAME}:
        module = sys.modules[f"benchmarks.{area}"]
        labels = {re.sub(r"\(.*", "", case.label) for case in without_asv.cases(module)}
        assert {f"{area}.{label}" for label in labels} == {
            name for name in BY_NAME if name.startswith(f"{area}.")
        }
        choices = sum(math.prod(map(len, b._params)) for b in _of(area))
        assert len(list(without_asv.cases(module))) == choices


def _of(area: str) -> Iterator[Any]:
    return (b for name, b in BY_NAME.items() if name.startswith(f"{area}."))


def _run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return run_command(command, cwd=ROOT)


def test_plain_prints_a_table() -> None:
    """``python -m benchmarks.bag Read`` prints the two timings of that class, with units."""
    answer = _run_module("bag", "Read")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Read.track_100k", "Read.track_100k_dict"]
    assert all(re.search(r" \d+\.\d{3} (ms|µs) +\(.*n=2\)$", line) for line in lines)


def test_plain_refuses_an_unknown_name() -> None:
    """A pattern that fits no benchmark is named, with exit code 2."""
    answer = _run_module("bag", "nonsense")
    assert answer.returncode == 2
    assert "'nonsense'" in answer.stderr


@pytest.mark.parametrize(
    ("duration_s", "text"), [(2.5, "2.500 s "), (0.0021, "2.100 ms"), (3e-9, "3.000 ns")]
)
def test_plain_units(duration_s: float, text: str) -> None:
    """Durations are written in the unit that makes them readable."""
    case = without_asv.Case("", "track_", functools.partial(float, duration_s), float, "seconds")
    assert without_asv.measure(case).lstrip().startswith(text)


def test_compare_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is nothing but the numbers as JSON, progress goes to standard error."""
    assert compare.main(["--only", "bag", "--rounds", "2", "--json"]) == 0
    written = capsys.readouterr()
    report = json.loads(written.out)
    (row,) = report["groups"]["bag"]
    assert row["goal"]["limit"] == 4.0
    assert row["found"]["low"] <= row["found"]["median"] <= row["found"]["high"]
    assert row["verdict"] in {"met", "MISSED"}
    assert "ContextBag.write" in written.err


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--rounds", "0"], "--rounds"), (["--only", "nonsense"], "nonsense")]
)
def test_compare_bad_arguments(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that make no sense are named, with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        compare.main(arguments)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "goal", "verdict"),
    [
        (interleaved.Spread(0.9, 0.5, 1.5), compare.Goal(1.0), "met"),
        (interleaved.Spread(1.1, 0.5, 1.5), compare.Goal(1.0), "MISSED"),
        (interleaved.Spread(0.7, 0.5, 1.5), compare.Goal(1.0, aim=0.6), "met"),
        (interleaved.Spread(0.6, 0.5, 1.5), compare.Goal(1.0, aim=0.6), "met, aim too"),
        (interleaved.Spread(1.01, 0.99, 1.02), compare.Goal(1.0, exact=True), "met"),
        (interleaved.Spread(1.02, 1.01, 1.03), compare.Goal(1.0, exact=True), "MISSED"),
        (interleaved.Spread(0.9, 0.8, 0.95), compare.Goal(1.0, exact=True), "MISSED"),
        (interleaved.Spread(9.0, 9.0, 9.0), None, ""),
    ],
)
def test_compare_verdicts(
    found: interleaved.Spread, goal: compare.Goal | None, verdict: str
) -> None:
    """The median decides, an exact goal has to lie within the spread, no goal has no verdict."""
    row = compare.Row("subject", "unit", found, goal)
    assert row.verdict == verdict
    assert str(row).rstrip().endswith(verdict)


@pytest.mark.slow
@pytest.mark.untraced
def test_compare_measures_every_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each group with a goal goes through and has a row for it."""
    monkeypatch.setattr(compare, "BUILD_SIZES", (20, 100))
    monkeypatch.setattr(compare, "PAIRS_A_ROUND", 2)
    monkeypatch.setattr(compare, "CPU_TURNS", 4)
    monkeypatch.setattr(pairs, "CONCURRENT_RUNS", 20)
    monkeypatch.setattr(pairs, "STAGES_A_BATCH", 100)
    _make_waiting_free(monkeypatch)
    assert compare.main(["--rounds", "1", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert set(groups) == {group.__name__ for group in compare.GROUPS}
    goals = {name: [r for r in rows if r["goal"] is not None] for name, rows in groups.items()}
    assert {name: len(rows) for name, rows in goals.items()} == {
        "no_op_graphs": 8,
        "suspending_graphs": 0,
        "chains": 2,
        "interceptors": 2,
        "building": 4,
        "concurrent_runs": 3,
        "voice_turn_overhead": 1,
        "bag": 1,
        "imports": 1,
    }

"""Works timed in pairs: real worker processes, whose figures are known."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.pulse import WorkerFailedError
from stageflow.pulse.gate import PROCESSES, Worker, time_pairs, worker
from stageflow.pulse.gate.pairs import KEPT_A_BLOCK, PAIRS, IdleLoop, Pairs
from stageflow.pulse.gate.worker import Block

#: Says what its package says, and writes down each question.
WORKER = """\
import json, os, pathlib, sys
import stageflow

def say(answer):
    print(json.dumps(answer), flush=True)

folder = str(pathlib.Path(stageflow.__file__).parent)
says = {"ready": True, "package": folder, "operations": ["a", "b"], "missing": stageflow.MISSING}
say({**says, **stageflow.READY})
for line in sys.stdin:
    asked = json.loads(line)
    with open("log", "a") as log:
        log.write(f"{stageflow.NAME} {os.getpid()} {asked['operation']}\\n")
    stageflow.answer(say, asked["operation"])
"""
PACKAGE = """\
NAME = {name!r}
READY = {{}}
MISSING = {{}}

def answer(say, work):
    say({{"operation": work, "wall_ns": [{cost}] * {calls}, "cpu_ns": {cost} * 10, "count": 10}})
"""


def package(name: str, cost: int, more: str = "", calls: int = 10) -> str:
    """The text of a package whose works cost that many nanoseconds."""
    return PACKAGE.format(name=name, cost=cost, calls=calls) + more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the benchmarks' worker."""
    (tmp_path / "benchmarks/_lib").mkdir(parents=True)
    (tmp_path / "benchmarks/__init__.py").touch()
    (tmp_path / "benchmarks/_lib/worker.py").write_text(WORKER, encoding="utf-8")
    return tmp_path


def tree(folder: Path, name: str, text: str) -> Path:
    """A folder that holds a commit's package."""
    (folder / name / "stageflow").mkdir(parents=True)
    (folder / name / "stageflow/__init__.py").write_text(text, encoding="utf-8")
    return folder / name


def measured(folder: Path, base: str, head: str, works: tuple[str, ...] = ("a",)) -> Pairs:
    """Return the measured costs of two packages with these texts."""
    trees = tree(folder, "base", base), tree(folder, "head", head)
    said: list[str] = []
    first = time_pairs(folder / "benchmarks", trees, works, said.append)
    assert len(said) == PROCESSES
    return Pairs(folder / "kept.json", "digest", first)


def asked(folder: Path) -> list[list[str]]:
    """Return the requests: name, process, work."""
    return [line.split() for line in (folder / "log").read_text(encoding="utf-8").splitlines()]


def test_both_are_asked_in_turn_and_who_begins_changes(folder: Path) -> None:
    """AB BA AB …, in fresh processes, so that a drift of the machine favours neither."""
    measured(folder, package("base", 100), package("head", 100))
    log = asked(folder)
    couples = [(log[i], log[i + 1]) for i in range(0, len(log), 2)]
    assert len(couples) == PROCESSES * PAIRS
    for first, second in couples:
        assert {first[0], second[0]} == {"base", "head"}
    beginners = [first[0] for first, _ in couples]
    assert beginners.count("base") == beginners.count("head")
    assert any(a != b for a, b in itertools.pairwise(beginners[:PAIRS]))
    assert len({process for _, process, _ in log}) == 2 * PROCESSES


def test_ratio_is_that_of_the_costs(folder: Path) -> None:
    """A head that costs twice as much has a ratio of 2 by CPU time, head to base."""
    found = measured(folder, package("base", 100), package("head", 200), ("a", "b")).timings()
    assert found.keys() == {"timed('a')", "timed('b')"}
    timing = found["timed('a')"]
    assert timing.cpu is not None
    assert (timing.cpu.low, timing.cpu.median, timing.cpu.high) == (2.0, 2.0, 2.0)
    assert timing.cpu.samples == PROCESSES * PAIRS
    assert timing.head.wall_ns == (200,) * (PROCESSES * PAIRS * 10)
    assert timing.confirmation is None


def test_work_that_breaks_on_one_side(folder: Path) -> None:
    """Its error is kept, it is asked no more, and the other side is not blamed."""
    broken = "\ndef answer(say, work):\n    say({'work': work, 'error': 'ValueError: planted'})\n"
    timing = measured(folder, package("base", 1), package("head", 1, broken)).timings()[
        "timed('a')"
    ]
    assert (timing.base.error, timing.head.error) == (None, "ValueError: planted")
    assert timing.cpu is None
    assert [name for name, _, _ in asked(folder)].count("head") == 1


def test_work_that_one_side_lacks(folder: Path) -> None:
    """The side that has it is measured all the same, since its budget needs samples."""
    lacking = "\nMISSING = {'a': ['Thing']}\n"
    timing = measured(folder, package("base", 1, lacking), package("head", 7)).timings()[
        "timed('a')"
    ]
    assert timing.base.missing == ("Thing",)
    assert timing.base.wall_ns == ()
    assert set(timing.head.wall_ns) == {7}
    assert timing.cpu is None


def test_samples_are_thinned_evenly(folder: Path) -> None:
    """Of more samples than are kept every n-th one is, up to the end of the block."""
    many = KEPT_A_BLOCK * 4
    more = f"""
def answer(say, work):
    say({{"wall_ns": list(range({many})), "cpu_ns": 1, "count": 1}})
"""
    found = measured(folder, package("base", 1), package("head", 1, more)).first["a"][1]
    assert found.blocks[0].wall_ns == tuple(range(0, many, 4))


def test_everything_is_kept(folder: Path) -> None:
    """Saved pairs read back equal, with confirmations, and only under the same digest."""
    kept = measured(folder, package("base", 100), package("head", 200))
    kept.second.update(kept.first)
    kept = replace(kept, path=folder / "not" / "there" / "yet.json")
    kept.save("b" * 40, "a" * 40, "m")
    assert Pairs.load(kept.path, "digest") == kept
    assert Pairs.load(kept.path, None) == kept
    assert kept.timings()["timed('a')"].confirmation is not None
    assert Pairs.load(kept.path, "another").first == {}


def kept_with(time: str) -> str:
    """A kept pair in which one time is this text."""
    side = f'{{"blocks": [{{"wall_ns": [{time}], "cpu_ns": 1}}], "error": null, "missing": []}}'
    both = f'{{"a": [{side}, {side}]}}'
    return f'{{"version": 1, "digest": "digest", "first": {both}, "second": {{}}}}'


def test_a_kept_pair_is_read(tmp_path: Path) -> None:
    """So the files of the next test are read but for their one value."""
    (tmp_path / "kept.json").write_text(kept_with("1"), encoding="utf-8")
    assert Pairs.load(tmp_path / "kept.json", "digest").first.keys() == {"a"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "[" * 100_000, '{"version": 1, "digest": "digest"}'),
        *map(kept_with, ("Infinity", "NaN", "1" * 400, "1" * 5_000, '"slow"', "null", "[1]")),
    ],
)
def test_half_a_file_counts_as_none(tmp_path: Path, text: str) -> None:
    """A stored pair that cannot be read is measured again."""
    (tmp_path / "kept.json").write_text(text, encoding="utf-8")
    assert Pairs.load(tmp_path / "kept.json", "digest").first == {}
    assert Pairs.load(tmp_path / "none.json", "digest").second == {}
    assert Pairs.load(tmp_path, "digest").second == {}


def start(folder: Path, more: str) -> Worker:
    """A worker with the package of a commit."""
    return Worker(folder / "benchmarks", tree(folder, "tree", package("one", 5, more)))


def test_worker_runs_the_package_of_the_tree(folder: Path) -> None:
    """The tree's package is imported, not the one beside the benchmarks or an installed one."""
    tree(folder, ".", "raise RuntimeError('the wrong one')")
    with start(folder, "\nMISSING = {'b': ['Thing']}\n") as found:
        assert found.operations == ("a", "b")
        assert found.missing == {"b": ("Thing",)}
        assert found.run("a", 0.01) == Block((5,) * 10, 5.0)
        assert found.run("a", 0.01) == Block((5,) * 10, 5.0)


def test_worker_with_another_package(folder: Path) -> None:
    """A worker that says it imported something else is refused."""
    with pytest.raises(WorkerFailedError, match=r"imported /elsewhere, not the one in"):
        start(folder, "\nREADY = {'package': '/elsewhere'}\n")


def test_worker_that_does_not_start(folder: Path) -> None:
    """Its standard error is in the message."""
    with pytest.raises(WorkerFailedError, match=r"ended(?s:.*)OSError: planted"):
        start(folder, "\nraise OSError('planted')\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os._exit(3)", "ended, or hung"),
        ("print('what?', flush=True)", r"wrote 'what\?\\n', which is not JSON"),
    ],
)
def test_worker_that_fails_later(folder: Path, body: str, message: str) -> None:
    """The error names a worker that ends early, and one that answers something else than JSON."""
    with (
        start(folder, f"\ndef answer(say, work):\n    {body}\n") as found,
        pytest.raises(WorkerFailedError, match=message),
    ):
        found.run("a", 0.01)


def test_worker_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing for too long is ended."""
    monkeypatch.setattr(worker, "_PATIENCE_S", 0.05)
    with pytest.raises(WorkerFailedError, match="hung"):
        start(folder, "\nimport sys\nsys.stdin.read()\n")


def test_an_operation_that_ends_its_worker_is_broken(folder: Path) -> None:
    """The others are timed as often as without it, in new processes."""
    dies = "\nok = answer\ndef answer(say, work):\n    ok(say, work) if work == 'b' else quit(4)\n"
    found = measured(folder, package("base", 1, dies), package("head", 1, dies), ("a", "b"))
    died, other = (found.timings()[f"timed('{name}')"] for name in "ab")
    for side in (died.base, died.head):
        assert side.error == "the worker of the timed operations ended, or hung (exit code 4)"
    assert other.cpu is not None
    assert other.cpu.samples == PROCESSES * PAIRS


def test_a_worker_leaves_nothing_behind(folder: Path) -> None:
    """A benchmark's child ends with the worker, such as a valgrind that counts too long."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    child = f"import signal; open({str(pipe)!r}, 'wb', buffering=0).write(b'x'); signal.pause()"
    run = f"\nimport subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    with start(folder, run):
        end = pipe.open("rb", buffering=0)
        assert end.read(1) == b"x"
    with end:
        assert end.read() == b""


def test_worker_that_has_ended(folder: Path) -> None:
    """A question to a worker that is gone is an error of the worker, not a broken pipe."""
    with start(folder, "\ndef answer(say, work):\n    raise SystemExit\n") as found:
        for _ in range(2):
            with pytest.raises(WorkerFailedError, match="the worker of the timed operations"):
                found.run("a", 0.01)


def test_a_loop_beside_the_head_tells_what_the_machine_took(folder: Path) -> None:
    """As many loops as samples are timed in a second run, beside the head alone, and are kept."""
    first = measured(folder, package("base", 10), package("head", 10))
    trees = (folder / "base", folder / "head")
    told: list[str] = []
    both = time_pairs(folder / "benchmarks", trees, ["a"], told.append, 1, beside_loop=True)["a"]
    assert [len(block.lost_ns) for block in both[0].blocks] == [0] * PAIRS
    assert [len(block.lost_ns) for block in both[1].blocks] == [
        len(block.wall_ns) for block in both[1].blocks
    ]
    assert not any(block.lost_ns for run in first.first["a"] for block in run.blocks)
    kept = Pairs(folder / "again.json", "digest", first.first, {"a": both})
    kept.save("b", "h", "m")
    again = Pairs.load(kept.path, "digest").timings()["timed('a')"].again
    assert again is not None
    assert again.lost_ns == tuple(ns for block in both[1].blocks for ns in block.lost_ns)


def test_a_loop_takes_the_time_of_its_processor() -> None:
    """However busy the machine is: what it takes beyond that is what others got."""
    before_ns = time.thread_time_ns()
    lost = IdleLoop().lost_ns(50_000.0, 20)
    assert time.thread_time_ns() - before_ns >= 20 * 50_000
    assert len(lost) == 20
    assert all(ns >= 0 for ns in lost)


def test_a_loop_is_slower_than_its_fastest_turns() -> None:
    """On a processor that others slow down, CPU time beyond that of the fastest turns is lost."""
    (lost_ns,) = IdleLoop(fastest_ns=1e-3).lost_ns(1_000_000.0, 1)
    assert lost_ns > 900_000


def test_a_loop_is_as_long_as_a_call(folder: Path) -> None:
    """A call of a thousand operations loses a thousand times what is counted of each."""
    took_ns = package("head", 1, calls=1).replace('"count": 10', '"count": 1000')
    took_ns = took_ns.replace('"cpu_ns": 1 * 10', '"cpu_ns": 5_000_000')
    trees = tree(folder, "base", took_ns), tree(folder, "head", took_ns)
    before_ns = time.thread_time_ns()
    time_pairs(folder / "benchmarks", trees, ["a"], lambda _: None, 1, beside_loop=True)
    assert time.thread_time_ns() - before_ns >= PAIRS * 5_000_000

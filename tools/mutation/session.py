"""The pytest session: collects the tests once, learns what each reaches, tries each mutant.

All of it happens within ``pytest_runtestloop``, in which all tests are collected and none has run.
The process that forks runs no test itself, so each child begins with the same clean state.
"""

from __future__ import annotations

import ast
import gc
import importlib
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any

import coverage
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tools.mutation.activation import LiveFunctions, MutantFinder, forget
from tools.mutation.mutants import Identity, Mutant, Source
from tools.mutation.processes import BROKEN, Pool

#: Tests that start servers, browsers or processes of their own, or measure: they would judge the
#: machine, or code on disk that no mutant is in.
LEFT_OUT = (
    "tests/e2e/",
    "tests/fault/test_dead_letters_kill.py",
    "tests/unit/dlq/test_sqlite.py::test_a_file_that_cannot_be_written_ends_no_run",
    "tests/unit/dlq/test_sqlite.py::test_a_full_disk_ends_no_run",
    "tests/unit/cli/test_dlq_export.py::test_a_bug_of_ones_own_is_exported",
    "tests/unit/cli/test_dlq_export.py::test_a_run_past_its_deadline_is_reproduced",
    "tests/unit/cli/test_dlq_export.py::test_a_stage_without_a_provider_is_made_to_fail",
    "tests/unit/cli/test_dlq_export.py::test_an_exported_test_goes_red",
    "tests/unit/cli/test_dlq_export.py::test_an_exported_test_reproduces",
    "tests/fault/test_sockets.py",
    "tests/integration/test_bench.py",
    "tests/integration/test_continuous.py",
    "tests/integration/test_other_loops_and_pythons.py",
    "tests/unit/benchmarks/test_benchmarks.py",
    "tests/unit/tools/test_coverage_floors.py",
    "tests/unit/tools/test_mutation.py",
    "tests/unit/tools/test_tools.py",
    "tests/unit/pulse/test_results.py",
    "tests/unit/pulse/test_site.py",
    "tests/unit/engine/test_validation.py::test_far_producers_on_a_long_chain_take_time_in_proportion",
    # On its own, each would play all outages once more; the page of the matrix shows them all.
    "tests/fault/test_matrix.py::test_cell",
    "tests/fault/test_matrix.py::test_user_gets_the_decided_message",
)
_SERVERS = frozenset({"postgres", "pytester"})
_MEMORY_BYTES = 4 << 30
_KILLED, _SURVIVED = 1, 0


class Outcome(StrEnum):
    """The outcome of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one mutant.

    Attributes:
        tests: How many tests run its line.
        test: The test that killed it, or in which it hung; empty for one that survived.
    """

    mutant: Mutant
    outcome: Outcome
    tests: int
    test: str = ""


@dataclass
class Reach:
    """The lines that the tests reach in the code as it is.

    Attributes:
        duration_s: How long each took, by test; only those that passed.
        cost_s: Its processor time, which a busy machine does not change.
        tests: Which tests ran a line, by file and line.
        failed: Tests that did not pass.
    """

    duration_s: dict[str, float] = field(default_factory=dict)
    cost_s: dict[str, float] = field(default_factory=dict)
    tests: dict[str, dict[int, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    failed: list[str] = field(default_factory=list)

    def of(self, path: Path, lines: Iterable[int]) -> set[str]:
        """The tests that run one of these lines."""
        by_line = self.tests.get(str(path), {})
        return {test for line in lines for test in by_line.get(line, ())} & self.duration_s.keys()

    def of_file(self, path: Path) -> set[str]:
        """The tests that run any line of a file."""
        return self.of(path, self.tests.get(str(path), {}))


class _Watcher:
    """Notes whether a report is of a failure."""

    def __init__(self) -> None:
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed


class Plugin:
    """Runs mutants in place of tests.

    Attributes:
        results: What became of each mutant.
        reach: What the tests reach.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mutants: Sequence[Mutant],
        *,
        jobs: int,
        examples: int,
        patience_s: float,
        tell: Callable[[str], None],
        progress: Callable[[int, int, Counter[Outcome]], None],
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._mutants = mutants
        self._jobs = jobs
        self._examples = examples
        self._patience_s = patience_s
        self._tell = tell
        self._progress = progress
        self._kills: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        #: Mutants that only take effect when their module is imported again.
        self._anew: set[Identity] = set()
        self._watcher = _Watcher()
        self.results: list[Result] = []
        self.reach = Reach()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what cannot judge a mutant; make property tests short and repeatable."""
        items[:] = [item for item in items if _judges(item)]
        for item in items:
            _shorten(item, self._examples)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn what the tests reach, then try the mutants."""
        session.config.pluginmanager.register(self._watcher)
        # Also lines of tests that coverage leaves alone otherwise: tests/utils/slow.py.
        session.config.option.trace_all = True
        items = {item.nodeid: item for item in session.items}
        for source in self._sources.values():
            importlib.import_module(source.module)
        gc.unfreeze()  # the collector does not show what another plugin has frozen
        live = LiveFunctions([source.path for source in self._sources.values()])
        _warm_up()
        gc.collect()
        gc.freeze()
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            scratch = Path(folder)
            self._learn(list(items.values()), scratch)
            self._try_all(items, live, scratch)
        return True

    # ── what the tests reach ────────────────────────────────────────────────────────────────

    def _learn(self, items: list[pytest.Item], scratch: Path) -> None:
        self._tell(f"{len(items)} tests run once on the code as it is …")
        shares = {share: items[share :: self._jobs] for share in range(self._jobs)}
        pool = Pool(self._jobs)

        def child(share: int) -> Callable[[], int]:
            return lambda: self._observe(shares[share], scratch / f"share-{share}")

        for share, end in pool.run((share, child(share)) for share in shares):
            if end.signal or end.code:
                raise pytest.UsageError(f"the tests do not run to their end: {end}")
            found: Reach = pickle.loads((scratch / f"share-{share}").read_bytes())
            self.reach.duration_s.update(found.duration_s)
            self.reach.cost_s.update(found.cost_s)
            self.reach.failed.extend(found.failed)
            for path, lines in found.tests.items():
                for line, tests in lines.items():
                    self.reach.tests[path][line] |= tests
        costs = (sum(self.reach.cost_s.values()), sum(self.reach.duration_s.values()))
        self._tell("they take {:.0f} s of processor time, {:.0f} s in all".format(*costs))
        for test in sorted(self.reach.failed):
            self._tell(f"left out, as it fails on the code as it is: {test}")

    def _observe(self, items: list[pytest.Item], answer: Path) -> int:
        _settle(answer.with_suffix(".tmp"), items)
        reach = Reach()
        paths = [str(source.path) for source in self._sources.values()]
        tracer = coverage.Coverage(data_file=None, include=paths, config_file=False)
        tracer.start()
        for item in items:
            tracer.switch_context(item.nodeid)
            began = os.times()
            if self._passes(item):
                *used, elapsed = (end - start for end, start in zip(os.times(), began, strict=True))
                reach.duration_s[item.nodeid], reach.cost_s[item.nodeid] = elapsed, sum(used)
            else:
                reach.failed.append(item.nodeid)
        tracer.stop()
        data = tracer.get_data()
        tests: dict[str, dict[int, set[str]]] = {}
        for path in data.measured_files():
            by_line = data.contexts_by_lineno(path)
            tests[path] = {line: set(contexts) - {""} for line, contexts in by_line.items()}
        reach.tests = tests
        answer.write_bytes(pickle.dumps(reach))
        return 0

    def _passes(self, item: pytest.Item) -> bool:
        self._watcher.failed = False
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        except BaseException:  # even one that is to end the whole session ends only this test
            return False
        return not self._watcher.failed

    # ── mutants ─────────────────────────────────────────────────────────────────────────────

    def _try_all(
        self, items: Mapping[str, pytest.Item], live: LiveFunctions, scratch: Path
    ) -> None:
        mutants = self._mutants
        chosen: dict[int, list[str]] = {}
        count: Counter[Outcome] = Counter()
        self._progress(0, len(mutants), count)

        def child(number: int) -> Callable[[], int]:
            mutant = mutants[number]
            tests = chosen[number] = self._choose(mutant)
            return lambda: self._try(mutant, tests, items, live, scratch / str(number))

        jobs = ((number, child(number)) for number in range(len(mutants)))
        for number, end in Pool(self._jobs).run(jobs):
            shutil.rmtree(scratch / str(number), ignore_errors=True)
            mutant, tests = mutants[number], chosen[number]
            last = tests[end.said] if end.said is not None and end.said < len(tests) else ""
            if end.code == BROKEN:
                raise RuntimeError(f"the runner cannot make this mutant: {mutant}")
            if end.signal in {signal.SIGALRM, signal.SIGPROF}:
                outcome = Outcome.TIMED_OUT
            elif end.signal or end.code != _SURVIVED:
                outcome = Outcome.KILLED
            else:
                outcome, last = Outcome.SURVIVED, ""
            if last and outcome is Outcome.KILLED:
                self._kills[_family(mutant)][last] += 1
            self.results.append(Result(mutant, outcome, len(tests), last))
            count[outcome] += 1
            self._progress(len(self.results), len(mutants), count)

    def _choose(self, mutant: Mutant) -> list[str]:
        """The tests that reach a mutant, as many as patience allows, the likeliest first.

        Those come first that killed its neighbours; then one case of each test, the fastest first,
        then a second one of each, and so on.
        """
        path = self._sources[mutant.identity.module].path
        reached = self.reach.of(path, mutant.lines) if mutant.lines else set()
        if mutant.unit is not None and (not reached or _goes_on(mutant.unit)):
            # Python 3.11 traces no line of a coroutine that goes on after an exception came in.
            first, last = mutant.unit.body[0].lineno, mutant.unit.end_lineno or 0
            reached = reached | self.reach.of(path, range(first, last + 1))
        if not reached:
            # A function that no test reaches may have been called at import.
            self._anew.add(mutant.identity)
            reached = self.reach.of_file(path)
        kills = self._kills[_family(mutant)]
        cases: Counter[str] = Counter()
        turn: dict[str, int] = {}
        for test in sorted(reached, key=lambda test: (self.reach.cost_s[test], test)):
            function = test.rpartition("::")[2].partition("[")[0]
            turn[test] = cases[function]
            cases[function] += 1
        ordered = sorted(turn, key=lambda test: (-kills[test], turn[test]))
        spent_s = accumulate(self.reach.cost_s[test] for test in ordered)
        return [test for test, s in zip(ordered, spent_s, strict=True) if s <= self._patience_s]

    def _try(
        self,
        mutant: Mutant,
        tests: list[str],
        items: Mapping[str, pytest.Item],
        live: LiveFunctions,
        scratch: Path,
    ) -> int:
        source = self._sources[mutant.identity.module]
        _settle(scratch, list(items.values())[:1])
        if mutant.at_import or mutant.identity in self._anew:
            return self._import_anew(mutant, source, tests) if tests else _SURVIVED
        if not live.activate(mutant, source):
            return _SURVIVED
        for number, test in enumerate(tests):
            _limit(self.reach.duration_s[test])
            Pool.say(number)
            if not self._passes(items[test]):
                return _KILLED
        return _SURVIVED

    def _import_anew(self, mutant: Mutant, source: Source, tests: list[str]) -> int:
        """Import everything once more, with the mutant, and run the tests in a new session."""
        root = source.path.parents[source.name.count("/")]
        code = mutant.make(source.tree, str(source.path))
        _limit(30.0)
        os.chdir(root)
        forget(root, but="tools.mutation")
        files = sorted({test.split("::")[0] for test in tests})
        again = _Again(MutantFinder(source.module, code), tests, self.reach, self._examples)
        try:
            status = pytest.main(["-x", *OPTIONS, *files], plugins=[again])
        except BaseException:  # what ends even the session that it is in has been noticed
            return _KILLED
        return _SURVIVED if status == pytest.ExitCode.OK else _KILLED


#: How pytest is called, for the tests of the mutants and for nothing else.
OPTIONS = (
    "-q",
    "-s",
    "--tb=no",
    *("-p", "no:cacheprovider"),
    # The runner imports Hypothesis before pytest is there; what it asserts is not of interest.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


class _Again:
    """Runs chosen tests, in the given order, on what a finder imports."""

    def __init__(
        self, finder: MutantFinder, tests: Sequence[str], reach: Reach, examples: int
    ) -> None:
        self._finder = finder
        self._numbers = {test: number for number, test in enumerate(tests)}
        self._reach = reach
        self._examples = examples

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self) -> None:
        # Not sooner: pytest has an importer of its own for packages with plugins, which goes first.
        sys.meta_path.insert(0, self._finder)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._numbers]
        items.sort(key=lambda item: self._numbers[item.nodeid])
        for item in items:
            _shorten(item, self._examples)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        _limit(self._reach.duration_s[item.nodeid])
        Pool.say(self._numbers[item.nodeid])


def _goes_on(function: ast.AST) -> bool:
    """Whether a function can be left and gone on with."""
    return any(
        isinstance(node, ast.Await | ast.Yield | ast.YieldFrom) for node in ast.walk(function)
    )


def _family(mutant: Mutant) -> tuple[str, str]:
    return mutant.identity.module, mutant.identity.function


def _judges(item: pytest.Item) -> bool:
    return not (
        item.nodeid.startswith(LEFT_OUT)
        or _SERVERS.intersection(getattr(item, "fixturenames", ()))
        or item.get_closest_marker("benchmark")
    )


def _shorten(item: pytest.Item, examples: int) -> None:
    """Give a property test few examples, the same each time, and no search for a smaller one."""
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    machine: Any = getattr(item, "cls", None)
    if hasattr(function, "hypothesis"):
        now = getattr(function, "_hypothesis_internal_use_settings", None)
        function._hypothesis_internal_use_settings = _short(now, examples)
    if isinstance(getattr(machine, "settings", None), settings):
        machine.settings = _short(machine.settings, examples)


def _short(now: settings | None, examples: int) -> settings:
    now = now or settings()
    return settings(
        now,
        max_examples=min(now.max_examples, examples),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        print_blob=False,
    )


def _warm_up() -> None:
    """Let Hypothesis load its tables once, not in each child."""

    # On a busy machine the tables alone take longer than the health check allows.
    @settings(
        max_examples=5,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.text(), st.lists(st.integers()), st.floats())
    def drawn(text: str, numbers: list[int], number: float) -> None: ...

    drawn()


def _settle(scratch: Path, items: Sequence[pytest.Item]) -> None:
    """Make a child harmless: a folder of its own, no output, an end to its memory."""
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for item in items:
        # Children that share a base folder would wait for each other's clean-up.
        item.config._tmp_path_factory._given_basetemp = scratch / "tmp"  # type: ignore[attr-defined]


def _limit(duration_s: float) -> None:
    """End this process if a test takes far longer than it did, on the clock or of the processor."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Real time bounds what hangs; a busy machine may take much longer than before.
    signal.setitimer(signal.ITIMER_REAL, 10.0 + 10.0 * duration_s)
    signal.setitimer(signal.ITIMER_PROF, 1.0 + 2.0 * duration_s)

"""The pytest plugin: markers for faults and simulations, their fixtures, and `--simulate`.

pytest imports this module when it starts, in every project where stageflow is installed. So the kit
is imported only where it is used.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stageflow import testing
from stageflow._utils.extras import needs_extra

with needs_extra("testing"):
    import pytest

_FAULT_MARKER = (
    "fault(provider, fault_type, **options): inject that fault while the test runs, as"
    " stageflow.testing.faults.inject_fault does; the marker nearest to the test is the innermost;"
    " a test whose calls never meet the fault fails, unless allow_unused=True"
)
_SIMULATE_MARKER = (
    "simulate(runs=100, seed=0, order='tasks', stretch=0.0, network=…): run an async test in"
    " virtual time, once for each seed from `seed` upwards, each time in another order; its"
    " fixtures are made once for all of these runs; simulate(order='asyncio'): run it once, in"
    " asyncio's own order"
)
_KIT = "stageflow.testing.simulation"


class Faults(dict[str, Any]):
    """The injectors of a test's markers, by provider; `marked` has all, the outermost first."""

    def __init__(self, injectors: Sequence[Any] = ()) -> None:
        self.inject = testing.inject_fault
        self.use(injectors)

    def use(self, injectors: Sequence[Any]) -> None:
        """Replace the injectors."""
        self.marked = injectors
        self.clear()
        self.update((injector.provider, injector) for injector in injectors)


_FAULTS: pytest.StashKey[Faults] = pytest.StashKey()


def _faults_of(item: pytest.Item) -> Faults:
    if _FAULTS not in item.stash:
        marks = _fault_markers(item) if item.get_closest_marker("simulate") is None else ()
        item.stash[_FAULTS] = Faults([testing.inject_fault(*m.args, **m.kwargs) for m in marks])
    return item.stash[_FAULTS]


def _fault_markers(item: pytest.Item) -> Iterator[pytest.Mark]:
    return reversed(list(item.iter_markers("fault")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    add = parser.getgroup("stageflow").addoption
    add("--simulate-runs", type=int, metavar="N", help="run each simulated test in N orders")
    text = "show a simulated test that fails as a page of HTML in this folder"
    add("--simulate-pages", type=Path, metavar="FOLDER", help=text)
    text = "repeat only the simulation of this token; a simulation that fails prints its token"
    add("--simulate", metavar="TOKEN", help=text)


_ASKED: pytest.StashKey[Any] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and select the test of a token."""
    config.addinivalue_line("markers", _FAULT_MARKER)
    config.addinivalue_line("markers", _SIMULATE_MARKER)
    text = config.getoption("--simulate")
    if text is None:
        return
    try:
        asked = config.stash[_ASKED] = testing.Token.parse(text)
    except testing.TokenError as error:
        raise pytest.UsageError(str(error)) from None
    if asked.test is None:
        ways = f"call {_KIT}.replay(token), or simulate(…, token=token)"
        raise pytest.UsageError(f"the token names no test: {ways}")
    if config.args_source is not config.ArgsSource.ARGS:
        config.args = [asked.test]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Simulate marked tests, and run the test of a token alone."""
    asked = config.stash.get(_ASKED, None)
    if asked is not None:
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid != asked.test])
        items[:] = [item for item in items if item.nodeid == asked.test]
        if not items:
            raise pytest.UsageError(f"the token's test is not here: {asked.test}")
    for item in items:
        _skip_marked_stage(item)
        if item.get_closest_marker("simulate") is not None:
            # Other plugins run async tests in `runtest`.
            item.runtest = _simulated_test(item)  # type: ignore[method-assign]
        elif asked is not None and asked.main is not None:
            repeat: Any = partial(testing.replay, str(asked))
            item.runtest = repeat  # type: ignore[method-assign]


#: The end of a test's id if its runs are split over the workers of pytest-xdist.
_PART = re.compile(r"(\[|-)part (\d+) of (\d+)\]$")


@pytest.hookimpl(trylast=True)  # so that the part is at the end of the id
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --simulate-runs, make of a simulated test one part for each worker of pytest-xdist."""
    workers = getattr(metafunc.config, "workerinput", {}).get("workercount", 1)
    parts = min(metafunc.config.getoption("--simulate-runs") or 1, workers)
    marker = metafunc.definition.get_closest_marker("simulate")
    if marker is not None and parts > 1 and _is_drawn(marker):
        metafunc.fixturenames.append("simulated_part")
        names = [f"part {number} of {parts}" for number in range(1, parts + 1)]
        metafunc.parametrize("simulated_part", range(parts), ids=names)


def _is_drawn(marker: pytest.Mark) -> bool:
    drawn = marker.kwargs.keys() & {"runs", "seed", "stretch"}
    return bool(drawn) or marker.kwargs.get("order") != "asyncio"


def _part_of(runs: int, scenario: Any, item: pytest.Item) -> tuple[int, Any]:
    """Return how many runs this part of a test has, and the scenario with its first seed."""
    if (found := _PART.search(item.nodeid)) is None:
        return runs, scenario
    number, parts = int(found[2]), int(found[3])
    first, end = (number - 1) * runs // parts, number * runs // parts
    return end - first, replace(scenario, seed=scenario.seed + first)


def _test(item: pytest.Item) -> Any:
    from stageflow.testing.simulation.simulate import Test  # noqa: PLC0415 - see above

    part = _PART.search(item.nodeid)
    name = _PART.sub("" if part and part[1] == "[" else "]", item.nodeid)
    pages = item.config.getoption("--simulate-pages")
    return Test(name, item.config.stash.get(_ASKED, None), pages)


@contextmanager
def _numbered(item: pytest.Item) -> Iterator[None]:
    """Number the simulations of a test; what fails it is in pytest's cache for the next time."""
    test, part = _test(item), _PART.search(item.nodeid)
    cache = None if test.asked else getattr(item.config, "cache", None)
    key = f"stageflow/simulations/{sha256(test.name.encode()).hexdigest()[:16]}"
    before = {} if cache is None or (part and part[2] != "1") else cache.get(key, {})
    test.failed, left = dict(before), {}
    try:
        with test.under_way():
            yield
    except BaseException:
        left = test.failed
        raise
    finally:
        if cache is not None and left != before:
            cache.set(key, left)


def _skip_marked_stage(item: pytest.Item) -> None:
    contracts = sys.modules.get("stageflow.testing.contracts")
    cls = getattr(item, "cls", None) or object
    if contracts is not None and issubclass(cls, contracts.StageContractTest):
        for value in getattr(item, "callspec", SimpleNamespace(params={})).params.values():
            if isinstance(value, contracts.FoundStage) and value.skipped is not None:
                item.add_marker(pytest.mark.skip(reason=value.skipped))


def _marked_to_be_simulated(item: pytest.Item, tested: object) -> tuple[int, testing.Scenario]:
    def refused(problem: str) -> pytest.UsageError:
        return pytest.UsageError(f"{item.nodeid}{problem}")

    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(tested):
        raise refused(" is marked to be simulated, but is not async")
    if issubclass(item.cls or object, getattr(sys.modules.get("unittest"), "TestCase", ())):
        raise refused(
            " is marked to be simulated, but belongs to a unittest.TestCase, which has a loop of"
            " its own; make it a function, or a method of a plain class"
        )
    marker = item.get_closest_marker("simulate")
    assert marker is not None, "only marked tests come here"
    given: dict[str, Any] = dict(marker.kwargs)
    unknown = given.keys() - {"runs", "seed", "order", "stretch", "network"}
    if marker.args or unknown:
        text = ", ".join(sorted(unknown)) or repr(marker.args[0])
        raise refused(f": simulate takes network, runs, seed, order and stretch, not {text}")
    drawn = _is_drawn(marker)
    runs = given.pop("runs", 100 if drawn else 1)
    if drawn:
        runs = item.config.getoption("--simulate-runs") or runs
    if not isinstance(runs, int) or runs < 1:
        raise refused(f": simulate takes runs from 1 up, not {runs!r}: no run shows nothing")
    try:
        return _part_of(runs, testing.Scenario(**{"seed": 0 if drawn else None, **given}), item)
    except (TypeError, ValueError) as error:
        raise refused(f": simulate cannot take {error}") from None


def _simulated_test(item: Any) -> Any:
    function: Any = getattr(item, "obj", None)
    # With @given, Hypothesis calls the inner test, once for each example.
    hypothesis: Any = getattr(function, "hypothesis", None)
    tested: Any = getattr(hypothesis, "inner_test", function)
    runs, scenario = _marked_to_be_simulated(item, tested)
    #: The injectors of each run, in the order of the markers.
    met: list[tuple[Any, ...]] = []

    def planned(provider: str, fault_type: Any, **options: Any) -> testing.PlannedFault:
        return testing.PlannedFault(provider, fault_type, options)

    def run(*args: Any, **arguments: Any) -> None:
        plan = testing.FaultPlan(tuple(planned(*m.args, **m.kwargs) for m in _fault_markers(item)))

        async def main(sim: Any) -> None:
            with plan.injected() as injectors:
                met.append(injectors)
                sim.faults = injectors
                _faults_of(item).use(injectors)
                await tested(*args, **{**arguments, **({"sim": sim} if "sim" in arguments else {})})

        if scenario.seed is None and runs == 1:
            testing.simulate(main, scenario=scenario)
        else:
            found = testing.explore(main, runs=runs, scenario=scenario)
            # With @given there is one for each example.
            item.user_properties += [] if hypothesis else [("simulated", str(found))]

    @wraps(tested)
    def example(*args: Any, **arguments: Any) -> None:
        # Hypothesis finds the example again, and each example that it tries follows the token.
        with _test(item).under_way():
            run(*args, **arguments)

    def runtest() -> None:
        arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
        if hypothesis is None:
            run(**arguments)
        else:
            hypothesis.inner_test = example
            try:
                function(**arguments)
            finally:
                hypothesis.inner_test = tested
        for mark, injectors in zip(_fault_markers(item), zip(*met, strict=True), strict=False):
            problems = [injector.unused() for injector in injectors]
            if None not in problems and not mark.kwargs.get("allow_unused"):
                raise problems[0]

    return runtest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many runs and orders each simulated test had."""
    lines = [
        f"{report.nodeid}: {dict(report.user_properties)['simulated']}"
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and "simulated" in dict(report.user_properties)
    ]
    if lines:
        terminalreporter.section("simulated")
        terminalreporter.write_line("\n".join(lines))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Inject what a test's markers say, and number its simulations: not around its fixtures."""
    with ExitStack() as stack:
        if _KIT in sys.modules:
            stack.enter_context(_numbered(item))
        # A simulation injects new ones into each of its runs.
        if item.get_closest_marker("fault") and not item.get_closest_marker("simulate"):
            for injector in _faults_of(item).marked:
                stack.enter_context(injector)
        return (yield)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The test's injectors by provider, and ``inject`` for more."""
    return _faults_of(request.node)


class _NoSimulation:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            "sim belongs to one run, and a fixture is made once for all of them: take sim as a"
            " parameter of the test itself"
        )


# Not made for each function, as Hypothesis warns of fixtures that its examples share.
@pytest.fixture(scope="session")
def sim() -> Any:
    """The `Simulation` of the run: a new one for each run of a marked test."""
    return _NoSimulation()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse ``sim`` to a test that is not simulated."""
    known = getattr(item, "_fixtureinfo", None)
    used = known.name2fixturedefs.get("sim", ()) if known is not None else ()
    ours = any(fixture.func.__module__ == __name__ for fixture in used[-1:])
    if ours and item.get_closest_marker("simulate") is None:
        raise pytest.UsageError("sim is for tests that are marked: @pytest.mark.simulate(runs=100)")

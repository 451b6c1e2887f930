"""Faults and simulations in pytest: two markers, two fixtures and an option.

Mark a test, and a provider is in trouble while it runs; the fixture tells what was injected, and
injects more::

    @pytest.mark.fault("llm", "timeout", duration_ms=5000)
    async def test_turn(faults):
        result = await pipeline.run(ctx)
        assert faults["llm"].injected == 1
        with faults.inject("stt", "error"):
            ...

Mark an async test, and it is run in virtual time, in as many orders as you say; a run that fails
prints the command that repeats it, ``pytest --simulate=TOKEN``::

    @pytest.mark.simulate(runs=200)
    async def test_turn(sim):
        result = await pipeline.run(sim.context({"text": "hello"}, providers=fakes))
        assert result.status == "completed"

pytest imports this module at its start, in every project where stageflow is installed. So the kit
is imported where it is used and not above: a project that uses none of it does not pay for it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

_FAULT_MARKER = (
    "fault(provider, fault_type, **options): inject that fault while the test runs, as"
    " stageflow.testing.faults.inject_fault does; the marker nearest to the test is the innermost"
)
_SIMULATE_MARKER = (
    "simulate(runs=100, seed=0): run an async test in virtual time, once for each seed from `seed`"
    " upwards, and each time in another order; its fixtures are made once for all of these runs"
)
_KIT = "stageflow.testing.simulation"


class Faults(Mapping[str, Any]):
    """The injectors of a test's markers, by provider; for a provider with several, the innermost.

    Attributes:
        inject: `stageflow.testing.faults.inject_fault`.
    """

    def __init__(self, item: pytest.Item) -> None:
        from stageflow.testing.faults import inject_fault  # noqa: PLC0415 - see above

        self.inject = inject_fault
        #: From the outermost to the innermost.
        self.marked = [
            inject_fault(*marker.args, **marker.kwargs)
            for marker in reversed(list(item.iter_markers("fault")))
        ]
        self._by_provider = {injector.provider: injector for injector in self.marked}

    def __getitem__(self, provider: str) -> Any:
        return self._by_provider[provider]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_provider)

    def __len__(self) -> int:
        return len(self._by_provider)


_FAULTS: pytest.StashKey[Faults] = pytest.StashKey()


def _faults_of(item: pytest.Item) -> Faults:
    if _FAULTS not in item.stash:
        item.stash[_FAULTS] = Faults(item)
    return item.stash[_FAULTS]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the option known."""
    parser.getgroup("stageflow").addoption(
        "--simulate",
        metavar="TOKEN",
        help="run only the simulation that this token names, exactly as it was; a simulation"
        " that fails prints its token",
    )


_ASKED: pytest.StashKey[Any] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, and go straight to the test that a token names."""
    config.addinivalue_line("markers", _FAULT_MARKER)
    config.addinivalue_line("markers", _SIMULATE_MARKER)
    text = config.getoption("--simulate")
    if text is None:
        return
    from stageflow.testing.simulation import Token, TokenError  # noqa: PLC0415 - see above

    try:
        asked = config.stash[_ASKED] = Token.parse(text)
    except TokenError as error:
        raise pytest.UsageError(str(error)) from None
    if asked.test is None:
        raise pytest.UsageError(
            f"the token names no test: call {_KIT}.replay(token), or simulate(…, token=token)"
        )
    if config.args_source is not config.ArgsSource.ARGS:
        config.args = [asked.test]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See to it that marked tests are simulated, and that a token's test runs alone."""
    asked = config.stash.get(_ASKED, None)
    if asked is not None:
        others = [item for item in items if item.nodeid != asked.test]
        if len(others) == len(items):
            raise pytest.UsageError(f"the token's test is not here: {asked.test}")
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.nodeid == asked.test]
    for item in items:
        if item.get_closest_marker("simulate") is not None:
            # Whatever else runs async tests does so in `runtest`.
            item.runtest = _simulated_test(item)  # type: ignore[method-assign]
        elif asked is not None and asked.main is not None:
            item.runtest = _replayed_test(str(asked))  # type: ignore[method-assign]


def _simulated_test(item: pytest.Item) -> Any:
    from stageflow.testing.faults import FaultPlan, PlannedFault  # noqa: PLC0415 - see above
    from stageflow.testing.simulation import Scenario, explore  # noqa: PLC0415 - see above

    function = getattr(item, "obj", None)
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(function):
        raise pytest.UsageError(
            f"{item.nodeid} is marked to be simulated, and is no async function; a test with @given"
            f" calls {_KIT}.simulate itself"
        )
    marker = item.get_closest_marker("simulate")
    assert marker is not None, "only marked tests come here"
    given: dict[str, Any] = {"runs": 100, "seed": 0, **marker.kwargs}
    unknown = given.keys() - {"runs", "seed"}
    if marker.args or unknown:
        told = ", ".join(sorted(unknown)) or repr(marker.args[0])
        raise pytest.UsageError(f"{item.nodeid}: simulate takes runs and seed, not {told}")
    faults = FaultPlan(
        tuple(
            PlannedFault(provider, fault_type, fault.kwargs)
            for fault in reversed(list(item.iter_markers("fault")))
            for provider, fault_type in [fault.args]
        )
    )
    wanted = item._fixtureinfo.argnames

    async def main(sim: Any) -> None:
        fixtures = {name: item.funcargs[name] for name in wanted}
        if "sim" in fixtures:
            fixtures["sim"] = sim
        await function(**fixtures)

    def runtest() -> None:
        explore(main, runs=given["runs"], scenario=Scenario(given["seed"], faults=faults))

    return runtest


def _replayed_test(token: str) -> Any:
    def runtest() -> None:
        from stageflow.testing.simulation import replay  # noqa: PLC0415 - see above

        replay(token)

    return runtest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Inject what a test's markers say, and number its simulations.

    Around the test, and not around its fixtures.
    """
    with ExitStack() as stack:
        if _KIT in sys.modules:
            from stageflow.testing.simulation.simulate import counting  # noqa: PLC0415 - see above

            stack.enter_context(counting(item.config.stash.get(_ASKED, None)))
        # A simulation injects them itself, anew for each run.
        if item.get_closest_marker("fault") and not item.get_closest_marker("simulate"):
            for injector in _faults_of(item).marked:
                stack.enter_context(injector)
        return (yield)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The test's injectors by provider, and ``inject`` for more of them."""
    if request.node.get_closest_marker("simulate") is not None:
        raise pytest.UsageError("each simulated run has faults of its own: ask sim.faults for them")
    return _faults_of(request.node)


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> None:
    """The `Simulation` of the run; a marked test is given a new one for each of its runs."""
    if request.node.get_closest_marker("simulate") is None:
        raise pytest.UsageError("sim is for tests that are marked: @pytest.mark.simulate(runs=100)")

"""Faults in pytest: a marker and a fixture.

Mark a test, and a provider is in trouble while it runs; the fixture tells what was injected, and
injects more::

    @pytest.mark.fault("llm", "timeout", duration_ms=5000)
    async def test_turn(faults):
        result = await pipeline.run(ctx)
        assert faults["llm"].injected == 1
        with faults.inject("stt", "error"):
            ...

pytest imports this module at its start, in every project where stageflow is installed. So the kit
is imported where it is used and not above: a project that injects nothing does not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

_MARKER = (
    "fault(provider, fault_type, **options): inject that fault while the test runs, as"
    " stageflow.testing.faults.inject_fault does; the marker nearest to the test is the innermost"
)


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


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Inject what a test's markers say, around the test and not around its fixtures."""
    with ExitStack() as stack:
        if item.get_closest_marker("fault") is not None:
            for injector in _faults_of(item).marked:
                stack.enter_context(injector)
        return (yield)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The test's injectors by provider, and ``inject`` for more of them."""
    return _faults_of(request.node)

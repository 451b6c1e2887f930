"""A file of telemetry, and stores that are closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stageflow.telemetry import TelemetryStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[], TelemetryStore]]:
    """Opens the file for reading; closed after the test."""
    stores: list[TelemetryStore] = []

    def open_store() -> TelemetryStore:
        stores.append(TelemetryStore(path))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()

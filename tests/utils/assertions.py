"""Assertions that must hold for the events of any run."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow import Event
from stageflow.testing import check_events as assert_events_sound
from stageflow.testing import check_run as assert_run_sound

__all__ = ["assert_events_sound", "assert_run_sound", "events_of", "only", "types_of"]


def types_of(events: Sequence[Event]) -> list[str]:
    """The events' types, in order."""
    return [event.type for event in events]


def events_of(events: Sequence[Event], stage: str) -> list[Event]:
    """The events of one stage, in order."""
    return [event for event in events if event.stage == stage]


def only(events: Sequence[Event], kind: str) -> Event:
    """The one event of that type."""
    found = [event for event in events if event.type == kind]
    assert len(found) == 1, f"{len(found)} events of type {kind!r} among {types_of(events)}"
    return found[0]

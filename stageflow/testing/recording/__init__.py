"""Recorded turns as test cases: ``recorded("turn.json").replay(pipeline)`` needs no provider."""

from stageflow.testing.recording.player import RecordedTurn, recorded
from stageflow.testing.recording.recorder import Recorder, RecordingError, RecordingMismatchError

__all__ = ["RecordedTurn", "Recorder", "RecordingError", "RecordingMismatchError", "recorded"]

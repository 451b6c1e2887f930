"""Turns kept as test cases: recorded once with whatever providers, replayed without any.

``stageflow run voice --record turn.json`` makes a file, and a test holds today's pipeline to it::

    def test_the_turn_of_monday():
        recorded("turn.json").replay(streaming_voice())
"""

from stageflow.testing.recording.errors import (
    InvalidRecordingError,
    RecordingError,
    RecordingFileError,
    RecordingMismatchError,
    UnrecordableValueError,
)
from stageflow.testing.recording.recorder import Recorder
from stageflow.testing.recording.turn import RecordedTurn, recorded

__all__ = [
    "InvalidRecordingError",
    "RecordedTurn",
    "Recorder",
    "RecordingError",
    "RecordingFileError",
    "RecordingMismatchError",
    "UnrecordableValueError",
    "recorded",
]

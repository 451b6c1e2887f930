"""What can be wrong with a recorded turn."""

from __future__ import annotations

from stageflow.errors import ErrorCategory, StageflowError


class RecordingError(StageflowError):
    """A turn could not be recorded or replayed."""

    code = "recording_error"
    category = ErrorCategory.LOGIC


class InvalidRecordingError(RecordingError):
    """A file holds no recorded turn, a damaged one, or one of another version.

    Attributes:
        where: The file.
    """

    code = "invalid_recording"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where


class RecordingFileError(RecordingError):
    """A file could not be written; what was there is still there.

    Attributes:
        where: The file.
    """

    code = "recording_file"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, where: str, error: OSError) -> None:
        super().__init__(f"{where}: it cannot be written ({error.strerror})")
        self.where = where


class UnrecordableValueError(RecordingError):
    """Something in a turn is of a type that a file cannot hold.

    Attributes:
        what: What it is, in words.
        type_name: The type, with its module.
    """

    code = "unrecordable_value"

    def __init__(self, what: str, type_name: str) -> None:
        super().__init__(
            f"the turn cannot be recorded: {what} holds a value of type {type_name}; give the"
            " recorder a codec that knows it: LetterCodec([StoredType(…)])"
        )
        self.what = what
        self.type_name = type_name


class RecordingMismatchError(RecordingError):
    """A pipeline does something else than the turn that was recorded; the text says what."""

    code = "recording_mismatch"

"""Every error of stageflow, under one root, `StageflowError`.

Callers catch classes; the `code` says precisely what happened. docs/errors.md lists both.
"""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.errors.base import *
from stageflow.errors.data import *
from stageflow.errors.failures import *

__all__ = [
    "BUSY",
    "GENERIC_USER_MESSAGE",
    "LOGIC",
    "SYSTEMIC",
    "UNREACHABLE",
    "AbsentInputError",
    "BagError",
    "ChildRunError",
    "CircuitOpenError",
    "ComposeConflictError",
    "CorruptDeadLetterError",
    "DataConflictError",
    "DeadLetterClaimedError",
    "DeadLetterError",
    "DeadLetterLeaseLostError",
    "DeadLetterReplayedError",
    "DeadLetterStoreError",
    "DeadlineExceededError",
    "DuplicateDeadLetterError",
    "ErrorCategory",
    "InvalidAudioError",
    "InvalidConfigError",
    "InvalidContextError",
    "InvalidReplyError",
    "LocalServiceError",
    "MissingKeyError",
    "NoAnswerError",
    "NoProgressError",
    "PipelineDefinitionError",
    "Portable",
    "Problem",
    "ProblemCode",
    "ProviderError",
    "RecordedError",
    "StageDefectError",
    "StageError",
    "StageFailedError",
    "StageRaisedError",
    "StageTimeoutError",
    "StageflowError",
    "StreamError",
    "StreamFailedError",
    "ToolError",
    "Traits",
    "UnknownDeadLetterError",
    "UnknownProviderError",
    "UnknownStageError",
    "did_you_mean",
    "misspelt",
    "nearest",
    "shown",
]

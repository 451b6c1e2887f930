"""Dead letters: what is kept of runs that failed for good, and how they are replayed."""

# ruff: noqa: F403, F405 - the list below says which names are public

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.dlq.export import RecordedFault, RecordedStall, pytest_file, stages_of, values_of
from stageflow.dlq.replay import check_fits, replay, replay_context
from stageflow.dlq.sqlite import InMemoryDeadLetterStore, SQLiteDeadLetterStore
from stageflow.dlq.store import Claim, DeadLetterStore, UnreadableDeadLetter
from stageflow.engine.dead_letter import *

if TYPE_CHECKING:
    from stageflow.dlq.postgres import PostgresDeadLetterStore

__all__ = [
    "Claim",
    "DeadLetter",
    "DeadLetterState",
    "DeadLetterStore",
    "FailureRecord",
    "InMemoryDeadLetterStore",
    "PostgresDeadLetterStore",
    "RecordedFault",
    "RecordedStall",
    "SQLiteDeadLetterStore",
    "StageRecord",
    "UnreadableDeadLetter",
    "Unstorable",
    "check_fits",
    "pytest_file",
    "replay",
    "replay_context",
    "stages_of",
    "values_of",
]

__getattr__, __dir__ = lazy_names(__name__, "postgres: PostgresDeadLetterStore")

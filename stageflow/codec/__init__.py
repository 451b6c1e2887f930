"""Values and dead letters as JSON, and back: the one form of letters, wire, recordings, tokens."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.codec.letters import *
from stageflow.codec.types import *
from stageflow.codec.values import *

__all__ = [
    "DEFAULT_CODEC",
    "FAILURE",
    "NUMBER",
    "NUMBER_OR_NONE",
    "PLACEHOLDER",
    "TEXT",
    "TEXT_OR_NONE",
    "Codec",
    "FieldTypes",
    "StoredType",
    "as_text",
    "canonical",
    "check_fields",
    "dumps",
    "is_large",
    "loads",
    "plain_failure",
]

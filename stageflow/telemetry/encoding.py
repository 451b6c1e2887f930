"""Values as JSON can hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from stageflow.errors.base import shown
from stageflow.providers.ports import Audio


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; what JSON has no form for becomes a description."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Audio):
        return {"duration_s": value.duration_s, "sample_rate_hz": value.sample_rate_hz}
    return shown(value)


def to_json(value: Mapping[str, Any]) -> str:
    """`value` as one line of JSON, in ASCII; never raises, whatever it holds."""
    try:
        # What engine and interceptors put on record needs no second look.
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(plain(value), separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"not_encodable": shown(error)})

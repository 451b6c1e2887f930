"""Errors by their code, which says more than their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stageflow.errors import StageflowError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from _pytest.raises import RaisesExc


def raises_code(code: str, match: str | None = None) -> RaisesExc[StageflowError]:
    """Expect an error of stageflow with that code; `match` as for `pytest.raises`."""
    return pytest.raises(StageflowError, match=match, check=lambda error: error.code == code)


def code_of(error: object) -> str | None:
    """Return the code of an error of stageflow; None for everything else."""
    return error.code if isinstance(error, StageflowError) else None


async def failure(call: Awaitable[object]) -> StageflowError:
    """Await a call that has to fail with an error of stageflow; return the error."""
    with pytest.raises(StageflowError) as raised:
        await call
    return raised.value

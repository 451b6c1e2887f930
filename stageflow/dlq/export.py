"""Export a dead letter as a pytest file that reproduces its failure, and the parts of the file."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from stageflow._utils.checks import is_duration
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.dlq.replay import check_storable
from stageflow.engine import CallNext, Interceptor, StageContext, StageOutput
from stageflow.engine.dead_letter import DeadLetter, StageRecord
from stageflow.errors import ErrorCategory, RecordedError, StageflowError
from stageflow.events.log import StageStatus
from stageflow.providers.registry import adapted

#: Python reads decimal integers only up to a limit of digits; larger ones are hexadecimal.
_DECIMAL_BITS = 1_024
#: Longest deadline of an exported run that passed its deadline, in seconds.
_DEADLINE_S = 0.02

_TEMPLATE = Path(__file__).with_name("test_of_letter.py.txt")


def pytest_file(
    letter: DeadLetter, *, import_line: str, pipeline: str, codec: Codec = DEFAULT_CODEC
) -> str:
    """Return the text of a pytest file that passes as long as the failure shows.

    A provider that failed fails again; a stage that failed by its own logic does so by itself. The
    letter only fills literals, so it cannot add statements.

    Args:
        letter: The letter.
        import_line: The statement that imports the pipeline, written as it is.
        pipeline: The expression of the pipeline, written as it is.
        codec: Knows the types that the letter holds. The file itself uses the built-in types.

    Raises:
        DeadLetterError: A value that the run needs could not be stored.
    """
    check_storable(letter)
    error, plain = letter.error, json.loads(codec.encode(letter))
    finished = {
        name: {part: plain["stages"][name][part] for part in ("ending", "outputs")}
        for name in letter.finished
    }
    used, faults = _faults(letter)
    deadline_s = None
    if letter.failed_stage is None:
        limit_s = letter.deadline_s
        deadline_s = min(limit_s, _DEADLINE_S) if is_duration(limit_s) else _DEADLINE_S
    where = "the run" if letter.failed_stage is None else f"stage {_prose(letter.failed_stage)}"
    story = (
        f"On {letter.created_at:%Y-%m-%d at %H:%M:%S} UTC {where} of pipeline"
        f" {_prose(letter.pipeline)} failed with {_prose(error.code)}:\n"
        f"{_prose(error.message)[1:-1]}\n"
    )
    return _TEMPLATE.read_text("utf-8").format(
        id=_prose(letter.id)[1:-1],
        short_id=re.sub("[^0-9A-Za-z_]", "_", letter.id[:12]),
        story=story,
        import_line=import_line,
        names=", ".join((*used, "stages_of", "values_of")),
        seed=_literal(letter.seed),
        deadline_s=_literal(deadline_s),
        # JSON has no three quotes in a row, so it fits into a raw string between triple quotes.
        inputs=json.dumps(plain["inputs"], indent=2),
        finished=json.dumps(finished, indent=2),
        faults=faults,
        promise=f"{where[0].upper()}{where[1:]} fails with {_prose(error.code)}.",
        pipeline=pipeline,
        check=_check(letter),
    )


def _faults(letter: DeadLetter) -> tuple[tuple[str, ...], str]:
    """Return the names that the list of faults uses, and the list's content."""
    error = letter.error
    if letter.failed_stage is None:
        stalled = ", ".join(_literal(n) for n in letter.stages if n not in letter.finished)
        return ("RecordedStall",), f"RecordedStall({stalled})"
    if error.category == ErrorCategory.LOGIC:
        return (), ""
    names = "code", "category", "message", "provider"
    named = (f"{name}={_literal(getattr(error, name))}" for name in names)
    given = "".join(f"        {one},\n" for one in (_literal(letter.failed_stage), *named))
    return ("RecordedFault",), f"\n    RecordedFault(\n{given}    )\n"


def _check(letter: DeadLetter) -> str:
    code = _literal(letter.error.code)
    if letter.failed_stage is None:
        return f"    assert result.failure.code == {code}"
    return (
        f"    failed = result.stages[{_literal(letter.failed_stage)}]\n"
        f'    assert (str(failed.status), failed.detail["error_code"]) == (\n'
        f'        "failed",\n'
        f"        {code},\n"
        "    )"
    )


def _literal(value: str | int | float | None) -> str:
    """Return a Python literal of one ASCII line for a text, a finite number or None."""
    if isinstance(value, str):
        return ascii(str.__str__(value))  # a subclass could have another repr
    if value is None or type(value) is bool or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if type(value) is int:
        return hex(value) if value.bit_length() > _DECIMAL_BITS else repr(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as a literal")


def _prose(text: str) -> str:
    """Return a text of unknown content in single quotes, safe within a docstring."""
    return "'" + _literal(text)[1:-1].replace("\\", "/").replace('"', "'") + "'"


class _Broken:
    """A provider of any port that fails each call."""

    def __init__(self, error: StageflowError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self._fail

    def _fail(self, *arguments: Any, **options: Any) -> NoReturn:
        raise self._error


class RecordedFault(Interceptor):
    """Makes a stage fail as recorded: a call of its `provider`, or if that is None, itself."""

    def __init__(
        self, stage: str, *, code: str, category: str, message: str, provider: str | None = None
    ) -> None:
        self.stage = stage
        self.provider = provider
        self._error = RecordedError(code, category, message)

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Fail the stage; run all others."""
        if ctx.name != self.stage:
            return await call_next(ctx)
        if self.provider is None:
            raise self._error
        with adapted(self.provider, lambda _: _Broken(self._error)):
            return await call_next(ctx)


class RecordedStall(Interceptor):
    """Blocks the stages of these names until the run's deadline."""

    def __init__(self, *stages: str) -> None:
        self.stages = stages

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Block a chosen stage; run all others."""
        if ctx.name in self.stages:
            await asyncio.Event().wait()
        return await call_next(ctx)


def values_of(text: str, codec: Codec = DEFAULT_CODEC) -> dict[str, Any]:
    """Return values by key from the JSON of a dead letter."""
    return codec.items_from_plain(json.loads(text))


def stages_of(text: str, codec: Codec = DEFAULT_CODEC) -> Mapping[str, StageRecord]:
    """Return finished stages by name from JSON with the ending and the outputs of each."""
    records = {}
    for name, plain in json.loads(text).items():
        outputs = codec.items_from_plain(plain["outputs"])
        records[name] = StageRecord(StageStatus(plain["ending"]), final=True, outputs=outputs)
    return records

"""A dead letter as a pytest file that reproduces its failure."""

from __future__ import annotations

import json
from typing import Any

from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.dlq.replay import check_storable
from stageflow.errors import ErrorCategory
from stageflow.letter import DeadLetter

#: An exported run that passed its deadline is given no longer than this, in seconds.
_DEADLINE_S = 0.02

_TEMPLATE = '''\
"""Reproduces dead letter {id}.

{story}
The run resumes with what the finished stages had written; empty FINISHED to run all of them.
"""

import asyncio

{import_line}
from stageflow import PipelineContext, PipelineOrchestrator
from stageflow.dlq.reproduce import {names}
from stageflow.kernels.defaults import default_providers

SEED = {seed}
DEADLINE_S = {deadline_s}

INPUTS = values_of(
    r"""{inputs}"""
)

#: What the stages that had finished left behind.
FINISHED = stages_of(
    r"""{finished}"""
)

#: What goes wrong.
FAULTS = [{faults}]


def test_dead_letter_{short_id}() -> None:
    """{promise}"""
    context = PipelineContext(
        INPUTS, providers=default_providers(scale=0), deadline_s=DEADLINE_S, seed=SEED
    )
    orchestrator = PipelineOrchestrator({pipeline}.build(), interceptors=FAULTS)
    result = asyncio.run(orchestrator.resume(context, FINISHED, reason="dead letter {short_id}"))
    assert result.failure is not None, "the run completes: the failure does not show any more"
{check}
'''


def pytest_file(
    letter: DeadLetter, *, import_line: str, pipeline: str, codec: LetterCodec = DEFAULT_CODEC
) -> str:
    """The text of a pytest file that goes green as long as the failure shows.

    It holds the inputs, what the finished stages had written, the seed, and the fault: a provider
    that failed fails again, a stage that failed by its own logic is left to do so by itself.

    Args:
        letter: The letter.
        import_line: The statement that imports the pipeline.
        pipeline: The expression that then gives it.
        codec: Knows the types that the letter holds. The file itself uses the built-in types.

    Raises:
        UnstorableValueError: A value that the run needs could not be stored.
    """
    check_storable(letter)
    error, plain = letter.error, json.loads(codec.encode(letter))
    finished = {
        name: {part: plain["stages"][name][part] for part in ("ending", "outputs")}
        for name in letter.finished
    }
    used, faults = _faults(letter)
    where = "the run" if letter.failed_stage is None else f"stage {letter.failed_stage!r}"
    story = (
        f"On {letter.created_at:%Y-%m-%d at %H:%M:%S} UTC {where} of pipeline"
        f" {letter.pipeline!r} failed with {error.code!r}:\n{_quoted(error.message)}\n"
    )
    return _TEMPLATE.format(
        id=letter.id,
        short_id=letter.id[:12],
        story=story,
        import_line=import_line,
        names=", ".join((*used, "stages_of", "values_of")),
        seed=letter.seed,
        deadline_s=None if letter.failed_stage is not None else _deadline_s(letter),
        inputs=_json(plain["inputs"]),
        finished=_json(finished),
        faults=faults,
        promise=f"{where[0].upper()}{where[1:]} fails with {error.code!r}.",
        pipeline=pipeline,
        check=_check(letter),
    )


def _faults(letter: DeadLetter) -> tuple[tuple[str, ...], str]:
    """The names that the list of faults uses, and the list's content."""
    error = letter.error
    if letter.failed_stage is None:
        stalled = ", ".join(repr(n) for n in letter.stages if n not in letter.finished)
        return ("RecordedStall",), f"RecordedStall({stalled})"
    if error.category == ErrorCategory.LOGIC:
        return (), ""
    lines = (
        f"        {letter.failed_stage!r},",
        f"        code={error.code!r},",
        f"        category={error.category!r},",
        f"        message={error.message!a},",
        f"        provider={error.provider!r},",
    )
    return ("RecordedFault",), "\n    RecordedFault(\n" + "\n".join(lines) + "\n    )\n"


def _deadline_s(letter: DeadLetter) -> float:
    return min(letter.deadline_s or _DEADLINE_S, _DEADLINE_S)


def _check(letter: DeadLetter) -> str:
    if letter.failed_stage is None:
        return f"    assert result.failure.code == {letter.error.code!r}"
    return (
        f"    failed = result.stages[{letter.failed_stage!r}]\n"
        f'    assert (str(failed.status), failed.detail["error_code"]) == (\n'
        f'        "failed",\n'
        f"        {letter.error.code!r},\n"
        "    )"
    )


def _json(plain: Any) -> str:
    """JSON for a raw string between triple quotes: it never has three of them in a row itself."""
    return f"\n{json.dumps(plain, indent=2)}\n"


def _quoted(message: str) -> str:
    """A text of unknown content, fit for a docstring and for one line of code."""
    return ascii(message)[1:-1].replace("\\", "/").replace('"', "'")

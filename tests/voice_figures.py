"""How well and how fast the providers of this machine hear, answer and speak.

Questions of which transcript and answer are known are spoken by eSpeak NG, in several voices::

    python -m tests.voice_figures --json figures.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from stageflow import Message
from stageflow.kernels.conversation import SYSTEM_PROMPT
from stageflow.providers.local.llm import LocalLLM
from stageflow.providers.local.stt import PocketsphinxSTT, grammar_of
from stageflow.providers.local.tts import EspeakTTS
from stageflow.providers.ports import STT
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
    for voice in voices:
        for question in QUESTIONS:
            audio = spoken(question, voice)
            began_s = time.perf_counter()
            heard = await stt.transcribe(audio)
            taken_s += time.perf_counter() - began_s
            sound_s += audio.duration_s
            errors += word_errors(question, heard)
            transcripts[question].append(heard)
    return errors / (WORDS * len(voices)), taken_s / sound_s, transcripts


async def speaking(tts: EspeakTTS) -> tuple[float, float]:
    """Milliseconds until the first sentence can be heard, and the time a second of sound takes."""
    await tts.synthesize("Hello.")  # loads the library
    taken_s, sound_s = [], 0.0
    for question in QUESTIONS:
        began_s = time.perf_counter()
        audio = await tts.synthesize(f"{question}.")
        taken_s.append(time.perf_counter() - began_s)
        sound_s += audio.duration_s
    return 1000 * statistics.median(taken_s), sum(taken_s) / sound_s


async def answering(llm: LocalLLM, questions: Sequence[str]) -> tuple[int, float, float]:
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
    return right, statistics.median(first_ms), tokens / taken_s


async def measured(voices: Sequence[str] = VOICES) -> dict[str, Any]:
    """All figures by name; the unit ends the name."""
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
        sentence_ms, speaking_rtf = await speaking(tts)
        typed = [f"{question.capitalize()}?" for question in QUESTIONS]
        right_typed, first_ms, tokens_per_s = await answering(llm, typed)
        # The first voice's, as a run would hear it.
        right_spoken, _, _ = await answering(llm, [heard[0] for heard in transcripts.values()])
    return {
        "stt.any_words.word_error_rate": wer,
        "stt.any_words.real_time_factor": rtf,
        "stt.commands.word_error_rate": commands_wer,
        "stt.commands.real_time_factor": commands_rtf,
        "tts.first_sentence_ms": sentence_ms,
        "tts.real_time_factor": speaking_rtf,
        "llm.first_answer_with_start_s": cold_s,
        "llm.first_token_ms": first_ms,
        "llm.tokens_per_s": tokens_per_s,
        "answers.right_of_typed_questions": right_typed,
        "answers.right_of_spoken_questions": right_spoken,
        "answers.questions": len(QUESTIONS),
        "stt.any_words.heard": transcripts,
    }


def main() -> int:
    """Print the figures, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures, too")
    arguments = parser.parse_args()
    figures = asyncio.run(measured())
    for name, figure in figures.items():
        if isinstance(figure, int | float):
            print(f"{name:36} {figure:>10.4g}")
    for question, heard in figures["stt.any_words.heard"].items():
        print(f"  {question:36} {' / '.join(heard)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How well and how fast real providers hear, answer and speak, as it was measured and kept."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.central.shrink import rounded
from stageflow.pulse.record_lines import newest_lines

VOICE_FILE = "voice.jsonl"
VERSION = 1

#: What the figures are called, in the order in which they are shown; others come behind.
TITLES = {
    "turn.streaming.first_audio": "Time to first audio, streaming",
    "turn.whole.first_audio": "Time to first audio, whole",
    "turn.streaming.total": "Whole turn, streaming",
    "turn.whole.total": "Whole turn, whole",
    "stt.any_words.word_error_rate": "Word error rate, any words",
    "stt.commands.word_error_rate": "Word error rate, commands",
    "answers.right_of_typed": "Right answers to typed questions",
    "answers.right_of_spoken": "Right answers to spoken questions",
    "stt.any_words.real_time_factor": "Hearing a second of sound, any words",
    "stt.commands.real_time_factor": "Hearing a second of sound, commands",
    "tts.real_time_factor": "Speaking a second of sound",
    "tts.first_sentence": "Speaking a sentence",
    "llm.first_token": "First token of the answer",
    "llm.tokens": "Tokens of the answer",
    "llm.first_answer_with_start": "First answer, with the model's start",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        value: It; of samples the median.
        unit: Its unit.
        samples: What it is the median of; None if it is of no samples.
    """

    value: float
    unit: str
    samples: tuple[float, ...] | None = None

    @classmethod
    def of(cls, samples: Sequence[float], unit: str) -> Figure:
        """The median of some samples."""
        return cls(statistics.median(samples), unit, tuple(samples))

    @property
    def p95(self) -> float | None:
        """The 95th percentile, between the two samples next to it; None of fewer than two."""
        if self.samples is None or len(self.samples) < 2:
            return None
        return statistics.quantiles(self.samples, n=20, method="inclusive")[-1]


@dataclass(frozen=True, slots=True)
class VoiceRun:
    """The figures of one run of ``make voice-figures``.

    Attributes:
        at: When they were measured, in ISO 8601.
        commit: Full hash of the commit.
        commit_at: When it was committed, in ISO 8601.
        machine: What it ran on, by asv's keys.
        environment: What it ran in: name, python, and the requirements by package.
        figures: The figures by name.
    """

    at: str
    commit: str
    commit_at: str
    machine: Mapping[str, str]
    environment: Mapping[str, Any]
    figures: Mapping[str, Figure]


def voice_runs(results_dir: Path) -> tuple[list[VoiceRun], list[str]]:
    """The newest runs, oldest first, and what there is to say of those that cannot be read."""
    return newest_lines(results_dir / VOICE_FILE, VERSION, _run)


def voice_record(results_dir: Path) -> dict[str, Any]:
    """The panel's data, as JSON's values: the runs of the machine that measured last.

    Each figure has a value for each run; None where that has not measured it.
    """
    runs, notes = voice_runs(results_dir)
    shown = [run for run in runs if run.machine["machine"] == runs[-1].machine["machine"]]
    if len(shown) < len(runs):
        notes.append(f"{len(runs) - len(shown)} runs of other machines are not shown.")
    there = {name for run in shown for name in run.figures}
    names = [*(name for name in TITLES if name in there), *sorted(there - set(TITLES))]
    return {
        "runs": [
            {"at_s": dt.datetime.fromisoformat(run.at).timestamp(), "commit": run.commit}
            for run in shown
        ],
        "machine": dict(shown[-1].machine) if shown else None,
        "python": shown[-1].environment["python"] if shown else None,
        "figures": [_figure(name, [run.figures.get(name) for run in shown]) for name in names],
        "notes": notes,
    }


def _figure(name: str, found: Sequence[Figure | None]) -> dict[str, Any]:
    units = [figure.unit for figure in found if figure is not None]
    return {
        "name": name,
        "title": TITLES.get(name, name),
        "unit": units[-1],
        "values": [figure and rounded(figure.value) for figure in found],
        "p95": [figure and figure.p95 and rounded(figure.p95) for figure in found],
    }


def _run(line: dict[str, Any]) -> VoiceRun:
    for moment in ("at", "commit_at"):
        dt.datetime.fromisoformat(line[moment])
    python = str(line["python"])
    return VoiceRun(
        at=line["at"],
        commit=str(line["commit"]),
        commit_at=line["commit_at"],
        machine={str(key): str(value) for key, value in line["machine"].items()},
        environment={"name": "", "python": python, "requirements": dict(line["requirements"])},
        figures={str(name): _read(figure) for name, figure in line["figures"].items()},
    )


def _read(figure: dict[str, Any]) -> Figure:
    samples = figure["samples"]
    kept = None if samples is None else tuple(map(float, samples))
    return Figure(float(figure["value"]), str(figure["unit"]), kept)

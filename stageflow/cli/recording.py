"""``--record`` and ``--replay``: a turn kept as a test case, and taken again."""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit

from stageflow.cli.errors import UsageError
from stageflow.pipeline import Pipeline
from stageflow.result import RunResult
from stageflow.testing.recording import recorded

#: What a recording brings with it, or has no use for, by attribute and option.
_REFUSED = {
    "text": "--text",
    "user": "--user",
    "input": "--input",
    "sound": "--in",
    "providers": "--providers",
    "seed": "--seed",
    "deadline_s": "--deadline-s",
    "inject": "--inject",
    "record": "--record",
    "dlq": "--dlq",
    "telemetry": "--telemetry",
    "live": "--live",
}

#: A key that is shorter keeps no secret, and may be part of any word.
_LEAST_SECRET_CHARS = 8


def add_recording(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--record`` and ``--replay``."""
    group = parser.add_argument_group(
        "turns as test cases", "see stageflow.testing.recording for how a test replays one"
    )
    group.add_argument(
        "--record",
        metavar="FILE",
        help="keep the turn: what came in, what each provider was asked and answered and when, what"
        " came of it; no keys",
    )
    group.add_argument(
        "--replay",
        metavar="FILE",
        help="take a recorded turn again, in virtual time and without any provider; fails if the"
        " pipeline now does something else",
    )


def replayed(arguments: argparse.Namespace, pipeline: Pipeline) -> RunResult:
    """Take the turn of ``--replay`` again.

    Raises:
        UsageError: Another option says what the recording says.
        InvalidRecordingError: The file is none.
        RecordingMismatchError: The pipeline is another one, or does something else than then.
    """
    given = [option for name, option in _REFUSED.items() if getattr(arguments, name)]
    if arguments.provider != "fake":
        given.append("--provider")
    if given:
        raise UsageError(
            f"--replay takes all of the turn from its file, and {given[0]} would change it; leave"
            " one of the two out"
        )
    return recorded(arguments.replay).replay(pipeline)


def secrets(arguments: argparse.Namespace) -> list[str]:
    """What a recording must not hold: the key, and a password that stands in the address."""
    known = [os.environ.get("OPENAI_API_KEY"), urlsplit(arguments.base_url or "").password]
    return [secret for secret in known if secret and len(secret) >= _LEAST_SECRET_CHARS]

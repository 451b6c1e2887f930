"""Compare the splitter of streaming turns with other segmenters, on a table of sentence ends.

The table is tests/unit/kernels/sentence_cases.toml. The others are installed into an environment of
their own. They read whole texts; the splitter decides in a stream.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from stageflow.kernels import SentenceSplitter

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tests" / "unit" / "kernels" / "sentence_cases.toml"
ENVIRONMENT = ROOT / ".asv" / "segmenters"
PACKAGES = ("pysbd==0.3.4", "sentencex==1.0.32")

#: What runs in the other environment: texts by language in, sentences by segmenter and text out.
_OTHERS = """
import json, sys
import pysbd, sentencex
def split_by_pysbd(language, text):
    return pysbd.Segmenter(language=language, clean=False).segment(text)
def split_by_sentencex(language, text):
    return list(sentencex.segment(language, text))
texts = json.load(sys.stdin)
json.dump(
    {
        split.__name__.removeprefix("split_by_"): {
            language: [split(language, text) for text in each] for language, each in texts.items()
        }
        for split in (split_by_pysbd, split_by_sentencex)
    },
    sys.stdout,
)
"""


def expected(case: str) -> list[str]:
    """Return the sentences of a case, without the white space around them."""
    return [sentence.strip() for sentence in case.split("|")]


def text_of(case: str) -> str:
    """Return the text of a case."""
    return case.replace("|", "")


def split(text: str) -> tuple[list[str], list[int]]:
    """Return the sentences of a stream of characters, and how many it had to wait for each.

    The white space behind a sentence is not waited for, as it is needed to see its end.
    """
    splitter, found, waited, end = SentenceSplitter(), list[str](), list[int](), 0
    for position, character in enumerate(text, 1):
        for sentence in splitter.feed(character):
            end += len(sentence)
            found.append(sentence)
            waited.append(position - end)
    found.append(splitter.finish())
    return [sentence.strip() for sentence in found if sentence.strip()], waited


def of_others(texts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[list[str]]]]:
    """Install the other segmenters once, and return their sentences."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    done = subprocess.run(
        [python, "-W", "ignore", "-c", _OTHERS],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, list[list[str]]]] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print the share of right cases, by segmenter and language."""
    parser = argparse.ArgumentParser("python -m tools.compare_segmenters", description=__doc__)
    parser.add_argument("--wrong", action="store_true", help="also print what is wrong")
    arguments = parser.parse_args()
    cases: dict[str, list[str]] = tomllib.loads(CASES.read_text(encoding="utf-8"))
    texts = {language: [text_of(case) for case in each] for language, each in cases.items()}
    ours = {language: [split(text)[0] for text in each] for language, each in texts.items()}
    waited = [wait for each in texts.values() for text in each for wait in split(text)[1]]
    total = sum(map(len, cases.values()))
    print(f"{'':12}{'all':>12}" + "".join(f"{language:>8}" for language in cases))
    for name, found in {"stageflow": ours, **of_others(texts)}.items():
        right: dict[str, int] = {}
        wrong: list[tuple[str, list[str]]] = []
        for language, each in cases.items():
            got = [[s.strip() for s in one if s.strip()] for one in found[language]]
            bad = [pair for pair in zip(each, got, strict=True) if expected(pair[0]) != pair[1]]
            right[language], wrong = len(each) - len(bad), [*wrong, *bad]
        share = sum(right.values()) / total
        print(
            f"{name:12}{sum(right.values()):>4}/{total} {share:>4.0%}"
            + "".join(f"{right[language]:>4}/{len(cases[language]):<3}" for language in cases)
        )
        if arguments.wrong:
            for case, sentences in wrong:
                print(f"    {case!r}\n    {' | '.join(sentences)!r}")
    late = sum(wait > 0 for wait in waited)
    print(
        f"stageflow decides {len(waited) - late} of {len(waited)} ends at once, the rest after"
        f" {max(waited)} characters at most; the other segmenters read the whole text"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run random pipelines in many event loops, and check what every run promises.

Each number from the seed on draws a pipeline, what its stages do, and the conditions of the run;
the same number plays the same again. A failure is shown with the smallest plan that still fails.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import itertools
import logging
import os
import pprint
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context

from tools.random_test.plans import Draw, Plan, smaller, uses
from tools.random_test.rounds import Round
from tools.random_test.worlds import LOOPS, World, worlds

#: How many numbers a process takes at once.
_CHUNK = 100


@dataclass(frozen=True)
class Played:
    """The result of one number.

    Attributes:
        seed: The number.
        world: Where it was played.
        plan: What was played.
        texts: The promises that were broken; none if all is well.
        lines: The events of the runs that broke them.
    """

    seed: int
    world: World
    plan: Plan
    texts: tuple[str, ...]
    lines: tuple[str, ...]


def conditions(seed: int, without: frozenset[str], loops: Sequence[str]) -> tuple[Plan, World]:
    """Return the plan and the world of a number."""
    chance = random.Random(f"world {seed}")
    found = [world for world in worlds() if world.loop in loops]
    weights = [(1.0 if world.virtual else 0.2) * (0.15 if world.debug else 1.0) for world in found]
    world = replace(chance.choices(found, weights)[0], seed=seed)
    return Draw(seed, without).plan(), world


def play(seed: int, without: frozenset[str] = frozenset(), loops: Sequence[str] = LOOPS) -> Played:
    """Play one number."""
    plan, world = conditions(seed, without, loops)
    done = Round(plan, world)
    texts = done.play()
    if not texts and world.loop == "simulated" and seed % 10 == 0 and plan.runs == 1:
        again = Round(plan, world)
        again.play()
        if again.log != done.log:
            texts = ["the same seed gave other events"]
    return Played(seed, world, plan, tuple(texts), tuple(done.lines))


def shrink(finding: Played, *, limit_s: float = 20) -> Played:
    """Return the finding with the smallest plan that still breaks the same promise."""
    until = time.monotonic() + limit_s
    kind = _kind(finding.texts[0])
    found = True
    while found:
        found = False
        for plan in smaller(finding.plan):
            if uses(plan, "forever", "hang") and plan.deadline_s is None:
                continue
            if time.monotonic() > until:
                return finding
            try:
                done = Round(plan, finding.world)
                texts = done.play()
            except Exception:
                continue
            same = [text for text in texts if _kind(text) == kind]
            if same:
                finding = replace(finding, plan=plan, texts=tuple(same), lines=tuple(done.lines))
                found = True
                break
    return finding


def _kind(text: str) -> str:
    """Return the words of a finding without its names and numbers."""
    if "\n" in text:
        return text.strip().splitlines()[-1].split(":")[0]
    words = text.split("(", maxsplit=1)[0].split()
    return " ".join(word for word in words if word.strip(":,'").isalpha())[:60]


def _chunk(
    seeds: Sequence[int], without: frozenset[str], loops: Sequence[str]
) -> tuple[list[Played], Counter[str]]:
    logging.disable()  # what stages are made to raise is logged, too
    gc.collect()
    gc.freeze()
    found: list[Played] = []
    counts: Counter[str] = Counter()
    for seed in seeds:
        finding = play(seed, without, loops)
        counts[str(finding.world)] += 1
        if finding.texts:
            found.append(shrink(finding) if len(found) < 3 else finding)
    return found, counts


def show(finding: Played) -> str:
    """Return a finding as text."""
    lines = [f"seed {finding.seed}, {finding.world}:", *(f"  - {text}" for text in finding.texts)]
    lines += [f"    {line}" for line in finding.lines]
    return "\n".join([*lines, pprint.pformat(finding.plan, width=120)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run random tests; the exit code is 1 if one of them found something."""
    parser = argparse.ArgumentParser("python -m tools.random_test", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="how many plans (20,000)")
    parser.add_argument("--seed", type=int, default=0, help="the first number (0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)"
    )
    parser.add_argument(
        "--without", nargs="*", default=(), metavar="WORD", help="acts and errors that no plan has"
    )
    parser.add_argument(
        "--loops", nargs="*", default=LOOPS, choices=LOOPS, help="which event loops"
    )
    parser.add_argument("--most", type=int, default=5, help="how many findings to show (5)")
    arguments = parser.parse_args(argv)
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    without, loops = frozenset(arguments.without), tuple(arguments.loops)
    found: list[Played] = []
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    with concurrent.futures.ProcessPoolExecutor(
        arguments.jobs, mp_context=get_context("spawn")
    ) as pool:
        for some, more in pool.map(
            _chunk, chunks, itertools.repeat(without), itertools.repeat(loops)
        ):
            for finding in some:
                if len(found) < arguments.most:
                    print(show(finding), flush=True)
                found.append(finding)
            counts.update(more)
            if sys.stderr.isatty():
                print(
                    f"\r{sum(counts.values()):,} plays, {time.perf_counter() - began:.0f} s",
                    end=" ",
                    file=sys.stderr,
                    flush=True,
                )
    for world, count in sorted(counts.items()):
        print(f"{count:7,} {world}")
    python = ".".join(map(str, sys.version_info[:3]))
    print(
        f"{len(seeds):,} random pipelines on Python {python} in"
        f" {time.perf_counter() - began:.0f} s: {len(found)} findings"
    )
    kinds = Counter(_kind(finding.texts[0]) for finding in found)
    for kind, count in kinds.most_common():
        seen = [finding.seed for finding in found if _kind(finding.texts[0]) == kind]
        print(f"{count:7,} {kind} (seeds {', '.join(map(str, seen[:8]))})")
    return 1 if found else 0

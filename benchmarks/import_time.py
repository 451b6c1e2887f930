"""The cost of ``import stageflow`` for a program that starts."""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.fresh_process import import_seconds
from benchmarks._lib.support import bounded, charted, requires

# A package that is still empty is imported in no time: a best value that no commit reaches again.
setup = requires("PipelineOrchestrator")

ROUNDS = 9


def imports(*modules: str) -> list[tuple[float, ...]]:
    """CPU time of importing each module in a fresh interpreter, in seconds, round by round."""
    for module in modules:
        import_seconds(module)  # the first time, bytecode is written
    return [tuple(map(import_seconds, modules)) for _ in range(ROUNDS)]


class Import:
    """Imports in fresh interpreters, with their bytecode at hand."""

    version = "1"

    def track_stageflow(self) -> dict[str, object]:
        """CPU time of ``import stageflow``: what each start of a program pays."""
        return bounded([stageflow for (stageflow,) in imports("stageflow")])

    track_stageflow.unit = "seconds"  # type: ignore[attr-defined]

    def track_asyncio(self) -> dict[str, object]:
        """CPU time of ``import asyncio``, which stageflow's includes: the machine's speed."""
        return bounded([asyncio for (asyncio,) in imports("asyncio")])

    track_asyncio.unit = "seconds"  # type: ignore[attr-defined]

    def track_ratio(self) -> dict[str, object]:
        """How many times ``import asyncio`` the import of stageflow costs; at most 2."""
        pairs = imports("stageflow", "asyncio")
        return charted([ours / theirs for ours, theirs in pairs])

    track_ratio.unit = "times import asyncio"  # type: ignore[attr-defined]


if __name__ == "__main__":
    without_asv.main()

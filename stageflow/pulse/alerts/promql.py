"""The rules as expressions for Prometheus, on the metrics of `stageflow.telemetry.prometheus`.

Each asks the same as the function of its kind in `stageflow.pulse.alerts.conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stageflow.pulse.alerts.rules import Kind, Rule

RUN_SECONDS = "stageflow_run_duration_seconds_bucket"
STAGE_SECONDS = "stageflow_stage_duration_seconds_bucket"
FIRST_AUDIO_SECONDS = "stageflow_run_first_audio_seconds_bucket"
FIRST_ITEM_SECONDS = "stageflow_stage_first_item_seconds_bucket"
RUNS = "stageflow_run_total"
STAGES = "stageflow_stage_total"
BREAKER = "stageflow_breaker_state"
LETTERS = "stageflow_dead_letters_waiting"
DROPPED = "stageflow_sink_dropped_events_total"


def expression(rule: Rule) -> str:
    """What is true where the rule's limit is exceeded; its value is by what."""
    return _EXPRESSIONS[rule.kind](rule)


def length(seconds: float) -> str:
    """A length of time as Prometheus writes it."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"


def p99(buckets: str, by: str, selector: str, window: str) -> str:
    """The P99 in seconds of a histogram."""
    return f"histogram_quantile(0.99, sum by ({by}, le) (rate({buckets}{selector}[{window}])))"


def error_rate(window: str, pipeline: str | None = None) -> str:
    """The share of runs that failed, among those that completed or failed."""

    def of(outcomes: str) -> str:
        chosen = _selector(pipeline, f'outcome=~"{outcomes}"')
        return f"sum by (pipeline) (rate({RUNS}{chosen}[{window}]))"

    return f"{of('failed')} / {of('completed|failed')}"


def _selector(pipeline: str | None, *others: str) -> str:
    named = [f'pipeline="{pipeline}"'] if pipeline is not None else []
    matchers = [*named, *others]
    return f"{{{','.join(matchers)}}}" if matchers else ""


def before_first_audio(selector: str, window: str) -> str:
    """The P99 in seconds of what comes before the first audio: stages, or to their first items."""
    items = p99(FIRST_ITEM_SECONDS, "stage, stream", selector, window)
    stages = p99(STAGE_SECONDS, "stage", selector, window)
    audio = p99(FIRST_AUDIO_SECONDS, "pipeline", selector, window)
    return f"({items} or ({stages} unless on (stage) {items})) <= scalar({audio})"


def _latency(rule: Rule) -> str:
    return _over_p99(rule, RUN_SECONDS)


def _first_audio(rule: Rule) -> str:
    return _over_p99(rule, FIRST_AUDIO_SECONDS)


def _over_p99(rule: Rule, buckets: str) -> str:
    chosen = _selector(rule.pipeline)
    return f"{p99(buckets, 'pipeline', chosen, length(rule.window_s))} > {rule.limit / 1000:g}"


def _error_rate(rule: Rule) -> str:
    return f"{error_rate(length(rule.window_s), rule.pipeline)} > {rule.limit:g}"


def _burn_rate(rule: Rule) -> str:
    windows = (rule.window_s, rule.short_window_s)
    parts = (f"{error_rate(length(s), rule.pipeline)} > {rule.limit:g}" for s in windows)
    return "\nand\n".join(parts)


def _breaker_open(rule: Rule) -> str:
    return f"max by (provider) ({BREAKER}) > 0"


def _dead_letters(rule: Rule) -> str:
    # Processes that share a store each tell all of it.
    return f"max({LETTERS}) > {rule.limit:g}"


def _no_data(rule: Rule) -> str:
    chosen = _selector(rule.pipeline)
    # Without any series there is nothing to add up, and that is no data, too.
    return f"(sum(increase({RUNS}{chosen}[{length(rule.window_s)}])) or vector(0)) == 0"


_EXPRESSIONS: Mapping[Kind, Callable[[Rule], str]] = {
    Kind.LATENCY: _latency,
    Kind.FIRST_AUDIO: _first_audio,
    Kind.ERROR_RATE: _error_rate,
    Kind.BURN_RATE: _burn_rate,
    Kind.BREAKER_OPEN: _breaker_open,
    Kind.DEAD_LETTERS: _dead_letters,
    Kind.NO_DATA: _no_data,
}

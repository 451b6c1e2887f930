"""The usage of models and speech by runs: events, costs and budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from stageflow.engine import CallNext, Interceptor, StageContext, StageOutput
from stageflow.errors import InvalidConfigError, ProviderError
from stageflow.events.log import USAGE, USAGE_UNITS, Event
from stageflow.providers.metered import UNITS, Metered
from stageflow.providers.registry import Adapting


class UsageInterceptor(Interceptor):
    """Emit ``usage`` for each answer of ``llm``, ``stt`` and ``tts``.

    The event has the ``provider``, ``prompt_tokens`` and ``completion_tokens``, ``characters`` or
    ``audio_s``, and the ``cost`` if there are prices. A model's tokens are those that its service
    reports, or ``estimated``. Put it inside of retries, so that it sees each attempt.

    Args:
        prices: What one unit costs, by provider: ``{"llm": {"prompt_tokens": 0.15e-6}}``.
        budget: The most that a run may use by unit, or as ``cost``; the next call after that is
            refused.

    Raises:
        InvalidConfigError: There is no such provider or unit, or a number is below 0.
    """

    def __init__(
        self,
        *,
        prices: Mapping[str, Mapping[str, float]] | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> None:
        self._prices = {} if prices is None else prices
        self._budget = {} if budget is None else budget
        if not isinstance(self._prices, Mapping) or not UNITS.keys() >= self._prices.keys():
            fix = f"give a mapping of units and numbers for each of {', '.join(UNITS)}"
            raise InvalidConfigError("UsageInterceptor", "prices", prices, fix)
        for provider, table in self._prices.items():
            _require(f"prices[{provider!r}]", table, UNITS[provider])
        _require("budget", self._budget, USAGE_UNITS)

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with providers that report what they use."""
        with Adapting(UNITS, partial(self._metered, ctx)):
            return await call_next(ctx)

    def _metered(self, ctx: StageContext, name: str, provider: Any) -> Metered:
        return Metered(provider, partial(self._report, ctx, name), partial(self._check, ctx))

    def _report(self, ctx: StageContext, provider: str, used: Mapping[str, Any]) -> None:
        prices = self._prices.get(provider)
        if prices is not None:
            cost = sum(price * used.get(unit, 0) for unit, price in prices.items())
            used = {**used, "cost": cost}
        if not ctx.ended:  # its reader has left a stream
            ctx.emit(USAGE, provider=provider, **used)

    def _check(self, ctx: StageContext) -> None:
        used = usage_of(ctx.scope.log) if self._budget else {}
        for unit, limit in self._budget.items():
            if used.get(unit, 0) >= limit:
                text = f"the run has used {used.get(unit, 0):g} {unit}, and its budget is {limit:g}"
                raise ProviderError(text, code="budget_exceeded")


def usage_of(events: Iterable[Event]) -> dict[str, float]:
    """Return the sums of what the events of any runs say was used, by unit, and the cost."""
    sums: Counter[str] = Counter()
    for event in events:
        if event.what == USAGE:
            sums.update({unit: event.data[unit] for unit in USAGE_UNITS if unit in event.data})
    return dict(sums)


def _require(field: str, amounts: Any, units: Iterable[str]) -> None:
    fix = f"give a mapping to numbers, 0 or more, of any of {', '.join(units)}"
    if not isinstance(amounts, Mapping):
        raise InvalidConfigError("UsageInterceptor", field, amounts, fix)
    for unit, amount in amounts.items():
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if unit not in units or not number or not amount >= 0:
            raise InvalidConfigError("UsageInterceptor", field, {unit: amount}, fix)

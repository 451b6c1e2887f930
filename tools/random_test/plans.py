"""Plans: random pipelines as data, what their stages do, and the conditions of the run."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tools.random_test.raisable import RAISABLE

#: Seconds; many are equal on purpose, so that things happen at the same time.
TIMES = (0.0, 0.01, 0.01, 0.02, 0.02, 0.03, 0.05, 0.1)
#: How a stage ends whose body has returned. The first ones are the right way.
ENDINGS = ("ok", "mapping", "skip", "fail", "fail_retryable")
WRONG_ENDINGS = (
    "missing", "extra", "none", "dict", "text", "coroutine", "output_coroutine", "class",
    "odd_reason", "odd_keys",
)  # fmt: skip
#: Kinds of values that stages write.
VALUES = ("number", "text", "list", "none", "hostile", "lambda", "deep", "error", "nan")
CONDITIONS = (None, None, None, None, None, "true", "false", "raises", "odd", "base")
INTERCEPTORS = ("retry", "breaker", "timeout", "observer", "before_raises", "after_raises", "wraps")


class Act(NamedTuple):
    """One thing that a stage does; `parts` are the bodies that it contains."""

    kind: str
    value: Any = None
    parts: tuple[tuple[Act, ...], ...] = ()


Body = tuple[Act, ...]


@dataclass(frozen=True)
class StagePlan:
    """A stage: its definition, what it does, and how it ends."""

    name: str
    body: Body = ()
    ending: str = "ok"
    value: str = "number"
    dependencies: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    required: bool = True
    timeout_s: float | None = None
    condition: str | None = None
    provider: str | None = None
    form: str = "function"
    child: Plan | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs without which the stage is skipped: its parameters without a default."""
        return tuple(filter(str.isidentifier, self.inputs)) if self.form == "parameters" else ()


@dataclass(frozen=True)
class Plan:
    """A pipeline and the conditions of its run.

    Attributes:
        stages: The stages, each after those that it depends on.
        interceptors: Their names, the outermost first.
        deadline_s: Limit of the run.
        cancel: When the caller is cancelled: in seconds ("time") or turns of the loop ("turns").
        cancels: How many times, one after another.
        runs: How many runs of one orchestrator go on at once.
        store: The dead-letter store: none, one in memory, one that raises, or one that is slow.
    """

    stages: tuple[StagePlan, ...]
    interceptors: tuple[str, ...] = ()
    deadline_s: float | None = None
    cancel: tuple[str, float] | None = None
    cancels: int = 1
    runs: int = 1
    store: str | None = None


#: Acts without a part, and their weights.
_SIMPLE = {
    "sleep": 30, "turns": 12, "raise": 14, "stray": 2, "cancel_self": 2, "emit": 4, "look": 6,
    "variable": 4, "thread": 3, "forever": 3, "open": 2, "put": 8, "read": 8,
}  # fmt: skip
#: Acts with parts: their weights, how many parts, and what their value is drawn from.
_NESTED: dict[str, tuple[int, int, tuple[Any, ...]]] = {
    "first": (8, 1, (1, 1, 1, 2)),
    "timeout": (8, 1, TIMES),
    "wait_for": (5, 1, TIMES),
    "group": (8, 2, ("raise", "catch", "first")),
    "gather": (6, 2, (True, False)),
    "shield": (4, 1, ("cancel", "finish")),
    "spawn": (4, 1, (None,)),
    "lock": (4, 1, (None,)),
    "semaphore": (3, 1, (None,)),
    "swallow": (4, 1, (True, False)),
    "catch": (5, 1, (None,)),
    "finally": (7, 2, (None,)),
    "child": (3, 0, (None, None, 0.02, 0.05)),
    "run": (2, 0, (None, 0.03)),
}


class Draw:
    """Draws a plan from a seed.

    Args:
        seed: The same seed gives the same plan.
        without: Acts, errors and other features that no plan has.
    """

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self._random = random.Random(seed)
        self._without = without
        self._names = 0
        # What swallows a cancellation and then waits forever is the act "hang", and no accident.
        self._without |= {self._random.choice(("swallow", "forever"))}

    def plan(self, depth: int = 0) -> Plan:
        """Return a plan; one inside of a stage is smaller and has no conditions of its own."""
        chance = self._random.random
        stages: list[StagePlan] = []
        for _ in range(self._random.choice((1, 2, 2, 3, 3, 4, 5, 7) if not depth else (1, 1, 2))):
            stages.append(self._stage(stages, depth))
        interceptors: tuple[str, ...] = ()
        if chance() < 0.35:
            found = [name for name in INTERCEPTORS if name not in self._without]
            interceptors = tuple(self._random.sample(found, self._random.choice((1, 1, 2, 3))))
        plan = Plan(tuple(stages), interceptors)
        if depth:
            return plan
        deadline_s = self._random.choice(TIMES[1:]) * 2 if chance() < 0.25 else None
        cancel = None
        if chance() < 0.3:
            cancel = ("time", self._random.choice(TIMES))
            if chance() < 0.6:
                cancel = ("turns", self._random.choice((0, 1, 2, 3, 4, 5, 6, 8, 12, 20)))
        if deadline_s is None and uses(plan, "forever", "hang"):
            deadline_s = 0.3
        store = self._random.choice((None, None, "memory", "memory", "memory", "raises", "slow"))
        return dataclasses.replace(
            plan,
            deadline_s=deadline_s,
            cancel=cancel,
            cancels=self._random.choice((1, 1, 1, 2, 3)),
            runs=self._random.choice((1, 1, 1, 1, 2)),
            store=None if store in self._without else store,
        )

    def _stage(self, before: list[StagePlan], depth: int) -> StagePlan:
        chance, choice = self._random.random, self._random.choice
        self._names += 1
        name = choice(("s", "s-", "pipeline_", "T_")) + str(self._names)
        found = self._random.sample(before, min(len(before), choice((0, 1, 1, 2, 3))))
        seen: dict[str, None] = {}
        streamed: dict[str, None] = {}
        for one in found:
            if one.streams and chance() < 0.7:
                streamed.update(dict.fromkeys(one.streams))
                if chance() < 0.7:
                    continue
            seen.update(dict.fromkeys(key for key in one.outputs if chance() < 0.7))
        # Keys of many stages are names of parameters, and those of a few are not.
        separator, second = ("_", "b") if name.isidentifier() else (".", "b é")
        outputs = tuple(
            f"{name}{separator}{key}" for key in ("a", second)[: choice((0, 1, 1, 1, 2))]
        )
        streams: tuple[str, ...] = (
            (f"{name}{separator}s",) if chance() < 0.25 and "streams" not in self._without else ()
        )
        streams += (f"{name}{separator}t",) if streams and chance() < 0.15 else ()
        keys = (streams, tuple(streamed))
        opening = tuple(Act("open", (key, choice((1, 1, 2, 16)))) for key in streams)
        if chance() < 0.08:
            opening = opening[:-1]
        form, child = self._form(depth, name.isidentifier())
        if form == "subpipeline":
            outputs, streams, opening, streamed = (), (), (), {}
        condition = None if form == "subpipeline" else self._allowed(choice(CONDITIONS))
        body = self._body(2 if depth else 3, keys, child)
        if streams and chance() < 0.5:
            body = (Act("put", (streams[0], choice((1, 3, 5)))), *body)
        if streamed and chance() < 0.5:
            body = (Act("read", (next(iter(streamed)), choice((None, None, 1, 3)))), *body)
        last = self._random.choices((None, Act("hang"), Act("raise", "generator_exit")), (48, 1, 1))
        if last[0] is not None and not self._without & {last[0].kind, last[0].value}:
            body += (last[0],)
        ending = "ok"
        if chance() < 0.22:
            ending = choice(ENDINGS + ENDINGS + WRONG_ENDINGS)
        return StagePlan(
            name,
            opening + self._body(1, ((), ()), None) * (chance() < 0.2) + body,
            ending="ok" if ending in self._without else ending,
            value=choice(VALUES) if chance() < 0.3 else "number",
            dependencies=tuple(one.name for one in found),
            inputs=tuple(seen) + tuple(streamed),
            outputs=outputs,
            streams=streams,
            required=chance() < 0.65,
            timeout_s=choice(TIMES[1:]) if chance() < 0.25 else None,
            condition=condition,
            provider=choice((None, "svc", "svc", "other")),
            form=form,
            child=child,
        )

    def _form(self, depth: int, identifier: bool) -> tuple[str, Plan | None]:
        """Return how the stage is written, and what it runs inside."""
        chance = self._random.random()
        if identifier and chance > 0.7:
            # The keys that it reads are parameters: all of them required, or each with a default.
            return "parameters" if chance > 0.85 else "defaults", None
        if chance < 0.12 and depth < 2:
            return self._random.choice(("function", "subpipeline")), self.plan(depth + 1)
        return "object" if chance < 0.25 else "function", None

    def _allowed(self, word: str | None) -> str | None:
        return None if word in self._without else word

    def _body(
        self,
        depth: int,
        keys: tuple[tuple[str, ...], tuple[str, ...]],
        child: Plan | None,
        *,
        inside: str = "",
    ) -> Body:
        """Return some acts.

        Args:
            depth: How deep acts may be nested.
            keys: The streams that the stage writes, and those that it reads.
            child: The plan of a child run.
            inside: In which kind of act: a lock contains no lock, and a clean-up no act that
                waits for other stages, since that would be the plan's own deadlock.
        """
        written, read = keys
        acts: list[Act] = []
        for _ in range(self._random.choice((0, 1, 1, 2, 2, 3)[: 4 if inside else 6])):
            weights = dict(_SIMPLE) | {kind: row[0] for kind, row in _NESTED.items() if depth}
            banned = set(self._without)
            banned |= set() if written else {"put", "open"}
            banned |= set() if read else {"read"}
            banned |= set() if child else {"child", "run"}
            if inside:
                banned |= {"lock", "semaphore", "put", "read", "child", "run", "forever", "open"}
            if inside == "finally":
                banned |= {"swallow", "cancel_self"}
            kinds = [kind for kind in weights if kind not in banned]
            kind = self._random.choices(kinds, [weights[kind] for kind in kinds])[0]
            acts.append(self._act(kind, depth, keys, child, inside))
        return tuple(acts)

    def _act(
        self,
        kind: str,
        depth: int,
        keys: tuple[tuple[str, ...], tuple[str, ...]],
        child: Plan | None,
        inside: str,
    ) -> Act:
        choice = self._random.choice
        if kind in _NESTED:
            _, count, values = _NESTED[kind]
            value = choice([one for one in values if f"{kind} {one}" not in self._without])
            held = kind if kind in {"lock", "semaphore"} else inside
            if value == "finish":
                held = "finally"  # a clean-up waits for it
            parts = [self._body(depth - 1, keys, child, inside=held) for _ in range(count)]
            if kind == "finally":
                parts[1] = self._body(0, keys, None, inside="finally")
            return Act(kind, value, tuple(parts))
        if kind == "raise":
            # Where a task is awaited, it closes the stage, which then cannot wait any more.
            banned = self._without | {"generator_exit"}
            return Act(kind, choice([name for name in RAISABLE if name not in banned]))
        simple: dict[str, Sequence[Any]] = {
            "sleep": TIMES,
            "turns": (1, 1, 2, 3, 300),
            "open": [(key, 4) for key in keys[0]],
            "put": [(key, count) for key in keys[0] for count in (1, 2, 5)],
            "read": [(key, limit) for key in keys[1] for limit in (None, None, 1, 3)],
            "emit": ("note", "started", "completed", "odd word"),
        }
        return Act(kind, choice(simple[kind]) if kind in simple else None)


def acts_of(body: Body) -> Iterator[Act]:
    """Return all acts of a body, also those inside of others."""
    for act in body:
        yield act
        for part in act.parts:
            yield from acts_of(part)


def uses(plan: Plan, *kinds: str) -> bool:
    """Whether a stage of the plan, or of one inside of it, does one of these acts."""
    return any(
        any(act.kind in kinds for act in acts_of(stage.body))
        or (stage.child is not None and uses(stage.child, *kinds))
        for stage in plan.stages
    )


def smaller(plan: Plan) -> Iterator[Plan]:
    """Return plans that have a little less than this one."""
    for number, stage in enumerate(plan.stages):
        others = plan.stages[:number] + plan.stages[number + 1 :]
        gone = {*stage.outputs, *stage.streams}
        if others:
            yield dataclasses.replace(
                plan,
                stages=tuple(
                    dataclasses.replace(
                        one,
                        dependencies=tuple(name for name in one.dependencies if name != stage.name),
                        inputs=tuple(key for key in one.inputs if key not in gone),
                    )
                    for one in others
                ),
            )
        for less in _smaller_stage(stage):
            yield dataclasses.replace(
                plan, stages=(*plan.stages[:number], less, *plan.stages[number + 1 :])
            )
    plain = Plan(plan.stages)
    for field in ("deadline_s", "cancel", "cancels", "runs", "store"):
        if getattr(plan, field) != getattr(plain, field):
            yield dataclasses.replace(plan, **{field: getattr(plain, field)})
    for name in plan.interceptors:
        rest = tuple(one for one in plan.interceptors if one != name)
        yield dataclasses.replace(plan, interceptors=rest)


def _smaller_stage(stage: StagePlan) -> Iterator[StagePlan]:
    plain = StagePlan(stage.name)
    for field in (
        "ending", "value", "required", "timeout_s", "condition", "provider", "form", "child",
        "outputs", "inputs",
    ):  # fmt: skip
        if getattr(stage, field) != getattr(plain, field):
            yield dataclasses.replace(stage, **{field: getattr(plain, field)})
    for body in _smaller_body(stage.body):
        yield dataclasses.replace(stage, body=body)
    if stage.child:
        for child in smaller(stage.child):
            yield dataclasses.replace(stage, child=child)


def _smaller_body(body: Body) -> Iterator[Body]:
    for number, act in enumerate(body):
        before, after = body[:number], body[number + 1 :]
        yield before + after
        for part in act.parts:
            yield before + part + after
        for position, part in enumerate(act.parts):
            for less in _smaller_body(part):
                parts = (*act.parts[:position], less, *act.parts[position + 1 :])
                yield (*before, act._replace(parts=parts), *after)

"""The loop of a language model and its tools."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

from stageflow._utils.closing import closing_stream
from stageflow._utils.tasks import cancel_all, shielded
from stageflow.decorator import stage
from stageflow.engine import StageContext, StageKind, StageSpec
from stageflow.errors import NoAnswerError, StageDefectError, ToolError, did_you_mean
from stageflow.errors.base import described
from stageflow.kernels.history import Fitted
from stageflow.providers import ports
from stageflow.providers.registry import adapt
from stageflow.providers.tools import Tool, Toolbox
from stageflow.resilience import RetryPolicy, classify

Tools: TypeAlias = Toolbox | Iterable[Tool | Callable[..., Any]] | None

#: How many stages with settings of their own a kernel keeps, so that equal settings share one.
CACHED_STAGES = 64

#: Between what the model says before a call and after it.
_BREAK = "\n\n"


class Agent:
    """A language model that calls tools until it answers; used like a model without tools.

    The calls of one reply are made at once. Each is an event of the stage: ``tool_started``, then
    ``tool_completed``, ``tool_failed`` or ``tool_cancelled``, with its name, arguments, result and
    ``idempotency_key``. When the stage runs again, in a retry or a replay of the dead letter, a
    call that completed is not made again. The functions are methods of the provider ``tools``: a
    test may register another one, or inject faults.

    Args:
        ctx: The context of the stage.
        tools: The tools, or functions of which tools are made.
        model: The model; None takes the provider ``llm``.
        history_tokens: The most tokens of earlier messages to send; see `Fitted`.

    Raises:
        ToolError: The model cannot call tools.
    """

    def __init__(
        self,
        ctx: StageContext,
        tools: Toolbox | Iterable[Tool | Callable[..., Any]],
        model: Any = None,
        *,
        history_tokens: int | None = None,
    ) -> None:
        self._ctx = ctx
        self._tools = tools if isinstance(tools, Toolbox) else Toolbox(tools)
        model = ctx.llm if model is None else model
        ports.require_tools(model)
        self._model = Fitted(model, history_tokens)
        self._offered = [tool.to_dict() for tool in self._tools.values()]
        scope, self._path = ctx.scope, ctx.name
        while scope.context.parent is not None:
            self._path = f"{scope.context.parent_stage_id}/{self._path}"
            scope = scope.context.parent
        letter = scope.context.resumes
        self._run_id = scope.pipeline_run_id if letter is None else letter.pipeline_run_id
        events = [*(letter.events if letter is not None else ()), *ctx.scope.log]
        #: What completed before this attempt of the stage, by key.
        self._done: dict[str, str] = {
            event.data["idempotency_key"]: event.data["result"]
            for event in events
            if event.what == "tool_completed" and event.stage == ctx.name
        }
        self._made: Counter[str] = Counter()

    async def complete(self, messages: Sequence[ports.Message]) -> str:
        """Return the complete answer; raise what the model and the tools raise.

        Raises:
            ToolError: The model asked for too many calls.
            NoAnswerError: Its answer was cut within its calls.
        """
        said, asked = [], list(messages)
        for left in reversed(range(self._tools.max_rounds + 1)):
            answer = ports.valid_answer(await self._model.complete(asked, tools=self._offered))
            said.append(answer.strip() if getattr(answer, "tool_calls", ()) else answer)
            if not isinstance(answer, ports.Answer) or not answer.tool_calls:
                break
            asked += await self._results(answer, left)
        text = _BREAK.join(filter(None, said))
        return answer.with_text(text) if isinstance(answer, ports.Answer) else text

    async def stream(self, messages: Sequence[ports.Message]) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces; raise as `complete`."""
        asked, gap = list(messages), ""
        for left in reversed(range(self._tools.max_rounds + 1)):
            said, end = "", None
            async with closing_stream(self._model.stream(asked, tools=self._offered)) as pieces:
                async for piece in pieces:
                    end = piece if isinstance(piece, ports.Answer) else None
                    if piece:
                        yield gap + piece
                        said, gap = said + piece, ""
            if end is None or not end.tool_calls:
                if end is not None:
                    yield end.with_text("")
                return
            asked += await self._results(end.with_text(said), left)
            gap = _BREAK if said.strip() else gap

    async def _results(self, answer: ports.Answer, left: int) -> list[ports.Message]:
        """Make the calls of an answer concurrently; return answer and results as messages."""
        calls, limits = answer.tool_calls, self._tools
        if answer.cut:
            problem = f"it ended with {answer.finish_reason!r} within its tool calls"
            raise NoAnswerError(problem, answer.finish_reason)
        if not left or self._made.total() + len(calls) > limits.max_calls:
            most = f"{limits.max_rounds} rounds or {limits.max_calls} calls of tools"
            text = f"the language model asked for more than {most}; its last: {calls[0].name}"
            raise ToolError(text, code="too_many_tool_calls")
        tasks = [asyncio.ensure_future(self._result(call, self._key(call))) for call in calls]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            _, cancelled = await shielded(cancel_all(tasks))
        if cancelled:
            raise asyncio.CancelledError
        for error in [task.exception() for task in tasks if not task.cancelled()]:
            if error is not None:
                raise error
        results = zip(calls, [task.result() for task in tasks], strict=True)
        said = [
            ports.Message("tool", ports.ToolResult(result, call.id)) for call, result in results
        ]
        return [ports.Message("assistant", answer), *said]

    def _key(self, call: ports.ToolCall) -> str:
        """Return the key of a call, the same in each attempt of this turn."""
        try:
            arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            arguments = call.arguments
        text = f"{self._run_id}/{self._path}/{call.name}/{arguments}"
        self._made[text] += 1
        return hashlib.sha256(f"{text}/{self._made[text]}".encode()).hexdigest()[:32]

    async def _result(self, call: ports.ToolCall, key: str) -> str:
        """Return the result of a call, or what the model reads of its failure."""
        ctx, began = self._ctx, self._ctx.now()
        data = {"tool": call.name, "tool_call_id": call.id, "idempotency_key": key}
        if key in self._done:
            result = self._done[key]
            ctx.emit("tool_completed", **data, result=result, duration_ms=0.0, repeated=True)
            return result
        ctx.emit("tool_started", **data, arguments=call.arguments)
        tool = self._tools.get(call.name)
        try:
            if tool is None:
                hint = did_you_mean(call.name, self._tools)
                text = f"there is no tool {call.name!r}{hint or f'; use {list(self._tools)}'}"
                raise ToolError(text, code="unknown_tool")
            result = await self._tried(tool, tool.read(call.arguments), key)
        except BaseException as error:
            stray = isinstance(error, asyncio.CancelledError)
            if stray and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                ctx.emit("tool_cancelled", **data)
                raise
            failure = StageDefectError.stray_cancellation() if stray else classify(error)
            ctx.emit("tool_failed", **data, **described(failure))
            if not (stray or isinstance(error, Exception)) or (tool and tool.on_error == "fail"):
                error.add_note(f"in the tool {call.name!r}, called by the language model")
                raise
            # What other errors say may be secret.
            text = failure.message if isinstance(error, ToolError) else f"it failed: {failure.code}"
            return json.dumps({"error": text}, ensure_ascii=False)
        duration_ms = (ctx.now() - began) * 1000.0
        ctx.emit("tool_completed", **data, result=result, duration_ms=duration_ms)
        return result

    async def _tried(self, tool: Tool, arguments: dict[str, Any], key: str) -> str:
        """Return the result of a tool; try again as its policy says."""
        ctx, attempt = self._ctx, 1

        async def own(**arguments: Any) -> str:
            return await tool.call(arguments, ctx=ctx, idempotency_key=key)

        functions = SimpleNamespace(**{tool.name: own})
        provider = ctx.run.providers.get("tools") or adapt("tools", functions)
        while True:
            try:
                call = getattr(provider, tool.name)(**arguments)
                return tool.text(await _in_time(tool, call))
            except Exception as error:
                failure = classify(error)
                policy = tool.retry or RetryPolicy(attempts=1)
                delay_s = policy.delay_s(attempt, failure, ctx.random)
                if delay_s is None:
                    raise
                ctx.emit("tool_retrying", tool=tool.name, attempt=attempt, delay_ms=delay_s * 1e3)
            await asyncio.sleep(delay_s)
            attempt += 1


async def _in_time(tool: Tool, call: Awaitable[object]) -> object:
    try:
        async with asyncio.timeout(tool.timeout_s) as limit:
            return await call
    except Exception as error:
        if limit.expired():  # the tool may turn its cancellation into another error
            text = f"{tool.name} took longer than {tool.timeout_s:g} s"
            raise ToolError(text, code="tool_timeout") from error
        raise


def answering(
    ctx: StageContext, model: Any, history_tokens: int | None, tools: Toolbox | None
) -> Any:
    """Return what a kernel calls: the model with as much of the history as it takes."""
    if tools is None:
        return Fitted(model, history_tokens)
    return Agent(ctx, tools, model, history_tokens=history_tokens)


def model_stage(
    answer: Callable[..., Awaitable[str]],
    tools: Toolbox | None,
    *,
    timeout_s: float,
    streams: Sequence[str] = (),
) -> StageSpec:
    """Return the stage ``llm`` of a kernel; its time limit is that of the tools, if any."""
    limit_s = timeout_s if tools is None else tools.timeout_s
    kind = StageKind.AGENT
    made = stage(
        "llm", outputs=["answer"], streams=streams, kind=kind, timeout_s=limit_s, provider="llm"
    )
    return made(answer)

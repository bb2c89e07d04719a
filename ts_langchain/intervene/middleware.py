"""`TokenSentinelMiddleware`: steps in inside agents made by `create_agent`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired
from uuid import uuid4

try:
    from langchain.agents.middleware.types import AgentMiddleware, AgentState, ModelResponse, PrivateStateAttr
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain":
        raise
    msg = "TokenSentinelMiddleware needs langchain 1.0 or newer: pip install 'ts-langchain[agents]'"
    raise ModuleNotFoundError(msg, name="langchain") from None
from langgraph.config import get_config

from ts_langchain.errors import CallRefused
from ts_langchain.intervene import actions
from ts_langchain.intervene.core import (
    ALL_MODEL_ACTIONS,
    Here,
    Interventions,
    Turn,
    bound_of,
    describe_model,
    make_sentinel,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from langchain.agents.middleware.types import ModelRequest, ToolCallRequest
    from langchain_core.messages import AIMessage, ToolMessage
    from langgraph.types import Command

    from ts_langchain.capture.doors import Chosen
    from ts_langchain.governor import Admission
    from ts_langchain.policy import Policy
    from ts_langchain.sentinel import Sentinel


def _config() -> Mapping[str, Any]:
    """The config of the run around; empty outside of one."""
    try:
        return get_config()
    except RuntimeError:
        return {}


class SentinelState(AgentState[Any]):
    """Adds the name of the run to an agent's state; private, no input or output."""

    ts_langchain_run: NotRequired[Annotated[str, PrivateStateAttr]]


class _Prepared(NamedTuple):
    request: ModelRequest[Any]
    here: Here | None = None
    final: AIMessage | None = None
    wait: float = 0.0
    admission: Admission | None = None
    chosen: Chosen | None = None


class TokenSentinelMiddleware(AgentMiddleware[Any, Any, Any]):
    """Watches an agent, and carries out what the policy decides: before the next call is billed.

    Watches by itself; a `TokenSentinelHandler` of the same Sentinel in the callbacks does no harm: each call is
    recorded once. Notes and trimmed results go into the request only, the thread's state stays as it was.

    Args:
        sentinel: A Sentinel with a policy; a new one if left out.
        policy: For a new Sentinel: a `Policy`, a mapping, or the path of a YAML file. Left out:
            `Policy.recommended()`, enforced.
        models: Models for `downgrade`, by the names the policy uses. Others are made by `init_chat_model`.

    Raises:
        ConfigurationError: The policy is none, or was given twice, or the Sentinel has none.

    Example:
        >>> from langchain.agents import create_agent
        >>> from ts_langchain.testing import ScriptedChatModel
        >>> middleware = TokenSentinelMiddleware()
        >>> agent = create_agent(ScriptedChatModel(script=["done"]), [], middleware=[middleware])
        >>> agent.invoke({"messages": [("user", "hi")]})["messages"][-1].content
        'done'
        >>> middleware.sentinel.decisions()
        []
    """

    state_schema = SentinelState

    def __init__(
        self,
        sentinel: Sentinel | None = None,
        *,
        policy: Policy | Mapping[str, Any] | Path | str | None = None,
        models: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sentinel = make_sentinel(sentinel, policy)
        self.interventions = Interventions(self.sentinel, models)
        self.tools = []

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Names the run, which is the session where nothing else names one."""
        run = uuid4().hex
        with self.sentinel.faults.fail_open("middleware: labels"):
            around = getattr(_config().get("callbacks"), "parent_run_id", None)
            if self.interventions.handler.root_of(around) is None:  # else a handler keeps them, until the run ends
                self.sentinel.in_flight.label(run)
        return {"ts_langchain_run": run}

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """As `before_agent`."""
        return self.before_agent(state, runtime)

    def _here(self, state: Any) -> Here | None:
        run = state.get("ts_langchain_run") if isinstance(state, dict) else None
        try:
            return self.interventions.here(get_config(), run)
        except Exception as error:  # noqa: BLE001 - fails open
            self.sentinel.faults.record("middleware: where", error)
            return None

    # --- models ------------------------------------------------------------------------------------

    def _prepare(self, request: ModelRequest[Any]) -> _Prepared:
        """What is to be sent instead, how, and with which reservation."""
        here = self._here(request.state)
        if here is None:
            return _Prepared(request)
        name, provider = describe_model(request.model)
        turn = Turn(
            list(request.messages),
            list(request.tools),
            request.system_message,
            request.model,
            name,
            provider,
            bound_of(request.model_settings, request.model),
            forced=actions.forced_tool(request.tool_choice or request.model_settings.get("tool_choice")),
        )
        admission = self.interventions.prepare(here, turn, ALL_MODEL_ACTIONS)
        if turn.applied:
            changed: dict[str, Any] = {"messages": turn.messages, "tools": turn.tools, "model": turn.model}
            if turn.abroad:
                changed |= {
                    "system_message": turn.system,
                    "model_settings": actions.portable(request.model_settings),
                    "tool_choice": actions.portable_choice(request.tool_choice),
                }
            request = self.interventions.changed(turn, lambda: request.override(**changed), request)
        return _Prepared(request, here, turn.final, turn.wait, admission, turn.chosen())

    def _ready(self, request: ModelRequest[Any]) -> _Prepared:
        return self.interventions.safely("middleware: model", lambda: self._prepare(request), _Prepared(request))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Does to a model request what is due."""
        self.interventions.recall(_config())
        ready = self._ready(request)
        if ready.final is not None:
            return ModelResponse(result=[ready.final])
        try:
            with self.interventions.watching(ready.here), self.interventions.let_through(ready.admission, ready.chosen):
                if ready.wait:
                    time.sleep(ready.wait)
                return handler(ready.request)
        except CallRefused as refused:
            return ModelResponse(result=[self.interventions.stopped_inside(refused, ready.here, answers=True)])

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`."""
        await self.interventions.arecall(_config())
        ready = self._ready(request)
        if ready.final is not None:
            return ModelResponse(result=[ready.final])
        try:
            with self.interventions.watching(ready.here), self.interventions.let_through(ready.admission, ready.chosen):
                if ready.wait:
                    await asyncio.sleep(ready.wait)
                return await handler(ready.request)
        except CallRefused as refused:
            return ModelResponse(result=[self.interventions.stopped_inside(refused, ready.here, answers=True)])

    # --- tools -------------------------------------------------------------------------------------

    def _reuse(self, here: Here | None, request: ToolCallRequest) -> ToolMessage | None:
        if here is None:
            return None
        state = request.state
        messages = state.get("messages", ()) if isinstance(state, dict) else ()
        return self.interventions.reuse(here, request.tool_call, request.tool, messages)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Answers a tool call from an earlier result, or lets the tool run, and an agent in it as far as it may."""
        here = self._here(request.state)
        answer = self._reuse(here, request)
        if answer is not None:
            return answer
        try:
            with self.interventions.watching(here):
                return handler(request)
        except CallRefused as refused:
            return self._stopped(request, here, refused)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`."""
        here = self._here(request.state)
        answer = self._reuse(here, request)
        if answer is not None:
            return answer
        try:
            with self.interventions.watching(here):
                return await handler(request)
        except CallRefused as refused:
            return self._stopped(request, here, refused)

    def _stopped(self, request: ToolCallRequest, here: Here | None, refused: CallRefused) -> ToolMessage:
        said = self.interventions.stopped_inside(refused, here, answers=False)
        return actions.stopped(said, request.tool_call)

"""Guards for plain LangGraph: every node of a graph is watched, and what is due is done before it runs.

A node is guarded from outside: what it is given may be changed (a note at the end of `messages`, old tool results left
out), it may be held back (`backoff`, `pause`), answered for (`stop`, `reuse`) or refused (`block`). What only the model
call itself can do, `downgrade` and `prune_tools`, takes `guard_model`.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from contextlib import aclosing, closing, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from ts_langchain.errors import CallRefused
from ts_langchain.intervene import actions
from ts_langchain.intervene.core import Here, Interventions, Turn, make_sentinel
from ts_langchain.policy import ENDING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from langchain_core.messages import ToolCall

    from ts_langchain.governor import Admission
    from ts_langchain.policy import Policy
    from ts_langchain.sentinel import Sentinel

G = TypeVar("G")
_END: Any = object()
READ = "__pregel_read"  # LangGraph's own key in `configurable`
HOOKED = "llm_input_messages"  # what the `pre_model_hook` of a prebuilt agent may have sent instead of the state's
NODE_ACTIONS = frozenset({"warn", "steer", "trim", "backoff", *ENDING})


def guard(
    graph: G,
    sentinel: Sentinel | None = None,
    *,
    policy: Policy | Mapping[str, Any] | Path | str | None = None,
) -> G:
    """Guards all nodes of a graph, its tool nodes and subgraphs, without editing them.

    Args:
        graph: A `StateGraph`, before or after `compile()`. It is not changed.
        sentinel: A Sentinel with a policy; a new one if left out.
        policy: For a new Sentinel; left out: `Policy.recommended()`, enforced.

    Returns:
        The same kind of graph, guarded. State keys other than `messages` pass through untouched.

    Raises:
        ConfigurationError: The policy is none, or was given twice, or the Sentinel has none.
        TypeError: It is no graph.
    """
    interventions = Interventions(make_sentinel(sentinel, policy))
    if isinstance(graph, StateGraph):
        guarded = copy.copy(graph)
        compile_ = graph.compile

        def compile_guarded(*args: Any, **kwargs: Any) -> Any:
            return _guard_compiled(compile_(*args, **kwargs), interventions)

        guarded.compile = compile_guarded  # type: ignore[method-assign]
        return cast("G", guarded)
    if isinstance(graph, CompiledStateGraph):
        return cast("G", _guard_compiled(graph, interventions))
    kind = type(graph).__name__
    msg = f"guard takes a StateGraph, compiled or not, got {kind}; elsewhere guard the model with guard_model"
    raise TypeError(msg)


def _guard_compiled(graph: Any, interventions: Interventions) -> Any:
    nodes = {
        name: node if name.startswith("__") else _guard_pregel_node(name, node, interventions)
        for name, node in graph.nodes.items()
    }
    return graph.copy({"nodes": nodes}).with_config(callbacks=[interventions.handler])


def _guard_pregel_node(name: str, node: Any, interventions: Interventions) -> Any:
    bound = node.bound
    if isinstance(bound, Pregel):
        return node.copy({"bound": _guard_compiled(bound, interventions)})
    return node.copy({"bound": GuardedNode(bound, interventions, name)})


def guard_node(
    sentinel: Sentinel | None = None, *, policy: Policy | Mapping[str, Any] | Path | str | None = None
) -> Callable[[Any], GuardedNode]:
    """Guards one node: a decorator for its function, or a wrapper of a Runnable.

    Example:
        >>> from ts_langchain import Policy, Sentinel
        >>> @guard_node(Sentinel(policy=Policy.recommended().enforced()))
        ... def think(state):
        ...     return {"messages": []}
        >>> think.invoke({"messages": []})
        {'messages': []}
    """
    interventions = Interventions(make_sentinel(sentinel, policy))

    def decorate(node: Any) -> GuardedNode:
        runnable = node if isinstance(node, Runnable) else RunnableLambda(node)
        return GuardedNode(runnable, interventions, getattr(node, "__name__", None))

    return decorate


class GuardedNode(Runnable[Any, Any]):
    """A node with a guard in front of it."""

    def __init__(self, inner: Runnable[Any, Any], interventions: Interventions, name: str | None = None) -> None:
        self.inner = inner
        self.interventions = interventions
        self.name = name or inner.get_name()
        # LangGraph keeps a node's cached results under the name of its function
        function = getattr(inner, "func", None) or inner
        self.__qualname__ = getattr(function, "__qualname__", None)
        self.__module__ = function.__module__

    @property
    def sentinel(self) -> Sentinel:
        """The Sentinel that watches."""
        return self.interventions.sentinel

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's
        """Runs the node, unless what is due is something else."""
        config = ensure_config(config)
        self.interventions.recall(config)
        ready = self._ready(input, config)
        if ready.answer is not None:
            return ready.answer
        try:
            with self.interventions.watching(ready.here), self.interventions.let_through(ready.admission):
                if ready.wait:
                    time.sleep(ready.wait)
                return _with_reused(self.inner.invoke(ready.input, config, **kwargs), ready.reused)
        except CallRefused as refused:
            return _with_reused(self._stopped(ready, refused), ready.reused)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As `invoke`."""
        config = ensure_config(config)
        await self.interventions.arecall(config)
        ready = self._ready(input, config)
        if ready.answer is not None:
            return ready.answer
        try:
            with self.interventions.watching(ready.here), self.interventions.let_through(ready.admission):
                if ready.wait:
                    await asyncio.sleep(ready.wait)
                return _with_reused(await self.inner.ainvoke(ready.input, config, **kwargs), ready.reused)
        except CallRefused as refused:
            return _with_reused(self._stopped(ready, refused), ready.reused)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """As `invoke`, in pieces where the node gives them."""
        config = ensure_config(config)
        self.interventions.recall(config)
        ready = self._ready(input, config)
        if ready.answer is not None:
            yield ready.answer
            return
        admission, piece, ended = ready.admission, None, False
        pieces: Any = iter(self.inner.stream(ready.input, config, **kwargs))
        with closing(pieces) if hasattr(pieces, "close") else nullcontext():
            while not (ended or piece is _END):
                try:
                    # what is taken for a piece is not left in the reader's context
                    with self.interventions.watching(ready.here), self.interventions.let_through(admission):
                        if ready.wait:
                            time.sleep(ready.wait)
                        piece = next(pieces, _END)
                except CallRefused as refused:
                    piece, ended = self._stopped(ready, refused), True
                if piece is not _END:
                    yield _with_reused(piece, ready.reused)
                admission, ready.wait, ready.reused = None, 0.0, []

    async def astream(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As `stream`. LangGraph asks for pieces where somebody looks at events (`astream_events`, `astream_log`)."""
        config = ensure_config(config)
        await self.interventions.arecall(config)
        ready = self._ready(input, config)
        if ready.answer is not None:
            yield ready.answer
            return
        admission, piece, ended = ready.admission, None, False
        pieces: Any = aiter(self.inner.astream(ready.input, config, **kwargs))
        async with aclosing(pieces) if hasattr(pieces, "aclose") else nullcontext():
            while not (ended or piece is _END):
                try:
                    with self.interventions.watching(ready.here), self.interventions.let_through(admission):
                        if ready.wait:
                            await asyncio.sleep(ready.wait)
                        piece = await anext(pieces, _END)
                except CallRefused as refused:
                    piece, ended = self._stopped(ready, refused), True
                if piece is not _END:
                    yield _with_reused(piece, ready.reused)
                admission, ready.wait, ready.reused = None, 0.0, []

    def _stopped(self, ready: _Ready, refused: CallRefused) -> Any:
        """What the node returns where an agent inside it was held back."""
        calls = _calls_for(ready.input)
        said = self.interventions.stopped_inside(refused, ready.here, answers=not calls)
        return _update(ready.input, [actions.stopped(said, call) for call in calls] or [said])

    def _ready(self, state: Any, config: RunnableConfig) -> _Ready:
        return self.interventions.safely("guard: node", lambda: self._prepare(state, config), _Ready(state))

    def _prepare(self, state: Any, config: RunnableConfig) -> _Ready:
        here = self.interventions.here(config)
        ready = _Ready(state, here)
        calls = _calls_for(state)
        if calls:
            self._reuse(ready, here, calls, config)
            return ready
        key = _request_key(state)
        messages = _messages_of(state, key)
        if not messages:
            return ready
        called = self.interventions.called_by(here.node or self.name or "")
        if called is None and not self.interventions.recalls(here):
            return ready
        turn = Turn(messages)
        if called is not None:
            turn.model_name, turn.provider = called.model, called.provider
            turn.max_tokens, turn.toolset = called.max_tokens, called.toolset
        ready.admission = self.interventions.prepare(here, turn, NODE_ACTIONS, last_door=False)
        ready.wait = turn.wait
        if turn.final is not None:
            ready.answer = _update(state, [turn.final])
        elif turn.applied:
            ready.input = self.interventions.changed(turn, lambda: _with_messages(state, turn.messages, key), state)
        return ready

    def _reuse(self, ready: _Ready, here: Here, calls: Sequence[ToolCall], config: RunnableConfig) -> None:
        """Answers what can be answered from earlier results, and leaves the rest to the node."""
        sent = _sent(ready.input)
        messages = _messages_around(ready.input, config) if sent else _messages_of(ready.input)
        answers: list[ToolMessage] = []
        left = []
        for call in calls:
            tool = getattr(self.inner, "tools_by_name", {}).get(call["name"])
            answer = self.interventions.reuse(here, cast("dict[str, Any]", call), tool, messages)
            if answer is None:
                left.append(call)
            else:
                answers.append(answer)
        if not answers:
            return
        ready.reused = answers
        if left and sent:
            ready.input = left
        elif left:
            rest = messages[-1].model_copy(update={"tool_calls": left})
            ready.input = _with_messages(ready.input, [*messages[:-1], rest])
        else:
            ready.answer = _update(ready.input, answers)


@dataclasses.dataclass
class _Ready:
    """What a guarded node is to do."""

    input: Any
    here: Here | None = None
    wait: float = 0.0
    answer: Any = None
    admission: Admission | None = None
    reused: list[ToolMessage] = dataclasses.field(default_factory=list)


def _request_key(state: Any) -> str:
    """Where a node's input holds what is to be sent: a `pre_model_hook` may put that beside the `messages`."""
    return HOOKED if _messages_of(state, HOOKED) and not isinstance(state, list) else "messages"


def _messages_of(state: Any, key: str = "messages") -> list[BaseMessage]:
    """The messages in a node's input: a list of them, or those under a key of a dict, dataclass or pydantic model."""
    found = state if isinstance(state, list) else None
    if found is None:
        found = state.get(key) if isinstance(state, dict) else getattr(state, key, None)
    return [m for m in found if isinstance(m, BaseMessage)] if isinstance(found, list) else []


def _calls_for(state: Any) -> Sequence[ToolCall]:
    """The tool calls that a node is to answer: those it was sent, or those its last message asks for."""
    sent = _sent(state)
    if sent:
        return sent
    messages = _messages_of(state)
    return messages[-1].tool_calls if messages and isinstance(messages[-1], AIMessage) else ()


def _sent(state: Any) -> Sequence[ToolCall]:
    """Tool calls that are all a node is given: agents made by `create_agent` send each to a task of its own."""
    if isinstance(state, dict) and state.get("__type") == "tool_call_with_context":
        return [state["tool_call"]]
    if isinstance(state, list) and state and all(isinstance(c, dict) and c.get("type") == "tool_call" for c in state):
        return state
    return ()


def _messages_around(state: Any, config: RunnableConfig) -> list[BaseMessage]:
    """The conversation around tool calls that were sent to a node: given with them, or read from the graph."""
    if isinstance(state, dict):
        return _messages_of(state.get("state"))
    read = (config.get("configurable") or {}).get(READ)
    with suppress(KeyError):  # its messages have another name
        return _messages_of(read("messages")) if read is not None else []
    return []


def _with_messages(state: Any, messages: Sequence[BaseMessage], key: str = "messages") -> Any:
    """A node's input with other messages; the input itself stays as it is."""
    if isinstance(state, list):
        return list(messages)
    if isinstance(state, dict):
        return {**state, key: list(messages)}
    if hasattr(state, "model_copy"):
        return state.model_copy(update={key: list(messages)})
    return dataclasses.replace(state, **{key: list(messages)})


def _update(state: Any, messages: Sequence[BaseMessage]) -> Any:
    """What a node returns to add messages to its state."""
    return list(messages) if isinstance(state, list) and not _sent(state) else {"messages": list(messages)}


def _with_reused(output: Any, reused: Sequence[ToolMessage]) -> Any:
    """A tool node's output together with the answers that were reused."""
    if not reused:
        return output
    if isinstance(output, dict) and isinstance(output.get("messages"), list):
        return {**output, "messages": [*reused, *output["messages"]]}
    if isinstance(output, list):
        return [*reused, *output] if _plain(output) else [{"messages": list(reused)}, *output]
    return [{"messages": list(reused)}, output]


def _plain(output: Sequence[Any]) -> bool:
    return all(isinstance(m, BaseMessage) for m in output)

"""`TokenSentinelHandler`: LangChain's callbacks in, `Call`s out.

The hooks about models, tools and retrievers are in `hooks/`; here are those about what is around them, and what
middleware, guards and replay ask of a handler.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ts_langchain.capture.continued import family_of
from ts_langchain.capture.errors import error_name
from ts_langchain.capture.hooks.base import fail_open
from ts_langchain.capture.hooks.models import ModelHooks
from ts_langchain.capture.hooks.retrievers import RetrieverHooks
from ts_langchain.capture.hooks.tools import ToolHooks
from ts_langchain.capture.in_flight import Reported, Started
from ts_langchain.capture.memory import Memory
from ts_langchain.capture.messages import as_recorded, is_mapping, request_messages
from ts_langchain.capture.tools import read_tool_output
from ts_langchain.fingerprint import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from ts_langchain.capture.in_flight import Origin

MAX_ROOTS = 100_000


class TokenSentinelHandler(ModelHooks, ToolHooks, RetrieverHooks):
    """Watches every model, tool and retriever call of a LangChain or LangGraph app.

    Works for sync, async, batch and streaming, from one handler shared by all threads, tasks and users.

    Args:
        sentinel: The `Sentinel` to feed; a new one with default rules if left out.
        mode: `observe` only watches. `block` also vetoes: while a severe incident is open in a run, the run's next
            model call raises `WasteBlocked` before anything is sent to the provider.
        session_id: The conversation all calls belong to. Leave it out where several users share a handler:
            then it is taken from `sentinel.session(...)`, from the config's metadata or configurable
            (`session_id`, `thread_id`, `conversation_id`), or is the id of the outermost run.
        clock: Where event time comes from, seconds since the epoch.

    Raises:
        ConfigurationError: `mode` is neither `observe` nor `block`, or `sentinel` is no Sentinel.

    Example:
        >>> handler = TokenSentinelHandler()
        >>> # agent.invoke(..., config={"callbacks": [handler]})
        >>> handler.sentinel.incidents()
        []
    """

    # --- chains ------------------------------------------------------------------------------------

    @fail_open
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Remembers the outermost run of each chain, which is the session where nothing else names one.

        A decision model (langchain-core 1.8) is a chain to its callbacks, and a billed call all the same.
        """
        if kwargs.get("run_type") == "llm":
            asked = self._readable("prompt", request_messages, inputs if is_mapping(inputs) else {"input": inputs})
            self.on_chat_model_start(serialized, [asked or ()], run_id=run_id, parent_run_id=parent_run_id, **kwargs)
            return
        roots = self._roots
        if parent_run_id is None:
            roots[run_id] = root_id = str(run_id)
            self.sentinel.in_flight.label(root_id)
        else:
            roots[run_id] = roots.get(parent_run_id) or self._root_above(parent_run_id)
        if len(roots) > MAX_ROOTS:  # runs that never ended; the oldest go first
            roots.pop(next(iter(roots)), None)

    @fail_open
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Forgets the chain."""
        if run_id in self._started:
            self._decided(run_id, outputs)
        self._roots.pop(run_id, None)
        self._answered.pop(run_id, None)
        if self._labelled:
            self._labelled.pop(str(run_id), None)

    @fail_open
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forgets the chain. An interrupt is no error, and what else broke is not ours to judge."""
        if run_id in self._started:
            self._model_end(run_id, None, error_name(error))
        self._lose(run_id, error)
        if isinstance(error, asyncio.CancelledError):
            self.sentinel.in_flight.leave(run_id)
            self.cancelled(self._below(run_id), error)
        else:
            if not isinstance(error, Exception):
                self.broke(self._below(run_id), error)
            self._roots.pop(run_id, None)
            if self._labelled:
                self._labelled.pop(str(run_id), None)

    def _decided(self, run_id: Any, response: Any) -> None:
        """A decision model answered."""
        usage = self._readable("usage", getattr, response, "usage", None)
        if usage is not None:
            self._reported.setdefault(run_id, Reported(usage, None))
        if not is_mapping(response):
            response = {"output": self._readable("answer", as_recorded, response)}
        self._model_end(run_id, response, None)

    # --- what the doors around a call ask ----------------------------------------------------------

    def root_of(self, run_id: Any) -> str | None:
        """The outermost run that a run belongs to, None where nobody has seen it begin."""
        return self._roots.get(run_id)

    def origin(
        self,
        parent_run_id: Any,
        metadata: Mapping[str, object],
        tags: Sequence[str] | None,
        configured: Mapping[str, object],
    ) -> Origin:
        """Where a call made under this parent, with these parts of its config, would come from."""
        return self._origin(parent_run_id, parent_run_id, metadata, tags, configured)

    def goes_on_with(
        self,
        parent_run_id: Any,
        messages: Sequence[object],
        user_id: str | None,
        model: str | None,
        previous: str | None = None,
    ) -> str | None:
        """The conversation that a request without a name goes on with, None if it begins one."""
        placed = self._continued.of_run(self._run_around(parent_run_id)) if parent_run_id is not None else None
        return placed or self._continued.look(messages, (user_id, family_of(model)), self.clock(), previous)

    def in_turn(self, origin: Origin, conversation: str | None, messages: Sequence[object]) -> Origin:
        """The origin of a request that no graph makes, in this conversation and the turn that it goes on with."""
        if conversation is not None:
            origin = origin._replace(session_id=conversation)
        session = self.sentinel.get(origin.session_id)
        with session.lock:
            self.sentinel.rest(session.state, self.clock())
            turn = Memory.of(session.state).turn_behind(messages)
        return origin if turn is None else origin._replace(root_id=turn.root_id)

    def reused(self, origin: Origin, call: Mapping[str, Any], earlier: object) -> None:
        """A middleware answered a tool call from an earlier result: for the rules it is one more identical call."""
        read, at = read_tool_output(earlier), self.clock()
        name, call_id = str(call["name"]), str(call["id"])
        started = Started("tool", origin, at, name, args=arguments(call["args"]), tool_call_id=call_id)
        self._tool_end(started, f"reused-{call_id}", read._replace(read=None))

    # --- what a replay tells -----------------------------------------------------------------------

    def adopt(self, run_id: str, root_id: str) -> None:
        """Tells beforehand which outermost run a run belongs to. For replay, where chains may be missing."""
        self._roots[run_id] = root_id

    def release(self, run_id: str) -> None:
        """Forgets a run that was adopted."""
        self._roots.pop(run_id, None)

    def pending(self) -> Mapping[Any, Started]:
        """Calls that have begun and not ended, by run id; they hold no content."""
        return self._started

    def resume(self, pending: Mapping[Any, Started]) -> None:
        """Takes over the `pending` calls of a handler that is gone."""
        self._started.clear()
        self._started.update(pending)

    def report(self, run_id: str, reported: Reported) -> None:
        """Tells what a history's source says of a call before it ends. For replay."""
        self._reported[run_id] = reported

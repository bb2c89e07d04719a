"""`guard_model`: the guard around a chat model, for code that calls models itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, closing, nullcontext
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableWithFallbacks
from langchain_core.runnables.config import ensure_config

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
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel

    from ts_langchain.governor import Admission
    from ts_langchain.policy import Policy
    from ts_langchain.sentinel import Sentinel

_END: Any = object()


def guard_model(
    model: BaseChatModel,
    sentinel: Sentinel | None = None,
    *,
    policy: Policy | Mapping[str, Any] | Path | str | None = None,
    models: Mapping[str, Any] | None = None,
) -> GuardedModel:
    """A chat model with a guard in front: steers, trims, downgrades, prunes tools, waits, stops, holds budgets.

    Bind tools to the guarded model, not before: `guard_model(model).bind_tools(tools)`.

    Args:
        model: The model.
        sentinel: A Sentinel with a policy; a new one if left out. Share it with `guard` for a graph.
        policy: For a new Sentinel; left out: `Policy.recommended()`, enforced.
        models: Models for `downgrade`, by the names the policy uses.

    Raises:
        ConfigurationError: The policy is none, or was given twice, or the Sentinel has none.
        TypeError: It is no chat model, but a chain or what is around a model, of which nobody can tell the request.

    Example:
        >>> from ts_langchain.testing import ScriptedChatModel
        >>> guard_model(ScriptedChatModel(script=["yes"])).invoke("well?").content
        'yes'
    """
    _check(model)
    return GuardedModel(model, Interventions(make_sentinel(sentinel, policy), models))


def _check(model: Any) -> None:
    """Raises if it is nothing whose request could be told before it is sent."""
    several = isinstance(model, RunnableWithFallbacks)  # which one answers is told too late
    if isinstance(model, type) or several or not hasattr(model, "_convert_input"):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        like = "guard_model(a).with_fallbacks([guard_model(b)])" if several else "guard_model(model).with_retry()"
        msg = (
            f"guard_model takes a chat model, got {kind}; what is around a model (with_retry, fallbacks, a prompt, "
            f"another guard) goes around the guarded one: {like}"
        )
        raise TypeError(msg)


class _Guarded(Runnable[Any, Any]):
    """A runnable that calls a model, with a guard in front of it."""

    def __init__(
        self,
        model: BaseChatModel,
        interventions: Interventions,
        tools: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.interventions = interventions
        self._tools = list(tools)
        self._kwargs = dict(kwargs or {})
        self._bound = self._bind(model, self._tools)

    @property
    def sentinel(self) -> Sentinel:
        """The Sentinel that watches."""
        return self.interventions.sentinel

    def _bind(self, model: Any, tools: Sequence[Any], *, abroad: bool = False) -> Runnable[Any, Any]:
        """What is called, with this model, of another provider where it is `abroad`, and these tools."""
        raise NotImplementedError

    def _parameters(self) -> Mapping[str, Any]:
        """The parameters of each request."""
        return self._kwargs

    def _said(self, final: AIMessage) -> Any:
        """What is answered where nothing is sent."""
        return final

    def _streamed(self, final: AIMessage) -> Any:
        """The same as the only piece of a stream."""
        return AIMessageChunk(content=final.content, response_metadata=final.response_metadata)

    def _placed(self, config: RunnableConfig) -> tuple[RunnableConfig, str | None]:
        """The config for what is called, and the id of the run that it will be, where that is the outermost one."""
        return config, None

    # --- calling -----------------------------------------------------------------------------------

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Calls the model, unless what is due is something else."""
        config = ensure_config(config)
        self.interventions.recall(config)
        call = self._prepare(input, config, kwargs)
        if call.final is not None:
            return self._said(call.final)
        with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
            if call.wait:
                time.sleep(call.wait)
            return call.runnable.invoke(call.input, call.config, **call.kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As `invoke`."""
        config = ensure_config(config)
        await self.interventions.arecall(config)
        call = self._prepare(input, config, kwargs)
        if call.final is not None:
            return self._said(call.final)
        with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
            if call.wait:
                await asyncio.sleep(call.wait)
            return await call.runnable.ainvoke(call.input, call.config, **call.kwargs)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """As `invoke`, in pieces."""
        config = ensure_config(config)
        self.interventions.recall(config)
        call = self._prepare(input, config, kwargs)
        if call.final is not None:
            yield self._streamed(call.final)
            return
        chunks: Any = iter(call.runnable.stream(call.input, call.config, **call.kwargs))
        with closing(chunks) if hasattr(chunks, "close") else nullcontext():
            # the call is made, and seen, at the first piece; what it takes is not left in the reader's context
            with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
                if call.wait:
                    time.sleep(call.wait)
                first = next(chunks, _END)
            if first is not _END:
                yield first
                yield from chunks

    async def astream(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As `invoke`, in pieces."""
        config = ensure_config(config)
        await self.interventions.arecall(config)
        call = self._prepare(input, config, kwargs)
        if call.final is not None:
            yield self._streamed(call.final)
            return
        chunks: Any = aiter(call.runnable.astream(call.input, call.config, **call.kwargs))
        async with aclosing(chunks) if hasattr(chunks, "aclose") else nullcontext():
            with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
                if call.wait:
                    await asyncio.sleep(call.wait)
                first = await anext(chunks, _END)
            if first is not _END:
                yield first
                async for chunk in chunks:
                    yield chunk

    def _prepare(self, given: Any, config: RunnableConfig, kwargs: Mapping[str, Any]) -> _Call:
        untouched = _Call(self._bound, given, config, kwargs)
        return self.interventions.safely("guard: model", lambda: self._guard(given, config, kwargs), untouched)

    def _guard(self, given: Any, config: RunnableConfig, kwargs: Mapping[str, Any]) -> _Call:
        config, run_key = self._placed(config)
        call = _Call(self._bound, given, config, kwargs)
        messages = self.model._convert_input(given).to_messages()  # noqa: SLF001 - what `invoke` itself does
        name, provider = describe_model(self.model)
        params = {**self._parameters(), **kwargs}
        previous = params.get("previous_response_id")
        turn = Turn(
            messages,
            self._tools,
            None,
            self.model,
            name,
            provider,
            bound_of(params, self.model),
            forced=actions.forced_tool(params.get("tool_choice")),
            previous=previous if isinstance(previous, str) else None,
        )
        call.here = here = self.interventions.here(config, run_key, turn)
        call.admission = self.interventions.prepare(here, turn, ALL_MODEL_ACTIONS)
        call.final, call.wait = turn.final, turn.wait
        if turn.applied:
            unchanged = call.runnable, call.input
            call.runnable, call.input = self.interventions.changed(turn, lambda: self._changed(turn), unchanged)
            if turn.abroad and call.runnable is not self._bound:
                call.kwargs = actions.portable(kwargs)
        return call

    def _changed(self, turn: Turn) -> tuple[Runnable[Any, Any], Any]:
        """What is called instead, and with what."""
        same = turn.model is self.model and turn.tools is self._tools
        bound = self._bound if same else self._bind(turn.model, turn.tools or (), abroad=turn.abroad)
        return bound, turn.messages


class GuardedModel(_Guarded):
    """A chat model with a guard in front of it. Made by `guard_model`."""

    def __init__(
        self,
        model: BaseChatModel,
        interventions: Interventions,
        tools: Sequence[Any] = (),
        tool_kwargs: Mapping[str, Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._tool_kwargs = dict(tool_kwargs or {})
        super().__init__(model, interventions, tools, kwargs)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> GuardedModel:
        """The same model with tools, guarded."""
        return GuardedModel(self.model, self.interventions, tools, kwargs, self._kwargs)

    def bind(self, **kwargs: Any) -> GuardedModel:
        """The same model with parameters, guarded."""
        merged = {**self._kwargs, **kwargs}
        return GuardedModel(self.model, self.interventions, self._tools, self._tool_kwargs, merged)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
        """As the model does it, guarded. After a `stop` there is no structured answer: None."""
        return _Structured(self.model, self.interventions, schema, kwargs)

    def _parameters(self) -> Mapping[str, Any]:
        return {**self._tool_kwargs, **self._kwargs}

    def _bind(self, model: Any, tools: Sequence[Any], *, abroad: bool = False) -> Runnable[Any, Any]:
        of_tools, own = self._tool_kwargs, self._kwargs
        if abroad:
            of_tools, own = actions.portable(of_tools), actions.portable(own)
        bound = model.bind_tools(tools, **of_tools) if tools else model
        return cast("Runnable[Any, Any]", bound.bind(**own) if own else bound)


class _Structured(_Guarded):
    """A chat model that answers in a schema, the parsing included, with a guard in front of it."""

    def __init__(
        self, model: BaseChatModel, interventions: Interventions, schema: Any, kwargs: Mapping[str, Any]
    ) -> None:
        self._schema = schema
        super().__init__(model, interventions, (), kwargs)

    def _bind(
        self,
        model: Any,
        tools: Sequence[Any],  # noqa: ARG002 - the schema is all
        *,
        abroad: bool = False,  # noqa: ARG002
    ) -> Runnable[Any, Any]:
        return cast("Runnable[Any, Any]", model.with_structured_output(self._schema, **self._kwargs))

    def _said(self, final: AIMessage) -> Any:
        return {"raw": final, "parsed": None, "parsing_error": None} if self._kwargs.get("include_raw") else None

    def _streamed(self, final: AIMessage) -> Any:
        return self._said(final)

    def _placed(self, config: RunnableConfig) -> tuple[RunnableConfig, str | None]:
        if getattr(config.get("callbacks"), "parent_run_id", None) is not None:
            return config, None
        run_id = config.get("run_id") or uuid4()  # of the chain that the model and its parser are in
        return {**config, "run_id": run_id}, str(run_id)


class _Call:
    """A model call that is about to be made."""

    __slots__ = ("admission", "config", "final", "here", "input", "kwargs", "runnable", "wait")

    def __init__(
        self, runnable: Runnable[Any, Any], given: Any, config: RunnableConfig, kwargs: Mapping[str, Any]
    ) -> None:
        self.runnable = runnable
        self.input = given
        self.config = config
        self.kwargs = kwargs
        self.here: Here | None = None
        self.final: AIMessage | None = None
        self.wait = 0.0
        self.admission: Admission | None = None

"""`guard_model`: the guard around a chat model, for code that calls models itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, closing, nullcontext
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.config import ensure_config

from ts_langchain.intervene.core import ALL_MODEL_ACTIONS, Here, Interventions, Turn, describe_model, make_sentinel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel

    from ts_langchain.policy import Policy
    from ts_langchain.sentinel import Admission, Sentinel

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

    Example:
        >>> from ts_langchain.testing import ScriptedChatModel
        >>> guard_model(ScriptedChatModel(script=["yes"])).invoke("well?").content
        'yes'
    """
    return GuardedModel(model, Interventions(make_sentinel(sentinel, policy), models))


class GuardedModel(Runnable[Any, AIMessage]):
    """A chat model with a guard in front of it. Made by `guard_model`."""

    def __init__(
        self,
        model: BaseChatModel,
        interventions: Interventions,
        tools: Sequence[Any] = (),
        tool_kwargs: Mapping[str, Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.interventions = interventions
        self._tools = list(tools)
        self._tool_kwargs = dict(tool_kwargs or {})
        self._kwargs = dict(kwargs or {})
        self._bound = self._bind(model, self._tools)

    @property
    def sentinel(self) -> Sentinel:
        """The Sentinel that watches."""
        return self.interventions.sentinel

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> GuardedModel:
        """The same model with tools, guarded."""
        return GuardedModel(self.model, self.interventions, tools, kwargs, self._kwargs)

    def bind(self, **kwargs: Any) -> GuardedModel:
        """The same model with parameters, guarded."""
        merged = {**self._kwargs, **kwargs}
        return GuardedModel(self.model, self.interventions, self._tools, self._tool_kwargs, merged)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
        """As the model does it; the model call in it is guarded where the model puts it first."""
        chain = self.model.with_structured_output(schema, **kwargs)
        if not isinstance(chain, RunnableSequence):
            return chain
        first = _Guarded(chain.first, self)
        return cast("Runnable[Any, Any]", RunnableSequence(first, *chain.steps[1:]))

    def _bind(self, model: Any, tools: Sequence[Any]) -> Runnable[Any, Any]:
        bound = model.bind_tools(tools, **self._tool_kwargs) if tools else model
        return cast("Runnable[Any, Any]", bound.bind(**self._kwargs) if self._kwargs else bound)

    # --- calling -----------------------------------------------------------------------------------

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:  # noqa: A002
        """Calls the model, unless what is due is something else."""
        return cast("AIMessage", self._invoke(self._bound, input, config, kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:  # noqa: A002
        """As `invoke`."""
        return cast("AIMessage", await self._ainvoke(self._bound, input, config, kwargs))

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """As `invoke`, in pieces."""
        call = self._prepare(self._bound, input, config)
        if call.final is not None:
            yield AIMessageChunk(content=call.final.content, response_metadata=call.final.response_metadata)
            return
        if call.wait:
            time.sleep(call.wait)
        chunks: Any = iter(call.runnable.stream(call.input, call.config, **kwargs))
        with closing(chunks) if hasattr(chunks, "close") else nullcontext():
            # the call is made, and seen, at the first piece; what it takes is not left in the reader's context
            with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
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
        call = self._prepare(self._bound, input, config)
        if call.final is not None:
            yield AIMessageChunk(content=call.final.content, response_metadata=call.final.response_metadata)
            return
        if call.wait:
            await asyncio.sleep(call.wait)
        chunks: Any = aiter(call.runnable.astream(call.input, call.config, **kwargs))
        async with aclosing(chunks) if hasattr(chunks, "aclose") else nullcontext():
            with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
                first = await anext(chunks, _END)
            if first is not _END:
                yield first
                async for chunk in chunks:
                    yield chunk

    def _invoke(self, bound: Runnable[Any, Any], given: Any, config: RunnableConfig | None, kwargs: Any) -> Any:
        call = self._prepare(bound, given, config)
        if call.final is not None:
            return call.final
        if call.wait:
            time.sleep(call.wait)
        with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
            return call.runnable.invoke(call.input, call.config, **kwargs)

    async def _ainvoke(self, bound: Runnable[Any, Any], given: Any, config: RunnableConfig | None, kwargs: Any) -> Any:
        call = self._prepare(bound, given, config)
        if call.final is not None:
            return call.final
        if call.wait:
            await asyncio.sleep(call.wait)
        with self.interventions.watching(call.here), self.interventions.let_through(call.admission):
            return await call.runnable.ainvoke(call.input, call.config, **kwargs)

    def _prepare(self, bound: Runnable[Any, Any], given: Any, config: RunnableConfig | None) -> _Call:
        config = ensure_config(config)
        untouched = _Call(bound, given, config)
        return self.interventions.safely("guard: model", lambda: self._guard(bound, given, config), untouched)

    def _guard(self, bound: Runnable[Any, Any], given: Any, config: RunnableConfig) -> _Call:
        call = _Call(bound, given, config)
        messages = self.model._convert_input(given).to_messages()  # noqa: SLF001 - what `invoke` itself does
        name, provider = describe_model(self.model)
        max_tokens = self._kwargs.get("max_tokens") or getattr(self.model, "max_tokens", None)
        turn = Turn(
            messages,
            self._tools,
            None,
            self.model,
            name,
            provider,
            max_tokens if isinstance(max_tokens, int) else None,
        )
        call.here = here = self.interventions.here(config, turn=turn)
        call.admission = self.interventions.prepare(here, turn, ALL_MODEL_ACTIONS)
        call.final, call.wait = turn.final, turn.wait
        if turn.applied:
            call.input = turn.messages
            if turn.model is not self.model or turn.tools is not self._tools:
                call.runnable = self._bind(turn.model, turn.tools or ())
        return call


class _Guarded(Runnable[Any, Any]):
    """The model step inside a chain that the model built itself."""

    def __init__(self, inner: Runnable[Any, Any], guarded: GuardedModel) -> None:
        self.inner = inner
        self.guarded = guarded

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return self.guarded._invoke(self.inner, input, config, kwargs)  # noqa: SLF001

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return await self.guarded._ainvoke(self.inner, input, config, kwargs)  # noqa: SLF001


class _Call:
    """A model call that is about to be made."""

    __slots__ = ("admission", "config", "final", "here", "input", "runnable", "wait")

    def __init__(self, runnable: Runnable[Any, Any], given: Any, config: RunnableConfig) -> None:
        self.runnable = runnable
        self.input = given
        self.config = config
        self.here: Here | None = None
        self.final: AIMessage | None = None
        self.wait = 0.0
        self.admission: Admission | None = None

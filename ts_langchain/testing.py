"""A scripted chat model: real LangChain, no key, no network. Shared by tests, demo and examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from langchain_core.embeddings import Embeddings
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

from ts_langchain.call import Call
from ts_langchain.fingerprint import text_hash
from ts_langchain.sentinel import Sentinel
from ts_langchain.stored import dump_state, load_state

if TYPE_CHECKING:
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.runnables import Runnable

    from ts_langchain.rules.base import Rule

Step: TypeAlias = AIMessage | str | BaseException | Callable[[Sequence[BaseMessage]], AIMessage]

CHARS_PER_TOKEN = 4
MAX_STATE_BYTES = 16_384
MANY_CALLS = 3_000


class ScriptedChatModel(BaseChatModel):
    """A chat model that follows a script and counts what it would have billed.

    Each call takes the next step: a message or text to answer with, an exception to raise, or a function from
    the messages to an answer. The last step repeats for ever. Where a step has no usage, it is the number of
    characters by 4.

    Attributes:
        script: The steps.
        model_name: Name under which it is priced.
        provider: Provider it claims to be.
        calls: Requests that reached the model: what a provider would have billed.

    Example:
        >>> model = ScriptedChatModel(script=[AIMessage("yes"), AIMessage("no")])
        >>> model.invoke("well?").content, model.invoke("well?").content, model.calls
        ('yes', 'no', 2)
    """

    script: list[Any] = Field(min_length=1)
    model_name: str = "gpt-4o-2024-08-06"
    provider: str = "openai"
    temperature: float | None = None
    _calls: int = PrivateAttr(default=0)
    _name: str = PrivateAttr(default_factory=lambda: uuid4().hex[:8])
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def calls(self) -> int:
        """Requests that reached the model."""
        return self._calls

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model_name, "temperature": self.temperature}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider=self.provider, ls_model_name=self.model_name, ls_model_type="chat")

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Sends the tools along as an OpenAI-compatible model would."""
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools], **kwargs)

    def _next(self, messages: Sequence[BaseMessage]) -> AIMessage:
        with self._lock:
            number = self._calls
            self._calls += 1
        step = self.script[min(number, len(self.script) - 1)]
        if isinstance(step, BaseException):
            raise step
        given = step(messages) if callable(step) else step
        answer: AIMessage = AIMessage(given) if isinstance(given, str) else given
        usage = answer.usage_metadata or _usage(messages, answer)
        calls = [{**c, "id": f"call_{self._name}_{number}_{i}"} for i, c in enumerate(answer.tool_calls)]
        meta = {"model_name": self.model_name, "finish_reason": "tool_calls" if calls else "stop"}
        return answer.model_copy(
            update={
                "usage_metadata": usage,
                "tool_calls": calls,
                "response_metadata": {**meta, **answer.response_metadata},
                "id": f"scripted-{self._name}-{number}",
            }
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._next(messages)
        words = str(answer.content).split(" ") if answer.content else [""]
        for number, word in enumerate(words):
            last = number == len(words) - 1
            chunk = AIMessageChunk(
                content=word if last else word + " ",
                id=answer.id,
                tool_call_chunks=[
                    {
                        "name": c["name"],
                        "args": _dumps(c["args"]),
                        "id": c["id"],
                        "index": i,
                        "type": "tool_call_chunk",
                    }
                    for i, c in enumerate(answer.tool_calls)
                ]
                if last
                else [],
                usage_metadata=answer.usage_metadata if last else None,
                response_metadata=answer.response_metadata if last else {},
            )
            generation = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=generation)
            yield generation


def _dumps(value: object) -> str:
    import json

    return json.dumps(value)


def _usage(messages: Sequence[BaseMessage], answer: AIMessage) -> UsageMetadata:
    sent = sum(len(str(m.content)) for m in messages) // CHARS_PER_TOKEN + 1
    got = (len(str(answer.content)) + sum(len(str(c["args"])) for c in answer.tool_calls)) // CHARS_PER_TOKEN + 1
    return UsageMetadata(input_tokens=sent, output_tokens=got, total_tokens=sent + got)


def call_tool(name: str, **args: Any) -> AIMessage:
    """An answer that asks for one tool call."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "", "type": "tool_call"}])


class HashEmbeddings(Embeddings):
    """Embeddings made from a hash of the text: the same text gives the same vector.

    Args:
        size: Numbers in a vector.
        model: Name under which they are priced.
    """

    def __init__(self, size: int = 8, model: str = "text-embedding-3-small") -> None:
        self.size = size
        self.model = model
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        self.calls += 1
        return [[(text_hash(f"{i}{t}") % 2001) / 1000 - 1 for i in range(self.size)] for t in texts]

    def embed_query(self, text: str) -> list[float]:
        """A vector for the text."""
        return self.embed_documents([text])[0]


def check_rule(
    rule: type[Rule[Any]],
    *,
    fires: Sequence[Sequence[Call]],
    healthy: Sequence[Sequence[Call]],
    settings: Mapping[str, object] | None = None,
) -> None:
    """Checks that a rule of your own behaves as rules must.

    It fires on each session of `fires` and on none of `healthy`; its waste stays below the bill; its state survives
    being stored in the middle of a session with the same outcome; it stays small over thousands of calls; and calls
    with nothing in them do not break it.

    Args:
        rule: The rule's class.
        fires: Sessions, as calls in the order in which they ended, that it must report.
        healthy: Sessions it must leave alone.
        settings: `rule.param` to value.

    Raises:
        AssertionError: It does not; the message says in what.

    Example:
        >>> from ts_langchain.rules.tool_loop import ToolLoop
        >>> from ts_langchain.fingerprint import arguments
        >>> def fetch(n, answer):
        ...     return Call(f"c{n}", "tool", "s", "r", "fetch", 1.8e9 + n, 1.8e9 + n, answer=answer,
        ...                 arguments=arguments({"url": "a"}))
        >>> check_rule(ToolLoop, fires=[[fetch(n, 7) for n in range(3)]], healthy=[[fetch(n, n + 1) for n in range(3)]])
    """

    def found(calls: Sequence[Call], stored: bool = False) -> list[tuple[Any, ...]]:
        sentinel = Sentinel(rules=[rule], settings=settings)
        for number, call in enumerate(calls):
            if stored and number == len(calls) // 2:
                for state in sentinel.states():
                    state.rules = load_state(dump_state(state.rules), frozenset({rule.__module__}))
            sentinel.observe(call)
        faults = sentinel.health().faults
        assert not faults, f"{rule.name} raised: {dict(faults)}"
        for session in {c.session_id for c in calls}:
            totals, wasted = sentinel.totals(session), sum(i.wasted_nano for i in sentinel.incidents(session))
            assert totals is None or wasted <= totals.nano, f"{rule.name} says more was wasted than was billed"
        return [(i.id, i.severity, i.findings, i.calls, i.wasted_tokens) for i in sentinel.incidents()]

    for attribute in ("name", "specificity", "kinds", "suggestion"):
        assert hasattr(rule, attribute), f"{rule.__name__} has no {attribute}"
    for number, calls in enumerate(fires):
        assert found(calls), f"{rule.name} does not fire on session {number} of fires"
        assert found(calls) == found(calls, stored=True), f"{rule.name} forgets something when its state is stored"
    for number, calls in enumerate(healthy):
        assert not found(calls), f"{rule.name} fires on session {number} of healthy"
    given = [call for calls in (*fires, *healthy) for call in calls]
    sentinel = Sentinel(rules=[rule], settings=settings)
    for n in range(MANY_CALLS if given else 0):
        call, at = given[n % len(given)], 1.8e9 + n
        call = call._replace(id=f"many-{n}", session_id="one", request=call.request + n, answer=call.answer + n)
        sentinel.observe(call._replace(started_at=at, ended_at=at))
    sizes = [len(dump_state(s.rules)) for s in sentinel.states()]
    assert max(sizes, default=0) <= MAX_STATE_BYTES, f"{rule.name} keeps {max(sizes):,} bytes: its state is not bounded"
    found([Call(f"empty-{kind}", kind, "s", "r", "", 1.0, 1.0) for kind in sorted(rule.kinds)])

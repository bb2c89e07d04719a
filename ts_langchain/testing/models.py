"""A scripted chat model and embeddings: real LangChain, no key, no network. Shared by tests, demo and examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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

from ts_langchain.fingerprint import text_hash

if TYPE_CHECKING:
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.runnables import Runnable

Step: TypeAlias = AIMessage | str | BaseException | Callable[[Sequence[BaseMessage]], AIMessage]

CHARS_PER_TOKEN = 4


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


def call_tool(name: str, /, **args: Any) -> AIMessage:
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

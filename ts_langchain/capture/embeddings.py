"""Embeddings are not on LangChain's callback bus: a thin wrapper gives them the same capture."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_core.embeddings import Embeddings

from ts_langchain.call import Call, Usage
from ts_langchain.capture.answers import CHARS_PER_TOKEN
from ts_langchain.capture.context import as_id, current_labels, kept_tags
from ts_langchain.capture.errors import error_name
from ts_langchain.errors import ConfigurationError
from ts_langchain.fingerprint import mix, name_hash, text_hash
from ts_langchain.sentinel import as_sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_langchain.call import SourceCost
    from ts_langchain.sentinel import Sentinel


def embedding_call(
    texts: Sequence[str],
    *,
    call_id: str,
    session_id: str,
    root_id: str,
    name: str,
    model: str | None,
    provider: str | None,
    started_at: float,
    ended_at: float,
    error: str | None = None,
    usage: Usage | None = None,
    source_cost: SourceCost | None = None,
    tier: str | None = None,
    user_id: str | None = None,
    tags: tuple[str, ...] = (),
) -> Call:
    """The `Call` of one embedding request; its usage is estimated from the texts unless it is known."""
    items = tuple(text_hash(t) for t in texts)
    sizes = tuple(max(1, -(-len(t) // CHARS_PER_TOKEN)) for t in texts)
    if usage is None:
        usage = Usage(sum(sizes), estimated=True) if error is None else Usage()
    return Call(
        id=call_id,
        kind="embedding",
        session_id=session_id,
        root_id=root_id,
        name=name,
        started_at=started_at,
        ended_at=max(ended_at, started_at),
        status="ok" if error is None else "error",
        error=error,
        model=model,
        provider=provider,
        usage=usage,
        source_cost=source_cost,
        tier=tier,
        request=mix(name_hash(model or name), *items) if items else 0,
        answer=0 if error is None else name_hash(error),
        temperature=0.0,
        items=items,
        item_tokens=sizes,
        user_id=user_id,
        tags=kept_tags(tags),
    )


class SentinelEmbeddings(Embeddings):
    """Wraps any `Embeddings` so that a `Sentinel` sees what is embedded.

    Args:
        embeddings: What does the work.
        sentinel: The `Sentinel` to feed.
        model: Model name, for the price; read off `embeddings.model` if left out.
        provider: Provider, for the price; that of the `langchain-…` package that `embeddings` is from if left out.
        session_id: The session; else that of `sentinel.session(...)`, else one of this wrapper's own.
        clock: Where event time comes from, seconds since the epoch.

    Raises:
        ConfigurationError: One of the two is something else.

    Example:
        >>> from ts_langchain import Sentinel
        >>> from ts_langchain.testing import HashEmbeddings
        >>> sentinel = Sentinel()
        >>> embeddings = SentinelEmbeddings(HashEmbeddings(), sentinel)
        >>> _ = embeddings.embed_documents(["the same text", "the same text"])
        >>> [i.rule for i in sentinel.incidents()]
        ['embedding_waste']
    """

    def __init__(
        self,
        embeddings: Embeddings,
        sentinel: Sentinel,
        *,
        model: str | None = None,
        provider: str | None = None,
        session_id: object | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not hasattr(embeddings, "embed_documents"):
            msg = f"embeddings: expected an Embeddings of LangChain, got a {type(embeddings).__name__}"
            raise ConfigurationError(msg)
        self.embeddings = embeddings
        self.sentinel = as_sentinel(sentinel)
        self.model = model or _model_of(embeddings)
        self.provider = provider or _provider_of(embeddings)
        self.session_id = as_id(session_id)
        self.clock = clock
        self._own_session = f"embeddings-{uuid4()}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As the wrapped object does it."""
        started_at = self.clock()
        try:
            vectors = self.embeddings.embed_documents(texts)
        except Exception as error:
            self._seen(texts, started_at, error)
            raise
        self._seen(texts, started_at)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """As the wrapped object does it."""
        started_at = self.clock()
        try:
            vector = self.embeddings.embed_query(text)
        except Exception as error:
            self._seen([text], started_at, error)
            raise
        self._seen([text], started_at)
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As the wrapped object does it."""
        started_at = self.clock()
        try:
            vectors = await self.embeddings.aembed_documents(texts)
        except Exception as error:
            self._seen(texts, started_at, error)
            raise
        self._seen(texts, started_at)
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """As the wrapped object does it."""
        started_at = self.clock()
        try:
            vector = await self.embeddings.aembed_query(text)
        except Exception as error:
            self._seen([text], started_at, error)
            raise
        self._seen([text], started_at)
        return vector

    def _seen(self, texts: list[str], started_at: float, error: Exception | None = None) -> None:
        with self.sentinel.faults.fail_open("embeddings"):
            labels = current_labels()
            session_id = self.session_id or (labels.session_id if labels else None) or self._own_session
            self.sentinel.observe(
                embedding_call(
                    texts,
                    call_id=str(uuid4()),
                    session_id=session_id,
                    root_id=session_id,
                    name=type(self.embeddings).__name__,
                    model=self.model,
                    provider=self.provider,
                    started_at=started_at,
                    ended_at=self.clock(),
                    error=error_name(error) if error is not None else None,
                    user_id=labels.user_id if labels else None,
                    tags=labels.tags if labels else (),
                )
            )


def _model_of(embeddings: Embeddings) -> str | None:
    for field in ("model", "model_name", "model_id", "deployment"):
        value = getattr(embeddings, field, None)
        if isinstance(value, str) and value:
            return value
    return None


def _provider_of(embeddings: Embeddings) -> str | None:
    """`aws` of `langchain_aws.…`; None of classes that are from no package of one provider."""
    for kind in type(embeddings).__mro__:
        package = kind.__module__.partition(".")[0]
        if package.startswith("langchain_") and package not in (
            "langchain_core",
            "langchain_community",
            "langchain_classic",
        ):
            return package.removeprefix("langchain_")
    return None

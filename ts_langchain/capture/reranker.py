"""Rerankers are document compressors, which LangChain's callbacks do not see: a thin wrapper gives them capture."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import AfterValidator, ConfigDict, PrivateAttr

from ts_langchain.call import Call
from ts_langchain.capture.context import as_id, current_labels
from ts_langchain.capture.errors import error_hash, error_name
from ts_langchain.capture.tools import document_hash
from ts_langchain.fingerprint import Arguments, mix, text_hash
from ts_langchain.sentinel import as_sentinel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.callbacks import Callbacks

    from ts_langchain.sentinel import Sentinel


class SentinelReranker(BaseDocumentCompressor):
    """Wraps a reranker (Cohere, Voyage, any document compressor) so that a `Sentinel` sees what is ranked.

    Args:
        compressor: What does the work.
        sentinel: The `Sentinel` to feed.
        session_id: The session; else that of `sentinel.session(...)`, else one of this wrapper's own.

    Example:
        >>> from langchain_core.documents import Document
        >>> from ts_langchain import Sentinel
        >>> class First(BaseDocumentCompressor):
        ...     def compress_documents(self, documents, query, callbacks=None):
        ...         return documents[:1]
        >>> sentinel = Sentinel()
        >>> ranker = SentinelReranker(compressor=First(), sentinel=sentinel)
        >>> for _ in range(2):
        ...     _ = ranker.compress_documents([Document("a"), Document("b")], "which one")
        >>> [i.rule for i in sentinel.incidents()]
        ['rerank_thrash']
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    compressor: BaseDocumentCompressor
    sentinel: Annotated[Any, AfterValidator(as_sentinel)]
    session_id: str | None = None
    _own_session: str = PrivateAttr(default_factory=lambda: f"reranker-{uuid4()}")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As the wrapped object does it."""
        started_at = time.time()
        try:
            ranked = self.compressor.compress_documents(documents, query, callbacks)
        except Exception as error:
            self._seen(documents, query, started_at, (), error)
            raise
        self._seen(documents, query, started_at, ranked)
        return ranked

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As the wrapped object does it."""
        started_at = time.time()
        try:
            ranked = await self.compressor.acompress_documents(documents, query, callbacks)
        except Exception as error:
            self._seen(documents, query, started_at, (), error)
            raise
        self._seen(documents, query, started_at, ranked)
        return ranked

    def _seen(
        self,
        documents: Sequence[Document],
        query: str,
        started_at: float,
        ranked: Sequence[Document],
        error: Exception | None = None,
    ) -> None:
        sentinel: Sentinel = self.sentinel
        with sentinel.faults.fail_open("reranker"):
            labels = current_labels()
            session_id = as_id(self.session_id) or (labels.session_id if labels else None) or self._own_session
            asked = mix(text_hash(query), *(document_hash(d) for d in documents))
            items = tuple(document_hash(d) for d in ranked)
            sentinel.observe(
                Call(
                    id=str(uuid4()),
                    kind="retriever",
                    session_id=session_id,
                    root_id=session_id,
                    name=f"rerank:{type(self.compressor).__name__}",
                    started_at=started_at,
                    ended_at=max(started_at, time.time()),
                    status="ok" if error is None else "error",
                    error=error_name(error) if error is not None else None,
                    answer=mix(*items) if error is None else error_hash(error),
                    arguments=Arguments(asked, asked),
                    items=items,
                    user_id=labels.user_id if labels else None,
                    tags=labels.tags if labels else (),
                )
            )

"""Rerankers through the wrapper."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document

from ts_langchain import Sentinel, SentinelReranker, TokenSentinelHandler


class First(BaseDocumentCompressor):
    """Keeps the first document."""

    broken: bool = False

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        if self.broken:
            raise ConnectionError(query)
        return documents[:1]


DOCUMENTS = [Document("a"), Document("b")]


def test_what_is_ranked_is_seen_sync_and_async() -> None:
    sentinel = Sentinel()
    ranker = SentinelReranker(compressor=First(), sentinel=sentinel)
    with sentinel.session("s", user_id="ada"):
        assert ranker.compress_documents(DOCUMENTS, "which") == DOCUMENTS[:1]
        assert asyncio.run(ranker.acompress_documents(DOCUMENTS, "which")) == DOCUMENTS[:1]
        ranker.compress_documents(DOCUMENTS, "another question")
    [incident] = sentinel.incidents()
    assert (incident.rule, incident.session_id, incident.calls) == ("rerank_thrash", "s", 1)
    assert sentinel.health().calls == 3


def test_what_is_no_sentinel_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"expected a Sentinel, .* got a TokenSentinelHandler"):
        SentinelReranker(compressor=First(), sentinel=TokenSentinelHandler())


def test_a_failure_is_seen_and_raised() -> None:
    sentinel = Sentinel()
    ranker = SentinelReranker(compressor=First(broken=True), sentinel=sentinel, session_id="s")
    with pytest.raises(ConnectionError):
        ranker.compress_documents(DOCUMENTS, "which")
    with pytest.raises(ConnectionError):
        asyncio.run(ranker.acompress_documents(DOCUMENTS, "which"))
    totals = sentinel.totals("s")
    assert totals is not None
    assert totals.failed_calls == 2

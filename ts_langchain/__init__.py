"""Finds token waste in LangChain and LangGraph agents while they run, and stops it before it is billed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_langchain.errors import CallRefused, TokenSentinelError, WasteBlocked

if TYPE_CHECKING:
    from ts_langchain.capture.activate import token_sentinel
    from ts_langchain.capture.embeddings import SentinelEmbeddings
    from ts_langchain.capture.handler import TokenSentinelHandler
    from ts_langchain.capture.reranker import SentinelReranker
    from ts_langchain.decision import Decision
    from ts_langchain.incident import Incident
    from ts_langchain.intervene.graph import guard, guard_node
    from ts_langchain.intervene.middleware import TokenSentinelMiddleware
    from ts_langchain.intervene.model import guard_model
    from ts_langchain.policy import Policy
    from ts_langchain.sentinel import Health, Sentinel

__version__ = "0.1.0"

__all__ = [
    "CallRefused",
    "Decision",
    "Health",
    "Incident",
    "Policy",
    "Sentinel",
    "SentinelEmbeddings",
    "SentinelReranker",
    "TokenSentinelError",
    "TokenSentinelHandler",
    "TokenSentinelMiddleware",
    "WasteBlocked",
    "__version__",
    "guard",
    "guard_model",
    "guard_node",
    "token_sentinel",
]

_HOMES = {
    "Decision": "ts_langchain.decision",
    "Health": "ts_langchain.sentinel",
    "Incident": "ts_langchain.incident",
    "Policy": "ts_langchain.policy",
    "Sentinel": "ts_langchain.sentinel",
    "SentinelEmbeddings": "ts_langchain.capture.embeddings",
    "SentinelReranker": "ts_langchain.capture.reranker",
    "TokenSentinelHandler": "ts_langchain.capture.handler",
    "TokenSentinelMiddleware": "ts_langchain.intervene.middleware",
    "guard": "ts_langchain.intervene.graph",
    "guard_model": "ts_langchain.intervene.model",
    "guard_node": "ts_langchain.intervene.graph",
    "token_sentinel": "ts_langchain.capture.activate",
}


def __getattr__(name: str) -> object:
    """Loads the public names on first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

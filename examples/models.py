"""The model of the examples: scripted, unless a key for a real one is there (OPENAI_API_KEY or ANTHROPIC_API_KEY)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from ts_langchain.testing import ScriptedChatModel

REAL = (
    ("OPENAI_API_KEY", "langchain_openai", "openai:gpt-4o-mini"),
    ("ANTHROPIC_API_KEY", "langchain_anthropic", "anthropic:claude-haiku-4-5"),
)


def chat_model(script: list[Any], **kwargs: Any) -> Any:
    """A real model where there is a key and its package, else one that follows the script."""
    for variable, package, name in REAL:
        if os.environ.get(variable) and find_spec(package):
            from langchain.chat_models import init_chat_model

            return init_chat_model(name)
    return ScriptedChatModel(script=script, **kwargs)


def spent(sentinel: Any) -> float:
    """Dollars of all sessions a Sentinel knows."""
    return sum(state.totals.nano for state in sentinel.states()) / 1e9

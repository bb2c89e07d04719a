"""For tests of agents, rules and importers: a scripted chat model, and kits that check what you add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_langchain.testing.models import HashEmbeddings, ScriptedChatModel, Step, call_tool
from ts_langchain.testing.rules import check_rule

if TYPE_CHECKING:
    from ts_langchain.testing.importers import check_importer

__all__ = ["HashEmbeddings", "ScriptedChatModel", "Step", "call_tool", "check_importer", "check_rule"]


def __getattr__(name: str) -> object:
    """Loads the kit for importers on first use: it brings the ledger and its database along."""
    if name != "check_importer":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from ts_langchain.testing.importers import check_importer

    return check_importer

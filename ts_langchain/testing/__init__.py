"""For tests of agents, rules and importers: a scripted chat model, and kits that check what you add."""

from ts_langchain.testing.importers import check_importer
from ts_langchain.testing.models import HashEmbeddings, ScriptedChatModel, Step, call_tool
from ts_langchain.testing.rules import check_rule

__all__ = ["HashEmbeddings", "ScriptedChatModel", "Step", "call_tool", "check_importer", "check_rule"]

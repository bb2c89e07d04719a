"""A prompt is read incrementally, and counts for what it is when its past was rewritten."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, message_to_dict

from ts_langchain.capture.conversation import Conversation

PAGE = "an unremarkable page that nobody refers to " * 100


def history(turns: int) -> list[Any]:
    messages: list[Any] = [HumanMessage("go")]
    for number in range(turns):
        call = {"name": "fetch", "args": {"n": number}, "id": f"c{number}", "type": "tool_call"}
        messages += [AIMessage("", tool_calls=[call]), ToolMessage(f"{number} {PAGE}", tool_call_id=f"c{number}")]
    return messages


def trimmed(messages: list[Any], keep: int) -> list[Any]:
    """All but the last tool results replaced in place, as context editing does it."""
    results = [i for i, m in enumerate(messages) if isinstance(m, ToolMessage)]
    return [
        m.model_copy(update={"content": "[cleared]"}) if i in results[: len(results) - keep] else m
        for i, m in enumerate(messages)
    ]


@pytest.mark.parametrize("recorded", [False, True])
def test_what_was_cut_out_of_the_middle_counts_no_longer(recorded: bool) -> None:
    def shape(messages: list[Any]) -> list[Any]:
        return [message_to_dict(m) for m in messages] if recorded else messages

    conversation, messages = Conversation(), history(8)
    full = conversation.read(shape(messages)).prompt
    assert full.unused_chars > 5_000
    cut = conversation.read(shape(trimmed(messages, 1))).prompt
    fresh = Conversation().read(shape(trimmed(messages, 1))).prompt
    assert (cut.chars, cut.unused_chars) == (fresh.chars, fresh.unused_chars)
    assert cut.chars < full.chars / 4
    assert cut.unused_chars == 0
    assert cut.broke_at == 2  # so much of it a provider may have cached
    again = conversation.read(shape([*trimmed(messages, 1), AIMessage("done")])).prompt
    assert again.carried_chars == cut.chars


def test_growing_is_read_once_whoever_holds_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    from ts_langchain.capture import conversation as reading

    read: list[object] = []
    original = reading.read_message
    monkeypatch.setattr(reading, "read_message", lambda m: (read.append(m), original(m))[1])
    conversation, grown = Conversation(), history(30)
    conversation.read(grown[:51])
    read.clear()
    conversation.read(grown[:53])
    assert read == grown[51:53]

"""A prompt is read incrementally, and counts for what it is when its past was rewritten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, message_to_dict

from ts_langchain.capture.conversation import (
    _CLASSIFICATION,
    MAX_LONG_MESSAGES,
    Conversation,
    LargeResult,
    is_classification,
    names_in,
)

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


@pytest.mark.parametrize("recorded", [False, True])
def test_a_prompt_of_one_length_with_the_one_before_may_say_something_else_in_between(recorded: bool) -> None:
    conversation = Conversation()

    def read(middle: str) -> int:
        messages = [HumanMessage("Judge."), HumanMessage(middle), HumanMessage("Well?")]
        return conversation.read([message_to_dict(m) for m in messages] if recorded else messages).prompt.fingerprint

    assert read("row 1") == read("row 1") != read("row 2")


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


CLASSIFIES = """
Is this a cat, yes or no?
Is the invoice paid (y/n)
Classify this ticket: my card was declined
Say if the passage is RELEVANT or IRRELEVANT to the question.
Determine the sentiment of the review.
What is the sentiment of this review?
Is it positive, neutral or negative?
Ist das ein Hund, ja oder nein?
"""
ASKS = """
What is the market sentiment on NVDA?
Write a yes-man's diary.
Tell me about relevant laws or rules.
Which plan has SSO?
"""


@pytest.mark.parametrize("text", CLASSIFIES.strip().splitlines())
def test_worded_as_a_classification(text: str) -> None:
    assert is_classification([HumanMessage(text)], len(text))


@pytest.mark.parametrize("text", ASKS.strip().splitlines())
def test_worded_as_a_question(text: str) -> None:
    assert not is_classification([HumanMessage(text)], len(text))


@given(st.from_regex(_CLASSIFICATION, fullmatch=True))
def test_no_wording_of_a_classification_is_passed_over(text: str) -> None:
    assert is_classification([HumanMessage(text)], len(text))


def test_a_chinese_document_counts_as_used_once_a_part_of_it_is_named() -> None:
    document = "第三条 供应商应当在交货之日起三十日内提供发票,逾期不予付款。" * 99
    for wrote, used in (("根据第三条,应当在交货之日起三十日内提供发票。", True), ("今天天气很好,去公园散步。", False)):
        large = LargeResult(3, len(document))
        large.turn(names_in(AIMessage(wrote), ()), ToolMessage(document, tool_call_id="c"))
        assert large.used == used


def test_a_system_message_that_piles_up_is_dead_weight() -> None:
    """Said again at the end it is a frame."""
    rules = SystemMessage("Be kind, be precise, and never promise a refund to anybody at all. " * 20)
    conversation, messages, repeated = Conversation(), [], []
    for number in range(5):
        messages += [rules, HumanMessage(f"Where is parcel {number}?"), AIMessage(f"Parcel {number} is on its way.")]
        repeated.append(conversation.read(messages).prompt.repeated_chars)
    size = len(str(rules.content))
    assert repeated == [0, 0, size, 2 * size, 3 * size]


@pytest.mark.parametrize(("which", "known"), [(29, True), (12, True), (11, False), (0, False)])
def test_of_long_messages_the_newest_are_remembered(which: int, known: bool) -> None:
    conversation, messages = Conversation(), [HumanMessage(f"{number} {PAGE}") for number in range(30)]
    assert conversation.read(messages).prompt.repeated_chars == 0
    [branch] = conversation.branches.values()
    assert len(branch.long) == MAX_LONG_MESSAGES == 18
    messages.append(HumanMessage(f"{which} {PAGE}"))
    assert conversation.read(messages).prompt.repeated_chars == (len(f"{which} {PAGE}") if known else 0)


@pytest.mark.parametrize(("status", "superseded"), [("success", True), ("error", False)])
def test_an_answer_is_superseded_by_another_one_and_not_by_a_failure(status: Any, superseded: bool) -> None:
    def asked(number: int) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "fetch", "args": {"n": 1}, "id": f"c{number}", "type": "tool_call"}])

    page, later = f"1 {PAGE}", f"2 {PAGE}"
    messages = [HumanMessage("go"), asked(0), ToolMessage(page, tool_call_id="c0")]
    messages += [asked(1), ToolMessage(later, tool_call_id="c1", status=status)]
    assert Conversation().read(messages).prompt.repeated_chars == (len(page) if superseded else 0)
    messages += [asked(2), ToolMessage(f"3 {PAGE}", tool_call_id="c2")]
    expected = len(page) + len(later) if superseded else len(page)
    assert Conversation().read(messages).prompt.repeated_chars == expected

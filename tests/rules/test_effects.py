"""What a tool's name says about its effects."""

from __future__ import annotations

import pytest

from ts_langchain.rules.effects import asks_a_person, effects, may_be_reworded


@pytest.mark.parametrize(
    "name",
    [
        "book_flight",
        "sendEmail",
        "edit_file",
        "str_replace_based_edit_tool",
        "apply_patch",
        "set_seat",
        "write",
        "git-commit",
        "email_send",
        "mcp__github__create_issue",
        "browser_click",
        "open_ticket",
        "update_status",
        "createList",
        "write_todos",
    ],
)
def test_they_change_something(name: str) -> None:
    assert effects(name)[:2] == (True, False)


@pytest.mark.parametrize(
    "name", ["bash", "Bash", "shell", "execute", "run_python", "run_command", "python_repl", "execute_code", "computer"]
)
def test_they_run_what_they_are_given(name: str) -> None:
    assert effects(name)[:2] == (False, True)


@pytest.mark.parametrize(
    "name",
    [
        "run_tests",
        "execute_sql",
        "run_query",
        "fetch_page",
        "get_settings",
        "search",
        "read_file",
        "think",
        "bookmarks",
        "get_order",
        "order_status",
        "mcp__shop__get_order",
        "listOrders",
        "open_page",
        "check_schedule",
        "dataset_search",
        "検索",
        "",
    ],
)
def test_they_only_look(name: str) -> None:
    assert effects(name)[:2] == (False, False)


def test_what_can_be_asked_in_other_words() -> None:
    names = ("think", "scratchpad", "Thought", "thinker", "rethink", "ask", "get_order")
    assert [name for name in names if may_be_reworded(name)] == ["thinker", "rethink", "ask", "get_order"]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("ask_user", True),
        ("askUser", True),
        ("human", True),
        ("get_human_input", True),
        ("request_approval", True),
        ("confirm", True),
        ("request", False),
        ("get_user", False),
        ("ask_question", False),
        ("humanize", False),
    ],
)
def test_who_asks_a_person(name: str, asked: bool) -> None:
    assert asks_a_person(name) == asked

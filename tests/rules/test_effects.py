"""What a tool's name says about its effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ts_langchain.call import Call
from ts_langchain.capture.traits import read_declared
from ts_langchain.fingerprint import arguments
from ts_langchain.rules.effects import (
    asks_a_person,
    effect_of,
    is_change,
    is_worth_another_try,
    may_be_reworded,
    may_have_changed,
    named_effect,
    outcome,
)

if TYPE_CHECKING:
    from ts_langchain.call import Kind, Status


def called(
    name: str, *traits: tuple[str, int], kind: Kind = "tool", status: Status = "ok", about: str | None = None
) -> Call:
    """A call that answered 7; `about` is what it was given."""
    given = None if about is None else arguments({"about": about})
    return Call("c", kind, "s", "r", name, 0.0, 1.0, status, answer=7, arguments=given, traits=traits)


NAMES = {
    "changes": "book_flight sendEmail edit_file str_replace_based_edit_tool apply_patch set_seat write git-commit "
    "email_send mcp__github__create_issue browser_click open_ticket update_status createList write_todos "
    "transfer_to_bob search_replace find_and_replace find_or_create_user list_append HassListAddItem status_update "
    "diff_apply resolve_conflict check_off_item search_index_delete validate_and_save git_push find_replace",
    "runs code": "bash Bash shell execute kubectl psql run_terminal_cmd run_shell_command "
    "run_python run_command python_repl execute_code computer",
    "looks": "query_sql fetch_page get_settings search read_file get_order order_status mcp__shop__get_order "
    "listOrders open_page check_schedule dataset_search test_connection get_last_update list_updates search_and_rank "
    "google_drive_search drive_list_files search_issues_and_pull_requests list_edit_history resolve_ticker git_log "
    "get_order_and_store_details gather_info resolve_library_id resolve get_status_update list_open_orders find_next "
    "grep glob ls cat analyze_sentiment verify_claim",
    "thinks": "think scratchpad Thought reflect_on_it",
    "unknown": "process_invoice run_tests evaluate_answer execute_sql bookmarks rethink thinker ask 検索",
}


JUDGES = ("analyze_sentiment", "check_schedule", "evaluate_answer", "run_tests", "test_connection", "verify_claim")
"""What they are given in words is what they judge."""


@pytest.mark.parametrize(("effect", "name"), [(effect, n) for effect, names in NAMES.items() for n in names.split()])
def test_what_a_name_says(effect: str, name: str) -> None:
    assert named_effect(name) == effect
    assert may_be_reworded(called(name)) == (effect in ("looks", "unknown") and name not in JUDGES)


def test_no_name_says_nothing() -> None:
    assert named_effect("") == "unknown"


@pytest.mark.parametrize(
    ("name", "read_only", "effect"),
    [
        ("process", 1, "looks"),
        ("set_filter", 1, "looks"),
        ("process", 0, "changes"),
        ("get_and_lock", 0, "changes"),
        ("bash", 0, "runs code"),
        ("bash", 1, "looks"),
    ],
)
def test_what_is_declared_counts_more(name: str, read_only: int, effect: str) -> None:
    assert effect_of(called(name, ("read_only", read_only))) == effect


@pytest.mark.parametrize(
    ("name", "kind", "status", "changed", "again"),
    [
        ("edit_file", "tool", "ok", True, True),
        ("bash", "tool", "ok", True, True),
        ("read_file", "tool", "ok", False, True),
        ("think", "tool", "ok", False, True),
        ("process_invoice", "tool", "ok", False, True),
        ("edit_file", "tool", "error", False, False),
        ("bash", "tool", "error", False, True),
        ("read_file", "tool", "error", False, True),
        ("process_invoice", "tool", "error", False, True),
        ("edit_file", "tool", "cancelled", False, False),
        ("edit_file", "model", "ok", False, True),  # a model may be called anything
    ],
)
def test_what_may_have_changed_and_what_is_worth_another_try(
    name: str, kind: Kind, status: Status, changed: bool, again: bool
) -> None:
    call = called(name, kind=kind, status=status)
    assert (may_have_changed(call), is_worth_another_try(call)) == (changed, again)


@pytest.mark.parametrize(
    ("name", "command", "changed"),
    [
        ("bash", "python a.py", True),
        ("bash", "git diff", False),
        ("str_replace_editor", "str_replace", True),
        ("str_replace_editor", "view", False),
        ("send_message", "which one is it", True),
    ],
)
def test_a_command_that_only_looks_changes_nothing(name: str, command: str, changed: bool) -> None:
    call = called(name)._replace(arguments=arguments({"command": command}))
    assert may_have_changed(call) == changed
    assert not is_change(call) or changed


@pytest.mark.parametrize(
    ("name", "kind", "status", "given_counts"),
    [
        ("edit_file", "tool", "ok", True),
        ("bash", "tool", "ok", True),
        ("process_invoice", "tool", "ok", True),
        ("read_file", "tool", "ok", False),
        ("think", "tool", "ok", False),
        ("edit_file", "tool", "error", False),
        ("edit_file", "model", "ok", False),
    ],
)
def test_what_came_of_a_call(name: str, kind: Kind, status: Status, given_counts: bool) -> None:
    one, other = (outcome(called(name, kind=kind, status=status, about=about)) for about in ("this", "that"))
    assert (one != other) == given_counts
    assert one == outcome(called(name, kind=kind, status=status, about="this"))
    assert outcome(called(name, kind=kind, status=status)) == 7  # not recorded what it was given


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"read_only": True}, (("read_only", 1),)),
        ({"readOnlyHint": False}, (("read_only", 0),)),
        ({"read_only": True, "readOnlyHint": False}, (("read_only", 1),)),
        ({"read_only": "yes", "readOnlyHint": None}, ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_what_a_tool_declares(metadata: dict[str, object] | None, expected: tuple[object, ...]) -> None:
    assert read_declared(metadata) == expected


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("ask_user", True),
        ("askUser", True),
        ("human", True),
        ("get_human_input", True),
        ("human_assistance", True),
        ("ask_followup_question", True),
        ("request_human_review", True),
        ("wait_for_user_reply", True),
        ("get_customer_reply", False),
        ("get_user_feedback", False),
        ("list_customer_replies", False),
        ("contact_person_lookup", False),
        ("require_approval", True),
        ("get_customer_reviews", False),
        ("get_customer", False),
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

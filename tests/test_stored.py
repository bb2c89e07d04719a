"""State that a ledger holds: what comes back is state, whoever wrote it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ts_langchain.capture.continued import Continued
from ts_langchain.cli.importing import registered
from ts_langchain.database import make_directory
from ts_langchain.errors import LedgerError
from ts_langchain.fingerprint import FreeText
from ts_langchain.ledger import Ledger
from ts_langchain.rules import known_rules
from ts_langchain.stored import dump_state, load_state


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


EVIL = [
    Calls(registered, "console_scripts", "pip"),  # any program that is installed, which the next thing named runs
    Calls(make_directory, "made"),
    Calls(Ledger, "made"),
    Calls(known_rules),
    Calls(eval, "1"),
]


@pytest.mark.parametrize("evil", EVIL, ids=lambda evil: evil.call[0].__name__)
def test_a_ledger_that_somebody_else_wrote_to_runs_nothing(evil: Calls) -> None:
    with pytest.raises(LedgerError, match="of a kind that is not allowed"):
        load_state(pickle.dumps(evil), frozenset({"ts_langchain.rules.tool_loop"}))


def helper() -> None:
    """Of a rule's module, and no state."""


def test_nor_does_the_module_of_a_rule_of_ones_own() -> None:
    with pytest.raises(LedgerError, match=f"{__name__}.helper"):
        load_state(pickle.dumps(Calls(helper)), frozenset({__name__}))


class State:
    """Of a rule."""

    seen = 0


@pytest.mark.parametrize(
    "state",
    [FreeText("which plan has SSO"), {"a": {1}, "b": [1.5, None]}, Continued().snapshot()],
    ids=["of our own", "of plain values", "a snapshot"],
)
def test_state_comes_back(state: Any) -> None:
    assert load_state(dump_state(state)) == state


def test_state_of_a_rule_comes_back_where_the_rule_is_loaded() -> None:
    state = State()
    state.seen = 7
    assert load_state(dump_state(state), frozenset({__name__})).seen == 7
    with pytest.raises(LedgerError, match=f"{__name__}.State"):
        load_state(dump_state(state))

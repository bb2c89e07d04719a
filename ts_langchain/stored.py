"""Stored state: pickles that can make nothing but plain state.

A ledger may be a database that others can write to, and a pickle can call whatever it names. So only classes are let
in, of the modules that define state, of the rules, and plain containers; no function, but for one that makes state.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from ts_langchain.errors import LedgerError

_PLAIN = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "deque"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "object"),
        ("copyreg", "_reconstructor"),
        ("array", "array"),
        ("array", "_array_reconstructor"),
        ("ts_langchain.fingerprint", "_free_text"),
    }
)
_STATE = frozenset(
    {
        "ts_langchain.call",
        "ts_langchain.capture.continued",
        "ts_langchain.capture.conversation",
        "ts_langchain.capture.in_flight",
        "ts_langchain.capture.memory",
        "ts_langchain.capture.worded",
        "ts_langchain.fingerprint",
        "ts_langchain.incident",
        "ts_langchain.recent",
        "ts_langchain.session",
    }
)
_RULES = "ts_langchain.rules."


class _Unpickler(pickle.Unpickler):
    def __init__(self, stored: bytes, modules: frozenset[str]) -> None:
        super().__init__(io.BytesIO(stored))
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if "." not in name and (module in _STATE or module in self._modules or module.startswith(_RULES)):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        msg = f"the ledger holds state of a kind that is not allowed: {module}.{name}"
        raise LedgerError(msg)


def dump_state(state: object) -> bytes:
    """State as bytes."""
    return pickle.dumps(state, protocol=5)


def load_state(stored: bytes, modules: frozenset[str] = frozenset()) -> Any:
    """State from bytes.

    Args:
        stored: What `dump_state` made.
        modules: Modules of custom rules whose state classes are let in.

    Raises:
        LedgerError: It is damaged, or holds anything that is not state.
    """
    try:
        return _Unpickler(stored, modules).load()
    except LedgerError:
        raise
    except Exception as error:
        msg = f"stored state cannot be read ({type(error).__name__}); import the history again with --fresh"
        raise LedgerError(msg) from error

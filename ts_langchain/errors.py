"""The exceptions users can catch. Nothing else ever leaves the library."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts_langchain.decision import Decision
    from ts_langchain.incident import Incident

_EXPECTED = {"frozen_set_type": "Input should be a list of names", "tuple_type": "Input should be a list"}


def expected(error: Any) -> str:
    """What pydantic says of a value that is not allowed, in the words of YAML and JSON."""
    return _EXPECTED.get(error["type"]) or str(error["msg"])


class TokenSentinelError(Exception):
    """Root of all exceptions of this library."""


class Intervention(TokenSentinelError, RuntimeError):
    """Root of the exceptions that stop a run because the user's policy says so.

    A `RuntimeError`, which LangGraph's `RetryPolicy()` does not retry: the second try would be let through.
    """


class WasteBlocked(Intervention):
    """The next model call was vetoed, before it was sent, because an incident is open.

    Attributes:
        incident: The incident that led to the veto.
        by_policy: True if the Sentinel's policy decided it, False if mode `block` did.
    """

    def __init__(self, incident: Incident, *, by_policy: bool = False) -> None:
        self.incident = incident
        self.by_policy = by_policy
        rule, tool = incident.rule, incident.evidence.get("tool")
        ways = [f"settings={{'{rule}.exempt_tools': [{tool!r}]}}"] if isinstance(tool, str) else []
        if by_policy:
            ways += [f"other steps for {rule} in the policy", "its mode: observe"]
        else:
            ways += [f"settings={{'{rule}.block': False}}", "mode='observe'"]
        super().__init__(
            f"{rule}: {incident.summary} The next model call of session {incident.session_id!r} was not sent. "
            f"What to do: {incident.suggestion} To let it run, use {', '.join(ways[:-1])} or {ways[-1]}."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), by_policy=self.by_policy), (self.incident,)


class CallRefused(Intervention):
    """The next model call does not fit into a budget, or a kill switch is on, or its run is to end. Nothing was sent.

    Attributes:
        decision: What was decided, and why.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(f"{decision.summary} Nothing was sent. {decision.suggestion}".strip())

    def __reduce__(self) -> tuple[type[CallRefused], tuple[Decision]]:
        return (type(self), (self.decision,))


class ConfigurationError(TokenSentinelError, ValueError):
    """A setting, rule name or price that does not exist or has an impossible value."""


class LedgerError(TokenSentinelError):
    """The ledger could not be opened, read or written."""


class NoLedger(LedgerError):
    """There is no ledger there, and none was to be made."""

    def __init__(self, shown: str) -> None:
        super().__init__(f"there is no ledger {shown}")


class ImporterError(TokenSentinelError):
    """History could not be read. The message says what was wrong, where, and what to do."""


class AuthenticationFailed(ImporterError):
    """The source refused the key (HTTP 401 or 403). Never retried."""


class ProjectNotFound(ImporterError):
    """The source does not know the project."""


class SourceUnavailable(ImporterError):
    """The source could not be reached, or kept failing after all retries."""


class UnreadableSource(ImporterError):
    """What the source holds is not in a form that can be read."""

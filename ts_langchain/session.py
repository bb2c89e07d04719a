"""A session: the conversation a call belongs to, with everything rules and capture remember of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.decision import Standing
    from ts_langchain.incident import Bill, Incident
    from ts_langchain.pricing import Cost

MAX_BILLS = 18
MAX_BILLS_IDLE = 3
MAX_INCIDENTS = 10


@dataclass(slots=True)
class Totals:
    """What a session consisted of, so far.

    Attributes:
        calls: Calls of all kinds that have ended.
        model_calls: Of these, those of models.
        input_tokens: Input of models and embeddings, cached input included.
        output_tokens: Output, reasoning included.
        nano: Cost of the calls whose price is known, in nano-dollars (1e-9 USD).
        unpriced_calls: Calls with tokens and without a known price.
        unpriced_tokens: Their tokens.
        estimated_calls: Calls whose usage nobody reported, so that it is estimated.
        failed_calls: Calls that ended with an error.
    """

    calls: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    estimated_calls: int = 0
    failed_calls: int = 0

    def add(self, call: Call, cost: Cost | None) -> None:
        """Counts one call."""
        self.calls += 1
        self.model_calls += call.kind == "model"
        self.failed_calls += call.status == "error"
        usage = call.usage
        if usage.input_tokens or usage.output_tokens:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
            self.estimated_calls += usage.estimated
            if cost is None:
                self.unpriced_calls += 1
                self.unpriced_tokens += usage.input_tokens + usage.output_tokens
        if cost is not None:
            self.nano += cost.input_nano + cost.output_nano


@dataclass(slots=True)
class SessionState:
    """What survives a restart: everything but the lock. Picklable; holds no content.

    Attributes:
        id: Session id.
        started_at: Start of the first call.
        last_at: Latest end of a call.
        shrunk: True if it was reduced after a long silence.
        totals: What it consisted of.
        capture: What capture remembers of the conversation (`ts_langchain.capture.memory.Memory`).
        rules: State of each rule, by name.
        bills: The newest billed calls, by id.
        incidents: Open incidents by rule and key.
        standing: How far a policy's escalation on each of them has come.
    """

    id: str
    started_at: float = 0.0
    last_at: float = 0.0
    shrunk: bool = False
    totals: Totals = field(default_factory=Totals)
    capture: Any = None
    rules: dict[str, Any] = field(default_factory=dict)
    bills: Recent[str, Bill] = field(default_factory=Recent)
    incidents: dict[tuple[str, int], Incident] = field(default_factory=dict)
    standing: dict[tuple[str, int], Standing] = field(default_factory=dict)


class Session:
    """A session's state behind its lock."""

    __slots__ = ("lock", "state")

    def __init__(self, state: SessionState) -> None:
        self.lock = threading.RLock()
        self.state = state

    def bill(self, call_id: str, bill: Bill) -> None:
        """Keeps a bill as long as rules may still claim parts of it."""
        bills = self.state.bills
        bills[call_id] = bill
        bills.limit(MAX_BILLS)

"""`duplicate_work`: the same request is answered in many sessions."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleContext, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_REQUESTS = 10_000
MAX_SESSIONS = 8


class DuplicateWork(Rule[None]):
    """One and the same request (messages, tools, model, temperature) is sent in several sessions.

    Fires in the `min_sessions`-th session, and each further one, that sends a request of at least `min_tokens` input
    tokens which other sessions have sent within `window_seconds` of event time.

    Does not fire on: temperature above 0, where different answers are wanted, or none given, where they came; repeats
    inside one session (other rules see them); requests under way together, as to vote, before any of them is
    answered; short requests; failures.

    Wasted: the whole call: a cache of responses would have answered it.
    """

    name = "duplicate_work"
    specificity = 8
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Cache responses to this request (LangChain: set_llm_cache)."
    thresholds: ClassVar[Mapping[str, str]] = {"min_sessions": "sessions"}

    class Settings(RuleSettings):
        """Settings of duplicate_work."""

        min_sessions: int = Field(3, ge=2, description="Sessions that sent the same request.")
        min_tokens: int = Field(200, ge=0, description="Input tokens.")
        window_seconds: PositiveFloat = Field(86_400, description="How long an answer could be kept.")

    settings: Settings

    def __init__(self, settings: RuleSettings, context: RuleContext) -> None:
        super().__init__(settings, context)
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process."""
        self._lock = threading.RLock()

    def new_state(self) -> None:
        return None

    def new_shared(self) -> Recent[int, tuple[tuple[int, ...], int, float, int, float]]:
        """Of each request: the newest sessions that sent it, how many there were, when last, the answer, since when."""
        return Recent()

    def observe(self, call: Call, state: None) -> Finding | None:
        del state
        s = self.settings
        if (
            call.status != "ok"
            or not call.request
            or call.usage.input_tokens < s.min_tokens
            or (call.temperature is not None and call.temperature > 0)
        ):
            return None
        session, shared = name_hash(call.session_id), self.shared
        with self._lock:
            new = ((), 0, call.started_at, call.answer, call.ended_at)
            known, sessions, at, answer, since = shared.pop(call.request, new)
            if abs(call.started_at - at) > s.window_seconds:  # an earlier range may be imported after a later one
                known, sessions, since = (), 0, call.ended_at
            again = bool(known) and session not in known and call.started_at >= since
            if session not in known:
                known, sessions = (*known, session)[-MAX_SESSIONS:], sessions + 1
            shared[call.request] = (known, sessions, max(at, call.started_at), call.answer, min(since, call.ended_at))
            shared.limit(MAX_REQUESTS)
        same = answer == call.answer
        if not again or sessions < s.min_sessions or (call.temperature is None and not same):
            return None
        seen = sessions if sessions <= MAX_SESSIONS else f"more than {MAX_SESSIONS}"  # older ones are forgotten
        return Finding(
            call.request,
            f"The same request to {call.model or call.name} was sent in {seen} sessions.",
            claims=(Claim(call.id),),
            calls=(call.id,),
            seconds=call.ended_at - call.started_at,
            severity="low",
            confidence=0.9 if same else 0.7,
            evidence={
                "model": call.model,
                "sessions": sessions,
                "same_answer": same,
                "request_hash": f"{call.request & 0xFFFFFFFFFFFFFFFF:016x}",
            },
        )

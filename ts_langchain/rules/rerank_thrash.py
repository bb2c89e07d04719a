"""`rerank_thrash`: the same documents are ranked for the same query again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

# not the end of a word and another one: compare_rankings, scoreRank
_RERANK = re.compile(r"rerank|R[eE][-_]?[rR]ank|(?<![a-zA-Z])re[-_]?[rR]ank|(?<![A-Z])RE[-_]?RANK")
_NAMES: dict[str, bool] = {}
MAX_REQUESTS = 8


def is_rerank(name: str) -> bool:
    """True for a tool or retriever whose name says that it ranks documents."""
    known = _NAMES.get(name)
    if known is None:
        if len(_NAMES) > 4096:
            _NAMES.clear()
        known = _NAMES[name] = _RERANK.search(name) is not None
    return known


class RerankThrash(Rule["Recent[int, tuple[int, float]]"]):
    """A reranker gets the same query and documents again within seconds.

    Fires at the `min_calls`-th call of the same reranker (a tool or retriever named `…rerank…`, or a
    `SentinelReranker`) with the same query and documents, each within `window_seconds` of event time of the one before.

    Does not fire on: other documents; another query; calls far apart.

    Wasted: the turns that asked for it again, where a model asked; the calls and their time otherwise: rerankers are
    billed by the search, on a bill that a LangChain app does not see.
    """

    name = "rerank_thrash"
    specificity = 47
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "retriever"})
    suggestion = "Keep the ranking for as long as query and documents stay the same."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls"}

    class Settings(RuleSettings):
        """Settings of rerank_thrash."""

        min_calls: int = Field(2, ge=2, description="Calls with the same query and documents.")
        window_seconds: PositiveFloat = Field(30, description="Event time between one and the next.")

    settings: Settings

    def new_state(self) -> Recent[int, tuple[int, float]]:
        return Recent()

    def shrink(self, state: Recent[int, tuple[int, float]]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, tuple[int, float]]) -> Finding | None:
        if call.arguments is None or call.status != "ok" or not is_rerank(call.name):
            return None
        key = mix(name_hash(call.name), call.arguments.fingerprint)
        count, last = state.pop(key, (0, 0.0))
        if call.started_at - last > self.settings.window_seconds:
            count = 0
        count += 1
        state[key] = (count, call.ended_at)
        state.limit(MAX_REQUESTS)
        if count < self.settings.min_calls:
            return None
        unit = call.tool_call_id or call.id
        claims = (Claim(call.requested_by, "turn", unit=unit, units=call.siblings),) if call.requested_by else ()
        return Finding(
            key,
            f"{call.name} ranked the same documents for the same query {count} times.",
            claims=claims,
            calls=(call.id,),
            seconds=call.ended_at - call.started_at,
            severity="low" if count < 3 else "medium",
            confidence=0.93,
            evidence={
                "reranker": call.name,
                "calls": count,
                "arguments_hash": f"{call.arguments.fingerprint & 0xFFFFFFFFFFFFFFFF:016x}",
            },
        )

"""`unused_tools`: tools that go along with every call and are never called."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

BYTES_PER_TOKEN = 4
MAX_USED = 64


class Shipped:
    """Which tools a session used, and how many calls carried tools."""

    __slots__ = ("calls", "used")

    def __init__(self) -> None:
        self.calls = 0
        self.used: dict[str, None] = {}


class UnusedTools(Rule[Shipped]):
    """A long session ships tools with every call that it has never called.

    Fires from the `min_calls`-th model call of a session on that carries tools, if at least `min_unused` of them,
    together at least `min_bytes` of definitions and half of all bytes, have not been called in the session.

    Does not fire on: short sessions; small definitions; a toolset that `tool_definition_bloat` reports (30 tools or
    30 000 bytes and more), which is the same waste at another size.

    Wasted: the definitions of these tools, 4 bytes a token, from that call on: before, they might have been needed.
    """

    name = "unused_tools"
    specificity = 24
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    suggestion = "Take tools out that this agent does not use, or select tools per step."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_unused": "unused_tools"}

    class Settings(RuleSettings):
        """Settings of unused_tools."""

        min_calls: int = Field(10, ge=2, description="Model calls with tools before a tool counts as not used.")
        min_unused: int = Field(3, ge=1, description="Tools not used.")
        min_bytes: int = Field(3_000, gt=0, description="Bytes of JSON of these tools.")

    settings: Settings

    def new_state(self) -> Shipped:
        return Shipped()

    def observe(self, call: Call, state: Shipped) -> Finding | None:
        toolset, s = call.toolset, self.settings
        if toolset is None or call.status != "ok":
            return None
        if call.tool_calls and len(state.used) < MAX_USED:
            state.used.update(dict.fromkeys(c.name for c in call.tool_calls))
        state.calls += 1
        total = toolset.total_bytes
        if state.calls < s.min_calls or ("tool_definition_bloat" in self.context.active and _is_bloat(toolset)):
            return None
        unused = [size for name, size in zip(toolset.names, toolset.sizes, strict=True) if name not in state.used]
        dead = sum(unused)
        if len(unused) < s.min_unused or dead < s.min_bytes or dead * 2 < total:
            return None
        return Finding(
            0,
            f"{len(unused)} of {len(toolset.names)} tools ({dead:,} of {total:,} bytes) have gone along with "
            f"{state.calls} calls and were never called.",
            claims=(Claim(call.id, "tools", dead // BYTES_PER_TOKEN, 0),),
            calls=(call.id,),
            severity="low",
            confidence=0.8,
            evidence={
                "tools": len(toolset.names),
                "unused_tools": len(unused),
                "bytes": total,
                "unused_bytes": dead,
                "calls": state.calls,
                "tokens_estimated": True,
            },
        )


def _is_bloat(toolset: object) -> bool:
    names, total = getattr(toolset, "names", ()), getattr(toolset, "total_bytes", 0)
    return total >= 30_000 or (len(names) >= 30 and total >= 6_000)

"""`unused_tools`: tools that go along with every call and are never called."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.tool_definition_bloat import BYTES_PER_TOKEN, ToolDefinitionBloat, ToolUse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind


class UnusedTools(Rule[ToolUse]):
    """A long session ships tools with every call that it has never called.

    Fires from the `min_calls`-th model call of a session on that carries the same tools, if at least `min_unused` of
    them, together at least `min_bytes` of definitions and half of all bytes, have not been called in the session.

    Does not fire on: short sessions; small definitions; a toolset that is large enough for `tool_definition_bloat`,
    which is the same waste at another size.

    Wasted: the definitions of these tools, 4 bytes a token, from that call on: before, they might have been needed.
    """

    name = "unused_tools"
    specificity = 24
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.TOOLSET
    suggestion = "Take tools out that this agent does not use, or select tools per step."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_unused": "unused_tools"}

    class Settings(RuleSettings):
        """Settings of unused_tools."""

        min_calls: int = Field(10, ge=2, description="Model calls with tools before a tool counts as not used.")
        min_unused: int = Field(3, ge=1, description="Tools not used.")
        min_bytes: int = Field(3_000, gt=0, description="Bytes of JSON of these tools.")

    settings: Settings

    def new_state(self) -> ToolUse:
        return ToolUse()

    def observe(self, call: Call, state: ToolUse) -> Finding | None:
        toolset, s = call.toolset, self.settings
        if toolset is None or call.status != "ok":
            return None
        state.note(call)
        calls = state.offer(toolset)
        bloat = self.context.active.get(ToolDefinitionBloat.name)
        if calls < s.min_calls or (isinstance(bloat, ToolDefinitionBloat.Settings) and bloat.weighs(toolset)):
            return None
        total, unused = toolset.total_bytes, state.unused(toolset)
        dead = sum(unused)
        if len(unused) < s.min_unused or dead < s.min_bytes or dead * 2 < total:
            return None
        return Finding(
            0,
            f"{len(unused)} of {len(toolset.names)} tools ({dead:,} of {total:,} bytes) have gone along with "
            f"{calls} calls and were never called.",
            claims=(Claim(call.id, "tools", dead // BYTES_PER_TOKEN, 0),),
            calls=(call.id,),
            severity="low",
            confidence=0.8,
            evidence={
                "tools": len(toolset.names),
                "unused_tools": len(unused),
                "bytes": total,
                "unused_bytes": dead,
                "calls": calls,
                "tokens_estimated": True,
            },
        )

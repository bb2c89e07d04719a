"""`tool_definition_bloat`: tool schemas that go along with every call and are never used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind, Toolset

BYTES_PER_TOKEN = 4
MAX_USED = 64
MAX_UNCLAIMED = 8
MAX_TOOLSETS = 6


def which_of(toolset: Toolset) -> int:
    """Which set of tools it is, in whatever order they are sent."""
    return mix(name_hash(min(toolset.names, default="")), len(toolset.names), toolset.total_bytes)


class ToolUse:
    """Which of the tools it was offered a session has called, and how often each set of tools went along."""

    __slots__ = ("offered", "used")

    def __init__(self) -> None:
        self.offered: Recent[int, int] = Recent()
        self.used: dict[str, None] = {}

    def offer(self, toolset: Toolset) -> int:
        """Counts a call that these tools went along with: each agent of a session has its own."""
        which = which_of(toolset)
        calls = self.offered[which] = self.offered.pop(which, 0) + 1
        self.offered.limit(MAX_TOOLSETS)
        return calls

    def note(self, call: Call) -> None:
        """Notes the tools that a model call asked for."""
        if call.tool_calls and len(self.used) < MAX_USED:
            self.used.update(dict.fromkeys(c.name for c in call.tool_calls))

    def unused(self, toolset: Toolset) -> list[int]:
        """Bytes of each tool that has not been called; none once so many were called that they are not all known."""
        if len(self.used) >= MAX_USED:
            return []
        return [size for name, size in zip(toolset.names, toolset.sizes, strict=True) if name not in self.used]


class Offered(ToolUse):
    """The same, and the calls not claimed yet."""

    __slots__ = ("unclaimed",)

    def __init__(self) -> None:
        super().__init__()
        self.unclaimed: list[tuple[int, str, int]] = []


class ToolDefinitionBloat(Rule[Offered]):
    """Large tool definitions go along with every request, and most of them are never called.

    Fires at the `min_calls`-th model call of a session that carries the same tools, of at least `min_bytes` of
    definitions, or `min_tools` tools of together at least `min_bytes_many`, if at least half of these bytes belong to
    tools that the session has not called so far.

    Does not fire on: many tiny tools; tools that are used; several agents that are asked a few times each.

    Wasted: the definitions of the tools not called so far, 4 bytes a token, in each of these calls. A tool
    that is called later no longer counts from then on.
    """

    name = "tool_definition_bloat"
    specificity = 25
    kinds: ClassVar[frozenset[Kind]] = frozenset({"model"})
    needs = Feature.TOOLSET
    suggestion = "Send only the tools this step needs (tool selection), or shorten their descriptions."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls"}

    class Settings(RuleSettings):
        """Settings of tool_definition_bloat."""

        min_bytes: int = Field(30_000, gt=0, description="Bytes of JSON that weigh whatever the number of tools.")
        min_tools: int = Field(30, gt=0, description="Number of tools that weigh ...")
        min_bytes_many: int = Field(6_000, gt=0, description="... if they have at least so many bytes of JSON.")
        min_calls: int = Field(3, ge=1, description="Model calls before a tool counts as not used.")

        def weighs(self, toolset: Toolset) -> bool:
            """True if these definitions are large enough for this rule."""
            total = toolset.total_bytes
            return total >= self.min_bytes or (len(toolset.names) >= self.min_tools and total >= self.min_bytes_many)

    settings: Settings

    def new_state(self) -> Offered:
        return Offered()

    def observe(self, call: Call, state: Offered) -> Finding | None:
        toolset, s = call.toolset, self.settings
        if toolset is None or call.status != "ok":
            return None
        state.note(call)
        if not s.weighs(toolset):
            return None
        total, unused = toolset.total_bytes, state.unused(toolset)
        dead = sum(unused)
        calls, which = state.offer(toolset), which_of(toolset)
        if dead * 2 >= total:
            state.unclaimed.append((which, call.id, dead // BYTES_PER_TOKEN))
            del state.unclaimed[:-MAX_UNCLAIMED]
        if calls < s.min_calls or dead * 2 < total:
            return None
        unclaimed = [one[1:] for one in state.unclaimed if one[0] == which]
        state.unclaimed = [one for one in state.unclaimed if one[0] != which]
        # what was sent before may have been used since
        return Finding(
            0,
            f"{len(unused)} of {len(toolset.names)} tools ({dead:,} of {total:,} bytes) went along with "
            f"{calls} calls and were never used.",
            claims=tuple(Claim(i, "tools", min(tokens, dead // BYTES_PER_TOKEN), 0) for i, tokens in unclaimed),
            calls=tuple(i for i, _ in unclaimed),
            severity="medium",
            confidence=0.9 if calls >= 5 else 0.75,
            evidence={
                "tools": len(toolset.names),
                "unused_tools": len(unused),
                "bytes": total,
                "unused_bytes": dead,
                "calls": calls,
                "tokens_estimated": True,
            },
        )

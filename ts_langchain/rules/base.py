"""What a rule is.

A rule recognises one kind of waste. It is fed the finished calls of a session one by one, keeps what it
needs in a small state per session, and never looks back at the calls themselves: O(1) amortised per call.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ts_langchain.call import Feature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.pricing import Prices

Severity = Literal["low", "medium", "high"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high")
Part = Literal["call", "turn", "tools", "context", "fresh"]
Evidence = "dict[str, int | float | str | bool | None]"
ABOUT = ("tool", "reranker", "model")
"""Keys of the evidence that name what was called, the first of them the thing to exempt."""


class RuleSettings(BaseModel):
    """Settings every rule has. Addressed as `rule.param`, for example `tool_loop.min_calls`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="False switches the rule off.")
    block: bool = Field(
        False,
        description="In mode `block`: veto the next model call while a severe incident of this rule is open.",
    )
    exempt_tools: frozenset[str] = Field(
        frozenset(), description="Names of tools, retrievers or models this rule never reports."
    )
    exempt_nodes: frozenset[str] = Field(frozenset(), description="LangGraph nodes this rule never reports.")
    exempt_tags: frozenset[str] = Field(frozenset(), description="Tags whose runs this rule never reports.")
    exempt_sessions: frozenset[str] = Field(frozenset(), description="Sessions this rule never reports.")


@dataclass(frozen=True, slots=True)
class Claim:
    """Tokens of one billed call that a rule holds to be wasted.

    Attributes:
        call_id: The billed call (model or embedding).
        part: `call` is the call as a whole or some of its tokens; `turn` is one of the tool calls a model turn
            asked for: the turn is wasted as a whole once all of them are; `tools` are tool
            definitions; `context` is carried context; `fresh` is input that was new in this request, which no cache
            held. Different parts of a call are different tokens.
        input_tokens: Wasted input, None for all of it.
        output_tokens: Wasted output, None for all of it.
        unit: For `turn`: which of the tool calls.
        units: For `turn`: how many tool calls the turn asked for.
        rate: Share of the price that is waste, 0 to 1. Below 1 the tokens were needed, at a lower price:
            dollars are wasted, tokens are not.
    """

    call_id: str
    part: Part = "call"
    input_tokens: int | None = None
    output_tokens: int | None = None
    unit: str = ""
    units: int = 1
    rate: float = 1.0


class Turn(NamedTuple):
    """A repeated call and the model turn that asked for it."""

    call_id: str
    requested_by: str | None
    unit: str
    units: int
    seconds: float


@dataclass(slots=True)
class Finding:
    """What a rule returns the moment it recognises waste.

    Attributes:
        key: What it is about: findings of one rule, session and key are one incident.
        summary: One sentence for people: what happened, how often. Names and numbers, no content.
        claims: Wasted tokens.
        calls: Ids of the calls that were waste.
        seconds: Time those calls took.
        severity: `low` is worth knowing, `medium` worth mending, `high` worth stopping for.
        confidence: Estimated probability that a person who sees the calls agrees, 0 to 1.
        evidence: Hashes, lengths, counts, names.
        request: If set, only this very request (`Call.request`) is to be vetoed.
    """

    key: int
    summary: str
    claims: tuple[Claim, ...] = ()
    calls: tuple[str, ...] = ()
    seconds: float = 0.0
    severity: Severity = "medium"
    confidence: float = 0.9
    evidence: dict[str, int | float | str | bool | None] = field(default_factory=dict)
    request: int | None = None


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What rules may know about their surroundings.

    Attributes:
        prices: Prices and context windows of models.
        active: Settings of all rules that are switched on, by the rule's name.
    """

    prices: Prices
    active: Mapping[str, RuleSettings]


S = TypeVar("S")


class Rule(Generic[S]):
    """Base of all rules.

    Attributes:
        name: Unique name; settings are addressed by it.
        specificity: Where two rules claim the same tokens, the higher one gets them.
        kinds: Kinds of calls the rule wants to see.
        needs: What else a call must have, all of it, for the rule to be shown it; nothing by default.
        suggestion: What to do about it, one sentence.
        thresholds: Settings that are lower limits, to the key of the evidence that reached them.
        among_agents: True if it is about several agents of a run: a `stop` is for all of them.
        shared: State that all sessions share, made by `new_shared`; None for most rules.
    """

    name: ClassVar[str]
    specificity: ClassVar[int]
    kinds: ClassVar[frozenset[Kind]]
    needs: ClassVar[Feature] = Feature(0)
    suggestion: ClassVar[str]
    thresholds: ClassVar[Mapping[str, str]] = {}
    among_agents: ClassVar[bool] = False

    class Settings(RuleSettings):
        """Settings of this rule."""

    def __init__(self, settings: RuleSettings, context: RuleContext) -> None:
        self.settings = settings
        self.context = context
        self.shared: Any = self.new_shared()

    def new_state(self) -> S:
        """State of a session that this rule sees for the first time. Must be picklable and hold no content."""
        raise NotImplementedError

    def new_shared(self) -> object:
        """State that all sessions share, None if there is none. Picklable, bounded, without content."""
        return None

    def after_fork(self) -> None:
        """Called in a forked process: locks are to be made anew there, since nobody else will give them back."""

    def observe(self, call: Call, state: S) -> Finding | None:
        """Looks at one finished call."""
        raise NotImplementedError

    def overlook(self, call: Call, state: S) -> None:
        """Notes what a call that is exempt means for others, such as progress. Nothing by default."""

    def shrink(self, state: S) -> None:
        """Reduces the state of a session that has been idle for a long time. An empty dict or list is dropped."""

    def outlives(self, state: S) -> bool:
        """True if the reduced state of an idle session is worth keeping."""
        return not isinstance(state, (dict, list)) or bool(state)

    def exempts(self, call: Call) -> bool:
        """True if the user's settings keep this rule from reporting the call."""
        s = self.settings
        return (
            (bool(s.exempt_tools) and (call.name in s.exempt_tools or call.model in s.exempt_tools))
            or (bool(s.exempt_nodes) and call.node in s.exempt_nodes)
            or (bool(s.exempt_tags) and not s.exempt_tags.isdisjoint(call.tags))
            or (bool(s.exempt_sessions) and call.session_id in s.exempt_sessions)
        )

    @classmethod
    def silencers(cls, evidence: Mapping[str, object], session_id: str) -> list[tuple[str, str]]:
        """Settings that would have silenced an incident, the narrowest first: (`rule.param=value`, why)."""
        found = []
        for param, key in cls.thresholds.items():
            value = evidence.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                more = value + 1 if isinstance(value, int) else float(f"{value * 1.01:.3g}")
                with suppress(ValidationError):  # as high as that it cannot be set
                    cls.Settings.model_validate({param: more})
                    found.append((f"{cls.name}.{param}={more}", f"{key} was {value:g}"))
        tool = next((name for k in ABOUT if isinstance(name := evidence.get(k), str)), None)
        found.append((f"{cls.name}.exempt_sessions={_as_names(session_id)}", "this session only"))
        if tool is not None:
            found.append((f"{cls.name}.exempt_tools={_as_names(tool)}", "this tool or model only"))
        found.append((f"{cls.name}.enabled=false", "the whole rule"))
        return found

    @classmethod
    def explain(cls) -> Mapping[str, str]:
        """The rule's settings: name to `default: description`."""
        return {
            name: f"{_plain(info.get_default(call_default_factory=True))}: {info.description or ''}"
            for name, info in cls.Settings.model_fields.items()
        }


def _as_names(name: str) -> str:
    """A list of this name alone, as `--set` takes it: a JSON list where it would read something else in the name."""
    return json.dumps([name], ensure_ascii=False) if "," in name or name[:1] in ("[", '"') else name


def _plain(value: object) -> str:
    if isinstance(value, (frozenset, set)):
        return ", ".join(sorted(map(str, value))) or "none"
    return str(value)

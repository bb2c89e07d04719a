"""What to do about incidents, and how much may be spent.

A policy names, per rule, the steps to take as an incident goes on, and budgets. It is read from YAML, a dict or the
environment, and does nothing by itself: `Sentinel(policy=...)` decides by it, middleware and guards carry it out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ts_langchain.errors import ConfigurationError, expected

if TYPE_CHECKING:
    from collections.abc import Collection

    from ts_langchain.call import Call

# beyond these, dollars and tokens are no numbers any more that Redis and the clock could count with
MAX_USD = 1e9
MAX_COUNT = 10**15
MAX_WAIT = 86_400.0

Action = Literal["warn", "steer", "reuse", "trim", "downgrade", "prune_tools", "backoff", "pause", "stop", "block"]
ACTIONS: Mapping[str, str] = {
    "warn": "tell whoever listens (on_decision, the log), change nothing",
    "steer": "tell the model what it tried, how often and with what result, once, before its next call",
    "reuse": "answer identical calls of safe tools from the result that is already in the conversation",
    "trim": "leave superseded and old tool results out of the next requests",
    "downgrade": "send the request to the cheaper model that `downgrade` names",
    "prune_tools": "leave tools that no message of the request calls out of the next requests",
    "backoff": "wait before the next model call, longer each time",
    "pause": "ask a human with a LangGraph interrupt: approve, stop, or advice",
    "stop": "end the run cleanly with a final message, instead of calling the model again",
    "block": "raise WasteBlocked instead of calling the model again",
}
# in force until another step is taken or the incident begins anew, a `block` for 30 s (else whoever tries again gets
# through); all others are done once
SUSTAINED: frozenset[str] = frozenset({"block", "reuse", "trim", "downgrade", "prune_tools"})
# about what a session carries along, so they outlive the run in which they were decided
SESSION_WIDE: frozenset[str] = frozenset({"trim", "prune_tools"})
ENDING: frozenset[str] = frozenset({"pause", "stop", "block"})

Per = Literal["session", "run", "user", "tag", "project", "day"]
Severity = Literal["low", "medium", "high"]
FILE_VARIABLE = "TS_LANGCHAIN_POLICY"
MODE_VARIABLE = "TS_LANGCHAIN_MODE"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Exempt(_Model):
    """What a policy keeps its hands off. Names may hold `*` and `?`."""

    tools: frozenset[str] = Field(frozenset(), description="Tools, retrievers, models.")
    nodes: frozenset[str] = Field(frozenset(), description="LangGraph nodes.")
    tags: frozenset[str] = Field(frozenset(), description="Tags of the run.")
    sessions: frozenset[str] = Field(frozenset(), description="Sessions.")

    def covers(self, call: Call) -> bool:
        """True if the call is exempt."""
        return (
            (bool(self.tools) and (matches(call.name, self.tools) or matches(call.model or "", self.tools)))
            or (bool(self.nodes) and call.node is not None and matches(call.node, self.nodes))
            or (bool(self.tags) and any(matches(tag, self.tags) for tag in call.tags))
            or (bool(self.sessions) and matches(call.session_id, self.sessions))
        )


def matches(name: str, patterns: frozenset[str]) -> bool:
    """True if the name is one of the patterns, which may hold `*` and `?`."""
    return name in patterns or any(fnmatchcase(name, p) for p in patterns if "*" in p or "?" in p)


class Step(_Model):
    """One step of an escalation."""

    at: PositiveInt = Field(1, description="From which strike on: 1 is the incident itself, each repeat is one more.")
    do: Action = Field(description="What to do: " + ", ".join(ACTIONS) + ".")


class RulePolicy(_Model):
    """What to do about the incidents of one rule."""

    steps: tuple[Step, ...] = Field((Step(at=1, do="warn"),), description="What to do, and from when on.")
    min_severity: Severity = Field("low", description="Findings below it are no strikes.")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Findings below it are no strikes.")
    cooldown_seconds: float = Field(
        0.0,
        ge=0,
        description="Event time after a decision in which no other follows on the same incident. Of warnings: until "
        "the next; 0 is one an incident.",
    )
    exempt: Exempt = Field(Exempt(), description="What this rule's steps are never taken on.")

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if len({s.at for s in steps}) < len(steps):
            msg = "two steps have the same `at`"
            raise ValueError(msg)
        return tuple(sorted(steps, key=lambda s: s.at))

    def action(self, strike: int) -> Action | None:
        """The action at a strike: the last step reached; None before the first."""
        reached = [s.do for s in self.steps if s.at <= strike]
        return reached[-1] if reached else None


class Budget(_Model):
    """How much may be spent. Checked before each model call with an estimate, settled after it."""

    name: str = Field("", description="For messages; made from `per` and the limit if left out.")
    per: Per = Field("session", description="session, run (outermost), user, tag, project (all), day (all, UTC).")
    usd: PositiveFloat | None = Field(None, le=MAX_USD, description="US dollars.")
    tokens: PositiveInt | None = Field(None, le=MAX_COUNT, description="Input and output tokens.")
    calls: PositiveInt | None = Field(None, le=MAX_COUNT, description="Model calls.")
    tokens_per_minute: PositiveInt | None = Field(
        None,
        le=MAX_COUNT,
        description="Tokens in a minute of event time. Those of the minute before count by the share of it that lies "
        "in the last 60 s, so a burst at its end lets up to twice as many into 60 s.",
    )
    tag: str | None = Field(None, description="With `per: tag`: only this tag. None: each tag has a budget of its own.")
    warn_at: float = Field(0.8, gt=0, le=1, description="Share of the limit at which a warning is given, once.")
    do: Literal["warn", "downgrade", "pause", "stop", "block"] = Field(
        "stop", description="What to do about a call that does not fit."
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Budget:
        given = [k for k in ("usd", "tokens", "calls", "tokens_per_minute") if getattr(self, k) is not None]
        if len(given) != 1:
            msg = (
                f"a budget has one of usd, tokens, calls, tokens_per_minute; this one has {', '.join(given) or 'none'}"
            )
            raise ValueError(msg)
        return self

    @property
    def metric(self) -> Literal["usd", "tokens", "calls", "tokens_per_minute"]:
        """Which limit it has."""
        if self.usd is not None:
            return "usd"
        if self.tokens is not None:
            return "tokens"
        return "calls" if self.calls is not None else "tokens_per_minute"

    @property
    def limit(self) -> int:
        """The limit: nano-dollars, tokens or calls."""
        return (
            round(self.usd * 1e9)
            if self.usd is not None
            else (self.tokens or self.calls or self.tokens_per_minute or 0)
        )

    @property
    def hard(self) -> bool:
        """True if it keeps calls back: `warn` and `downgrade` let them through."""
        return self.do in ENDING

    @property
    def label(self) -> str:
        """Name for people."""
        amount = f"${self.usd:g}" if self.usd is not None else f"{self.limit:,} {self.metric.replace('_', ' ')}"
        return self.name or f"{amount} per {self.per}"


class Trim(_Model):
    """How `trim` shortens a request."""

    keep_results: int = Field(
        3, ge=0, description="So many of the newest tool results stay, superseded ones not counted."
    )
    min_chars: PositiveInt = Field(400, description="Shorter messages are left alone.")
    exclude_tools: frozenset[str] = Field(
        frozenset(), description="Tools whose results are never touched. Names may hold * and ?."
    )


class Backoff(_Model):
    """How long `backoff` waits: base × 2^(strike − 1), at most max."""

    base_seconds: PositiveFloat = Field(1.0, le=MAX_WAIT)
    max_seconds: PositiveFloat = Field(30.0, le=MAX_WAIT)


class KillSwitch(_Model):
    """What stops everything at the next call."""

    file: Path | None = Field(None, description="While this file exists, nothing is sent.")
    redis_key: str | None = Field(None, description="While this key of `redis_url` is set, nothing is sent.")


class RemotePolicy(_Model):
    """A TokenSentinel policy endpoint, polled in the background. While it cannot be reached nothing changes."""

    endpoint: str = Field(description="Base address; GET {endpoint}/v1/policy?project=… is asked.")
    project: str = Field("default", description="Project asked for.")
    key_variable: str = Field("TOKEN_SENTINEL_API_KEY", description="Environment variable that holds the key.")
    ttl_seconds: PositiveFloat = Field(60.0, description="Time between questions where the answer does not say.")


class Policy(_Model):
    """What to do about incidents, and how much may be spent.

    Example:
        >>> policy = Policy.from_dict({"rules": {"tool_loop": {"steps": [{"at": 1, "do": "steer"}]}}})
        >>> policy.of("tool_loop").action(3)
        'steer'
        >>> policy.of("zombie").action(1)
        'warn'
    """

    version: Literal[1] = 1
    mode: Literal["observe", "enforce"] = Field(
        "enforce", description="observe: a dry run that only records what would have been done."
    )
    settings: dict[str, Any] = Field({}, description="Settings of rules: rule.param to value.")
    default: RulePolicy = Field(RulePolicy(), description="For rules not named under `rules`.")
    rules: dict[str, RulePolicy] = Field({}, description="What to do, by rule.")
    exempt: Exempt = Field(Exempt(), description="What no rule's steps are ever taken on.")
    safe_tools: frozenset[str] = Field(
        frozenset(), description="Tools without side effects: `reuse` may answer for them. Names may hold * and ?."
    )
    keep_tools: frozenset[str] = Field(
        frozenset(), description="Tools that `prune_tools` never leaves out. Names may hold * and ?."
    )
    downgrade: dict[str, str] = Field(
        {}, description="Model to cheaper model (as init_chat_model takes it); names may hold * and ?."
    )
    trim: Trim = Field(Trim(), description="How `trim` works.")
    backoff: Backoff = Field(Backoff(), description="How `backoff` works.")
    budgets: tuple[Budget, ...] = Field((), description="How much may be spent.")
    assumed_output_tokens: PositiveInt = Field(
        1024, le=MAX_COUNT, description="Output that a budget reserves for a call that sets no max_tokens."
    )
    redis_url: str | None = Field(None, description="Budgets are shared through this Redis; in memory where None.")
    redis_down: Literal["open", "closed"] = Field(
        "open", description="Without Redis: open counts in memory meanwhile, closed lets nothing through."
    )
    kill_switch: KillSwitch = Field(KillSwitch(), description="What stops everything at the next call.")
    remote: RemotePolicy | None = Field(None, description="A policy endpoint to ask.")

    @field_validator("rules")
    @classmethod
    def _rules_exist(cls, rules: dict[str, RulePolicy], info: ValidationInfo) -> dict[str, RulePolicy]:
        if wrong := _unknown(rules, (info.context or {}).get("rules", rules)):
            raise ValueError(wrong)
        return rules

    def of(self, rule: str) -> RulePolicy:
        """What to do about the incidents of a rule."""
        return self.rules.get(rule, self.default)

    def cheaper(self, model: str) -> str | None:
        """The model that stands in for this one in a downgrade, None if none is named."""
        if model in self.downgrade:
            return self.downgrade[model]
        return next((to for name, to in self.downgrade.items() if fnmatchcase(model, name)), None)

    @classmethod
    def recommended(cls) -> Policy:
        """A careful policy to start from, as a dry run; `enforced()` has it step in. `policy init` writes it."""
        return cls.from_yaml(RECOMMENDED)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], rules: Collection[str] | None = None) -> Policy:
        """Reads a policy from a mapping.

        Args:
            given: The fields.
            rules: Names of the rules there are; all installed ones if None.

        Raises:
            ConfigurationError: It is not a policy; the message names each field and what is allowed.
        """
        given = as_mapping(given, "policy: expected a mapping of fields such as `rules` and `budgets`")
        try:
            return cls.model_validate(dict(given), context={"rules": _rules(rules)})
        except ValidationError as error:
            raise ConfigurationError("policy: " + "; ".join(_told(e) for e in error.errors())) from None

    @classmethod
    def from_yaml(cls, text: str, where: str = "policy", rules: Collection[str] | None = None) -> Policy:
        """Reads a policy from YAML.

        Args:
            text: The YAML.
            where: What to call it in errors.
            rules: Names of the rules there are; all installed ones if None.

        Raises:
            ConfigurationError: It is not a policy; the message names the line, the field and what is allowed.
        """
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            given = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"line {mark.line + 1}: " if mark is not None else ""
            msg = f"{where}: {line}not YAML: {getattr(error, 'problem', None) or 'cannot be read'}"
            raise ConfigurationError(msg) from None
        if twice := _given_twice(node):
            msg = "\n".join(f"{where}: line {key.start_mark.line + 1}: {key.value!r} was given before" for key in twice)
            raise ConfigurationError(msg)
        if given is None:
            given = {}
        if not isinstance(given, dict):
            msg = f"{where}: line 1: expected fields such as `rules:` and `budgets:`, got a {type(given).__name__}"
            raise ConfigurationError(msg)
        try:
            return cls.model_validate(given, context={"rules": _rules(rules)})
        except ValidationError as error:
            told = [f"{where}: line {_line(node, e['loc'])}: {_told(e)}" for e in error.errors()]
            raise ConfigurationError("\n".join(told)) from None

    @classmethod
    def from_file(cls, path: Path | str, rules: Collection[str] | None = None) -> Policy:
        """Reads a policy from a YAML file. Raises ConfigurationError as `from_yaml` does, or if it cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
            raise ConfigurationError(msg) from None
        return cls.from_yaml(text, str(path), rules)

    @classmethod
    def from_env(cls) -> Policy | None:
        """The policy of the file that TS_LANGCHAIN_POLICY names, None if it is not set.

        TS_LANGCHAIN_MODE (observe or enforce) overrides its mode.
        """
        path = os.environ.get(FILE_VARIABLE)
        if not path:
            return None
        policy = cls.from_file(path)
        mode = os.environ.get(MODE_VARIABLE)
        if not mode:
            return policy
        if mode not in ("observe", "enforce"):
            msg = f"{MODE_VARIABLE} is {mode!r}, expected observe or enforce"
            raise ConfigurationError(msg)
        return policy.model_copy(update={"mode": mode})

    def dry_run(self) -> Policy:
        """The same policy, recording only what it would do."""
        return self.model_copy(update={"mode": "observe"})

    def inert(self) -> list[str]:
        """What of it has no effect, since something else is missing."""
        found = []
        if not self.downgrade and any(
            s.do == "downgrade" for r in (*self.rules.values(), self.default) for s in r.steps
        ):
            found.append("a step says downgrade, and downgrade names no cheaper model")
        if self.kill_switch.redis_key and not self.redis_url:
            found.append("kill_switch.redis_key has no effect without redis_url")
        return found

    def enforced(self) -> Policy:
        """The same policy, carried out."""
        return self.model_copy(update={"mode": "enforce"})


def as_policy(
    given: Policy | Mapping[str, Any] | Path | str | None, rules: Collection[str] | None = None
) -> Policy | None:
    """A policy from whatever a user hands over: a policy, a mapping, or the path of a YAML file."""
    if given is None:
        return given
    if isinstance(given, Policy):
        if wrong := _unknown(given.rules, _rules(rules)):  # one made by its constructor knows no names
            msg = f"policy: rules: {wrong}"
            raise ConfigurationError(msg)
        return given
    if isinstance(given, (str, Path)):
        return Policy.from_file(given, rules)
    return Policy.from_dict(
        as_mapping(given, "policy: expected a Policy, a mapping, or the path of a YAML file"), rules
    )


def as_mapping(given: Any, expectation: str) -> Mapping[str, Any]:
    """What is given, if it is a mapping.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(given, Mapping):
        msg = f"{expectation}, got a {type(given).__name__}"
        raise ConfigurationError(msg)
    return given


def _unknown(rules: Collection[str], known: Collection[str]) -> str | None:
    """What to say of the first rule that does not exist; None if all do."""
    name = next((name for name in rules if name not in known), None)
    return None if name is None else f"there is no rule {name!r}; there are {', '.join(sorted(known))}"


def _rules(names: Collection[str] | None) -> Collection[str]:
    if names is not None:
        return names
    from ts_langchain.rules import known_rules

    return known_rules()


def _told(error: Any) -> str:
    """One line on what is wrong with which field, and what is allowed."""
    place = ".".join(str(part) for part in error["loc"]) or "policy"
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        allowed = _fields_at(error["loc"][:-1])
        return f"{place}: there is no such field" + (f"; there are {', '.join(allowed)}" if allowed else "")
    if kind == "literal_error":
        return f"{place}: {error['input']!r} is not allowed; expected {context.get('expected')}"
    said = str(context["error"]) if kind == "value_error" and "error" in context else expected(error)
    return f"{place}: {said}" + ("" if kind in ("missing", "value_error") else f" (got {error['input']!r})")


def _fields_at(place: tuple[int | str, ...]) -> list[str]:
    """Fields of the model at a place in a policy."""
    model: Any = Policy
    for part in place:
        if isinstance(part, int):
            continue
        if model is Policy and part == "rules":
            model = RulePolicy
        elif isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            inner = {"default": RulePolicy, "exempt": Exempt, "trim": Trim, "backoff": Backoff, "steps": Step}
            inner |= {"budgets": Budget, "kill_switch": KillSwitch, "remote": RemotePolicy}
            model = inner.get(part)
    return sorted(model.model_fields) if model is not None else []


def _given_twice(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    """Keys that their mapping has already: YAML would silently drop what was said first, a budget perhaps."""
    found: list[yaml.ScalarNode] = []
    left, seen = [node], set()
    while left:
        here = left.pop()
        if here is None or id(here) in seen:  # an alias
            continue
        seen.add(id(here))
        if isinstance(here, yaml.SequenceNode):
            left += here.value
        elif isinstance(here, yaml.MappingNode):
            keys = [key for key, _ in here.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            first = {key.value: key for key in reversed(keys)}
            found += [key for key in keys if first[key.value] is not key]
            left += [value for _, value in here.value]
    return sorted(found, key=lambda key: key.start_mark.line)


def line_in(path: Path, place: tuple[int | str, ...]) -> int:
    """Line of a field in a policy's file, which has been read before."""
    return _line(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), place)


def _line(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """Line of a field in the YAML; of what encloses it where it is missing."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in place:
        following = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, following = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            following = node.value[part]
            line = following.start_mark.line + 1
        if following is None:
            break
        node = following
    return line


RECOMMENDED = """\
# What ts-langchain does about waste. `ts-langchain policy check` reads it,
# `ts-langchain backtest` tries it on your own past.
version: 1
mode: observe            # a dry run; enforce to step in

rules:                   # what to do, and from which strike on: 1 is the incident itself, each repeat is one more
  tool_loop:
    min_severity: high   # three times the same call, nothing new
    steps:
      - {at: 1, do: steer}
      - {at: 2, do: reuse}   # only for safe_tools; other tools run again
      - {at: 3, do: stop}
  retrieval_thrash:      # the same of retrievers and search tools
    min_severity: high
    steps:
      - {at: 1, do: steer}
      - {at: 2, do: reuse}
      - {at: 4, do: stop}
  ping_pong:             # tools in a circle, round after round
    min_severity: high   # medium is told: it may be meant
    steps:
      - {at: 1, do: steer}
      - {at: 3, do: stop}
  handoff_loop:          # agents that hand the task over and over
    min_severity: high
    steps:
      - {at: 1, do: steer}
      - {at: 3, do: stop}
  error_loop:            # the same failure, whatever the arguments
    min_severity: high
    steps:
      - {at: 1, do: steer}
      - {at: 4, do: stop}
  monologue:             # the model says the same again, and nobody else anything
    min_severity: high
    steps:
      - {at: 1, do: steer}
      - {at: 2, do: stop}
      - {at: 3, do: block}   # code that asks again takes no notice of an answer that says stop
  zombie:
    min_severity: high
    steps:
      - {at: 1, do: steer}
      - {at: 5, do: stop}
  retry_storm:           # the same request, failing or answered the same
    min_severity: high
    steps:
      - {at: 1, do: backoff}
      - {at: 4, do: stop}
      - {at: 5, do: block}
  discarded_output:      # answers that the app throws away, and the same request sent again
    min_severity: high
    steps:
      - {at: 1, do: block}
  context_bloat:
    steps:
      - {at: 1, do: trim}

safe_tools: []           # tools without side effects, e.g. search_*, read_file
# downgrade: {"gpt-4o*": "openai:gpt-4o-mini"}   # for the step `downgrade`, e.g. of model_misroute
# budgets:
#   - {per: session, usd: 1.0}
#   - {per: day, usd: 50.0, do: block}
exempt: {tags: [no-intervention]}
"""

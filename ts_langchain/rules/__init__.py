"""The rules, by name."""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ts_langchain.call import Feature
from ts_langchain.errors import ConfigurationError, expected
from ts_langchain.rules.abandoned_stream import AbandonedStream
from ts_langchain.rules.audio_multichannel_doubling import AudioMultichannelDoubling
from ts_langchain.rules.base import Claim, Finding, Rule, RuleContext, RuleSettings
from ts_langchain.rules.cache_miss import CacheMiss
from ts_langchain.rules.compaction_thrash import CompactionThrash
from ts_langchain.rules.context_bloat import ContextBloat
from ts_langchain.rules.dead_context import DeadContext
from ts_langchain.rules.discarded_output import DiscardedOutput
from ts_langchain.rules.duplicate_work import DuplicateWork
from ts_langchain.rules.embedding_waste import EmbeddingWaste
from ts_langchain.rules.error_loop import ErrorLoop
from ts_langchain.rules.handoff_loop import HandoffLoop
from ts_langchain.rules.model_misroute import ModelMisroute
from ts_langchain.rules.monologue import Monologue
from ts_langchain.rules.overthinking import Overthinking
from ts_langchain.rules.ping_pong import PingPong
from ts_langchain.rules.repair_loop import RepairLoop
from ts_langchain.rules.rerank_thrash import RerankThrash
from ts_langchain.rules.retrieval_thrash import RetrievalThrash
from ts_langchain.rules.retry_storm import RetryStorm
from ts_langchain.rules.tool_definition_bloat import ToolDefinitionBloat
from ts_langchain.rules.tool_loop import ToolLoop
from ts_langchain.rules.truncated_output import TruncatedOutput
from ts_langchain.rules.unused_tools import UnusedTools
from ts_langchain.rules.vision_cost_concentration import VisionCostConcentration
from ts_langchain.rules.vision_high_detail_misroute import VisionHighDetailMisroute
from ts_langchain.rules.vision_re_upload import VisionReUpload
from ts_langchain.rules.voice_switching_loop import VoiceSwitchingLoop
from ts_langchain.rules.zombie import Zombie

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ts_langchain.pricing import Prices

RULES: dict[str, type[Rule[Any]]] = {
    rule.name: rule
    for rule in (
        ToolLoop,
        RetryStorm,
        ContextBloat,
        Zombie,
        ModelMisroute,
        EmbeddingWaste,
        ToolDefinitionBloat,
        RetrievalThrash,
        PingPong,
        ErrorLoop,
        HandoffLoop,
        Monologue,
        RepairLoop,
        TruncatedOutput,
        DiscardedOutput,
        Overthinking,
        CacheMiss,
        DeadContext,
        CompactionThrash,
        UnusedTools,
        DuplicateWork,
        AbandonedStream,
        VisionReUpload,
        VisionHighDetailMisroute,
        VisionCostConcentration,
        RerankThrash,
        VoiceSwitchingLoop,
        AudioMultichannelDoubling,
    )
}

__all__ = [
    "RULES",
    "Claim",
    "Feature",
    "Finding",
    "Rule",
    "RuleContext",
    "RuleSettings",
    "build_rules",
    "known_rules",
    "published",
    "rule_classes",
]

ENTRY_POINTS = "ts_langchain.rules"
MAX_NAME = 80
logger = logging.getLogger("ts_langchain")


def known_rules() -> dict[str, type[Rule[Any]]]:
    """All rules by name: the built-in ones and those that other packages publish under `ts_langchain.rules`."""
    found = dict(RULES)
    for rule in published():
        found.setdefault(rule.name, rule)
    return found


@cache
def published() -> tuple[type[Rule[Any]], ...]:
    """Rules that other packages publish; looked for once. One that cannot be loaded is logged and left out."""
    rules: list[type[Rule[Any]]] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            rule = entry.load()
        except Exception as error:  # noqa: BLE001 - another package's mistake must not break the app
            wrong = type(error).__name__
        else:
            if isinstance(rule, type) and issubclass(rule, Rule):
                rules.append(rule)
                continue
            wrong = "it is no rule"
        logger.warning("ts-langchain: the rule %s cannot be loaded (%s)", entry.value, wrong)
    return tuple(rules)


def rule_classes(rules: Sequence[str | type[Rule[Any]]] | None) -> dict[str, type[Rule[Any]]]:
    """Rules by name, from names and classes; all that are installed for None.

    Raises:
        ConfigurationError: A rule does not exist or is none, or has a name of more than 80 letters: a ledger has no
            room for it.
    """
    known = known_rules()
    if rules is None:
        return known
    if isinstance(rules, str):
        msg = f"rules is {rules!r}, expected a list of names and classes"
        raise ConfigurationError(msg)
    classes: dict[str, type[Rule[Any]]] = {}
    rule: Any
    for rule in rules:
        if isinstance(rule, str):
            if rule not in known:
                msg = f"there is no rule {rule!r}; there are {', '.join(known)}"
                raise ConfigurationError(msg)
            rule = known[rule]
        if not (isinstance(rule, type) and issubclass(rule, Rule)):
            msg = f"rules: expected names and classes of rules, got a {type(rule).__name__}"
            raise ConfigurationError(msg)
        if len(rule.name) > MAX_NAME:
            msg = (
                f"the rule {rule.name[:MAX_NAME]}… has a name of {len(rule.name)} letters, expected {MAX_NAME} at most"
            )
            raise ConfigurationError(msg)
        classes[rule.name] = rule
    return classes


def build_rules(
    classes: Mapping[str, type[Rule[Any]]], settings: Mapping[str, object], prices: Prices
) -> list[Rule[Any]]:
    """Makes rules from classes and settings.

    Args:
        classes: Rules by name.
        settings: `rule.param` to value.
        prices: Prices the rules may ask for.

    Raises:
        ConfigurationError: A rule or parameter does not exist, or a value is not allowed.
    """
    from pydantic import ValidationError

    params: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        name, _, param = str(key).partition(".")
        known = classes.get(name) or RULES.get(name)
        if known is None or param not in known.Settings.model_fields:
            names = ", ".join(f"{name}.{p}" for p in known.Settings.model_fields) if known else ", ".join(classes)
            msg = f"there is no setting {key!r}; " + (f"{name} has {names}" if known else f"rules are {names}")
            raise ConfigurationError(msg)
        params.setdefault(name, {})[param] = value
    parsed: list[tuple[type[Rule[Any]], RuleSettings]] = []
    for name, cls in classes.items():
        try:
            parsed.append((cls, cls.Settings.model_validate(params.get(name, {}))))
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join([name, *map(str, first["loc"])])
            msg = f"setting {where}: {expected(first)} (got {first['input']!r})"
            raise ConfigurationError(msg) from None
    on = [(cls, s) for cls, s in parsed if s.enabled]
    context = RuleContext(prices, {cls.name: s for cls, s in on})
    return [cls(s, context) for cls, s in on]

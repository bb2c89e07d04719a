"""What a call cost on its day.

Prices come from genai-prices' bundled snapshot (no network), at the date of the call, with cache reads,
cache writes, audio and tiers. A cost that the source already computed is preferred. An unknown model has
an unknown cost: it is never given an average.

Money is counted in whole nano-dollars (1e-9 USD), so that sums are exact and do not depend on the order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from ts_langchain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, ModelPrice

    from ts_langchain.call import Call, SourceCost, Usage

NANO = 1_000_000_000
MAX_RATE = 1_000_000
"""USD per million tokens: more is a mistake, and more than a database can add up."""

# LangChain's and the gateways' names for providers, where genai-prices has another. None: runs on the
# user's own machine, where no price list applies.
PROVIDERS: Mapping[str, str | None] = {
    "amazon_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "anthropic_bedrock": "aws",
    "azure_openai": "azure",
    "azure_ai": "azure",
    "google_genai": "google",
    "google_vertexai": "google",
    "google_anthropic_vertex": "google",
    "vertexai": "google",
    "vertex_ai": "google",
    "gemini": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "ollama": None,
    "ollama_chat": None,
    "llamacpp": None,
    "huggingface": None,
    "mlx": None,
    "vllm": None,
    "hosted_vllm": None,
}

# They run models of others at prices of their own: what they charge for one is in nobody else's list. (What Google
# charges for Anthropic's genai-prices knows itself.)
HOSTS = frozenset({
    "baseten", "cerebras", "cloudflare", "deepinfra", "fireworks", "google", "groq", "hyperbolic", "ibm", "nebius",
    "novita", "nvidia", "nvidia_nim", "oci", "ovhcloud", "replicate", "sambanova", "scaleway", "together", "watsonx",
})  # fmt: skip

# Names of what has no price in anyone's list: Ollama's, with a size or `latest` (`deepseek-r1:14b`), whatever client
# calls it, and the free variants of OpenRouter.
_UNLISTED = re.compile(r"(?!ft:).*:(?:latest|free|\d+(?:\.\d+)?[bm](?:-.*)?)", re.IGNORECASE | re.DOTALL)

# What `init_chat_model` takes in front of a model's name, beside the above: `openai:gpt-4o`.
_PREFIXES = frozenset(PROVIDERS) | {
    "anthropic", "cohere", "deepseek", "fireworks", "groq", "openai", "openrouter", "perplexity",
    "together",
}  # fmt: skip

# How providers process a request for another price, and what genai-prices calls it. OpenAI: service tiers and the batch
# API; Anthropic: message batches and the fast mode; Google: flex, priority and batch.
TIERS: Mapping[str, Mapping[str, str]] = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
    "batch": {"processing": "batch"},
}

DECISION = "decision"
"""What OpenAI decides (`/v1/decisions`) has a list of its own: the input alone is billed, cached or not."""

CostSource = Literal["source", "override", "table"]


class Cost(NamedTuple):
    """Cost of one call in nano-dollars.

    Attributes:
        input_nano: Cost of all that was sent, cached tokens at their own price.
        output_nano: Cost of all that was generated.
        source: Who says so: the history's source, the user's override, or the price table.
    """

    input_nano: int
    output_nano: int
    source: CostSource = "table"

    @property
    def nano(self) -> int:
        """Input and output together."""
        return self.input_nano + self.output_nano


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of one model on one day, in USD per million tokens.

    Attributes:
        input: Uncached input.
        output: Output.
        cache_read: Input read from the cache; the input price where None.
        cache_write: Input written to the cache; the input price where None.
        input_audio: Audio input; the input price where None.
        output_audio: Audio output; the output price where None.
        cache_write_1h: Input written to the cache for an hour; `cache_write` where None.
        output_image: Images that are made; the output price where None.
        per_request: USD for each request, whatever its tokens (Perplexity's search); counted as input.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    input_audio: float | None = None
    output_audio: float | None = None
    cache_write_1h: float | None = None
    output_image: float | None = None
    per_request: float | None = None

    def cost(self, usage: Usage, source: CostSource = "table") -> Cost:
        """Cost of a usage at these prices, each side rounded to a whole nano-dollar."""
        read, written, audio = usage.cache_read_tokens, usage.cache_write_tokens, usage.input_audio_tokens
        usd = (usage.input_tokens - read - written - audio) * self.input
        if read:
            usd += read * (self.input if self.cache_read is None else self.cache_read)
        if written:
            price = self.input if self.cache_write is None else self.cache_write
            usd += written * price
            if self.cache_write_1h is not None and usage.cache_write_1h_tokens:
                usd += usage.cache_write_1h_tokens * (self.cache_write_1h - price)
        if audio:
            usd += audio * (self.input if self.input_audio is None else self.input_audio)
        if self.per_request is not None and (usage.input_tokens or usage.output_tokens):
            usd += self.per_request * 1_000_000
        spoken, drawn = usage.output_audio_tokens, usage.output_image_tokens
        out = (usage.output_tokens - spoken - drawn) * self.output
        if spoken:
            out += spoken * (self.output if self.output_audio is None else self.output_audio)
        if drawn:
            out += drawn * (self.output if self.output_image is None else self.output_image)
        # USD per million tokens is 1000 nano-dollars per token
        return Cost(round(usd * 1000), round(out * 1000), source)


class _Model(NamedTuple):
    """A model found in the table, with what makes its price change."""

    info: ModelInfo
    dated: bool
    timed: bool
    steps: tuple[int, ...]


class Prices:
    """Prices of models at a date.

    Args:
        overrides: Own prices by model name: `Rates`, or a mapping with the fields of `Rates` (USD per
            million tokens). They hold at any date and beat the table, not the source's own cost.

    Raises:
        ConfigurationError: An override is not a price.

    Example:
        >>> Prices({"my-finetune": {"input": 3.0, "output": 12.0}}).rates("my-finetune", None, 0.0).output
        12.0
    """

    def __init__(self, overrides: Mapping[str, Rates | Mapping[str, float]] | None = None) -> None:
        self._overrides = {name: _override(name, rates) for name, rates in (overrides or {}).items()}
        self._models: dict[tuple[str, str | None], _Model | None] = {}
        self._rates: dict[tuple[str, str | None, int, int, str | None], Rates] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._overrides,)

    def cost(self, call: Call) -> Cost | None:
        """What the call cost, None where nobody knows."""
        usage = call.usage
        rates = self.rates(call.model, call.provider, call.started_at, usage.input_tokens, call.tier)
        if call.source_cost is not None:
            cost = _from_source(call.source_cost, usage, rates)
            if cost is not None:
                return cost
        if rates is None:
            return None
        return rates.cost(usage, "override" if call.model in self._overrides else "table")

    def cost_of_cached(self, call: Call, cost: Cost) -> int:
        """The part of what was sent that was read from the cache, in nano-dollars: at its price, or at its share."""
        usage = call.usage
        if not usage.cache_read_tokens or not usage.input_tokens:
            return 0
        rates = self.rates(call.model, call.provider, call.started_at, usage.input_tokens, call.tier)
        read, whole = usage.cache_read_tokens, usage.input_tokens
        if rates is not None and (sent := rates.cost(usage).input_nano):
            read, whole = round(read * 1000 * (rates.input if rates.cache_read is None else rates.cache_read)), sent
        return min(cost.input_nano, cost.input_nano * read // whole)

    def rates(
        self, model: str | None, provider: str | None, at: float, input_tokens: int = 0, tier: str | None = None
    ) -> Rates | None:
        """Prices of a model, None where they are unknown.

        Args:
            model: Name as the provider was asked for it.
            provider: Provider as LangChain names it, None if unknown.
            at: Seconds since the epoch; prices of that day are used.
            input_tokens: Length of the input; some prices rise beyond a threshold.
            tier: One of `TIERS`, or `DECISION`; None for the standard one. The standard price where the model has none
                for it. On days before the list has one, it is the share of the standard price that it is on its first.
        """
        if not model:
            return None
        if self._overrides and model in self._overrides:
            return self._overrides[model]
        listed = "openai-decisions" if tier == DECISION and provider == "openai" else provider
        known = self._model(model, listed)
        if known is None:
            return None
        period = int(at // 60) if known.timed else int(at // 86_400) if known.dated else 0
        step = sum(input_tokens > start for start in known.steps) if known.steps else 0
        key = (model, provider, period, step, tier)
        rates = self._rates.get(key)
        if rates is None:
            if len(self._rates) > 10_000:
                self._rates.clear()
            when = datetime.fromtimestamp(at, tz=UTC)
            rates = self._rates[key] = _rates(known.info, when, TIERS.get(tier or ""), input_tokens)
        return rates

    def are_own(self, model: str | None) -> bool:
        """True if the user has set the price of a model of this name."""
        return model in self._overrides

    def context_window(self, model: str | None, provider: str | None) -> int | None:
        """Tokens that fit into the model's context, None where unknown."""
        known = self._model(model, provider) if model else None
        return known.info.context_window if known is not None else None

    def _model(self, model: str, provider: str | None) -> _Model | None:
        try:
            return self._models[model, provider]
        except KeyError:
            if len(self._models) > 10_000:
                self._models.clear()
            known = self._models[model, provider] = _find(model, provider)
            return known


def _override(name: str, rates: Rates | Mapping[str, float]) -> Rates:
    try:
        read = rates if isinstance(rates, Rates) else Rates(**rates)
        for field in read.__slots__:
            value = getattr(read, field)
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= MAX_RATE):
                msg = f"prices: {name!r}: {field} is {value!r}, expected USD per million tokens, 0 to {MAX_RATE:,}"
                raise ConfigurationError(msg)
    except TypeError as e:
        msg = (
            f"prices: {name!r}: expected input=, output= and optionally cache_read=, cache_write=, cache_write_1h=, "
            f"input_audio=, output_audio=, output_image= in USD per million tokens, per_request= in USD, got {rates!r}"
        )
        raise ConfigurationError(msg) from e
    return read


def _from_source(source: SourceCost, usage: Usage, rates: Rates | None) -> Cost | None:
    """The source's own figures; a bare total is split as our prices, or else the tokens, split it.

    What a total has beyond its parts (searches, which Langfuse counts apart) was paid, too: it is counted as input.
    """
    into, out, total = _nano(source.input_usd), _nano(source.output_usd), _nano(source.total_usd)
    if into is not None and out is not None and (into or out or not total):
        return Cost(into if total is None else max(into, total - out), out, "source")
    if total is None:
        return None
    ours = rates.cost(usage) if rates else None
    if ours is not None and ours.nano:
        into = total * ours.input_nano // ours.nano
    else:
        into = total * usage.input_tokens // usage.total_tokens if usage.total_tokens else total
    return Cost(into, total - into, "source")


def _nano(usd: float | None) -> int | None:
    """Whole nano-dollars of a sum that can be: an importer of somebody else's may hand on what is none."""
    return round(usd * NANO) if isinstance(usd, (int, float)) and 0 <= usd <= MAX_RATE else None


@lru_cache(maxsize=4096)
def candidates(model: str, provider: str | None) -> tuple[tuple[str, str | None], ...]:
    """Names under which a model may stand in the price table, likeliest first.

    Gateways and clouds put prefixes in front (`openai/gpt-4o`, `us.anthropic.claude-…`, `models/gemini-…`,
    `@key/…`); the longest remainder that is known wins. Of one of `HOSTS` only its own names are.
    """
    name = model.strip().lower()
    mapped = PROVIDERS.get(provider.lower(), provider.lower()) if provider else None
    if mapped in (None, "litellm") and "/" in name:  # who is called stands in front
        first = name.partition("/")[0]
        mapped = whose if (whose := PROVIDERS.get(first, first)) is None or whose in HOSTS else mapped
        if whose is None:
            return ()
    found: list[tuple[str, str | None]] = [(name, mapped)] if mapped else []
    found.append((name, None))
    if name.startswith(("text-embedding-3-", "text-embedding-ada-")):  # the table knows them as OpenAI's only
        found.append((name, "openai"))
    rest = name.removeprefix("models/")
    if rest.startswith("@"):
        rest = rest.partition("/")[2] or rest
    while "/" in rest:
        prefix, _, rest = rest.partition("/")
        found.append((rest, PROVIDERS.get(prefix, prefix)))
        found.append((rest, None))
    if rest != name:
        found.append((rest, mapped))
        found.append((rest, None))
    parts = rest.split(".")
    if len(parts) > 1 and (parts[0] in ("us", "eu", "apac", "global", "jp", "au") or parts[0] == "anthropic"):
        found.append((rest, "aws"))
        bare = parts[-1] if parts[0] != "anthropic" else rest.partition(".")[2]
        found.append((bare.partition("-v1:")[0], "anthropic"))
    if mapped in HOSTS:
        found = [(known, mapped) for known, _ in found]
    return tuple(dict.fromkeys(found))


def _find(model: str, provider: str | None) -> _Model | None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import ModelPrice, TieredPrices, TimeOfDateConstraint

    before, _, rest = model.partition(":")
    if rest and before.strip().lower() in _PREFIXES:
        model, provider = rest, before.strip()
    if (provider and PROVIDERS.get(provider.lower(), "") is None) or _UNLISTED.fullmatch(model.strip()):
        return None
    snapshot = get_snapshot()
    for name, where in candidates(model, provider):
        try:
            _, info = snapshot.find_provider_model(name, None, where, None)
        except LookupError:
            continue
        standard = [info.prices] if isinstance(info.prices, ModelPrice) else [c.prices for c in info.prices]
        variants = info.price_variants or []
        alternatives = [*standard, *(v.prices for v in variants)]
        constraints = [] if isinstance(info.prices, ModelPrice) else [c.constraint for c in info.prices]
        constraints += [v.constraint for v in variants]
        steps = {
            tier.start
            for prices in alternatives
            for price in vars(prices).values()
            if isinstance(price, TieredPrices)
            for tier in price.tiers
        }
        timed = any(isinstance(c, TimeOfDateConstraint) for c in constraints)
        if any(p.input_mtok is not None for p in standard):
            dated = len(standard) > 1 or any(c is not None for c in constraints)
            return _Model(info, dated, timed, tuple(sorted(steps)))
    return None


def _rates(info: ModelInfo, when: datetime, tier: Mapping[str, str] | None, input_tokens: int) -> Rates:
    """Prices of a moment. The list has had prices of tiers since October 2026, and the tiers are older."""
    standard = _read(info.get_prices(when), input_tokens)
    since = _first_day(info, tier) if tier is not None else None
    if since is None:
        return standard
    if when >= since:
        return _read(info.get_prices(when, tier), input_tokens)
    return _scaled(
        standard, _read(info.get_prices(since), input_tokens), _read(info.get_prices(since, tier), input_tokens)
    )


def _first_day(info: ModelInfo, tier: Mapping[str, str]) -> datetime | None:
    """Since when the list has prices of a tier; None if it has none."""
    from genai_prices.types import StartDateConstraint

    found = [v.constraint for v in info.price_variants or () if v.when.items() <= tier.items()]
    if not found:
        return None
    days = [c.start_date for c in found if isinstance(c, StartDateConstraint)]
    first = min(days) if len(days) == len(found) else date.min
    return datetime.combine(first, time.min, UTC)


def _scaled(prices: Rates, before: Rates, after: Rates) -> Rates:
    """Prices that are changed as these two are to each other."""

    def scale(now: float | None, old: float | None, new: float | None) -> float | None:
        return now * new / old if now and old and new is not None else now

    fields = ((f, *(getattr(rates, f) for rates in (prices, before, after))) for f in Rates.__slots__)
    return Rates(**{field: scale(*known) for field, *known in fields})  # type: ignore[arg-type]


def _read(prices: ModelPrice, input_tokens: int) -> Rates:
    from genai_prices.types import TieredPrices

    def usd(field: str) -> float | None:
        price = getattr(prices, field)
        if price is None:
            return None
        if isinstance(price, TieredPrices):
            applicable = price.base
            for tier in price.tiers:
                if input_tokens > tier.start:
                    applicable = tier.price
            return float(applicable)
        return float(price)

    fee = usd("requests_kcount")
    return Rates(
        usd("input_mtok") or 0.0,
        usd("output_mtok") or 0.0,
        usd("cache_read_mtok"),
        usd("cache_write_mtok"),
        usd("input_audio_mtok"),
        usd("output_audio_mtok"),
        usd("cache_write_1h_mtok"),
        usd("output_image_mtok"),
        fee / 1000 if fee is not None else None,
    )

"""Prices: the same as genai-prices' own, at the call's date; unknown stays unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from ts_langchain.call import Call, SourceCost, Usage
from ts_langchain.pricing import TIERS, Prices, candidates

DAY = datetime(2026, 9, 1, tzinfo=UTC)
MODELS = [
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("o3", "openai"),
    ("gpt-4o-2024-08-06", "openai"),
    ("gpt-5", "openai"),
    ("gpt-5.4", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-opus-4-1", "anthropic"),
    ("gemini-2.5-pro", "google"),
    ("deepseek-chat", "deepseek"),
]
ALIASES = {"google": "google_genai"}


def call(
    model: str | None,
    provider: str | None,
    usage: Usage,
    cost: SourceCost | None = None,
    at: float = DAY.timestamp(),
) -> Call:
    name = model or "m"
    return Call("m", "model", "s", "r", name, at, at + 1, model=model, provider=provider, usage=usage, source_cost=cost)


@pytest.mark.parametrize(("model", "provider"), MODELS)
@given(data=st.data())
def test_the_same_as_genai_prices(model: str, provider: str, data: Any) -> None:
    sent = data.draw(st.integers(1, 400_000))
    read = data.draw(st.integers(0, sent))
    written = data.draw(st.integers(0, sent - read))
    got = data.draw(st.integers(0, 50_000))
    hour = data.draw(st.integers(0, written)) if provider == "anthropic" else 0
    tier = data.draw(st.sampled_from([None, *TIERS]))
    # it has prices of tiers since 15 October 2026 at the latest
    first = 1_735_689_600 if tier is None else 1_792_022_400
    when = datetime.fromtimestamp(data.draw(st.integers(first, 1_795_000_000)), tz=UTC)
    theirs = calc_price(
        TheirUsage(
            input_tokens=sent, output_tokens=got, cache_read_tokens=read, cache_write_tokens=written,
            **({"cache_write_1h_tokens": hour} if hour else {}),
        ),
        model, provider_id=provider, genai_request_timestamp=when, price_context=TIERS.get(tier or ""),
    )  # fmt: skip
    usage = Usage(sent, got, read, written, cache_write_1h_tokens=hour)
    ours = Prices().cost(call(model, ALIASES.get(provider, provider), usage, at=when.timestamp())._replace(tier=tier))
    assert ours is not None
    assert ours.source == "table"
    assert ours.nano / 1e9 == pytest.approx(float(theirs.total_price), abs=2e-9)


def test_a_tier_has_its_own_price() -> None:
    usage, day = Usage(1_000_000, 1_000_000), datetime(2026, 11, 1, tzinfo=UTC).timestamp()

    def nano(tier: str | None, prices: Prices) -> int:
        cost = prices.cost(call("gpt-5", "openai", usage, at=day)._replace(tier=tier))
        assert cost is not None
        return cost.nano

    listed = {tier: nano(tier, Prices()) for tier in (None, *TIERS, "?")}
    assert listed["flex"] == listed["batch"] == listed[None] / 2
    assert listed["priority"] == listed["fast"] > listed[None]
    assert listed["?"] == listed[None]
    assert nano("flex", Prices({"gpt-5": {"input": 1, "output": 1}})) == 2_000_000_000


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("model", "provider"), [*MODELS, ("gpt-5.4", "openai"), ("gemini-2.5-flash", "google")])
def test_a_tier_costs_as_much_more_or_less_before_the_list_knows_it(model: str, provider: str, tier: str) -> None:
    """OpenAI has had a batch API since 2024, and genai-prices its prices since October 2026."""
    prices, provider = Prices(), ALIASES.get(provider, provider)

    def share(day: datetime) -> list[float | None]:
        now, standard = (prices.rates(model, provider, day.timestamp(), tier=asked) for asked in (tier, None))
        assert now is not None
        assert standard is not None
        pairs = ((getattr(now, f), getattr(standard, f)) for f in ("input", "output", "cache_read", "cache_write"))
        return [paid and round(paid / listed, 6) for paid, listed in pairs]

    known = share(datetime(2026, 10, 31, tzinfo=UTC))
    assert share(datetime(2026, 9, 1, tzinfo=UTC)) == share(datetime(2026, 3, 1, tzinfo=UTC)) == known


def test_what_is_cached_for_an_hour_costs_more() -> None:
    usage = Usage(1000, 0, cache_write_tokens=1000)
    longer = usage._replace(cache_write_1h_tokens=1000)
    prices, model = Prices(), "claude-sonnet-4-5"
    short, long = (prices.cost(call(model, "anthropic", u)) for u in (usage, longer))
    assert short is not None
    assert long is not None
    assert long.nano / short.nano == pytest.approx(2 / 1.25)  # Anthropic: twice the input price, and a quarter more
    own = {"input": 4.0, "output": 1.0, "cache_write": 5.0}
    assert Prices({"m": own}).cost(call("m", None, longer)) == (5_000_000, 0, "override")
    assert Prices({"m": {**own, "cache_write_1h": 8.0}}).cost(call("m", None, longer)) == (8_000_000, 0, "override")


@pytest.mark.parametrize("sent", [199_999, 200_000, 200_001])
def test_where_a_tier_begins(sent: int) -> None:
    theirs = calc_price(TheirUsage(input_tokens=sent, output_tokens=9), "gemini-2.5-pro", genai_request_timestamp=DAY)
    ours = Prices().cost(call("gemini-2.5-pro", "google_genai", Usage(sent, 9)))
    assert ours is not None
    assert ours.nano / 1e9 == pytest.approx(float(theirs.total_price), abs=2e-9)


@pytest.mark.parametrize(
    ("name", "provider", "bare"),
    [
        ("openai/gpt-4o", None, "gpt-4o"),
        ("openrouter/openai/gpt-4o", None, "gpt-4o"),
        ("gpt-4o", None, "gpt-4o"),
        ("GPT-4o", "openai", "gpt-4o"),
        ("models/gemini-2.5-pro", "google_genai", "gemini-2.5-pro"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "amazon_bedrock", "claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", None, "claude-sonnet-4-5"),
        ("anthropic.claude-3-5-haiku-20241022-v1:0", None, "claude-3-5-haiku-20241022"),
        ("apac.anthropic.claude-3-haiku-20240307-v1:0", None, "claude-3-haiku-20240307"),
        ("@key/gpt-4o", None, "gpt-4o"),
        ("openai/text-embedding-3-small", None, "text-embedding-3-small"),
        ("text-embedding-ada-002", "openai", "text-embedding-ada-002"),
    ],
)
def test_gateway_and_cloud_names(name: str, provider: str | None, bare: str) -> None:
    prices, at = Prices(), DAY.timestamp()
    found = prices.rates(name, provider, at)
    assert found is not None
    expected = prices.rates(bare, None, at)
    assert expected is not None
    assert (found.input, found.output) == (expected.input, expected.output)


@pytest.mark.parametrize(
    ("name", "bare", "provider"),
    [
        ("openai:gpt-4o-mini", "gpt-4o-mini", "openai"),
        ("anthropic:claude-sonnet-4-5", "claude-sonnet-4-5", "anthropic"),
        ("google_genai:gemini-2.5-flash", "gemini-2.5-flash", "google_genai"),
        (
            "bedrock:us.anthropic.claude-3-5-haiku-20241022-v1:0",
            "us.anthropic.claude-3-5-haiku-20241022-v1:0",
            "bedrock",
        ),
    ],
)
def test_names_as_init_chat_model_takes_them(name: str, bare: str, provider: str) -> None:
    rates = Prices().rates(name, None, 1_790_000_000.0)
    assert rates is not None
    assert rates == Prices().rates(bare, provider, 1_790_000_000.0)
    assert Prices().rates("ollama:llama3.1:8b", None, 1_790_000_000.0) is None


def test_a_regional_endpoint_has_its_own_price() -> None:
    prices, at = Prices(), DAY.timestamp()
    name = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    regional, worldwide = (prices.rates(f"{p}.{name}", "amazon_bedrock", at) for p in ("us", "global"))
    assert regional is not None
    assert worldwide is not None
    assert regional.input > worldwide.input


@pytest.mark.parametrize("model", ["my-finetune", "", None, "gpt-999", "x" * 10_000, "//", "@", "us.", "\ud800"])
def test_unknown_stays_unknown(model: str | None) -> None:
    assert Prices().cost(call(model, "openai", Usage(1000, 100))) is None


def test_a_model_on_ones_own_machine_has_no_list_price() -> None:
    assert Prices().cost(call("gpt-4o", "ollama", Usage(1000, 100))) is None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("deepseek-ai/DeepSeek-R1", "together"),
        ("together_ai/deepseek-ai/DeepSeek-R1", "litellm"),
        ("accounts/fireworks/models/mixtral-8x22b-instruct", "fireworks"),
        ("fireworks_ai/accounts/fireworks/models/mixtral-8x22b-instruct", None),
        ("deepseek-r1", "sambanova"),
        ("deepseek-ai/deepseek-r1", "nvidia"),
        ("mistralai/mistral-large", "ibm"),
        ("deepseek-ai/deepseek-r1-0528-maas", "google_vertexai"),
        ("vertex_ai/deepseek-ai/deepseek-r1-0528-maas", "litellm"),
    ],
)
def test_what_a_host_charges_is_in_nobody_elses_list(model: str, provider: str | None) -> None:
    """Of R1 Fireworks takes five times what DeepSeek itself does."""
    assert Prices().rates(model, provider, DAY.timestamp()) is None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("deepseek-r1:14b", "openai"),
        ("deepseek-r1:8b-llama-distill-q4_K_M", None),
        ("ollama/deepseek-r1", None),
        ("ollama_chat/deepseek-r1", "litellm"),
        ("hosted_vllm/mistral-small-latest", None),
        ("deepseek/deepseek-r1:free", "openrouter"),
    ],
)
def test_what_runs_at_home_or_for_free_has_no_list_price(model: str, provider: str | None) -> None:
    """By whatever client it is called."""
    assert Prices().rates(model, provider, DAY.timestamp()) is None
    assert Prices({model: {"input": 1, "output": 1}}).rates(model, provider, DAY.timestamp()) is not None


def test_hosts_have_prices_of_their_own() -> None:
    prices, at, llama = Prices(), DAY.timestamp(), "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    assert prices.rates(llama, "together", at) == prices.rates(f"together_ai/{llama}", "litellm", at) is not None
    assert prices.rates("accounts/fireworks/models/deepseek-r1-0528", "fireworks", at) is not None
    for name in ("claude-sonnet-4-5@20250929", "models/gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro"):
        assert prices.rates(name, "google_vertexai", at) == prices.rates(f"vertex_ai/{name}", None, at) is not None


@pytest.mark.parametrize("model", ["sonar", "sonar-pro"])
def test_a_request_may_cost_by_itself(model: str) -> None:
    """Perplexity takes a fee for each search, which is most of what a short answer costs."""
    theirs = calc_price(
        TheirUsage(input_tokens=100, output_tokens=50), model, provider_id="perplexity", genai_request_timestamp=DAY
    )
    ours = Prices().cost(call(model, "perplexity", Usage(100, 50)))
    assert ours is not None
    assert ours.nano / 1e9 == pytest.approx(float(theirs.total_price), abs=2e-9)
    nothing = Prices().cost(call(model, "perplexity", Usage()))
    assert nothing is not None
    assert nothing.nano == 0
    own = Prices({model: {"input": 1.0, "output": 1.0, "per_request": 0.005}}).cost(call(model, None, Usage(100, 50)))
    assert own == (5_100_000, 50_000, "override")


def test_a_total_may_hold_more_than_its_parts() -> None:
    """What Langfuse counts apart, such as searches; of parts that nobody filled in it is all there is."""
    usage = Usage(1_000, 100)
    searched = Prices().cost(call("gpt-4o", "openai", usage, SourceCost(0.0025, 0.002, 0.0145)))
    assert searched == (12_500_000, 2_000_000, "source")
    whole = Prices().cost(call("gpt-4o", "openai", usage, SourceCost(0.0, 0.0, 0.0035)))
    assert whole == (2_500_000, 1_000_000, "source")
    less = Prices().cost(call("gpt-4o", "openai", usage, SourceCost(0.0025, 0.002, 0.001)))
    assert less == (2_500_000, 2_000_000, "source")


@pytest.mark.parametrize("odd", [-1.0, float("nan"), float("inf"), 1e300, "0.5"])
def test_a_source_is_not_believed_what_cannot_be(odd: Any) -> None:
    usage = Usage(1_000, 100)
    plain = Prices().cost(call("gpt-4o", "openai", usage))
    assert plain is not None
    for told in (SourceCost(odd, odd, odd), SourceCost(0.1, odd), SourceCost(total_usd=odd)):
        assert Prices().cost(call("gpt-4o", "openai", usage, told)) == plain
    assert Prices().cost(call("gpt-4o", "openai", usage, SourceCost(0.5, 0.25, odd))) == (5e8, 2.5e8, "source")


def test_who_is_believed() -> None:
    usage = Usage(1_000_000, 1_000_000)
    own = Prices({"gpt-4o": {"input": 1.0, "output": 2.0}})
    assert own.cost(call("gpt-4o", "openai", usage)) == (1_000_000_000, 2_000_000_000, "override")
    told = own.cost(call("gpt-4o", "openai", usage, SourceCost(0.5, 0.25)))
    assert told == (500_000_000, 250_000_000, "source")
    total = own.cost(call("gpt-4o", "openai", usage, SourceCost(total_usd=3.0)))
    assert total == (1_000_000_000, 2_000_000_000, "source")
    unknown = Prices().cost(call("my-finetune", None, Usage(3, 1), SourceCost(total_usd=1.0)))
    assert unknown == (750_000_000, 250_000_000, "source")
    nothing = own.cost(call("gpt-4o", "openai", usage, SourceCost()))
    assert nothing is not None
    assert nothing.source == "override"


def test_cached_tokens_have_their_own_price() -> None:
    prices = Prices({"m": {"input": 10.0, "output": 20.0, "cache_read": 1.0, "cache_write": 12.5}})
    cost = prices.cost(call("m", None, Usage(1000, 0, cache_read_tokens=600, cache_write_tokens=100)))
    assert cost is not None
    assert cost.input_nano == (300 * 10 + 600 * 1 + 100 * 12.5) * 1000


def test_audio_has_its_own_price() -> None:
    usage = Usage(1000, 500, input_audio_tokens=400, output_audio_tokens=200)
    prices = {"input": 10.0, "output": 20.0}
    dear = Prices({"m": {**prices, "input_audio": 40.0, "output_audio": 80.0}}).cost(call("m", None, usage))
    assert dear == ((600 * 10 + 400 * 40) * 1000, (300 * 20 + 200 * 80) * 1000, "override")
    plain = Prices({"m": prices}).cost(call("m", None, usage))
    assert plain == (1000 * 10 * 1000, 500 * 20 * 1000, "override")


@pytest.mark.parametrize("model", ["gpt-4o-audio-preview", "gpt-realtime"])
def test_audio_costs_what_genai_prices_says(model: str) -> None:
    theirs = calc_price(
        TheirUsage(input_tokens=900, output_tokens=700, input_audio_tokens=300, output_audio_tokens=200),
        model, provider_id="openai", genai_request_timestamp=DAY,
    )  # fmt: skip
    ours = Prices().cost(call(model, "openai", Usage(900, 700, input_audio_tokens=300, output_audio_tokens=200)))
    assert ours is not None
    assert ours.nano / 1e9 == pytest.approx(float(theirs.total_price), abs=2e-9)


def test_a_gateways_prefix_names_who_is_paid() -> None:
    at = DAY.timestamp()
    for provider in ("groq", "cerebras"):
        name = {"groq": "llama-3.1-8b-instant", "cerebras": "llama3.1-8b"}[provider]
        assert candidates(f"{provider}/{name}", None)[1] == (name, provider)
        assert Prices().rates(f"{provider}/{name}", None, at) == Prices().rates(name, provider, at) is not None


def test_a_dot_is_no_region() -> None:
    assert candidates("gpt-4.1-mini", None) == (("gpt-4.1-mini", None),)
    assert Prices().rates("acme.claude-sonnet-4-5", None, DAY.timestamp()) is None


def test_context_windows() -> None:
    assert Prices().context_window("gpt-4o", "openai") == 128_000
    assert Prices().context_window("my-finetune", None) is None
    assert Prices().context_window(None, None) is None

"""Reading what a model call brought back, and the tokens it used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from ts_langchain.call import NO_USAGE, SourceCost, ToolCall, Usage
from ts_langchain.capture.in_words import asked_in_words
from ts_langchain.capture.messages import (
    NOTHING,
    Message,
    is_mapping,
    mapping,
    name_of,
    read_message,
    read_tool_calls,
    unwrap,
)
from ts_langchain.fingerprint import FreeText, arguments, canonical
from ts_langchain.pricing import DECISION, TIERS

CHARS_PER_TOKEN = 4
MAX_USD = 1_000_000.0  # of one call; beyond it a cost is a mistake of whoever reported it
TICKS_PER_USD = 10_000_000_000
MAX_THOUGHT = 200_000  # what a total has beyond that is something else; models think in far less
DIGITS = 10
MAX_TOKENS = 1_000_000_000  # beyond it a count is a mistake of whoever reported it


class Answer(NamedTuple):
    """What a model call brought back.

    Attributes:
        digest: Fingerprint of the message.
        chars: Characters of it, arguments of tool calls included.
        usage: Tokens as reported, or estimated.
        model: Name of the model that answered.
        finish_reason: Why it stopped.
        tool_calls: What it asked for; without an id what it asked for in words.
        message: The message itself, to be forgotten soon.
        read: What was read of it.
        text: The residue of its words, where it is an answer in words, for comparing it with later ones.
        tier: How the provider processed the request, where that has a price of its own.
        cached: True if LangChain's cache of responses answered: nothing was sent, and nothing billed.
        cost: What was charged for it, where the answer itself says so.
        response_id: By which the next request can go on from it (OpenAI's responses API), None of all others.
    """

    digest: int = 0
    chars: int = 0
    usage: Usage = NO_USAGE
    model: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    message: object = None
    read: Message | None = None
    text: FreeText | None = None
    tier: str | None = None
    cached: bool = False
    cost: SourceCost | None = None
    response_id: str | None = None


def read_answer(response: object, prompt_chars: int, usage: object = None, *, knows_tools: bool = False) -> Answer:
    """Reads a model's answer.

    Args:
        response: An `LLMResult`, or the recorded outputs: `generations[0][0].message`,
            `choices[0].message`, or a bare message.
        prompt_chars: Characters of the prompt, for the estimate where nobody reports usage.
        usage: Usage that the source of a history holds beside the outputs, as `read_usage` takes it.
        knows_tools: The request defined tools: what the model asks for it does not ask for in words.
    """
    message, extra, llm_output = _find_message(response)
    if message is None:
        return Answer(usage=read_usage(usage) or NO_USAGE)
    if is_mapping(message):
        get = unwrap(message).get
        invalid, found, reported = get("invalid_tool_calls"), get("response_metadata"), get("usage_metadata")
    else:
        invalid = getattr(message, "invalid_tool_calls", None)
        found = getattr(message, "response_metadata", None)
        reported = getattr(message, "usage_metadata", None)
    meta = mapping(found)
    read = read_message(message)
    counted = meta.get("token_usage") or meta.get("usage")
    tokens = (
        _reported(reported, counted)
        or read_usage(usage)
        or read_usage(counted)
        or read_usage(extra.get("usage") or extra.get("token_count"))
        or read_usage(llm_output.get("token_usage") or llm_output.get("usage"))
        or Usage(_estimate(prompt_chars), _estimate(read.chars), estimated=True)
    )
    calls = tuple([ToolCall(call[0], call[1], call[3]) for call in read.tool_calls]) if read.tool_calls else ()
    if invalid:
        calls += tuple(ToolCall(call.id, call.name, call.digest, valid=False) for call in read_tool_calls(invalid))
    words = words_of(message) if not calls and read.chars else ""
    asked = None if knows_tools else asked_in_words(words)
    if asked is not None:
        calls = (ToolCall("", name_of(asked.name), arguments(asked.arguments).fingerprint),)
    reason = meta.get("finish_reason") or meta.get("stop_reason") or meta.get("done_reason") or meta.get("stopReason")
    if reason is None:
        reason = extra.get("finish_reason") or extra.get("stop_reason")
    if reason is None:  # OpenAI's responses API names one only where the answer is incomplete
        reason = mapping(meta.get("incomplete_details")).get("reason")
    own_id = meta.get("id") or extra.get("id")
    model = meta.get("model_name") or meta.get("model") or extra.get("model") or llm_output.get("model_name")
    return Answer(
        read.digest,
        read.chars,
        tokens,
        model if type(model) is str and model else None,
        reason if type(reason) is str else None,
        calls,
        message,
        read,
        FreeText(words) if words and not calls else None,
        DECISION if _decides(extra.get("output") or extra.get("message")) else _tier(meta, extra),
        # what LangChain's cache returns says so by a cost of nothing
        is_mapping(reported) and type(cost := reported.get("total_cost")) in (int, float) and cost == 0,
        _charged(meta, counted or extra.get("usage")),
        own_id if type(own_id) is str and own_id.startswith("resp") else None,
    )


def _reported(reported: object, counted: object) -> Usage | None:
    """LangChain's usage; the provider's own where that alone tells the parts (Mistral) or all passes (Anthropic).

    Or what was cached, which langchain-openai does not know by the names of DeepSeek and Moonshot.
    """
    usage = read_usage(reported)
    if usage is None or type(counted) is not dict:
        return usage
    untold = "prompt_tokens_details" in counted and "input_token_details" not in cast("Mapping[str, object]", reported)
    if not usage.cache_read_tokens:
        untold = untold or "prompt_cache_hit_tokens" in counted or "cached_tokens" in counted
    if untold or counted.get("iterations"):
        own = read_usage(counted)
        if own is not None and own.input_tokens >= usage.input_tokens and own.output_tokens >= usage.output_tokens:
            return own
    return usage


def _charged(meta: Mapping[str, object], usage: object) -> SourceCost | None:
    """What gateways say that they charged, in USD.

    OpenRouter: `cost` in the usage, or as langchain-openrouter has it, beside it; with a key of one's own at the
    provider it is only OpenRouter's fee, and what the provider takes stands in `cost_details`. LiteLLM:
    `response_cost`, where 0 may mean that it does not know. Perplexity: `cost.total_cost` in the usage. xAI:
    `cost_in_usd_ticks` in the usage, of which ten thousand million are a dollar.
    """
    said: Mapping[str, object] = meta
    cost = meta.get("cost")
    if cost is None:
        cost = meta.get("response_cost") or None
    if cost is None and usage is not None:
        said = mapping(usage)
        cost = said.get("cost")
        if cost is None and type(ticks := said.get("cost_in_usd_ticks")) is int and ticks <= MAX_USD * TICKS_PER_USD:
            cost = ticks / TICKS_PER_USD
    if cost is None:
        return None
    if type(cost) is dict:
        cost = cost.get("total_cost")
    upstream = mapping(said.get("cost_details")).get("upstream_inference_cost")
    total = _usd(cost)
    if total is not None and (more := _usd(upstream)) is not None and more > total:
        total += more
    return SourceCost(total_usd=total) if total is not None else None


def _usd(value: object) -> float | None:
    """A sum that can be, None for anything else."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < MAX_USD
    return float(cast("float", value)) if known else None


def _tier(meta: Mapping[str, object], beside: Mapping[str, object]) -> str | None:
    """How the request was processed: OpenAI says so beside the answer, Anthropic inside its usage."""
    tier = meta.get("service_tier") or beside.get("service_tier")
    if tier is None and (usage := meta.get("usage") or beside.get("usage")):
        usage = mapping(usage)
        tier = "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
    return tier if type(tier) is str and tier in TIERS else None


def read_tier(outputs: Mapping[str, object]) -> str | None:
    """How a request without a message, an embedding, was processed."""
    return _tier(NOTHING, outputs)


def words_of(message: object) -> str:
    """An answer's words."""
    content = unwrap(message).get("content") if is_mapping(message) else getattr(message, "content", None)
    if isinstance(content, list):
        texts = [b.get("text") for b in content if isinstance(b, Mapping)]
        content = " ".join(t for t in texts if isinstance(t, str))
    return content if isinstance(content, str) else ""


def _find_message(response: object) -> tuple[object, Mapping[str, object], Mapping[str, object]]:
    """The message in an answer, what stands beside it, and LangChain's `llm_output`."""
    if response is None:
        return None, NOTHING, NOTHING
    if not is_mapping(response):
        generations = getattr(response, "generations", None)
        output = mapping(getattr(response, "llm_output", None))
        if not generations or not generations[0]:
            return None, NOTHING, output
        generation = generations[0][0]
        message = getattr(generation, "message", None)
        if message is None:
            message = {"role": "ai", "content": getattr(generation, "text", "")}
        return message, mapping(getattr(generation, "generation_info", None)), output
    output = mapping(response.get("llm_output"))
    generation = _first(_first(response.get("generations")))
    if isinstance(generation, Mapping):
        info = generation.get("generation_info")
        message = generation.get("message")
        if not isinstance(message, Mapping):
            message = {"role": "ai", "content": generation.get("text") or ""}
        return message, info if isinstance(info, Mapping) else NOTHING, output
    choice = _first(response.get("choices"))
    if isinstance(choice, Mapping):
        beside = {**response, "finish_reason": choice.get("finish_reason")}
        return choice.get("message") or {"role": "ai", "content": choice.get("text") or ""}, beside, output
    nested = response.get("message") or response.get("output")
    if isinstance(nested, Mapping):
        if _decides(nested):
            nested = {"role": "ai", "content": canonical(nested["answers"]).decode()}
        return nested, response, output
    if isinstance(nested, str):
        return {"role": "ai", "content": nested}, response, output
    last = response.get("messages")
    if isinstance(last, list) and last:
        return last[-1], response, output
    if "content" in response or "lc" in response:
        return {"role": "ai", **response}, response, output
    return None, NOTHING, output


def _decides(answer: object) -> bool:
    """True for the answer of a decision model."""
    return isinstance(answer, Mapping) and "answers" in answer and "content" not in answer


def _first(value: object) -> object:
    return value[0] if isinstance(value, (list, tuple)) and value else value


def _estimate(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def _count(*values: object) -> int:
    """The first of several spellings that is a sensible count of tokens."""
    for value in values:
        if type(value) is int:
            if 0 < value <= MAX_TOKENS:
                return value
        elif isinstance(value, float):
            if 0 < value <= MAX_TOKENS:
                return int(value)
        elif isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= DIGITS:
            return _count(int(value))  # as logs keep it that know text alone
    return 0


def read_usage(reported: object) -> Usage | None:
    """Reads token usage: LangChain's `usage_metadata`, or the raw one of OpenAI, Anthropic or Bedrock's Converse.

    Anthropic's and Bedrock's raw input leaves the cached tokens out, and what a compaction took; they are added.
    LiteLLM puts Anthropic's fields beside OpenAI's `prompt_tokens`, which holds them. What xAI thinks is no part of
    its output, and what Gemini thinks is none of what others make of it: see `_thought_apart`. None if it holds no
    count.
    """
    if not reported or (type(reported) is not dict and not isinstance(reported, Mapping)):
        return None
    get = cast("Mapping[str, object]", reported).get
    details, out = get("input_token_details"), get("output_token_details")
    counted = "total_tokens" in reported and "input_tokens" in reported and "input_tokens_details" not in reported
    if counted and details is None and out is None:
        # LangChain's without details: the way of many calls, and the shortest
        usage = Usage(_count(get("input_tokens")), _count(get("output_tokens")))
        if get("total_tokens") != usage.input_tokens + usage.output_tokens:
            usage = _thought_apart(usage, _count(get("total_tokens")), {})
        return usage if usage.input_tokens or usage.output_tokens else None
    if details is not None or out is not None:
        ins, outs = mapping(details), mapping(out)
        hour = _count(ins.get("ephemeral_1h_input_tokens"))
        usage = Usage(
            _count(get("input_tokens")),
            _count(get("output_tokens")),
            _count(ins.get("cache_read")) or _of_tier(ins, "cache_read"),
            # Anthropic splits what it writes by how long it lives
            _count(ins.get("cache_creation"))
            or _of_tier(ins, "cache_creation")
            or _count(ins.get("ephemeral_5m_input_tokens")) + hour,
            _count(outs.get("reasoning")) or _of_tier(outs, "reasoning"),
            _count(ins.get("audio")),
            _count(outs.get("audio")),
            cache_write_1h_tokens=hour,
            output_image_tokens=_count(outs.get("image")),
        )
    else:
        ins = mapping(get("prompt_tokens_details") or get("input_tokens_details"))
        outs = mapping(get("completion_tokens_details") or get("output_tokens_details"))
        read = _count(get("cache_read_input_tokens"), get("cacheReadInputTokens"))
        written = _count(get("cache_creation_input_tokens"), get("cacheWriteInputTokens"))
        lives = get("cache_creation") or ins.get("cache_creation_token_details")
        hour = _count(mapping(lives).get("ephemeral_1h_input_tokens")) if lives else _for_an_hour(get("cacheDetails"))
        input_tokens = _count(get("prompt_tokens"))
        output_tokens = _count(get("output_tokens"), get("completion_tokens"), get("outputTokens"))
        apart = _count(get("total_tokens")) == input_tokens + output_tokens + read + written
        if not input_tokens or read + written > input_tokens or apart:  # Anthropic's count, or one made of it
            input_tokens = (input_tokens or _count(get("input_tokens"), get("inputTokens"))) + read + written
        usage = Usage(
            input_tokens,
            output_tokens,
            # DeepSeek and Moonshot name it beside, or instead
            read or _count(ins.get("cached_tokens"), get("prompt_cache_hit_tokens"), get("cached_tokens")),
            written or _count(ins.get("cache_write_tokens"), ins.get("cache_creation_tokens")),
            _count(outs.get("reasoning_tokens"), outs.get("thinking_tokens")),
            _count(ins.get("audio_tokens")),
            _count(outs.get("audio_tokens")),
            cache_write_1h_tokens=hour,
            output_image_tokens=_count(outs.get("image_tokens")),
        )
        if passes := get("iterations"):
            usage = _compacted(usage, passes)
    total = _count(get("total_tokens"))
    if usage.reasoning_tokens or total > usage.total_tokens:
        usage = _thought_apart(usage, total, ins or outs)
    return _consistent(usage) if usage.input_tokens or usage.output_tokens else None


def _thought_apart(usage: Usage, total: int, details: Mapping[str, object]) -> Usage:
    """The usage with what was thought within the output, where it was counted apart from it.

    xAI's `completion_tokens` leave it out, as Vertex says of Grok and langchain-xai mends. So does what gateways make
    of Gemini's `candidatesTokenCount`; Google's own OpenAI endpoint tells it in the total alone. It is billed as
    output.

    Args:
        usage: As it was counted.
        total: Of all tokens, 0 if unknown.
        details: What is told of the input's and the output's parts: without any, what the total has more was thought.
    """
    thought, counted = usage.reasoning_tokens, usage.input_tokens + usage.output_tokens
    # a total without it says that it is no more: gateways count thoughts by a tokenizer of their own
    if thought and (total == counted + thought or (thought > usage.output_tokens and total != counted)):
        return usage._replace(output_tokens=usage.output_tokens + thought)
    more = total - counted
    if details or thought or not 0 < more <= MAX_THOUGHT:
        return usage
    if not usage.input_tokens or usage.cache_read_tokens or usage.cache_write_tokens:
        return usage
    return usage._replace(output_tokens=usage.output_tokens + more, reasoning_tokens=more)


def read_embedding_usage(reported: object) -> Usage | None:
    """The same of an embedding, of which some (Voyage) tell nothing but the total: all of it is input."""
    usage = read_usage(reported)
    if usage is None and is_mapping(reported) and (total := _count(mapping(reported).get("total_tokens"))):
        return Usage(total)
    return usage


def _for_an_hour(kept: object) -> int:
    """What Bedrock keeps cached for an hour, of its `cacheDetails`."""
    found = map(mapping, kept) if isinstance(kept, (list, tuple)) else ()
    return sum(_count(one.get("inputTokens")) for one in found if one.get("ttl") == "1h")


def _compacted(usage: Usage, passes: object) -> Usage:
    """The usage with what Anthropic took to sum the conversation up: billed, and not in the counts around it."""
    for one in passes if isinstance(passes, (list, tuple)) else ():
        more = read_usage(one) if mapping(one).get("type") == "compaction" else None
        if more is not None:
            usage = usage._replace(
                input_tokens=usage.input_tokens + more.input_tokens,
                output_tokens=usage.output_tokens + more.output_tokens,
                cache_read_tokens=usage.cache_read_tokens + more.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens + more.cache_write_tokens,
                cache_write_1h_tokens=usage.cache_write_1h_tokens + more.cache_write_1h_tokens,
            )
    return usage


def _of_tier(details: Mapping[str, object], name: str) -> int:
    """A count under its name for OpenAI's service tiers: `langchain-openai` puts `flex_` or `priority_` in front."""
    return _count(details.get(f"flex_{name}"), details.get(f"priority_{name}"))


def _consistent(usage: Usage) -> Usage:
    """Parts never exceed their whole, whatever the source says."""
    if (
        usage.cache_read_tokens + usage.cache_write_tokens + usage.input_audio_tokens <= usage.input_tokens
        and usage.reasoning_tokens + usage.output_audio_tokens + usage.output_image_tokens <= usage.output_tokens
        and usage.cache_write_1h_tokens <= usage.cache_write_tokens
    ):
        return usage
    read = min(usage.cache_read_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - read)
    audio = min(usage.input_audio_tokens, usage.input_tokens - read - written)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    spoken = min(usage.output_audio_tokens, usage.output_tokens - reasoning)
    return usage._replace(
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        input_audio_tokens=audio,
        output_audio_tokens=spoken,
        output_image_tokens=min(usage.output_image_tokens, usage.output_tokens - reasoning - spoken),
        cache_write_1h_tokens=min(usage.cache_write_1h_tokens, written),
    )

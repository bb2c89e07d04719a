"""The one record everything downstream is made of: a finished call.

Named tuples where a record is made on every call: as frozen as a frozen dataclass, at a third of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ts_langchain.fingerprint import Arguments, FreeText

Kind = Literal["model", "tool", "retriever", "embedding"]
Status = Literal["ok", "error", "cancelled"]


class Usage(NamedTuple):
    """Tokens of one call, as `langchain_core`'s `UsageMetadata` counts them.

    `input_tokens` contains the cached and the audio part of the input, `output_tokens` contains the
    reasoning, the audio and the image part of the output.

    Attributes:
        input_tokens: All tokens sent, cached ones included.
        output_tokens: All tokens generated, reasoning included.
        cache_read_tokens: The part of `input_tokens` read from the provider's prompt cache.
        cache_write_tokens: The part of `input_tokens` written to the provider's prompt cache.
        reasoning_tokens: The part of `output_tokens` the model spent on reasoning.
        input_audio_tokens: The part of `input_tokens` that was audio.
        output_audio_tokens: The part of `output_tokens` that was audio.
        estimated: True if nobody reported the usage and it was estimated from text lengths
            (4 characters a token).
        cache_write_1h_tokens: The part of `cache_write_tokens` to be kept for an hour, which costs more.
        output_image_tokens: The part of `output_tokens` that was images, which cost a multiple of text.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    estimated: bool = False
    cache_write_1h_tokens: int = 0
    output_image_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


NO_USAGE = Usage()


class ToolCall(NamedTuple):
    """A tool call that a model asked for.

    Attributes:
        id: The provider's `tool_call_id`; empty if it gave none.
        name: The tool's name.
        args: Fingerprint of the arguments (see `ts_langchain.fingerprint`).
        valid: False for what LangChain lists under `invalid_tool_calls`.
    """

    id: str
    name: str
    args: int
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Toolset:
    """The tool definitions shipped with one model request.

    Attributes:
        names: Tool names in the order sent.
        sizes: Length of each definition in bytes of JSON, aligned with `names`.
        fingerprint: Equal for equal definitions in equal order.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    fingerprint: int

    @property
    def total_bytes(self) -> int:
        """Bytes of JSON of all definitions together."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class SourceCost:
    """What the source of a history says that a call cost, in USD; None where it does not say."""

    input_usd: float | None = None
    output_usd: float | None = None
    total_usd: float | None = None


UNBILLED = SourceCost(0.0, 0.0, 0.0)


class Image(NamedTuple):
    """An image in a request.

    Attributes:
        digest: Fingerprint of the image or its address.
        high: True if it is read in high detail: asked for, or the provider's default.
        tokens: Estimated tokens.
    """

    digest: int
    high: bool
    tokens: int


class Lost(NamedTuple):
    """A model's answer that nobody got, since what was around the call failed behind it.

    Attributes:
        call_id: The call that gave it.
        error: Type name of what was raised.
        at: When it was lost.
        seconds: Time the call took.
    """

    call_id: str
    error: str
    at: float
    seconds: float


class Prompt(NamedTuple):
    """What a model request looked like, without its content.

    Attributes:
        fingerprint: Hash chain over all messages, ids left out.
        branch: Which line of conversation inside the session: hash of the opening messages.
        messages: Number of messages.
        chars: Characters of text in all messages.
        repeated_chars: Characters in messages that repeat, word for word, an earlier long message of
            the same prompt, or that were superseded by a later answer to the same tool call.
        tool_result_chars: Characters in tool results.
        last_role: Role of the last message: `human`, `tool`, `ai`, `system`.
        classification: True if the wording asks for a classification (yes or no, which category, ...).
        last_chars: Characters of the last message.
        images: Images that are new in this request, as against the one before on the same branch, and not answered yet.
        image_tokens: Estimated tokens of all images in the request.
        carried_chars: Characters of the opening messages that are the same as in the request before on the same branch;
            in the first one, of a system message that another conversation of the session opens with.
        broke_at: Index of the first message that differs from the request before, where its past was rewritten; -1
            where it only grew.
        unused_chars: Characters of large tool results that have been carried for some turns without anything the model
            wrote naming what they name.
        last: Fingerprint of the last message.
    """

    fingerprint: int
    branch: int
    messages: int
    chars: int
    repeated_chars: int = 0
    tool_result_chars: int = 0
    last_role: str = "human"
    classification: bool = False
    last_chars: int = 0
    images: tuple[Image, ...] = ()
    image_tokens: int = 0
    carried_chars: int = 0
    broke_at: int = -1
    unused_chars: int = 0
    last: int = 0


class Call(NamedTuple):
    """One finished model, tool, retriever or embedding call.

    Times are event time: seconds since the epoch as the call itself recorded them, never the time at
    which it was looked at.

    Attributes:
        id: Run id; unique.
        kind: What was called.
        session_id: The conversation it belongs to.
        root_id: The outermost run it belongs to; one invocation of an agent.
        name: The tool's, retriever's or model's name.
        started_at: Seconds since the epoch.
        ended_at: Seconds since the epoch.
        status: `cancelled` is a stream the consumer left or a task that was cancelled.
        error: Type name of the exception, None if there was none.
        model: Model name as the provider was asked for it.
        provider: Provider as LangChain or the source names it (`openai`, `anthropic`, ...).
        usage: Tokens.
        source_cost: Cost as the source reported it.
        prompt: The request, model calls only.
        toolset: Tool definitions that went along, model calls only.
        request: Fingerprint of the whole request: messages, tools, model, temperature. 0 where it was not recorded.
        answer: Fingerprint of what came back: message, tool result, documents, error. 0 where it was not
            captured.
        answer_chars: Characters that came back.
        temperature: As requested; None if not given.
        finish_reason: As the provider reported it.
        tool_calls: Tool calls the model asked for.
        arguments: Arguments of a tool, query of a retriever.
        tool_call_id: Joins a tool call with the request for it.
        requested_by: Id of the model call that asked for this tool call, or worded the query that code asks.
        siblings: How many tool calls that model call asked for, or queries it worded, this one included.
        pending: True if the answer says that something is still under way ("status": "running"), or if the tool waited
            for a human.
        items: Fingerprints of documents (retriever) or texts (embedding).
        item_tokens: Estimated tokens of each of `items` (embedding).
        node: LangGraph node.
        tags: Tags of the run.
        user_id: User, where known.
        max_tokens: Bound on the output that the request set; None if it set none.
        answer_text: Residue of a model's answer in words, for comparing; None where it gave none.
        traits: Facts about a call that some rules need, as (name, number): see `ts_langchain.capture.traits`.
        tier: How the provider processed it, where that has a price of its own: see `ts_langchain.pricing.TIERS` and
            `DECISION`.
        turn: Which of the session's turns it belongs to: what an agent does in answer to one request (see
            `ts_langchain.capture.memory.Memory`).
        conversation: Fingerprint of how the conversation it was made in opens, of tools the one it was asked for in; 0
            if unknown.
        step: Which superstep of LangGraph it was made in, 0 if in none that is known.
        task: Which task of that superstep. Tasks of one superstep do not know of each other.
        trace_id: The outermost run that it is recorded under, where `root_id` is another: in a loop by hand the first
            run of a turn stands for all of it. None where they are the same.
        findings: Of a tool that runs agents: fingerprint of what their tools gave, whatever they made of it in words; 0
            if nobody can say.
        gist: Fingerprint of a tool's answer without UUIDs, the time it was made at, and what else may be another one
            each time; 0 if it holds none of these.
        around: Of a model call in a graph inside of another one: the task of LangGraph that it runs in; 0 outermost.
        unavailable: True if it failed because whoever answers is not there for now (503, too many requests).
        purpose: What a library asks a model for by itself, as LangChain's middleware says (`summarization`,
            `tool_selection`); None for the app's own requests.
        lost: The answer to the very same request before this one, if it was lost.
        agent: Of a model call: which agent inside a graph makes it, known by the nodes around that; 0 outside of one.
    """

    id: str
    kind: Kind
    session_id: str
    root_id: str
    name: str
    started_at: float
    ended_at: float
    status: Status = "ok"
    error: str | None = None
    model: str | None = None
    provider: str | None = None
    usage: Usage = NO_USAGE
    source_cost: SourceCost | None = None
    prompt: Prompt | None = None
    toolset: Toolset | None = None
    request: int = 0
    answer: int = 0
    answer_chars: int = 0
    temperature: float | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    arguments: Arguments | None = None
    tool_call_id: str | None = None
    requested_by: str | None = None
    siblings: int = 1
    pending: bool = False
    items: tuple[int, ...] = ()
    item_tokens: tuple[int, ...] = ()
    node: str | None = None
    tags: tuple[str, ...] = ()
    user_id: str | None = None
    max_tokens: int | None = None
    answer_text: FreeText | None = None
    traits: tuple[tuple[str, int], ...] = ()
    tier: str | None = None
    turn: int = 0
    conversation: int = 0
    step: int = 0
    task: int = 0
    trace_id: str | None = None
    findings: int = 0
    gist: int = 0
    around: int = 0
    purpose: str | None = None
    unavailable: bool = False
    lost: Lost | None = None
    agent: int = 0


class Feature(IntFlag):
    """What a call may have, and most calls have not. Rules that need it are shown no others."""

    CANCELLED = 1
    """The reader left, or the task was cancelled."""
    TOOLSET = 2
    """Tool definitions went along."""
    IMAGES = 4
    """There are images in the request."""
    CLASSIFICATION = 8
    """The request is worded as a classification."""
    UNUSED = 16
    """Large tool results are carried along that nothing has used."""
    REASONING = 32
    """The model spent tokens on reasoning."""
    WORDS = 64
    """The model answered in words and asked for no tools."""
    TRAITS = 128
    """Facts about the call are known, see `Call.traits`."""
    LOST = 256
    """The answer to the very same request before this one was lost."""


_CANCELLED, _TOOLSET, _IMAGES, _CLASSIFICATION, _UNUSED, _REASONING, _WORDS, _TRAITS, _LOST = map(int, Feature)


def features(call: Call) -> int:
    """What a call has of `Feature`, as plain bits."""
    found = _CANCELLED if call.status == "cancelled" else 0
    if call.traits:
        found |= _TRAITS
    if call.kind != "model":
        return found
    if call.toolset is not None:
        found |= _TOOLSET
    if call.lost is not None:
        found |= _LOST
    if call.usage.reasoning_tokens:
        found |= _REASONING
    if call.answer_chars and not call.tool_calls:
        found |= _WORDS
    prompt = call.prompt
    if prompt is not None:
        if prompt.images or prompt.image_tokens:
            found |= _IMAGES
        if prompt.classification:
            found |= _CLASSIFICATION
        if prompt.unused_chars:
            found |= _UNUSED
    return found

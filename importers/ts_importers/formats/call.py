"""What a span says of the call it records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ts_importers.values import number, usage_metadata
from ts_langchain.capture.answers import MAX_TOKENS

if TYPE_CHECKING:
    from ts_langchain.call import SourceCost
    from ts_langchain.replay import Run

# names that OpenTelemetry and OpenInference have for providers, and LangChain's for the same; frameworks are none
PROVIDERS = {
    "aws.bedrock": "amazon_bedrock",
    "aws": "amazon_bedrock",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure_openai",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure_openai",
    "gcp.gemini": "google_genai",
    "gcp.gen_ai": "google_genai",
    "gemini": "google_genai",
    "google": "google_genai",
    "gcp.vertex_ai": "google_vertexai",
    "vertex_ai": "google_vertexai",
    "mistral_ai": "mistralai",
    "moonshot_ai": "moonshotai",
    "x_ai": "xai",
    "langchain": "",
    "strands-agents": "",
}


@dataclass(slots=True)
class SpanCall:
    """A call, as far as its span tells.

    Attributes:
        name: Name of the tool, the model or the retriever.
        model: Model.
        provider: Provider, as LangChain calls it.
        inputs: Inputs as `Run` wants them.
        outputs: Outputs as `Run` wants them.
        params: Model parameters, tools among them.
        usage: Usage in LangChain's shape.
        cost: What the source says it cost.
        tool_call_id: Of tools: the model's request for it.
        metadata: Metadata of the app.
        tags: Tags.
        error: What went wrong, where the attributes tell.
    """

    name: str | None = None
    model: str | None = None
    provider: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    cost: SourceCost | None = None
    tool_call_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    error: str | None = None


def call_from_run(run: Run) -> SpanCall:
    """The call of a run that was read from a service's own row."""
    model, provider = (run.metadata.get(n) for n in ("ls_model_name", "ls_provider"))
    return SpanCall(
        run.name,
        model if isinstance(model, str) else None,
        provider if isinstance(provider, str) else None,
        dict(run.inputs),
        dict(run.outputs) if run.outputs is not None else None,
        dict(run.invocation_params),
        dict(run.usage) if run.usage is not None else None,
        run.cost,
        run.tool_call_id,
        dict(run.metadata),
        run.tags,
        run.error,
    )


def provider_of(value: object) -> str | None:
    """A provider as LangChain calls it; some instrumentations write theirs with a capital."""
    if not isinstance(value, str) or not value:
        return None
    name = value.lower()
    return PROVIDERS.get(name, name) or None


def count(*values: object) -> int:
    """The first of several spellings that is a count of tokens."""
    for value in values:
        found = number(value, MAX_TOKENS)
        if found:
            return int(found)
    return 0


def usage(
    sent: int,
    got: int,
    read: int = 0,
    written: int = 0,
    reasoning: int = 0,
    audio_in: int = 0,
    audio_out: int = 0,
    total: int = 0,
) -> dict[str, Any] | None:
    """Usage in LangChain's shape, None if nothing was counted.

    Instrumentations differ in whether the input includes what came from a cache (Anthropic's own count does not), and
    the output what was thought (Gemini's and xAI's do not): if the parts exceed it, or if a `total` is the sum of all,
    it does not.
    """
    cached = read + written
    if cached > sent or (cached and total in (sent + got + cached, sent + got + cached + reasoning)):
        sent += cached
    if reasoning > got or (reasoning and total == sent + got + reasoning):
        got += reasoning
    return usage_metadata(sent, got, read, written, reasoning, audio_in, audio_out)

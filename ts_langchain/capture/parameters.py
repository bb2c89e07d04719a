"""Reading what a model request asks for besides its messages: the model, tools, bounds, the form of the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.capture.answers import CHARS_PER_TOKEN, MAX_TOKENS
from ts_langchain.capture.messages import mapping
from ts_langchain.capture.tools import read_toolset
from ts_langchain.fingerprint import mix, name_hash, text_hash, value_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ts_langchain.call import Prompt, Toolset

BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
# Which structured answer a request asks for, as OpenAI, Anthropic and Bedrock, Gemini, and Ollama name it.
FORMS = ("response_format", "output_config", "response_json_schema", "response_schema", "format")


class Parameters(NamedTuple):
    """What a model request asks for besides its messages.

    Attributes:
        name: Name of the model, or of its class.
        model: The model to be priced, None if unknown.
        provider: Its provider.
        temperature: None if the request sets none.
        max_tokens: Bound on the output, None without one.
        toolset: Tools that go along.
        previous: Id of the response that it goes on from, where the provider keeps what was said before.
        form: Fingerprint of the structured answer that it asks for, 0 if that is any.
        for_an_hour: What it has the provider cache is kept for an hour.
    """

    name: str
    model: str | None
    provider: str | None
    temperature: float | None
    max_tokens: int | None
    toolset: Toolset | None
    previous: str | None
    form: int
    for_an_hour: bool

    def request(self, prompt: Prompt) -> int:
        """Fingerprint of the request with this prompt; 0 if no messages were recorded: then it may be any."""
        if not prompt.messages:
            return 0
        # numbers only: before Python 3.12 the hash of None is another one in each process
        warmth = -1.0 if self.temperature is None else self.temperature
        tools = self.toolset.fingerprint if self.toolset else 0
        request = hash((prompt.fingerprint, tools, name_hash(self.name), warmth))
        if self.previous is not None:  # what was said before is kept by the provider
            request = mix(request, text_hash(self.previous))
        return mix(request, self.form) if self.form else request


def read_parameters(
    serialized: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    given: Mapping[str, Any],
    readable: Callable[..., Any],
) -> Parameters:
    """Reads what LangChain tells of a request.

    Args:
        serialized: The model, serialised.
        metadata: Of the call.
        given: What else its start is told with: `invocation_params`, `options`, `name`.
        readable: Calls a function, and gives None where that raises.
    """
    params = given.get("invocation_params") or {}
    get = params.get
    model = metadata.get("ls_model_name") or get("model") or get("model_name") or get("model_id")
    if type(model) is not str:
        model = None
    provider = metadata.get("ls_provider")
    temperature = get("temperature")
    if temperature is None:
        temperature = metadata.get("ls_temperature")
    if type(temperature) is not float:
        temperature = float(temperature) if type(temperature) is int and 0 <= temperature <= 100 else None
    tools = get("tools") or get("functions") or (given.get("options") or {}).get("tools")
    previous, kept, form = get("previous_response_id"), get("cache_control"), 0
    for parameter in FORMS:
        if (shape := get(parameter)) is not None:
            shape = str(shape) if isinstance(shape, type) else shape  # a class is recorded as its name
            form = mix(form, readable("response format", value_hash, shape) or 0)
    return Parameters(
        model or given.get("name") or (serialized or {}).get("name") or "model",
        model,
        provider if type(provider) is str else None,
        temperature,
        output_bound(params) or output_bound({"max_tokens": metadata.get("ls_max_tokens")}),
        readable("tool definitions", read_toolset, tools) if tools else None,
        previous if type(previous) is str else None,
        form,
        kept is not None and mapping(kept).get("ttl") == "1h",
    )


def output_bound(params: Mapping[str, Any]) -> int | None:
    """The bound on its output that a request sets, by whatever name the provider has for it; None if it sets none."""
    for name in BOUNDS:
        bound = params.get(name)
        if type(bound) is int and 0 < bound <= MAX_TOKENS:
            return bound
    return None


def estimated_input(chars: int, toolset: Toolset | None) -> int:
    """Estimated tokens of a request, from its characters and its tool definitions."""
    return (chars + (toolset.total_bytes if toolset is not None else 0)) // CHARS_PER_TOKEN + 1

"""The actions themselves: plain functions from messages to messages. None of them changes what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from ts_langchain.capture.in_words import final_in_words
from ts_langchain.capture.messages import plain_text
from ts_langchain.decision import Decision
from ts_langchain.fingerprint import arguments
from ts_langchain.policy import matches
from ts_langchain.pricing import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ts_langchain.policy import Trim

MARK = "ts_langchain"
"""Key in `additional_kwargs` and `response_metadata` of messages that this library wrote."""

PAUSE = "ts_langchain.pause"
"""The `type` of what a human is asked."""

REPEAT_CHARS = 500
"""A result up to this length is repeated by `reuse`; a longer one is only referred to."""

MISTRAL = ("mistral", "mixtral", "ministral", "magistral", "codestral", "devstral", "pixtral", "voxtral")
"""What Mistral's models are called, at other providers, too."""

PORTABLE = ("max_tokens", "temperature", "stop")
"""Parameters of a request that mean the same to each of LangChain's chat models."""

TRIMMED = "[An earlier result of {name}, {chars:,} characters, left out to save tokens. Call the tool again if needed.]"
SUPERSEDED = "[Left out: the same call was made again later, see its result there.]"


def steer_text(decisions: Sequence[Decision], advice: str = "") -> str:
    """What the model is told: what it tried, how often, with what result, and what to do about it."""
    lines = [d.summary for d in decisions]
    if advice:
        lines.append(f"A person advises: {advice}")
    return (
        "Note from the system that watches this run, not from the user: "
        + " ".join(lines)
        + " Do not repeat the same step. Use what you already know: try another way, or answer now and say what is "
        "missing."
    )


def steered(messages: Sequence[BaseMessage], text: str, *, inside: bool = False) -> list[BaseMessage]:
    """The messages with a note at the end: a human message, or `inside` the last one where that is a tool's result."""
    last = messages[-1] if messages else None
    if not inside or not isinstance(last, ToolMessage):
        return [*messages, HumanMessage(text, additional_kwargs={MARK: "steer"})]
    content = last.content
    said = f"{content}\n\n{text}" if isinstance(content, str) else [*content, {"type": "text", "text": text}]
    noted = last.model_copy(
        update={"content": said, "response_metadata": {**last.response_metadata, MARK: "steer"}},
    )
    return [*messages[:-1], noted]


def only_model_after_tools(model: str | None, provider: str | None) -> bool:
    """True for Mistral's models, wherever they run: they refuse a user's message right after a tool's result."""
    name = (model or "").lower()
    return (provider or "").lower().startswith("mistral") or any(family in name for family in MISTRAL)


def trimmed(messages: Sequence[BaseMessage], trim: Trim) -> list[BaseMessage]:
    """The messages with superseded and old tool results left out; each result keeps its place and its id.

    A result is superseded if the same tool was called again later on, with the same arguments, and answered. Of the
    others the newest `trim.keep_results` stay, and those that `reuse` refers to, and those that no text can stand in
    for.
    """
    calls = {str(c["id"]): c for m in messages if isinstance(m, AIMessage) for c in m.tool_calls}
    results = [i for i, m in enumerate(messages) if isinstance(m, ToolMessage)]
    shortened = list(messages)
    seen: set[tuple[str, int]] = set()
    referred: set[tuple[str, int] | None] = set()
    others = 0
    for index in reversed(results):
        message = messages[index]
        assert isinstance(message, ToolMessage)  # noqa: S101 - that is how the indices were made
        call = calls.get(message.tool_call_id)
        name = message.name or (call["name"] if call is not None else "a tool")
        about = (name, arguments(call["args"]).fingerprint) if call is not None else None
        if message.response_metadata.get(MARK) == "reuse":
            referred.add(about)
            continue
        superseded = about in seen
        if about is not None and message.status != "error":
            seen.add(about)
        size = len(message.content) if isinstance(message.content, str) else sum(len(str(b)) for b in message.content)
        others += not superseded
        kept = (not superseded and (others <= trim.keep_results or about in referred)) or _is_no_text(message)
        if kept or size < trim.min_chars or matches(name, trim.exclude_tools):
            continue
        text = SUPERSEDED if superseded else TRIMMED.format(name=name, chars=size)
        shortened[index] = message.model_copy(
            update={
                "content": text,
                "artifact": None,
                "response_metadata": {**message.response_metadata, MARK: "trim"},
            }
        )
    return shortened


def _is_no_text(result: ToolMessage) -> bool:
    """True for a result that no text can stand in for: OpenAI's screenshots, and what loads Anthropic's tools."""
    blocks = result.content if isinstance(result.content, list) else ()
    return result.additional_kwargs.get("type") == "computer_call_output" or any(
        isinstance(block, dict) and block.get("type") == "tool_reference" for block in blocks
    )


def without_blocks(messages: Sequence[BaseMessage], provider: str | None) -> list[BaseMessage]:
    """The messages for a model of this provider: what another provider's said in blocks stands in words, calls kept.

    Thoughts and their signatures are for the provider that wrote them; others refuse the blocks they do not know.
    """
    return [
        message.model_copy(update={"content": str(message.text)})
        if isinstance(message, AIMessage) and isinstance(message.content, list) and _is_of_another(message, provider)
        else message
        for message in messages
    ]


def _is_of_another(message: AIMessage, provider: str | None) -> bool:
    own = message.response_metadata.get("model_provider")
    return isinstance(own, str) and bool(message.tool_calls or message.text) and differ(own, provider)


def differ(one: str | None, other: str | None) -> bool:
    """True if what is in the shape of one provider is not for the other; False where either is unknown."""
    return one is not None and other is not None and _shape(one) != _shape(other)


def _shape(provider: str) -> str:
    """Whose messages a provider's are shaped as: Claude's are Anthropic's wherever it runs, Azure's are OpenAI's."""
    shape = next((family for family in ("anthropic", "openai") if family in provider), None)
    return shape or ("openai" if "azure" in provider else PROVIDERS.get(provider) or provider)


M = TypeVar("M", bound=BaseMessage)


def uncached(message: M) -> M:
    """The message without the marks that say what a provider is to cache: others refuse them."""
    if not isinstance(message.content, list):
        return message
    plain = [
        {key: value for key, value in block.items() if key != "cache_control"} if isinstance(block, dict) else block
        for block in message.content
    ]
    return message.model_copy(update={"content": plain}) if plain != message.content else message


def portable_tools(tools: Sequence[Any]) -> list[Any]:
    """The tools that a model of another provider can be given: not those that the provider itself runs."""
    return [tool for tool in tools if not isinstance(tool, dict) or tool_name(tool) is not None]


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request's parameters those that a model of another provider understands."""
    kept = {name: settings[name] for name in PORTABLE if name in settings}
    choice = portable_choice(settings.get("tool_choice"))
    return kept if choice is None else {**kept, "tool_choice": choice}


def portable_choice(choice: Any) -> Any:
    """A `tool_choice` in words that all of LangChain's chat models know."""
    return forced_tool(choice) or choice.get("type") if isinstance(choice, dict) else choice


def pruned(
    tools: Sequence[Any], messages: Sequence[BaseMessage], keep: frozenset[str], forced: str | None = None
) -> list[Any]:
    """The tools that were asked for in this conversation, or are to be kept; all of them if that leaves none.

    Args:
        tools: All that go along.
        messages: The conversation.
        keep: Names of those to be kept. They may hold `*` and `?`.
        forced: The one that the model has to call: providers refuse a request that forces a tool it does not bring.
    """
    used = {c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls} | {forced}
    left = [t for t in tools if (name := tool_name(t)) is None or name in used or matches(name, keep)]
    return left or list(tools)


def forced_tool(choice: object) -> str | None:
    """The tool that a `tool_choice` names, in LangChain's or a provider's shape; None where it leaves a choice."""
    if isinstance(choice, dict):
        inner = choice.get("function")
        choice = inner.get("name") if isinstance(inner, dict) else choice.get("name")
    return choice if isinstance(choice, str) else None


def tool_name(tool: Any) -> str | None:
    """Name of a tool, in LangChain's or a provider's shape; None for a provider's built-in ones."""
    if not isinstance(tool, dict):
        return getattr(tool, "name", None)
    if tool.get("type") not in (None, "function", "custom"):  # Anthropic's have a name; their calls are no tool calls
        return None
    inner = tool.get("function")
    name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
    return name if isinstance(name, str) else None


def earlier_result(
    messages: Iterable[BaseMessage], call: Mapping[str, Any], safe: Callable[[str], bool]
) -> ToolMessage | None:
    """The newest good result of an identical call that still holds, with its own content; None if there is none.

    It holds until a tool has run that is not safe: that one may have changed what the result tells.
    """
    wanted = arguments(call["args"]).fingerprint
    twins: set[str] = set()
    names: dict[str, str] = {}
    found = None
    for message in messages:
        if isinstance(message, AIMessage):
            for other in message.tool_calls:
                names[str(other["id"])] = other["name"]
                same = other["name"] == call["name"] and other["id"] != call["id"]
                if same and arguments(other["args"]).fingerprint == wanted:
                    twins.add(str(other["id"]))
        elif isinstance(message, ToolMessage) and MARK not in message.response_metadata:
            if not safe(message.name or names.get(message.tool_call_id, "")):
                found = None
            elif message.tool_call_id in twins and message.status != "error":
                found = message
    return found


def reused(earlier: ToolMessage, call: Mapping[str, Any], *, in_view: bool = True) -> ToolMessage:
    """An answer to a call from the result of an identical one.

    Args:
        earlier: That result.
        call: The call.
        in_view: The model still sees the result: a long one is referred to. Else it is repeated, as a short one is.
    """
    content: Any = earlier.content
    said = "The same call was made before, and its result still holds:"
    if isinstance(content, str) and (len(content) <= REPEAT_CHARS or not in_view):
        content = f"{said} {content}"
    elif isinstance(content, list) and not in_view:
        content = [{"type": "text", "text": said}, *content]
    else:
        content = (
            f"The same call was made before (tool call {earlier.tool_call_id}). Its result is above in this "
            "conversation and still holds; it is not repeated here."
        )
    return ToolMessage(
        content,
        tool_call_id=str(call["id"]),
        name=call["name"],
        artifact=earlier.artifact,  # no model is sent it, and the app reads it off each result
        response_metadata={MARK: "reuse"},
    )


def final_message(decision: Decision, asked: Iterable[BaseMessage] = ()) -> AIMessage:
    """The last message of a run that is stopped. It asks for no tools, so an agent's loop ends with it.

    Args:
        decision: Why it is.
        asked: The request that it answers, which may tell in which form an agent expects its last answer.
    """
    return AIMessage(
        final_in_words(f"I stopped here, before another model call. {decision.summary}", map(plain_text, asked)),
        response_metadata={MARK: {"action": decision.action, "rule": decision.rule, "incident": decision.incident_id}},
    )


def stopped(said: AIMessage, call: Mapping[str, Any]) -> ToolMessage:
    """The answer to a tool call whose agent was stopped with this message."""
    return ToolMessage(
        said.content,
        tool_call_id=str(call["id"]),
        name=call["name"],
        status="error",
        response_metadata=said.response_metadata,
    )


def pause_question(decision: Decision) -> dict[str, Any]:
    """What a human is asked. Names and numbers, no content."""
    return {
        "type": PAUSE,
        "rule": decision.rule,
        "incident": decision.incident_id,
        "session": decision.session_id,
        "summary": decision.summary,
        "suggestion": decision.suggestion,
        "answers": ["approve", "stop", {"advice": "what the agent should do instead"}],
    }


def asked_about(question: Mapping[str, Any], at: float, session_id: str, root_id: str) -> Decision:
    """The decision that a `pause_question` was made of, by what the question tells."""
    return Decision(
        at=at,
        session_id=session_id,
        root_id=root_id,
        rule=question["rule"],
        incident_id=question["incident"],
        key=0,
        action="pause",
        strike=1,
        summary=question["summary"],
        suggestion=question["suggestion"],
    )


_ANSWER_KEYS = ("answer", "action", "type", "approve", "approved")
_APPROVALS = frozenset({"approve", "approved", "accept", "yes", "go on", "continue", "ok"})
_REFUSALS = frozenset({"", "stop", "no", "end", "cancel", "reject", "abort"})


def read_answer(answer: object) -> tuple[str, str]:
    """A human's answer to `pause_question`: `approve`, `stop` or `advice`, and the advice.

    Also in the form that LangChain's middleware for tool calls is answered in, `{"decisions": [{"type": "reject"}]}`.
    An object that says none of these is a `stop`: nobody has approved.
    """
    if isinstance(answer, dict) and answer.get("decisions"):
        answer = answer["decisions"]
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    in_words = isinstance(answer, str)
    if isinstance(answer, dict):
        if advice := answer.get("advice"):
            return "advice", str(advice)
        answer = next((answer[key] for key in _ANSWER_KEYS if answer.get(key) is not None), False)
    if answer is True or answer is None:
        return "approve", ""
    text = answer.strip() if isinstance(answer, str) else ""
    word = text.lower().rstrip(".!")
    if word in _APPROVALS:
        return "approve", ""
    if not in_words or word in _REFUSALS:
        return "stop", ""
    return "advice", text

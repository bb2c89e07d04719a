"""Reading messages, usage, model and tools out of what LangChain and history sources hand over.

A message may be a LangChain object, a LangChain-serialised dict (`{"lc": 1, "kwargs": …}`,
`{"type": "human", "data": …}` or `{"type": "human", "content": …}`), or OpenAI- or Anthropic-shaped. All
are read by the same code, so a live run and its export give the same fingerprints.

A growing conversation is read once: `Conversation` remembers, per opening of a conversation, the hash of
the prefix already seen, and only messages behind it are read.
"""

from __future__ import annotations

import re
import threading
import weakref
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, cast

import orjson

from ts_langchain.call import NO_USAGE, Image, Prompt, ToolCall, Toolset, Usage
from ts_langchain.fingerprint import (
    TEXT_LIMIT,
    FreeText,
    bounded,
    canonical,
    mix,
    name_hash,
    text_hash,
    value_digest,
    value_hash,
)
from ts_langchain.recent import Recent

LONG_MESSAGE_CHARS = 200
CLASSIFIABLE_CHARS = 3_000
MAX_BRANCHES = 3
MAX_LONG_MESSAGES = 18
MAX_FRESH = 16
MAX_OPENING = 48
CHARS_PER_TOKEN = 4
MAX_TOKENS = 1_000_000_000  # beyond it a count is a mistake of whoever reported it

_ROLES = {
    "human": "human",
    "user": "human",
    "HumanMessage": "human",
    "HumanMessageChunk": "human",
    "ai": "ai",
    "assistant": "ai",
    "AIMessage": "ai",
    "AIMessageChunk": "ai",
    "model": "ai",
    "system": "system",
    "developer": "system",
    "SystemMessage": "system",
    "SystemMessageChunk": "system",
    "tool": "tool",
    "ToolMessage": "tool",
    "ToolMessageChunk": "tool",
    "function": "tool",
    "FunctionMessage": "tool",
    "FunctionMessageChunk": "tool",
}
_ROLE_CODES = {"human": 1, "ai": 2, "system": 3, "tool": 4}

# The question asks for one label out of few. English, German, French, Spanish; a whole-word match.
_CLASSIFICATION = re.compile(
    r"\b(?:classify|categori[sz]e|which (?:category|class|label|intent)|yes or no|true or false|"
    r"answer (?:only )?(?:yes|true)|rate (?:\w+ ){0,4}from (?:0|1)|sentiment|positive or negative|spam or not|"
    r"klassifizier\w*|ja oder nein|welche kategorie|oui ou non|quelle catégorie|sí o no|clasific\w+)\b",
    re.IGNORECASE,
)
_PENDING = re.compile(
    r"\b(?:pending|queued|in[ _-]progress|running|processing|not[ _-](?:ready|finished|done)|still|waiting|"
    r"started|building|creating|provisioning|deploying)\b",
    re.IGNORECASE,
)
PENDING_CHARS = 500
SUMMARY_CHARS = 500


class ToolResult(NamedTuple):
    """The answer to a tool call, as a prompt carries it."""

    tool_call_id: str
    answer: int
    chars: int
    pending: bool
    failed: bool


class Asked(NamedTuple):
    """A tool call as a message carries it: raw arguments, to be forgotten once read."""

    id: str
    name: str
    args: object
    digest: int
    chars: int


class Message(NamedTuple):
    """What is known of a message after reading it."""

    role: str
    digest: int
    content: int
    chars: int
    tool_calls: tuple[Asked, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    images: tuple[Image, ...] = ()


class Text(NamedTuple):
    """Content of a message, reduced."""

    digest: int
    chars: int
    tool_calls: tuple[Asked, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    images: tuple[Image, ...] = ()


def read_message(message: object) -> Message:
    """Reads one message in whatever shape; what is no message at all counts as a human's text."""
    kind = type(message)
    if kind is dict or _is_mapping(message):
        fields = _unwrap(cast("Mapping[str, Any]", message))
        role = _ROLES.get(str(fields.get("role") or fields.get("type")), "human")
        content, calls, result_id = fields.get("content"), fields.get("tool_calls"), fields.get("tool_call_id")
        status = fields.get("status")
    elif kind is str:
        role, content, calls, result_id, status = "human", message, None, None, None
    elif kind is tuple or kind is list:
        pair = cast("Sequence[object]", message)
        role = _ROLES.get(str(pair[0]), "human") if len(pair) == 2 else "human"
        content = pair[1] if len(pair) == 2 else message
        calls = result_id = status = None
    else:
        name = getattr(message, "type", None)
        if name == "chat":
            name = getattr(message, "role", None)
        role = _ROLES.get(str(name), "human")
        content = getattr(message, "content", None)
        calls = getattr(message, "tool_calls", None) if role == "ai" else None
        result_id = status = None
        if role == "tool":
            result_id, status = getattr(message, "tool_call_id", None), getattr(message, "status", None)

    images: tuple[Image, ...] = ()
    if type(content) is str:
        body, chars = text_hash(content), len(content)
        tool_calls = _read_tool_calls(calls) if calls else ()
        tool_results: tuple[ToolResult, ...] = ()
    else:
        text = _read_content(content)
        body, chars, tool_results, images = text.digest, text.chars, text.tool_results, text.images
        tool_calls = _read_tool_calls(calls) if calls else text.tool_calls
    digest = hash((_ROLE_CODES[role], body))
    for asked in tool_calls:
        digest = hash((digest, name_hash(asked.name), asked.digest))
        chars += asked.chars
    if result_id is not None and role == "tool":
        pending = chars <= PENDING_CHARS and is_pending(content)
        failed = status == "error" or (type(content) is str and _reads_failed(content))
        tool_results = (ToolResult(str(result_id), body, chars, pending, failed),)
    elif tool_results:
        role = "tool"
    return Message(role, digest, body, chars, tool_calls, tool_results, images)


def _unwrap(message: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a serialised message, whatever it is wrapped in."""
    inner = message.get("kwargs") if "lc" in message else message.get("data")
    if inner is not None and isinstance(inner, Mapping) and "content" in inner:
        if "type" in inner or "role" in inner:
            return inner
        ids = message.get("id")
        kind = ids[-1] if "lc" in message and isinstance(ids, list) and ids else message.get("type")
        return {**inner, "type": kind}
    return message


def _read_content(content: object) -> Text:
    """Content blocks: text is text, tool blocks are tool calls and results, the rest counts by its hash."""
    if content is None:
        return Text(text_hash(""), 0)
    if not isinstance(content, (list, tuple)):
        return Text(value_hash(content), len(str(bounded(content))))
    texts: list[str] = []
    others: list[object] = []
    calls: list[Asked] = []
    results: list[ToolResult] = []
    images: list[Image] = []
    chars = 0
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif not isinstance(block, Mapping):
            others.append(block)
        elif isinstance(text := block.get("text"), str):
            texts.append(text)
        elif (kind := block.get("type")) in ("tool_use", "tool_call"):
            args = block.get("input") if kind == "tool_use" else block.get("args")
            calls.append(_asked(block.get("id"), block.get("name"), args))
        elif kind == "tool_result":
            inner = block.get("content")
            text_ = Text(text_hash(inner), len(inner)) if isinstance(inner, str) else _read_content(inner)
            results.append(
                ToolResult(
                    str(block.get("tool_use_id") or ""),
                    text_.digest,
                    text_.chars,
                    is_pending(inner),
                    bool(block.get("is_error")) or (isinstance(inner, str) and _reads_failed(inner)),
                )
            )
            others.append(text_.digest)
            chars += text_.chars
        elif kind in ("thinking", "reasoning"):
            thought = block.get("thinking") or block.get("reasoning")
            chars += len(thought) if isinstance(thought, str) else 0
            others.append({k: v for k, v in block.items() if k not in ("signature", "index", "id")})
        else:
            image = read_image(block) if isinstance(kind, str) and kind in _IMAGE_KINDS else None
            if image is not None:
                images.append(image)
                others.append(image.digest)
            else:
                others.append({k: v for k, v in block.items() if k not in ("index", "id")})
    joined = "".join(texts)
    digest = text_hash(joined) if not others else mix(text_hash(joined), value_hash(others))
    return Text(digest, chars + len(joined), tuple(calls), tuple(results), tuple(images))


_IMAGE_KINDS = frozenset({"image_url", "input_image", "image", "media", "file"})
# Typical sizes: OpenAI bills 85 tokens in low detail and 765 for a 1024 x 1024 image in high detail; Anthropic
# bills width x height / 750, 1 398 for the same image. Both from the providers' vision guides.
LOW_DETAIL_TOKENS = 85
HIGH_DETAIL_TOKENS = 765
ANTHROPIC_IMAGE_TOKENS = 1_398
IMAGE_SAMPLE = 16_384


def read_image(block: Mapping[str, object]) -> Image | None:
    """An image block in OpenAI's, Anthropic's, Google's or LangChain's shape; None if it is something else."""
    mime = block.get("mime_type") or block.get("media_type")
    if block.get("type") in ("media", "file") and not (isinstance(mime, str) and mime.startswith("image/")):
        return None
    inner = block.get("image_url")
    detail = block.get("detail")
    if isinstance(inner, Mapping):
        detail = inner.get("detail") or detail
        inner = inner.get("url")
    tokens = HIGH_DETAIL_TOKENS
    if inner is None:
        source = block.get("source")
        if isinstance(source, Mapping):
            inner, tokens = source.get("data") or source.get("url") or source.get("file_id"), ANTHROPIC_IMAGE_TOKENS
        else:
            keys = ("url", "base64", "data", "file_id", "file_uri", "id")
            inner = next((block[k] for k in keys if block.get(k)), None)
    if isinstance(inner, (bytes, bytearray)):
        inner = inner.hex() if len(inner) <= IMAGE_SAMPLE else inner[:IMAGE_SAMPLE].hex() + str(len(inner))
    if not isinstance(inner, str):
        return None
    if len(inner) > 2 * IMAGE_SAMPLE:  # encoded images begin alike: both ends count, and the length
        inner = f"{inner[:IMAGE_SAMPLE]}{inner[-IMAGE_SAMPLE:]}{len(inner)}"
    high = detail != "low"
    return Image(text_hash(inner), high, tokens if high else LOW_DETAIL_TOKENS)


def _read_tool_calls(calls: object) -> tuple[Asked, ...]:
    """Tool calls in LangChain's (`name`, `args`) or OpenAI's (`function`) shape."""
    if not isinstance(calls, (list, tuple)):
        return ()
    read = []
    for call in calls:
        if type(call) is not dict and not isinstance(call, Mapping):
            continue
        function = call.get("function")
        if function is not None and isinstance(function, Mapping):
            read.append(_asked(call.get("id"), function.get("name"), function.get("arguments")))
        else:
            read.append(_asked(call.get("id"), call.get("name"), call.get("args")))
    return tuple(read)


def _asked(call_id: object, name: object, args: object) -> Asked:
    """Arguments may be a value, or a JSON string, which counts as what it says."""
    value = args
    if type(args) is str and args[:1] == "{" and len(args) <= TEXT_LIMIT:
        try:
            value = orjson.loads(args)
        except ValueError:
            value = args
    digest, chars = value_digest(value)
    return Asked(
        call_id if type(call_id) is str else str(call_id or ""),
        name if type(name) is str else str(name or ""),
        value,
        digest,
        chars,
    )


def is_pending(content: object) -> bool:
    """True for a short answer that says that something is still under way."""
    return isinstance(content, str) and len(content) <= PENDING_CHARS and _PENDING.search(content) is not None


class Branch:
    """One line of conversation, as far as it has been read."""

    __slots__ = (
        "chain",
        "chars",
        "count",
        "digests",
        "first",
        "image_tokens",
        "key",
        "large",
        "last",
        "last_chars",
        "last_digest",
        "long",
        "objects",
        "repeated",
        "results",
        "role",
        "second",
        "size",
        "sizes",
    )

    def __init__(self, key: int) -> None:
        self.key = key
        self.count = 0
        self.last_digest = 0
        self.last_chars = 0
        self.role = "human"
        self.chain = 0
        self.chars = 0
        self.repeated = 0
        self.results = 0
        self.long: dict[int, int] = {}
        self.image_tokens = 0
        self.second = 0
        self.large: list[LargeResult] = []
        # of the opening messages: fingerprints, and characters up to and including each
        self.size = 0
        self.digests = array("q")
        self.sizes = array("q")
        # inside a run the message objects stay the same: the first, the last, and the identities of all
        self.first: Reference | None = None
        self.last: Reference | None = None
        self.objects = 0

    def restart(self) -> None:
        """Forgets what was read: its past was rewritten."""
        self.__init__(self.key)  # type: ignore[misc]

    def __getstate__(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _STORED)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        for name, value in zip(_STORED, state, strict=True):
            setattr(self, name, value)
        self.first = self.last = None
        self.objects = 0


class LargeResult:
    """A large tool result in a conversation, and whether the model has used it: named in what it wrote since."""

    __slots__ = ("chars", "index", "turns", "used")

    def __init__(self, index: int, chars: int) -> None:
        self.index = index
        self.chars = chars
        self.turns = 0
        self.used = False

    def turn(self, names: Sequence[str], result: object) -> None:
        """Looks at what a message the model wrote names, and at the result, which is still in the prompt."""
        self.turns += 1
        if not self.used and names:
            text = _plain_text(result)[:TEXT_LIMIT].lower()
            self.used = not text or any(name in text for name in names)


LARGE_CHARS = 2_000
MAX_LARGE = 8
MAX_NAMES = 32
WROTE_CHARS = 4_096
UNUSED_TURNS = 5
_WORDS = re.compile(r"[^\W_]{3,}")


def names_in(message: object, calls: Sequence[Asked]) -> list[str]:
    """Up to 32 words of a message and of its tool calls that name something: with a digit, a capital, or long.

    Of a long message the beginning counts, and the beginning of each argument list.
    """
    wrote = _plain_text(message)[:WROTE_CHARS]
    for call in calls:
        wrote += f" {bounded(call.args)}"[:WROTE_CHARS]
    names = dict.fromkeys(w.lower() for w in _WORDS.findall(wrote) if len(w) >= 8 or not w.islower())
    step = max(1, len(names) // MAX_NAMES)
    return list(names)[::step][:MAX_NAMES]


def _size(message: object) -> int:
    """Length of a message's content, in characters or blocks: what changes when a message is cut down in its place."""
    if type(message) is dict:
        content = message.get("content")
        if content is None and type(inner := message.get("kwargs") or message.get("data")) is dict:
            content = inner.get("content")
    else:
        content = getattr(message, "content", message)
    kind = type(content)
    return len(content) if kind is str or kind is list or kind is tuple else 0  # type: ignore[arg-type]


def _plain_text(message: object) -> str:
    """The text of a message, whatever its shape."""
    content = _unwrap(message).get("content") if _is_mapping(message) else getattr(message, "content", message)
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return " ".join(filter(None, map(_block_text, content)))
    return ""


def _block_text(block: object) -> str:
    if isinstance(block, Mapping):
        text = block.get("text")
        if text is None and block.get("type") == "tool_result":
            return _plain_text(block)
        return text if isinstance(text, str) else ""
    return block if isinstance(block, str) else ""


_STORED = tuple(name for name in Branch.__slots__ if name not in ("first", "last", "objects"))
Reference = weakref.ReferenceType[Any]


class Reading(NamedTuple):
    """A prompt, and the tool results in it that had not been read before."""

    prompt: Prompt
    results: list[tuple[ToolResult, str, object]]
    """Result, tool name, raw arguments."""


class Conversation:
    """The prompts of one session, read incrementally."""

    __slots__ = ("_fresh", "branches")

    def __init__(self) -> None:
        self.branches: Recent[int, Branch] = Recent()
        self._fresh: dict[int, tuple[Reference, Message]] = {}

    def __getstate__(self) -> Recent[int, Branch]:
        return self.branches

    def __setstate__(self, branches: Recent[int, Branch]) -> None:
        self.branches, self._fresh = branches, {}

    def remember(self, message: object, read: Message) -> None:
        """Keeps what was read of an answer or tool result, for the prompt it will be part of next.

        Only as long as the message itself lives: it is held by a weak reference.
        """
        reference = _refer(message)
        if reference is not None:
            self._fresh[id(message)] = (reference, read)
            if len(self._fresh) > MAX_FRESH:
                del self._fresh[next(iter(self._fresh))]

    def _read(self, message: object) -> Message:
        fresh = self._fresh.pop(id(message), None)
        if fresh is not None and fresh[0]() is message:
            return fresh[1]
        return read_message(message)

    def read(self, messages: Sequence[object]) -> Reading:
        """Reads what is new since the longest known prefix.

        Costs O(new messages) as long as the conversation only grows, O(all) where its past was rewritten.
        """
        total = len(messages)
        if not total:
            return Reading(Prompt(0, 0, 0, 0), [])
        branch = self._newest_if_same(messages, total)
        broke_at = -1
        if branch is None:
            branch, carried, broke_at = self._find(messages, total)
        else:
            carried = branch.chars
        images: list[Image] = []
        results: list[tuple[ToolResult, str, object]] = []
        if branch.count < total:
            self._extend(branch, messages, total, results, images)
        asks = branch.chars <= CLASSIFIABLE_CHARS and is_classification(messages, branch.chars)
        prompt = Prompt(
            branch.chain,
            branch.key,
            total,
            branch.chars,
            branch.repeated,
            branch.results,
            branch.role,
            asks,
            branch.last_chars,
            tuple(images),
            branch.image_tokens,
            carried,
            broke_at,
            sum(r.chars for r in branch.large if not r.used and r.turns >= UNUSED_TURNS) if branch.large else 0,
        )
        return Reading(prompt, results)

    def _newest_if_same(self, messages: Sequence[object], total: int) -> Branch | None:
        """The branch read last, if these are the same message objects and more."""
        if not self.branches:
            return None
        branch = self.branches[next(reversed(self.branches))]
        if (
            branch.last is not None
            and branch.first is not None
            and branch.count <= total
            and branch.last() is messages[branch.count - 1]
            and branch.first() is messages[0]
            and hash(tuple(map(id, messages[: branch.count]))) == branch.objects
        ):
            return branch
        return None

    def _find(self, messages: Sequence[object], total: int) -> tuple[Branch, int, int]:
        """The branch with this opening, by content; read anew if its past was rewritten.

        Returns:
            The branch, the characters it has in common with its last request, and where it broke (-1: nowhere).
        """
        first = read_message(messages[0])
        key = first.digest
        second = 0
        if first.role == "system" and total > 1:
            second = read_message(messages[1]).digest
            key = mix(key, second)
        branch = self.branches.get(key)
        if branch is None:
            # the same conversation under another system message: its very beginning has changed
            broke = second != 0 and any(b.second == second and 1 < b.count <= total for b in self.branches.values())
            branch = self.branches[key] = Branch(key)
            branch.second = second
            self.branches.limit(MAX_BRANCHES)
            return branch, 0, 0 if broke else -1
        self.branches.touch(key)
        if (
            branch.count <= total
            and read_message(messages[branch.count - 1]).digest == branch.last_digest
            and sum(map(_size, messages[: branch.count])) == branch.size
        ):
            return branch, branch.chars, -1
        known = min(total, len(branch.digests))
        broke_at = next((i for i in range(known) if read_message(messages[i]).digest != branch.digests[i]), known)
        carried = branch.sizes[broke_at - 1] if broke_at else 0
        branch.restart()
        branch.second = second
        return branch, carried, broke_at

    def _extend(
        self,
        branch: Branch,
        messages: Sequence[object],
        total: int,
        results: list[tuple[ToolResult, str, object]],
        images: list[Image],
    ) -> None:
        asked: dict[str, Asked] = {}
        long, chain = branch.long, branch.chain
        opening, sizes = branch.digests, branch.sizes
        branch.size += sum(map(_size, messages[branch.count :]))
        for index in range(branch.count, total):
            role, digest, content, chars, tool_calls, tool_results, pictures = self._read(messages[index])
            chain = hash((chain, digest))
            branch.chars += chars
            if index < MAX_OPENING:
                opening.append(digest)
                sizes.append(branch.chars)
            if branch.large and role == "ai":
                names = () if all(r.used for r in branch.large) else names_in(messages[index], tool_calls)
                for large in branch.large:
                    large.turn(names, messages[large.index])
            elif role == "tool" and chars >= LARGE_CHARS:
                branch.large.append(LargeResult(index, chars))
                if len(branch.large) > MAX_LARGE:
                    branch.large.remove(next((r for r in branch.large if r.used), branch.large[0]))
            if pictures:
                images += pictures
                branch.image_tokens += sum(p.tokens for p in pictures)
            for call in tool_calls:
                asked[call.id] = call
            for result in tool_results:
                branch.results += result.chars
                call_ = asked.get(result.tool_call_id)
                results.append((result, call_.name, call_.args) if call_ else (result, "", None))
                if call_ is not None and result.chars >= LONG_MESSAGE_CHARS:
                    # an older answer to the same call is superseded by this one
                    about = mix(name_hash(call_.name), call_.digest)
                    if (older := long.get(about)) and result.answer not in long:
                        branch.repeated += older
                    long[about] = result.chars
            if chars >= LONG_MESSAGE_CHARS and role != "system":
                # arguments that repeat are the repeated-call rules' business; here it is what is carried along
                if digest in long:
                    branch.repeated += chars
                long[digest] = chars
                if content != digest and tool_results:
                    long[content] = chars
                while len(long) > MAX_LONG_MESSAGES:
                    del long[next(iter(long))]
        branch.count, branch.last_digest, branch.last_chars = total, digest, chars
        branch.role, branch.chain = role, chain
        branch.first, branch.last = _refer(messages[0]), _refer(messages[-1])
        branch.objects = hash(tuple(map(id, messages)))

    def shrink(self) -> None:
        """Keeps only the newest branch."""
        self.branches.limit(1)


def _refer(message: object) -> Reference | None:
    """A weak reference to a message object; None for recorded dicts, which have none."""
    try:
        return weakref.ref(message)
    except TypeError:
        return None


def is_classification(messages: Sequence[object], chars: int) -> bool:
    """True for a short prompt of which a message is worded as a classification.

    Args:
        messages: The prompt.
        chars: Its length.
    """
    if chars > CLASSIFIABLE_CHARS or len(messages) > 4:
        return False
    return any(_CLASSIFICATION.search(_plain_text(message)) for message in messages)


# --- answers ---------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a model call brought back."""

    digest: int = 0
    chars: int = 0
    usage: Usage = NO_USAGE
    model: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    message: object = None
    read: Message | None = None
    text: FreeText | None = None


def read_answer(response: object, prompt_chars: int, usage: Usage | None = None) -> Answer:
    """Reads a model's answer.

    Args:
        response: An `LLMResult`, or the recorded outputs: `generations[0][0].message`,
            `choices[0].message`, or a bare message.
        prompt_chars: Characters of the prompt, for the estimate where nobody reports usage.
        usage: Usage that the source of a history holds beside the outputs.
    """
    message, extra, llm_output = _find_message(response)
    if message is None:
        return Answer(usage=usage or NO_USAGE)
    if _is_mapping(message):
        get = _unwrap(message).get
        invalid, found, reported = get("invalid_tool_calls"), get("response_metadata"), get("usage_metadata")
    else:
        invalid = getattr(message, "invalid_tool_calls", None)
        found = getattr(message, "response_metadata", None)
        reported = getattr(message, "usage_metadata", None)
    meta = _mapping(found)
    read = read_message(message)
    tokens = (
        read_usage(reported)
        or usage
        or read_usage(meta.get("token_usage") or meta.get("usage"))
        or read_usage(extra.get("usage"))
        or read_usage(llm_output.get("token_usage") or llm_output.get("usage"))
        or Usage(_estimate(prompt_chars), _estimate(read.chars), estimated=True)
    )
    calls = tuple([ToolCall(call[0], call[1], call[3]) for call in read.tool_calls]) if read.tool_calls else ()
    if invalid:
        calls += tuple(ToolCall(call.id, call.name, call.digest, valid=False) for call in _read_tool_calls(invalid))
    reason = meta.get("finish_reason") or meta.get("stop_reason") or meta.get("done_reason")
    if reason is None:
        reason = extra.get("finish_reason") or extra.get("stop_reason")
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
        _words_of(message) if not calls and read.chars else None,
    )


def _words_of(message: object) -> FreeText | None:
    """The residue of an answer in words, for comparing it with later ones."""
    content = _unwrap(message).get("content") if _is_mapping(message) else getattr(message, "content", None)
    if isinstance(content, list):
        texts = [b.get("text") for b in content if isinstance(b, Mapping)]
        content = " ".join(t for t in texts if isinstance(t, str))
    return FreeText(content) if isinstance(content, str) and content else None


_NOTHING: Mapping[str, object] = {}


def _find_message(response: object) -> tuple[object, Mapping[str, object], Mapping[str, object]]:
    """The message in an answer, what stands beside it, and LangChain's `llm_output`."""
    if response is None:
        return None, _NOTHING, _NOTHING
    if not _is_mapping(response):
        generations = getattr(response, "generations", None)
        output = _mapping(getattr(response, "llm_output", None))
        if not generations or not generations[0]:
            return None, _NOTHING, output
        generation = generations[0][0]
        message = getattr(generation, "message", None)
        if message is None:
            message = {"role": "ai", "content": getattr(generation, "text", "")}
        return message, _mapping(getattr(generation, "generation_info", None)), output
    output = _mapping(response.get("llm_output"))
    generation = _first(_first(response.get("generations")))
    if isinstance(generation, Mapping):
        info = generation.get("generation_info")
        message = generation.get("message")
        if not isinstance(message, Mapping):
            message = {"role": "ai", "content": generation.get("text") or ""}
        return message, info if isinstance(info, Mapping) else _NOTHING, output
    choice = _first(response.get("choices"))
    if isinstance(choice, Mapping):
        beside = {**response, "finish_reason": choice.get("finish_reason")}
        return choice.get("message") or {"role": "ai", "content": choice.get("text") or ""}, beside, output
    nested = response.get("message") or response.get("output")
    if isinstance(nested, Mapping):
        return nested, response, output
    if isinstance(nested, str):
        return {"role": "ai", "content": nested}, response, output
    last = response.get("messages")
    if isinstance(last, list) and last:
        return last[-1], response, output
    if "content" in response or "lc" in response:
        return {"role": "ai", **response}, response, output
    return None, _NOTHING, output


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
        elif isinstance(value, float) and 0 < value <= MAX_TOKENS:
            return int(value)
    return 0


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """`isinstance(value, Mapping)`, which is slow to ask of an abstract class, without asking twice for a class."""
    kind = type(value)
    known = _MAPS.get(kind)
    if known is None:
        if len(_MAPS) > 1024:
            _MAPS.clear()
        known = _MAPS[kind] = issubclass(kind, Mapping)
    return known


_MAPS: dict[type, bool] = {}


def _mapping(value: object) -> Mapping[str, object]:
    if type(value) is dict:
        return value
    return value if value is not None and isinstance(value, Mapping) else _NOTHING


def read_usage(reported: object) -> Usage | None:
    """Reads token usage: LangChain's `usage_metadata`, OpenAI's or Anthropic's raw usage.

    Anthropic's raw `input_tokens` leaves the cached tokens out; they are added. None if it holds no count.
    """
    if not reported or (type(reported) is not dict and not isinstance(reported, Mapping)):
        return None
    get = cast("Mapping[str, object]", reported).get
    details, out = get("input_token_details"), get("output_token_details")
    if details is None and out is None and "total_tokens" in reported and "input_tokens" in reported:
        # LangChain's without details: the way of many calls, and the shortest
        usage = Usage(_count(get("input_tokens")), _count(get("output_tokens")))
        return usage if usage.input_tokens or usage.output_tokens else None
    if details is not None or out is not None:
        ins, outs = _mapping(details), _mapping(out)
        usage = Usage(
            _count(get("input_tokens")),
            _count(get("output_tokens")),
            _count(ins.get("cache_read")),
            # Anthropic splits what it writes by how long it lives
            _count(ins.get("cache_creation"))
            or _count(ins.get("ephemeral_5m_input_tokens")) + _count(ins.get("ephemeral_1h_input_tokens")),
            _count(outs.get("reasoning")),
            _count(ins.get("audio")),
            _count(outs.get("audio")),
        )
    else:
        ins, outs = _mapping(get("prompt_tokens_details")), _mapping(get("completion_tokens_details"))
        read, written = _count(get("cache_read_input_tokens")), _count(get("cache_creation_input_tokens"))
        input_tokens = _count(get("input_tokens"), get("prompt_tokens"), get("inputTokens"))
        usage = Usage(
            input_tokens + read + written,
            _count(get("output_tokens"), get("completion_tokens"), get("outputTokens")),
            read or _count(ins.get("cached_tokens")),
            written,
            _count(outs.get("reasoning_tokens")),
            _count(ins.get("audio_tokens")),
            _count(outs.get("audio_tokens")),
        )
    return _consistent(usage) if usage.input_tokens or usage.output_tokens else None


def _consistent(usage: Usage) -> Usage:
    """Parts never exceed their whole, whatever the source says."""
    if (
        usage.cache_read_tokens + usage.cache_write_tokens + usage.input_audio_tokens <= usage.input_tokens
        and usage.reasoning_tokens + usage.output_audio_tokens <= usage.output_tokens
    ):
        return usage
    read = min(usage.cache_read_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - read)
    audio = min(usage.input_audio_tokens, usage.input_tokens - read - written)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    spoken = min(usage.output_audio_tokens, usage.output_tokens - reasoning)
    return Usage(usage.input_tokens, usage.output_tokens, read, written, reasoning, audio, spoken, usage.estimated)


# --- tool definitions ------------------------------------------------------------------------------

_TOOLSETS: Recent[tuple[object, ...], Toolset] = Recent()
_TOOLSETS_LOCK = threading.Lock()


def read_toolset(tools: object) -> Toolset | None:
    """Reads the tool definitions of a request, in OpenAI's, Anthropic's, Google's or Bedrock's shape.

    The lists are rebuilt by the framework at each turn; they are recognised by their names and the lengths
    of their descriptions, so that their JSON is measured only once.
    """
    if not _is_list(tools) or not tools:
        return None
    flat = _flatten(tools)
    key = tuple((_tool_name(t), len(str(_tool_field(t, "description") or ""))) for t in flat)
    known = _TOOLSETS.get(key)
    if known is None:
        names = tuple(name for name, _ in key)
        sizes = tuple(len(canonical(t)) for t in flat)
        known = Toolset(names, sizes, mix(*(mix(name_hash(n), size) for n, size in zip(names, sizes, strict=True))))
        with _TOOLSETS_LOCK:
            _TOOLSETS[key] = known
            _TOOLSETS.limit(512)
    return known


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _flatten(tools: Sequence[object]) -> list[object]:
    flat: list[object] = []
    for tool in tools:
        declarations = tool.get("function_declarations") if isinstance(tool, Mapping) else None
        flat.extend(declarations) if _is_list(declarations) else flat.append(tool)
    return flat


def _tool_field(tool: object, field: str) -> object:
    if not isinstance(tool, Mapping):
        return getattr(tool, field, None)
    inner = tool.get("function") or tool.get("toolSpec")
    if isinstance(inner, Mapping):
        return inner.get(field)
    return tool.get(field)


def _tool_name(tool: object) -> str:
    name = _tool_field(tool, "name") or (tool.get("type") if isinstance(tool, Mapping) else None)
    return str(name or "?")


# --- tool output, documents, errors ----------------------------------------------------------------


class Output(NamedTuple):
    """What a tool brought back."""

    digest: int
    chars: int
    pending: bool = False
    failed: bool = False
    read: Message | None = None


def read_tool_output(output: object) -> Output:
    """Reads a tool's output: a `ToolMessage`, text, a `Command`, any value, or these as recorded."""
    if _is_mapping(output):
        if "output" in output and "content" not in output and "lc" not in output:
            return read_tool_output(output["output"])
        is_message = "content" in _unwrap(output)
    elif isinstance(output, str):
        return Output(text_hash(output), len(output), is_pending(output), _reads_failed(output))
    else:
        is_message = hasattr(output, "content")
    if is_message:
        message = read_message(output)
        if len(message.tool_results) == 1:
            result = message.tool_results[0]
            return Output(result.answer, result.chars, result.pending, result.failed, message)
        content = _unwrap(output).get("content") if _is_mapping(output) else getattr(output, "content", None)
        failed = isinstance(content, str) and _reads_failed(content)
        return Output(message.content, message.chars, is_pending(content), failed)
    update = getattr(output, "update", None)
    if update is not None and not _is_mapping(output):  # Command
        messages = update.get("messages") if _is_mapping(update) else None
        digests = [read_message(m).content for m in messages] if isinstance(messages, list) else [value_hash(update)]
        return Output(mix(*digests), 0)
    size = len(output) if isinstance(output, (list, dict)) else 1
    return Output(value_hash(output), size if output else 0)


def _reads_failed(content: str) -> bool:
    return content[:5].lower() == "error"


def document_hash(document: object) -> int:
    """Fingerprint of a retrieved document, by its text."""
    if isinstance(document, Mapping):
        fields = document.get("kwargs") if "lc" in document else document
        text = fields.get("page_content") if isinstance(fields, Mapping) else None
    else:
        text = getattr(document, "page_content", None)
    return text_hash(text) if isinstance(text, str) else value_hash(document)


_ERROR_REPR = re.compile(r"([A-Za-z_]\w*)\(")
_ERROR_LINE = re.compile(r"(?:[\w.]*\.)?([A-Za-z_]\w*): (.*)")


def error_line(error: BaseException | str) -> tuple[str, str]:
    """Type name and first line of the message, of an exception or of what a tracer recorded of one.

    LangChain's tracer writes the exception's `repr`, directly followed by the formatted traceback.
    """
    if isinstance(error, BaseException):
        return type(error).__name__, str(error).partition("\n")[0][:SUMMARY_CHARS]
    text = error.strip()
    if recorded := _ERROR_REPR.match(text):
        name = recorded[1]
        _, found, message = text[-TEXT_LIMIT:].rpartition(f"{name}: ")
        return name, message.partition("\n")[0][:SUMMARY_CHARS] if found else ""
    first, last = text.partition("\n")[0], text[-TEXT_LIMIT:].rpartition("\n")[2]
    if line := _ERROR_LINE.match(first) or _ERROR_LINE.match(last):
        return line[1], line[2][:SUMMARY_CHARS]
    return "Error", first[:SUMMARY_CHARS]


def error_name(error: BaseException | str) -> str:
    """Type name of an error."""
    return type(error).__name__ if isinstance(error, BaseException) else error_line(error)[0]


def error_hash(error: BaseException | str) -> int:
    """Fingerprint of an error: its type and the first line of its message."""
    return text_hash(": ".join(error_line(error)))

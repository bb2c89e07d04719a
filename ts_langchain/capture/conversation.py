"""Reading the prompts of a session: each message once.

A growing conversation is read incrementally: `Conversation` remembers, per opening of a conversation, the hash of
the prefix already seen, and only messages behind it are read.
"""

from __future__ import annotations

import re
import weakref
from array import array
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.call import Image, Prompt
from ts_langchain.capture.messages import Asked, Message, ToolResult, plain_text, read_message
from ts_langchain.fingerprint import TEXT_LIMIT, bounded, mix, name_hash
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONG_MESSAGE_CHARS = 200
CLASSIFIABLE_CHARS = 3_000
MAX_BRANCHES = 3
MAX_LONG_MESSAGES = 18
MAX_FRESH = 16
MAX_OPENING = 48

# The question asks for one label out of few. English, German, French, Spanish; a whole-word match.
_CLASSIFICATION = re.compile(
    r"\b(?:classify|categori[sz]e|which (?:category|class|label|intent)|yes or no|true or false|"
    r"answer (?:only )?(?:yes|true)|y/n\b|rate (?:\w+ ){0,4}from (?:0|1)|"
    r"(?:analy[sz]e|determine|label|give) (?:the|its) sentiment|sentiment of (?:the|this)|"
    r"positive(?:, | or )(?:neutral or )?negative|"
    r"(?:relevant|correct|safe|toxic|spam|valid) or (?:ir|in|un|non-?)?(?:relevant|correct|safe|toxic|spam|valid|not)|"
    r"klassifizier\w*|ja oder nein|welche kategorie|oui ou non|quelle catégorie|sí o no|clasific\w+)\b",
    re.IGNORECASE,
)
# one of these is in whatever it finds; to look for them first takes a tenth of the time
_CLASSIFYING = (
    "class", "categor", "label", "intent", "yes or no", "true or false", "answer ", "y/n", "from 0", "from 1",
    "sentiment", "negative", "relevant or", "correct or", "safe or", "toxic or", "spam or", "valid or", "klassif",
    "ja oder nein", "kategorie", "oui ou non", "catégorie", "sí o no", "clasific",
)  # fmt: skip


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
        "spoken",
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
        self.spoken = False  # a message in it is a model's or a tool's
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
        return _stored(self)

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
            text = plain_text(result)[:TEXT_LIMIT].lower()
            self.used = not text or any(name in text for name in names)


LARGE_CHARS = 2_000
MAX_LARGE = 8
MAX_NAMES = 32
WROTE_CHARS = 4_096
UNUSED_TURNS = 5
_WORDS = re.compile(r"[^\W_]{3,}")
_SPACED = re.compile(r"[^\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]*\Z")
UNSPACED = 4


def names_in(message: object, calls: Sequence[Asked]) -> list[str]:
    """Up to 32 words of a message and of its tool calls that name something: with a digit, a capital, or long.

    Of a long message the beginning counts, and the beginning of each argument list.
    """
    wrote = plain_text(message)[:WROTE_CHARS]
    for call in calls:
        wrote += f" {bounded(call.args)}"[:WROTE_CHARS]
    names = dict.fromkeys(w.lower() for w in _words(wrote) if len(w) >= 8 or not w.islower())
    step = max(1, len(names) // MAX_NAMES)
    return list(names)[::step][:MAX_NAMES]


def _words(text: str) -> Iterator[str]:
    """Words; of scripts without spaces, four characters stand for one."""
    for word in _WORDS.findall(text):
        if word.isascii() or _SPACED.match(word):
            yield word
        else:
            yield from (word[i : i + UNSPACED] for i in range(0, len(word) - UNSPACED + 1, UNSPACED))


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


_STORED = tuple(name for name in Branch.__slots__ if name not in ("first", "last", "objects"))
_stored = attrgetter(*_STORED)
Reference = weakref.ReferenceType[Any]


class Reading(NamedTuple):
    """A prompt, and the tool results in it that had not been read before."""

    prompt: Prompt
    results: list[tuple[ToolResult, str, object]]
    """Result, tool name, raw arguments."""
    conversation: int = 0
    """Fingerprint of its first message that is no system message: the same as long as the conversation goes on."""
    fresh: bool = False
    """No model has spoken in it yet."""


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
            try:
                self._extend(branch, messages, total, results, images)
            except Exception:
                self.branches.pop(branch.key, None)  # it was read in part
                raise
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
            branch.last_digest,
        )
        return Reading(prompt, results, branch.second or branch.key, not branch.spoken)

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
            carried = self._known_opening(first.digest) if first.role == "system" else 0
            branch = self.branches[key] = Branch(key)
            branch.second = second
            self.branches.limit(MAX_BRANCHES)
            return branch, carried, 0 if broke else -1
        self.branches.touch(key)
        if (
            branch.count <= total
            and read_message(messages[branch.count - 1]).digest == branch.last_digest
            and sum(map(_size, messages[: branch.count])) == branch.size
            and (branch.count < total or self._is_same(branch, messages))
        ):
            return branch, branch.chars, -1
        known = min(total, len(branch.digests))
        broke_at = next((i for i in range(known) if read_message(messages[i]).digest != branch.digests[i]), known)
        carried = branch.sizes[broke_at - 1] if broke_at else 0
        branch.restart()
        branch.second = second
        return branch, carried, broke_at

    @staticmethod
    def _is_same(branch: Branch, messages: Sequence[object]) -> bool:
        """True if a prompt as long as the one before says the same between its ends, too: rows may be of one length."""
        opening = branch.digests
        return all(read_message(messages[i]).digest == opening[i] for i in range(1, min(len(messages), len(opening))))

    def _known_opening(self, digest: int) -> int:
        """Characters of the system message that another conversation opens with, too; 0 if none does."""
        return next((b.sizes[0] for b in self.branches.values() if b.digests and b.digests[0] == digest), 0)

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
            branch.spoken |= role not in ("human", "system")
            if role == "ai":
                images.clear()  # what has been answered is history, though it may be read anew
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
                    older = long.get(about)
                    if older and result.failed:
                        continue  # it may have answered, and is all there is
                    if older and result.answer not in long:
                        branch.repeated += older
                    long[about] = result.chars
            if chars >= LONG_MESSAGE_CHARS:
                # arguments that repeat are the repeated-call rules' business; here it is what is carried along
                about = digest
                if role == "system" and digest in long:
                    about = mix(digest, 2)  # said again at the end it is a frame; from the third time on it piles up
                if about in long:
                    branch.repeated += chars
                long[about] = chars
                if content != digest and tool_results:
                    long[content] = chars
                if len(long) > MAX_LONG_MESSAGES:  # made anew: a dict that is deleted from takes twice the room
                    long = branch.long = dict(islice(long.items(), len(long) - MAX_LONG_MESSAGES, None))
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
    for message in messages:
        text = plain_text(message)
        lowered = text.lower()
        for word in _CLASSIFYING:
            if word in lowered:
                if _CLASSIFICATION.search(text):  # not in what is lowered, where a letter may have become two
                    return True
                break
    return False

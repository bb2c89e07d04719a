"""What capture remembers of a session: prompts already read, and tool calls asked for but not yet run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ts_langchain.capture.conversation import Conversation
from ts_langchain.capture.messages import plain_text
from ts_langchain.fingerprint import name_hash, text_hash
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.capture.conversation import Reading
    from ts_langchain.session import SessionState

MAX_REQUESTED = 20
MAX_UNREAD = 8
MAX_ROOTS = 4
NOTES_CHARS = 40


class Requested(NamedTuple):
    """A tool call that a model asked for and whose result has not been seen."""

    model_call_id: str
    siblings: int
    asked_at: float
    about: int = 0
    """Fingerprint of tool and arguments."""
    tool: int = 0
    """Fingerprint of the tool."""
    turn: int = 0
    """The turn it was asked for in."""
    conversation: int = 0
    """The conversation it was asked for in."""


class Root(NamedTuple):
    """A run that calls were made in."""

    first: int
    """The turn it began with."""
    turn: int
    """The turn it is at."""
    opening: int
    """What the conversation of that turn opens with, 0 as long as no model was asked."""
    length: int = 0
    """Length of its newest prompt, where no model has spoken in it."""
    text: int = 0
    """Fingerprint of that prompt."""

    def goes_on(self, said: str) -> bool:
        """True if this prompt is the newest one, and more: notes are kept in the prompt itself."""
        return len(said) >= self.length >= NOTES_CHARS and text_hash(said[: self.length]) == self.text


class Memory:
    """Capture's part of a session's state.

    A *turn* is what an agent does in answer to one request: the calls that belong together, of which a loop is made.
    It goes on as long as each prompt ends with the results of the turn's own tool calls, or is the one before with
    notes behind it. Another run, and in the same run another conversation, is another turn: of a worker that starts
    afresh, of the next case of an evaluation.
    """

    __slots__ = ("conversation", "requested", "roots", "turn", "unread")

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.requested: dict[str, Requested] = {}
        self.roots: Recent[int, Root] = Recent()
        self.turn = 0
        # tool calls whose results no prompt has ended with yet, by the hash of their ids: their turn
        self.unread: Recent[int, int] = Recent()

    @classmethod
    def of(cls, state: SessionState) -> Memory:
        """The memory of a session, made on first use."""
        memory = state.capture
        if memory is None:
            memory = state.capture = cls()
        return memory  # type: ignore[no-any-return]

    def begin(self, root_id: str, reading: Reading, message: object) -> tuple[int, int]:
        """A model is asked in this run.

        Args:
            root_id: The outermost run.
            reading: What was read of the prompt.
            message: Its last message.

        Returns:
            The number of its turn, and the conversation.
        """
        key = text_hash(root_id)
        root, role = self.roots.get(key), reading.prompt.last_role
        conversation = reading.conversation
        said = plain_text(message) if reading.fresh else ""
        if root is not None and root.opening and root.goes_on(said):
            conversation = root.opening
        opening = conversation if reading.fresh else 0
        answered = text_hash(reading.results[-1][0].tool_call_id) if reading.results and role == "tool" else None
        turn = self.unread.pop(answered, None) if answered is not None else None
        if turn is None:
            if root is not None:
                same = not opening or opening == root.opening or not root.opening
                turn = root.turn if same else self._next()
            elif self.turn and not opening and role != "human" and answered is None:
                turn = self.turn  # each call is a run of its own, and what was asked for has no id
            else:
                turn = self._next()
        first, before = (root.first, root.opening) if root is not None else (turn, 0)
        self._at(key, Root(first, turn, opening or before or 1, len(said), text_hash(said)))
        return turn, conversation

    def turn_of(self, root_id: str) -> int:
        """The turn of a call that no model has asked for: the one that its run began with."""
        key = text_hash(root_id)
        root = self.roots.get(key)
        if root is None:
            turn = self._next()
            root = Root(turn, turn, 0)
            self._at(key, root)
        return root.first

    def _next(self) -> int:
        self.turn += 1
        return self.turn

    def _at(self, key: int, root: Root) -> None:
        self.roots[key] = root
        self.roots.touch(key)
        self.roots.limit(MAX_ROOTS)

    def request(self, call: Call) -> None:
        """Remembers which tool calls a model turn asked for."""
        if not call.tool_calls:
            return
        requested = self.requested
        for tool_call in call.tool_calls:
            if tool_call.id and tool_call.valid:
                tool = name_hash(tool_call.name)
                about = hash((tool, tool_call.args))
                requested[tool_call.id] = Requested(
                    call.id, len(call.tool_calls), call.ended_at, about, tool, call.turn, call.conversation
                )
                self.unread[text_hash(tool_call.id)] = call.turn
        self.unread.limit(MAX_UNREAD)
        while len(requested) > MAX_REQUESTED:
            del requested[next(iter(requested))]

    def find(self, name: str, arguments: int) -> str | None:
        """The id of the oldest call of this tool that has not run, one with these arguments first; None without any.

        For tool runs whose source does not record the id: most do not where the tool failed. Some write arguments
        down in a form of their own, so that only the tool is the same.
        """
        tool = name_hash(name)
        about = hash((tool, arguments))
        known = next((i for i, asked in self.requested.items() if asked.about == about), None)
        return known or next((i for i, asked in self.requested.items() if asked.tool == tool), None)

    def shrink(self) -> None:
        """Reduces a session that has been idle for a long time."""
        self.conversation.shrink()
        self.roots.clear()
        self.unread.clear()

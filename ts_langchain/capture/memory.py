"""What capture remembers of a session: prompts already read, and tool calls asked for but not yet run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ts_langchain.capture.conversation import Conversation
from ts_langchain.fingerprint import name_hash, text_hash

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.session import SessionState

MAX_REQUESTED = 20


class Requested(NamedTuple):
    """A tool call that a model asked for and whose result has not been seen."""

    model_call_id: str
    siblings: int
    asked_at: float
    about: int = 0
    """Fingerprint of tool and arguments."""
    tool: int = 0
    """Fingerprint of the tool."""


class Memory:
    """Capture's part of a session's state."""

    __slots__ = ("conversation", "requested", "root", "turn")

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.requested: dict[str, Requested] = {}
        self.root = 0
        self.turn = 0

    @classmethod
    def of(cls, state: SessionState) -> Memory:
        """The memory of a session, made on first use."""
        memory = state.capture
        if memory is None:
            memory = state.capture = cls()
        return memory  # type: ignore[no-any-return]

    def begin(self, root_id: str, last_role: str) -> int:
        """A model is asked in this run. Returns the number of the user's turn.

        A run that begins with a user's message is a new turn. Where each call is a run of its own, in a loop written by
        hand, those that begin with a tool's result belong to the same one.
        """
        root = text_hash(root_id)
        if root != self.root:
            self.root = root
            self.turn += last_role == "human"
        return self.turn

    def request(self, call: Call) -> None:
        """Remembers which tool calls a model turn asked for."""
        if not call.tool_calls:
            return
        requested = self.requested
        for tool_call in call.tool_calls:
            if tool_call.id and tool_call.valid:
                tool = name_hash(tool_call.name)
                about = hash((tool, tool_call.args))
                requested[tool_call.id] = Requested(call.id, len(call.tool_calls), call.ended_at, about, tool)
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

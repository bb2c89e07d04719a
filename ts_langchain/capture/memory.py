"""What capture remembers of a session: prompts already read, and tool calls asked for but not yet run."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ts_langchain.capture.conversation import Conversation
from ts_langchain.capture.inside import Inside
from ts_langchain.capture.messages import plain_text, read_message
from ts_langchain.capture.worded import Worded
from ts_langchain.fingerprint import mix, name_hash, text_hash
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ts_langchain.call import Call, Lost
    from ts_langchain.capture.conversation import Reading
    from ts_langchain.capture.worded import WordedBy
    from ts_langchain.fingerprint import Arguments
    from ts_langchain.session import SessionState

MAX_REQUESTED = 20
MAX_UNREAD = 8
MAX_LOST = 16
MAX_ROOTS = 4
NOTES_CHARS = 40
MAX_NOTES = 3
BY_HAND = 0


class Turn(NamedTuple):
    """What an agent does in answer to one request."""

    number: int
    root_id: str
    """Its run."""


class Requested(NamedTuple):
    """A tool call that a model asked for and whose result has not been seen."""

    model_call_id: str
    siblings: int
    asked_at: float
    about: int = 0
    """Fingerprint of tool and arguments."""
    tool: int = 0
    """Fingerprint of the tool."""
    turn: Turn = Turn(0, "")
    """The turn it was asked for in."""
    conversation: int = 0
    """The conversation it was asked for in."""
    step: int = 0
    task: int = 0
    waited: bool = False
    """It has waited for a human (`interrupt()`) and will run again."""
    in_words: bool = False
    """The model asked for it in words: what came back stands in the text of the next prompt."""


class Root(NamedTuple):
    """A run that models were asked in, as of the newest prompt."""

    turn: int
    conversation: int
    length: int
    """Length of the prompt, 0 unless no model has spoken in it."""
    text: int
    """Fingerprint of the prompt."""

    def goes_on(self, said: str) -> bool:
        """True if this prompt is the newest one, and more: notes are kept in the prompt itself."""
        return len(said) >= self.length >= NOTES_CHARS and text_hash(said[: self.length]) == self.text


class Memory:
    """Capture's part of a session's state.

    A *turn* is what an agent does in answer to one request: the calls that belong together, of which a loop is made.
    It is known by the run, the agent and the conversation in it: another run is another turn, and in the same run
    another agent of the graph, a worker that starts afresh, or the next case of an evaluation. It goes on in another
    run where a prompt ends with the results of its tool calls, where a prompt is the one before with notes behind
    it, and behind a tool that the model has asked for in words.

    In a loop written by hand each call is a run of its own, and none holds them together: there, the first run of a
    turn stands for all of it.
    """

    __slots__ = ("behind", "conversation", "inside", "lost", "newest", "requested", "roots", "unread", "worded")

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.inside: Inside | None = None  # most tools run no agents
        self.lost: Recent[int, Lost] | None = None  # answers that nobody got, by the request; most sessions have none
        self.worded: Worded | None = None  # most sessions have no code that looks things up
        self.requested: dict[str, Requested] = {}
        self.roots: Recent[int, Root] = Recent()
        self.newest: Turn | None = None
        # of each run, and each task in it, the tool call asked for in words that has run last, before a model is asked
        # again; of tools called by hand there is one
        self.behind: Recent[int, Requested] = Recent()
        # tool calls whose results no prompt has ended with yet, by the hash of their ids
        self.unread: Recent[int, Turn] = Recent()

    @classmethod
    def of(cls, state: SessionState) -> Memory:
        """The memory of a session, made on first use."""
        memory = state.capture
        if memory is None:
            memory = state.capture = cls()
        return memory  # type: ignore[no-any-return]

    def begin(
        self,
        root_id: str,
        reading: Reading,
        messages: Sequence[object],
        *,
        alone: str | None,
        agent: int = 0,
        task: int = 0,
    ) -> tuple[Turn, int]:
        """A model is asked in this run.

        Args:
            root_id: The outermost run. Before a guarded model that is called by hand, a session stands for it.
            reading: What was read of the prompt.
            messages: The prompt.
            alone: The call's own run, if none encloses it, or the chain's that it is part of.
            agent: Which agent inside a graph asks, 0 outside of one.
            task: Its task in the superstep of a graph, 0 outside of one.

        Returns:
            Its turn, and the conversation.
        """
        conversation, run = reading.conversation, turn_of(alone or root_id, agent)
        root = self.roots.get(run)
        said = plain_text(messages[-1]) if reading.fresh and messages else ""
        by_hand = self.behind.pop(BY_HAND, None)
        behind = self.behind.pop(turn_of(root_id, task), by_hand if alone is not None else None)
        if not reading.fresh:
            behind = None
        if behind is not None:
            conversation = behind.conversation
        elif root is not None and root.goes_on(said):
            conversation = root.conversation
        ended = reading.prompt.last_role == "tool"
        answered = reading.results[-1][0].tool_call_id if ended and reading.results else ""
        before = self.unread.pop(text_hash(answered), None) if answered else None
        if behind is not None:
            before = behind.turn
        if before is None and not reading.fresh and not answered:
            # a note behind the results, or results that were read before, or have no id
            before = self._around(messages, root_id)
            if before is None and root is not None:
                before = Turn(root.turn, root_id)
            elif before is None and ended:
                before = self.newest
        if before is None:
            turn = Turn(mix(run, conversation), root_id)
        else:
            turn = before if alone else Turn(before.number, root_id)
        self.newest = turn
        key = turn_of(turn.root_id, agent)
        self.roots[key] = Root(turn.number, conversation, len(said), text_hash(said))
        self.roots.touch(key)
        self.roots.limit(MAX_ROOTS)
        return turn, conversation

    def _around(self, messages: Sequence[object], root_id: str) -> Turn | None:
        """The turn that asked for the results a prompt ends with, notes of this run behind them aside; None if unknown.

        What was asked last in this run may be something else: a summary of it, or which tools it may need.
        """
        for message in reversed(messages[-1 - MAX_NOTES :]):
            read = read_message(message)
            if read.tool_results:
                place = text_hash(read.tool_results[-1].tool_call_id)
                turn = self.unread.get(place)
                if turn is None or (message is not messages[-1] and turn.root_id != root_id):
                    return None  # a user who speaks in another run begins a turn
                del self.unread[place]
                return turn
            if read.role != "human":
                return None
        return None

    def turn_behind(self, messages: Sequence[object]) -> Turn | None:
        """The turn that a prompt goes on with which ends with results of its tool calls, None if it begins one."""
        results = read_message(messages[-1]).tool_results if messages else ()
        return self.unread.get(text_hash(results[-1].tool_call_id), self.newest) if results else None

    def request(self, call: Call) -> None:
        """Remembers which tool calls a model turn asked for."""
        if not call.tool_calls:
            return
        requested, turn = self.requested, Turn(call.turn, call.root_id)
        if turn == self.newest:
            turn = self.newest  # one object for all calls of a turn
        self.newest = turn
        for number, tool_call in enumerate(call.tool_calls):
            if tool_call.valid:
                tool = name_hash(tool_call.name)
                about = hash((tool, tool_call.args))
                requested[tool_call.id or f"{call.id}/{number}"] = Requested(
                    call.id,
                    len(call.tool_calls),
                    call.ended_at,
                    about,
                    tool,
                    turn,
                    call.conversation,
                    call.step,
                    call.task,
                    in_words=not tool_call.id,
                )
                if tool_call.id:
                    self.unread[text_hash(tool_call.id)] = turn
        self.unread.limit(MAX_UNREAD)
        for key in list(islice(requested, max(0, len(requested) - MAX_REQUESTED))):
            del requested[key]

    def ran(self, call_id: str, root_id: str) -> Requested | None:
        """A tool has run, in this outermost run: the model's request for it, None if that is not known."""
        asked = self.requested.pop(call_id, None)
        if asked is not None and asked.in_words:
            key = turn_of(root_id, asked.task) if root_id == asked.turn.root_id else BY_HAND
            self.behind[key] = asked
            self.behind.touch(key)
            self.behind.limit(MAX_UNREAD)
        return asked

    def wait(self, call_id: str | None, name: str, arguments: Arguments | None, root_id: str = "") -> None:
        """A tool call waits for a human: behind those that have not run at all, of which one may be the same."""
        if call_id is None:
            call_id = self.find(name, arguments, root_id)
        asked = self.requested.pop(call_id, None) if call_id is not None else None
        if call_id is not None and asked is not None:
            self.requested[call_id] = asked._replace(waited=True)

    def find(self, name: str, arguments: Arguments | None, root_id: str = "") -> str | None:
        """The id of the oldest call of this tool that has not run, one with these arguments first; None without any.

        Calls asked for in the same outermost run come before all others, of which some never run.

        For tool runs whose source does not record the id: most do not where the tool failed. Some write arguments
        down in a form of their own, so that only the tool is the same.
        """
        if arguments is None or not self.requested:
            return None
        tool = name_hash(name)
        about = hash((tool, arguments.fingerprint))
        own = [(i, asked) for i, asked in self.requested.items() if asked.turn.root_id == root_id]
        for requested in (own, self.requested.items()):
            known = next((i for i, asked in requested if asked.about == about), None)
            known = known or next((i for i, asked in requested if asked.tool == tool), None)
            if known is not None:
                return known
        return None

    def worded_by(self, texts: Iterable[object]) -> WordedBy | None:
        """The model that has worded what code asks for, None if none has. Its answers are read from here on."""
        if self.worded is None:
            self.worded = Worded()
        return self.worded.by(texts)

    def lose(self, request: int, lost: Lost) -> None:
        """Nobody got the answer to this request."""
        if self.lost is None:
            self.lost = Recent()
        self.lost[request] = lost
        self.lost.touch(request)
        self.lost.limit(MAX_LOST)

    def send_again(self, request: int) -> Lost | None:
        """This request is sent: the answer that it had already, if nobody got that."""
        return self.lost.pop(request, None) if self.lost else None

    def spoke_inside(self, tasks: Sequence[int]) -> None:
        """A model is asked inside of these tasks of LangGraph, of which a tool may be one."""
        if self.inside is None:
            self.inside = Inside()
        self.inside.spoke(tasks)

    def found_inside(self, tasks: Sequence[int], result: int) -> None:
        """A tool or a retriever has given this inside of these tasks, before any model is asked there, perhaps."""
        if self.inside is None:
            self.inside = Inside()
        self.inside.note(tasks, result)

    def shrink(self) -> None:
        """Reduces a session that has been idle for a long time."""
        self.conversation.shrink()
        self.roots.clear()
        self.unread.clear()
        self.behind.clear()
        self.inside = self.lost = self.worded = None


def turn_of(root_id: str, agent: int = 0) -> int:
    """The turn of a call that no model has asked for: its run, and which agent inside a graph it is made by."""
    run = text_hash(root_id)
    return mix(run, agent) if agent else run

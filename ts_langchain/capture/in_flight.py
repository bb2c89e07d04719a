"""What a Sentinel's handlers know together: calls that have begun and not ended, and what goes on from what."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.capture.context import current_labels
from ts_langchain.capture.continued import Continued

if TYPE_CHECKING:
    from ts_langchain.budget import Reservation
    from ts_langchain.call import Kind, Lost, Prompt, SourceCost, Toolset
    from ts_langchain.capture.context import Labels
    from ts_langchain.capture.continued import Asked
    from ts_langchain.capture.worded import WordedBy
    from ts_langchain.fingerprint import Arguments

MAX_PENDING = 20_000
MAX_LABELLED = 10_000
MAX_LEFT = 1_000
MAX_BELOW = 10_000  # among more nobody looks: they go in their turn
MAX_ANSWERED = 2_000
MAX_ANSWERS = 8


class Origin(NamedTuple):
    """Where a call comes from."""

    session_id: str
    root_id: str
    node: str | None
    tags: tuple[str, ...]
    user_id: str | None
    named: bool = True
    """False if nothing names the session: it is the outermost run, or what the prompt goes on from."""
    trace_id: str | None = None
    """The outermost run, where `root_id` is another that stands for it."""


class Started(NamedTuple):
    """A call that has begun: what is needed of it once it ends."""

    kind: Kind
    origin: Origin
    started_at: float
    name: str
    model: str | None = None
    provider: str | None = None
    prompt: Prompt | None = None
    toolset: Toolset | None = None
    request: int = 0
    temperature: float | None = None
    args: Arguments | None = None
    tool_call_id: str | None = None
    max_tokens: int | None = None
    traits: tuple[tuple[str, int], ...] = ()
    turn: int = 0
    conversation: int = 0
    asked: Asked | None = None
    """Of model calls: what tells their conversation, where nothing names it."""
    parent: Any = None
    """The run directly above."""
    step: int = 0
    task: int = 0
    agent: int = 0
    """Which agent inside a graph makes it, 0 outside of one."""
    places: tuple[int, ...] = ()
    """Of tools and retrievers: the task of LangGraph it runs in, and those around its graph."""
    around: int = 0
    """Of model calls: the task of LangGraph around the graph they are made in, 0 if there is none."""
    purpose: str | None = None
    """Of model calls: what a library makes them for, by itself."""
    streams: bool = False
    """Of model calls: a part of the answer has come."""
    in_task: bool = False
    """It began in one of asyncio's tasks, and may be cancelled with it."""
    told_inside: bool = False
    """Of model calls: another one ran inside, which is the same call and has been recorded."""
    lost: Lost | None = None
    """Of model calls: the answer to the very same request before this one, if it was lost."""
    for_an_hour: bool = False
    """Of model calls: what it writes to the provider's cache is to be kept for an hour."""
    batch: int = 1
    """Of completion models: how many prompts were sent together. The first is told the tokens of all of them."""
    counted: bool = False
    """It was, with another of its batch."""
    worded_by: WordedBy | None = None
    """Of retrievers, and of tools called by code: the model that has worded what they are asked."""


class Reported(NamedTuple):
    """What a history's source says of a call beside its content.

    Attributes:
        usage: Tokens, as `read_usage` takes them.
        cost: Cost.
        cached: True if a cache of responses answered: nothing was sent to the provider, and nothing billed.
    """

    usage: object
    cost: SourceCost | None
    cached: bool = False


class Answered(NamedTuple):
    """A model call that was answered, as long as what is around it may still fail."""

    session_id: str
    request: int
    call_id: str
    seconds: float


class Called(NamedTuple):
    """The model that a node has called last, as far as budgets ask for it."""

    model: str | None
    provider: str | None
    toolset: Toolset | None
    max_tokens: int | None


class InFlight:
    """Shared by all handlers of a Sentinel: a call that several of them see is recorded once.

    Attributes:
        started: Calls by run id, the oldest first.
        roots: Outermost run of each chain under way.
        labelled: What `sentinel.session(...)` said where an outermost run began: web frameworks go on with a stream in
            another context.
        left: Outermost run of the chains and tools cancelled last: what a thread has begun there goes on.
        reported: What a history's source says of calls that have not ended.
        reservations: What calls under way were let through with.
        model_nodes: LangGraph nodes that have called a model, and the last one of each.
        continued: Tells the conversations that nothing names.
        answered: Model calls that were answered, by the run directly above.
    """

    __slots__ = (
        "answered",
        "continued",
        "labelled",
        "left",
        "model_nodes",
        "reported",
        "reservations",
        "roots",
        "started",
    )

    def __init__(self) -> None:
        self.started: dict[Any, Started] = {}
        self.roots: dict[Any, str] = {}
        self.labelled: dict[str, Labels] = {}
        self.left: dict[Any, str] = {}
        self.reported: dict[Any, Reported] = {}
        self.reservations: dict[Any, Reservation] = {}
        self.model_nodes: dict[str, Called] = {}
        self.continued = Continued()
        self.answered: dict[Any, tuple[Answered, ...]] = {}

    def label(self, root_id: str) -> None:
        """Remembers what is said around the beginning of an outermost run."""
        labels = current_labels()
        if labels is not None and labels.names:
            self.labelled[root_id] = labels._replace(around=None)
            if len(self.labelled) > MAX_LABELLED:
                self.labelled.pop(next(iter(self.labelled)), None)

    def leave(self, run_id: Any) -> None:
        """Forgets a run that is cancelled, in the end: a thread may go on in it for a while.

        With an outermost run goes all below: of a stream of events that is left, LangChain tells of nothing else.
        """
        root_id = self.roots.pop(run_id, None)
        if root_id is None:
            return
        self.left[run_id] = root_id
        if root_id == str(run_id) and len(self.roots) <= MAX_BELOW:
            for below in [run for run, root in list(self.roots.items()) if root == root_id]:
                self.roots.pop(below, None)
                self.left[below] = root_id
        while len(self.left) > MAX_LEFT:
            with suppress(LookupError, RuntimeError):  # another thread has made room
                oldest = next(iter(self.left))
                root_id = self.left.pop(oldest)
                if root_id == str(oldest):
                    self.labelled.pop(root_id, None)

    def answer(self, above: Any, answered: Answered) -> None:
        """Keeps what a model call gave, until it is known what becomes of the run directly above."""
        self.answered[above] = (*self.answered.pop(above, ()), answered)[-MAX_ANSWERS:]
        if len(self.answered) > MAX_ANSWERED:
            self.answered.pop(next(iter(self.answered)), None)

    def keep(self, run_id: Any, started: Started) -> bool:
        """Keeps a call until it ends. False if another, the oldest, had to be given up for it."""
        self.started[run_id] = started
        if len(self.started) <= MAX_PENDING:
            return True
        lost = next(iter(self.started))
        self.started.pop(lost, None)
        self.roots.pop(lost, None)
        self.answered.pop(lost, None)
        self.reported.pop(lost, None)
        self.reservations.pop(lost, None)  # the store gives it back in time
        return False

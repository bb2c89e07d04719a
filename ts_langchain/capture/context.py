"""Which session a call belongs to: what the user says, what the config says, or the outermost run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config

from ts_langchain.fingerprint import ID_LENGTH, mix, short_id, text_hash

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from types import TracebackType

SESSION_KEYS = ("session_id", "thread_id", "conversation_id")
USER_KEYS = ("user_id", "ls_user_id", "langgraph_auth_user_id")
OBJECTS = (Mapping, list, tuple)
"""What is no id, and may hold what was said."""
ID_CHARS = 200
UUID_CHARS = 36
MAX_DEPTH = 64
"""Asynchronous generators that nobody reads to the end are closed in another context, and theirs stay open in ours."""
MAX_TAGS = 100
_PLAIN_ID = re.compile(r"[\w.:@/+-]+")
T = TypeVar("T")


class Labels(NamedTuple):
    """What a `sentinel.session(...)` context says of the calls inside it."""

    session_id: str | None
    user_id: str | None
    tags: tuple[str, ...]
    root_id: str | None = None
    """The outermost run, said by a middleware where no handler has seen it begin."""
    owner: object = None
    """The context that says it."""
    around: Labels | None = None
    """What the context around that says."""
    depth: int = 0
    """How many are around it."""
    within: bool = False
    """It begins inside of a run."""

    def holds_for(self, run: Labels) -> bool:
        """True unless it was begun beside a run that began under `run`, as by a stream that is read in turn with it."""
        found: Labels | None = self
        while not self.within and found is not None:
            if found.owner is run.owner:
                return False
            found = found.around
        return True

    @property
    def names(self) -> bool:
        """True if they say more than the run."""
        return self[:3] != (None, None, ())


NO_LABELS = Labels(None, None, ())
_labels: ContextVar[Labels | None] = ContextVar("ts_langchain_labels", default=None)


def current_labels() -> Labels | None:
    """Labels of the innermost context, None outside of one."""
    return _labels.get()


def put_back(variable: ContextVar[T], token: Token[T]) -> None:
    """Ends what `token` began.

    Web frameworks run each step of a streamed answer in a copy of the context. Where that is another one than it began
    in, there is nothing to end.
    """
    with suppress(ValueError):
        variable.reset(token)


def _end(owner: object) -> None:
    """Ends the innermost context of this owner, with all inside of it.

    Generators that are read in turn end in any order: whoever puts back what was there when he began brings back what
    has ended meanwhile, and for good. Where it did not begin in this context, there is nothing to end.
    """
    labels = _labels.get()
    while labels is not None and labels.owner is not owner:
        labels = labels.around
    if labels is not None:
        _labels.set(labels.around)


@contextmanager
def inside_run(root_id: str) -> Iterator[None]:
    """Calls inside belong to this outermost run, where no handler has seen it begin."""
    outer, owner = _labels.get(), object()
    _labels.set((outer or NO_LABELS)._replace(root_id=root_id, owner=owner, around=outer))
    try:
        yield
    finally:
        _end(owner)


class SessionContext:
    """All calls inside belong to this session, user and tags. Works with `with` and `async with`.

    Contexts nest: what an inner one leaves out is inherited, tags add up.
    """

    def __init__(self, session_id: object | None, user_id: object | None = None, tags: tuple[str, ...] = ()) -> None:
        self._labels = Labels(as_id(session_id), _user_id(as_id(user_id)), kept_tags(tags), owner=self)

    def __enter__(self) -> SessionContext:
        outer, inner, within = _labels.get(), self._labels, run_around() is not None
        if outer is not None and outer.depth < MAX_DEPTH:
            inner = Labels(
                inner.session_id or outer.session_id,
                inner.user_id or outer.user_id,
                (*outer.tags, *inner.tags),
                outer.root_id,
                self,
                outer,
                outer.depth + 1,
                within,
            )
        elif within:
            inner = inner._replace(within=True)
        _labels.set(inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self)

    async def __aenter__(self) -> SessionContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def as_id(given: object | None) -> str | None:
    """An id as text, of a bounded length: users' own are often numbers or UUIDs."""
    return None if given is None else short_id(str(given))


def kept_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Tags as they are kept of each call: so many, of a bounded length."""
    if not tags:
        return ()
    return tuple(
        [
            short_id(tag, ID_CHARS) if isinstance(tag, str) and len(tag) > ID_CHARS else tag
            for tag in islice(tags, MAX_TAGS)
        ]
    )


def traced_root(parent_run_id: object) -> str | None:
    """The outermost run above a run of which no handler was told, if LangSmith knows it.

    With LangSmith's tracing on, LangChain takes `@traceable` functions for the parents of what runs inside them, in
    the callbacks of all handlers; the hooks of agent middleware are such functions.
    """
    from langsmith.run_helpers import get_current_run_tree

    tree = get_current_run_tree()
    return str(tree.trace_id) if tree is not None and tree.id == parent_run_id else None


def traced_parent(parent_run_id: object, known: Container[object]) -> object:
    """The nearest of the known runs around a run of which no handler was told, if LangSmith knows it; else that run."""
    from langsmith.run_helpers import get_current_run_tree

    tree = get_current_run_tree()
    if tree is not None and tree.id == parent_run_id:
        for place in reversed(tree.dotted_order.split(".")):  # of each run around it: when it began, and its id
            run_id = UUID(place[-UUID_CHARS:])
            if run_id in known:
                return run_id
    return parent_run_id


_NOTHING: Mapping[str, object] = {}
_PURPOSES = frozenset({"summarization", "tool_selection", "tool_emulation"})


def configurable() -> Mapping[str, Any]:
    """`configurable` of the runnable that is running.

    LangGraph copies a `thread_id` from there into the metadata; of plain runnables only LangChain's own tracer is told.
    """
    config = var_child_runnable_config.get()
    return _NOTHING if config is None else config.get("configurable") or _NOTHING


def run_around() -> UUID | None:
    """The run around this code, None if there is none.

    `with_fallbacks` hands its own config on, not its child's; a model with tools bound finds the run all the same.
    """
    config = var_child_runnable_config.get()
    return getattr(config.get("callbacks"), "parent_run_id", None) if config is not None else None


def session_of(metadata: Mapping[str, object], configured: Mapping[str, object] = _NOTHING) -> str | None:
    """The conversation that a run's metadata, or else its `configurable`, names; None if they name none."""
    return _first_id(SESSION_KEYS, metadata, configured)


def user_of(metadata: Mapping[str, object], configured: Mapping[str, object] = _NOTHING) -> str | None:
    """The user that a run's metadata, or else its `configurable`, names; None if they name none."""
    return _user_id(_first_id(USER_KEYS, metadata, configured))


def _user_id(given: str | None) -> str | None:
    return None if given is None else short_id(given, ID_CHARS)


def _first_id(keys: tuple[str, ...], metadata: Mapping[str, object], configured: Mapping[str, object]) -> str | None:
    for key in keys:
        value = metadata.get(key)
        found = _id_in(value) if value is not None else None
        if found is None:
            value = configured.get(key)
            found = _id_in(value) if value is not None else None
        if found is not None:
            return found
    return None


def _id_in(value: object) -> str | None:
    """The id that a value is, as text; None for empty text, and for objects that hold more than an id.

    Of those, a user with name and address for example, the text has blanks, quotes or brackets.
    """
    if type(value) is str:
        return (value if len(value) <= ID_LENGTH else short_id(value)) or None
    if isinstance(value, str):
        return short_id(str.__str__(value)) or None
    if isinstance(value, OBJECTS):
        return None
    try:
        text = str(value)[:ID_CHARS]
    except Exception:  # noqa: BLE001 - whatever it is, it is no id
        return None
    return text if _PLAIN_ID.fullmatch(text) else None


def agent_of(metadata: Mapping[str, object]) -> int:
    """The agent inside a graph that a run belongs to, known by the nodes around it; 0 if it is in none.

    Between their names, which have ids behind them, LangGraph counts the graphs that one task has called.
    """
    place = metadata.get("langgraph_checkpoint_ns")
    if type(place) is not str or "|" not in place:
        return 0
    return text_hash("|".join(part.partition(":")[0] for part in place.split("|")[:-1] if not part.isdecimal()))


def places_of(metadata: Mapping[str, object]) -> tuple[int, ...]:
    """The task of LangGraph that a run is made in, and those around its graph, the nearest first; () in none."""
    place = metadata.get("langgraph_checkpoint_ns")
    if type(place) is not str or not place:
        return ()
    if "|" not in place:
        return (text_hash(place),)
    parts = [part for part in place.split("|") if not part.isdecimal()]
    return tuple(text_hash("|".join(parts[:depth])) for depth in range(len(parts), 0, -1))


def purpose_of(metadata: Mapping[str, object]) -> str | None:
    """What LangChain's middleware says that it asks a model for by itself; None for the app's own requests."""
    purpose = metadata.get("lc_source")
    return purpose if type(purpose) is str and purpose in _PURPOSES else None


def task_of(metadata: Mapping[str, object]) -> tuple[int, int]:
    """The superstep of LangGraph that a run belongs to, and the task in it; zeros if there is none.

    A superstep is known by the task around its graph, and by its number; a task by its place in the superstep, which is
    the same each time the step is taken: its node, of those that `Send` makes their number, too. What a function of
    the functional API calls comes one after the other, under one number: no step is known of it.
    """
    path, step = metadata.get("langgraph_path"), metadata.get("langgraph_step")
    if not isinstance(path, (list, tuple)) or len(path) < 2 or type(step) is not int:
        return 0, 0
    place = path[1]
    if type(place) is not int and type(place) is not str:
        return 0, 0
    around = str(metadata.get("langgraph_checkpoint_ns") or "").rpartition("|")[0]
    return mix(text_hash(around), step), text_hash(f"{metadata.get('langgraph_node')} {place}")

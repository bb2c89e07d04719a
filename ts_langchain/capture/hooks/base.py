"""What the hooks share: which run belongs to which, calls that have begun, and failing open."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from langchain_core.callbacks import BaseCallbackHandler

from ts_langchain.call import Lost
from ts_langchain.capture.context import (
    as_id,
    configurable,
    current_labels,
    kept_tags,
    session_of,
    traced_root,
    user_of,
)
from ts_langchain.capture.doors import begun
from ts_langchain.capture.errors import NO_FAILURES, error_name
from ts_langchain.capture.in_flight import Origin
from ts_langchain.capture.memory import Memory
from ts_langchain.capture.tasks import add, current_task, note
from ts_langchain.errors import ConfigurationError, Intervention
from ts_langchain.sentinel import Mode, Sentinel, as_sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ts_langchain.capture.in_flight import Started
    from ts_langchain.capture.worded import WordedBy

P = ParamSpec("P")
T = TypeVar("T")
Hook = TypeVar("Hook", bound="Callable[..., None]")


def fail_open(hook: Hook) -> Hook:
    """Nothing but an intervention leaves a hook."""

    @functools.wraps(hook)
    def guarded(self: Hooks, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Intervention:
            raise
        except Exception as error:  # noqa: BLE001 - fails open, see health.Faults
            self.sentinel.faults.record(f"handler.{hook.__name__}", error)

    return cast("Hook", guarded)


class Hooks(BaseCallbackHandler):
    """What the hooks of every kind of call stand on. Takes what `TokenSentinelHandler` takes."""

    # no thread hop per hook under asyncio
    run_inline: bool = True

    def __init__(
        self,
        sentinel: Sentinel | None = None,
        *,
        mode: Mode = "observe",
        session_id: object | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if mode not in ("observe", "block"):
            msg = f"mode is {mode!r}, expected 'observe' or 'block'"
            raise ConfigurationError(msg)
        self.sentinel = as_sentinel(sentinel) if sentinel is not None else Sentinel()
        self.mode = mode
        # without it langchain-core logs what a hook raises and goes on: the veto would veto nothing
        self.raise_error = mode == "block"
        self.session_id = as_id(session_id)
        self.clock = clock
        flight = self.sentinel.in_flight
        self._started, self._roots = flight.started, flight.roots
        self._reported, self._reservations = flight.reported, flight.reservations
        self._continued, self._answered, self._labelled = flight.continued, flight.answered, flight.labelled
        self.model_nodes = flight.model_nodes

    def __getstate__(self) -> tuple[Sentinel, Mode, str | None, Callable[[], float]]:
        return self.sentinel, self.mode, self.session_id, self.clock

    def __setstate__(self, state: tuple[Sentinel, Mode, str | None, Callable[[], float]]) -> None:
        """Copies watch for the same Sentinel, and know what it knows."""
        sentinel, mode, session_id, clock = state
        Hooks.__init__(self, sentinel, mode=mode, session_id=session_id, clock=clock)

    @property
    def ignore_custom_event(self) -> bool:
        return True

    @property
    def vetoes(self) -> bool:
        """True if a model call that may not be sent is held back."""
        return self.mode == "block"

    # --- which run belongs to which ----------------------------------------------------------------

    def _root_above(self, run_id: Any) -> str:
        """The outermost run of one that is not under way: said by a middleware, or found."""
        labels = current_labels()
        return (labels.root_id if labels is not None else None) or self._run_around(run_id)

    def _run_around(self, run_id: Any) -> str:
        """The outermost run of a run: it is under way, or was cancelled, or LangSmith knows it; else itself."""
        left = self.sentinel.in_flight.left
        return self._roots.get(run_id) or left.get(run_id) or traced_root(run_id) or str(run_id)

    def _origin(
        self,
        run_id: Any,
        parent_run_id: Any,
        metadata: Mapping[str, object],
        tags: Sequence[str] | None,
        configured: Mapping[str, object] | None = None,
    ) -> Origin:
        outer = run_id if parent_run_id is None else parent_run_id
        root_id = self._roots.get(outer)
        node = metadata.get("langgraph_node")
        if type(node) is not str:
            node = None
        labels = current_labels()
        if root_id is None:
            root_id = str(run_id) if parent_run_id is None and labels is None else self._root_above(outer)
        if self._labelled:
            began = self._labelled.get(root_id)
            if began is not None and not (labels is not None and labels.names and labels.holds_for(began)):
                labels = began
        inside = self._started.get(parent_run_id) if configured is None else None
        if inside is not None:  # what a tool calls itself belongs where the tool does, unless told otherwise
            user_id = user_of(metadata) or inside.origin.user_id
            session_id = session_of(metadata) or (inside.origin.session_id if inside.origin.named else None)
        else:
            if configured is None:
                configured = configurable()
            session_id, user_id = session_of(metadata, configured), user_of(metadata, configured)
        all_tags = kept_tags(tags)
        if labels is None:
            named = self.session_id or session_id
        else:
            named = self.session_id or labels.session_id or session_id
            user_id, all_tags = labels.user_id or user_id, (*all_tags, *labels.tags)
        session_id = named or self._continued.of_run(root_id) or root_id
        return Origin(session_id, root_id, node, all_tags, user_id, named is not None)

    def _worded_by(self, session_id: str, texts: Iterable[object]) -> WordedBy | None:
        """The model that has worded what code asks of a retriever or a tool, None if none has."""
        session = self.sentinel.get(session_id)
        with session.lock:
            found = Memory.of(session.state).worded_by(texts)
            self.sentinel.changed(session)
        return found

    # --- calls that have begun ---------------------------------------------------------------------

    def _keep(self, run_id: Any, started: Started, *, tells_itself: bool = False) -> None:
        """Keeps a call until it ends, with its task at the latest.

        Completion models tell themselves that they are cancelled; the task that they begin in only tells that they do,
        and is done before they answer.
        """
        inside = begun.get()
        if inside is not None:
            add(inside, self, run_id)
        task = None if tells_itself else current_task()
        if task is not None:
            started = started._replace(in_task=True)
        if not self.sentinel.in_flight.keep(run_id, started):
            self.sentinel.faults.record("handler: call never ended", TimeoutError())
        if task is not None:
            note(task, self, run_id)

    def is_under_way(self, run_id: Any) -> bool:
        """True for a call that has begun and not ended."""
        return run_id in self._started

    def cancelled(self, run_ids: Iterable[Any], error: asyncio.CancelledError) -> None:
        """Ends those of these calls that have not ended. LangChain tells nobody of a call that is cancelled.

        What a thread has begun goes on there, and LangChain tells of its end.
        """
        for run_id in run_ids:
            started = self._started.get(run_id)
            if started is not None and started.in_task:
                if started.kind == "tool":
                    self.cancelled(self._below(run_id), error)
                self._give_up(run_id, started, error)

    def broke(self, run_ids: Iterable[Any], error: BaseException) -> None:
        """Ends those of these calls that have not ended, where what they raised came out of what is around them.

        LangChain tells of an `Exception` itself, and nobody of what is none: a panic in Rust, `SystemExit`, a time-out
        of gevent.
        """
        if not isinstance(error, (Exception, GeneratorExit)):  # of a stream that is closed threads go on
            for run_id in run_ids:
                started = self._started.get(run_id)
                if started is not None:
                    self.broke(self._below(run_id), error)
                    self._give_up(run_id, started, error)

    def _below(self, run_id: Any) -> list[Any]:
        """Calls under way directly below a run."""
        return [i for i, s in list(self._started.items()) if s.parent == run_id]

    def _give_up(self, run_id: Any, started: Started, error: BaseException) -> None:
        if started.kind == "model":
            self.on_llm_error(error, run_id=run_id)
        elif started.kind == "retriever":
            self.on_retriever_error(error, run_id=run_id)
        else:
            self.on_tool_error(error, run_id=run_id)

    def abandon(self, run_id: Any) -> None:
        """Ends a call whose task is done. Of streams, which may go on in another task, LangChain tells."""
        with self.sentinel.faults.fail_open("handler: task"):
            started = self._started.get(run_id)
            if started is not None and not started.streams:
                self.cancelled([run_id], asyncio.CancelledError())

    # --- answers that nobody got -------------------------------------------------------------------

    def _lose(self, run_id: Any, error: BaseException | str) -> None:
        """A run failed: what models had answered directly below, nobody got."""
        answers = self._answered.pop(run_id, None)
        if answers is None or (name := error_name(error)) in NO_FAILURES:
            return
        with self.sentinel.faults.fail_open("handler: lost answer"):  # what follows is told all the same
            at = self.clock()
            for answered in answers:
                session = self.sentinel.get(answered.session_id)
                with session.lock:
                    lost = Lost(answered.call_id, name, at, answered.seconds)
                    Memory.of(session.state).lose(answered.request, lost)
                    self.sentinel.changed(session)

    def _lose_still(self, session_id: str, request: int, lost: Lost) -> None:
        """What was lost waits for the next time its request is sent, unless another answer to it was lost meanwhile."""
        with self.sentinel.faults.fail_open("handler: lost answer"):
            session = self.sentinel.get(session_id)
            with session.lock:
                memory = Memory.of(session.state)
                if not memory.lost or request not in memory.lost:
                    memory.lose(request, lost)
                    self.sentinel.changed(session)

    def _readable(self, what: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `read` makes of what the app hands over; None, and counted, where that cannot be read.

        The call counts all the same: somebody is billed for it.
        """
        try:
            return read(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - fails open, see health.Faults
            self.sentinel.faults.record(f"handler: {what}", error)
            return None

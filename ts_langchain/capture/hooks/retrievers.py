"""Hooks about retrievers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.call import Call
from ts_langchain.capture.context import places_of, task_of
from ts_langchain.capture.errors import CANCELLED, error_hash, error_name, is_unavailable
from ts_langchain.capture.hooks.base import Hooks, fail_open
from ts_langchain.capture.in_flight import Started
from ts_langchain.capture.memory import Memory, turn_of
from ts_langchain.capture.tools import document_hash
from ts_langchain.fingerprint import arguments, mix, name_hash

if TYPE_CHECKING:
    from collections.abc import Mapping


class RetrieverHooks(Hooks):
    """The hooks of retrievers."""

    @fail_open
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A retriever is asked. One that runs inside a tool is part of that tool's call."""
        if run_id in self._started:
            return
        parent = self._started.get(parent_run_id)
        if parent is not None and parent.kind == "tool":
            return
        name = kwargs.get("name") or (serialized or {}).get("name") or "retriever"
        args = arguments({"query": query}) if query else None
        origin = self._origin(run_id, parent_run_id, metadata or {}, tags)
        step, task = task_of(metadata or {})
        worded_by = self._worded_by(origin.session_id, (query,)) if query else None
        self._keep(
            run_id,
            Started(
                "retriever",
                origin,
                self.clock(),
                str(name),
                args=args,
                parent=parent_run_id,
                step=step,
                task=task,
                places=places_of(metadata or {}),
                worded_by=worded_by,
            ),
        )

    @fail_open
    def on_retriever_end(self, documents: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A retriever answered."""
        started = self._started.pop(run_id, None)
        self._answered.pop(run_id, None)
        if started is None:
            return
        known = isinstance(documents, (list, tuple))
        found = tuple(document_hash(d) for d in documents) if known else ()
        self._retriever_end(started, run_id, mix(*sorted(found)) if known else 0, found, None)

    @fail_open
    def on_retriever_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """A retriever failed."""
        started = self._started.pop(run_id, None)
        self._answered.pop(run_id, None)
        if started is not None:
            name = error_name(error)
            about = self._readable("retriever error", error_hash, error) or name_hash(name)
            unavailable = self._readable("retriever error", is_unavailable, error) or False
            self._retriever_end(started, run_id, about, (), name, unavailable=unavailable)

    def _retriever_end(
        self,
        started: Started,
        run_id: Any,
        answer: int,
        items: tuple[int, ...],
        error: str | None,
        *,
        unavailable: bool = False,
    ) -> None:
        origin = started.origin
        if len(started.places) > 1:
            session = self.sentinel.get(origin.session_id)
            with session.lock:
                args = started.args.fingerprint if started.args is not None else 0
                found = mix(name_hash(started.name), args, answer)
                Memory.of(session.state).found_inside(started.places[1:], found)
        self.sentinel.observe(
            Call(
                run_id if type(run_id) is str else str(run_id),
                "retriever",
                origin.session_id,
                origin.root_id,
                started.name,
                started.started_at,
                max(self.clock(), started.started_at),
                "ok" if error is None else "cancelled" if error in CANCELLED else "error",
                error,
                answer=answer,
                arguments=started.args,
                requested_by=started.worded_by.model_call_id if started.worded_by is not None else None,
                siblings=started.worded_by.siblings if started.worded_by is not None else 1,
                items=items,
                node=origin.node,
                tags=origin.tags,
                user_id=origin.user_id,
                turn=turn_of(origin.root_id),
                step=started.step,
                task=started.task,
                unavailable=unavailable,
            )
        )

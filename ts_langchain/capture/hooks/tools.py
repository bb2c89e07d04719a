"""Hooks about tools: one runs, answers, fails, waits for a human or hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.call import Call, Status
from ts_langchain.capture.context import agent_of, places_of, task_of
from ts_langchain.capture.errors import CANCELLED, HANDOFFS, INTERRUPTS, error_hash, error_name, is_unavailable
from ts_langchain.capture.hooks.base import Hooks, fail_open
from ts_langchain.capture.in_flight import Started
from ts_langchain.capture.memory import Memory, turn_of
from ts_langchain.capture.messages import name_of
from ts_langchain.capture.tools import NOT_RECORDED, Output, read_tool_output
from ts_langchain.capture.traits import read_declared, read_traits
from ts_langchain.fingerprint import arguments, gist_hash, mix, name_hash

if TYPE_CHECKING:
    from collections.abc import Mapping


class ToolHooks(Hooks):
    """The hooks of tools."""

    @fail_open
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool runs."""
        if run_id in self._started:
            return
        name = name_of(str(kwargs.get("name") or (serialized or {}).get("name") or "tool"))
        origin = self._origin(run_id, parent_run_id, metadata or {}, tags)
        given = inputs if inputs is not None else input_str
        recorded = given or inputs is not None
        args = self._readable("tool arguments", arguments, given) if recorded else None
        tool_call_id = kwargs.get("tool_call_id")
        tool_call_id = str(tool_call_id) if tool_call_id else None
        if parent_run_id is None and not origin.named and args is not None:
            conversation = self._continued.of_tool(name, args.fingerprint, tool_call_id)
            if conversation is not None:
                origin = origin._replace(session_id=conversation)
                self._continued.place(origin.root_id, conversation)
        worded_by = None
        if tool_call_id is None and args is not None and args.free_text is not None:
            worded_by = self._worded_by(origin.session_id, given.values() if isinstance(given, dict) else (given,))
        step, task = task_of(metadata or {})
        self._roots[run_id] = origin.root_id  # models and retrievers inside the tool belong to its run
        self._keep(
            run_id,
            Started(
                "tool",
                origin,
                self.clock(),
                name,
                args=args,
                tool_call_id=tool_call_id,
                traits=(read_traits(inputs) if type(inputs) is dict else ()) + read_declared(metadata),
                parent=parent_run_id,
                step=step,
                task=task,
                agent=agent_of(metadata or {}),
                places=places_of(metadata or {}),
                worded_by=worded_by,
            ),
        )

    @fail_open
    def on_tool_end(self, output: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A tool answered."""
        started = self._started.pop(run_id, None)
        self._roots.pop(run_id, None)
        self._answered.pop(run_id, None)
        if started is not None:
            read = self._readable("tool output", read_tool_output, output) or NOT_RECORDED
            self._tool_end(started, run_id, read, message=output)

    @fail_open
    def on_tool_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """A tool failed, was interrupted, or hands over."""
        started = self._started.pop(run_id, None)
        self._lose(run_id, error)
        name = error_name(error)
        if name in CANCELLED:
            self.sentinel.in_flight.leave(run_id)
        else:
            self._roots.pop(run_id, None)
        if started is None:
            return
        if name in INTERRUPTS:  # waits for a human; it will run again under the same tool_call_id
            session = self.sentinel.get(started.origin.session_id)
            with session.lock:
                memory = Memory.of(session.state)
                memory.wait(started.tool_call_id, started.name, started.args, started.origin.root_id)
                self.sentinel.changed(session)
            return
        if name in HANDOFFS:
            self._tool_end(started, run_id, Output(name_hash(name), 0))
        elif name in CANCELLED:
            self._tool_end(started, run_id, Output(0, 0), "cancelled", name)
        else:
            about = self._readable("tool error", error_hash, error) or name_hash(name)
            unavailable = self._readable("tool error", is_unavailable, error) or False
            self._tool_end(started, run_id, Output(about, 0, failed=True, unavailable=unavailable), "error", name)

    def _tool_end(
        self,
        started: Started,
        run_id: Any,
        output: Output,
        status: Status | None = None,
        error: str | None = None,
        message: object = None,
    ) -> None:
        origin, at, asked, call_id = started.origin, started.started_at, None, started.tool_call_id
        worded_by = started.worded_by
        findings = 0
        session = self.sentinel.get(origin.session_id)
        if call_id is not None or session.state.capture is not None:
            with session.lock:
                memory = Memory.of(session.state)
                if call_id is None:
                    call_id = memory.find(started.name, started.args, origin.root_id)
                if call_id is not None:
                    asked = memory.ran(call_id, origin.root_id)
                if asked is not None and asked.in_words:
                    call_id = None  # it has none
                if output.read is not None:
                    memory.conversation.remember(message, output.read)
                if started.places:
                    findings = self._found(memory, started, output, status)
        ended_at = self.clock()
        gist = self._readable("tool output", gist_hash, output.text, at, ended_at) if output.text else None
        call_run = run_id if type(run_id) is str else str(run_id)
        if asked is not None and origin.node is None and origin.root_id != asked.turn.root_id:  # by hand
            origin = origin._replace(root_id=asked.turn.root_id, trace_id=origin.root_id)
        self.sentinel.observe(
            Call(
                call_run,
                "tool",
                origin.session_id,
                origin.root_id,
                started.name,
                at,
                max(at, ended_at),
                status or ("error" if output.failed else "ok"),
                error,
                answer=output.digest,
                answer_chars=output.chars,
                arguments=started.args,
                tool_call_id=call_id,
                requested_by=asked.model_call_id if asked else worded_by.model_call_id if worded_by else None,
                siblings=asked.siblings if asked else worded_by.siblings if worded_by else 1,
                pending=output.pending or (asked is not None and asked.waited),
                node=origin.node,
                tags=origin.tags,
                user_id=origin.user_id,
                traits=started.traits,
                turn=asked.turn.number if asked is not None else turn_of(origin.root_id, started.agent),
                conversation=asked.conversation if asked is not None else 0,
                step=asked.step if asked is not None else started.step,
                task=asked.task if asked is not None else started.task,
                trace_id=origin.trace_id,
                findings=findings,
                gist=gist or 0,
                unavailable=output.unavailable,
            )
        )

    def _found(self, memory: Memory, started: Started, output: Output, status: Status | None) -> int:
        """What agents inside this tool call have found; what it gives itself is found inside those around it."""
        here, *around = started.places
        findings = 0
        above = self._started.get(started.parent)
        if above is not None and above.kind == "tool" and above.places == started.places:
            around = [here, *around]  # another tool has called it by hand, in its own task
        elif memory.inside is not None and here in memory.inside.places:
            others = [s for s in list(self._started.values()) if s.kind == "tool" and s.places[:1] == (here,)]
            findings = memory.inside.end(here, shared=bool(others))
            if status not in (None, "ok") or output.failed:
                findings = 0
        if around:
            args = started.args.fingerprint if started.args is not None else 0
            memory.found_inside(around, mix(name_hash(started.name), args, findings or output.digest))
        return findings

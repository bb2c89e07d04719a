"""`TokenSentinelHandler`: LangChain's callbacks in, `Call`s out."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from langchain_core.callbacks import BaseCallbackHandler

from ts_langchain.call import NO_USAGE, UNBILLED, Call, Lost, Prompt, Status, Usage
from ts_langchain.capture import gate
from ts_langchain.capture.answers import CHARS_PER_TOKEN, Answer, read_answer, read_usage
from ts_langchain.capture.context import (
    agent_of,
    as_id,
    configurable,
    current_labels,
    places_of,
    purpose_of,
    session_of,
    task_of,
    traced_parent,
    traced_root,
    user_of,
)
from ts_langchain.capture.continued import family_of
from ts_langchain.capture.doors import begun
from ts_langchain.capture.errors import error_hash, error_name, is_unavailable
from ts_langchain.capture.in_flight import Answered, Called, Origin, Reported, Started
from ts_langchain.capture.memory import Memory, turn_of
from ts_langchain.capture.messages import as_recorded, is_mapping, request_messages
from ts_langchain.capture.parameters import read_parameters
from ts_langchain.capture.tasks import current_task, note
from ts_langchain.capture.tools import NOT_RECORDED, Output, document_hash, read_tool_output
from ts_langchain.capture.traits import read_declared, read_traits
from ts_langchain.errors import CallRefused, ConfigurationError, Intervention, WasteBlocked
from ts_langchain.fingerprint import arguments, gist_hash, mix, name_hash
from ts_langchain.sentinel import Mode, Sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from ts_langchain.budget import Reservation
    from ts_langchain.capture.messages import ToolResult
    from ts_langchain.capture.parameters import Parameters
    from ts_langchain.intervene.core import Here

MAX_ROOTS = 100_000
MAX_NODES = 1_000

# Control flow of LangGraph, raised through tools and nodes: no errors.
_INTERRUPTS = frozenset({"GraphInterrupt", "NodeInterrupt"})
_HANDOFFS = frozenset({"ParentCommand", "GraphBubbleUp"})
_CANCELLED = frozenset({"CancelledError", "GeneratorExit", "KeyboardInterrupt", "SystemExit"})
_NO_FAILURES = _INTERRUPTS | _HANDOFFS | _CANCELLED | {WasteBlocked.__name__, CallRefused.__name__}

P = ParamSpec("P")
T = TypeVar("T")
Hook = TypeVar("Hook", bound="Callable[..., None]")


def _fail_open(hook: Hook) -> Hook:
    """Nothing but an intervention leaves a hook."""

    @functools.wraps(hook)
    def guarded(self: TokenSentinelHandler, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Intervention:
            raise
        except Exception as error:  # noqa: BLE001 - fails open, see health.Faults
            self.sentinel.faults.record(f"handler.{hook.__name__}", error)

    return cast("Hook", guarded)


class TokenSentinelHandler(BaseCallbackHandler):
    """Watches every model, tool and retriever call of a LangChain or LangGraph app.

    Works for sync, async, batch and streaming, from one handler shared by all threads, tasks and users.

    Args:
        sentinel: The `Sentinel` to feed; a new one with default rules if left out.
        mode: `observe` only watches. `block` also vetoes: while a severe incident is open in a run, the run's next
            model call raises `WasteBlocked` before anything is sent to the provider.
        session_id: The conversation all calls belong to. Leave it out where several users share a handler:
            then it is taken from `sentinel.session(...)`, from the config's metadata or configurable
            (`session_id`, `thread_id`, `conversation_id`), or is the id of the outermost run.
        clock: Where event time comes from, seconds since the epoch.

    Raises:
        ConfigurationError: `mode` is neither `observe` nor `block`.

    Example:
        >>> handler = TokenSentinelHandler()
        >>> # agent.invoke(..., config={"callbacks": [handler]})
        >>> handler.sentinel.incidents()
        []
    """

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
        self.sentinel = sentinel if sentinel is not None else Sentinel()
        self.mode = mode
        # without it langchain-core logs what a hook raises and goes on: the veto would veto nothing
        self.raise_error = mode == "block"
        self.session_id = as_id(session_id)
        self.clock = clock
        flight = self.sentinel.in_flight
        self._started, self._roots = flight.started, flight.roots
        self._reported, self._reservations = flight.reported, flight.reservations
        self._continued, self._answered = flight.continued, flight.answered
        self.model_nodes = flight.model_nodes

    def __getstate__(self) -> tuple[Sentinel, Mode, str | None, Callable[[], float]]:
        return self.sentinel, self.mode, self.session_id, self.clock

    def __setstate__(self, state: tuple[Sentinel, Mode, str | None, Callable[[], float]]) -> None:
        """Copies watch for the same Sentinel, and know what it knows."""
        sentinel, mode, session_id, clock = state
        TokenSentinelHandler.__init__(self, sentinel, mode=mode, session_id=session_id, clock=clock)

    @property
    def ignore_custom_event(self) -> bool:
        return True

    @property
    def vetoes(self) -> bool:
        """True if a model call that may not be sent is held back."""
        return self.mode == "block"

    # --- which run belongs to which ----------------------------------------------------------------

    @_fail_open
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Remembers the outermost run of each chain, which is the session where nothing else names one.

        A decision model (langchain-core 1.8) is a chain to its callbacks, and a billed call all the same.
        """
        if kwargs.get("run_type") == "llm":
            asked = self._readable("prompt", request_messages, inputs if is_mapping(inputs) else {"input": inputs})
            self.on_chat_model_start(serialized, [asked or ()], run_id=run_id, parent_run_id=parent_run_id, **kwargs)
            return
        roots = self._roots
        if parent_run_id is None:
            roots[run_id] = str(run_id)
        else:
            roots[run_id] = roots.get(parent_run_id) or self._root_above(parent_run_id)
        if len(roots) > MAX_ROOTS:  # runs that never ended; the oldest go first
            roots.pop(next(iter(roots)), None)

    @_fail_open
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Forgets the chain."""
        if run_id in self._started:
            self._decided(run_id, outputs)
        self._roots.pop(run_id, None)
        self._answered.pop(run_id, None)

    @_fail_open
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forgets the chain. An interrupt is no error, and what else broke is not ours to judge."""
        if run_id in self._started:
            self._model_end(run_id, None, error_name(error))
        self._lose(run_id, error)
        if isinstance(error, asyncio.CancelledError):
            self.sentinel.in_flight.leave(run_id)
            self._cancel_below(run_id, error)
        else:
            self._roots.pop(run_id, None)

    def _lose(self, run_id: Any, error: BaseException | str) -> None:
        """A run failed: what models had answered directly below, nobody got."""
        answers = self._answered.pop(run_id, None)
        if answers is None or (name := error_name(error)) in _NO_FAILURES:
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

    def _decided(self, run_id: Any, response: Any) -> None:
        """A decision model answered."""
        usage = self._readable("usage", lambda: read_usage(getattr(response, "usage", None)))
        if usage is not None:
            self._reported.setdefault(run_id, Reported(usage, None))
        if not is_mapping(response):
            response = {"output": self._readable("answer", as_recorded, response)}
        self._model_end(run_id, response, None)

    def cancelled(self, run_ids: Iterable[Any], error: asyncio.CancelledError) -> None:
        """Ends those of these calls that have not ended. LangChain tells nobody of a call that is cancelled.

        What a thread has begun goes on there, and LangChain tells of its end.
        """
        for run_id in run_ids:
            started = self._started.get(run_id)
            if started is None or not started.in_task:
                continue
            if started.kind == "model":
                self.on_llm_error(error, run_id=run_id)
            elif started.kind == "retriever":
                self.on_retriever_error(error, run_id=run_id)
            else:
                self._cancel_below(run_id, error)
                self.on_tool_error(error, run_id=run_id)

    def _cancel_below(self, run_id: Any, error: asyncio.CancelledError) -> None:
        self.cancelled([i for i, s in list(self._started.items()) if s.parent == run_id], error)

    def root_of(self, run_id: Any) -> str | None:
        """The outermost run that a run belongs to, None where nobody has seen it begin."""
        return self._roots.get(run_id)

    def _root_above(self, run_id: Any) -> str:
        """The outermost run of one that is not under way: said by a middleware, or found."""
        labels = current_labels()
        return (labels.root_id if labels is not None else None) or self._run_around(run_id)

    def _run_around(self, run_id: Any) -> str:
        """The outermost run of a run: it is under way, or was cancelled, or LangSmith knows it; else itself."""
        left = self.sentinel.in_flight.left
        return self._roots.get(run_id) or left.get(run_id) or traced_root(run_id) or str(run_id)

    def adopt(self, run_id: str, root_id: str) -> None:
        """Tells beforehand which outermost run a run belongs to. For replay, where chains may be missing."""
        self._roots[run_id] = root_id

    def release(self, run_id: str) -> None:
        """Forgets a run that was adopted."""
        self._roots.pop(run_id, None)

    def pending(self) -> Mapping[Any, Started]:
        """Calls that have begun and not ended, by run id; they hold no content."""
        return self._started

    def resume(self, pending: Mapping[Any, Started]) -> None:
        """Takes over the `pending` calls of a handler that is gone."""
        self._started.clear()
        self._started.update(pending)

    def report(self, run_id: str, reported: Reported) -> None:
        """Tells what a history's source says of a call before it ends. For replay."""
        self._reported[run_id] = reported

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
        inside = self._started.get(parent_run_id) if configured is None else None
        if inside is not None:  # what a tool calls itself belongs where the tool does, unless told otherwise
            user_id = user_of(metadata) or inside.origin.user_id
            session_id = session_of(metadata) or (inside.origin.session_id if inside.origin.named else None)
        else:
            if configured is None:
                configured = configurable()
            session_id, user_id = session_of(metadata, configured), user_of(metadata, configured)
        all_tags = tuple(tags) if tags else ()
        if labels is None:
            named = self.session_id or session_id
        else:
            named = self.session_id or labels.session_id or session_id
            user_id, all_tags = labels.user_id or user_id, (*all_tags, *labels.tags)
        session_id = named or self._continued.of_run(root_id) or root_id
        return Origin(session_id, root_id, node, all_tags, user_id, named is not None)

    def origin(
        self,
        parent_run_id: Any,
        metadata: Mapping[str, object],
        tags: Sequence[str] | None,
        configured: Mapping[str, object],
    ) -> Origin:
        """Where a call made under this parent, with these parts of its config, would come from."""
        return self._origin(parent_run_id, parent_run_id, metadata, tags, configured)

    def goes_on_with(
        self,
        parent_run_id: Any,
        messages: Sequence[object],
        user_id: str | None,
        model: str | None,
        previous: str | None = None,
    ) -> str | None:
        """The conversation that a request without a name goes on with, None if it begins one."""
        placed = self._continued.of_run(self._run_around(parent_run_id)) if parent_run_id is not None else None
        return placed or self._continued.look(messages, (user_id, family_of(model)), self.clock(), previous)

    def in_turn(self, origin: Origin, conversation: str | None, messages: Sequence[object]) -> Origin:
        """The origin of a request that no graph makes, in this conversation and the turn that it goes on with."""
        if conversation is not None:
            origin = origin._replace(session_id=conversation)
        session = self.sentinel.get(origin.session_id)
        with session.lock:
            self.sentinel.rest(session.state, self.clock())
            turn = Memory.of(session.state).turn_behind(messages)
        return origin if turn is None else origin._replace(root_id=turn.root_id)

    def _keep(self, run_id: Any, started: Started, *, tells_itself: bool = False) -> None:
        """Keeps a call until it ends, with its task at the latest.

        Completion models tell themselves that they are cancelled; the task that they begin in only tells that they do,
        and is done before they answer.
        """
        inside = begun.get()
        if inside is not None:
            inside.append(run_id)
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

    def abandon(self, run_id: Any) -> None:
        """Ends a call whose task is done. Of streams, which may go on in another task, LangChain tells."""
        with self.sentinel.faults.fail_open("handler: task"):
            started = self._started.get(run_id)
            if started is not None and not started.streams:
                self.cancelled([run_id], asyncio.CancelledError())

    def _readable(self, what: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `read` makes of what the app hands over; None, and counted, where that cannot be read.

        The call counts all the same: somebody is billed for it.
        """
        try:
            return read(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - fails open, see health.Faults
            self.sentinel.faults.record(f"handler: {what}", error)
            return None

    # --- models ------------------------------------------------------------------------------------

    @_fail_open
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Sequence[Sequence[Any]],
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reads the request; in mode `block`, vetoes it if the session is in trouble."""
        prompt = messages[0] if messages else ()
        try:
            self._model_start(serialized, prompt, run_id, parent_run_id, tags, metadata, kwargs)
        except Intervention:
            raise
        except Exception as error:  # noqa: BLE001 - as if it were not recorded: somebody is billed for it all the same
            self.sentinel.faults.record("handler: prompt", error)
            gate.give_back(self.sentinel, run_id)
            self._model_start(serialized, (), run_id, parent_run_id, tags, metadata, kwargs)
        except BaseException:  # the program is to end: nothing is sent
            gate.forget(self.sentinel, run_id)
            raise

    @_fail_open
    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: Sequence[str],
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The same for completion models."""
        kwargs["completions"] = kwargs.get("batch_size")
        self._model_start(serialized, prompts[:1], run_id, parent_run_id, tags, metadata, kwargs, completes=True)

    def _model_start(
        self,
        serialized: Mapping[str, Any] | None,
        messages: Sequence[Any],
        run_id: Any,
        parent_run_id: Any,
        tags: list[str] | None,
        metadata: Mapping[str, Any] | None,
        kwargs: Mapping[str, Any],
        *,
        completes: bool = False,
    ) -> None:
        seen = self._started.get(run_id)
        if seen is not None:  # by another handler of this Sentinel, which let it pass
            if self.mode == "block":
                gate.ask_again(self.sentinel, run_id, seen, force=not self.vetoes)
            return
        asks = read_parameters(serialized, metadata or {}, kwargs, self._readable)
        started, unseen = self._place(run_id, parent_run_id, messages, asks, metadata or {}, tags)
        for call in unseen:
            self.sentinel.observe(call)
        node = started.origin.node
        if node is not None and (node in self.model_nodes or len(self.model_nodes) < MAX_NODES):
            self.model_nodes[node] = Called(asks.model, asks.provider, asks.toolset, asks.max_tokens)
        if type(batch := kwargs.get("completions")) is int and batch > 1:
            started = started._replace(batch=batch)
        gate.ask(self.sentinel, run_id, started, blocks=self.mode == "block", force=not self.vetoes)
        self._keep(run_id, started, tells_itself=completes)

    def _place(
        self,
        run_id: Any,
        parent_run_id: Any,
        messages: Sequence[Any],
        asks: Parameters,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
    ) -> tuple[Started, list[Call]]:
        """A model call in its conversation and its turn, and tool calls that its prompt is the first to tell of."""
        origin = self._origin(run_id, parent_run_id, metadata, tags)
        at = self.clock()
        step, task = task_of(metadata)
        alone, asked = None, None
        if origin.node is None:  # no graph: a call by hand, or a chain
            alone = str(run_id) if parent_run_id is None else self._run_around(parent_run_id)
            if not origin.named:
                who, around = (origin.user_id, family_of(asks.model)), None if parent_run_id is None else alone
                asked = self._continued.begin(origin.root_id, messages, who, at, around, asks.previous)
                if asked is not None:
                    origin = origin._replace(session_id=asked.conversation)
        session = self.sentinel.get(origin.session_id)
        with session.lock:
            self.sentinel.rest(session.state, at)
            memory = Memory.of(session.state)
            reading = memory.conversation.read(messages)
            self.sentinel.changed(session)
            agent = agent_of(metadata)
            turn, opening = memory.begin(origin.root_id, reading, messages, alone=alone, agent=agent, task=task)
            tasks = places_of(metadata)[1:] if agent else ()
            if tasks:
                memory.spoke_inside(tasks)
            if turn.root_id != origin.root_id:
                origin = origin._replace(root_id=turn.root_id, trace_id=origin.root_id)
            request = asks.request(reading.prompt)
            lost = memory.send_again(request)
            unseen = [
                call
                for result, tool, args in reading.results
                if (call := _unseen_tool_call(memory, result, tool, args, origin, at)) is not None
            ]
        above = parent_run_id
        if above is not None and not (above in self._roots or above in self._started):
            above = traced_parent(above, self._roots)  # it is told with the run around it that it is cancelled
        started = Started(
            "model",
            origin,
            at,
            asks.name,
            asks.model,
            asks.provider,
            reading.prompt,
            asks.toolset,
            request,
            asks.temperature,
            max_tokens=asks.max_tokens,
            turn=turn.number,
            conversation=opening,
            asked=asked,
            parent=above,
            step=step,
            task=task,
            around=tasks[0] if tasks else 0,
            purpose=purpose_of(metadata),
            lost=lost,
            for_an_hour=asks.for_an_hour,
        )
        return started, unseen

    @_fail_open
    def on_llm_new_token(self, token: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A part of the answer came."""
        self._streams(run_id)

    @_fail_open
    def on_stream_event(self, event: Any, *, run_id: Any, **kwargs: Any) -> None:
        """The same, in LangChain's newer protocol."""
        self._streams(run_id)

    def _streams(self, run_id: Any) -> None:
        started = self._started.get(run_id)
        if started is not None and not started.streams:
            self._started[run_id] = started._replace(streams=True)

    @_fail_open
    def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A model answered."""
        self._model_end(run_id, response, None)

    @_fail_open
    def on_llm_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """A model failed, or its stream was left: what it had sent until then may have been billed."""
        self._model_end(run_id, kwargs.get("response"), error_name(error))

    def _model_end(self, run_id: Any, response: Any, error: str | None) -> None:
        started = self._started.pop(run_id, None)
        reported = self._reported.pop(run_id, None) if self._reported else None
        reservation = self._reservations.pop(run_id, None) if self._reservations else None
        try:
            if started is not None and started.prompt is not None:
                self._ended(run_id, started, started.prompt, reported, reservation, response, error)
        finally:
            if reservation is not None and self.sentinel.budgets is not None:  # whatever went wrong before that
                self.sentinel.budgets.settle(reservation, None)

    def _ended(
        self,
        run_id: Any,
        started: Started,
        prompt: Prompt,
        reported: Reported | None,
        reservation: Reservation | None,
        response: Any,
        error: str | None,
    ) -> None:
        chars, known = prompt.chars, reported.usage if reported is not None else None
        knows_tools = started.toolset is not None
        if started.toolset is not None:
            chars += started.toolset.total_bytes
        answer = self._readable("answer", read_answer, response, chars, known, knows_tools=knows_tools)
        if answer is None:
            answer = Answer(usage=known or Usage(-(-chars // CHARS_PER_TOKEN), estimated=True))
        usage, cost = answer.usage, answer.cost
        if cost is None and reported is not None:
            cost = reported.cost
        status: Status = "ok"
        if error is not None:
            status = "cancelled" if error in _CANCELLED else "error"
            if status == "error" and usage.estimated and not answer.chars:
                usage = NO_USAGE  # nobody says it was billed
            elif status == "cancelled" and usage is NO_USAGE:
                usage = Usage(-(-chars // CHARS_PER_TOKEN), 0, estimated=True)
        elif answer.cached or (reported is not None and reported.cached):
            usage, cost = NO_USAGE, UNBILLED
        if started.batch > 1 and usage.total_tokens and not usage.estimated:
            self._count_batch(started)
        elif started.counted and usage.estimated:
            usage, cost = NO_USAGE, UNBILLED
        if started.for_an_hour and usage.cache_write_tokens and not usage.cache_write_1h_tokens:
            # Anthropic does not say at the end of a stream how long it keeps what it wrote
            usage = usage._replace(cache_write_1h_tokens=usage.cache_write_tokens)
        origin, at = started.origin, started.started_at
        ended_at = self.clock()
        lost = started.lost
        if lost is not None and (status != "ok" or cost == UNBILLED):  # nothing was paid anew
            self._lose_still(origin.session_id, started.request, lost)
            lost = None
        call = Call(
            run_id if type(run_id) is str else str(run_id),
            "model",
            origin.session_id,
            origin.root_id,
            started.name,
            at,
            max(at, ended_at),
            status,
            error,
            started.model if answer.model is None else self._priced_name(answer.model, started),
            started.provider,
            usage,
            cost,
            prompt,
            started.toolset,
            started.request,
            answer.digest if error is None else name_hash(error),
            answer.chars,
            started.temperature,
            answer.finish_reason,
            answer.tool_calls,
            node=origin.node,
            tags=origin.tags,
            user_id=origin.user_id,
            max_tokens=started.max_tokens,
            answer_text=answer.text if error is None else None,
            tier=answer.tier,
            turn=started.turn,
            conversation=started.conversation,
            step=started.step,
            task=started.task,
            trace_id=origin.trace_id,
            around=started.around,
            purpose=started.purpose,
            lost=lost,
        )
        told = not started.told_inside and self._tells(call, started.parent)
        try:
            if reservation is not None and (budgets := self.sentinel.budgets) is not None:
                budgets.settle(reservation, call if told else None, self.sentinel.prices.cost(call) if told else None)
            if started.asked is not None:
                said = answer.read.digest if answer.read is not None else None
                self._continued.end(
                    started.asked, ended_at, said, answer.tool_calls, answer.response_id, failed=error is not None
                )
            elif answer.tool_calls and origin.named and origin.node is None and started.parent is not None:
                self._continued.named(origin.session_id, answer.tool_calls)
            if told and answer.read is not None and error is None:
                session = self.sentinel.get(origin.session_id)
                with session.lock:
                    memory = Memory.of(session.state)
                    memory.request(call)
                    memory.conversation.remember(answer.message, answer.read)
            if told and status == "ok" and started.parent is not None and started.request and cost != UNBILLED:
                answered = Answered(origin.session_id, started.request, call.id, call.ended_at - call.started_at)
                self.sentinel.in_flight.answer(started.parent, answered)
        except Exception as broken:  # noqa: BLE001 - whatever it is, the call was made and counts
            self.sentinel.faults.record("handler: model end", broken)
        if told:
            self.sentinel.observe(call)

    def _count_batch(self, first: Started) -> None:
        """Notes of those that were sent with this completion that their tokens are counted.

        LangChain hands the usage of a batch to the first of it, which ends first, and none to the others.
        """
        others = first.batch - 1
        for run_id, one in list(self._started.items()):
            same = (one.batch, one.name, one.parent) == (first.batch, first.name, first.parent)
            if same and not one.counted and not first.counted and others:
                self._started[run_id] = one._replace(counted=True)
                others -= 1

    def _tells(self, call: Call, parent: Any) -> bool:
        """True unless another telling of this model call counts.

        What runs inside a model call is the same call, as its client tells it; only one of them is billed: the inner
        one if it counts its tokens or has failed, else the outer one.
        """
        outer = self._started.get(parent) if parent is not None else None
        if outer is None or outer.kind != "model":
            return True
        if call.status == "ok" and call.usage.estimated:
            return False
        self._started[parent] = outer._replace(told_inside=True)
        return True

    def _priced_name(self, answered: str, started: Started) -> str:
        """The model that was billed: what the answer names, if that has a price, else what was asked for.

        A price of the user's own holds by either name: who sets that of `gpt-4o` does not know of `gpt-4o-2024-08-06`.
        """
        asked = started.model
        if asked is not None and asked != answered:
            prices = self.sentinel.prices
            if prices.are_own(asked) and not prices.are_own(answered):
                return asked
            if prices.rates(answered, started.provider, started.started_at) is None:
                return asked
        return answered

    # --- tools -------------------------------------------------------------------------------------

    @_fail_open
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
        name = kwargs.get("name") or (serialized or {}).get("name") or "tool"
        origin = self._origin(run_id, parent_run_id, metadata or {}, tags)
        given = inputs if inputs is not None else input_str
        recorded = given or inputs is not None
        args = self._readable("tool arguments", arguments, given) if recorded else None
        tool_call_id = kwargs.get("tool_call_id")
        tool_call_id = str(tool_call_id) if tool_call_id else None
        if parent_run_id is None and not origin.named and args is not None:
            conversation = self._continued.of_tool(str(name), args.fingerprint, tool_call_id)
            if conversation is not None:
                origin = origin._replace(session_id=conversation)
                self._continued.place(origin.root_id, conversation)
        step, task = task_of(metadata or {})
        self._roots[run_id] = origin.root_id  # models and retrievers inside the tool belong to its run
        self._keep(
            run_id,
            Started(
                "tool",
                origin,
                self.clock(),
                str(name),
                args=args,
                tool_call_id=tool_call_id,
                traits=(read_traits(inputs) if type(inputs) is dict else ()) + read_declared(metadata),
                parent=parent_run_id,
                step=step,
                task=task,
                agent=agent_of(metadata or {}),
                places=places_of(metadata or {}),
            ),
        )

    @_fail_open
    def on_tool_end(self, output: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A tool answered."""
        started = self._started.pop(run_id, None)
        self._roots.pop(run_id, None)
        self._answered.pop(run_id, None)
        if started is not None:
            read = self._readable("tool output", read_tool_output, output) or NOT_RECORDED
            self._tool_end(started, run_id, read, message=output)

    @_fail_open
    def on_tool_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """A tool failed, was interrupted, or hands over."""
        started = self._started.pop(run_id, None)
        self._lose(run_id, error)
        name = error_name(error)
        if name in _CANCELLED:
            self.sentinel.in_flight.leave(run_id)
        else:
            self._roots.pop(run_id, None)
        if started is None:
            return
        if name in _INTERRUPTS:  # waits for a human; it will run again under the same tool_call_id
            session = self.sentinel.get(started.origin.session_id)
            with session.lock:
                memory = Memory.of(session.state)
                memory.wait(started.tool_call_id, started.name, started.args, started.origin.root_id)
                self.sentinel.changed(session)
            return
        if name in _HANDOFFS:
            self._tool_end(started, run_id, Output(name_hash(name), 0))
        elif name in _CANCELLED:
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
                requested_by=asked.model_call_id if asked else None,
                siblings=asked.siblings if asked else 1,
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

    def reused(self, here: Here, call: Mapping[str, Any], earlier: object) -> None:
        """A middleware answered a tool call from an earlier result: for the rules it is one more identical call."""
        read, at = read_tool_output(earlier), self.clock()
        origin = Origin(here.session_id, here.root_id, here.node, here.tags, here.user_id)
        name, call_id = str(call["name"]), str(call["id"])
        started = Started("tool", origin, at, name, args=arguments(call["args"]), tool_call_id=call_id)
        self._tool_end(started, f"reused-{call_id}", read._replace(read=None))

    # --- retrievers --------------------------------------------------------------------------------

    @_fail_open
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
            ),
        )

    @_fail_open
    def on_retriever_end(self, documents: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A retriever answered."""
        started = self._started.pop(run_id, None)
        self._answered.pop(run_id, None)
        if started is None:
            return
        known = isinstance(documents, (list, tuple))
        found = tuple(document_hash(d) for d in documents) if known else ()
        self._retriever_end(started, run_id, mix(*found) if known else 0, found, None)

    @_fail_open
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
                "ok" if error is None else "cancelled" if error in _CANCELLED else "error",
                error,
                answer=answer,
                arguments=started.args,
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


def _unseen_tool_call(
    memory: Memory, result: ToolResult, name: str, args: object, origin: Origin, at: float
) -> Call | None:
    """The call behind a tool result in a prompt, if nobody saw the tool run.

    That is so where only model calls are recorded: a handler on the model, a gateway's log.
    """
    asked = memory.requested.pop(result.tool_call_id, None)
    if asked is None or not name:
        return None
    return Call(
        id=f"{asked.model_call_id}/{result.tool_call_id}",
        kind="tool",
        session_id=origin.session_id,
        root_id=origin.root_id,
        name=name,
        started_at=min(asked.asked_at, at),
        ended_at=at,
        status="error" if result.failed else "ok",
        answer=result.answer,
        answer_chars=result.chars,
        arguments=arguments(args),
        tool_call_id=result.tool_call_id,
        requested_by=asked.model_call_id,
        siblings=asked.siblings,
        pending=result.pending,
        node=origin.node,
        tags=origin.tags,
        user_id=origin.user_id,
        traits=read_traits(args) if type(args) is dict else (),
        turn=asked.turn.number,
        conversation=asked.conversation,
        step=asked.step,
        task=asked.task,
        unavailable=result.unavailable,
    )

"""Hooks about models: a request begins, is let through or held back, is answered or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.call import NO_USAGE, UNBILLED, Call, Prompt, Status, Usage
from ts_langchain.capture import gate
from ts_langchain.capture.answers import CHARS_PER_TOKEN, Answer, read_answer, read_usage, words_of
from ts_langchain.capture.context import agent_of, places_of, purpose_of, task_of, traced_parent
from ts_langchain.capture.continued import family_of
from ts_langchain.capture.errors import CANCELLED, error_name
from ts_langchain.capture.hooks.base import Hooks, fail_open
from ts_langchain.capture.in_flight import Answered, Called, Origin, Reported, Started
from ts_langchain.capture.memory import Memory
from ts_langchain.capture.parameters import read_parameters
from ts_langchain.capture.traits import read_traits, read_written
from ts_langchain.errors import Intervention
from ts_langchain.fingerprint import arguments, name_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ts_langchain.budget import Reservation
    from ts_langchain.call import SourceCost
    from ts_langchain.capture.messages import ToolResult
    from ts_langchain.capture.parameters import Parameters

MAX_NODES = 1_000


class ModelHooks(Hooks):
    """The hooks of chat models and completion models."""

    @fail_open
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

    @fail_open
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
            agent=agent,
            around=tasks[0] if tasks else 0,
            purpose=purpose_of(metadata),
            lost=lost,
            for_an_hour=asks.for_an_hour,
        )
        return started, unseen

    @fail_open
    def on_llm_new_token(self, token: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A part of the answer came."""
        self._streams(run_id)

    @fail_open
    def on_stream_event(self, event: Any, *, run_id: Any, **kwargs: Any) -> None:
        """The same, in LangChain's newer protocol."""
        self._streams(run_id)

    def _streams(self, run_id: Any) -> None:
        started = self._started.get(run_id)
        if started is not None and not started.streams:
            self._started[run_id] = started._replace(streams=True)

    @fail_open
    def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A model answered."""
        self._model_end(run_id, response, None)

    @fail_open
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
            if reservation is not None:  # whatever went wrong before that
                self.sentinel.governor.book(reservation, None)

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
            counted = self._readable("usage", read_usage, known)
            answer = Answer(usage=counted or Usage(-(-chars // CHARS_PER_TOKEN), estimated=True))
        status, usage, cost = self._billed(started, answer, reported, error, chars)
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
            traits=read_written(words_of(answer.message)) if status == "cancelled" else (),
            tier=answer.tier,
            turn=started.turn,
            conversation=started.conversation,
            step=started.step,
            task=started.task,
            trace_id=origin.trace_id,
            around=started.around,
            purpose=started.purpose,
            lost=lost,
            agent=started.agent,
        )
        told = not started.told_inside and self._tells(call, started.parent)
        try:
            if reservation is not None:
                self.sentinel.governor.book(reservation, call if told else None)
            self._remember(call, started, answer, told=told)
        except Exception as broken:  # noqa: BLE001 - whatever it is, the call was made and counts
            self.sentinel.faults.record("handler: model end", broken)
        if told:
            self.sentinel.observe(call)

    def _remember(self, call: Call, started: Started, answer: Answer, *, told: bool) -> None:
        """What calls behind this one are known by: its conversation, its request, what it said, who waits for it."""
        origin, failed = started.origin, call.error is not None
        if started.asked is not None:
            said = answer.read.digest if answer.read is not None else None
            self._continued.end(
                started.asked, call.ended_at, said, answer.tool_calls, answer.response_id, failed=failed
            )
        elif answer.tool_calls and origin.named and origin.node is None and started.parent is not None:
            self._continued.named(origin.session_id, answer.tool_calls)
        if not told:
            return
        if answer.read is not None and not failed:
            session = self.sentinel.get(origin.session_id)
            with session.lock:
                memory = Memory.of(session.state)
                memory.request(call)
                if memory.worded is not None:
                    memory.worded.note(call.id, answer.message, answer.read.tool_calls)
                memory.conversation.remember(answer.message, answer.read)
        if call.status == "ok" and started.parent is not None and started.request and call.source_cost != UNBILLED:
            answered = Answered(origin.session_id, started.request, call.id, call.ended_at - call.started_at)
            self.sentinel.in_flight.answer(started.parent, answered)

    def _billed(
        self, started: Started, answer: Answer, reported: Reported | None, error: str | None, chars: int
    ) -> tuple[Status, Usage, SourceCost | None]:
        """How a call that has ended went, and what of it is billed; `chars` were sent."""
        usage, cost = answer.usage, answer.cost
        if cost is None and reported is not None:
            cost = reported.cost
        status: Status = "ok"
        if error is not None:
            status = "cancelled" if error in CANCELLED else "error"
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
        return status, usage, cost

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

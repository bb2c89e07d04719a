"""What middleware, graph guards and model guards share: looking up what is due, and carrying it out.

Whatever goes wrong in here is counted in `health()` and the app goes on as if nothing had been decided. Only the
interventions that the policy asks for leave it: `WasteBlocked`, `CallRefused`, and LangGraph's own interrupts.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

from langgraph.errors import GraphBubbleUp

from ts_langchain.budget import Request, Reservation
from ts_langchain.capture import activate
from ts_langchain.capture.context import current_labels, inside_run, put_back, run_around, session_of, user_of
from ts_langchain.capture.conversation import is_classification
from ts_langchain.capture.doors import Chosen, Reserved, begun, reserved, reserved_by
from ts_langchain.capture.in_flight import Origin
from ts_langchain.capture.parameters import BOUNDS, estimated_input, output_bound
from ts_langchain.capture.tools import read_toolset
from ts_langchain.errors import CallRefused, ConfigurationError, Intervention, WasteBlocked
from ts_langchain.governor import ADMITTED
from ts_langchain.intervene import actions
from ts_langchain.intervene.inside import OVERRULED, DoorHandler, blocked
from ts_langchain.intervene.recall import CHECKPOINTER, RESUMING, Kept, kept, question_in
from ts_langchain.policy import ENDING, Policy, as_mapping, matches
from ts_langchain.recent import Recent
from ts_langchain.sentinel import Sentinel, as_sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

    from ts_langchain.call import Toolset
    from ts_langchain.capture.in_flight import Called
    from ts_langchain.capture.tasks import Begun
    from ts_langchain.decision import Decision
    from ts_langchain.governor import Admission, Governor

T = TypeVar("T")

RUNTIME = "__pregel_runtime"
MAX_ASKED = 10_000
MAX_GRAPHS = 1_000
_ORDER = ("block", "pause", "stop", "backoff", "trim", "prune_tools", "downgrade", "steer", "reuse", "warn")


_graphs: dict[int, tuple[object, str]] = {}
"""Runs of graphs that nobody watches: LangGraph's control of a run, kept so that its id stays its own, and a name."""


def graph_run(configurable: Mapping[str, Any]) -> str | None:
    """A name for the run of a graph, the same in all of its tasks; None where LangGraph tells of none."""
    control = getattr(configurable.get(RUNTIME), "control", None)
    if control is None:
        return None
    _, name = _graphs.setdefault(id(control), (control, uuid4().hex))
    if len(_graphs) > MAX_GRAPHS:
        with suppress(LookupError, RuntimeError):  # another thread has made room
            del _graphs[next(iter(_graphs))]
    return name


class Here(NamedTuple):
    """Where a call is about to be made.

    Attributes:
        session_id: The conversation.
        root_id: The outermost run.
        user_id: The user, where known.
        tags: Tags of the run.
        node: LangGraph node.
        resumable: True if an interrupt can be resumed: there is a checkpointer.
        resuming: True if the run goes on after an interrupt.
        task: The task of LangGraph, the same before and after an interrupt; None outside.
    """

    session_id: str
    root_id: str
    user_id: str | None
    tags: tuple[str, ...]
    node: str | None
    resumable: bool
    resuming: bool
    task: str | None = None


@dataclass
class Turn:
    """A model request that may be changed before it is sent.

    Attributes:
        messages: What is to be sent.
        system: The system message, where it is not among them.
        tools: Tools that go along, None where this door cannot see them.
        model: The model, None where this door cannot change it.
        model_name: Its name, None if unknown.
        provider: Its provider.
        max_tokens: Bound on the output.
        toolset: What is known of the tools where this door cannot see them.
        forced: The tool that the model has to call, None if it has a choice.
        previous: Id of the response that it goes on from, where the provider keeps what was said before.
        wait: Seconds to wait before it is sent.
        final: Set if nothing is to be sent: the message that ends the run.
        abroad: It goes to a model of another provider, so parameters that are not `actions.portable` stay behind.
        applied: Decisions carried out on it.
    """

    messages: list[BaseMessage]
    tools: list[Any] | None = None
    system: BaseMessage | None = None
    model: Any = None
    model_name: str | None = None
    provider: str | None = None
    max_tokens: int | None = None
    toolset: Toolset | None = None
    forced: str | None = None
    previous: str | None = None
    wait: float = 0.0
    final: AIMessage | None = None
    abroad: bool = False
    applied: list[Decision] = field(default_factory=list)

    def all_messages(self) -> list[BaseMessage]:
        """The messages, the system message first."""
        return [self.system, *self.messages] if self.system is not None else self.messages

    def chars(self) -> int:
        """Characters of all messages: their content, and the arguments of the tool calls in them."""
        total = 0
        for message in self.all_messages():
            content = message.content
            total += len(content) if isinstance(content, str) else len(str(content))
            for call in getattr(message, "tool_calls", ()):
                total += len(str(call["args"]))
        return total

    def go_abroad(self) -> None:
        """Leaves behind what only the provider that it was for understands."""
        self.abroad = True
        self.messages = [actions.uncached(message) for message in self.messages]
        self.system = actions.uncached(self.system) if self.system is not None else None
        self.tools = actions.portable_tools(self.tools) if self.tools is not None else None

    def chosen(self) -> Chosen | None:
        """The model that stands in for the one that was asked for, None if it goes there."""
        decisions = tuple(decision for decision in self.applied if decision.action == "downgrade")
        return Chosen(self.model_name, decisions) if decisions and self.model_name is not None else None

    def asks_for_label(self) -> bool:
        """True if it is worded as a classification, as `model_misroute` understands it."""
        return not self.tools and is_classification(self.all_messages(), self.chars())


class Interventions:
    """Carries out a Sentinel's decisions.

    Args:
        sentinel: Whose; it must have a policy.
        models: Models for `downgrade`, by the names the policy uses; others are made by `init_chat_model`.

    Raises:
        ConfigurationError: The Sentinel has no policy, or `models` is no mapping.
    """

    def __init__(self, sentinel: Sentinel, models: Mapping[str, Any] | None = None) -> None:
        if sentinel.governor.policy is None:
            msg = "a policy is needed to step in: Sentinel(policy=...); Policy.recommended().enforced() is a start"
            raise ConfigurationError(msg)
        self.sentinel = sentinel
        self.policy: Policy = sentinel.governor.policy
        self.handler = DoorHandler(sentinel)
        self._models = dict(as_mapping(models or {}, "models: expected a mapping of the policy's names to models"))
        self._read_only: set[str] = set()
        self._asked: Recent[tuple[str, int, int], Decision] = Recent()  # what humans were asked, by place
        self._questions = sentinel.governor.questions

    @property
    def governor(self) -> Governor:
        """What the Sentinel decides by."""
        return self.sentinel.governor

    def safely(self, place: str, work: Callable[[], T], otherwise: T) -> T:
        """What `work` gives; `otherwise` if it raises, which is counted. Only interventions get through."""
        try:
            return work()
        except (Intervention, GraphBubbleUp):
            raise
        except Exception as error:  # noqa: BLE001 - fails open
            self.sentinel.faults.record(place, error)
            return otherwise

    # --- where we are ------------------------------------------------------------------------------

    def here(self, config: Mapping[str, Any], run_key: str | None = None, turn: Turn | None = None) -> Here:
        """Where a call is about to be made, by the config of the run around it.

        Args:
            config: LangChain's config of the node or call.
            run_key: Names the outermost run where no handler has seen it begin.
            turn: The request, which tells the conversation where nothing else does.
        """
        metadata = config.get("metadata") or {}
        configurable = config.get("configurable") or {}
        parent = getattr(config.get("callbacks"), "parent_run_id", None) or run_around()
        labels = current_labels()
        named = session_of(metadata, configurable) or (labels.session_id if labels is not None else None)
        said = labels.root_id if labels is not None else None
        # where nobody has seen the run begin, the session stands in for it, or the graph that it is
        root = self.handler.root_of(parent) or run_key or said or named or graph_run(configurable)
        by_hand = turn.all_messages() if turn is not None and metadata.get("langgraph_node") is None else None
        conversation = None
        if turn is not None and by_hand is not None and named is None:
            user_id = (labels.user_id if labels is not None else None) or user_of(metadata, configurable)
            conversation = self.handler.goes_on_with(parent, by_hand, user_id, turn.model_name, turn.previous)
        root = root or conversation or str(parent or uuid4())
        with inside_run(root):
            origin = self.handler.origin(parent, metadata, config.get("tags"), configurable)
        if by_hand is not None:
            origin = self.handler.in_turn(origin, conversation, by_hand)
        resumable = configurable.get(CHECKPOINTER) not in (None, False)
        resuming = configurable.get(RESUMING) is True
        task = metadata.get("langgraph_checkpoint_ns")
        return Here(
            origin.session_id, origin.root_id, origin.user_id, origin.tags, origin.node, resumable, resuming, task
        )

    @contextmanager
    def watching(self, here: Here | None) -> Iterator[None]:
        """Everything inside is seen by a handler of this Sentinel, whether or not the user passed one."""
        calls: Begun = []
        before, outer = begun.get(), begun.set(calls)
        block = activate.begin(self.handler)
        try:
            with inside_run(here.root_id) if here is not None else nullcontext():
                yield
        except asyncio.CancelledError as error:
            with self.sentinel.faults.fail_open("intervene: cancelled"):
                self.handler.cancelled([run_id for _, run_id in calls], error)
            raise
        except WasteBlocked as error:
            self._has_left(error)
            raise
        except BaseException as error:
            with self.sentinel.faults.fail_open("intervene: broke"):
                self.handler.broke([run_id for _, run_id in calls], error)
            raise
        finally:
            if before is not None:
                before += calls
            activate.end(block)
            put_back(begun, outer)

    def _has_left(self, error: WasteBlocked) -> None:
        """Settles the `block` that was raised inside: until it leaves the door it holds for all calls behind it."""
        incident = error.incident
        with self.sentinel.faults.fail_open("intervene: block"):
            for decision in self.sentinel.due(incident.session_id, incident.root_id, self.handler.clock()):
                if decision.incident_id == incident.id:
                    self.governor.settle(decision, "done")

    @contextmanager
    def let_through(self, admission: Admission | None, chosen: Chosen | None = None) -> Iterator[None]:
        """The first model call inside takes this reservation; it is given back if no call takes it.

        Args:
            admission: What it is let through with.
            chosen: The model that was chosen for it, where others may yet choose another.
        """
        if admission is None:
            yield
            return
        # without a budget an empty one: the call has been let through, none asks again
        reservation = admission.reservation if admission.reservation is not None else Reservation(())
        token = reserved.set(Reserved(self.sentinel, reservation, reserved.get(), chosen))
        try:
            yield
        finally:
            put_back(reserved, token)
            self._give_back(reservation)

    def _give_back(self, reservation: Reservation | None) -> None:
        """Settles what was reserved if no call has taken it; none will."""
        if reservation is None:
            return
        with self.sentinel.faults.fail_open("intervene: budget"):
            if reservation.take(self):
                self.governor.book(reservation, None)

    # --- what a human was asked by another process -------------------------------------------------

    def recall(self, config: Mapping[str, Any]) -> None:
        """Reads from the checkpoint what a human was asked in this task, if nobody here has asked. Fails open."""
        with self.sentinel.faults.fail_open("intervene: recall"):
            where = self._unknown(config)
            if where is not None:
                self._questions[where.task] = question_in(where.saver.get_tuple(where.config), where.task)

    async def arecall(self, config: Mapping[str, Any]) -> None:
        """As `recall`."""
        with self.sentinel.faults.fail_open("intervene: recall"):
            where = self._unknown(config)
            if where is not None:
                self._questions[where.task] = question_in(await where.saver.aget_tuple(where.config), where.task)

    def recalls(self, here: Here) -> bool:
        """True if a human was asked here, by a process that is gone."""
        return here.task is not None and self._questions.get(here.task) is not None

    def _unknown(self, config: Mapping[str, Any]) -> Kept | None:
        """Where the question is whose answer this task goes on with; None if it is known here, or there is none."""
        where = kept(config)
        if where is None or where.task in self._questions:
            return None
        self._questions[where.task] = None
        self._questions.limit(MAX_ASKED)
        return where

    # --- before a model call -----------------------------------------------------------------------

    def called_by(self, node: str) -> Called | None:
        """The model that the node has called last, None if it has called none."""
        return self.handler.model_nodes.get(node)

    def prepare(self, here: Here, turn: Turn, can: frozenset[str], *, last_door: bool = True) -> Admission | None:
        """Does to a request what is due, and asks the budgets. Fails open.

        Args:
            here: Where it is about to be made.
            turn: The request; changed in place.
            can: Actions this door is able to carry out.
            last_door: False leaves the other actions to a door further in.

        Returns:
            What it is let through with; None if it is to ask for itself.

        Raises:
            WasteBlocked: An incident is to be answered with `block`.
            CallRefused: A budget or the kill switch is.
            GraphInterrupt: A human is to be asked (`pause`).
        """
        return self.safely("intervene: request", lambda: self._prepare(here, turn, can, last_door), None)

    def _prepare(self, here: Here, turn: Turn, can: frozenset[str], last_door: bool) -> Admission | None:
        nothing: list[Decision] = []
        due = self.safely(
            "intervene: due",
            lambda: self.sentinel.due(here.session_id, here.root_id, self.handler.clock(), resuming=here.resuming),
            nothing,
        )
        waiting = self._waiting(here, turn)
        if waiting is not None and waiting.rule != "budget" and waiting not in due:
            due = [*due, waiting]  # it was answered elsewhere, or here before the node was interrupted once more
        if due:
            steering: list[Decision] = []
            for decision in sorted(due, key=lambda d: _ORDER.index(d.action)):
                if decision.action in can or last_door:
                    self._carry_out(decision, here, turn, can, steering)
                if turn.final is not None:
                    return None
            if steering:
                self._guarded(steering, lambda: self._steer(turn, steering))
        return self._admit(here, turn, can, last_door) if self.governor.admits else ADMITTED

    def _carry_out(
        self, decision: Decision, here: Here, turn: Turn, can: frozenset[str], steering: list[Decision]
    ) -> None:
        action = decision.action
        if action in ("reuse", "warn"):
            return  # not about model calls
        if action not in can:
            self.governor.settle(decision, "skipped", f"{action} cannot be done here")
            return
        if action == "steer":
            steering.append(decision)
            return
        self._guarded([decision], lambda: self._do(decision, here, turn))

    def _guarded(self, decisions: Sequence[Decision], work: Callable[[], None]) -> None:
        """Runs an action; if it raises, the decision has failed and the request is as it was."""
        try:
            work()
        except (Intervention, GraphBubbleUp):
            raise
        except Exception as error:  # noqa: BLE001 - no bug of an action may reach the agent
            self._failed(decisions, error)

    def _failed(self, decisions: Sequence[Decision], error: Exception) -> None:
        for decision in decisions:
            self.sentinel.faults.record(f"intervene: {decision.action}", error)
            why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
            self.governor.settle(decision, "failed", why)

    def _do(self, decision: Decision, here: Here, turn: Turn) -> None:
        action = decision.action
        if action == "block":
            self.governor.settle(decision, "done")
            raise blocked(self.sentinel, decision)
        if action == "pause":
            self._pause(decision, here, turn)
            return
        if action == "stop":
            turn.final = _final(decision, turn)
        elif action == "backoff":
            settings = self.policy.backoff
            turn.wait = max(
                turn.wait, min(settings.base_seconds * 2 ** min(decision.strike - 1, 64), settings.max_seconds)
            )
        elif action == "trim":
            turn.messages = actions.trimmed(turn.messages, self.policy.trim)
        elif action == "prune_tools":
            if turn.tools:
                turn.tools = actions.pruned(turn.tools, turn.messages, self.policy.keep_tools, turn.forced)
        elif action == "downgrade":
            if decision.classifying and not turn.asks_for_label():
                return  # the cheaper model is for the other kind of request
            if not any(d.action == "downgrade" for d in turn.applied) and not self._downgrade(turn):
                if decision.outcome == "due":  # what was done for another model of the run stays in force
                    self.governor.settle(decision, "skipped", "the policy names no cheaper model for this one")
                return
        self._applied(turn, decision)

    def changed(self, turn: Turn, change: Callable[[], T], unchanged: T) -> T:
        """The request with what was done to the turn; `unchanged` if it cannot be changed: then all of that has failed.

        It keeps its reservation either way.
        """
        try:
            return change()
        except Exception as error:  # noqa: BLE001 - whatever the app's own models and states raise
            self._failed(turn.applied, error)
            return unchanged

    def _applied(self, turn: Turn, decision: Decision) -> None:
        turn.applied.append(decision)
        if decision.why != OVERRULED:  # whether it is done this time is seen at the call
            self.governor.settle(decision, "done")

    def _steer(self, turn: Turn, steering: Sequence[Decision], advice: str = "") -> None:
        inside = actions.only_model_after_tools(turn.model_name, turn.provider)
        turn.messages = actions.steered(turn.messages, actions.steer_text(steering, advice), inside=inside)
        for decision in steering:
            self._applied(turn, decision)

    def _downgrade(self, turn: Turn) -> bool:
        name = self.policy.cheaper(turn.model_name or "")
        if name is None or turn.model is None:
            return False
        own, turn.model = turn.provider, self._stand_in(name)
        turn.model_name, turn.provider = describe_model(turn.model)
        turn.messages = actions.without_blocks(turn.messages, turn.provider)
        if actions.differ(own, turn.provider):
            turn.go_abroad()
        return True

    def _stand_in(self, name: str) -> Any:
        """The model that the policy names for a downgrade.

        Raises:
            ConfigurationError: It cannot be made.
        """
        if name not in self._models:
            try:
                from langchain.chat_models import init_chat_model

                self._models[name] = init_chat_model(name)
            except Exception as error:
                msg = f"the model {name!r} of `downgrade` cannot be made ({type(error).__name__}); give it in `models`"
                raise ConfigurationError(msg) from error
        return self._models[name]

    def _pause(self, decision: Decision, here: Here, turn: Turn) -> None:
        if not here.resumable:
            turn.final = _final(decision, turn)
            self.governor.settle(decision, "skipped", "stopped instead: without a checkpointer nobody can resume")
            return
        from langgraph.types import interrupt

        if here.task is not None:
            self._asked[_place(here.task, turn)] = decision
            self._asked.limit(MAX_ASKED)
            self._questions[here.task] = None
            self._questions.limit(MAX_ASKED)
        answer, advice = actions.read_answer(interrupt(actions.pause_question(decision)))
        self.governor.settle(decision, "done", answer)
        if answer == "stop":
            turn.final = _final(decision, turn)
        elif answer == "advice":
            self._steer(turn, [copy.copy(decision)], advice)
        self.sentinel.forgive(decision)

    def _waiting(self, here: Here, turn: Turn) -> Decision | None:
        """The decision that a human was asked about at this place, where the task is done again with the answer.

        LangGraph knows answers by their order: what was asked once is asked each time.
        """
        if here.task is None or not here.resuming:
            return None
        place = _place(here.task, turn)
        question = self._questions.get(here.task)
        if question is not None:
            self._questions[here.task] = None
            decision = actions.asked_about(question, self.handler.clock(), here.session_id, here.root_id)
            self.governor.take_over(decision)
            self._asked[place] = decision
        return self._asked.get(place)

    def _admit(self, here: Here, turn: Turn, can: frozenset[str], last_door: bool) -> Admission | None:
        self._give_back(reserved_by(self.sentinel))  # a door around has asked for the same call
        budgets = self.governor.budgets
        if not last_door and budgets is not None and any(b.do == "downgrade" for b in budgets.in_force):
            return None  # a door further in may know a cheaper model
        asked = self._request(here, turn)
        waiting = self._waiting(here, turn)
        if waiting is not None and waiting.rule == "budget":  # the answer counts, even if the call fits by now
            return self._ask(waiting, asked, here, turn)
        admission = self.governor.admit(asked)
        refused = admission.refused
        if refused is not None and refused.action == "downgrade":
            self._carry_out(refused, here, turn, can, [])
            if admission.reservation is not None:
                return admission
            asked = self._request(here, turn)
            admission = self.governor.admit(asked, cheapest=True)
            refused = admission.refused
        if refused is None:
            return admission
        if refused.action == "block" or refused.action not in can:
            self.governor.settle(refused, "done")
            raise CallRefused(refused)
        return self._ask(refused, asked, here, turn)

    def _ask(self, refused: Decision, asked: Request, here: Here, turn: Turn) -> Admission | None:
        """Ends the run over a budget, or asks a human whether to go on."""
        before = turn.final
        self._guarded([refused], lambda: self._do(refused, here, turn))
        if turn.final is not None and turn.final is not before:
            return None
        return self.governor.admit(asked, force=True)  # a human said go on

    def _request(self, here: Here, turn: Turn) -> Request:
        toolset = read_toolset(turn.tools) if turn.tools else turn.toolset
        return Request(
            here.session_id,
            here.root_id,
            self.handler.clock(),
            turn.model_name,
            turn.provider,
            estimated_input(turn.chars(), toolset),
            turn.max_tokens,
            here.user_id,
            (*here.tags, *(getattr(turn.model, "tags", None) or ())),
        )

    # --- what was held back inside -----------------------------------------------------------------

    def stopped_inside(self, refused: CallRefused, here: Here | None, *, answers: bool) -> AIMessage:
        """What to say where a call inside was held back, since the run is to stop or to pause.

        Args:
            refused: What was raised.
            here: Where the door is.
            answers: True if it is said in answer to the request, which ends the run; else that is left to the next
                request, unless what ran inside was a conversation of its own.

        Raises:
            CallRefused: It is for the app.
        """
        decision = refused.decision
        if decision.action not in ("stop", "pause"):
            raise refused
        own = here is not None and here.session_id != decision.session_id
        if (answers or own) and decision.outcome == "due":
            self.governor.settle(decision, "done")
        return actions.final_message(decision)

    # --- before a tool runs ------------------------------------------------------------------------

    def reuse(
        self, here: Here, call: Mapping[str, Any], tool: Any, messages: Sequence[BaseMessage]
    ) -> ToolMessage | None:
        """An answer to a tool call from an earlier result, if that is due and the tool is safe. Fails open."""
        try:
            name = str(call["name"])
            if (getattr(tool, "metadata", None) or {}).get("read_only") is True:
                self._read_only.add(name)
            due = [
                d
                for d in self.sentinel.due(here.session_id, here.root_id, self.handler.clock())
                if d.action == "reuse" and d.tool in (None, name)
            ]
            if not due:
                return None
            if not self._safe(name):
                for decision in due:
                    if decision.tool == name:
                        self.governor.settle(decision, "skipped", f"{name} is not among safe_tools")
                return None
            earlier = actions.earlier_result(messages, call, self._safe)
            if earlier is None:
                return None
            in_view = self.handler.sees_all(messages, here.session_id, here.task)
            answer = actions.reused(earlier, call, in_view=in_view)
            origin = Origin(here.session_id, here.root_id, here.node, here.tags, here.user_id)
            self.handler.reused(origin, call, earlier)
            for decision in due:
                self.governor.settle(decision, "done")
        except Exception as error:  # noqa: BLE001 - fails open: the tool simply runs
            self.sentinel.faults.record("intervene: reuse", error)
            return None
        return answer

    def _safe(self, name: str) -> bool:
        return name in self._read_only or matches(name, self.policy.safe_tools)


def _final(decision: Decision, turn: Turn) -> AIMessage:
    """The message that ends a run; an agent without tool calls reads it, in the form that its prompt asks for."""
    return actions.final_message(decision, () if turn.tools or turn.toolset else turn.all_messages())


def _place(task: str, turn: Turn) -> tuple[str, int, int]:
    """Names a request in a task of LangGraph, each time the task is done."""
    return task, len(turn.messages), turn.chars()


def describe_model(model: Any) -> tuple[str | None, str | None]:
    """Name and provider of a chat model, as LangChain tells them to tracers; None where it does not."""
    try:
        params = model._get_ls_params()  # noqa: SLF001 - the one place where all chat models say it the same way
    except Exception:  # noqa: BLE001 - some wrappers have none
        params = {}
    name = params.get("ls_model_name") or getattr(model, "model_name", None) or getattr(model, "model", None)
    provider = params.get("ls_provider")
    return (name if isinstance(name, str) else None), (provider if isinstance(provider, str) else None)


def bound_of(settings: Mapping[str, Any], model: Any) -> int | None:
    """The bound on the output of a request to a chat model: its own, else the model's."""
    own = {name: getattr(model, name, None) for name in BOUNDS}
    return output_bound(settings) or output_bound(own)


def make_sentinel(sentinel: Sentinel | None, policy: Any) -> Sentinel:
    """The Sentinel a door works with: the user's, or a new one with this policy, or with the recommended one.

    Raises:
        ConfigurationError: Both a Sentinel and a policy were given, or the Sentinel has none.
    """
    if sentinel is None:
        return Sentinel(policy=policy if policy is not None else Policy.recommended().enforced())
    as_sentinel(sentinel)
    if policy is not None:
        msg = "give the policy to the Sentinel: Sentinel(policy=...), not to both"
        raise ConfigurationError(msg)
    if sentinel.governor.policy is None:
        msg = "a policy is needed to step in: Sentinel(policy=...); Policy.recommended().enforced() is a start"
        raise ConfigurationError(msg)
    return sentinel


ALL_MODEL_ACTIONS = frozenset({"warn", "steer", "trim", "downgrade", "prune_tools", "backoff", *ENDING})
